"""Times training steps on random images: what the benchmark scripts share."""

import operator
import os
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from lowering import dispatch

from reweight_jax.configs import default
from reweight_jax.data.examples import Data, Examples, Splits
from reweight_jax.train import devices as on_devices
from reweight_jax.train.config import Experiment, make_experiment
from reweight_jax.train.dispatch import STEPS_PER_DISPATCH
from reweight_jax.train.state import create_train_state

# name -> (method, epsilon_method)
STEPS = {
    "plain": ("baseline", "jvp"),
    "jvp": ("reweight", "jvp"),
    "lookahead": ("reweight", "lookahead"),
    "layerwise": ("reweight", "layerwise"),
}


# name -> (of `network`, clean examples for each 100 of the training batch, its sizes)
NETWORKS: dict[str, tuple[str, int, dict[str, int]]] = {
    "lenet": ("lenet", 10, {}),
    "resnet8": ("resnet", 100, {"depth": 8}),
    "resnet32": ("resnet", 100, {}),
    "wrn": ("wide_resnet", 100, {}),
    "transformer": ("transformer", 100, {}),
}


class Network(NamedTuple):
    """A model and the sizes of its batches.

    Attributes:
      model: fields of `config.model`.
      image: (H, W, C), or (T,) of tokens.
      num_classes: K.
      n, m: sizes of the training and the clean batch, over all devices.
    """

    model: dict
    image: tuple[int, int, int]
    num_classes: int
    n: int
    m: int


def network(name: str, dtype: str = "float32", n: int = 100, m: int = 100, **sizes) -> Network:
    """Returns "lenet", "resnet" (ResNet-32), "wide_resnet" (WRN-28-10) or "transformer".

    `sizes` are fields of `config.model` that take the place of the usual ones.
    """
    defaults = {"depth": 32, "width": 1, "dropout": 0.0}
    if name == "wide_resnet":
        defaults = {"depth": 28, "width": 10, "dropout": 0.3}
    model = {"name": name, "dtype": dtype, **defaults, **sizes}
    if name == "lenet":
        return Network(model, (28, 28, 1), 2, n, m)
    if name == "transformer":  # 12 layers of 768 features, on 128 tokens
        model = {"name": name, "dtype": dtype, "num_layers": 12, "num_heads": 12, "features": 768}
        return Network(model | {"vocabulary": 30_000} | sizes, (128,), 10, n, m)
    return Network(model, (32, 32, 3), 10, n, m)


def named(name: str, dtype: str, n: int = 100) -> Network:
    """Returns the network `name` of NETWORKS with a training batch of `n`."""
    kind, percent, sizes = NETWORKS[name]
    return network(kind, dtype, n, max(n * percent // 100, 1), **sizes)


def steps_of(network: Network) -> list[str]:
    """Returns the names in STEPS that the network can take: layerwise only without BatchNorm."""
    has_batch_norm = "resnet" in network.model["name"]
    return [name for name in STEPS if name != "layerwise" or not has_batch_norm]


class Program(NamedTuple):
    """Compiled steps.

    Attributes:
      run: takes the steps and waits for them.
      steps: how many steps `run` takes.
      temporary_bytes: the most memory that they use besides their arguments and results.
      compile_seconds: of tracing and compiling.
    """

    run: Callable[[], None]
    steps: int = 1
    temporary_bytes: int = 0
    compile_seconds: float = 0.0


def random_examples(network: Network, size: int, seed: int) -> Examples:
    """Returns `size` images (or tokens) of uniform noise with random labels."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, network.num_classes, size).astype(np.int32)
    label[: network.num_classes] = np.arange(network.num_classes)[:size]  # all classes occur
    is_image = len(network.image) == 3
    image = rng.integers(0, 256, (size, *network.image)).astype(np.uint8 if is_image else np.int32)
    return Examples(image, label, label, np.arange(size))


def write_npz(network: Network, path: str | os.PathLike) -> None:
    """Writes random images as an npz file of own data."""
    arrays = {}
    for seed, (split, size) in enumerate({"train": 2_000, "clean": 100, "test": 100}.items()):
        examples = random_examples(network, size, seed)
        arrays |= {f"{split}_input": examples.inputs, f"{split}_label": examples.label}
    np.savez(path, **arrays)


def create_experiment(
    network: Network, step_name: str, devices=None, num_train: int = 0, **fields
) -> Experiment:
    """Returns a run of the step `step_name` of STEPS on random images.

    Args:
      network: model and batch sizes.
      step_name: a name in STEPS.
      devices: of the run; None: the first one.
      num_train: training images; 0: one batch.
      fields: of the config, besides SGD with weight decay, and mirrors and crops padded by 4.
    """
    config = default.get_config()
    config.method, config.epsilon_method = STEPS[step_name]
    config.model.update(network.model)
    config.batch_size, config.clean_batch_size = network.n, network.m
    config.data.clean_in_train = "never"
    if network.image[-1] == 3:
        config.weight_decay = 2e-4
        config.data.crop_padding, config.data.flip = 4, True
    config.update(fields)
    train = random_examples(network, num_train or network.n, seed=0)
    clean, test = (random_examples(network, network.m, seed=seed) for seed in (1, 2))
    classes = tuple(range(network.num_classes))
    data = Data(Splits(train, clean=clean, test=test), classes, network.num_classes)
    return make_experiment(config, data, devices=devices or jax.local_devices()[:1])


def compile_step(network: Network, step_name: str, devices=None) -> Program:
    """Compiles the step `step_name` of STEPS in a dispatch as a run has it.

    `devices`: of the run; None: the first one.
    """
    experiment = create_experiment(network, step_name, devices)
    devices, state = experiment.devices, create_train_state(experiment)
    steps = 1 if on_devices.on_cpu(devices) else STEPS_PER_DISPATCH
    program, (state, data, *others) = dispatch(experiment, steps, state)
    state, data = on_devices.place_state((state, data), devices)
    start = time.perf_counter()
    compiled = program.lower(state, data, *others).compile()
    seconds = time.perf_counter() - start

    def run():
        nonlocal state
        state, metrics = compiled(state, data, *others)
        jax.block_until_ready(metrics)

    return Program(run, steps, compiled.memory_analysis().temp_size_in_bytes, seconds)


def count_operations(network: Network, step_name: str) -> float:
    """Returns the floating-point operations of a step, as XLA counts them for a CPU.

    They are those before its optimisations; a GPU's compiler does not say them. 0 if there is no
    CPU, as with JAX_PLATFORMS=cuda.
    """
    try:
        devices = jax.local_devices(backend="cpu")[:1]
    except RuntimeError:
        return 0.0
    experiment = create_experiment(network, step_name, devices)
    program, arguments = dispatch(experiment, 1, create_train_state(experiment))
    return program.lower(*jax.device_put(arguments, devices[0])).cost_analysis()["flops"]


def time_in_turns(programs: dict[str, Program], rounds: int) -> dict[str, list[float]]:
    """Runs the programs in turn, so that a slower or busier machine changes all of them alike.

    Returns {name: its milliseconds a step in each of `rounds` turns}. A first turn warms up and is
    not counted.
    """
    times = {name: [] for name in programs}
    for _ in range(rounds + 1):
        for name, program in programs.items():
            start = time.perf_counter()
            program.run()
            times[name].append(1e3 * (time.perf_counter() - start) / program.steps)
    return {name: milliseconds[1:] for name, milliseconds in times.items()}


def quartiles(milliseconds: list[float]) -> dict[str, float]:
    """Returns {"ms": the median, "low": and "high": the quartiles} of at least 2 turns."""
    low, median, high = statistics.quantiles(milliseconds, n=4, method="inclusive")
    return {"ms": round(median, 3), "low": round(low, 3), "high": round(high, 3)}


def ratio(milliseconds: list[float], to: list[float]) -> float:
    """Returns the median of the ratios of two programs in the same turn: a slow one is in both."""
    return statistics.median(map(operator.truediv, milliseconds, to))


def num_cores() -> int:
    """Returns how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
