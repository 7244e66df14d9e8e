"""A multilayer perceptron for feature vectors."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class MLP(nn.Module):
    """Dense layers with ReLU and dropout, and a dense output."""

    num_outputs: int  # K
    hidden: tuple[int, ...] = (256, 256)  # units of each hidden layer; () is a linear model
    dropout: float = 0.0  # rate after each hidden layer, only in training
    dtype: Any = jnp.float32  # of the computation; parameters and outputs are float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Returns outputs [N, K] of floats [N, ...], which are flattened."""
        x = x.reshape(len(x), -1)
        for size in self.hidden:
            x = nn.relu(nn.Dense(size, dtype=self.dtype)(x))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_outputs, dtype=self.dtype)(x).astype(jnp.float32)
