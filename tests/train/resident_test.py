"""A resident set as it lies on an accelerator gives the rows that it was made of."""

import jax
import numpy as np
import pytest

from reweight_jax.data.examples import Examples
from reweight_jax.train.resident import PaddedRows, resident, shared_size, take

RNG = np.random.default_rng(0)


def examples(inputs):
    size = len(next(iter(inputs.values())) if isinstance(inputs, dict) else inputs)
    label = np.arange(size)
    return Examples(inputs, label, label, label)


@pytest.mark.parametrize(
    "inputs",
    [
        RNG.integers(0, 256, (6, 8, 7, 3)).astype(np.uint8),
        RNG.normal(size=(6, 16, 8)).astype(np.float32),  # a whole tile: nothing is added
        {
            "image": RNG.integers(0, 256, (6, 16, 16, 1)).astype(np.uint8),
            "table": RNG.normal(size=(6, 2)).astype(np.float32),
        },
    ],
    ids=["images", "floats", "both"],
)
def test_rows_are_the_same_on_every_platform(inputs):
    rows = np.array([4, 0, 4])
    taken = [
        jax.jit(take)(resident(examples(inputs), inputs=True, on_cpu=on_cpu), rows)
        for on_cpu in (True, False)
    ]
    jax.tree.map(np.testing.assert_array_equal, *taken)
    jax.tree.map(
        lambda got, x: np.testing.assert_array_equal(got, x[rows]), taken[1]["inputs"], inputs
    )


def test_what_is_padded():
    images = np.zeros((2, 12, 12, 1), np.uint8)
    on_accelerator = resident(examples(images), inputs=True, on_cpu=False)["inputs"]
    assert isinstance(on_accelerator, PaddedRows) and on_accelerator.rows.shape == (2, 256)
    small = np.zeros((2, 5, 5, 1), np.uint8)  # would be five times as large
    assert resident(examples(small), inputs=True, on_cpu=False)["inputs"] is small
    assert resident(examples(images), inputs=True, on_cpu=True)["inputs"] is images
    table = np.zeros((2, 3), np.float32)
    assert resident(examples(table), inputs=True, on_cpu=False)["inputs"] is table
    assert set(resident(examples(table), inputs=False, on_cpu=False)) == {"label"}


def test_sizes_that_are_shared():
    """By hand: steps of 1 up to 63, of 2 from 64 on, of 32 from 1,024, of 1,024 from 32,768."""
    sizes = {0: 0, 1: 1, 63: 63, 64: 64, 65: 66, 127: 128, 1437: 1440, 1438: 1440, 50_000: 50_176}
    assert {size: shared_size(size) for size in sizes} == sizes
    for size in np.random.default_rng(0).integers(1, 10**7, 1000).tolist():
        assert size <= shared_size(size) <= 1.032 * size
        assert shared_size(shared_size(size)) == shared_size(size)
