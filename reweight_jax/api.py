"""Training from Python on your own model and arrays."""

import contextlib
import difflib
import inspect
import os
import tempfile
import weakref
from typing import Any

import jax
import numpy as np

from reweight_jax.confident import FOLDS, confident_rows
from reweight_jax.configs import own_data
from reweight_jax.data.examples import Part
from reweight_jax.data.inputs import as_inputs, table_names
from reweight_jax.data.splits import are_features, make_data
from reweight_jax.data.targets import encode_classes
from reweight_jax.errors import UserError, prefix
from reweight_jax.fitted import PHASES as PHASES
from reweight_jax.fitted import Fitted as Fitted
from reweight_jax.fitted import in_order
from reweight_jax.records.workdir import LATER
from reweight_jax.train import loop
from reweight_jax.train.config import make_experiment

# Fields of config.data that say what to read from a disk, which `fit` does not do.
READER_FIELDS = (
    ("name", "data_dir", "path", "clean_path", "calibration_path", "test_path", "label_column")
    + ("clean_column", "ignore_columns", "image_size")
)  # fmt: skip
# Those that go together with clean="confident", and those of its cross-validation. The others
# would change which examples there are, or would take pseudo-labels for right ones.
OF_CONFIDENT = ("num_clean", "num_hyper_val", "clean_in_train", "num_classes", "labels_are_right")
OF_ITS_FOLDS = ("standardize", "resident", "workers", "crop_padding", "flip")


def fit(
    model: Any,
    train: tuple,
    *,
    clean: tuple | str | None = None,
    calibration: tuple | None = None,
    hyper_val: tuple | None = None,
    test: tuple | None = None,
    task: str = "classification",
    method: str = "reweight",
    workdir: str | os.PathLike | None = None,
    seed: int = 0,
    devices: list | None = None,
    progress: bool = True,
    plots: bool = True,
    **fields,
) -> Fitted:
    """Trains `model` on labels that may be wrong, with the help of a few that you trust.

    Args:
      model: a Flax linen module; a Flax nnx module, which is trained from the parameters it has and
        is itself not changed; a pair of functions `Model(init, apply)`; the name of a built-in
        model; or None: an MLP for float features [N, D] and for a DataFrame, a transformer for an
        array of int tokens [N, T], a small CNN for images. It gets the inputs of a batch and
        returns outputs [n, K].
      train: (inputs, labels). Inputs are an array [N, ...], a DataFrame of numbers or a dict of
        arrays. uint8 is scaled to 0..1; float features [N, D] are standardised by the training
        set's mean and deviation, unless data=dict(standardize=False); any other inputs go to the
        model as they are. Labels by task: "classification", integers, strings or bools [N];
        "multi_label", 0 or 1 [N, K], and -1 or NaN if missing; "regression", floats [N] or [N, D].
      clean: the trusted examples, likewise. `method="reweight"` needs them. "confident", for
        classification, is not the paper: the data.num_clean training examples of which five plain
        trainings on the others are most certain (`reweight_jax.confident`; 100 of them if it is not
        given). It is for those who cannot check a label, gives no p-values, and makes the five
        trainings again in each call, also where `workdir` has the finished run.
      calibration: more trusted examples, which no gradient sees.
      hyper_val: held-out examples to choose the best step by, with labels as bad as train's.
      test: test examples.
      task: a name in `reweight_jax.tasks.TASKS`.
      method: a name in `reweight_jax.methods.METHODS`.
      workdir: folder of the run, where the same call goes on if it was stopped. None: a temporary
        folder, deleted with the result; `Fitted.save` keeps a copy.
      seed: draws the initialisation, the batches and all else that is drawn.
      devices: JAX devices; all of them if None.
      progress: whether to show a progress bar.
      plots: whether to draw the plots of the run, which takes about a second.
      **fields: fields of configs/default.py, with the defaults of configs/own_data.py. Those of
        config.data are given as a dict, for example data=dict(num_calibration=50), and those of
        config.model as `model_fields`, for example model_fields=dict(hidden=(64,)); those of
        config.labels as labels=dict(...).

    Returns:
      `Fitted`.

    Raises:
      UserError (a ValueError): a field, or data that does not fit the model, method or task.
    """
    config = own_data.get_config()
    config.name, config.variant, config.data.name = "fit", "", "arrays"
    _set_fields(config, {"task": task, "method": method, "seed": seed} | fields)
    given_model = model
    if isinstance(model, str):
        config.model.name, model = model, None
    elif model is not None:
        config.model.name = "own"

    if devices is not None:
        devices = list(devices) if isinstance(devices, list | tuple | np.ndarray) else [devices]
        are_devices = all(isinstance(device, jax.Device) for device in devices)
        if not are_devices or len(set(devices)) < len(devices):
            raise UserError("fit: devices: must be different devices of JAX, as in jax.devices()")

    def experiment_of(clean):
        given = {"train": train, "clean": clean, "calibration": calibration}
        parts = _parts(given | {"hyper_val": hyper_val, "test": test})
        with prefix("fit"):
            data = make_data(parts, config, config.seed, source="fit")
            return make_experiment(config, data, model, devices)

    if isinstance(clean, str):
        part = _parts({"train": train})["train"]
        clean = _confident(clean, given_model, part, config, devices, fields, experiment_of)
    experiment = experiment_of(clean)
    with contextlib.ExitStack() as stack:
        if workdir is None:
            options = {"prefix": "reweight_jax_", "ignore_cleanup_errors": True}
            workdir = stack.enter_context(tempfile.TemporaryDirectory(**options))
        loop.train(experiment, workdir, progress=progress, draw=plots)
        run = Fitted(workdir, model=model, devices=experiment.devices)
        weakref.finalize(run, stack.pop_all().close)  # the temporary folder goes with the run
    return run


def load(workdir: str | os.PathLike, model: Any = None, devices: list | None = None) -> Fitted:
    """Returns a finished run, of `fit` or of the command line.

    Args:
      workdir: its folder, which is only read.
      model: the run's model if it is not a built-in one, as it was given to `fit`.
      devices: JAX devices to predict on; all of this process's if None.

    Raises:
      UserError: no finished run, or a model that has to be given.
    """
    return Fitted(workdir, model=model, devices=devices)


# --- Arguments of fit -----------------------------------------------------------------------------


def _confident(name, model, train, config, devices, fields, experiment_of):
    """The pair (inputs, labels) of the training examples that plain training is most certain of.

    With any others, `experiment_of` finds what is wrong with the run before five trainings.
    """
    if name != "confident" or config.task != "classification":
        raise UserError(f'fit: clean: {name!r}; must be a pair, or "confident" for classification')
    with prefix("fit"):
        encoded, classes, _ = encode_classes({"train": train.label}, config.data.num_classes, ())
        as_floats = are_features(table_names(train.inputs), config)
        inputs = as_inputs(train.inputs, "train_input", trains=True, as_floats=as_floats)
    code, data = encoded["train"], fields.get("data", {})
    count = data.get("num_clean", 100)
    if count < 1:
        raise UserError(f'fit: data: num_clean: {count}; clean="confident" needs at least 1')
    if len(code) < FOLDS:
        raise UserError(f'fit: clean="confident": {len(code)} examples; needs at least {FOLDS}')
    usual = own_data.get_config().data
    for field in data:
        is_set = config.data[field] != usual[field]
        if is_set and field not in (*OF_CONFIDENT, *OF_ITS_FOLDS):
            raise UserError(f'fit: data: {field} cannot be used with clean="confident"')
    left_out = LATER - {"num_steps"} | {"data", "observe_alignment"}
    plain = {n: v for n, v in fields.items() if n not in left_out}
    plain["data"] = {n: v for n, v in data.items() if n in OF_ITS_FOLDS}
    plain["data"] |= {"num_classes": len(classes), "num_clean": 0}
    plain |= {"method": "baseline", "seed": config.seed, "devices": devices}

    def taken(rows):
        return jax.tree.map(lambda array: array.take(rows, axis=0), inputs)

    def chosen(rows):
        return taken(rows), np.array(classes)[code[rows]]

    experiment_of(chosen(np.arange(min(count, len(code)))))

    def predict(rows, held_out):
        run = fit(model, (taken(rows), code[rows]), progress=False, plots=False, **plain)
        return run.predict(taken(held_out))

    rows = confident_rows(predict, code, len(classes), count, config.seed)
    if not len(rows):
        raise UserError('fit: clean="confident": plain training agrees with no label')
    return chosen(rows)


def _parts(given: dict) -> dict[str, Part]:
    """Checks the pairs that were given, by the names of their splits; "train" is the first."""
    parts, columns = {}, ((), ())
    for name, pair in given.items():
        if pair is None and name != "train":
            continue
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise UserError(f"fit: {name}: must be a pair (inputs, labels)")
        names = f"{name}_input", f"{name}_label"
        with prefix("fit"):
            if name == "train":
                columns = tuple(map(table_names, pair))
                # The name of a single column of labels is of no account.
                columns = columns[0], columns[1] if len(columns[1]) > 1 else ()
            parts[name] = Part(*map(in_order, pair, columns, names))
    return parts


def _set_fields(config, fields: dict) -> None:
    """Sets the fields of the config that were given to `fit` by their names."""
    groups = {"data": "data", "model_fields": "model", "labels": "labels"}
    for name, value in fields.items():
        if name not in groups:
            _set(config, "", name, value)
        elif not hasattr(value, "items"):
            raise UserError(f"fit: {name}: {value!r}; must be a dict, {name}=dict(...)")
        else:
            for nested, nested_value in value.items():
                _set(config, groups[name], nested, nested_value)


def _set(config, group, name, value):
    target, path = (config[group], f"{group}.{name}") if group else (config, name)
    if group == "data" and name in READER_FIELDS:
        raise UserError(f"config.{path}: fit takes arrays and reads no files")
    if name not in target:
        # Each field's name -> how it is given to `fit`.
        valid = {n: f"model_fields=dict({n}=...)" for n in config.model}
        valid |= {n: f"data=dict({n}=...)" for n in config.data if n not in READER_FIELDS}
        valid |= {n: f"labels=dict({n}=...)" for n in config.labels}
        valid |= {n: n for n in (*config, *inspect.signature(fit).parameters)}
        near = difflib.get_close_matches(name, valid, 1)
        hint = f"did you mean {valid[near[0]]}?" if near else "configs/default.py has all fields"
        raise UserError(f"fit: no field {path}; {hint}")
    try:
        if value is None or (isinstance(value, bool) and not isinstance(target[name], bool)):
            raise TypeError
        target[name] = _plain(value)
    except (TypeError, ValueError):
        wanted = type(target[name]).__name__
        raise UserError(f"config.{path}: {value!r}; must be of the type {wanted}") from None


def _plain(value):
    """Numbers and arrays of numpy as Python's, which config.json can hold."""
    if isinstance(value, list | tuple):
        return tuple(map(_plain, value))
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value
