"""Sources of lazy inputs that note what is read of them, or that cannot be read."""

import multiprocessing
import threading
import weakref
from typing import NamedTuple

import numpy as np

from reweight_jax.errors import UserError


def images(size=40, seed=0):
    """Returns random images, uint8 [size, 6, 5, 1]."""
    return np.random.default_rng(seed).integers(0, 256, (size, 6, 5, 1)).astype(np.uint8)


class Watched:
    """An array as a source; notes which rows are read, and how many of the rows read are alive."""

    def __init__(self, array):
        self.array, self.shape, self.dtype = array, array.shape, array.dtype
        self.rows, self.living, self.most_living = [], 0, 0
        self.lock = threading.Lock()

    def __getitem__(self, rows):
        inputs = self.array[rows]
        with self.lock:
            self.rows += rows.tolist()
            self.living += len(rows)
            self.most_living = max(self.most_living, self.living)
        weakref.finalize(inputs, self._gone, len(rows))
        return inputs

    def _gone(self, size):
        with self.lock:
            self.living -= size


class Damaged(NamedTuple):
    """An array as a source, one row of which cannot be read."""

    array: np.ndarray
    row: int

    @property
    def shape(self):
        return self.array.shape

    @property
    def dtype(self):
        return self.array.dtype

    def __getitem__(self, rows):
        if self.row in rows:
            raise UserError("the source: a record cannot be read")
        return self.array[rows]


def assert_no_workers():
    """Fails if a process or thread that reads ahead is left."""
    assert not multiprocessing.active_children()
    for thread in threading.enumerate():
        if thread.name.startswith("grain-prefetch"):
            thread.join(60)  # it may be in the middle of a row
            assert not thread.is_alive()
