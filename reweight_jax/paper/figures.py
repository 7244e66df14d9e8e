"""The paper's figures, drawn from the rows of its tables."""

import math
import pathlib

import matplotlib
from matplotlib.figure import Figure

from reweight_jax.paper import imbalance, published, tables
from reweight_jax.records import plots


def draw_imbalance(rows: list[dict], path: pathlib.Path) -> None:
    """Draws Figure 2 from the rows of `imbalance.collect`: test error against imbalance ratio.

    There is a line for each method and setting. Only runs of the largest number of steps are drawn:
    shorter ones are not comparable.
    """
    num_steps = max(row["num_steps"] for row in rows)
    drawn = [row for row in rows if row["num_steps"] == num_steps]
    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axes = figure.subplots()
    colors = matplotlib.color_sequences["tab10"]
    colors = dict(zip(published.IMBALANCE_METHODS, colors, strict=False))
    for method, setting in dict.fromkeys(map(imbalance.line_of, drawn)):
        points = [row for row in drawn if imbalance.line_of(row) == (method, setting)]
        axes.errorbar(
            [row["imbalance_ratio"] for row in points],
            [100 * row["test_error"] for row in points],
            [0 if math.isnan(row["ci95"]) else 100 * row["ci95"] for row in points],
            marker="o",
            capsize=3,
            lw=2.5 if method == "reweight" else 1.2,
            ls="--" if setting else "-",
            color=colors.get(method, "gray"),
            label=tables.line_label(method, setting),
        )
    ratios = sorted({row["imbalance_ratio"] for row in rows})
    axes.set_xscale("log")
    axes.set_xticks(ratios, [f"{ratio:g}:1" for ratio in ratios])
    axes.minorticks_off()
    axes.set(xlabel="imbalance ratio", ylabel="test error, %", ylim=(0, None))
    axes.set_title(f"after {num_steps:,} steps; bars: 95% interval over seeds", fontsize=10)
    axes.legend(frameon=False)
    plots.save(figure, path)
