"""WEIGHTED: the upper bound for a method that knows how many labels of each class are wrong."""

import jax.numpy as jnp
import numpy as np

from reweight_jax.errors import UserError
from reweight_jax.methods.base import CLASSIFICATION, Context, Method, normalize


def _clean_fractions(key, config, train, num_outputs, host_input=None):
    """Returns the fraction of the labels k that are right, float32 [K]; 1 if no label is k."""
    del key, config, host_input
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


WEIGHTED = Method(init=_clean_fractions, weights=_by_clean_fraction, tasks=CLASSIFICATION)
