"""Labels of any type, encoded as the arrays that a task computes with."""

from typing import Any

import numpy as np

MAX_CLASSES = 100_000
PANDAS_MISSING = ("NAType", "NaTType")  # named, so that pandas need not be imported
MISSING = "has no label; leave the example out, or label it"


def encode(
    task: str, labels: dict[str, Any], *, num_classes: int = 0, tags: tuple[str, ...] = ()
) -> tuple[dict[str, np.ndarray], tuple, int]:
    """Encodes the labels of all splits alike.

    Args:
      task: a name in ENCODERS.
      labels: split -> raw labels [N] or [N, K]: arrays, lists, or columns of a DataFrame. "train"
        must be one of them.
      num_classes: K of classification, if labels are integers in 0..K-1; 0: from the labels.
      tags: names of the K columns of multi_label; (): 0..K-1.

    Returns:
      (encoded labels by split, classes, num_outputs): classes are the names or values of the K
      outputs as plain Python, () for regression. Types: see `Examples.label`.

    Raises:
      ValueError: labels that are missing, malformed, or unknown to the training set; the message
        begins with the split's name, as in "test_label".
    """
    if task not in ENCODERS:
        raise ValueError(f"task: unknown name {task!r}; valid: {', '.join(sorted(ENCODERS))}")
    return ENCODERS[task](labels, num_classes, tags)


def encode_classes(labels, num_classes, tags):
    """Encodes one class per example: int32 [N].

    Integers that are 0..K-1 without a gap keep their values. Any others (strings, bools, gaps) are
    replaced by their index among the sorted labels of train and clean.
    """
    del tags
    values = {split: _class_values(f"{split}_label", label) for split, label in labels.items()}
    if num_classes:
        return _of_known_classes(values, num_classes), tuple(range(num_classes)), num_classes
    kinds = {value.dtype.kind for value in values.values()}
    if len(kinds) > 1:
        types = ", ".join(f"{split}_label {value.dtype}" for split, value in values.items())
        raise ValueError(f"labels are of different types: {types}")
    known = np.unique(np.concatenate([values[s] for s in ("train", "clean") if s in values]))
    if len(known) > MAX_CLASSES:
        raise ValueError(
            f"train_label: {len(known)} different labels, more than {MAX_CLASSES} classes; numbers "
            'that measure something need task="regression"'
        )
    if len(known) < 2:
        raise ValueError(f"train_label: all labels are {known[0]!s}; two classes are needed")
    encoded = {}
    for split, value in values.items():
        index = np.searchsorted(known, value)
        is_new = known[np.minimum(index, len(known) - 1)] != value
        if is_new.any():
            row = int(np.argmax(is_new))
            shown = ", ".join(str(name) for name in known[:10]) + (
                ", ..." if known[10:].size else ""
            )
            raise ValueError(
                f"{split}_label: row {row} is {value[row]!s}, which is no label of the training "
                f"set: {shown}"
            )
        encoded[split] = index.astype(np.int32)
    return encoded, tuple(known.tolist()), len(known)


def encode_tags(labels, num_classes, tags):
    """Encodes K tags of which any number holds: int32 [N, K] of 0, 1, and -1 for missing."""
    del num_classes
    encoded = {}
    for split, label in labels.items():
        name = f"{split}_label"
        array = _numbers(name, label, "0, 1, or -1 if it is unknown")
        if array.ndim == 1:
            array = array[:, None]
        if array.ndim != 2 or not array.shape[1]:
            raise ValueError(f"{name}: shape {np.shape(label)}; multi_label needs [N, K]")
        array = np.where(np.isnan(array), -1, array)
        is_bad = ~np.isin(array, (-1, 0, 1))
        if is_bad.any():
            row, column = np.argwhere(is_bad)[0]
            raise ValueError(
                f"{name}: row {row}, tag {tags[column] if tags else column} is "
                f"{array[row, column]:g}; must be 0, 1, or -1 if it is unknown"
            )
        encoded[split] = array.astype(np.int32)
    _check_width(encoded)
    num_tags = encoded["train"].shape[1]
    return encoded, tuple(tags) or tuple(range(num_tags)), num_tags


def encode_numbers(labels, num_classes, tags):
    """Encodes values for regression: float32 [N] or [N, D], in the units they came in."""
    del num_classes, tags
    encoded = {}
    for split, label in labels.items():
        name = f"{split}_label"
        array = _numbers(name, label, "a number")
        if array.ndim == 2 and array.shape[1] == 1:
            array = array[:, 0]
        if array.ndim not in (1, 2) or 0 in array.shape[1:]:
            raise ValueError(f"{name}: shape {array.shape}; regression needs [N] or [N, D]")
        with np.errstate(over="ignore"):  # what overflows is reported below
            array = array.astype(np.float32)
        is_bad = ~np.isfinite(array).reshape(len(array), -1).all(axis=1)
        if is_bad.any():
            raise ValueError(f"{name}: row {int(np.argmax(is_bad))} is missing or not finite")
        encoded[split] = array
    _check_width(encoded)
    train = encoded["train"]
    return encoded, (), 1 if train.ndim == 1 else train.shape[1]


# A user may add the encoder of his own task, under the task's name.
ENCODERS = {
    "classification": encode_classes,
    "multi_label": encode_tags,
    "regression": encode_numbers,
}


def _class_values(name, label):
    """Returns labels [N] as int64, bool or str; ValueError if that is not what they are."""
    array = np.asarray(label)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise ValueError(
            f"{name}: shape {array.shape}; classification needs one label per example, [N] "
            '(task="multi_label" takes [N, K])'
        )
    if array.dtype.kind in "OT":  # T: numpy's strings of any length
        array = _of_objects(name, array)
    if array.dtype.kind == "S":
        array = np.char.decode(array, "utf-8")
    if array.dtype.kind == "f":
        if np.isnan(array).any():
            raise ValueError(f"{name}: row {int(np.argmax(np.isnan(array)))} {MISSING}")
        is_bad = ~np.isfinite(array) | (array != np.round(array)) | (abs(array) > 1 << 53)
        if is_bad.any():
            row = int(np.argmax(is_bad))
            raise ValueError(
                f"{name}: row {row} is {array[row]:g}, not a whole number; values that measure "
                'something need task="regression"'
            )
        array = array.astype(np.int64)
    if array.dtype.kind not in "iubU":
        raise ValueError(f"{name}: is {array.dtype}; must be integers, strings or bools")
    if array.dtype == np.uint64 and array.size and array.max() >= 1 << 63:
        raise ValueError(f"{name}: {array.max()} is too large; labels must be below 2^63")
    return array.astype(np.int64) if array.dtype.kind in "iu" else array


def _of_objects(name, array):
    """Returns an object array as an array of strings or of numbers."""
    for row, value in enumerate(array):
        is_nan = isinstance(value, float | np.floating) and np.isnan(value)
        if value is None or is_nan or type(value).__name__ in PANDAS_MISSING:
            raise ValueError(f"{name}: row {row} {MISSING}")
    types = {type(value) for value in array}
    for allowed in (str, (int, float, np.number, np.bool_)):
        if all(issubclass(type_, allowed) for type_ in types):
            return np.array(array.tolist())
    names = ", ".join(sorted(type_.__name__ for type_ in types))
    raise ValueError(f"{name}: labels are of the types {names}; give numbers only, or strings only")


def _of_known_classes(values, num_classes):
    if not 2 <= num_classes <= MAX_CLASSES:
        raise ValueError(f"num_classes: {num_classes}; must be in 2..{MAX_CLASSES}")
    for split, value in values.items():
        if value.dtype.kind != "i":
            raise ValueError(
                f"{split}_label: is {value.dtype}, but num_classes is {num_classes}; with it, "
                f"labels must be integers in 0..{num_classes - 1} (0: classes from the labels)"
            )
        is_bad = (value < 0) | (value >= num_classes)
        if is_bad.any():
            row = int(np.argmax(is_bad))
            raise ValueError(
                f"{split}_label: row {row} is {value[row]}; with num_classes {num_classes}, labels "
                f"are 0..{num_classes - 1} (0: classes from the labels)"
            )
    return {split: value.astype(np.int32) for split, value in values.items()}


def _numbers(name, label, what):
    """Returns float64 of the same shape; what is missing becomes NaN."""
    array = np.asarray(label)
    if array.dtype.kind == "O":
        flat = [
            np.nan if value is None or type(value).__name__ in PANDAS_MISSING else value
            for value in array.ravel()
        ]
        array = np.array(flat, dtype=object).reshape(array.shape)
    try:
        return array.astype(np.float64)
    except (TypeError, ValueError):
        pass
    for row, values in enumerate(array.reshape(len(array), -1)):
        try:
            values.astype(np.float64)
        except (TypeError, ValueError):
            raise ValueError(f"{name}: row {row} is {values.tolist()}; must be {what}") from None
    raise ValueError(f"{name}: is {array.dtype}; must be numbers")


def _check_width(encoded):
    shape = encoded["train"].shape[1:]
    for split, label in encoded.items():
        if label.shape[1:] != shape:
            raise ValueError(
                f"{split}_label: a row has shape {label.shape[1:]}, in train_label it has {shape}"
            )
