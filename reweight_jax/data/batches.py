"""Which examples make up the batch of which step: pure functions of (seed, step).

A sampler maps positions in an endless stream of examples to rows of the training set. Step t takes
positions t * n .. t * n + n - 1, so nothing has to be remembered for an exact resume, and any
host can compute any part of any batch.
"""

import functools

import numpy as np

CLEAN_SEED = 1 << 32  # added to the seed for the clean set's batches; seeds of runs are below it


def shuffled(positions: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    """Epoch after epoch in new random order; every example once per epoch. [p] -> rows [p]."""
    return _epochs(positions, len(labels), seed, 0)


def class_balanced(positions: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    """Classes in turn, each class in epochs of its own: equal shares of every class in a batch.

    Positions [p] -> rows [p]. Classes without an example are left out. Examples of a rare class
    recur, which is RESAMPLE of section 4.1.
    """
    classes = np.unique(labels)
    slot, place = positions % len(classes), positions // len(classes)
    rows = np.empty(len(positions), np.int64)
    for i, k in enumerate(classes):
        members = np.flatnonzero(labels == k)
        rows[slot == i] = members[_epochs(place[slot == i], len(members), seed, 1 + int(k))]
    return rows


def batch_rows(sampler, labels, seed: int, first_step: int, num_steps: int, batch_size: int):
    """Returns the rows of `num_steps` batches, int32 [num_steps, batch_size]."""
    positions = np.arange(first_step * batch_size, (first_step + num_steps) * batch_size)
    rows = sampler(positions, labels, seed)
    return rows.reshape(num_steps, batch_size).astype(np.int32)


def _epochs(positions, population, seed, stream):
    epochs, offsets = np.divmod(positions, population)
    rows = np.empty(len(positions), np.int64)
    for epoch in np.unique(epochs):
        chosen = epochs == epoch
        rows[chosen] = _permutation(population, seed, stream, int(epoch))[offsets[chosen]]
    return rows


@functools.lru_cache(maxsize=256)  # steps of an epoch share its permutation
def _permutation(population, seed, stream, epoch):
    return np.random.default_rng([seed, stream, epoch]).permutation(population)
