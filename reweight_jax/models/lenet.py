"""The LeNet of the paper's MNIST experiment, with the settings of its published code."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from reweight_jax.models import cpu
from reweight_jax.models.pooling import max_pool_3x3

_INIT = nn.initializers.truncated_normal(0.1)  # cut at two standard deviations, of 0.1 before it


class LeNet(nn.Module):
    """Three 5x5 convolutions (16, 32, 64), each max-pooled 3x3/2 and rectified, and 100 units.

    If `one_logit`, a network with two outputs computes only the second one, z: its logits are
    (0, z), and the softmax of these is the sigmoid of z. Only right for classification.
    """

    num_outputs: int  # K
    dtype: jnp.dtype = jnp.float32  # of the computation; parameters and outputs are float32
    on_cpu: bool = False  # whether the devices of the run are CPUs
    one_logit: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Returns outputs [N, K] of images [N, H, W, C], floats in 0..1; ignores `train`."""
        settings = {"kernel_init": _INIT, "dtype": self.dtype}
        convolution = cpu.conv_general_dilated if self.on_cpu else None
        for features in (16, 32, 64):
            x = nn.Conv(features, (5, 5), conv_general_dilated=convolution, **settings)(x)
            x = nn.relu(max_pool_3x3(x, on_cpu=self.on_cpu))
        x = x.reshape(len(x), -1)
        x = nn.relu(nn.Dense(100, **settings)(x))
        one_logit = self.one_logit and self.num_outputs == 2
        outputs = nn.Dense(1 if one_logit else self.num_outputs, **settings)(x)
        if one_logit:
            outputs = jnp.concatenate([jnp.zeros_like(outputs), outputs], axis=1)
        return outputs.astype(jnp.float32)
