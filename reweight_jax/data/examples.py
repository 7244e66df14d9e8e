"""What a data set is here: inputs and labels with one row per example, in named splits."""

from typing import Any, NamedTuple

import jax
import numpy as np


class LazyInputs:
    """An array [N, ...] that holds row numbers, and reads only the rows that are indexed."""

    def __init__(self, *sources, rows: np.ndarray | None = None):
        """Wraps sources, the rows of one after those of the other; reads nothing.

        Args:
          *sources: each has a shape [M, ...], a dtype and source[rows int [b]] -> [b, ...].
          rows: int [N], the rows that are kept, counted through all sources; None: all of them.
        """
        self._sources = sources
        self._starts = np.cumsum([0, *(source.shape[0] for source in sources)])
        self._rows = np.arange(self._starts[-1]) if rows is None else rows
        self.shape = (len(self._rows), *sources[0].shape[1:])
        self.ndim = len(self.shape)
        self.dtype = np.dtype(sources[0].dtype)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """Reads the rows of a slice or of int [b]; UserError if one is damaged."""
        rows = self._rows[rows]
        inputs = np.empty((len(rows), *self.shape[1:]), self.dtype)
        number = np.searchsorted(self._starts, rows, side="right") - 1
        for k in np.unique(number):  # not every source can read no rows
            inputs[number == k] = self._sources[k][rows[number == k] - self._starts[k]]
        return inputs

    def take(self, rows: np.ndarray, axis: int = 0) -> "LazyInputs":
        """Returns the inputs of `rows`, int [b], unread; `axis` must be 0 (numpy's `take`)."""
        if axis != 0:
            raise ValueError(f"axis: {axis}; only whole rows can be taken")
        return LazyInputs(*self._sources, rows=self._rows[rows])

    def min(self):
        """Returns the smallest number, of which not all are in memory at once."""
        return min(self[i : i + 1_000].min() for i in range(0, len(self), 1_000))

    def max(self):
        """Returns the largest number."""
        return max(self[i : i + 1_000].max() for i in range(0, len(self), 1_000))

    def __array__(self, dtype=None, copy=None):
        # numpy would otherwise quietly read all of them, one by one.
        raise TypeError("lazy inputs are not read as a whole; index them")


Array = np.ndarray | LazyInputs
Inputs = Array | dict[str, Array]


def is_lazy(inputs: Inputs) -> bool:
    """Returns whether any of the arrays is read only when it is indexed."""
    return any(isinstance(array, LazyInputs) for array in jax.tree.leaves(inputs))


class Part(NamedTuple):
    """What a reader in DATASETS returns of one split: labels of any type, inputs as they are.

    Attributes:
      inputs: array [N, ...], dict of such arrays, or `LazyInputs`.
      label: [N], or [N, K] for multi_label and for regression of several values.
      id: str [N], such as file names; None if rows have no names.
      columns: names of the columns of `inputs`, if it is a table.
      tags: names of the columns of `label`, for multi_label.
    """

    inputs: Any
    label: Any
    id: np.ndarray | None = None
    columns: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


class Examples(NamedTuple):
    """N labelled examples."""

    inputs: Inputs
    # What training sees. classification: int32 [N] in 0..K-1; multi_label: int32 [N, K] of 0, 1 and
    # -1 (missing); regression: float32 [N] or [N, D].
    label: np.ndarray
    true_label: np.ndarray | None  # before any corruption, for reports only; None if unknown
    # int64 [N], the row in the source. Rows of the parts train, clean, calibration and hyper_val of
    # the source are counted through in this order, and those of test from 0.
    index: np.ndarray

    @property
    def size(self) -> int:
        """N."""
        return len(self.label)

    def take(self, rows: np.ndarray) -> "Examples":
        """Returns the examples of `rows`, int [b], in their order; lazy inputs stay unread."""
        return jax.tree.map(lambda array: array.take(rows, axis=0), self)

    def in_memory(self) -> "Examples":
        """Returns the same examples with all inputs read; for sets that are small."""
        return jax.tree.map(lambda array: array[:], self)


class Splits(NamedTuple):
    """Disjoint parts of one data set, None if there is no such part. See `splits.make_data`."""

    train: Examples  # its labels may be wrong
    clean: Examples | None = None  # the trusted set, whose gradient decides the weights
    calibration: Examples | None = None  # trusted examples that no gradient sees
    hyper_val: Examples | None = None  # as corrupted as `train`; the best step is chosen by it
    test: Examples | None = None  # for the final scores


class Data(NamedTuple):
    """A data set that is ready to train on."""

    splits: Splits
    classes: tuple  # names or values of the K outputs, as plain Python; () for regression
    num_outputs: int  # K, or D for regression
    ids: np.ndarray | None = None  # str [M]: ids[index] are the names of examples, but not of test
    columns: tuple[str, ...] = ()  # names of the columns of the inputs, if they are a table
    corrections: dict | None = None  # counts by `corrections.correct`
    starts: dict[str, int] | None = None  # part of the source -> `index` of its first row
    num_rows: int = 0  # of the source's training part, before any correction


def concatenate(first: Examples, second: Examples) -> Examples:
    """Returns the examples of both; lazy inputs stay unread. true_label is None if either's is."""

    def join(a, b):
        if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
            return np.concatenate([a, b])
        return LazyInputs(a, b)

    if first.true_label is None or second.true_label is None:
        first, second = (part._replace(true_label=None) for part in (first, second))
    return jax.tree.map(join, first, second)
