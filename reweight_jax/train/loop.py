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
from reweight_jax.train import evaluate as evaluation
from reweight_jax.train import hosts
from reweight_jax.train.checkpoints import Checkpoints
from reweight_jax.train.config import Experiment, load_experiment
from reweight_jax.train.dispatch import dispatches
from reweight_jax.train.state import check_finite, create_train_state


def train_and_evaluate(config, workdir: str | os.PathLike, devices=None) -> dict:
    """Trains as `config` says, or continues the run that was stopped in `workdir`.

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
    config, host_input = experiment.config, experiment.method.host_input
    hosts.check_same(config.to_json())
    host_input = hosts.from_first(lambda: host_input(config)) if host_input else None
    folder = Workdir(workdir, config, experiment.facts, writes=hosts.is_first())
    with folder.locked():
        state, records = run_phases(experiment, folder, host_input, progress and folder.writes)
        return finish(experiment, folder, state, records, draw and folder.writes)


def run_phases(experiment: Experiment, folder: Workdir, host_input, progress: bool):
    """Returns (state, records) after the last phase; starts from the newest checkpoint, if any."""
    config, phases, devices = experiment.config, experiment.phases, experiment.devices
    task, splits = experiment.task, experiment.splits
    state = on_devices.place_state(create_train_state(experiment, host_input), devices)
    predict = evaluation.compile_predict(experiment.model, devices)
    wrong, workdir = evaluation.wrong_labels(splits.train), folder.path

    with Checkpoints(workdir / "checkpoints") as checkpoints, contextlib.ExitStack() as stack:
        state = on_devices.place_state(checkpoints.restore_latest(like=state) or state, devices)
        step = int(state.step)
        if step > phases[-1].stop:
            raise UserError(f"config.num_steps: {config.num_steps}; {workdir} is at step {step}")
        records = hosts.from_first(lambda: metrics.read_metrics(workdir))
        if step and all(record["step"] != step for record in records):
            raise UserError(
                f"{workdir}/metrics.jsonl: has no record of step {step}, but there is a checkpoint "
                "of it; put the file back, or remove the folder"
            )
        folder.write_config()
        writer = metrics.MetricsWriter(folder, [r for r in records if r["step"] <= step])
        stack.callback(writer.close)
        name, stop = f"{config.method} seed {config.seed}", phases[-1].stop
        bar = stack.enter_context(metrics.progress_bar(name, step, stop, shown=progress))
        log = metrics.TrainingLog(writer, bar)

        def best_step() -> int | None:
            best = result.best_evaluation(writer.of_kind("eval"), task, config.num_steps)
            return best and best["step"]

        def evaluate(phase, step) -> bool:
            """Records the scores of `step`; returns whether they are the best of the training."""
            scores, confusion = evaluation.evaluate_splits(predict, splits, task, state)
            if phase is phases[0]:
                means = history_means(state.history)
                scores["weights"] = evaluation.weight_statistics(means, wrong)
            writer.write({"step": step, "kind": "eval", **scores})
            best = best_step()
            if confusion and step in (best, phase.stop):
                writer.write({"step": step, "kind": "confusion", **confusion})
            checkpoints.keep(best)
            return step == best

        checkpoints.keep(best_step())
        has_confusion = task.name == "classification" and (splits.test or splits.hyper_val)
        kind = "confusion" if has_confusion else "eval"
        if step == phases[0].stop and all(r["step"] != step for r in writer.of_kind(kind)):
            evaluate(phases[0], step)  # a longer run was stopped at this step, and now ends there
        for phase in phases:
            if step >= phase.stop:
                continue
            if phase.begin == "best" and step == phase.start:
                best = checkpoints.restore(best_step(), like=state)
                best = best.replace(step=jnp.asarray(step), history=state.history)
                state = on_devices.place_state(best, devices)
            for end, dispatch in dispatches(experiment, phase, step, stack):
                step, (state, step_metrics) = end, dispatch(state)
                log.write_due()  # the previous interval, while an accelerator computes the next
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
    return state, writer.records


def finish(experiment: Experiment, folder: Workdir, state, records: list[dict], draw: bool) -> dict:
    """Writes examples.npz, the plots and, last, result.json; returns its contents."""
    config, train, phases = experiment.config, experiment.splits.train, experiment.phases
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
    outcome = result.build_result(config, records, experiment.task, stops, experiment.devices)
    if draw:
        shown = (records, outcome, means["weight"], evaluation.wrong_labels(train), train.label)
        starts = [phase.start for phase in phases[1:]]
        for name, png in plots.draw_run(*shown, experiment.classes, starts).items():
            folder.write(f"plots/{name}.png", png)
    folder.write("result.json", result.to_json(outcome))
    return outcome
