"""Rows over many finished runs: grouping, means and intervals, and how they are printed."""

import collections
import csv
import io
import json
import math
import pathlib
import statistics
from collections.abc import Iterable
from typing import Any

import scipy.special

from reweight_jax.records import workdir

# Fields that may differ between the runs of a row: the seed, and what changes no number.
NOT_COMPARED = {"seed", "trial", "log_every_steps", "checkpoint_every_steps", "steps_per_dispatch"}
NOT_COMPARED |= workdir.FREE - workdir.PATHS - {"data.corrections"}


def read_runs(folder: pathlib.Path) -> list[tuple[dict, dict]]:
    """Returns (config.json, result.json) of every finished run under `folder`, in order of path.

    Raises UserError for a damaged file.
    """
    return [workdir.read_run(path.parent) for path in sorted(folder.glob("*/*/*/result.json"))]


def settings(config: dict, *, finetuned: bool) -> dict:
    """Returns the fields of a config.json that can change a number, nested ones as "data.noise".

    The fields of fine-tuning are among them only if the number is one of a fine-tuned model.
    """
    unused = NOT_COMPARED | {"finetune_from", "judge_for"}
    if not finetuned:
        unused |= {"finetune_steps", "finetune_learning_rate"}
    content = {name: value for name, value in config.items() if name != "dataset"}
    fields = workdir.with_defaults(content)
    return {name: value for name, value in fields.items() if name not in unused}


def group(runs: list[tuple[dict, dict, Any]]) -> list[tuple[dict, list]]:
    """Groups runs that have the same names and settings.

    Args:
      runs: (names, settings, result) of each run: what is shown of it, such as its method, and all
        that can change a number.

    Returns:
      (names with "setting", results) of each group. "setting" says in which fields a group differs
      from others with the same names, such as "learning_rate=0.1"; it is empty if there are none.
    """
    groups = collections.defaultdict(list)
    for names, fields, result in runs:
        groups[json.dumps(names), json.dumps(fields, sort_keys=True)].append(result)
    rows = []
    for (names, fields), results in groups.items():
        namesakes = [json.loads(other) for name, other in groups if name == names]
        setting = ", ".join(
            f"{field}={value}"
            for field, value in json.loads(fields).items()
            if any(other.get(field) != value for other in namesakes)
        )
        rows.append((json.loads(names) | {"setting": setting}, results))
    return rows


def mean_and_interval(values: list[float]) -> tuple[float, float]:
    """Returns the mean and half its 95% confidence interval (Student's t; NaN for one value)."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, math.nan
    error = statistics.stdev(values) / math.sqrt(len(values))
    return mean, float(scipy.special.stdtrit(len(values) - 1, 0.975)) * error


def speed(results: list[dict]) -> dict:
    """Returns the columns of the speed: the median over the runs, and their devices.

    The speed is NaN if the runs had different devices.
    """
    devices = sorted({result["device"] for result in results})
    median = statistics.median(result["steps_per_second"] for result in results)
    return {
        "steps_per_second": median if len(devices) == 1 else math.nan,
        "device": ", ".join(devices),
    }


def to_csv(rows: list[dict]) -> str:
    """Returns the rows, which have the same columns, as CSV; NaN and None are empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cells = {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()}
        writer.writerow({k: "" if v == "nan" else v for k, v in cells.items()})
    return text.getvalue()


def line(cells: list[str]) -> str:
    """Returns a line of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def markdown(head: list[str], rows: Iterable[list[str]]) -> str:
    """Returns a Markdown table."""
    return "\n".join([line(head), "|---" * len(head) + "|", *map(line, rows)]) + "\n"


def line_label(method: str, setting: str) -> str:
    """Returns "method" or "method (setting)"."""
    return method + (f" ({setting})" if setting else "")


def percent(mean: float, interval: float) -> str:
    """Returns fractions 0.875 and 0.01 as "87.50 ± 1.00"; without the interval if it is NaN."""
    return f"{100 * mean:.2f}" + ("" if math.isnan(interval) else f" ± {100 * interval:.2f}")


def rank(method: str, methods: tuple[str, ...]) -> int:
    """Returns the place of a method in the paper's order; any other one comes before them."""
    return methods.index(method) if method in methods else -1
