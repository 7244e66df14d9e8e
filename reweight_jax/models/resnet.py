"""Residual networks for small images: ResNet (He et al.) and WRN (Zagoruyko & Komodakis), 2016.

Both are three stages of equally many two-convolution blocks behind one convolution, at full, half
and quarter resolution. They differ in the block, in the width and in the shortcut of a block that
changes the shape, and are one module here.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from reweight_jax.errors import prefix
from reweight_jax.models import cpu
from reweight_jax.models.dropout import Dropout

BATCH_NORM_MOMENTUM = 0.9
STEM_FEATURES = 16
_INIT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")  # He et al., 2015


def batch_norm(dtype, *, train: bool) -> nn.BatchNorm:
    """Returns a BatchNorm with batch statistics in training and running ones in evaluation."""
    return nn.BatchNorm(not train, momentum=BATCH_NORM_MOMENTUM, dtype=dtype)


class ResNet(nn.Module):
    """A residual network on [N, H, W, C] images; see `resnet` and `wide_resnet`.

    Attributes:
      num_outputs: K.
      blocks_per_stage: two-convolution blocks in each of the three stages.
      width: multiplies the stages' 16, 32 and 64 features.
      preactivation: whether BatchNorm and ReLU come before each convolution, with dropout between
        the two of a block and a 1x1 convolution as the shortcut if the shape changes (WRN);
        or after it, with strided and zero-padded identity shortcuts (ResNet's option A).
      dropout: rate, only in training; 0 for none.
      dtype: of the computation; parameters, statistics and outputs are float32.
      on_cpu: whether the devices of the run are CPUs.
    """

    num_outputs: int
    blocks_per_stage: int
    width: int = 1
    preactivation: bool = False
    dropout: float = 0.0
    dtype: Any = jnp.float32
    on_cpu: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Returns outputs [N, K] of images [N, H, W, C], floats in 0..1."""

        def conv(features, size, stride=1):
            # Not SAME, which would shift a strided convolution against the shortcut's pixels.
            padding = size // 2
            settings = {"use_bias": False, "kernel_init": _INIT, "dtype": self.dtype}
            return nn.Conv(features, (size, size), stride, padding, **settings)

        norm = functools.partial(batch_norm, self.dtype, train=train)
        materialize = cpu.materialize if self.on_cpu else lambda x: x

        def plain_block(x, features, stride):
            y = conv(features, 3, stride)(x)
            y = conv(features, 3)(materialize(nn.relu(norm()(y))))
            return nn.relu(_zero_padded(x, features, stride) + norm()(y))

        def wide_block(x, features, stride):
            y = materialize(nn.relu(norm()(x)))
            if x.shape[-1] != features or stride != 1:
                x = conv(features, 1, stride)(y)
            y = nn.relu(norm()(conv(features, 3, stride)(y)))
            y = Dropout(self.dropout)(y, train=train)
            return x + conv(features, 3)(materialize(y))

        block = wide_block if self.preactivation else plain_block
        x = conv(STEM_FEATURES, 3)(x)
        if not self.preactivation:
            x = materialize(nn.relu(norm()(x)))
        for stage in range(3):
            for i in range(self.blocks_per_stage):
                stride = 2 if stage > 0 and i == 0 else 1
                x = materialize(block(x, STEM_FEATURES * self.width * 2**stage, stride))
        if self.preactivation:
            x = nn.relu(norm()(x))
        x = jnp.mean(x, axis=(1, 2))
        return nn.Dense(self.num_outputs, dtype=self.dtype)(x).astype(jnp.float32)


def resnet(config, num_outputs, dtype, on_cpu) -> ResNet:
    """Returns ResNet-`config.depth`: depth 6b + 2 has b blocks a stage; 32 has 0.46M parameters."""
    with prefix("config.model.depth"):
        blocks = _blocks(config.depth, 2)
    return ResNet(num_outputs, blocks, config.width, False, 0.0, dtype, on_cpu)


def wide_resnet(config, num_outputs, dtype, on_cpu) -> ResNet:
    """Returns WRN-`config.depth`-`config.width`: depth 6b + 4; WRN-28-10 has 36.5M parameters."""
    with prefix("config.model.depth"):
        blocks = _blocks(config.depth, 4)
    return ResNet(num_outputs, blocks, config.width, True, config.dropout, dtype, on_cpu)


def _blocks(depth, extra):
    blocks, rest = divmod(depth - extra, 6)
    if blocks < 1 or rest:
        examples = ", ".join(str(6 * b + extra) for b in (1, 2, 3, 4, 5))
        raise ValueError(f"{depth}; must be 6b + {extra}: {examples}, ...")
    return blocks


def _zero_padded(x, features, stride):
    """Returns the identity shortcut: every stride-th pixel, new channels zero. No parameters."""
    x = x[:, ::stride, ::stride]
    new = features - x.shape[-1]
    return jnp.pad(x, [(0, 0), (0, 0), (0, 0), (new // 2, new - new // 2)]) if new else x
