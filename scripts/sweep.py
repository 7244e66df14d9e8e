"""Runs methods x imbalance ratios x seeds, and makes the table and Figure 2 of what is there.

    python scripts/sweep.py --config=configs/mnist_imbalance.py:digits --ratios=5,10,20 --seeds=0,1

A run that is finished is left alone and one that was stopped is resumed, so the same command
carries a sweep on; several sweeps may share a folder if they name different runs. Every finished
run under --workdir goes into <config>-<variant>.csv, .md and .png in --results, whichever sweep
made it.
"""

import collections
import csv
import io
import itertools
import json
import math
import pathlib
import statistics
import sys

import matplotlib
import scipy.stats
from absl import flags
from matplotlib.figure import Figure
from ml_collections import config_flags

from reweight_jax import cli, plots, report
from reweight_jax.errors import UserError, choose
from reweight_jax.methods import METHODS
from reweight_jax.train import train_and_evaluate

_CONFIG = config_flags.DEFINE_config_file("config", None, "FILE.py or FILE.py:VARIANT")
_METHODS = flags.DEFINE_list("methods", list(METHODS), "Methods to run.")
_RATIOS = flags.DEFINE_list("ratios", ["10", "20", "50", "100", "200"], "Imbalance ratios to run.")
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds to run.")
_WORKDIR = flags.DEFINE_string("workdir", "runs/sweep", "Folder of the runs.")
_RESULTS = flags.DEFINE_string("results", "runs/results", "Folder of the table and the picture.")

COLUMNS = ("imbalance_ratio", "method", "num_steps", "seeds", "test_error", "ci95")
COLUMNS += ("best_test_error", "best_ci95", "steps_per_second", "device")


def run_all(config, folder: pathlib.Path, methods, ratios, seeds) -> None:
    """Runs whatever of methods x ratios x seeds has no result.json of this many steps yet."""
    for seed, ratio, method in itertools.product(seeds, ratios, methods):
        one = config.copy_and_resolve_references()
        one.method, one.seed, one.data.imbalance_ratio = method, seed, ratio
        workdir = folder / f"ratio{ratio:g}" / method / f"seed{seed}"
        path = report.open_workdir(workdir, one) / "result.json"
        if path.exists() and json.loads(path.read_text())["num_steps"] == one.num_steps:
            continue
        print(f"{workdir} ...", file=sys.stderr, flush=True)
        try:
            result = train_and_evaluate(one, workdir)
        except UserError as error:
            raise UserError(f"{workdir}: {error}") from error
        print(f"{workdir}: test error {result['last']['test_error']:.2%}", flush=True)


def collect(folder: pathlib.Path) -> list[dict]:
    """Returns one row per (ratio, method, num_steps) found under `folder`; errors are fractions.

    The interval is that of the mean over seeds: Student's t at 95%, empty for a single seed.
    """
    groups = collections.defaultdict(list)
    for path in sorted(folder.glob("*/*/*/result.json")):
        result = json.loads(path.read_text())
        config = json.loads((path.parent / "config.json").read_text())
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


def mean_and_interval(values: list[float]) -> tuple[float, float]:
    """Returns the mean and half the 95% confidence interval (Student's t; NaN for one value)."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, math.nan
    error = statistics.stdev(values) / math.sqrt(len(values))
    return mean, float(scipy.stats.t.ppf(0.975, len(values) - 1)) * error


def to_csv(rows: list[dict]) -> str:
    """The rows as CSV; an interval that one seed cannot give is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cells = {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()}
        writer.writerow({k: "" if v == "nan" else v for k, v in cells.items()})
    return text.getvalue()


def to_markdown(rows: list[dict]) -> str:
    """Methods down, ratios across, test error in percent; steps and seeds stand in each cell."""
    ratios = sorted({row["imbalance_ratio"] for row in rows})
    lines = ["| method | " + " | ".join(f"{ratio:g}:1" for ratio in ratios) + " |"]
    lines.append("|---" * (len(ratios) + 1) + "|")
    for method in METHODS:
        cells = []
        for ratio in ratios:
            here = [r for r in rows if (r["method"], r["imbalance_ratio"]) == (method, ratio)]
            cells.append("<br>".join(_cell(row) for row in here))
        if any(cells):
            lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(row):
    interval = "" if math.isnan(row["ci95"]) else f" ± {100 * row['ci95']:.2f}"
    seeds = f"{row['seeds']} seed{'s' if row['seeds'] > 1 else ''}"
    return f"{100 * row['test_error']:.2f}{interval} ({seeds}, {row['num_steps']:,} steps)"


def draw(rows: list[dict], path: pathlib.Path) -> None:
    """Figure 2 of the paper: test error against imbalance ratio, a line per method.

    Only runs of the largest number of steps are drawn: shorter ones are not comparable.
    """
    num_steps = max(row["num_steps"] for row in rows)
    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axes = figure.subplots()
    for color, method in zip(matplotlib.color_sequences["tab10"], METHODS, strict=False):
        mine = [r for r in rows if r["method"] == method and r["num_steps"] == num_steps]
        if mine:
            ratios = [r["imbalance_ratio"] for r in mine]
            errors = [100 * r["test_error"] for r in mine]
            bars = [0 if math.isnan(r["ci95"]) else 100 * r["ci95"] for r in mine]
            width = 2.5 if method == "reweight" else 1.2
            axes.errorbar(
                ratios, errors, bars, marker="o", capsize=3, lw=width, color=color, label=method
            )
    ratios = sorted({row["imbalance_ratio"] for row in rows})
    axes.set_xscale("log")
    axes.set_xticks(ratios, [f"{ratio:g}:1" for ratio in ratios])
    axes.minorticks_off()
    axes.set(xlabel="imbalance ratio", ylabel="test error, %", ylim=(0, None))
    axes.set_title(f"after {num_steps:,} steps; bars: 95% interval over seeds", fontsize=10)
    axes.legend(frameon=False)
    plots.save(figure, path)


def main(argv):
    cli.check_arguments(argv, _CONFIG.value)
    config = _CONFIG.value
    if not (_METHODS.value and _RATIOS.value and _SEEDS.value):
        raise UserError("--methods, --ratios and --seeds: name at least one of each")
    for method in _METHODS.value:
        choose("--methods", method, METHODS)
    try:
        ratios = [float(ratio) for ratio in _RATIOS.value]
        seeds = [int(seed) for seed in _SEEDS.value]
    except ValueError as error:
        raise UserError(f"--ratios takes numbers and --seeds integers ({error})") from None
    name = f"{config.name}-{config.variant}"
    folder = pathlib.Path(_WORKDIR.value) / name
    results = pathlib.Path(_RESULTS.value)
    try:
        results.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--results {results}: cannot be used ({error})") from None
    run_all(config, folder, _METHODS.value, ratios, seeds)
    rows = collect(folder)
    report.write_atomically(results / f"{name}.csv", to_csv(rows))
    report.write_atomically(results / f"{name}.md", to_markdown(rows))
    draw(rows, results / f"{name}.png")
    print(to_markdown(rows), end="")


if __name__ == "__main__":
    cli.run(main)
