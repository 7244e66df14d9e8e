"""Which examples are in the batch of each step: pure functions of (seed, step).

A sampler takes the labels and the seed, and returns a function from positions in an endless stream
of examples to rows of the training set. Step t takes positions t * n .. t * n + n - 1: an exact
resume needs no other state, and any host can compute any part of any batch.
"""

import functools
from collections.abc import Callable

import numpy as np

from reweight_jax.data.randomness import generator

LARGE = 100_000  # examples: of larger sets only a few permutations are kept, 8 bytes an example
RowsOf = Callable[[np.ndarray], np.ndarray]  # positions [p] -> rows [p]


def shuffled(labels: np.ndarray, seed: int, stream: str = "train") -> RowsOf:
    """Returns a sampler of epochs in new random orders; an epoch has every example once.

    Of `labels`, [N] or [N, K], only N is used. `stream` is "train" or "clean", see `randomness`.
    """
    return lambda positions: _epochs(positions, len(labels), seed, stream)


def class_balanced(labels: np.ndarray, seed: int) -> RowsOf:
    """Returns a sampler that takes the classes in turn: a batch has equal shares of each class.

    Each class has its own epochs, so examples of a rare class recur (RESAMPLE of section 4.1).
    Classes without an example are left out. `labels`: int [N].
    """
    members = {int(k): np.flatnonzero(labels == k) for k in np.unique(labels)}

    def rows_of(positions):
        slot, place = positions % len(members), positions // len(members)
        rows = np.empty(len(positions), np.int64)
        for i, (k, of_class) in enumerate(members.items()):
            chosen = slot == i
            epochs = _epochs(place[chosen], len(of_class), seed, "class_balanced", k)
            rows[chosen] = of_class[epochs]
        return rows

    return rows_of


def batch_rows(rows_of: RowsOf, first_step: int, num_steps: int, batch_size: int) -> np.ndarray:
    """Returns the rows of `num_steps` batches from `first_step` on, int32 [num_steps, n]."""
    positions = np.arange(first_step * batch_size, (first_step + num_steps) * batch_size)
    return rows_of(positions).reshape(num_steps, batch_size).astype(np.int32)


def _epochs(positions, population, *stream):
    epochs, offsets = np.divmod(positions, population)
    rows = np.empty(len(positions), np.int64)
    permutation = _small if population <= LARGE else _large
    for epoch in np.unique(epochs):
        chosen = epochs == epoch
        rows[chosen] = permutation(population, *stream, int(epoch))[offsets[chosen]]
    return rows


def _permutation(population, seed, stream, *counters):
    return generator(seed, stream, *counters).permutation(population)


# The steps of an epoch share its permutation; a class-balanced batch needs one of each class.
_small = functools.lru_cache(maxsize=256)(_permutation)
_large = functools.lru_cache(maxsize=8)(_permutation)
