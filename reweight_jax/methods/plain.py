"""Methods that use nothing of the data: plain training, and random weights."""

import jax
import jax.numpy as jnp

from reweight_jax.methods.base import Context, Method, normalize


def _rectified_gaussian(context: Context):
    """RANDOM: w_i = max(z_i, 0) / sum_j max(z_j, 0), with new z ~ N(0, 1) at each step (Eq. 16)."""
    z = jax.random.normal(context.key, context.losses.shape, context.losses.dtype)
    return normalize(jnp.maximum(z, 0)), context.method_state


BASELINE = Method()
CLEAN_ONLY = Method(trains_on_clean=True)  # also the fine-tuning phase of every other method
RANDOM = Method(weights=_rectified_gaussian)
