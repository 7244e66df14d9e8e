"""Residual networks for small images: ResNet (the paper's published code) and WRN (2016).

Both are one convolution and three stages of equally many two-convolution blocks, at full, half and
quarter resolution; BatchNorm and ReLU come before each convolution but the first (He et al., 2016,
"Identity Mappings"). They differ in BatchNorm's scales, in dropout, and in the shortcut if the
shape changes.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from reweight_jax.errors import UserError
from reweight_jax.models import cpu
from reweight_jax.models.batch_norm import BatchNorm

BATCH_NORM_MOMENTUM = 0.9
STEM_FEATURES = 16
_INIT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")  # He et al., 2015


def batch_norm(dtype, *, train: bool, on_cpu: bool = True, **settings) -> nn.BatchNorm:
    """Returns a BatchNorm with batch statistics in training and running ones in evaluation."""
    layer = nn.BatchNorm if on_cpu else BatchNorm
    return layer(not train, momentum=BATCH_NORM_MOMENTUM, dtype=dtype, **settings)


class ResNet(nn.Module):
    """A residual network on [N, H, W, C] images; see `resnet`.

    With `wide` (Zagoruyko & Komodakis) there is dropout between the two convolutions of a block,
    and a 1x1 convolution is the shortcut if the shape changes. Without it, the layers are those of
    the paper's published code: BatchNorm has no scales, the shortcut to half the resolution is the
    mean of 2x2 pixels, new channels are zero, and images are mapped to -1..1.
    """

    num_outputs: int  # K
    blocks_per_stage: int  # of two convolutions each
    width: int = 1  # multiplies the stages' 16, 32 and 64 features
    wide: bool = False
    dropout: float = 0.0  # rate, only with `wide` and only in training
    dtype: Any = jnp.float32  # of the computation; parameters and outputs are float32
    on_cpu: bool = False  # whether the devices of the run are CPUs

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Returns outputs [N, K] of images [N, H, W, C], floats in 0..1."""

        def conv(features, size, stride=1):
            # Not SAME, which would shift a strided convolution against the shortcut's pixels.
            padding = size // 2
            settings = {"use_bias": False, "kernel_init": _INIT, "dtype": self.dtype}
            return nn.Conv(features, (size, size), stride, padding, **settings)

        settings = {"train": train, "on_cpu": self.on_cpu, "use_scale": self.wide}
        norm = functools.partial(batch_norm, self.dtype, **settings)
        materialize = cpu.materialize if self.on_cpu else lambda x: x

        def block(x, features, stride):
            y = materialize(nn.relu(norm()(x)))
            if not self.wide:
                x = _pooled(x, features, stride)
            elif x.shape[-1] != features or stride != 1:
                x = conv(features, 1, stride)(y)
            y = nn.relu(norm()(conv(features, 3, stride)(y)))
            y = nn.Dropout(self.dropout, deterministic=not train)(y)
            return x + conv(features, 3)(materialize(y))

        x = conv(STEM_FEATURES, 3)(x if self.wide else 2 * x - 1)
        for stage in range(3):
            for i in range(self.blocks_per_stage):
                stride = 2 if stage > 0 and i == 0 else 1
                x = materialize(block(x, STEM_FEATURES * self.width * 2**stage, stride))
        x = jnp.mean(nn.relu(norm()(x)), axis=(1, 2))
        return nn.Dense(self.num_outputs, dtype=self.dtype)(x).astype(jnp.float32)


def resnet(config, num_outputs, dtype, on_cpu, *, wide: bool = False) -> ResNet:
    """Returns ResNet-`config.depth`, or if `wide` WRN-`config.depth`-`config.width`.

    The depth is 6b + 2 (6b + 4 if `wide`), b blocks in each stage. ResNet-32 has 0.46M parameters,
    WRN-28-10 36.5M. UserError for another depth.
    """
    extra, dropout = (4, config.dropout) if wide else (2, 0.0)
    blocks, rest = divmod(config.depth - extra, 6)
    if blocks < 1 or rest:
        valid = f"6b + {extra}: {', '.join(str(6 * b + extra) for b in range(1, 6))}, ..."
        raise UserError(f"config.model.depth: {config.depth}; must be {valid}")
    return ResNet(num_outputs, blocks, config.width, wide, dropout, dtype, on_cpu)


def _pooled(x, features, stride):
    """Returns the shortcut without parameters: means of stride x stride pixels, new channels zero.

    The last pixels of an odd size are means of fewer.
    """
    new = features - x.shape[-1]
    if stride > 1:
        window = (stride, stride)
        dtype = x.dtype  # the number of pixels in a window is a float32
        x = nn.avg_pool(x, window, window, "SAME", count_include_pad=False).astype(dtype)
    return jnp.pad(x, [(0, 0), (0, 0), (0, 0), (new // 2, new - new // 2)]) if new else x
