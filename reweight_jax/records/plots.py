"""The plots of a run, drawn from its records."""

import io
import pathlib

import numpy as np
from matplotlib.figure import Figure  # no pyplot: no global state, no display

from reweight_jax.records.workdir import write_atomically


def draw_run(records, result, weights, wrong, labels, classes, phases) -> dict[str, bytes]:
    """Returns the plots of a finished run: name -> PNG.

    Args:
      records, result: the contents of metrics.jsonl and result.json.
      weights: float [N], each training example's mean weight, NaN if it was in no batch.
      wrong: bool [N], which labels are wrong, or None.
      labels: the training labels.
      classes: names of the outputs; () for regression.
      phases: (name, step at which it begins) of each phase after the first one.
    """
    classes = [str(name).replace("$", r"\$") for name in classes]  # what is between two is TeX
    pictures = {"training_curve": training_curve(records, phases)}
    if wrong is not None and wrong.any():
        groups = {"right labels": ~wrong, "wrong labels": wrong}
    elif np.ndim(labels) == 1 and 0 < len(classes) <= 100:
        groups = {f"class {name}": labels == k for k, name in enumerate(classes)}
    else:
        groups = {"all": np.ones(len(weights), bool)}
    if np.isfinite(weights).any():  # otherwise it was the clean set that was trained on
        pictures["weights"] = weight_histogram(weights, groups)
    matrices = result.get("confusion", {}).get("last", {})
    if matrices:
        split = "test" if "test" in matrices else "hyper_val"
        pictures["confusion"] = confusion(matrices[split], classes)
    return {name: to_png(figure) for name, figure in pictures.items()}


def training_curve(records: list[dict], phases: list[tuple[str, int]]) -> Figure:
    """Draws error and losses against the step; a dotted line is where a phase begins."""
    trains = [r for r in records if r["kind"] == "train"]
    evals = [r for r in records if r["kind"] == "eval"]
    splits = {"hyper_val": "hyper-validation", "calibration": "calibration", "test": "test"}
    figure = Figure(figsize=(9, 4), layout="constrained")
    error_axes, loss_axes = figure.subplots(1, 2)

    def plot(axes, records, value, **style):
        """Lines of `value(record)`, which are not joined from one phase to the next."""
        steps = np.array([r["step"] for r in records], float)
        ends = np.searchsorted(steps, [start for _, start in phases], side="right")
        values = np.insert(np.array([value(r) for r in records], float), ends, np.nan)
        axes.plot(np.insert(steps, ends, np.nan), values, **style)

    thin = {"lw": 1, "marker": ".", "ms": 2}  # a phase may have a single record
    plot(error_axes, trains, lambda r: r["error"], label="training batches", **thin)
    for split, name in splits.items():
        score = next((s for s in ("error", "mae") if s in evals[-1].get(split, {})), None)
        if score:
            plot(error_axes, evals, lambda r: r[split][score], marker=".", label=name)  # noqa: B023
    error_axes.set(xlabel="step", ylabel="error", ylim=(0, None))
    for key, name in (("plain_loss", "mean"), ("loss", "weighted")):
        plot(loss_axes, trains, lambda r: r[key], label=f"training, {name}", **thin)  # noqa: B023
    if "clean" in evals[-1]:
        plot(loss_axes, evals, lambda r: r["clean"]["loss"], marker=".", label="clean set")
    loss_axes.set(xlabel="step", ylabel="loss", yscale="log")
    for axes in (error_axes, loss_axes):
        axes.locator_params(axis="x", nbins=5)  # 80,000 steps have long names
        for name, start in phases:
            axes.axvline(start, color="gray", lw=1, ls=":")
            place = {"rotation": 20, "transform": axes.get_xaxis_transform()}
            axes.text(start, 1.01, name, fontsize=8, color="gray", **place)
        axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=2)
    return figure


def weight_histogram(weights: np.ndarray, groups: dict[str, np.ndarray]) -> Figure:
    """Draws a histogram of each group's mean example weights; 1 is the weight of plain training.

    Args:
      weights: float [N], NaN if an example was never in a batch; at least one is finite.
      groups: name -> bool [N], which examples belong to it.
    """
    seen = np.isfinite(weights)
    edges = np.linspace(0, max(1.0, weights[seen].max()), 31)
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, members in groups.items():
        values = weights[seen & members]
        if len(values):
            share = np.full(len(values), 1 / len(values))
            text = f"{name}: {len(values)} examples, {np.mean(values == 0):.0%} at zero"
            axes.hist(values, edges, weights=share, histtype="step", lw=1.5, label=text)
    lowest = 0.5 / max(np.sum(seen & members) for members in groups.values())  # half an example
    axes.set(xlabel="mean weight x batch size", ylabel="share of the group")
    axes.set(yscale="log", ylim=(lowest, 1.5))
    if len(groups) <= 10:
        axes.legend(frameon=False)
    return figure


def confusion(matrix, classes) -> Figure:
    """Draws a confusion matrix [K, K] of counts by label (rows), as shares of each row."""
    counts = np.asarray(matrix)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(5, 4.2), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, label="share of the class")
    axes.set(xlabel="predicted", ylabel="label")
    if len(counts) <= 10:
        rotation = 45 if max(len(str(name)) for name in classes) > 3 else 0
        axes.set_xticks(range(len(counts)), classes, rotation=rotation)
        axes.set_yticks(range(len(counts)), classes)
    return figure


def to_png(figure: Figure) -> bytes:
    """Returns the figure as a PNG, without the top and right lines of each frame."""
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    png = io.BytesIO()
    figure.savefig(png, dpi=150, format="png")
    return png.getvalue()


def save(figure: Figure, path: pathlib.Path) -> None:
    """Writes a figure as a PNG, atomically."""
    write_atomically(path, to_png(figure))
