"""The story of one run, top to bottom."""

import contextlib
import io
import os

import jax.numpy as jnp
import numpy as np

from reweight_jax.errors import UserError
from reweight_jax.history import history_means
from reweight_jax.records import metrics, plots, result
from reweight_jax.records.workdir import Workdir
from reweight_jax.train import devices as on_devices
from reweight_jax.train import hosts
from reweight_jax.train.checkpoints import Checkpoints
from reweight_jax.train.config import Experiment, load_experiment
from reweight_jax.train.dispatch import dispatches
from reweight_jax.train.evaluate import (
    compile_predict,
    evaluate_splits,
    weight_statistics,
    wrong_labels,
)
from reweight_jax.train.state import check_finite, create_train_state


def train_and_evaluate(config, workdir: str | os.PathLike, devices=None) -> dict:
    """Trains as `config` says, or goes on from where an earlier run in `workdir` stopped.

    Args:
      config: locked ConfigDict; configs/default.py says what each field means.
      workdir: folder of the run.
      devices: those to use, of all processes; all of them if None.

    Returns:
      The contents of result.json.

    Raises:
      UserError: a mistake of the user, in one line, before anything is trained; or a loss that is
        no longer finite (the last checkpoint before it is kept).
    """
    return train(load_experiment(config, devices), workdir)


def train(
    experiment: Experiment, workdir: str | os.PathLike, *, progress: bool = True, draw: bool = True
) -> dict:
    """Runs the phases of `experiment`; arguments, result and errors as `train_and_evaluate`.

    `progress`: whether to show a progress bar; `draw`: whether to draw plots/.
    """
    config, phases, devices = experiment.config, experiment.phases, experiment.devices
    task = experiment.task
    hosts.check_same(config.to_json())
    host_input = experiment.method.host_input
    host_input = hosts.from_first(lambda: host_input(config)) if host_input else None
    folder = Workdir(workdir, config, experiment.facts, writes=hosts.is_first())
    state = on_devices.place_state(create_train_state(experiment, host_input), devices)
    predict = compile_predict(experiment.model, devices)
    wrong = wrong_labels(experiment.splits.train)

    with Checkpoints(folder.path / "checkpoints") as checkpoints, contextlib.ExitStack() as stack:
        state = on_devices.place_state(checkpoints.restore_latest(like=state) or state, devices)
        step = int(state.step)
        if step > phases[-1].stop:
            raise UserError(f"config.num_steps: {config.num_steps}; {workdir} is at step {step}")
        folder.write_config()
        records = hosts.from_first(lambda: metrics.read_metrics(folder.path))
        writer = metrics.MetricsWriter(folder, [r for r in records if r["step"] <= step])
        stack.callback(writer.close)
        name = f"{config.method} seed {config.seed}"
        shown = progress and folder.writes
        bar = metrics.progress_bar(name, step, phases[-1].stop, shown=shown)
        log = metrics.TrainingLog(writer, stack.enter_context(bar))
        best = result.best_evaluation(writer.of_kind("eval"), task, config.num_steps)
        if best is None and step >= config.eval_every_steps:
            raise UserError(
                f"{folder.path}/metrics.jsonl: has no evaluation, but there is a checkpoint of "
                f"step {step}; put the file back, or remove the folder"
            )
        checkpoints.keep(best and best["step"])

        def evaluate(phase, step) -> bool:
            """Records the scores of `step`; returns whether they are the best of the training."""
            scores, confusion = evaluate_splits(predict, experiment.splits, task, state)
            record = {"step": step, "kind": "eval", **scores}
            if phase is phases[0]:
                known = wrong is not None
                means = history_means(state.history)
                record["weights"] = weight_statistics(means, wrong) if known else {}
            writer.write(record)
            best = result.best_evaluation(writer.of_kind("eval"), task, config.num_steps)["step"]
            if confusion and step in (best, phase.stop):
                writer.write({"step": step, "kind": "confusion", **confusion})
            checkpoints.keep(best)
            return step == best

        if step == phases[0].stop and all(r["step"] != step for r in writer.of_kind("confusion")):
            evaluate(phases[0], step)  # a longer run that was stopped here, and now ends here
        for phase in phases:
            if step >= phase.stop:
                continue
            if phase.begin == "best" and step == phase.start:
                best = result.best_evaluation(writer.of_kind("eval"), task, config.num_steps)
                best_state = checkpoints.restore(best["step"], like=state)
                state = best_state.replace(step=jnp.asarray(step), history=state.history)
                state = on_devices.place_state(state, devices)
            for end, dispatch in dispatches(experiment, phase, step, stack):
                step, (state, step_metrics) = end, dispatch(state)
                log.write_due()  # of the interval before: an accelerator is at work on the next
                is_last = step == phase.stop
                log.add(step, step_metrics, due=step % config.log_every_steps == 0 or is_last)
                evaluates = step % config.eval_every_steps == 0 or is_last
                saves = step % config.checkpoint_every_steps == 0 or is_last
                if evaluates or saves:
                    with log.paused():
                        check_finite(state)
                        is_best = evaluates and evaluate(phase, step)
                        if saves or is_best:
                            checkpoints.save(state)

    return finish(experiment, folder, writer.records, state, draw)


def finish(
    experiment: Experiment, folder: Workdir, records: list[dict], state, draw: bool = True
) -> dict:
    """Writes examples.npz, the plots and, last, result.json; returns its contents."""
    train, phases = experiment.splits.train, experiment.phases
    means = history_means(state.history)
    arrays = {"index": train.index, "label": train.label, **means}
    if train.true_label is not None:
        arrays["true_label"] = train.true_label
    if experiment.ids is not None:
        arrays["id"] = experiment.ids[train.index]
    content = io.BytesIO()
    np.savez(content, **arrays)
    folder.write("examples.npz", content.getvalue())
    stops = {phase.name: phase.stop for phase in phases}
    outcome = result.build_result(
        experiment.config, records, experiment.task, stops, experiment.devices
    )
    shown = (records, outcome, means["weight"], wrong_labels(train), train.label)
    starts = [phase.start for phase in phases[1:]]
    pictures = plots.draw_run(*shown, experiment.classes, starts) if draw else {}
    for name, png in pictures.items():
        folder.write(f"plots/{name}.png", png)
    folder.write("result.json", result.to_json(outcome))
    return outcome
