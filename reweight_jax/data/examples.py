"""What a data set is here: arrays with one row per example."""

from typing import NamedTuple

import numpy as np

from reweight_jax.data.lazy import LazyImages
from reweight_jax.errors import UserError


class Examples(NamedTuple):
    """N labelled images: in numpy, or of a set that is streamed, whose labels alone are in memory.

    Attributes:
      image: uint8 [N, H, W, C], an array or `LazyImages`.
      label: int32 [N] in 0..K-1, what training sees.
      true_label: int32 [N], the label before any corruption; for reports only.
      index: int64 [N], the row in the source's train or test part.
    """

    image: np.ndarray | LazyImages
    label: np.ndarray
    true_label: np.ndarray
    index: np.ndarray

    def take(self, rows: np.ndarray) -> "Examples":
        return Examples(*(array.take(rows, axis=0) for array in self))

    @property
    def is_lazy(self) -> bool:
        """Whether the images are read only when they are indexed."""
        return isinstance(self.image, LazyImages)

    def in_memory(self) -> "Examples":
        """The same with all images read; for sets that are small."""
        return self._replace(image=self.image[:])


class Splits(NamedTuple):
    """Disjoint parts of one data set; see `reweight_jax.data.load`."""

    train: Examples
    clean: Examples
    hyper_val: Examples
    test: Examples


def concatenate(first: Examples, second: Examples) -> Examples:
    image, *labels = zip(first, second, strict=True)
    join = LazyImages.concatenate if first.is_lazy else lambda *pair: np.concatenate(pair)
    return Examples(join(*image), *map(np.concatenate, labels))


def check_sizes(sets: list[Examples]) -> None:
    """Raises UserError where the training sets of the seeds of a run differ in size."""
    sizes = {len(examples.label) for examples in sets}
    if len(sizes) > 1:
        raise UserError(f"config.num_seeds: the seeds have training sets of {sorted(sizes)} images")


def stack(sets: list[Examples]) -> Examples:
    """S sets in memory and of one size, with a leading [S] on each array; one alone as it is."""
    if len(sets) == 1:
        return sets[0]
    return Examples(*(np.stack(arrays) for arrays in zip(*sets, strict=True)))
