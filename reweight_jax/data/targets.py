"""Labels of any type, encoded as the arrays that a task computes with."""

import unicodedata
from typing import Any

import numpy as np

from reweight_jax.data.inputs import as_float32

MAX_CLASSES = 100_000
MISSING = "has no label; leave the example out, or label it"


def encode(
    task: str, labels: dict[str, Any], *, num_classes: int = 0, tags: tuple[str, ...] = ()
) -> tuple[dict[str, np.ndarray], tuple, int]:
    """Encodes the labels of all splits alike.

    Args:
      task: a name in ENCODERS.
      labels: split -> raw labels [N] or [N, K] of any type; "train" must be one of them.
      num_classes: K of classification, if labels are integers in 0..K-1; 0: from the labels.
      tags: names of the K columns of multi_label; (): 0..K-1.

    Returns (labels by split as in `Examples.label`, classes, num_outputs); classes are the names or
    values of the K outputs as plain Python, () for regression. ValueError if labels are missing,
    malformed or unknown to the training set; it names the split as in "test_label".
    """
    if task not in ENCODERS:
        names = ", ".join(sorted(ENCODERS))
        raise ValueError(
            f"task: unknown name {task!r}; valid: {names} (a task of your own needs an entry in "
            "reweight_jax.data.targets.ENCODERS too)"
        )
    encoded, classes, num_outputs = ENCODERS[task](labels, num_classes, tags)
    shape = encoded["train"].shape[1:]
    for split, label in encoded.items():
        if label.shape[1:] != shape:
            raise ValueError(
                f"{split}_label: a row has shape {label.shape[1:]}, in train_label it has {shape}"
            )
    return encoded, classes, num_outputs


def encode_classes(labels, num_classes, tags):
    """Encodes one class per example: int32 [N].

    Integers that are 0..K-1 without a gap keep their values. Any others (strings, bools, gaps) are
    replaced by their index among the sorted labels of train and clean.
    """
    values = {split: class_values(f"{split}_label", label) for split, label in labels.items()}
    if num_classes and not 2 <= num_classes <= MAX_CLASSES:
        raise ValueError(f"num_classes: {num_classes}; must be in 2..{MAX_CLASSES}")
    types = {f"{split}_label": value.dtype for split, value in values.items()}
    if num_classes:
        types[f"num_classes {num_classes} (0: from the labels)"] = np.dtype(int)
    if len({dtype.kind for dtype in types.values()}) > 1:
        found = ", ".join(f"{name} {dtype}" for name, dtype in types.items())
        raise ValueError(f"labels are of different types: {found}")
    known, source = np.arange(num_classes), f"num_classes {num_classes} (0: from the labels)"
    if not num_classes:
        known = np.unique(np.concatenate([values[s] for s in ("train", "clean") if s in values]))
        source = "the training set"
    if len(known) > MAX_CLASSES:
        raise ValueError(
            f"train_label: {len(known)} different labels, more than {MAX_CLASSES} classes; numbers "
            'that measure something need task="regression"'
        )
    if len(known) < 2:
        names = listed(known) or "missing"
        raise ValueError(f"train_label: all labels are {names}; two classes are needed")
    for split, value in values.items():
        if (row := _first(~np.isin(value, known))) is not None:
            raise ValueError(
                f"{split}_label: row {row} is {value[row]!s}, which is no label of {source}: "
                f"{listed(known)}"
            )
    encoded = {split: np.searchsorted(known, v).astype(np.int32) for split, v in values.items()}
    return encoded, tuple(known.tolist()), len(known)


def encode_tags(labels, num_classes, tags):
    """Encodes K tags of which any number holds: int32 [N, K] of 0, 1, and -1 for missing."""
    encoded = {}
    for split, label in labels.items():
        array = _numbers(f"{split}_label", label, "0, 1, or -1 if it is unknown")
        array = array[:, None] if array.ndim == 1 else array
        if array.ndim != 2 or not array.shape[1]:
            raise ValueError(f"{split}_label: shape {array.shape}; multi_label needs [N, K]")
        array = np.where(np.isnan(array), -1, array)
        for row, column in np.argwhere(~np.isin(array, (-1, 0, 1))):
            raise ValueError(
                f"{split}_label: row {row}, tag {tags[column] if tags else column} is "
                f"{array[row, column]:g}; must be 0, 1, or -1 if it is unknown"
            )
        encoded[split] = array.astype(np.int32)
    tags = [unicodedata.normalize("NFC", tag) for tag in tags]  # as names of classes are
    for tag in tags:
        if ";" in tag:
            raise ValueError(f"tag {tag!r}: must not contain ';', which separates tags")
        if "?" + tag in tags:
            raise ValueError(f"tag {'?' + tag!r}: is how {tag!r} is written if it is not known")
    num_tags = encoded["train"].shape[1]
    return encoded, tuple(tags) or tuple(range(num_tags)), num_tags


def encode_numbers(labels, num_classes, tags):
    """Encodes values for regression: float32 [N] or [N, D], in the units they came in."""
    encoded = {}
    for split, label in labels.items():
        array = _without_column(_numbers(f"{split}_label", label, "a number"))
        if array.ndim not in (1, 2) or 0 in array.shape[1:]:
            raise ValueError(f"{split}_label: shape {array.shape}; regression needs [N] or [N, D]")
        encoded[split] = as_float32(array, f"{split}_label", "is", trains=split == "train")
    train = encoded["train"]
    return encoded, (), 1 if train.ndim == 1 else train.shape[1]


# A user may add the encoder of his own task, under the task's name.
ENCODERS = {
    "classification": encode_classes,
    "multi_label": encode_tags,
    "regression": encode_numbers,
}


def listed(names) -> str:
    """Returns the first ten names in one line, for messages."""
    return ", ".join(map(str, names[:10])) + (", ..." if len(names) > 10 else "")


def class_values(name, label):
    """Returns labels [N] as int64, bool or str; ValueError if that is not what they are."""
    if np.ma.is_masked(label):
        raise ValueError(f"{name}: row {np.argwhere(np.ma.getmaskarray(label))[0][0]} {MISSING}")
    array = _without_column(np.asarray(label))
    if array.ndim != 1:
        raise ValueError(
            f"{name}: shape {array.shape}; classification needs one label per example, [N] "
            '(task="multi_label" takes [N, K])'
        )
    if array.dtype.kind in "OT":  # T: numpy's strings of any length
        array = _of_objects(name, array)
    if array.dtype.kind == "S":
        try:
            array = np.char.decode(array, "utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{name}: bytes that are not text in UTF-8 ({error})") from None
    if array.dtype.kind == "U":  # an accent may be a character of its own, and look the same
        array = np.array([unicodedata.normalize("NFC", text) for text in array.tolist()])
        if (row := _first(np.char.strip(array) == "")) is not None:
            raise ValueError(f"{name}: row {row} {MISSING}")
    if array.dtype.kind == "f":
        if (row := _first(np.isnan(array))) is not None:
            raise ValueError(f"{name}: row {row} {MISSING}")
        is_whole = (abs(array) <= 1 << 53) & (array == np.round(array))
        if (row := _first(~is_whole)) is not None:
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
    if (row := _first([_is_missing(value) for value in array])) is not None:
        raise ValueError(f"{name}: row {row} {MISSING}")
    types = {type(value) for value in array}
    for allowed in (str, (int, float, np.number, np.bool_)):
        if all(issubclass(type_, allowed) for type_ in types):
            return np.array(array.tolist())
    names = ", ".join(sorted(type_.__name__ for type_ in types))
    raise ValueError(f"{name}: labels are of the types {names}; give numbers only, or strings only")


def _numbers(name, label, what):
    """Returns float64 of the same shape; missing values become NaN."""
    array = np.asarray(label)
    if array.ndim == 0 or array.dtype.kind in "mMc":  # dates, durations, complex numbers
        raise ValueError(f"{name}: is {array.dtype} {array.shape}; must be {what} per example")
    if np.ma.is_masked(label):
        array = np.where(np.ma.getmaskarray(label), np.nan, array)
    if array.dtype.kind == "O":
        flat = [np.nan if _is_missing(value) else value for value in array.ravel()]
        array = np.array(flat, dtype=object).reshape(array.shape)
    is_text = array.dtype.kind in "OSUT"
    try:
        if is_text and any("_" in str(value) for value in array.ravel()):
            raise ValueError("an underscore")  # 1_5 is 15 for Python, and for nobody else
        return array.astype(np.float64)
    except (TypeError, ValueError):
        for row, values in enumerate(array.reshape(len(array), -1).tolist()):
            try:
                if "_" in str(values):
                    raise ValueError
                np.array(values, np.float64)
            except (TypeError, ValueError):
                raise ValueError(f"{name}: row {row} is {values}; must be {what}") from None
        raise


def _is_missing(value) -> bool:
    # pandas' missing values are found by name, so that pandas need not be imported.
    is_nan = isinstance(value, float | np.floating) and np.isnan(value)
    return value is None or is_nan or type(value).__name__ in ("NAType", "NaTType")


def _first(is_bad) -> int | None:
    """Returns the first index at which `is_bad` is True, or None."""
    return int(np.argmax(is_bad)) if np.any(is_bad) else None


def _without_column(array):
    """Returns an array [N, 1] as [N], and any other as it is."""
    return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
