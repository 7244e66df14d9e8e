"""The story of a run, top to bottom."""

import contextlib
import functools
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax

from reweight_jax import data, parallel, plots, report
from reweight_jax.checkpoints import Checkpoints
from reweight_jax.data.batches import CLEAN_SEED, batch_rows, shuffled
from reweight_jax.errors import UserError, choose
from reweight_jax.methods import METHODS
from reweight_jax.models import create_model
from reweight_jax.state import create_optimizer, create_train_state
from reweight_jax.step import train_step

EVAL_BATCH_SIZE = 500
EPSILON_METHODS = ("lookahead", "jvp")


def train_and_evaluate(config, workdir: str | os.PathLike, devices=None) -> dict:
    """Trains as `config` says, or goes on where an earlier run in `workdir` stopped.

    Args:
      config: locked ConfigDict; configs/default.py says what each field means.
      workdir: folder of the run.
      devices: local devices to use; all of them where None.

    Returns:
      The contents of result.json.

    Raises:
      UserError: what the user can mend, in one line, before anything is trained; or a loss that is
        no longer finite (the last checkpoint before it is kept).
    """
    devices = list(devices or jax.local_devices())
    check(config)
    parallel.check_divisible(config.batch_size, devices)
    dispatch_of = functools.partial(
        parallel.steps_per_dispatch,
        config.steps_per_dispatch,
        devices,
        config.num_steps,
        config.log_every_steps,
        config.eval_every_steps,
        config.checkpoint_every_steps,
    )
    dispatch_of(0)  # a value that does not fit is named before anything is read
    method = METHODS[config.method]
    splits = load_splits(config, method)
    num_classes = data.num_classes_of(config.data, splits)
    axis_name = parallel.axis_name(devices)
    model = create_model(config.model, num_classes, axis_name)
    workdir = report.open_workdir(workdir, config)

    tx = create_optimizer(config)
    key = jax.random.key(config.seed)
    state = create_train_state(key, model, tx, method, config, splits.train, num_classes)
    state = parallel.place_state(state, devices)
    run = parallel.compile_train_steps(
        functools.partial(
            train_step,
            model=model,
            method=method,
            tx=tx,
            epsilon_method=config.epsilon_method,
            axis_name=axis_name,
        ),
        splits.train,
        splits.clean if method.needs_clean else None,
        devices,
    )
    evaluate = functools.partial(
        evaluate_splits, parallel.compile_predict(model, EVAL_BATCH_SIZE, devices), splits
    )

    def batch_of(sampler, examples, step, size, seed=config.seed):
        return batch_rows(sampler, examples.label, seed, step, steps_per_dispatch, size)

    with Checkpoints(workdir / "checkpoints") as checkpoints:
        state = checkpoints.restore_latest(like=state) or state
        step = int(state.step)
        if step > config.num_steps:
            raise UserError(
                f"config.num_steps: {config.num_steps}, but {workdir} has come to step {step}"
            )
        steps_per_dispatch = dispatch_of(step)
        report.write_config(workdir, config)
        with (
            contextlib.closing(report.MetricsWriter(workdir, step)) as writer,
            report.progress_bar(config, step) as bar,
        ):
            log = report.TrainingLog(writer, bar)
            while step < config.num_steps:
                rows = batch_of(method.sampler, splits.train, step, config.batch_size)
                clean_rows = None
                if method.needs_clean:
                    size = min(config.clean_batch_size, len(splits.clean.label))
                    clean_rows = batch_of(
                        shuffled, splits.clean, step, size, config.seed + CLEAN_SEED
                    )
                state, metrics = run(state, rows, clean_rows)
                log.write_due()  # the interval before: the device is at work on the next one
                step += steps_per_dispatch
                last = step == config.num_steps
                log.add(step, metrics, due=step % config.log_every_steps == 0 or last)
                if step % config.eval_every_steps == 0 or last:
                    with log.paused():
                        check_finite(state)
                        writer.write({"step": step, "kind": "eval", **evaluate(state)})
                if step % config.checkpoint_every_steps == 0 or last:
                    with log.paused():
                        check_finite(state)
                        checkpoints.save(state)

    records = report.read_metrics(workdir)
    result = report.build_result(config, records, devices)
    report.write_atomically(workdir / "result.json", json.dumps(result, indent=2) + "\n")
    names = list(config.data.classes) or range(num_classes)
    plots.plot_training_curve(records, workdir / "plots" / "training_curve.png")
    plots.plot_weights(
        np.asarray(state.last_weights), splits.train.label, names, workdir / "plots" / "weights.png"
    )
    return result


def check(config) -> None:
    """Raises UserError for what no single field's type can rule out."""
    choose("config.method", config.method, METHODS)
    choose("config.epsilon_method", config.epsilon_method, dict.fromkeys(EPSILON_METHODS))
    choose("config.data.clean_in_train", config.data.clean_in_train, CLEAN_IN_TRAIN)
    positive = ("num_steps", "batch_size", "clean_batch_size")
    intervals = ("log_every_steps", "eval_every_steps", "checkpoint_every_steps")
    for field in positive + intervals:
        if config[field] < 1:
            raise UserError(f"config.{field}: {config[field]}; must be at least 1")
    for field in intervals[1:]:
        if config[field] % config.log_every_steps:
            raise UserError(
                f"config.{field}: {config[field]}; must be a multiple of log_every_steps "
                f"({config.log_every_steps})"
            )
    for field, least in (("num_clean", 1), ("num_hyper_val", 1), ("num_train", 0)):
        if config.data[field] < least:
            raise UserError(f"config.data.{field}: {config.data[field]}; must be at least {least}")
    if not 0 <= config.seed < 1 << 32:
        raise UserError(f"config.seed: {config.seed}; must be in 0..2**32 - 1")
    if not all(isinstance(label, int) for label in config.data.classes):
        raise UserError(f"config.data.classes: {config.data.classes}; must be integers")


def check_finite(state) -> None:
    """Raises UserError where an update has left the numbers: such a state is no checkpoint."""
    if not all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(state.params)):
        raise UserError(
            f"the parameters after step {int(state.step)} are not finite; the last checkpoint "
            "before it is kept. Lower config.learning_rate, or look for bad values in the data"
        )


# Whether the clean images stand in the training set too, for each method.
CLEAN_IN_TRAIN = {
    "never": lambda method: False,
    "baselines": lambda method: not method.needs_clean,
    "always": lambda method: True,
}


def load_splits(config, method) -> data.Splits:
    """Loads the data, with the clean images in the training set too where the config says so."""
    splits = data.load(config.data, config.seed)
    if CLEAN_IN_TRAIN[config.data.clean_in_train](method):
        splits = splits._replace(train=data.concatenate(splits.train, splits.clean))
    return splits


def evaluate_splits(predict, splits, state) -> dict:
    """Returns accuracy, error and mean cross-entropy on the test, hyper_val and clean split."""
    scores = {}
    for name in ("test", "hyper_val", "clean"):
        examples = getattr(splits, name)
        logits = predict(state.params, state.model_state, examples.image)
        wrong = int(np.sum(logits.argmax(-1) != examples.label))
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, examples.label)
        scores[name] = {
            "accuracy": 1 - wrong / len(examples.label),
            "error": wrong / len(examples.label),
            "loss": float(np.mean(losses)),
        }
    return scores
