"""result.json, made from the records of a finished run, and the table printed at its end."""

import importlib.metadata
import json
import math
import statistics

from flax.traverse_util import flatten_dict

from reweight_jax.labels.sections import PHASES

PACKAGES = ("jax", "flax", "optax", "numpy")
WEIGHT_ROWS = {
    "mean weights, right against wrong labels, AUC": "mean_auc",
    "mean alignment, likewise": "alignment_auc",
    "mean margin, likewise": "margin_auc",
    "weight on wrong labels": "wrong_mass",
    "right labels whose mean weight is 0": "zero_right",
    "wrong labels whose mean weight is 0": "zero_wrong",
}
LABEL_ROWS = {
    "num_suspects": "labels called suspect",
    "wrong_suspects": "of these wrong",
    "wrong_labels": "wrong labels in all",
    "right_suggestions": "wrong labels whose suggested label is right",
}
PERCENT = ("accuracy", "error", "macro_f1")


def selection_split(record: dict) -> str | None:
    """Returns the split whose scores choose the best step; None if there is none.

    hyper_val as in the paper; else calibration, which no gradient sees; else the clean set, which
    is optimistic. Never the test set.
    """
    return next((name for name in ("hyper_val", "calibration", "clean") if name in record), None)


def best_evaluation(evals: list[dict], task, num_steps: int) -> dict | None:
    """Returns the best evaluation of the first `num_steps` steps, the last of equals."""

    def goodness(record):
        split = selection_split(record)
        score = record[split][task.goodness] if split else record["step"]
        score = -score if task.better_if_lower else score
        return (-math.inf if math.isnan(score) else score), record["step"]

    evals = [record for record in evals if record["step"] <= num_steps]
    return max(evals, key=goodness, default=None)


def build_result(config, records: list[dict], task, stops: dict[str, int], devices) -> dict:
    """Returns the contents of result.json.

    Args:
      config: the run's.
      records: of metrics.jsonl.
      task: the run's `Task`.
      stops: name -> last step of each phase, in their order; one of the first three is
        "last".
      devices: the run's.

    Returns:
      Scores of each phase's last step, and of the best step up to "last" as "best"; their
      confusion matrices; how well the weights tell wrong labels from right ones.
    """
    evals, confusions = (
        {r["step"]: r for r in records if r["kind"] == kind} for kind in ("eval", "confusion")
    )
    trains = [record for record in records if record["kind"] == "train"]
    seconds = {record["step"]: round(record["seconds"], 1) for record in trains}
    trains = [record for record in trains if record["step"] <= stops["last"]]
    best = best_evaluation(list(evals.values()), task, stops["last"])
    steps = {"last": stops["last"], "best": best["step"]} | stops
    result = {
        "config": config.name,
        "variant": config.variant,
        "task": task.name,
        "method": config.method,
        "dataset": config.data.name,
        "seed": config.seed,
        "num_steps": config.num_steps,
        "best_chosen_by": selection_split(best) or "no split",
        **{name: _flat_scores(**evals[step]) for name, step in steps.items()},
        # Of all steps with weights: a run that does not settle has them to its end.
        "weights": [r["weights"] for r in evals.values() if "weights" in r][-1],
        "steps_without_helpful_example": sum(r["steps_without_helpful_example"] for r in trains),
        "seconds": round(trains[-1]["seconds"], 1),
        "seconds_at": {name: seconds[step] for name, step in stops.items()},
        "steps_per_second": round(statistics.median(r["steps_per_second"] for r in trains), 2),
        "device": f"{len(devices)} x {devices[0].device_kind}",
        "versions": {package: importlib.metadata.version(package) for package in PACKAGES},
    }
    matrices = {
        name: {k: v for k, v in confusions[step].items() if k not in ("step", "kind")}
        for name, step in steps.items()
        if step in confusions
    }
    return result | ({"confusion": matrices} if matrices else {})


def to_json(result: dict) -> str:
    """Returns JSON with one field a line."""
    fields = (f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in result.items())
    return "{\n" + ",\n".join(fields) + "\n}\n"


def table(result: dict) -> str:
    """Returns the lines that a run ends with."""
    weights, labels = result["weights"], result.get("labels", {})
    seconds = max([result["seconds"], *result.get("seconds_at", {}).values()])  # of all phases
    config_name = ":".join(filter(None, (result["config"], result["variant"])))
    rows = [
        ("method", result["method"]),
        ("dataset", f"{result['dataset']} ({config_name})"),
        ("seed", result["seed"]),
        *_score_rows(result),
        *((name, f"{weights[key]:.4f}") for name, key in WEIGHT_ROWS.items() if key in weights),
        *((text, labels[key]) for key, text in LABEL_ROWS.items() if key in labels),
        ("steps without a helpful example", result["steps_without_helpful_example"]),
        ("time", f"{seconds:.0f} s, median {result['steps_per_second']:.1f} steps/s"),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _score_rows(result):
    """The main score, of the test set if there is one, else of the split that chose the best."""
    shown = {"classification": "error", "multi_label": "macro_f1", "regression": "rmse"}
    score = shown.get(result["task"], "loss")
    chosen_by = result["best_chosen_by"]
    split = "test" if "test_loss" in result["last"] else chosen_by
    if f"{split}_{score}" not in result["last"]:
        return
    best = f"best on {chosen_by} (step {result['best']['step']})"
    for name, text in (PHASES | {"best": best}).items():
        if name in result:
            value = result[name][f"{split}_{score}"]
            value = f"{value:.2%}" if score in PERCENT else f"{value:.4g}"
            yield f"{split} {score}, {text}", value


def _flat_scores(kind, weights=None, **scores):
    return flatten_dict(scores, sep="_")
