"""The LeNet of the paper's MNIST experiment, as its published code has it."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from reweight_jax.models.planes import conv_general_dilated
from reweight_jax.models.pooling import max_pool_3x3

_INIT = nn.initializers.truncated_normal(0.1)  # cut at two standard deviations, of 0.1 before it


class LeNet(nn.Module):
    """Three 5x5 convolutions (16, 32, 64), each max-pooled 3x3/2 and rectified, and 100 units.

    Attributes:
      num_classes: K. With two classes the network has one sigmoid output z, and its logits are
        (0, z): the softmax of these is the sigmoid of z.
      dtype: of the computation; parameters are float32.
    """

    num_classes: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[N, H, W, C] floats in 0..1 -> logits [N, K]; `train` changes nothing here."""
        del train
        for features in (16, 32, 64):
            settings = {"kernel_init": _INIT, "dtype": self.dtype}
            x = nn.Conv(features, (5, 5), conv_general_dilated=conv_general_dilated, **settings)(x)
            x = nn.relu(max_pool_3x3(x))
        x = x.reshape(len(x), -1)
        x = nn.relu(nn.Dense(100, kernel_init=_INIT, dtype=self.dtype)(x))
        outputs = 1 if self.num_classes == 2 else self.num_classes
        logits = nn.Dense(outputs, kernel_init=_INIT, dtype=self.dtype)(x)
        if self.num_classes == 2:
            logits = jnp.concatenate([jnp.zeros_like(logits), logits], axis=1)
        return logits.astype(jnp.float32)
