"""A convolutional network with BatchNorm that two CPU cores train in seconds."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from reweight_jax.models.resnet import batch_norm


class SmallCNN(nn.Module):
    """Three 3x3 convolutions of stride 2 (16, 32, 64), BatchNorm, ReLU, and a mean over pixels."""

    num_outputs: int  # K
    dtype: Any = jnp.float32  # of the computation; parameters and outputs are float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Returns outputs [N, K] of images [N, H, W, C], floats in 0..1."""
        for features in (16, 32, 64):
            x = nn.Conv(features, (3, 3), 2, use_bias=False, dtype=self.dtype)(x)
            x = nn.relu(batch_norm(self.dtype, train=train)(x))
        x = jnp.mean(x, axis=(1, 2))
        return nn.Dense(self.num_outputs, dtype=self.dtype)(x).astype(jnp.float32)
