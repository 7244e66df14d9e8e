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

from reweight_jax import data, parallel, plots, processes, report
from reweight_jax.check import CLEAN_IN_TRAIN, FINETUNE_FROM, check_config, check_finite
from reweight_jax.checkpoints import Checkpoints
from reweight_jax.data.batches import CLEAN_SEED, batch_rows, shuffled
from reweight_jax.data.stream import stream_images
from reweight_jax.errors import UserError
from reweight_jax.evaluate import evaluate_splits, weight_statistics
from reweight_jax.methods import METHODS, Method
from reweight_jax.models import create_model
from reweight_jax.state import create_optimizer, create_train_state, learning_rate_schedule
from reweight_jax.step import augmentation, train_step

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
      The contents of result.json.

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
    method = METHODS[config.method]
    splits = load_splits(config, method)
    num_classes = data.num_classes_of(config.data, splits)
    model = create_model(config.model, num_classes, parallel.axis_name(devices))
    workdir = report.open_workdir(workdir, config)

    tx = create_optimizer(config, phases[0].schedule)
    key = jax.random.key(config.seed)
    state = create_train_state(key, model, tx, method, config, splits.train, num_classes)
    state = parallel.place_state(state, devices)
    predict = parallel.compile_predict(model, EVAL_BATCH_SIZE, devices)
    wrong = splits.train.label != splits.train.true_label
    names = list(config.data.classes) or range(num_classes)
    groups = {f"class {name}": splits.train.label == k for k, name in enumerate(names)}
    if wrong.any():
        groups = {"right labels": ~wrong, "wrong labels": wrong}

    with Checkpoints(workdir / "checkpoints") as checkpoints:
        state = checkpoints.restore_latest(like=state) or state
        state = parallel.place_state(state, devices)
        step = int(state.step)
        if step > phases[-1].stop:
            raise UserError(
                f"config.num_steps: {config.num_steps}, but {workdir} has come to step {step}"
            )
        steps_per_dispatch = dispatch_of(step)
        report.write_config(workdir, config)
        with (
            contextlib.closing(report.MetricsWriter(workdir, step)) as writer,
            report.progress_bar(config, step, phases[-1].stop) as bar,
            contextlib.ExitStack() as streams,
        ):
            log = report.TrainingLog(writer, bar)
            best = report.best_evaluation(writer.records("eval"), config.num_steps)
            if best:
                checkpoints.keep(best["step"])
            elif step >= config.eval_every_steps:
                raise UserError(
                    f"{workdir}/metrics.jsonl: has no evaluation, but there is a checkpoint of "
                    f"step {step}; put the file back, or remove the folder"
                )

            def evaluate(phase, state, step):
                """Writes what a phase has come to; returns whether it is the best so far."""
                nonlocal best
                scores, confusion = evaluate_splits(predict, splits, state, num_classes)
                record = {"step": step, "kind": "eval", **scores}
                is_best = False
                if phase is phases[0]:
                    weights = np.asarray(state.last_weights)
                    record["weights"] = weight_statistics(weights, wrong)
                    is_best = best is None or report.goodness(record) >= report.goodness(best)
                    if is_best:
                        best = record
                        checkpoints.keep(step)
                    if step == phase.stop:
                        plots.plot_weights(weights, groups, workdir / "plots" / "weights.png")
                writer.write(record)
                if is_best or step == phase.stop:
                    writer.write({"step": step, "kind": "confusion", **confusion})
                return is_best

            measured = any(r["step"] == step for r in writer.records("confusion"))
            if step == phases[0].stop and not measured:
                evaluate(phases[0], state, step)  # a run that is told to end where it was stopped
            for phase in phases:
                if step >= phase.stop:
                    continue
                if phase.from_best and step == phase.start:
                    state = checkpoints.restore(best["step"], like=state)
                    state = state.replace(step=jnp.full_like(state.step, step))
                    state = parallel.place_state(state, devices)
                steps = range(step, phase.stop, steps_per_dispatch)
                advance = make_advance(config, phase, model, splits, devices, steps, streams)
                while step < phase.stop:
                    state, metrics = advance(state, step, steps_per_dispatch)
                    log.write_due()  # the interval before: the device is at work on the next one
                    step += steps_per_dispatch
                    last = step == phase.stop
                    log.add(step, metrics, due=step % config.log_every_steps == 0 or last)
                    evaluates = step % config.eval_every_steps == 0 or last
                    saves = step % config.checkpoint_every_steps == 0 or last
                    if evaluates or saves:
                        with log.paused():
                            check_finite(state)
                            is_best = evaluates and evaluate(phase, state, step)
                            if saves or is_best:
                                checkpoints.save(state)

    records = processes.from_first(lambda: report.read_metrics(workdir))
    stops = {phase.name: phase.stop for phase in phases}
    result = report.build_result(config, records, stops, devices)
    report.write_atomically(workdir / "result.json", report.to_json(result))
    starts = [phase.start for phase in phases[1:]]
    plots.plot_training_curve(records, starts, workdir / "plots" / "training_curve.png")
    plots.plot_confusion(
        result["confusion"]["last"]["test"], names, workdir / "plots" / "confusion.png"
    )
    return result


def make_advance(config, phase, model, splits, devices, steps, streams):
    """Compiles a phase: advance(state, step, k) -> (state, metrics [k, ...]) takes its k steps.

    It must be called for each of `steps` in turn, a range in strides of k. Where the set trained on
    is lazy, its images are read ahead until the ExitStack `streams` is left.
    """
    method = phase.method
    train = splits.clean if method.trains_on_clean else splits.train
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
    clean = splits.clean if method.needs_clean else None
    run = parallel.compile_train_steps(step_function, train, clean, devices)

    rows_of = method.sampler(train.label, config.seed)
    own_part = parallel.own_part(config.batch_size, devices)
    images = itertools.repeat(None)  # of a resident set the rows say it all
    if train.is_lazy:
        batches = stream_images(
            train.image, rows_of, steps, config.batch_size, config.data.workers, own_part
        )
        images = parallel.put_ahead(streams.enter_context(contextlib.closing(batches)), devices)
    clean_rows_of = shuffled(splits.clean.label, config.seed + CLEAN_SEED)
    clean_size = min(config.clean_batch_size, len(splits.clean.label))

    def advance(state, step, num_steps):
        rows = batch_rows(rows_of, step, num_steps, config.batch_size, own_part)
        clean_rows = None
        if method.needs_clean:
            clean_rows = batch_rows(clean_rows_of, step, num_steps, clean_size)
        every = config.clean_gradient_every if method.needs_clean else 1
        fresh = tuple(i % every == 0 for i in range(step, step + num_steps))
        return run(state, rows, clean_rows, next(images), fresh=fresh)

    return advance


def load_splits(config, method) -> data.Splits:
    """Loads the data, with the clean images in the training set too where the config says so.

    The clean set itself is small, and in memory even if the others are streamed.
    """
    splits = data.load(config.data, config.seed)
    if CLEAN_IN_TRAIN[config.data.clean_in_train](method):
        splits = splits._replace(train=data.concatenate(splits.train, splits.clean))
    return splits._replace(clean=splits.clean.in_memory())
