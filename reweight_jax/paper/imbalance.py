"""Section 4.1: test error by imbalance ratio, as a table and as Figure 2."""

import collections
import math
import pathlib
import statistics

import matplotlib
from matplotlib.figure import Figure

from reweight_jax.paper.tables import mean_and_interval, percent, read_runs
from reweight_jax.records import plots

METHODS = ("baseline", "proportion", "resample", "hard_mining", "random", "reweight")
COLUMNS = ("imbalance_ratio", "method", "num_steps", "seeds", "test_error", "ci95")
COLUMNS += ("best_test_error", "best_ci95", "steps_per_second", "device")


def collect(folder: pathlib.Path) -> list[dict]:
    """Returns one row per (ratio, method, num_steps) found under `folder`; errors are fractions.

    The interval is that of the mean over seeds: Student's t at 95%, NaN for a single seed.
    """
    groups = collections.defaultdict(list)
    for config, result in read_runs(folder):
        key = config["data"]["imbalance_ratio"], result["method"], result["num_steps"]
        groups[key].append(result)
    rows = []
    for (ratio, method, num_steps), results in sorted(groups.items()):
        last, interval = mean_and_interval([r["last"]["test_error"] for r in results])
        best, best_interval = mean_and_interval([r["best"]["test_error"] for r in results])
        speed = statistics.median(r["steps_per_second"] for r in results)
        device = results[0]["device"]
        values = (ratio, method, num_steps, len(results), last, interval, best, best_interval)
        rows.append(dict(zip(COLUMNS, values + (speed, device), strict=True)))
    return rows


def to_markdown(rows: list[dict]) -> str:
    """Methods down, ratios across, test error in percent; steps and seeds stand in each cell."""
    ratios = sorted({row["imbalance_ratio"] for row in rows})
    lines = ["| method | " + " | ".join(f"{ratio:g}:1" for ratio in ratios) + " |"]
    lines.append("|---" * (len(ratios) + 1) + "|")
    for method in sorted({row["method"] for row in rows}, key=_order):
        cells = []
        for ratio in ratios:
            here = [r for r in rows if (r["method"], r["imbalance_ratio"]) == (method, ratio)]
            cells.append("<br>".join(_cell(row) for row in here))
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _order(method):
    return METHODS.index(method) if method in METHODS else -1


def _cell(row):
    seeds = f"{row['seeds']} seed{'s' if row['seeds'] > 1 else ''}"
    return f"{percent(row['test_error'], row['ci95'])} ({seeds}, {row['num_steps']:,} steps)"


def draw(rows: list[dict], path: pathlib.Path) -> None:
    """Figure 2 of the paper: test error against imbalance ratio, a line per method.

    Only runs of the largest number of steps are drawn: shorter ones are not comparable.
    """
    num_steps = max(row["num_steps"] for row in rows)
    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axes = figure.subplots()
    methods = sorted({row["method"] for row in rows}, key=_order)
    colors = dict(zip(METHODS, matplotlib.color_sequences["tab10"], strict=False))
    for method in methods:
        mine = [r for r in rows if r["method"] == method and r["num_steps"] == num_steps]
        if mine:
            ratios = [r["imbalance_ratio"] for r in mine]
            errors = [100 * r["test_error"] for r in mine]
            bars = [0 if math.isnan(r["ci95"]) else 100 * r["ci95"] for r in mine]
            width = 2.5 if method == "reweight" else 1.2
            style = {"lw": width, "color": colors.get(method, "gray"), "label": method}
            axes.errorbar(ratios, errors, bars, marker="o", capsize=3, **style)
    ratios = sorted({row["imbalance_ratio"] for row in rows})
    axes.set_xscale("log")
    axes.set_xticks(ratios, [f"{ratio:g}:1" for ratio in ratios])
    axes.minorticks_off()
    axes.set(xlabel="imbalance ratio", ylabel="test error, %", ylim=(0, None))
    axes.set_title(f"after {num_steps:,} steps; bars: 95% interval over seeds", fontsize=10)
    axes.legend(frameon=False)
    plots.save(figure, path)
