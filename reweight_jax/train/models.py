"""The model of a run: what of the data it depends on, how it is built, and how it is told apart."""

import functools
from typing import Any

import jax
import numpy as np

from reweight_jax import models
from reweight_jax.data.examples import Data, Examples, LazyInputs, Splits
from reweight_jax.data.fingerprint import fingerprint
from reweight_jax.errors import UserError
from reweight_jax.models import Model
from reweight_jax.train import devices as on_devices
from reweight_jax.train.programs import Programs

# scripts/benchmarks/small_tables.py: with it most lists and accuracies are better.
DECAY, PASSES = 5.0, 50


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


def with_decay(config, train: Examples, model: Any):
    """Returns the config with a weight decay where it has -1: `DECAY` / N for N training examples.

    But 0 unless they are a table, for the MLP, that is passed more than `PASSES` times: only then
    are wrong labels memorised. The lists of a small CNN were worse with it. Parameters of a model
    of the user's own may have been trained before.
    """
    if config.weight_decay != -1:
        return config
    config, name = config.copy_and_resolve_references(), config.model.name
    leaves = [(leaf.dtype, leaf.ndim) for leaf in jax.tree.leaves(train.inputs)]
    is_table = leaves in ([(np.float32, 2)], [(np.uint8, 2)])  # as `auto_name` has it
    is_mlp = name == "mlp" or (name == "auto" and is_table)
    passes = config.num_steps * config.batch_size / train.size
    decays = is_mlp and passes > PASSES and not is_own(config, model)
    config.weight_decay = DECAY / train.size if decays else 0.0
    return config


def is_own(config, model: Any) -> bool:
    """Returns whether the model of a run is the user's own: given, or by a name in MODELS."""
    name = config.model.name
    return model is not None or models.MODELS.get(name) is not models.BUILT_IN.get(name)


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
