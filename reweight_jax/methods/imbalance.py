"""The common tricks for imbalanced classes that section 4.1 of the paper compares with."""

import jax.numpy as jnp
import numpy as np

from reweight_jax.data.batches import class_balanced
from reweight_jax.methods.base import Context, Method, normalize


def _class_counts(key, config, train, num_classes):
    """Method state: the training set's examples of each class, float32 [K]."""
    del key, config
    return jnp.asarray(np.bincount(train.label, minlength=num_classes), jnp.float32)


def _inverse_frequency(context: Context):
    """PROPORTION: weights proportional to one over the frequency of the example's class."""
    counts = context.method_state
    return normalize(1 / counts[context.labels]), counts


def _hardest_of_majority(context: Context):
    """HARD MINING: all of the other classes, and as many of the majority, those of highest loss.

    The majority is the training set's most frequent class. From it the k hardest examples of the
    batch are kept, k the mean number of examples that each other class has in the batch (k >= 1),
    and all that is kept weighs the same (Malisiewicz et al., 2011, in the form the paper uses:
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


PROPORTION = Method(init=_class_counts, weights=_inverse_frequency)
RESAMPLE = Method(sampler=class_balanced)
HARD_MINING = Method(init=_class_counts, weights=_hardest_of_majority)
