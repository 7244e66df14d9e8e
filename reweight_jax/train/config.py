"""From a config to an experiment: validation, and names turned into what they name."""

import contextlib
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from reweight_jax import models
from reweight_jax.data.examples import Data, Splits, concatenate
from reweight_jax.data.inputs import check_tokens
from reweight_jax.data.splits import CLEAN_MISSING, load
from reweight_jax.errors import UserError, forward_mode, prefix
from reweight_jax.labels.quality import JUDGED
from reweight_jax.layerwise import check_traceable, verify
from reweight_jax.methods import METHODS, Method
from reweight_jax.models import Model, scale_inputs
from reweight_jax.models.outputs import outputs_of
from reweight_jax.tasks import TASKS, Task
from reweight_jax.train import devices as on_devices
from reweight_jax.train.augmentation import Augment, augmentation
from reweight_jax.train.checks import CLEAN_IN_TRAIN, check_config, check_sizes
from reweight_jax.train.models import build_model, facts_of, is_own, sample_of, with_decay
from reweight_jax.train.phases import Phase, phases_of
from reweight_jax.train.programs import Programs, kind_of
from reweight_jax.trees import by_path, select_params


class Experiment(NamedTuple):
    """Everything that a run needs. The command line makes one from a config, `fit` from arrays."""

    config: Any  # locked ConfigDict, every field of configs/default.py
    splits: Splits  # the clean set is in memory
    classes: tuple  # names or values of the K outputs; () for regression
    task: Task
    model: Model
    method: Method
    devices: list  # of all processes of the run
    augment: Augment  # `augmentation` of the inputs of a training batch
    sample: Any  # inputs [1, ...], to initialise the model with
    remembered: dict[str, tuple[int, ...]]  # name -> shape of what is remembered of each example
    facts: dict  # what of the data the run depends on, for config.json
    ids: np.ndarray | None  # names of the source's rows, to be indexed by `Examples.index`
    starts: dict[str, int]  # `Data.starts`
    programs: Programs  # of its phases, compiled

    def phases(self, settles: bool = True) -> list[Phase]:
        """Returns the run's phases; `settles`: whether it settles, if it is to."""
        return phases_of(self.config, self.splits.train.size, settles)


def load_experiment(config, devices=None) -> Experiment:
    """Returns the experiment that `config` describes, with its data read."""
    devices = _checked_devices(config, devices)  # before the data, which may take long to read
    return make_experiment(config, load(config, config.seed), devices=devices)


def make_experiment(config, dataset: Data, model: Any = None, devices=None) -> Experiment:
    """Returns the experiment of `config` on data that has been read.

    Args:
      config: locked ConfigDict.
      dataset: `reweight_jax.data.Data`.
      model: what `as_model` takes; None: the one that `config.model` names.
      devices: of all processes; all of them if None.

    Raises:
      UserError: a field, or data that does not fit the method, the task or a model by name.
      ValueError: `model` cannot be taken, or its outputs are not [n, K].
    """
    devices = _checked_devices(config, devices)
    method, splits = METHODS[config.method], dataset.splits
    config = with_decay(config, splits.train, model)
    if method.tasks and config.task not in method.tasks:
        raise UserError(
            f"config.method: {config.method} needs the task {' or '.join(method.tasks)}; "
            f"config.task is {config.task}"
        )
    if splits.clean is not None:
        if CLEAN_IN_TRAIN[config.data.clean_in_train](method):
            splits = splits._replace(train=concatenate(splits.train, splits.clean))
        splits = splits._replace(clean=splits.clean.in_memory())
    if config.data.resident:
        splits = splits._replace(train=splits.train.in_memory())
    of_phases = [phase.method for phase in phases_of(config, splits.train.size)]
    observes = config.observe_alignment and not method.trains_on_clean
    uses_clean = observes or any(m.needs_clean or m.trains_on_clean for m in of_phases)
    if splits.clean is None and uses_clean:
        if config.data.labels_are_right:
            raise UserError("config.data.num_clean: 0; how many trusted examples shall be drawn?")
        raise UserError(CLEAN_MISSING)
    with prefix("config.task"):
        task = TASKS[config.task](splits.train.label, dataset.num_outputs)
    if config.task not in JUDGED and config.retrain != "none":
        raise UserError(f"config.retrain: {config.retrain}; not for the task {config.task}")
    shapes = [(array.dtype, array.ndim) for array in jax.tree.leaves(splits.train.inputs)]
    if (config.data.crop_padding or config.data.flip) and shapes != [(np.uint8, 4)]:
        raise UserError("config.data.crop_padding, flip: only for uint8 images [N, H, W, C]")
    remembered = {"weight": (), "margin": ()}
    beliefs = 2 * splits.train.size * task.num_outputs * 4 / 2**20  # history and review, in MiB
    if beliefs <= config.remember_megabytes:
        remembered |= dict.fromkeys(task.remembered, (task.num_outputs,))
    if config.task == "multi_label":
        remembered["margin"] = (task.num_outputs,)
        for name, part in splits._asdict().items():
            if part is not None and not (part.label >= 0).any():
                raise UserError(f"{name}_label: all tags are unknown (-1)")
    if method.needs_clean or observes:
        remembered["alignment"] = ()
    facts = facts_of(config, dataset, splits)
    sample = sample_of(facts)
    programs = Programs(kind_of(config, facts, devices, model))
    if config.model.name in models.OF_TOKENS:
        with prefix("config.model.vocabulary"):
            for name, part in splits._asdict().items():
                if part is not None:
                    check_tokens(part.inputs, facts["vocabulary"], f"{name}_input")
    with prefix("config.model.name") if model is None else contextlib.nullcontext():
        built = build_model(config, facts, devices, programs, model, splits.train.inputs)
        # Outputs of another shape are found before anything is written.
        params, _ = jax.eval_shape(functools.partial(_params_and_outputs, built), sample)
        if model is not None:
            _check_state(built, sample, config.batch_size // len(devices), devices)
    if is_own(config, model):
        facts["own_model"] = {devices[0].platform: outputs_of(built, sample)}
    check_sizes(config, splits.train, params, devices)
    if config.epsilon_over and "alignment" in remembered:
        with prefix("config.epsilon_over"):
            select_params({"model": params, "method": ()}, config.epsilon_over)
    if config.epsilon_method == "layerwise" and method.needs_clean:
        if config.epsilon_over:  # a part of the parameters is linearised by itself
            raise UserError("config.epsilon_over: layerwise takes all parameters; use 'jvp'")
        with forward_mode(), prefix("config.epsilon_method"):
            inputs = splits.train.inputs
            of_one_device = build_model(config, facts, devices[:1], Programs(), model, inputs)
            _verify_layerwise(of_one_device, splits.train)
    augment = augmentation(config.data.crop_padding, config.data.flip)
    fields = (config, splits, dataset.classes, task, built, method)
    of_rows = dataset.ids, dataset.starts or {}
    return Experiment(*fields, devices, augment, sample, remembered, facts, *of_rows, programs)


def _params_and_outputs(model, inputs):
    params, model_state = model.init(jax.random.key(0), inputs)
    return params, model.apply(params, model_state, inputs, train=False, key=None)[0]


def _check_state(model, sample, size, devices):
    """Raises ValueError if a step on `size` examples a device changes the form of what is kept."""

    def before_and_after(key, inputs):
        params, before = model.init(key, sample)
        return before, model.apply(params, before, inputs, train=True, key=key)[1]

    if axis := on_devices.axis_name(devices):
        options = {"axis_name": axis, "axis_size": len(devices)}
        before_and_after = jax.vmap(before_and_after, (None, None), **options)
    inputs = jax.tree.map(lambda x: np.repeat(x, size, axis=0), sample)
    trees = jax.eval_shape(before_and_after, jax.random.key(0), inputs)
    before, after = (
        {path: (leaf.shape, leaf.dtype) for path, leaf in by_path(tree).items()} for tree in trees
    )
    if changed := [n for n in before | after if before.get(n) != after.get(n)]:
        raise ValueError(
            f"model: of what it keeps, {', '.join(changed[:3])} has another form after a step; "
            "structure, shapes and types must stay (Flax: sow into 'intermediates' only)"
        )


def _verify_layerwise(model, train):
    """Raises ValueError if the layer-by-layer derivative is wrong for a model, of one device."""
    rows = np.arange(min(7, train.size))
    inputs = scale_inputs(train.take(rows).in_memory().inputs)
    key = jax.random.key(0)

    def loss_fn(params, batch):
        inputs, model_state = batch
        options = {"train": True, "key": jax.random.key(1)}
        outputs, _ = model.apply(params, model_state, inputs, **options)
        return jnp.sum(jnp.sin(outputs + jnp.arange(outputs.shape[1])[None]), axis=1), None

    params, model_state = jax.eval_shape(model.init, key, inputs)
    check_traceable(loss_fn, params, (inputs, model_state))  # before anything is compiled
    params, model_state = model.init(key, inputs)
    verify(loss_fn, params, (inputs, model_state))


def _checked_devices(config, devices):
    """The devices, all of them if None, that `config` can be run on; UserError if it cannot."""
    check_config(config)
    devices = list(devices or on_devices.all_devices())
    if config.batch_size % len(devices):
        size, count = config.batch_size, len(devices)
        raise UserError(f"config.batch_size: {size} must be divisible by the {count} devices")
    return devices
