"""Times single training steps on random images: what the benchmark scripts share."""

import functools
import operator
import os
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from reweight_jax.data.splits import Examples
from reweight_jax.methods import METHODS
from reweight_jax.models import create_model
from reweight_jax.train import devices as parallel
from reweight_jax.train.state import create_optimizer, create_train_state
from reweight_jax.train.step import augmentation, train_step

# name -> (method, epsilon_method)
STEPS = {
    "plain": ("baseline", "jvp"),
    "jvp": ("reweight", "jvp"),
    "lookahead": ("reweight", "lookahead"),
}


class Network(NamedTuple):
    """What is timed: a model and its batches.

    Attributes:
      model: fields of `config.model`.
      image: (H, W, C).
      num_classes: K.
      n, m: sizes of the training and the clean batch, over all devices.
    """

    model: ConfigDict
    image: tuple[int, int, int]
    num_classes: int
    n: int
    m: int


def network(name: str, dtype: str = "float32", n: int = 100, m: int = 100, **sizes) -> Network:
    """ "lenet", "resnet" (ResNet-32) or "wide_resnet" (WRN-28-10); `sizes`: of `config.model`."""
    defaults = {"depth": 32, "width": 1, "dropout": 0.0}
    if name == "wide_resnet":
        defaults = {"depth": 28, "width": 10, "dropout": 0.3}
    model = ConfigDict({"name": name, "dtype": dtype, **defaults, **sizes})
    if name == "lenet":
        return Network(model, (28, 28, 1), 2, n, m)
    return Network(model, (32, 32, 3), 10, n, m)


class Program(NamedTuple):
    """A compiled step of one device.

    Attributes:
      run: takes the step once, from the same state each time, and waits for it.
      flops: of one step, as XLA counts them in the program before its optimisations.
      temporary_bytes: the most memory that the step holds beside its arguments and results.
      compile_seconds: of tracing and compiling it.
    """

    run: Callable[[], None]
    flops: float
    temporary_bytes: int
    compile_seconds: float


def random_examples(network: Network, size: int, seed: int) -> Examples:
    """`size` images of uniform noise, and labels."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, network.num_classes, size).astype(np.int32)
    label[: network.num_classes] = np.arange(network.num_classes)[:size]  # all classes occur
    image = rng.integers(0, 256, (size, *network.image)).astype(np.uint8)
    return Examples(image, label, label, np.arange(size))


def write_npz(network: Network, path: str | os.PathLike) -> None:
    """Writes 2,000 random training and 100 test images as a file that `config.data.path` names."""
    arrays = {}
    for part, size in (("train", 2_000), ("test", 100)):
        examples = random_examples(network, size, seed=2)
        arrays |= {f"{part}_image": examples.image, f"{part}_label": examples.label}
    np.savez(path, **arrays)


def num_cores() -> int:
    """Of this machine that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def compile_step(
    network: Network, step_name: str, epsilon_params: str = "", fresh: bool | None = None
) -> Program:
    """Compiles the step `step_name` of STEPS, with the paper's optimiser and augmentation.

    `epsilon_params` and `fresh` are those of `reweight_jax.step.train_step`; where `fresh` is None
    no clean gradient is kept.
    """
    every = 1 if fresh is None else 2
    state, step, train, clean = _prepare(network, step_name, None, epsilon_params, every)
    if fresh is not None:
        step = functools.partial(step, fresh=fresh)

    def batch(examples):
        rows = np.arange(len(examples.label), dtype=np.int32)
        fields = {"image": examples.image, "label": examples.label}
        return fields | {"row": rows, "place": rows}

    arguments = jax.device_put((state, batch(train), batch(clean) if clean else None))
    start = time.perf_counter()
    lowered = jax.jit(step).lower(*arguments)
    compiled = lowered.compile()
    seconds = time.perf_counter() - start
    return Program(
        lambda: jax.block_until_ready(compiled(*arguments)),
        (lowered.cost_analysis() or {}).get("flops", 0.0),
        compiled.memory_analysis().temp_size_in_bytes,
        seconds,
    )


def compile_on_devices(network: Network, step_name: str, devices) -> Callable[[], None]:
    """Returns run() that takes one step after another on `devices`, as a training run does."""
    axis_name = parallel.axis_name(devices)
    state, step, train, clean = _prepare(network, step_name, axis_name)
    state = parallel.place_state(state, devices)
    advance = parallel.compile_train_steps(step, train, clean, devices)
    rows = np.arange(network.n, dtype=np.int32)[None]
    clean_rows = np.arange(network.m, dtype=np.int32)[None] if clean else None

    def run():
        nonlocal state
        state, metrics = advance(state, rows, clean_rows)
        jax.block_until_ready(metrics)

    return run


def time_in_turns(programs: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Runs the programs in turn, so that a slower or busier machine changes all of them alike.

    Returns {name: its milliseconds in each of `rounds` turns}; one goes before them uncounted.
    """
    times = {name: [] for name in programs}
    for _ in range(rounds + 1):
        for name, run in programs.items():
            start = time.perf_counter()
            run()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: milliseconds[1:] for name, milliseconds in times.items()}


def quartiles(milliseconds: list[float]) -> dict[str, float]:
    """{"ms": the median, "low": and "high": the quartiles} of at least 2 turns."""
    low, median, high = statistics.quantiles(milliseconds, n=4, method="inclusive")
    return {"ms": round(median, 2), "low": round(low, 2), "high": round(high, 2)}


def ratio(milliseconds: list[float], to: list[float]) -> float:
    """Median of the ratios of two programs in the same turn: a slow minute is in both."""
    return statistics.median(map(operator.truediv, milliseconds, to))


def _prepare(network, step_name, axis_name, epsilon_params="", every=1):
    """(state, step, training batch, clean batch or None) of a step."""
    method_name, epsilon_method = STEPS[step_name]
    method = METHODS[method_name]
    cifar = network.image[-1] == 3
    config = ConfigDict({"momentum": 0.9, "weight_decay": 2e-4 if cifar else 0.0})
    config.clean_gradient_every, config.epsilon_params = every, epsilon_params
    tx = create_optimizer(config, optax.constant_schedule(1e-3))
    model = create_model(network.model, network.num_classes, axis_name)
    train = random_examples(network, network.n, seed=0)
    clean = random_examples(network, network.m, seed=1) if method.needs_clean else None
    state = create_train_state(
        jax.random.key(0), model, tx, method, config, train, network.num_classes
    )
    step = functools.partial(
        train_step,
        model=model,
        method=method,
        tx=tx,
        epsilon_method=epsilon_method,
        epsilon_params=epsilon_params,
        augment=augmentation(4, True) if cifar else augmentation(0, False),
        axis_name=axis_name,
    )
    return state, step, train, clean
