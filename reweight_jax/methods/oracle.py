"""WEIGHTED: what could be done if it were known how many labels of each class are wrong."""

import jax.numpy as jnp
import numpy as np

from reweight_jax.methods.base import Context, Method, normalize


def _clean_fractions(key, config, train, num_classes):
    """Method state: the fraction of the labels k that are right, float32 [K] (1 where none is)."""
    del key, config
    total = np.bincount(train.label, minlength=num_classes)
    right = np.bincount(train.label[train.label == train.true_label], minlength=num_classes)
    return jnp.asarray(np.where(total > 0, right / np.maximum(total, 1), 1.0), jnp.float32)


def _by_clean_fraction(context: Context):
    """Weights proportional to the oracle fraction of clean images of the example's label."""
    fractions = context.method_state
    return normalize(fractions[context.labels]), fractions


WEIGHTED = Method(init=_clean_fractions, weights=_by_clean_fraction)
