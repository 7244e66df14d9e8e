"""What a data set is here: inputs and labels with one row per example, in named splits."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class LazyInputs:
    """Stands in for an array [N, ...]: it holds row numbers, and reads only what is indexed.

    It wraps any source that has a shape [M, ...], a dtype and source[rows int [b]] -> [b, ...].
    """

    def __init__(self, source, rows: np.ndarray | None = None):
        """`rows`, int [N], are the rows of `source` that are kept; None keeps all of them."""
        self._source = source
        self._rows = np.arange(source.shape[0]) if rows is None else rows

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self._rows), *self._source.shape[1:])

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self._source.dtype)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """Reads the rows of a slice or of int [b]; UserError if one is damaged."""
        return self._source[self._rows[rows]]

    def take(self, rows: np.ndarray, axis: int = 0) -> "LazyInputs":
        """Returns the inputs of `rows`, int [b], unread; `axis` must be 0 (numpy's `take`)."""
        if axis != 0:
            raise ValueError(f"axis: {axis}; only whole rows can be taken")
        return LazyInputs(self._source, self._rows[rows])

    def concatenate(self, other: "LazyInputs") -> "LazyInputs":
        """Returns these inputs followed by those of `other`, unread."""
        if other._source is self._source:
            return LazyInputs(self._source, np.concatenate([self._rows, other._rows]))
        return LazyInputs(_Joined(self, other))

    def __array__(self, dtype=None, copy=None):
        # numpy would otherwise quietly read all of them, one by one.
        raise TypeError("lazy inputs are not read as a whole; index them")


class _Joined(NamedTuple):
    """Two lazy arrays as one source."""

    first: LazyInputs
    second: LazyInputs

    @property
    def shape(self):
        return (len(self.first) + len(self.second), *self.first.shape[1:])

    @property
    def dtype(self):
        return self.first.dtype

    def __getitem__(self, rows):
        in_first = rows < len(self.first)
        inputs = np.empty((len(rows), *self.shape[1:]), self.dtype)
        inputs[in_first] = self.first[rows[in_first]]
        inputs[~in_first] = self.second[rows[~in_first] - len(self.first)]
        return inputs


Array = np.ndarray | LazyInputs
Inputs = Array | dict[str, Array]


def map_inputs(function: Callable, *inputs: Inputs) -> Any:
    """Applies `function` to the array, or to each array of a dict."""
    if isinstance(inputs[0], dict):
        return {name: function(*(each[name] for each in inputs)) for name in inputs[0]}
    return function(*inputs)


def take(inputs: Inputs, rows: np.ndarray) -> Inputs:
    """Returns the rows, int [b], of the array or of each array of a dict; lazy ones stay unread."""
    return map_inputs(lambda array: array.take(rows, axis=0), inputs)


def arrays_of(inputs: Inputs) -> list[Array]:
    """Returns the arrays of `inputs`: itself, or the values of the dict."""
    return list(inputs.values()) if isinstance(inputs, dict) else [inputs]


def is_lazy(inputs: Inputs) -> bool:
    """Returns whether any of the arrays is read only when it is indexed."""
    return any(isinstance(array, LazyInputs) for array in arrays_of(inputs))


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
    """N labelled examples.

    Attributes:
      inputs: numpy array [N, ...], dict of such arrays, or `LazyInputs`.
      label: what training sees. classification: int32 [N] in 0..K-1; multi_label: int32 [N, K] of
        0, 1 and -1 (missing); regression: float32 [N] or [N, D].
      true_label: the label before any corruption, of the same shape; None if it is unknown. For
        reports only.
      index: int64 [N], the row in the source. Rows of the train part count from 0; rows of a
        clean, calibration or hyper_val part that the source has count on from there, in this order,
        so that no two examples of these splits share an index. Rows of the test part count from 0.
    """

    inputs: Inputs
    label: np.ndarray
    true_label: np.ndarray | None
    index: np.ndarray

    @property
    def size(self) -> int:
        """N."""
        return len(self.label)

    @property
    def is_lazy(self) -> bool:
        """Whether inputs are read only when they are indexed."""
        return is_lazy(self.inputs)

    def take(self, rows: np.ndarray) -> "Examples":
        """Returns the examples of `rows`, int [b], in their order."""
        true_label = None if self.true_label is None else self.true_label[rows]
        return Examples(take(self.inputs, rows), self.label[rows], true_label, self.index[rows])

    def in_memory(self) -> "Examples":
        """Returns the same examples with all inputs read; for sets that are small."""
        return self._replace(inputs=map_inputs(lambda array: array[:], self.inputs))


class Splits(NamedTuple):
    """Disjoint parts of one data set; a part that there is not is None. See `splits.make_data`.

    Attributes:
      train: what is trained on; its labels may be wrong.
      clean: the trusted set, whose gradient decides the weights.
      calibration: trusted examples that no gradient sees.
      hyper_val: as corrupted as `train`; the best step is chosen by it.
      test: for the final scores.
    """

    train: Examples
    clean: Examples | None = None
    calibration: Examples | None = None
    hyper_val: Examples | None = None
    test: Examples | None = None


class Data(NamedTuple):
    """A data set that is ready to train on.

    Attributes:
      splits: the examples.
      classes: names or values of the K outputs, as plain Python; () for regression.
      num_outputs: K, or D for regression.
      ids: str [M], names of the source's rows, to be indexed by `Examples.index` (of any split but
        test); None if they have no names.
      columns: names of the columns of the inputs, if they are a table.
    """

    splits: Splits
    classes: tuple
    num_outputs: int
    ids: np.ndarray | None = None
    columns: tuple[str, ...] = ()


def concatenate(first: Examples, second: Examples) -> Examples:
    """Returns the examples of both, in this order; lazy inputs stay unread.

    true_label is None if it is unknown of either.
    """

    def join(a, b):
        if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
            return np.concatenate([a, b])
        a, b = (x if isinstance(x, LazyInputs) else LazyInputs(x) for x in (a, b))
        return a.concatenate(b)

    is_known = first.true_label is not None and second.true_label is not None
    return Examples(
        map_inputs(join, first.inputs, second.inputs),
        np.concatenate([first.label, second.label]),
        np.concatenate([first.true_label, second.true_label]) if is_known else None,
        np.concatenate([first.index, second.index]),
    )
