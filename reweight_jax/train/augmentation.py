"""Random crops and mirrors of a batch of images, on the device."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Augment = Callable[[jax.Array, Any, jax.Array], Any]


def augmentation(crop_padding: int, flip: bool) -> Augment:
    """Returns augment(key, image uint8 [n, H, W, C], place int32 [n]) -> image of the same shape.

    Each image is padded with `crop_padding` black pixels a side and cropped at random, and half of
    the images are mirrored if `flip`. An example's augmentation depends on the key and on its place
    in the batch over all devices, and not on the platform. With neither, any inputs are returned as
    they are.
    """
    if not (crop_padding or flip):
        return lambda key, inputs, place: inputs

    def draw(key):
        offset_key, flip_key = jax.random.split(key)
        offset = jax.random.randint(offset_key, (2,), 0, 2 * crop_padding + 1)
        return offset, jax.random.bernoulli(flip_key)

    def augment(key, image, place):
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, place)
        offsets, mirrored = jax.vmap(draw)(keys)
        if crop_padding:
            pad = [(0, 0), *[(crop_padding, crop_padding)] * 2, (0, 0)]
            crop = {"cpu": crop_by_slices, "default": crop_by_selects}
            crop = {on: functools.partial(c, padding=crop_padding) for on, c in crop.items()}
            image = jax.lax.platform_dependent(jnp.pad(image, pad), offsets, **crop)
        if flip:
            image = jnp.where(mirrored[:, None, None, None], image[:, :, ::-1], image)
        return image

    return augment


def crop_by_slices(padded: jax.Array, offsets: jax.Array, *, padding: int) -> jax.Array:
    """Returns [n, H, W, C]: of each padded image, what begins at its offset.

    Args:
      padded: [n, H + 2 padding, W + 2 padding, C].
      offsets: int32 [n, 2], rows and columns, in 0..2 padding.
      padding: pixels a side.
    """
    _, height, width, channels = padded.shape
    shape = (height - 2 * padding, width - 2 * padding, channels)
    start = jnp.pad(offsets, [(0, 0), (0, 1)])
    return jax.vmap(lambda image, at: jax.lax.dynamic_slice(image, at, shape))(padded, start)


def crop_by_selects(padded: jax.Array, offsets: jax.Array, *, padding: int) -> jax.Array:
    """Returns what `crop_by_slices` does, each axis chosen among its 2 padding + 1 shifts.

    A TPU makes the slices a loop over the images, a quarter of ResNet-32's step; these are a
    fifteenth of that. On a CPU the slices are faster.
    """
    for axis in (1, 2):
        size = padded.shape[axis] - 2 * padding
        offset = offsets[:, axis - 1][:, None, None, None]
        image = jax.lax.slice_in_dim(padded, 0, size, axis=axis)
        for shift in range(1, 2 * padding + 1):
            shifted = jax.lax.slice_in_dim(padded, shift, shift + size, axis=axis)
            image = jnp.where(offset == shift, shifted, image)
        padded = image
    return padded
