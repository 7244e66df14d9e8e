"""A user's npz files as data sets; inputs without labels, from files of any kind."""

import difflib
import os
import pathlib

import numpy as np

from reweight_jax.data import images, tables
from reweight_jax.data.examples import Inputs, Part, Splits
from reweight_jax.data.inputs import as_inputs, like_train
from reweight_jax.errors import UserError, one_line, prefix
from reweight_jax.paths import expand, open_regular
from reweight_jax.sealed import DAMAGED


def read_npz(fields) -> dict[str, Part]:
    """Reads the arrays SPLIT_input and SPLIT_label of the npz file config.data.path.

    SPLIT is train, which is required, clean, calibration, hyper_val or test. A dict of inputs is
    saved as SPLIT_input.NAME; the name SPLIT_image is accepted for SPLIT_input. Inputs and labels
    may be of any type but pickled objects. An array that nothing reads is an error.
    """
    if not fields.path:
        raise UserError("config.data.path: empty; give the npz file to read")
    path = expand(fields.path)
    arrays = load_npz(path)
    parts, read = {}, set()
    for split in Splits._fields:
        inputs, names = _npz_inputs(arrays, (f"{split}_input", f"{split}_image"), path)
        label = arrays.get(f"{split}_label")
        if inputs is None and label is None:
            continue
        if inputs is None or label is None:
            lacks = f"{split}_input" if inputs is None else f"{split}_label"
            raise UserError(f"{path}: no array {lacks}; found: {', '.join(arrays)}")
        parts[split] = Part(inputs, label)
        read |= {*names, f"{split}_label"}
    valid = [f"{split}_{kind}" for split in Splits._fields for kind in ("input", "label")]
    for name in arrays:
        if name not in read:
            near = difflib.get_close_matches(name, valid, 1, 0.5) or [", ".join(valid)]
            raise UserError(f"{path}: nothing reads the array {name}; did you mean {near[0]}?")
    if "train" not in parts:
        found = ", ".join(arrays) or "none"
        raise UserError(f"{path}: no arrays train_input and train_label; found: {found}")
    return parts


def load_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns all arrays of an npz file; UserError if it is missing, damaged or has pickles."""
    try:
        file = open_regular(path)
    except OSError as error:
        raise UserError(f"config.data.path: no readable file {path} ({error.strerror})") from None
    with file:
        try:
            archive = np.load(file, allow_pickle=False)
        except DAMAGED as error:
            why = "no archive of arrays" if "pickle" in str(error) else one_line(error)
            raise UserError(f"{path}: not a readable npz file ({why})") from None
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise UserError(f"{path}: a single array; save the arrays by name with np.savez")
        arrays = {}
        for name in archive.files:
            try:
                arrays[name] = archive[name]
            except MemoryError:
                raise UserError(f"{path}: {name} does not fit into memory") from None
            except (*DAMAGED, OverflowError, SyntaxError) as error:  # the last two: of a header
                if "allow_pickle" in str(error):
                    raise UserError(
                        f"{path}: {name} holds pickled objects; save an array of numbers or strings"
                    ) from None
                raise UserError(f"{path}: {name} is damaged ({one_line(error)})") from None
            if not isinstance(arrays[name], np.ndarray):
                raise UserError(f"{path}: {name} is not a numpy array; save it with np.savez")
    return arrays


def _npz_inputs(arrays, names, path):
    """Returns (array or dict of arrays or None, the names that it has in the file)."""
    found = [name for name in arrays if name.partition(".")[0] in names]
    nested = {name.partition(".")[2]: arrays[name] for name in found if "." in name}
    if nested and len(nested) == len(found):
        return nested, found
    if len(found) > 1:
        raise UserError(
            f"{path}: {' and '.join(found)}: save one of them, or all as {names[0]}.NAME"
        )
    return (arrays[found[0]] if found else None), found


def read_inputs(
    path: str | pathlib.Path, fields, like: Inputs, columns: tuple[str, ...] = ()
) -> tuple[Inputs, np.ndarray]:
    """Reads inputs without labels, to predict from.

    Args:
      path: an npz file with `input` (or `input.NAME`; else `test_input`), a CSV file with the
        training set's feature columns or a column `file`, an image file, or a folder of images,
        which may lie in folders within it. Other columns of a CSV file are not read.
      fields: config.data of the run.
      like: inputs of the training set, of which only the types and the shapes of rows are read.
      columns: `Data.columns` of the run.

    Returns:
      (inputs, ids str [N]): inputs of the types and shapes of `like`; images are `LazyInputs`. ids
      are file names, line numbers of a CSV file, or row numbers of an npz file.

    Raises:
      UserError: a missing or malformed file, or inputs unlike the training set's.
    """
    path = expand(path)
    suffix = path.suffix.lower()
    if os.path.isdir(path):
        paths = images.list_images(path)
        if not paths:
            raise UserError(f"{path}: has no image")
        ids = [entry.relative_to(path).as_posix() for entry in paths]
    elif not os.path.exists(path):  # pathlib's raises for a name that is too long
        raise UserError(f"{path}: no such file or folder")
    elif suffix in images.SUFFIXES:
        paths, ids = [path], [path.name]
    elif suffix == ".npz":
        return _new_arrays(path, like)
    elif suffix == ".csv":
        table = tables.read_table(path)
        if not table.lines:
            raise UserError(f"{path}: has no row")
        needed = list(columns) or [tables.FILE_COLUMN]
        lacking = [name for name in needed if name not in table.cells]
        if lacking:
            raise UserError(
                f"{path}: lacks the column {lacking[0]}, which the model was trained on"
            )
        if columns:
            inputs = np.stack([table.numbers(name) for name in columns], axis=1)
            return _checked(inputs, like, path), np.array([str(line) for line in table.lines])
        ids = table.cells[tables.FILE_COLUMN]
        paths = [path.parent / name for name in ids]
    else:
        raise UserError(f"{path}: give an npz or CSV file, an image, or a folder of images")
    if isinstance(like, dict) or len(like.shape) != 4 or like.dtype != np.uint8:
        raise UserError(f"{path}: images, but the model was not trained on images")
    if like.shape[-1] not in (1, 3):
        raise UserError(
            f"{path}: images, but the model was trained on {like.shape[-1]} channels; give an npz"
        )
    opened = images.open_images({"input": paths}, fields.image_size, False, like.shape[1:])
    return opened["input"], np.array(ids)


def _new_arrays(path, like):
    arrays = load_npz(path)
    for name in ("input", "test_input", "test_image"):
        inputs, _ = _npz_inputs(arrays, (name,), path)
        if inputs is not None:
            inputs = _checked(inputs, like, path, name)
            size = len(next(iter(inputs.values())) if isinstance(inputs, dict) else inputs)
            return inputs, np.arange(size).astype(str)
    raise UserError(f"{path}: no array input or test_input; found: {', '.join(arrays) or 'none'}")


def _checked(inputs, like, path, name="input"):
    with prefix(str(path)):
        return like_train(as_inputs(inputs, name), like, name, "the training set")
