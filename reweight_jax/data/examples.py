"""What a data set is here: arrays with one row per example."""

from typing import NamedTuple

import numpy as np


class Examples(NamedTuple):
    """N labelled images in numpy.

    Attributes:
      image: uint8 [N, H, W, C].
      label: int32 [N] in 0..K-1, what training sees.
      true_label: int32 [N], the label before any corruption; for reports only.
      index: int64 [N], the row in the source's train or test part.
    """

    image: np.ndarray
    label: np.ndarray
    true_label: np.ndarray
    index: np.ndarray

    def take(self, rows: np.ndarray) -> "Examples":
        return Examples(*(array[rows] for array in self))


class Splits(NamedTuple):
    """Disjoint parts of one data set; see `reweight_jax.data.load`."""

    train: Examples
    clean: Examples
    hyper_val: Examples
    test: Examples


def concatenate(first: Examples, second: Examples) -> Examples:
    return Examples(*(np.concatenate(pair) for pair in zip(first, second, strict=True)))
