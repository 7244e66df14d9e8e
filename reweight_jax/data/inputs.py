"""Inputs of any kind, checked and brought to the types that JAX computes with."""

from typing import Any

import jax
import numpy as np

from reweight_jax.data.examples import Inputs, LazyInputs

LOST = 0.01  # of a column's deviation, which float32 may round off


def as_inputs(inputs: Any, name: str, *, trains: bool = False, as_floats: bool = False) -> Inputs:
    """Returns the inputs as a numpy array or a dict of these, ready for a model.

    `inputs` is an array [N, ...], anything that numpy makes one of (a list, a DataFrame), a dict of
    such arrays, or `LazyInputs`, which is returned as it is. float64 becomes float32, and integers
    of more than 32 bits int32. If `inputs` is one array, uint8 [N, H, W] are gray images and become
    [N, H, W, 1], and bool becomes float32, as do integers if `as_floats`. Other types stay.
    ValueError that begins with `name` if there are no rows, arrays of different length, or values
    that are not finite or do not fit; if it `trains`, also if a column varies too little for
    float32.
    """
    if isinstance(inputs, LazyInputs):
        result = inputs
    elif isinstance(inputs, dict):
        if not inputs:
            raise ValueError(f"{name}: an empty dict; it must have at least one array")
        for key, array in inputs.items():
            if table_names(array):
                raise ValueError(f"{name}.{key}: a table in a dict; give an array (.to_numpy())")
        result = {
            str(key): _as_array(array, f"{name}.{key}", trains) for key, array in inputs.items()
        }
    else:
        result = _as_array(inputs, name, trains, as_floats)
        if result.ndim < 2:
            raise ValueError(f"{name}: shape {result.shape}; must be [N, ...], such as [N, 1]")
        if result.dtype == np.uint8 and result.ndim == 3:
            result = result[..., None]
        elif result.dtype == bool:
            result = result.astype(np.float32)
    shapes = [array.shape for array in jax.tree.leaves(result)]
    sizes = {shape[0] for shape in shapes}
    if len(sizes) > 1:
        raise ValueError(f"{name}: arrays of different length, {sorted(sizes)}")
    if any(0 in shape for shape in shapes):
        raise ValueError(f"{name}: is empty, {shapes[0]}")
    return result


def table_names(table: Any) -> tuple[str, ...]:
    """Returns the names of the columns of a table of pandas, polars or pyarrow; () of others."""
    if not (hasattr(table, "iloc") or hasattr(table, "select")):
        return ()
    is_arrow = not hasattr(table, "iloc") and hasattr(table, "column_names")  # columns: its arrays
    return tuple(map(str, table.column_names if is_arrow else getattr(table, "columns", ())))


def take_columns(table: Any, places: list[int]) -> Any:
    """Returns a table that has `table_names` with only the columns at these places, in order."""
    if hasattr(table, "iloc"):
        return table.iloc[:, places]
    names = table_names(table)
    return table.select([names[place] for place in places])


def check_tokens(inputs: Inputs, vocabulary: int, name: str) -> None:
    """Raises ValueError for token ids, ints [N, T], that are not in 0..vocabulary - 1."""
    if isinstance(inputs, dict) or inputs.ndim != 2:
        return
    if inputs.dtype.kind not in "iu" or inputs.dtype == np.uint8:  # which become floats
        return
    low, high = inputs.min(), inputs.max()
    if low < 0 or high >= vocabulary:
        raise ValueError(
            f"{name}: token ids {low}..{high}; must be in 0..{vocabulary - 1}; numbers that are no "
            "tokens must be floats"
        )


def like_train(inputs: Inputs, train: Inputs, name: str, train_name: str = "train_input") -> Inputs:
    """Returns `inputs` in the types of `train`; ValueError if they cannot be fed to one model."""
    if isinstance(train, dict) != isinstance(inputs, dict):
        raise ValueError(f"{name}: must be a dict of arrays if and only if {train_name} is one")
    if isinstance(train, dict):
        if set(inputs) != set(train):
            raise ValueError(f"{name}: has {sorted(inputs)}, but {train_name} has {sorted(train)}")
        return {
            key: like_train(inputs[key], train[key], f"{name}.{key}", f"{train_name}.{key}")
            for key in train
        }
    if inputs.dtype != train.dtype:
        is_fixed = isinstance(inputs, LazyInputs) or train.dtype.kind != "f"
        if is_fixed or inputs.dtype.kind not in "fi":
            raise ValueError(f"{name}: is {inputs.dtype}, but {train_name} is {train.dtype}")
        with np.errstate(over="ignore"):  # of float16, reported below
            inputs = inputs.astype(train.dtype)
        is_bad = ~np.isfinite(inputs).all(axis=tuple(range(1, inputs.ndim)))
        if is_bad.any():
            raise ValueError(f"{name}: row {is_bad.argmax()} is too large for {train.dtype}")
    row, train_row = inputs.shape[1:], train.shape[1:]
    if row != train_row:
        raise ValueError(f"{name}: a row has shape {row}, but in {train_name} it has {train_row}")
    return inputs


def as_float32(
    array: np.ndarray, name: str, what: str, *, trains: bool = False, columns: tuple[str, ...] = ()
) -> np.ndarray:
    """Returns floats as float32; ValueError that names the first row with a value like 1e39.

    If it `trains`, also for a column of [N] or [N, D] that varies too little: float32 has steps of
    128 at 1.7e9, where times in seconds are.
    """
    given = array
    with np.errstate(over="ignore"):  # what overflows is reported below
        array = array.astype(np.float32) if array.dtype.itemsize > 4 else array
    is_bad = ~np.isfinite(array).all(axis=tuple(range(1, array.ndim)))
    if is_bad.any():
        row, column = is_bad.argmax(), ""
        if columns:
            column = f", column {columns[np.isfinite(array[row]).argmin()]},"
        raise ValueError(f"{name}: row {row}{column} {what} missing or not finite")
    if trains and array is not given and array.size and array.ndim < 3:
        deviation, lost = (np.atleast_1d(a.std(axis=0)) for a in (given, given - array))
        is_lost = (lost > LOST * deviation) & (deviation > 1e-12 * np.abs(given).max(axis=0))
        if is_lost.any():
            column = is_lost.argmax()
            mean = given.reshape(len(given), -1)[:, column].mean()
            raise ValueError(
                f"{name}: column {column} is {mean:.9g} with a deviation of "
                f"{deviation[column]:.3g}, too little for float32; subtract {mean:.9g}, or scale it"
            )
    return array


def _as_array(values, name, trains=False, as_floats=False):
    if isinstance(values, LazyInputs):
        return values
    if np.ma.is_masked(values):
        row = np.argwhere(np.ma.getmaskarray(values))[0][0]
        raise ValueError(f"{name}: row {row} has a value that is missing")
    array = np.asarray(values, order="C")  # a sum over rows depends on how they lie in memory
    if array.ndim == 0:
        raise ValueError(f"{name}: not an array with one row per example: {type(values).__name__}")
    if array.dtype.kind == "O":
        try:
            array = array.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name}: {_not_numbers(array, table_names(values), error)}") from None
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name}: is {array.dtype}; must be numbers")
    array = array.astype(array.dtype.newbyteorder("="), copy=False)  # JAX has no other
    if as_floats and array.dtype.kind in "iu":
        array = array.astype(np.float64)
    if array.dtype.kind == "f":
        columns = table_names(values) if array.ndim == 2 else ()
        return as_float32(array, name, "has a value that is", trains=trains, columns=columns)
    if array.dtype.kind == "b" or array.dtype.itemsize < 4:
        return array
    if array.size and (array.min() < -(1 << 31) or array.max() >= 1 << 31):
        raise ValueError(f"{name}: {array.min()}..{array.max()}; integers must fit in 32 bits")
    return array.astype(np.int32, copy=False)


def _not_numbers(array, names, error):
    """Says what in an array of objects is no number; `names` are of its columns, if any."""
    for row, values in enumerate(array.reshape(len(array), -1).tolist()):
        for column, value in enumerate(values):
            where = f", column {names[column]}" if names else ""
            if type(value).__name__ == "NAType":  # of pandas
                return f"row {row}{where} has a value that is missing"
            try:
                if value is not None and not isinstance(value, list | tuple | np.ndarray):
                    float(value)
            except (TypeError, ValueError):
                return f"row {row}{where} is {value!r}; encode it as a number"
    return f"not numbers ({error}); encode them as numbers"
