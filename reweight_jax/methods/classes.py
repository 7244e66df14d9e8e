"""Methods that know the classes: those for imbalance of section 4.1, and the oracle WEIGHTED."""

import jax.numpy as jnp
import numpy as np

from reweight_jax.data.batches import class_balanced
from reweight_jax.errors import UserError
from reweight_jax.methods.base import CLASSIFICATION, Context, Method, normalize


def _class_counts(key, config, train, num_outputs, host_input=None):
    """Returns the number of training examples of each class, float32 [K]."""
    return jnp.asarray(np.bincount(train.label, minlength=num_outputs), jnp.float32)


def _clean_fractions(key, config, train, num_outputs, host_input=None):
    """Returns the fraction of the labels k that are right, float32 [K]; 1 if no label is k."""
    if train.true_label is None:
        raise UserError(
            "config.method: weighted needs the true label of each training example, and this data "
            "set has none; choose another method"
        )
    total = np.bincount(train.label, minlength=num_outputs)
    right = np.bincount(train.label[train.label == train.true_label], minlength=num_outputs)
    return jnp.asarray(np.where(total > 0, right / np.maximum(total, 1), 1.0), jnp.float32)


def _by_clean_fraction(context: Context):
    """WEIGHTED: weights proportional to the fraction of right labels in the example's class."""
    fractions = context.method_state
    return normalize(fractions[context.labels]), fractions


def _inverse_frequency(context: Context):
    """PROPORTION: weights proportional to one over the frequency of the example's class."""
    counts = context.method_state
    return normalize(1 / counts[context.labels]), counts


def _hardest_of_majority(context: Context):
    """HARD MINING: all examples of the other classes, and as many of the majority's hardest.

    The majority is the training set's most frequent class. Of its examples in the batch, the k with
    the highest losses are kept; k >= 1 is the mean number of examples of each other class in the
    batch. All kept examples have the same weight (Malisiewicz et al., 2011, as in the paper).
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
WEIGHTED = Method(init=_clean_fractions, weights=_by_clean_fraction, tasks=CLASSIFICATION)
