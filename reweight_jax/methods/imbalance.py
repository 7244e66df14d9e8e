"""The usual methods for imbalanced classes, which section 4.1 of the paper compares with."""

import jax.numpy as jnp
import numpy as np

from reweight_jax.data.batches import class_balanced
from reweight_jax.methods.base import CLASSIFICATION, Context, Method, normalize


def _class_counts(key, config, train, num_outputs, host_input=None):
    """Returns the number of training examples of each class, float32 [K]."""
    del key, config, host_input
    return jnp.asarray(np.bincount(train.label, minlength=num_outputs), jnp.float32)


def _inverse_frequency(context: Context):
    """PROPORTION: weights proportional to one over the frequency of the example's class."""
    counts = context.method_state
    return normalize(1 / counts[context.labels]), counts


def _hardest_of_majority(context: Context):
    """HARD MINING: all examples of the other classes, and as many of the majority's hardest.

    The majority is the training set's most frequent class. Of its examples in the batch, the k with
    the highest losses are kept; k >= 1 is the mean number of examples of each other class in the
    batch. All kept examples have the same weight (Malisiewicz et al., 2011, in the paper's form:
    "selects the highest loss examples from the majority class").
    """
    counts = context.method_state
    majority = context.labels == jnp.argmax(counts)
    others = jnp.sum(~majority) / jnp.maximum(jnp.sum(counts > 0) - 1, 1)
    keep = jnp.maximum(jnp.round(others), 1)
    hardest_first = jnp.argsort(jnp.where(majority, -context.losses, jnp.inf))
    rank = jnp.zeros_like(hardest_first).at[hardest_first].set(jnp.arange(len(hardest_first)))
    kept = ~majority | (rank < keep)
    return normalize(kept.astype(context.losses.dtype)), counts


PROPORTION = Method(init=_class_counts, weights=_inverse_frequency, tasks=CLASSIFICATION)
RESAMPLE = Method(sampler=class_balanced, tasks=CLASSIFICATION)
HARD_MINING = Method(init=_class_counts, weights=_hardest_of_majority, tasks=CLASSIFICATION)
