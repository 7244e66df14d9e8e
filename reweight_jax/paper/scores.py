"""What finished runs scored, under each choice of the model: the rows of most figures."""

import collections
import math
from collections.abc import Callable, Iterable

from reweight_jax.methods import METHODS
from reweight_jax.paper import style, tables
from reweight_jax.paper.grid import Run
from reweight_jax.records.metrics import read_metrics
from reweight_jax.records.workdir import read_run

# Choice of model -> where its scores are in result.json.
CHOICES = {"": "last", "+ES": "best", "+FT": "finetuned_last", "+ES+FT": "finetuned_best"}
CHOICES |= {"retrained": "retrained"}


def scores_of(run: Run) -> dict[str, float]:
    """Returns the test accuracies of a finished run by choice of model.

    "stopped" is ours, not the paper's: the evaluation with the highest accuracy on the clean set,
    the lowest clean loss among equals. It is for methods that make no use of the clean set, which
    is then a small and honest validation set.
    """
    _, result = read_run(run.workdir)
    found = {c: result[name]["test_accuracy"] for c, name in CHOICES.items() if name in result}
    method, config = METHODS[run.config.method], run.config
    uses_clean = method.needs_clean or method.trains_on_clean
    if config.data.clean_in_train == "never" and not uses_clean:
        evals = [record for record in read_metrics(run.workdir) if record["kind"] == "eval"]
        evals = [r for r in evals if "clean" in r and r["step"] <= config.num_steps]
        if evals:
            best = max(evals, key=lambda r: (r["clean"]["accuracy"], -r["clean"]["loss"]))
            found["stopped"] = best["test"]["accuracy"]
    return found


def collect(runs: Iterable[Run], **columns: Callable) -> list[dict]:
    """Returns one row for each value of `columns`, method and choice: mean accuracy over the seeds.

    Args:
      runs: finished.
      **columns: name -> function of a run's config: what tells rows apart beside the method.

    Returns:
      Rows, in order of the columns and then of the runs. Accuracies are fractions, and intervals
      are of the mean (`tables.mean_and_interval`).
    """
    groups = collections.defaultdict(dict)
    for run in runs:
        values = tuple(of(run.config) for of in columns.values())
        for choice, accuracy in scores_of(run).items():
            # A run with a later phase is another run of the same method, and has its own scores.
            is_retrained = run.config.retrain != "none"
            if is_retrained == (choice == "retrained"):
                groups[*values, run.config.method, choice][run.config.seed] = accuracy
    rows = []
    for (*values, method, choice), by_seed in groups.items():
        mean, interval = tables.mean_and_interval(list(by_seed.values()))
        names = dict(zip(columns, values, strict=True)) | {"method": method, "choice": choice}
        scores = {"seeds": len(by_seed), "test_accuracy": mean, "ci95": interval}
        rows.append(names | scores)
    return sorted(rows, key=lambda row: tuple(row[name] for name in columns))


def pick(rows: list[dict], method: str, choice: str) -> list[dict]:
    """Returns the rows of a method under a choice of model."""
    return [row for row in rows if (row["method"], row["choice"]) == (method, choice)]


def to_markdown(rows: list[dict], column: str, unit: str = "") -> str:
    """Returns a table of accuracies in percent: methods down, the values of `column` across."""
    values = sorted({row[column] for row in rows})
    lines = []
    for method, choice in dict.fromkeys((row["method"], row["choice"]) for row in rows):
        cells = {row[column]: cell(row) for row in pick(rows, method, choice)}
        name = style.label(method, choice)
        lines.append([name, *(cells.get(value, "not run") for value in values)])
    return tables.markdown(["test accuracy, %", *(f"{value:g}{unit}" for value in values)], lines)


def cell(row: dict) -> str:
    """Returns "87.50 ± 1.00 (3)": accuracy, interval and number of seeds."""
    return f"{tables.percent(row['test_accuracy'], row['ci95'])} ({row['seeds']})"


def interval(row: dict) -> float:
    """Returns half the interval in percent, 0 for a single seed, as an error bar."""
    return 0.0 if math.isnan(row["ci95"]) else 100 * row["ci95"]
