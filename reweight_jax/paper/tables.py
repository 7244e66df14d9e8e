"""Tables over many finished runs: what they have in common."""

import csv
import io
import json
import math
import pathlib
import statistics

import scipy.special


def read_runs(folder: pathlib.Path) -> list[tuple[dict, dict]]:
    """Returns (config.json, result.json) of every finished run under `folder`, in order of path."""
    return [
        (json.loads((path.parent / "config.json").read_text()), json.loads(path.read_text()))
        for path in sorted(folder.glob("*/*/*/result.json"))
    ]


def mean_and_interval(values: list[float]) -> tuple[float, float]:
    """Returns the mean and half the 95% confidence interval (Student's t; NaN for one value)."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, math.nan
    error = statistics.stdev(values) / math.sqrt(len(values))
    return mean, float(scipy.special.stdtrit(len(values) - 1, 0.975)) * error


def to_csv(rows: list[dict]) -> str:
    """The rows, which have the same columns, as CSV; NaN and None are empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cells = {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()}
        writer.writerow({k: "" if v == "nan" else v for k, v in cells.items()})
    return text.getvalue()


def percent(mean: float, interval: float) -> str:
    """Fractions 0.875 and 0.01 -> "87.50 ± 1.00"; without the interval where it is NaN."""
    return f"{100 * mean:.2f}" + ("" if math.isnan(interval) else f" ± {100 * interval:.2f}")
