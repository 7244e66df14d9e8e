"""Dropout whose masks do not depend on how many devices share a batch."""

import jax
import jax.numpy as jnp


def drop(x, rate, key, axis_name=None, broadcast_dims=()) -> jax.Array:
    """Sets a random fraction `rate` of the values of `x` to zero and divides the rest by 1 - rate.

    An example's mask depends on `key` and on its place in the batch over all devices. (Flax's
    Dropout draws one mask for a device's part of the batch.)

    Args:
      x: [n, ...], this device's examples.
      rate: in 0..1; with 0 nothing happens.
      key: typed PRNG key, the same on all devices.
      axis_name: device axis over which the batch is split, or None.
      broadcast_dims: axes along which all values share one draw.
    """
    if rate in (0, 1):
        return x if rate == 0 else jnp.zeros_like(x)
    dims = {dim % x.ndim for dim in broadcast_dims}
    shape = [1 if dim in dims else size for dim, size in enumerate(x.shape)]
    if 0 in dims:
        keep = jax.random.bernoulli(key, 1 - rate, shape)
    else:
        first = 0 if axis_name is None else len(x) * jax.lax.axis_index(axis_name)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, first + jnp.arange(len(x)))
        keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, shape[1:]))(keys)
    # A TPU's compiler would draw the bits again in each convolution that reads the result.
    keep = jax.lax.optimization_barrier(keep)
    return jnp.where(keep, x / (1 - rate), jnp.zeros_like(x))
