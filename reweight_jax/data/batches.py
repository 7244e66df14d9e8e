"""Which examples make up the batch of which step: pure functions of (seed, step).

A sampler takes the labels and the seed, and returns a function from positions in an endless stream
of examples to rows of the training set. Step t takes positions t * n .. t * n + n - 1, so nothing
has to be remembered for an exact resume, and any host can compute any part of any batch.
"""

import functools
from collections.abc import Callable

import numpy as np

CLEAN_SEED = 1 << 32  # added to the seed for the clean set's batches; seeds of runs are below it
LARGE = 100_000  # examples: of more than these few permutations are kept, 8 bytes for each
RowsOf = Callable[[np.ndarray], np.ndarray]  # positions [p] -> rows [p]


def shuffled(labels: np.ndarray, seed: int) -> RowsOf:
    """Epoch after epoch in new random order; every example once per epoch."""
    return lambda positions: _epochs(positions, len(labels), seed, 0)


def class_balanced(labels: np.ndarray, seed: int) -> RowsOf:
    """Classes in turn, each class in epochs of its own: equal shares of every class in a batch.

    Classes without an example are left out. Examples of a rare class recur, which is RESAMPLE of
    section 4.1.
    """
    members = {int(k): np.flatnonzero(labels == k) for k in np.unique(labels)}

    def rows_of(positions):
        slot, place = positions % len(members), positions // len(members)
        rows = np.empty(len(positions), np.int64)
        for i, (k, mine) in enumerate(members.items()):
            rows[slot == i] = mine[_epochs(place[slot == i], len(mine), seed, 1 + k)]
        return rows

    return rows_of


def batch_rows(
    rows_of: RowsOf,
    first_step: int,
    num_steps: int,
    batch_size: int,
    part: slice = slice(None),
) -> np.ndarray:
    """Returns the rows of `num_steps` batches, int32 [num_steps, batch_size].

    Of each batch only the positions `part`, where that is given; no others are drawn.
    """
    positions = np.arange(first_step * batch_size, (first_step + num_steps) * batch_size)
    positions = positions.reshape(num_steps, batch_size)[:, part]
    return rows_of(positions.ravel()).reshape(positions.shape).astype(np.int32)


def _epochs(positions, population, seed, stream):
    epochs, offsets = np.divmod(positions, population)
    rows = np.empty(len(positions), np.int64)
    for epoch in np.unique(epochs):
        chosen = epochs == epoch
        permutation = _small if population <= LARGE else _large
        rows[chosen] = permutation(population, seed, stream, int(epoch))[offsets[chosen]]
    return rows


def _permutation(population, seed, stream, epoch):
    return np.random.default_rng([seed, stream, epoch]).permutation(population)


# Steps of an epoch share its permutation; a class-balanced batch takes of one for each class.
_small = functools.lru_cache(maxsize=256)(_permutation)
_large = functools.lru_cache(maxsize=8)(_permutation)
