"""What a finished run leaves in its folder, beside its metrics and checkpoints."""

import io
import itertools
from collections.abc import Callable

import jax
import numpy as np

from reweight_jax.labels import report
from reweight_jax.labels.health import health
from reweight_jax.records import plots, result
from reweight_jax.records.workdir import Workdir, identity
from reweight_jax.sealed import digest, seal
from reweight_jax.train import evaluate as evaluation
from reweight_jax.train.selection import judge_labels, margins, what_is_known


def finish(
    experiment,
    folder: Workdir,
    state,
    trained,
    records: list[dict],
    predict: Callable,
    draw: bool,
    said: list[str],
) -> dict:
    """Writes what is known of the examples, the label report, the plots and, last, result.json.

    Args:
      experiment: the run's `Experiment`.
      folder: of the run.
      state: after the last phase.
      trained: the state after the phase "last".
      records: of metrics.jsonl.
      predict: `evaluate.compile_predict` of the run's model.
      draw: whether to draw plots/.
      said: sentences on the data, before those on the run's health.

    Returns:
      The contents of result.json.
    """
    splits, config = experiment.splits, experiment.config
    phases = experiment.phases(bool(state.settles))
    wrong, judgement = evaluation.wrong_labels(splits.train), judge_labels(experiment, state)
    known = what_is_known(experiment, state, "train")
    stops = {phase.name: phase.stop for phase in phases}
    outcome = result.build_result(config, records, experiment.task, stops, experiment.devices)
    if "unsettled" in stops:
        outcome["settled"] = bool(state.settles)
    outcome["health"] = list(said)
    if judgement:
        outcome["labels"] = judgement.summary
        if wrong is not None:
            outcome["labels"] |= evaluation.suspect_statistics(judgement, splits.train, wrong)
        trusted = _trusted(experiment, trained, predict)
        outcome["health"] += health(records, outcome, config, trusted, experiment.classes)
    if not folder.writes:
        return outcome
    tables = {"examples.npz": known}
    if splits.calibration is not None:
        tables["calibration.npz"] = what_is_known(experiment, state, "calibration")
    if judgement:
        rows = report.listed(known, judgement)
        inputs = jax.tree.map(lambda array: array[rows], splits.train.inputs)
        named = inputs if isinstance(inputs, dict) else {}
        named = {f"input.{name}": array for name, array in named.items()} or {"input": inputs}
        tables["suspect_inputs.npz"] = {"row": rows} | named
    files = {name: _npz(arrays) for name, arrays in tables.items()}
    # So that result.json is not believed beside the files or the config of another run.
    outcome["files"] = {name: digest(content) for name, content in files.items()}
    outcome["run"] = identity(folder.content)
    for name, content in files.items():
        folder.write(name, content)
    if draw:
        shown = (records, outcome, known["weight"], wrong, splits.train.label, experiment.classes)
        by_title = itertools.groupby(phases, lambda phase: phase.title)  # one that goes on is one
        begins = [(title, next(group).start) for title, group in by_title]
        for name, png in plots.draw_run(*shown, begins[1:]).items():
            folder.write(f"plots/{name}.png", png)
    if judgement:
        pages = report.pages(folder.content, outcome, known, judgement, inputs, rows)
        for name, content in pages.items():
            folder.write(name, content)
    folder.write("result.json", result.to_json(seal(outcome)))
    return outcome


def _trusted(experiment, state, predict) -> dict[str, dict]:
    """The trusted examples and what the model makes of them, by split, for `health`."""
    task, found = experiment.task, {}
    suggest = {"classification": lambda z: z.argmax(-1), "multi_label": lambda z: (z > 0) * 1}
    suggest |= {"regression": lambda z: np.asarray(task.predict(z))}
    for name in ("clean", "calibration"):
        examples = getattr(experiment.splits, name)
        if examples is None:
            continue
        outputs = predict(state.params["model"], state.model_state, examples.inputs)
        found[name] = {
            "index": _names(experiment, name, examples),
            "label": examples.label,
            "margin": margins(experiment, outputs, examples.label),
            "suggested_label": suggest[task.name](outputs),
        }
    return found


def _names(experiment, split, examples):
    """Names of trusted examples, or their rows in the part of the source that they are from."""
    if experiment.ids is not None:
        return experiment.ids[examples.index]
    starts = experiment.starts  # what has no part is drawn from the clean one, or from train's
    start = starts.get(split, starts.get("clean", 0))
    rows = examples.index - start
    if (rows >= 0).all():
        return rows
    return np.array([str(i) if i >= 0 else f"row {i + start} of train" for i in rows.tolist()])


def _npz(arrays) -> bytes:
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()
