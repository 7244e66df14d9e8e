"""A convolutional network with BatchNorm that two CPU cores train in seconds."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from reweight_jax.models.resnet import batch_norm


class SmallCNN(nn.Module):
    """Three 3x3 convolutions with stride 2 (16, 32, 64), BatchNorm, ReLU, and the mean over pixels.

    Attributes:
      num_classes: K.
      dtype: of the computation; parameters, statistics and logits are float32.
      axis_name: device axis of BatchNorm's statistics, or None.
    """

    num_classes: int
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[N, H, W, C] floats in 0..1 -> logits [N, K]."""
        for features in (16, 32, 64):
            x = nn.Conv(features, (3, 3), 2, use_bias=False, dtype=self.dtype)(x)
            x = nn.relu(batch_norm(self.dtype, self.axis_name, train=train)(x))
        x = jnp.mean(x, axis=(1, 2))
        return nn.Dense(self.num_classes, dtype=self.dtype)(x).astype(jnp.float32)
