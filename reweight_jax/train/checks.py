"""Validation of configs, before data are read, and of sizes, before arrays are made."""

import contextlib
import math
import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from reweight_jax import models
from reweight_jax.configs import default
from reweight_jax.data.examples import Examples
from reweight_jax.data.remarks import remarks
from reweight_jax.errors import UserError, one_line
from reweight_jax.methods import METHODS
from reweight_jax.records.workdir import flatten
from reweight_jax.tasks import TASKS
from reweight_jax.train import devices as on_devices
from reweight_jax.train.phases import FINETUNE_FROM, LR_SCHEDULES, RETRAIN, phases_of
from reweight_jax.train.resident import LANES
from reweight_jax.train.state import OPTIMIZERS

INT_LIMIT = 1 << 31  # steps and rows are int32
FLOAT_LIMIT = float(np.finfo(np.float32).max)
REPEATED = 10_000  # a batch may be larger than the training set up to this size

# Whether a method also trains on the clean examples.
CLEAN_IN_TRAIN = {
    "never": lambda method: False,
    "baselines": lambda method: not method.needs_clean,
    "always": lambda method: True,
}
KINDS = {bool: "True or False", int: "an integer", float: "a number", str: "text", tuple: "a tuple"}


def _any(value):
    """Of a field without a rule."""
    if type(value) is int and not -INT_LIMIT < value < INT_LIMIT:
        return f"must be below {INT_LIMIT:,}"


def _number(low, high=INT_LIMIT, *, open_low=False):
    below = f"{high:,}" if type(high) is int else f"{high:.3g}"
    text = f"must be {'above' if open_low else 'at least'} {low} and below {below}"
    return lambda v: None if (low < v if open_low else low <= v) and v < high else text


def _name(table):
    return lambda v: None if v in table else f"unknown name; valid: {', '.join(sorted(table))}"


def _integers(low):
    text = f"must be integers of at least {low}"
    return lambda v: None if all(type(n) is int and low <= n < INT_LIMIT for n in v) else text


def _pattern(value):
    try:
        re.compile(value)
    except re.error as error:
        return str(error)


def _file_name(value):
    """It becomes part of the name of a folder and of files."""
    if len(value) > 100 or not re.fullmatch(r"(?!\.)[^/\\\x00-\x1f]*", value):
        return "must be a part of a file name, without / and not after a dot"


# field -> value -> what is wrong with it, or None.
RULES: dict[str, Callable[[Any], str | None]] = {
    "name": _file_name,
    "variant": _file_name,
    "task": _name(TASKS),
    "method": _name(METHODS),
    "epsilon_method": _name(("lookahead", "jvp", "layerwise")),
    "epsilon_over": _pattern,
    "seed": _number(0, 1 << 32),
    "lr_schedule": _name(LR_SCHEDULES),
    "lr_drop_steps": _integers(1),
    "optimizer": _name(OPTIMIZERS),
    "momentum": _number(0, 1),
    "mentor_percentile": lambda v: None if 0 <= v <= 100 else "must be in 0..100",
    "weight_decay": lambda v: None if v == -1 else _number(0)(v),
    "settle_at": lambda v: None if 0 < v <= 1 else "must be above 0 and at most 1",
    "judge_for": lambda v: None if 0 <= v <= 1 else "must be in 0..1",
    "on_zero_weights": _name(("keep", "uniform")),
    "retrain": _name(RETRAIN),
    "steps_per_dispatch": _number(0, 10_001),
    "labels.false_alarm_rate": _number(0, 1, open_low=True),
    "labels.false_discovery_rate": _number(0, 1),
    "finetune_from": _name(FINETUNE_FROM),
    "model.name": lambda v: None if v in ("auto", "own") else _name(models.MODELS)(v),
    "model.hidden": _integers(1),
    "model.dropout": _number(0, 1),
    "model.matmul_precision": _name(models.MATMUL_PRECISIONS),
    "data.noise_ratio": lambda v: None if 0 <= v <= 1 else "must be in 0..1",
    "data.classes": _integers(0),
    "data.clean_in_train": _name(CLEAN_IN_TRAIN),
    "data.ignore_columns": lambda v: (
        None if all(type(name) is str for name in v) else "must be names of columns"
    ),
    "data.image_size": _number(0, 10_001),
    "data.workers": _number(0, 257),
}
for _rule, _fields in {
    _number(0, FLOAT_LIMIT, open_low=True): "learning_rate finetune_learning_rate",
    _number(1): "num_steps finetune_steps batch_size clean_batch_size log_every_steps "
    "eval_every_steps checkpoint_every_steps model.width model.num_heads model.features",
    _number(1, 2_001): "model.depth model.num_layers",
    _number(-1): "data.background_class",
    _number(0): "warm_up remember_megabytes data.num_clean data.num_calibration "
    "data.num_hyper_val data.num_train data.crop_padding data.num_classes model.vocabulary "
    "data.imbalance_ratio data.imbalance_factor",
}.items():
    RULES |= dict.fromkeys(_fields.split(), _rule)


def check_config(config) -> None:
    """Raises UserError, naming the field, for a config that cannot be of any run."""
    values, defaults = (flatten(tree.to_dict()) for tree in (config, default.get_config()))
    for field in values | defaults:
        if field not in values or field not in defaults:
            what = "missing" if field in defaults else "no such field"
            raise UserError(
                f"config.{field}: {what}; begin with configs/default.py, which has all fields"
            )
    for field, value in values.items():
        problem = _problem_of_type(value, type(defaults[field]))
        problem = problem or RULES.get(field, _any)(value)
        if problem:
            value = f"{value:g}" if isinstance(value, float) else value
            raise UserError(f"config.{field}: {value!r}; {problem}")
    for field in ("eval_every_steps", "checkpoint_every_steps"):
        if config[field] % config.log_every_steps:
            raise UserError(
                f"config.{field}: {config[field]}; must be a multiple of log_every_steps "
                f"({config.log_every_steps})"
            )
    if config.finetune_from == "retrained" and config.retrain == "none":
        raise UserError("config.finetune_from: 'retrained'; only with config.retrain")
    if (steps := phases_of(config, settles=False)[-1].stop) >= INT_LIMIT:
        raise UserError(f"config.num_steps: {steps} in all phases; must be below {INT_LIMIT:,}")


def _problem_of_type(value, kind):
    """What is wrong with a value of a field whose default is a `kind`; a bool is no number."""
    allowed = {float: (int, float), tuple: (tuple, list)}.get(kind, kind)
    if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
        return f"must be {KINDS[kind]}"
    if kind is float and not math.isfinite(value):
        return "must be a finite number"


def remarks_of(experiment) -> list[str]:
    """Returns `remarks` on the data of an `Experiment`."""
    return remarks(experiment.splits, experiment.classes, experiment.ids)


def advice(experiment) -> list[str]:
    """Returns sentences on what a run may not be meant to do.

    - Integer inputs [N, T] are taken for token ids, if no model is named.
    - TPUs pad their shares of a batch of images, and compute for nothing.
    """
    config, devices, found = experiment.config, experiment.devices, []
    kinds = [(array.dtype.kind, array.ndim) for array in jax.tree.leaves(experiment.sample)]
    if config.model.name == "auto" and kinds in ([("i", 2)], [("u", 2)]):
        found.append(
            "config.model.name: a transformer, because the inputs are whole numbers, like token "
            "ids; if they are features, give them as floats"
        )
    share = config.batch_size // len(devices)
    is_image = [ndim for _, ndim in kinds] == [4]
    if devices[0].platform == "tpu" and is_image and share % LANES:
        whole = -(-share // LANES) * LANES
        found.append(
            f"config.batch_size: {config.batch_size}; in convolutions a TPU pads the {share} "
            f"examples of each chip to {whole}, so a batch of {whole * len(devices)} takes about "
            "as long"
        )
    return found


def check_sizes(config, train: Examples, params, devices) -> None:
    """Raises UserError, naming the field, for what cannot fit into the memory of a device.

    `params`: the model's, of which only shapes are read. Nothing has been computed so far.
    """
    if config.batch_size > max(train.size, REPEATED):
        raise UserError(
            f"config.batch_size: {config.batch_size}; the training set has {train.size} examples"
        )
    shapes = [array.shape[1:] for array in jax.tree.leaves(train.inputs)]
    padding = config.data.crop_padding
    if padding and padding >= min(shapes[0][:2]):
        size = "x".join(map(str, shapes[0][:2]))
        raise UserError(f"config.data.crop_padding: {padding}; must be below the images' {size}")
    memory = on_devices.memory(devices)
    if memory is None:
        return
    # Parameters, their gradient and their change; inputs as floats, of which there are copies.
    num_params = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    numbers = sum(map(math.prod, shapes))
    needed = {"model": 3 * 4 * num_params}
    needed["batch_size"] = 4 * numbers * config.batch_size // len(devices)
    for field, size in needed.items():
        if size > memory:
            value = f"{num_params:,} parameters" if field == "model" else config[field]
            raise UserError(
                f"config.{field}: {value}; needs more than {size / 2**30:,.0f} GiB, but the device "
                f"has {memory / 2**30:,.0f} GiB"
            )


@contextlib.contextmanager
def memory_suffices(config):
    """Makes a UserError that says what would help if a device has not enough memory."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if getattr(error, "error_code_string", "") != "RESOURCE_EXHAUSTED":
            raise
        raise UserError(
            f"out of memory ({one_line(error)}); less is needed with a config.batch_size below "
            f"{config.batch_size}, or with config.data.resident=False"
        ) from error
