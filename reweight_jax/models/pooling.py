"""Max-pooling with a derivative that XLA computes fast in reverse and in forward mode.

XLA's derivative of `reduce_window(max)`, select-and-scatter, takes a third of a LeNet step on a
CPU. The derivative of a maximum of three slices is two selects.
"""

import jax
import jax.numpy as jnp


def max_pool_3x3(x: jax.Array, *, on_cpu: bool) -> jax.Array:
    """Returns the 3x3 maxima with stride 2 and SAME padding: [N, H, W, C] -> [N, H/2, W/2, C].

    H/2 and W/2 are rounded up. Among equal maxima the gradient goes to one of them: the first along
    W, then the first along H. `on_cpu` decides how the slices are cut, and changes no value.
    """
    slices = _pairs if on_cpu else _strided
    for axis in (1, 2):
        x = _max_of_three(*slices(x, axis))
    return x


def _strided(x, axis):
    """Returns the first, second and third elements of the windows along an axis.

    The transposes of strided slices pad in the interior, which is fast on a TPU.
    """
    half = -(-x.shape[axis] // 2)
    x = _pad(x, axis, x.shape[axis] % 2, 1)
    return [jax.lax.slice_in_dim(x, i, i + 2 * half - 1, 2, axis) for i in range(3)]


def _pairs(x, axis):
    """Returns what `_strided` does, by a reshape: padding in the interior is slow on a CPU.

    The slices are the even positions, the odd ones, and one of these moved by one window.
    """
    size = x.shape[axis]
    if size % 2:
        x = _pad(x, axis, 0, 1)
    pairs = x.reshape(*x.shape[:axis], -1, 2, *x.shape[axis + 1 :])
    even, odd = (jax.lax.index_in_dim(pairs, i, axis + 1, keepdims=False) for i in range(2))
    if size % 2:  # a window is around an even position
        return _pad(odd, axis, 1, -1), even, odd
    return even, odd, _pad(even, axis, -1, 1)


def _pad(x, axis, before, after):
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
