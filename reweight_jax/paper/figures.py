"""The paper's figures that are lines or points of test scores, drawn from rows."""

import math
import pathlib

from reweight_jax.paper import imbalance, scores, style, tables
from reweight_jax.records import plots


def draw_imbalance(rows: list[dict], path: pathlib.Path) -> None:
    """Draws Figure 2 from the rows of `imbalance.collect`: test error against imbalance ratio.

    There is a line for each method and setting. Only runs of the largest number of steps are drawn:
    shorter ones are not comparable.
    """
    num_steps = max(row["num_steps"] for row in rows)
    drawn = [row for row in rows if row["num_steps"] == num_steps]
    figure, ((axes,),) = style.new_figure(size=(6.5, 4))
    lines = list(dict.fromkeys(map(imbalance.line_of, drawn)))
    for method, setting in lines:
        points = [row for row in drawn if imbalance.line_of(row) == (method, setting)]
        look = style.line(method) | {"label": tables.line_label(method, setting)}
        shift = lines.index((method, setting)) - len(lines) / 2  # bars side by side
        axes.errorbar(
            [row["imbalance_ratio"] * (1 + 0.024 * shift) for row in points],
            [100 * row["test_error"] for row in points],
            [0 if math.isnan(row["ci95"]) else 100 * row["ci95"] for row in points],
            **look | ({"ls": "--"} if setting else {}),
        )
    ratios = sorted({row["imbalance_ratio"] for row in rows})
    axes.set_xscale("log")
    axes.set_xticks(ratios, [f"{ratio:g}:1" for ratio in ratios])
    axes.minorticks_off()
    axes.set(xlabel="imbalance ratio", ylabel="test error, %", ylim=(0, None))
    axes.set_title(f"after {num_steps:,} steps; bars: 95% interval over seeds", fontsize=10)
    axes.legend(frameon=False)
    plots.save(figure, path)


def draw_lines(
    rows: list[dict], column: str, lines: list[tuple[str, str]], path: pathlib.Path, **options
) -> None:
    """Draws test accuracy against a column, with 95% intervals over seeds (Figures 4 and 5).

    Args:
      rows: of `scores.collect`.
      column: of the rows, the x axis.
      lines: (method, choice of model) of each line; one without rows is left out.
      path: of the PNG.
      **options: of `Axes.set`, such as xlabel.
    """
    figure, ((axes,),) = style.new_figure(size=(6.5, 4.2))
    widest, is_log = max((row[column] for row in rows), default=1), options.get("xscale") == "log"
    for method, choice in lines:
        points = scores.pick(rows, method, choice)
        if points:
            shift = 0.012 * (lines.index((method, choice)) - len(lines) / 2)  # bars side by side
            xs = [p[column] for p in points]
            xs = [x * (1 + 2 * shift) if is_log else x + shift * widest for x in xs]
            ys = [100 * p["test_accuracy"] for p in points]
            bars = list(map(scores.interval, points))
            axes.errorbar(xs, ys, bars, **style.line(method, choice))
    values = sorted({row[column] for row in rows})
    axes.set(ylabel="test accuracy, %", **options)
    axes.set_xticks(values, [f"{value:,g}" for value in values])
    axes.minorticks_off()
    axes.set_ylim(top=101, bottom=max(0, axes.get_ylim()[0]))
    axes.grid(axis="y", lw=0.4, color="#dddddd")
    axes.legend(frameon=False, fontsize=9)
    plots.save(figure, path)


def draw_dots(panels: dict[str, list[dict]], path: pathlib.Path) -> None:
    """Draws a row for each method and choice of model, with 95% intervals over seeds.

    Args:
      panels: title -> rows of `scores.collect`; those with a "paper" accuracy, a fraction, get a
        hollow diamond there.
      path: of the PNG.
    """
    lines = list(
        dict.fromkeys((r["method"], r["choice"]) for rows in panels.values() for r in rows)
    )
    lines = sorted(lines, key=lambda line: [*style.COLORS].index(line[0]))[::-1]
    place = {line: y for y, line in enumerate(lines)}
    size = (1.6 + 3.4 * len(panels), 1.2 + 0.24 * len(lines))
    figure, (row_of_axes,) = style.new_figure(1, len(panels), size=size)
    for axes, (title, rows) in zip(row_of_axes, panels.items(), strict=True):
        for row in rows:
            y, color = place[row["method"], row["choice"]], style.COLORS[row["method"]]
            look = {"color": color, "marker": "o", "ms": 5, "capsize": 2.5}
            axes.errorbar(100 * row["test_accuracy"], y, xerr=scores.interval(row), **look)
            if not math.isnan(row.get("paper", math.nan)):
                axes.plot(100 * row["paper"], y, marker="D", mfc="none", ms=7, color=color)
        axes.set_title(title, fontsize=10)
        axes.set(xlabel="test accuracy, %", ylim=(-0.7, len(lines) - 0.3))
        axes.set_xlim(max(0, axes.get_xlim()[0]), min(100.5, axes.get_xlim()[1]))
        axes.grid(lw=0.4, color="#dddddd")
        axes.set_yticks(range(len(lines)), [style.label(*line) for line in lines])
        if axes is not row_of_axes[0]:
            axes.tick_params(labelleft=False)
    if any(not math.isnan(r.get("paper", math.nan)) for rows in panels.values() for r in rows):
        sets = "CIFAR-10 and CIFAR-100" if any("cifar100" in p for p in panels) else "CIFAR-10"
        label = f"the paper, {sets}"
        row_of_axes[0].plot([], [], "D", mfc="none", color="gray", label=label)
        figure.legend(loc="outside lower center", frameon=False, fontsize=9)
    plots.save(figure, path)
