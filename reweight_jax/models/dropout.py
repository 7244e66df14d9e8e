"""Dropout whose masks do not depend on how many devices share a batch."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class Dropout(nn.Module):
    """Sets a random fraction `rate` of the values to zero, and scales up the rest to match.

    The mask of an example comes from the step's key and the example's place in the batch over all
    devices, where flax's `nn.Dropout` draws one mask for whatever part of a batch it sees.

    Attributes:
      rate: in 0..1, 1 excluded; with 0 nothing happens and no key is needed.
      axis_name: device axis over which the batch is split, or None.
    """

    rate: float
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[N, ...] -> [N, ...]; the same where `train` is False."""
        if not train or self.rate == 0:
            return x
        first = 0 if self.axis_name is None else len(x) * jax.lax.axis_index(self.axis_name)
        fold_in = jax.vmap(jax.random.fold_in, (None, 0))
        keys = fold_in(self.make_rng("dropout"), first + jnp.arange(len(x)))
        keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - self.rate, x.shape[1:]))(keys)
        return jnp.where(keep, x / (1 - self.rate), jnp.zeros_like(x))
