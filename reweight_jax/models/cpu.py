"""What XLA's CPU backend needs: two operations that it computes slowly or more often than once.

They are for models with `on_cpu=True`, which says that the devices of the run are CPUs.
"""

import math

import jax
import jax.numpy as jnp
from jax.experimental.xla_metadata import set_xla_metadata


@jax.custom_jvp
def materialize(x: jax.Array) -> jax.Array:
    """Returns `x`, computed once however many operations read it.

    XLA:CPU would fuse what made a convolution's input into its kernel's gradient: in a residual
    stage all sums before it, more than half of a ResNet-32 step. It does not fuse across a
    computation that it must not inline.
    """
    with set_xla_metadata(inlineable="false"):
        return jax.jit(jax.lax.optimization_barrier)(x)  # XLA would see through `lambda x: x`


@materialize.defjvp
def _materialize_jvp(primals, tangents):
    return materialize(*primals), tangents[0]


def conv_general_dilated(image, kernel, strides, padding, **settings) -> jax.Array:
    """Computes `jax.lax.conv_general_dilated` for `flax.linen.Conv`, faster for one channel.

    [N, H, W, C] and [h, w, C, F] -> [N, H', W', F]. XLA:CPU gathers the patches of a one-channel
    image element by element. Here the shifted images, one plane for each position in the window,
    are copied in whole rows, and convolution is one matrix product. Other padding than "SAME",
    strides, dilations and several channels are left to `jax.lax`.
    """
    dilations = (settings.get("lhs_dilation") or (), settings.get("rhs_dilation") or ())
    is_plain = {*strides, *dilations[0], *dilations[1]} == {1} and padding == "SAME"
    if image.shape[-1] != 1 or not is_plain:
        return jax.lax.conv_general_dilated(image, kernel, strides, padding, **settings)
    h, w, _, features = kernel.shape
    n, height, width, _ = image.shape
    pads = [(0, 0), *(((size - 1) // 2, size // 2) for size in (h, w))]
    padded = jnp.pad(image[..., 0], pads)
    planes = [padded[:, i : i + height, j : j + width] for i in range(h) for j in range(w)]
    planes = jnp.stack(planes).reshape(h * w, math.prod(image.shape))
    product = jnp.einsum("pm,pf->mf", planes, kernel.reshape(h * w, features))
    return product.reshape(n, height, width, features)
