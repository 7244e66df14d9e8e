"""The story of a run, top to bottom."""

import contextlib
import functools
import itertools
import os
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from reweight_jax.data import splits as data
from reweight_jax.data.batches import CLEAN_SEED, batch_rows, shuffled
from reweight_jax.data.stream import stream_images
from reweight_jax.errors import UserError
from reweight_jax.methods import METHODS, Method
from reweight_jax.models import create_model
from reweight_jax.paper import seeds
from reweight_jax.records import report
from reweight_jax.train import devices as parallel
from reweight_jax.train.checkpoints import Checkpoints
from reweight_jax.train.config import FINETUNE_FROM, check_config, check_finite
from reweight_jax.train.evaluate import EVALUATED
from reweight_jax.train.run import Run, folders_of
from reweight_jax.train.state import create_optimizer, create_train_state, learning_rate_schedule
from reweight_jax.train.step import augmentation, train_step

EVAL_BATCH_SIZE = 500


class Phase(NamedTuple):
    """Steps `start` to `stop` of a run, of one method and one learning rate schedule.

    Attributes:
      name: of its scores in result.json.
      start, stop: steps of the run.
      method: how it trains.
      schedule: of the learning rate.
      from_best: whether it starts from the state that was best on hyper_val, not from the last one.
    """

    name: str
    start: int
    stop: int
    method: Method
    schedule: optax.Schedule
    from_best: bool = False


def phases_of(config) -> list[Phase]:
    """The training of `config.method`, and fine-tuning on the clean set where that is asked for."""
    schedule = learning_rate_schedule(config)
    phases = [Phase("last", 0, config.num_steps, METHODS[config.method], schedule)]
    constant = optax.constant_schedule(config.finetune_learning_rate)
    for begin in FINETUNE_FROM[config.finetune_from]:
        start = phases[-1].stop
        stop = start + config.finetune_steps
        clean_only = METHODS["clean_only"]
        name = f"finetuned_{begin}"
        phases.append(Phase(name, start, stop, clean_only, constant, begin == "best"))
    return phases


def train_and_evaluate(config, workdir: str | os.PathLike, devices=None) -> dict:
    """Trains as `config` says, or goes on where an earlier run in `workdir` stopped.

    Args:
      config: locked ConfigDict; configs/default.py says what each field means.
      workdir: folder of the run.
      devices: those to use, of all processes; all of them where None.

    Returns:
      The contents of result.json; of many seeds (config.num_seeds) their means and intervals, and
      each seed has a folder of its own, workdir/seed<seed>, as a run of it alone would fill.

    Raises:
      UserError: what the user can mend, in one line, before anything is trained; or a loss that is
        no longer finite (the last checkpoint before it is kept).
    """
    devices = list(devices or parallel.all_devices())
    check_config(config)
    parallel.check_divisible(config.batch_size, devices)
    phases = phases_of(config)
    dispatch_of = functools.partial(
        parallel.steps_per_dispatch,
        config.steps_per_dispatch,
        devices,
        *(phase.stop for phase in phases),
        config.log_every_steps,
        config.eval_every_steps,
        config.checkpoint_every_steps,
    )
    dispatch_of(0)  # a value that does not fit is named before anything is read
    method, num_seeds = METHODS[config.method], config.num_seeds
    shared = None if num_seeds == 1 else workdir
    runs = [Run(one, folder, method, shared) for one, folder in folders_of(config, workdir)]
    workdir = report.open_workdir(workdir, config)
    data.check_sizes([run.splits.train for run in runs])
    num_classes = max(run.num_classes for run in runs)
    model = create_model(config.model, num_classes, parallel.axis_name(devices))

    tx = create_optimizer(config, phases[0].schedule)
    states = []
    for run in runs:
        key = jax.random.key(run.config.seed)
        arguments = (key, model, tx, method, run.config, run.splits.train, num_classes)
        states.append(create_train_state(*arguments))
    state = parallel.place_state(parallel.stack(states), devices)
    largest = max(len(getattr(run.splits, name).label) for run in runs for name in EVALUATED)
    predict = parallel.compile_predict(model, min(EVAL_BATCH_SIZE, largest), devices)

    with Checkpoints(workdir / "checkpoints") as checkpoints:
        state = checkpoints.restore_latest(like=state) or state
        state = parallel.place_state(state, devices)
        step = int(np.max(state.step))
        if step > phases[-1].stop:
            raise UserError(
                f"config.num_steps: {config.num_steps}, but {workdir} has come to step {step}"
            )
        steps_per_dispatch = dispatch_of(step)
        report.write_config(workdir, config)
        with contextlib.ExitStack() as opened:
            writers = {
                run.config.seed: opened.enter_context(contextlib.closing(run.open(step)))
                for run in runs
            }
            bar = opened.enter_context(report.progress_bar(config, step, phases[-1].stop))
            log = report.TrainingLog(writers, bar)
            checkpoints.keep({run.best["step"] for run in runs if run.best})

            def evaluate(phase, state, step):
                """Evaluates all seeds; returns whether one of them is at its best."""
                ends, chooses = step == phase.stop, phase is phases[0]
                states = (parallel.of_seed(state, i, num_seeds) for i in range(num_seeds))
                is_best = [
                    run.evaluate(predict, own, step, chooses=chooses, ends=ends)
                    for run, own in zip(runs, states, strict=True)
                    if not run.has_confusion(step)  # one that was stopped while it was evaluated
                ]
                checkpoints.keep({run.best["step"] for run in runs})
                return any(is_best)

            if step == phases[0].stop and not all(run.has_confusion(step) for run in runs):
                evaluate(phases[0], state, step)  # a run that is told to end where it was stopped
            for phase in phases:
                if step >= phase.stop:
                    continue
                if phase.from_best and step == phase.start:
                    best = [checkpoints.restore(run.best["step"], like=state) for run in runs]
                    best = [parallel.of_seed(s, i, num_seeds) for i, s in enumerate(best)]
                    state = parallel.stack(best)
                    state = state.replace(step=jnp.full_like(state.step, step))
                    state = parallel.place_state(state, devices)
                steps = range(step, phase.stop, steps_per_dispatch)
                advance = make_advance(phase, model, runs, devices, steps, opened)
                while step < phase.stop:
                    state, metrics = advance(state, step, steps_per_dispatch)
                    log.write_due()  # the interval before: an accelerator is at work on the next
                    step += steps_per_dispatch
                    last = step == phase.stop
                    log.add(step, metrics, due=step % config.log_every_steps == 0 or last)
                    evaluates = step % config.eval_every_steps == 0 or last
                    saves = step % config.checkpoint_every_steps == 0 or last
                    if evaluates or saves:
                        with log.paused():
                            check_finite(state, list(writers))
                            is_best = evaluates and evaluate(phase, state, step)
                            if saves or is_best:
                                checkpoints.save(state)

    results = [run.finish(phases, devices) for run in runs]
    if num_seeds == 1:
        return results[0]
    summary = seeds.summarize(results)
    report.write_atomically(workdir / "result.json", report.to_json(summary))
    return summary


def make_advance(phase, model, runs, devices, steps, streams):
    """Compiles a phase: advance(state, step, k) -> (state, metrics [k, ...]) takes its k steps.

    It must be called for each of `steps` in turn, a range in strides of k. Where the set trained on
    is lazy, its images are read ahead until the ExitStack `streams` is left.
    """
    config, method = runs[0].config, phase.method  # which differ between the seeds by the seed
    trains = [run.splits.clean if method.trains_on_clean else run.splits.train for run in runs]
    cleans = [run.splits.clean for run in runs]
    step_function = functools.partial(
        train_step,
        model=model,
        method=method,
        tx=create_optimizer(config, phase.schedule),
        epsilon_method=config.epsilon_method,
        epsilon_params=config.epsilon_params,
        augment=augmentation(config.data.crop_padding, config.data.flip),
        axis_name=parallel.axis_name(devices),
    )
    advance_all = parallel.compile_train_steps(
        step_function,
        data.stack(trains),
        data.stack(cleans) if method.needs_clean else None,
        devices,
        len(runs),
    )
    samplers = [
        method.sampler(train.label, run.config.seed)
        for run, train in zip(runs, trains, strict=True)
    ]
    clean_samplers = [
        shuffled(clean.label, run.config.seed + CLEAN_SEED)
        for run, clean in zip(runs, cleans, strict=True)
    ]
    own_part = parallel.own_part(config.batch_size, devices)
    clean_size = min(config.clean_batch_size, len(cleans[0].label))
    every = config.clean_gradient_every if method.needs_clean else 1
    images = itertools.repeat(None)  # of a resident set the rows say it all
    if trains[0].is_lazy:
        batches = stream_images(
            trains[0].image, samplers[0], steps, config.batch_size, config.data.workers, own_part
        )
        images = parallel.put_ahead(streams.enter_context(contextlib.closing(batches)), devices)

    def rows_of_all(samplers, *arguments):
        rows = [batch_rows(rows_of, *arguments) for rows_of in samplers]
        return rows[0] if len(rows) == 1 else np.stack(rows)

    def advance(state, step, num_steps):
        rows = rows_of_all(samplers, step, num_steps, config.batch_size, own_part)
        clean_rows = None
        if method.needs_clean:
            clean_rows = rows_of_all(clean_samplers, step, num_steps, clean_size)
        fresh = None
        if every > 1:
            fresh = tuple(i % every == 0 for i in range(step, step + num_steps))
        return advance_all(state, rows, clean_rows, next(images), fresh)

    return advance
