"""The story of one run, top to bottom."""

import contextlib
import os
import sys

from reweight_jax.errors import UserError
from reweight_jax.history import history_means
from reweight_jax.records import metrics, result
from reweight_jax.records.workdir import Workdir
from reweight_jax.sealed import checksum
from reweight_jax.train import devices as on_devices
from reweight_jax.train import evaluate as evaluation
from reweight_jax.train import hosts
from reweight_jax.train.checkpoints import Checkpoints
from reweight_jax.train.checks import advice, memory_suffices, remarks_of
from reweight_jax.train.config import Experiment, load_experiment
from reweight_jax.train.dispatch import dispatches
from reweight_jax.train.outputs import finish
from reweight_jax.train.selection import REVIEWS
from reweight_jax.train.state import KEPT, check_finite, create_train_state


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
    facts = experiment.facts | ({"host_input": checksum(host_input)} if host_input else {})
    folder = Workdir(workdir, config, facts, writes=hosts.is_first())
    said = remarks_of(experiment)
    for sentence in [*said, *advice(experiment)] if progress and folder.writes else ():
        print(sentence, file=sys.stderr)
    with folder.locked(), memory_suffices(config):
        finished = run_phases(experiment, folder, host_input, progress and folder.writes)
        return finish(experiment, folder, *finished, draw and folder.writes, said)


def run_phases(experiment: Experiment, folder: Workdir, host_input, progress: bool):
    """Starts from the newest checkpoint, if any; returns what `finish` needs at the end:

    the state, that at the end of the phase "last", the records, and the compiled `predict`.
    """
    config, devices = experiment.config, experiment.devices
    task, splits = experiment.task, experiment.splits
    state = on_devices.place_state(create_train_state(experiment, host_input), devices)
    predict = evaluation.compile_predict(experiment.model, devices, experiment.programs)
    wrong, workdir = evaluation.wrong_labels(splits.train), folder.path

    with contextlib.ExitStack() as stack:
        checkpoints = Checkpoints(workdir / "checkpoints", folder.check_checkpoint)
        stack.enter_context(checkpoints)
        found = checkpoints.restore_latest(like=state)
        if found:
            folder.check(found.config, int(found.state.step))  # config.json may be damaged
        state = on_devices.place_state(found.state if found else state, devices)
        step, phases = int(state.step), experiment.phases(bool(state.settles))
        name, stop = f"{config.method} seed {config.seed}", phases[-1].stop
        if step > stop:
            raise UserError(f"config.num_steps: {config.num_steps}; {workdir} is at step {step}")
        if step == stop and progress:
            print(f"{workdir}: was finished, nothing is trained", file=sys.stderr)
        folder.write_config()
        before = hosts.from_first(lambda: found.metrics if found else "")
        writer = metrics.MetricsWriter(folder, before)
        stack.callback(writer.close)
        bar = stack.enter_context(metrics.progress_bar(name, step, stop, shown=progress))
        log = metrics.TrainingLog(writer, bar)

        def best_step() -> int | None:
            best = result.best_evaluation(writer.of_kind("eval"), task, config.num_steps)
            return best and best["step"]

        def evaluate(phase, step) -> bool:
            """Records the scores of `step`; returns whether they are the best of the training."""
            scores, confusion = evaluation.evaluate_splits(predict, splits, task, state)
            if phase.remembers:
                means = history_means(state.history, splits.train.size)
                scores["weights"] = evaluation.weight_statistics(means, wrong)
            if all(record["step"] != step for record in writer.of_kind("eval")):
                writer.write({"step": step, "kind": "eval", **scores})
            if confusion and step in (best_step(), phase.stop):
                writer.write({"step": step, "kind": "confusion", **confusion})
            return step == keep()

        def keep() -> int | None:
            """Keeps the best checkpoint, and those that end a phase, for `Fitted.predict`."""
            stops = [phase.stop for phase in experiment.phases(bool(state.settles))]
            checkpoints.keep({best := best_step(), *stops})
            return best

        keep()
        kind = "confusion" if evaluation.confuses(splits, task) else "eval"
        if step == phases[0].stop and all(r["step"] != step for r in writer.of_kind(kind)):
            evaluate(phases[0], step)  # a longer run was stopped at this step, and now ends there
        while left := [p for p in experiment.phases(bool(state.settles)) if p.stop > step]:
            phase, bar.total, log.rate = left[0], left[-1].stop, left[0].rate
            bar.set_description(f"{name}, {phase.title}", refresh=False)
            if phase.begin != "before" and step == phase.start:
                if phase.begin == "afresh":
                    begin = create_train_state(experiment, host_input)
                else:
                    of = best_step() if phase.begin == "best" else phase.begin
                    begin = checkpoints.restore(of, like=state)
                kept = {name: getattr(state, name) for name in KEPT}
                state = on_devices.place_state(begin.replace(**kept), devices)
            for end, dispatch in dispatches(experiment, phase, step, state, stack):
                step, (state, step_metrics), dispatch = end, dispatch(state), None  # frees its data
                log.write_due()  # the previous interval, while an accelerator computes the next
                is_last = step == phase.stop
                log.add(step, step_metrics, due=step % config.log_every_steps == 0 or is_last)
                if is_last and phase.reviews != "never":
                    with log.paused():
                        state = REVIEWS[phase.reviews](experiment, state, predict)
                        state = on_devices.place_state(state, devices)
                evaluates = step % config.eval_every_steps == 0 or is_last
                saves = step % config.checkpoint_every_steps == 0 or is_last
                if evaluates or saves:
                    with log.paused():
                        check_finite(state, phase.rate)
                        if (evaluates and evaluate(phase, step)) or saves:
                            checkpoints.save(state, folder.content, writer.text)
        trained = state
        if step > config.num_steps:
            trained = checkpoints.restore(config.num_steps, like=state)
            trained = on_devices.place_state(trained, devices)
        return state, trained, writer.records, predict
