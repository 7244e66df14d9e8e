"""The dispatches of a phase: its compiled steps, the rows they train on, and streamed inputs."""

import contextlib
import functools
import itertools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from reweight_jax.data.batches import batch_rows, shuffled
from reweight_jax.data.feed import stream_inputs
from reweight_jax.errors import forward_mode
from reweight_jax.train import devices as on_devices
from reweight_jax.train.config import Experiment
from reweight_jax.train.phases import SCHEDULES, Phase
from reweight_jax.train.resident import shared_size
from reweight_jax.train.selection import SELECTIONS, most_examples
from reweight_jax.train.state import create_optimizer
from reweight_jax.train.step import observe_step, train_step

STEPS_PER_DISPATCH = 25  # on accelerators; a CPU takes one: a dispatch costs it nothing
# The calibration set is visited in chunks, in the time of an epoch: at most 16 chunks, each of at
# least 32 examples, for BatchNorm's statistics; of fewer than 128 examples there are 4 chunks.
CHUNKS, FEW_CHUNKS, CHUNK = 16, 4, 32


def dispatches(
    experiment: Experiment, phase: Phase, start: int, state, stack: contextlib.ExitStack
):
    """Yields each dispatch of a phase: its last step, and state -> (state, metrics).

    A dispatch has `config.steps_per_dispatch` steps, or what is left of the logging interval or of
    the phase. Streamed inputs are read ahead until `stack` is closed. What the phase trains on is
    chosen by `state`, that of its start or of any of its steps.
    """
    config, method, devices = experiment.config, phase.method, experiment.devices
    splits, seed, n = experiment.splits, config.seed, config.batch_size
    train = SELECTIONS[phase.examples](experiment, state)
    observes = phase.remembers and "alignment" in experiment.remembered
    clean = splits.clean if method.needs_clean or observes else None
    resident = config.data.resident or phase.examples == "clean"
    size = shared_size(train.size) if phase.examples == "clean" else most_examples(experiment)
    m = clean and min(config.clean_batch_size, clean.size)
    # METHODS keeps a method, so that its id is not another's.
    key = (id(method), phase.schedule, phase.remembers, resident, size, n, m, clean and clean.size)
    make = functools.partial(on_devices.steps_program, step_of(experiment, phase), devices)
    program = experiment.programs.once(make, "steps", *key)
    run = on_devices.bind_data(program, train, clean, devices, resident=resident, size=size)
    rows_of = method.sampler(train.label, seed)
    clean_rows_of = clean and shuffled(clean.label, seed, "clean")
    most = config.steps_per_dispatch or (1 if on_devices.on_cpu(devices) else STEPS_PER_DISPATCH)
    visits = phase.remembers and splits.calibration
    observe, due = _observer(experiment) if visits else (None, lambda step: 0)
    lengths = functools.partial(_lengths, start, phase.stop, most, config.log_every_steps, due)
    inputs: Iterator[Any] = itertools.repeat(None)  # a resident set needs only the rows
    if not resident:
        settings = (start, phase.stop, n, config.data.workers, on_devices.own_part(n, devices))
        batches = stream_inputs(train.inputs, rows_of, *settings, ahead=most)
        stack.enter_context(contextlib.closing(batches))
        parts = (itertools.islice(batches, k) for k in lengths())
        stacked = (jax.tree.map(lambda *arrays: np.stack(arrays), *part) for part in parts)
        inputs = on_devices.put_ahead(stacked, devices)
    step = start
    for k in lengths():
        rows = batch_rows(rows_of, step, k, n)
        clean_rows = clean and batch_rows(clean_rows_of, step, k, m)
        step += k

        def dispatch(state):
            if observe:
                state = observe(state, step - k)  # noqa: B023
            with forward_mode():
                return run(state, rows, clean_rows, next(inputs))  # noqa: B023

        yield step, dispatch


def step_of(experiment: Experiment, phase: Phase):
    """Returns the phase's (state, batch, clean_batch) -> (state, metrics), not compiled."""
    config = experiment.config
    return functools.partial(
        train_step,
        model=experiment.model,
        task=experiment.task,
        method=phase.method,
        tx=create_optimizer(config, SCHEDULES[phase.schedule](config)),
        epsilon_method=config.epsilon_method,
        epsilon_over=config.epsilon_over,
        on_zero_weights=config.on_zero_weights,
        remember=phase.remembers,
        augment=experiment.augment,
        axis_name=on_devices.axis_name(experiment.devices),
    )


def _observer(experiment):
    """Returns (state, step) -> state, with the visits due before that step is taken.

    Also returns step -> how many chunks of the calibration set are due before it. Training examples
    are visited all through an epoch, each before the step that learns from it. So a chunk is due in
    the middle of its part of the epoch. If it came later, a model that still learns would score it
    higher than training examples, and too many right labels would be flagged.
    """
    config, splits, devices = experiment.config, experiment.splits, experiment.devices
    size, axis = splits.calibration.size, on_devices.axis_name(devices)
    chunk = max(-(-size // CHUNKS), min(-(-size // FEW_CHUNKS), CHUNK))
    step_function = functools.partial(
        observe_step, model=experiment.model, task=experiment.task, augment=experiment.augment,
        axis_name=axis, is_shared=chunk % len(devices) == 0,
    )  # fmt: skip
    make = functools.partial(on_devices.steps_program, step_function, devices)
    calibration, most = splits.calibration.in_memory(), shared_size(size)
    program = experiment.programs.once(make, "observe", most, chunk)
    run = on_devices.bind_data(program, calibration, None, devices, size=most)
    rows_of = shuffled(splits.calibration.label, config.seed, "calibration")

    def due(step):
        seen, period = step * config.batch_size * size, splits.train.size * chunk
        return max(0, -(-(2 * seen - period) // (2 * period)))  # seen / period - 1/2, rounded up

    def observe(state, step):
        first, last = due(step), due(step + 1)
        if last > first:
            state, _ = run(state, batch_rows(rows_of, first, last - first, chunk), None)
        return state

    return observe, due


def _lengths(start, stop, most, interval, due):
    """Lengths of dispatches, which begin where a chunk of the calibration set is due."""
    while start < stop:
        k = min(most, stop - start, interval - start % interval)
        k = next((j for j in range(1, k) if due(start + j + 1) > due(start + 1)), k)
        start += k
        yield k
