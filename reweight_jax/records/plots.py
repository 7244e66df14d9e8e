"""The pictures of a run, drawn from its records."""

import io
import pathlib

import numpy as np
from matplotlib.figure import Figure  # no pyplot: no global state, no display

from reweight_jax.records.report import write_atomically
from reweight_jax.train import hosts as processes


def plot_training_curve(records: list[dict], starts: list[int], path: pathlib.Path) -> None:
    """Test and training error, and weighted, plain and clean loss, against the step.

    Dotted lines stand at `starts`, where phases of fine-tuning begin.
    """
    trains = [r for r in records if r["kind"] == "train"]
    evals = [r for r in records if r["kind"] == "eval"]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    error_axes, loss_axes = figure.subplots(1, 2)
    steps, eval_steps = [r["step"] for r in trains], [r["step"] for r in evals]
    error_axes.plot(steps, [r["error"] for r in trains], lw=1, label="training batches")
    for split, name in (("hyper_val", "hyper-validation"), ("test", "test")):
        error_axes.plot(eval_steps, [r[split]["error"] for r in evals], marker=".", label=name)
    error_axes.set(xlabel="step", ylabel="error", ylim=(0, None))
    loss_axes.plot(steps, [r["plain_loss"] for r in trains], lw=1, label="training, mean")
    loss_axes.plot(steps, [r["loss"] for r in trains], lw=1, label="training, weighted")
    loss_axes.plot(eval_steps, [r["clean"]["loss"] for r in evals], marker=".", label="clean set")
    loss_axes.set(xlabel="step", ylabel="cross-entropy", yscale="log")
    for axes in (error_axes, loss_axes):
        for start in starts:
            axes.axvline(start, color="gray", lw=1, ls=":")
        axes.legend(frameon=False)
    save(figure, path)


def plot_weights(last_weights, groups: dict[str, np.ndarray], path: pathlib.Path) -> None:
    """Histogram of each group's example weights, 1 being the weight of plain training.

    Args:
      last_weights: float [N], each training example's last weight times the batch size, NaN where
        it was never in a batch.
      groups: name -> bool [N], which examples are of it.
      path: PNG to write; none is where no example was seen.
    """
    seen = np.isfinite(last_weights)
    if not seen.any():  # it was the clean set that was trained on
        return
    edges = np.linspace(0, max(1.0, last_weights[seen].max()), 31)
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, members in groups.items():
        weights = last_weights[seen & members]
        if len(weights):
            zero = np.mean(weights == 0)
            share = np.full(len(weights), 1 / len(weights))
            text = f"{name}: {len(weights)} examples, {zero:.0%} at zero"
            axes.hist(weights, edges, weights=share, histtype="step", lw=1.5, label=text)
    lowest = 0.5 / max(np.sum(seen & members) for members in groups.values())  # half an example
    axes.set(xlabel="weight x batch size", ylabel="share of the group")
    axes.set(yscale="log", ylim=(lowest, 1.5))
    if len(groups) <= 10:
        axes.legend(frameon=False)
    save(figure, path)


def plot_confusion(matrix, class_names, path: pathlib.Path) -> None:
    """A confusion matrix [K, K] of counts, by label (rows) and prediction, in shares of its row."""
    counts = np.asarray(matrix)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(5, 4.2), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, label="share of the class")
    axes.set(xlabel="predicted", ylabel="label")
    if len(counts) <= 10:
        axes.set_xticks(range(len(counts)), class_names)
        axes.set_yticks(range(len(counts)), class_names)
    save(figure, path)


def save(figure: Figure, path: pathlib.Path) -> None:
    """Writes a figure as a PNG, whole or not at all; of several processes, the first."""
    if not processes.is_first():
        return
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    png = io.BytesIO()
    figure.savefig(png, dpi=150, format="png")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, png.getvalue())
