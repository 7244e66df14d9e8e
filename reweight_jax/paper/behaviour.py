"""Figures 6 and 7: what the trained model confuses, and how training went."""

import pathlib

import numpy as np

from reweight_jax.paper import style, tables
from reweight_jax.paper.grid import Run
from reweight_jax.records import plots
from reweight_jax.records.metrics import read_metrics
from reweight_jax.records.workdir import read_run


def draw_confusions(grid: list[list[Run]], titles: list[list[str]], path: pathlib.Path) -> None:
    """Draws the confusion matrices of the last steps of finished runs on the test set (Figure 6).

    Args:
      grid, titles: run and title of each panel, by row.
      path: of the PNG.
    """
    shape = len(grid), len(grid[0])
    figure, axes = style.new_figure(*shape, size=(3.3 * shape[1] + 0.8, 3.3 * shape[0]))
    for i, j in np.ndindex(shape):
        _, result = read_run(grid[i][j].workdir)
        counts = np.asarray(result["confusion"]["last"]["test"])
        share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        image = axes[i, j].imshow(share, cmap="Blues", vmin=0, vmax=1)
        axes[i, j].set(xlabel="predicted class", ylabel="true class")
        if len(counts) <= 10:
            axes[i, j].set_xticks(range(len(counts)))
            axes[i, j].set_yticks(range(len(counts)))
        right = np.trace(counts) / counts.sum()
        axes[i, j].set_title(f"{titles[i][j]}: {right:.1%} right", fontsize=10)
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.7)
    plots.save(figure, path)


def curves(runs: list[Run]) -> list[dict]:
    """Returns the accuracies of each method while it trains, means over its finished runs.

    Rows of method, step, and fractions: train_accuracy on the noisy labels of the training batches
    since the last evaluation, and hyper_val_accuracy and hyper_val_true_accuracy on the noisy and
    on the right labels of held-out examples. Later phases are left out.
    """
    rows = []
    for method in dict.fromkeys(run.config.method for run in runs):
        parts = [_curve(run) for run in runs if run.config.method == method]
        for points in zip(*parts, strict=True):
            means = {name: float(np.mean([p[name] for p in points])) for name in points[0]}
            rows.append({"method": method, "seeds": len(parts)} | means)
    return rows


def _curve(run):
    records = [r for r in read_metrics(run.workdir) if r["step"] <= run.config.num_steps]
    points, errors = [], []
    for record in records:
        if record["kind"] == "train":
            errors.append(record["error"])
        if record["kind"] == "eval":
            held_out = record["hyper_val"]
            scores = {"train_accuracy": 1 - float(np.mean(errors))}
            scores["hyper_val_accuracy"] = held_out["accuracy"]
            scores["hyper_val_true_accuracy"] = held_out["true_accuracy"]
            points.append({"step": record["step"]} | scores)
            errors = []
    return points


def draw_curves(rows: list[dict], drops: tuple[int, ...], path: pathlib.Path) -> None:
    """Draws Figure 7 from the rows of `curves`; `drops` are the steps at which the rate falls."""
    figure, (row_of_axes,) = style.new_figure(1, 2, size=(9, 4.2))
    shown = {
        "on noisy labels, as in the paper": ("train_accuracy", "hyper_val_accuracy"),
        "on the right labels": (None, "hyper_val_true_accuracy"),
    }
    for axes, (title, (dotted, solid)) in zip(row_of_axes, shown.items(), strict=True):
        for method in dict.fromkeys(row["method"] for row in rows):
            points = [row for row in rows if row["method"] == method]
            steps = [row["step"] for row in points]
            look = {"color": style.COLORS[method], "lw": 2.2 if method == "reweight" else 1.4}
            axes.plot(steps, [100 * row[solid] for row in points], label=method, **look)
            if dotted:
                axes.plot(steps, [100 * row[dotted] for row in points], ls=":", **look)
        for step in drops:
            label = "the learning rate drops" if dotted and step == drops[0] else None
            axes.axvline(step, color="#bbbbbb", lw=1, zorder=0, label=label)
        axes.set_title(title, fontsize=10)
        axes.set(xlabel="step", ylabel="accuracy, %", ylim=(None, 101))
        axes.locator_params(axis="x", nbins=5)
    row_of_axes[0].plot([], [], color="gray", ls="-", label="hyper-validation")
    row_of_axes[0].plot([], [], color="gray", ls=":", label="training batches")
    handles, labels = row_of_axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    plots.save(figure, path)


def most_confused(run: Run, count: int = 3) -> list[tuple[int, int, float]]:
    """Returns (true class, predicted class, share of the true class) of the largest errors."""
    _, result = read_run(run.workdir)
    counts = np.asarray(result["confusion"]["last"]["test"], float)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    np.fill_diagonal(share, -1)
    worst = np.argsort(-share, axis=None)[:count]
    places = zip(*np.unravel_index(worst, share.shape), strict=True)
    return [(int(i), int(j), float(share[i, j])) for i, j in places]


def curves_to_markdown(rows: list[dict], config) -> str:
    """Returns the hyper-validation accuracies of the rows of `curves` at three moments.

    At their highest, at the last evaluation before the learning rate first falls, and at the end.
    """
    first_drop = min(config.lr_drop_steps, default=config.num_steps)
    head = ["hyper-validation accuracy, %", "highest", f"step {first_drop:,}", "end"]
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows):
        points = [row for row in rows if row["method"] == method]
        for name, labels in (("", "noisy"), ("true_", "right")):
            values = {p["step"]: 100 * p[f"hyper_val_{name}accuracy"] for p in points}
            before = max(step for step in values if step <= first_drop)
            cells = [max(values.values()), values[before], values[max(values)]]
            lines.append([f"{method}, {labels} labels", *(f"{v:.1f}" for v in cells)])
    return tables.markdown(head, lines)
