"""Max pooling whose derivative is selects on slices.

XLA differentiates `reduce_window(max)` into select-and-scatter, which takes a third of a LeNet step
on a CPU. Here a window is taken apart by axis (the maximum of a 3x3 window is the maximum over rows
of the maxima over columns), and each maximum of three slices has a derivative that is two selects.
The slices are the even and the odd positions, and one of these moved by one window: strided slices
have a derivative padded in the interior, which takes twice as long.
tests/models_test.py compares values and gradients with `reduce_window`.
"""

import jax
import jax.numpy as jnp


def max_pool_3x3(x: jax.Array) -> jax.Array:
    """3x3 max pooling with stride 2 and SAME padding: [N, H, W, C] -> [N, ceil(H/2), ceil(W/2), C].

    Among equal maxima the gradient goes to one of them: the first along W, then the first along H.
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
    """Pads the axis with minus infinity, or cuts it where the width is negative."""
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
    # `jnp.maximum`'s own rule shares a tie out in halves, several multiplications for each element.
    tangent = jnp.where(
        a == largest, tangents[0], jnp.where(b == largest, tangents[1], tangents[2])
    )
    return largest, tangent
