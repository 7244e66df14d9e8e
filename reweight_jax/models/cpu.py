"""What XLA's CPU backend needs: three operations that it computes slowly or more often than once.

`materialize` and `conv_general_dilated` are for models with `on_cpu=True`, which says that the
devices of the run are CPUs. `max_pool_3x3` is used on every platform.
"""

import math

import jax
import jax.numpy as jnp
from jax.experimental.xla_metadata import set_xla_metadata


@jax.custom_jvp
def materialize(x: jax.Array) -> jax.Array:
    """Returns `x`, computed once however many operations read it.

    XLA:CPU fuses the elementwise operations that made a convolution's input into the transposition
    for its kernel's gradient. In a residual stage these reach back to the first block: each kernel
    gradient recomputes all normalised sums before it, which was more than half of a ResNet-32 step.
    XLA does not fuse across a computation that it must not inline.
    """
    with set_xla_metadata(inlineable="false"):
        return jax.jit(jax.lax.optimization_barrier)(x)  # XLA would see through `lambda x: x`


@materialize.defjvp
def _materialize_jvp(primals, tangents):
    return materialize(*primals), tangents[0]


def conv_general_dilated(image, kernel, strides, padding, **settings) -> jax.Array:
    """Computes `jax.lax.conv_general_dilated` for `flax.linen.Conv`, faster for one channel.

    [N, H, W, C] and [h, w, C, F] -> [N, H', W', F]. XLA:CPU gathers the patches of a one-channel
    image element by element: LeNet's first layer took as long as its second, with a twelfth of the
    arithmetic. Here the shifted images, one plane for each position in the window, are copied in
    whole rows, and convolution is one matrix product. Forward pass, tangent and kernel gradient
    share the planes. Padding other than "SAME", strides or dilations beyond one, and several
    channels are left to `jax.lax`.
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


def max_pool_3x3(x: jax.Array) -> jax.Array:
    """Returns the 3x3 maxima with stride 2 and SAME padding: [N, H, W, C] -> [N, H/2, W/2, C].

    H/2 and W/2 are rounded up. Among equal maxima the gradient goes to one of them: the first along
    W, then the first along H.

    XLA differentiates `reduce_window(max)` into select-and-scatter, which takes a third of a LeNet
    step on a CPU. The derivative of a maximum of three slices is two selects. The slices are the
    even positions, the odd ones, and one of these moved by one window; the derivative of strided
    slices is padded in the interior, which takes twice as long.
    """
    return _max_pool_axis(_max_pool_axis(x, 1), 2)


def _max_pool_axis(x, axis):
    size = x.shape[axis]
    if size % 2:
        x = _shift(x, axis, 0, 1)
    pairs = x.reshape(*x.shape[:axis], -1, 2, *x.shape[axis + 1 :])
    even, odd = (jax.lax.index_in_dim(pairs, i, axis + 1, keepdims=False) for i in range(2))
    if size % 2:  # a window is around an even position
        return _max_of_three(_shift(odd, axis, 1, -1), even, odd)
    return _max_of_three(even, odd, _shift(even, axis, -1, 1))


def _shift(x, axis, before, after):
    """Pads the axis with minus infinity, or cuts it if the width is negative."""
    pads = [(0, 0, 0)] * x.ndim
    pads[axis] = (before, after, 0)
    return jax.lax.pad(x, jnp.array(-jnp.inf, x.dtype), pads)


@jax.custom_jvp
def _max_of_three(a, b, c):
    return jnp.maximum(jnp.maximum(a, b), c)


@_max_of_three.defjvp
def _max_of_three_jvp(primals, tangents):
    a, b, _ = primals
    largest = _max_of_three(*primals)
    # `jnp.maximum`'s own rule splits a tie in halves: several multiplications for each element.
    tangent = jnp.where(b == largest, tangents[1], tangents[2])
    return largest, jnp.where(a == largest, tangents[0], tangent)
