"""From a config to an experiment: validation, and names turned into what they name."""

import contextlib
import functools
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from reweight_jax import models
from reweight_jax.data.examples import Data, LazyInputs, Splits, concatenate
from reweight_jax.data.fingerprint import fingerprint
from reweight_jax.data.inputs import check_tokens
from reweight_jax.data.splits import CLEAN_MISSING, load
from reweight_jax.errors import UserError, forward_mode, prefix
from reweight_jax.labels.quality import JUDGED
from reweight_jax.layerwise import check_traceable, verify
from reweight_jax.methods import METHODS, Method
from reweight_jax.models import Model, scale_inputs
from reweight_jax.sealed import digest
from reweight_jax.tasks import TASKS, Task
from reweight_jax.train import devices as on_devices
from reweight_jax.train.augmentation import Augment, augmentation
from reweight_jax.train.checks import CLEAN_IN_TRAIN, check_config, check_sizes
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
            facts["own_model"] = program_of(model, facts)
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


def facts_of(config, dataset: Data, splits: Splits) -> dict:
    """Returns what of the data the model, its outputs and its history depend on, as JSON."""
    inputs = splits.train.inputs
    facts = {
        "classes": list(dataset.classes),
        "num_outputs": dataset.num_outputs,
        "columns": list(dataset.columns),
        "inputs": jax.tree.map(lambda array: [array.dtype.name, *array.shape[1:]], inputs),
        "num_train": splits.train.size,
        "corrections": dataset.corrections,
        "fingerprint": fingerprint(splits),
        "vocabulary": config.model.vocabulary,
    }
    if not isinstance(inputs, dict) and inputs.dtype.kind in "iu" and inputs.ndim == 2:
        largest = max(int(part.inputs.max()) for part in splits if part is not None)
        facts["vocabulary"] = config.model.vocabulary or largest + 1
    return facts


def sample_of(facts: dict, *, scaled: bool = True):
    """Returns zeros in the form of one example's inputs, [1, ...], as the model takes them.

    If not `scaled`, in the data's own dtypes.
    """
    entries = facts["inputs"]
    if isinstance(entries, dict):
        inputs = {name: np.zeros((1, *e[1:]), e[0]) for name, e in entries.items()}
    else:
        inputs = np.zeros((1, *entries[1:]), entries[0])
    return models.scale_inputs(inputs) if scaled else inputs


def program_of(model: Any, facts: dict) -> dict[str, str]:
    """Returns a digest of what a user's own model computes in evaluation, by the version of JAX.

    Another version may write the same program in another way. What only training does, such as a
    dropout rate, and the parameters' values have no part in it.
    """
    inputs, own = sample_of(facts), models.as_model(model, num_outputs=facts["num_outputs"])
    params, model_state = jax.eval_shape(own.init, jax.random.key(0), inputs)
    apply = functools.partial(own.apply, train=False, key=None)
    program = str(jax.make_jaxpr(apply)(params, model_state, inputs))
    return {jax.__version__: digest(re.sub("0x[0-9a-f]+", "", program).encode())}  # no addresses


def build_model(
    config, facts: dict, devices, programs: Programs, model: Any = None, inputs: Any = None
) -> Model:
    """Returns the run's `Model`, whose `init` is compiled unless it is `given`.

    Args:
      config: the run's.
      facts: `facts_of` the data.
      devices: of the run.
      programs: of the run.
      model: what `as_model` takes; None: the one that `config.model` names.
      inputs: training inputs, whose mean and deviation standardise float features [N, D] if the
        config asks for it; None: the checkpoint has them.
    """
    sample, num_outputs = sample_of(facts), facts["num_outputs"]
    axis_name = on_devices.axis_name(devices)
    if model is None:
        fields = config.model.copy_and_resolve_references()
        fields.vocabulary = facts["vocabulary"]
        if fields.name == "auto":
            fields.name = models.auto_name(sample)
        models.check_inputs(fields.name, sample)
        options = {"on_cpu": on_devices.on_cpu(devices), "task": config.task}
        built = models.create_model(fields, num_outputs, axis_name=axis_name, **options)
    else:
        built = models.as_model(model, num_outputs=num_outputs, axis_name=axis_name)
    if not built.given:
        make = functools.partial(_compiled, built.init, on_devices.on_cpu(devices))
        built = built._replace(init=programs.once(make, "init"))
    is_table = not isinstance(sample, dict) and sample.ndim == 2 and sample.dtype.kind == "f"
    if config.data.standardize and is_table:
        mean, deviation = np.zeros(sample.shape[1]), np.ones(sample.shape[1])
        if isinstance(inputs, LazyInputs):
            raise UserError(
                "config.data.standardize: True, but the inputs are streamed; standardise them "
                "yourself and set it to False, or set config.data.resident=True"
            )
        if inputs is not None:
            unit = 255 if inputs.dtype == np.uint8 else 1  # the model has them scaled to 0..1
            mean, deviation = (x / unit for x in models.mean_and_deviation(inputs))
        built = models.standardized(built, mean, deviation)
    return models.with_matmul_precision(built, config.model.matmul_precision)


def _compiled(init, on_cpu):
    """`init`, compiled. If it is called in another program it is not: only whole ones have options.

    It runs once in a run. LLVM would optimise it for half a minute on a CPU (ResNet-32, jax 0.12:
    26 s instead of 2.7).
    """
    options = {"xla_backend_optimization_level": 1} if on_cpu else None
    program = jax.jit(init, compiler_options=options)

    def either(key, inputs):
        return (init if isinstance(key, jax.core.Tracer) else program)(key, inputs)

    return either


def _checked_devices(config, devices):
    """The devices, all of them if None, that `config` can be run on; UserError if it cannot."""
    check_config(config)
    devices = list(devices or on_devices.all_devices())
    if config.batch_size % len(devices):
        size, count = config.batch_size, len(devices)
        raise UserError(f"config.batch_size: {size} must be divisible by the {count} devices")
    return devices
