"""Random crops and mirrors: each found again by looking through all of them."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reweight_jax.train.augmentation import augmentation, crop_by_selects, crop_by_slices

# Pixels are all different and none is black, so that a crop says where it is from.
IMAGE = np.random.default_rng(0).permutation(np.arange(1, 5 * 6 * 3 + 1)).astype(np.uint8)
IMAGE = IMAGE.reshape(5, 6, 3)


def candidates(image, padding, flip):
    """{(row offset, column offset, mirrored): image}, of all that may come out."""
    height, width, _ = image.shape
    padded = np.zeros((height + 2 * padding, width + 2 * padding, image.shape[2]), image.dtype)
    padded[padding : padding + height, padding : padding + width] = image
    found = {}
    for row in range(2 * padding + 1):
        for column in range(2 * padding + 1):
            crop = padded[row : row + height, column : column + width]
            found[row, column, False] = crop
            if flip:
                found[row, column, True] = crop[:, ::-1]
    return found


@functools.cache
def compiled(padding, flip):
    return jax.jit(augmentation(padding, flip))


def augmented(image, rows, padding, flip, seed=0):
    """The images [n, H, W, C] of these rows, or one image for all of them -> numpy, alike."""
    rows = np.asarray(rows)
    batch = np.broadcast_to(image, (len(rows), *image.shape[-3:]))
    result = compiled(padding, flip)(
        jax.random.key(seed), jnp.asarray(batch), jnp.asarray(rows, jnp.int32)
    )
    chex.assert_shape(result, batch.shape)
    assert result.dtype == image.dtype
    return np.asarray(result)


@pytest.mark.parametrize("padding, flip", [(2, True), (2, False), (1, True), (0, True)])
def test_every_crop_and_mirror_occurs_alike_and_nothing_else(padding, flip):
    known = {crop.tobytes(): key for key, crop in candidates(IMAGE, padding, flip).items()}
    number = (2 * padding + 1) ** 2 * (2 if flip else 1)
    assert len(known) == number
    draws = 60 * number
    counts = dict.fromkeys(known.values(), 0)
    for image in augmented(IMAGE, np.arange(draws), padding, flip):
        counts[known[image.tobytes()]] += 1  # KeyError: no crop of the image
    # Chi-square with number - 1 degrees of freedom: mean d, deviation sqrt(2 d).
    freedom = number - 1
    chi_square = sum((count - 60) ** 2 / 60 for count in counts.values())
    assert min(counts.values()) > 0
    assert chi_square < freedom + 4 * np.sqrt(2 * freedom)


def test_another_key_is_another_crop():
    rows = np.arange(50)
    first, again, other = (augmented(IMAGE, rows, 2, True, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    # One in 50 is the same by chance: of 50 rows, 7 or more once in 10,000 times.
    assert (first == other).all(axis=(1, 2, 3)).sum() <= 6


def test_an_example_is_augmented_by_its_row_wherever_it_stands():
    rng = np.random.default_rng(2)
    images = rng.integers(0, 256, (12, 7, 5, 1)).astype(np.uint8)
    rows = rng.permutation(1000)[:12]
    whole = augmented(images, rows, 3, True)
    order = rng.permutation(12)
    np.testing.assert_array_equal(augmented(images[order], rows[order], 3, True), whole[order])
    halves = [augmented(images[half], rows[half], 3, True) for half in (slice(6), slice(6, 12))]
    np.testing.assert_array_equal(np.concatenate(halves), whole)
    # The rows are what tells them apart: the same row, the same crop; another row, another one.
    repeated = augmented(IMAGE, [5, 9, 5], 2, True)
    np.testing.assert_array_equal(repeated[0], repeated[2])
    assert not np.array_equal(augmented(images, rows + 1, 3, True), whole)


def test_no_padding_and_no_flip_is_the_identity():
    images = np.random.default_rng(3).integers(0, 256, (4, 8, 8, 3)).astype(np.uint8)
    np.testing.assert_array_equal(augmented(images, np.arange(4), 0, False), images)


def test_an_image_may_be_padded_by_more_than_its_size():
    # One pixel in 25 places: it is seen once in 25 times, with a deviation of 0.0039.
    pixel = np.full((1, 1, 1), 200, np.uint8)
    result = augmented(pixel, np.arange(2500), 2, True).ravel()
    assert set(result.tolist()) == {0, 200}
    assert abs(np.mean(result == 200) - 0.04) < 0.016


@pytest.mark.parametrize("padding", [1, 4])
def test_both_ways_to_crop_give_the_same(padding):
    rng = np.random.default_rng(padding)
    padded = rng.integers(0, 256, (20, 7 + 2 * padding, 5 + 2 * padding, 3)).astype(np.uint8)
    offsets = rng.integers(0, 2 * padding + 1, (20, 2)).astype(np.int32)
    for crop in (crop_by_slices, crop_by_selects):
        images = jax.jit(functools.partial(crop, padding=padding))(padded, offsets)
        for image, whole, (row, column) in zip(images, padded, offsets, strict=True):
            np.testing.assert_array_equal(image, whole[row : row + 7, column : column + 5])
