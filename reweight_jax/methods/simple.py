"""Methods of a few lines: plain training, random weights, and the paper's own."""

import jax
import jax.numpy as jnp

from reweight_jax.methods.base import Context, Method, normalize
from reweight_jax.reweight import normalize_weights


def _rectified_gaussian(context: Context):
    """RANDOM: w_i = max(z_i, 0) / sum_j max(z_j, 0), with new z ~ N(0, 1) at each step (Eq. 16)."""
    z = jax.random.normal(context.key, context.losses.shape, context.losses.dtype)
    return normalize(jnp.maximum(z, 0)), context.method_state


def _learned_weights(context: Context):
    """REWEIGHT: Eq. 8-9 of the paper, from the gradient of the clean loss over the global batch."""
    return normalize_weights(context.epsilon_gradient), context.method_state


BASELINE = Method()
CLEAN_ONLY = Method(trains_on_clean=True)  # also the fine-tuning phase of every other method
RANDOM = Method(weights=_rectified_gaussian)
REWEIGHT = Method(weights=_learned_weights, needs_clean=True)
