"""Figure 3: the weights that a trained model gives to right and to wrong labels."""

import pathlib
from typing import NamedTuple

import jax
import numpy as np
from matplotlib.axes import Axes

from reweight_jax.fitted import Fitted
from reweight_jax.models import scale_inputs
from reweight_jax.paper import published, style, tables
from reweight_jax.paper.grid import Run
from reweight_jax.records import plots
from reweight_jax.records.workdir import Workdir
from reweight_jax.reweight import example_weights
from reweight_jax.train.checkpoints import read_model
from reweight_jax.train.config import load_experiment

NUM_DRAWS = 20  # batches of each kind and run
RIGHT, WRONG = "#0072B2", "#D55E00"


class Panel(NamedTuple):
    """What a panel shows: a value of each example, and whether its label is wrong, bool [N]."""

    title: str
    unit: str
    values: np.ndarray
    wrong: np.ndarray


def panels(runs: list[Run]) -> list[Panel]:
    """Returns the four panels of Figure 3, all finished runs together.

    The weights of single batches are those of the model at the end, on examples that it never saw:
    batches of all classes, and batches of one class other than the background, of which 40% are
    moved to the background. The other two are means over the visits of the training examples.
    """
    batch_title = "a batch of all classes", "a batch of one class"
    found = {title: ([], []) for title in (*batch_title, "mean weights", "mean margins")}

    def add(title, values, wrong):
        for parts, part in zip(found[title], (values, wrong), strict=True):
            parts.append(part)

    for run in runs:
        weights_of, hyper_val = _weigher(run)
        rng = np.random.default_rng(run.config.seed)
        is_wrong = hyper_val.label != hyper_val.true_label
        background = np.bincount(hyper_val.label[is_wrong]).argmax()
        size = min(run.config.batch_size, hyper_val.size)
        counts = np.bincount(hyper_val.true_label)
        others = [k for k in range(len(counts)) if k != background]
        for _ in range(NUM_DRAWS):
            rows = rng.choice(hyper_val.size, size, replace=False)
            add(batch_title[0], weights_of(rows, hyper_val.label[rows]), is_wrong[rows])
            for k in others:
                of_class = np.flatnonzero(hyper_val.true_label == k)
                rows = rng.choice(of_class, min(size, *counts[others]), replace=False)
                flips = rng.permutation(len(rows)) < round(published.NOISE_RATIO * len(rows))
                labels = np.where(flips, background, k).astype(hyper_val.label.dtype)
                add(batch_title[1], weights_of(rows, labels), flips)
        examples = Fitted(run.workdir).examples
        wrong = examples["label"] != examples["true_label"]
        seen = examples["visits"] > 0
        for title, name in (("mean weights", "weight"), ("mean margins", "margin")):
            add(title, examples[name][seen], wrong[seen])
    units = dict.fromkeys(found, "weight x batch size") | {"mean margins": "margin, nats"}
    return [
        Panel(title, units[title], *map(np.concatenate, parts)) for title, parts in found.items()
    ]


def _weigher(run):
    """weigh(rows, labels) -> weights x n of these rows of hyper_val, and hyper_val itself."""
    experiment = load_experiment(run.config, jax.local_devices()[:1])
    like = jax.eval_shape(experiment.model.init, jax.random.key(0), experiment.sample)
    check = Workdir(run.workdir, run.config, experiment.facts).check_checkpoint
    folder, step = run.workdir / "checkpoints", run.config.num_steps
    params, model_state = read_model(folder, step, like, experiment.devices[0], check)
    clean, hyper_val = experiment.splits.clean, experiment.splits.hyper_val
    key = jax.random.key(run.config.seed)

    def loss_fn(params, batch):
        inputs, options = scale_inputs(batch[0]), {"train": True, "key": key}
        outputs, _ = experiment.model.apply(params, model_state, inputs, **options)
        return experiment.task.loss(outputs, batch[1]), None

    @jax.jit
    def weigh(batch, clean_batch):
        return example_weights(loss_fn, params, batch, clean_batch, method="jvp")

    def weights_of(rows, labels):
        trusted = (clean.inputs, clean.label)
        return len(rows) * np.asarray(weigh((hyper_val.inputs[rows], labels), trusted))

    return weights_of, hyper_val


def summary(shown: list[Panel]) -> list[dict]:
    """Returns a row for each panel and kind of label: counts, shares, means and the AUC."""
    from sklearn.metrics import roc_auc_score

    rows = []
    for panel in shown:
        auc = float(roc_auc_score(~panel.wrong, panel.values))
        for name, members in (("right", ~panel.wrong), ("wrong", panel.wrong)):
            values = panel.values[members]
            of_group = {"panel": panel.title, "labels": name, "examples": len(values)}
            of_group |= {"share_not_above_zero": float(np.mean(values <= 0))}
            rows.append(of_group | {"mean": float(values.mean()), "auc": auc})
    return rows


def to_markdown(rows: list[dict]) -> str:
    """Returns the rows of `summary` as a table."""
    head = ["", "labels", "examples", "at or below zero", "mean", "AUC, right against wrong"]
    lines = []
    for row in rows:
        numbers = [f"{row['share_not_above_zero']:.1%}", f"{row['mean']:.3g}", f"{row['auc']:.3f}"]
        lines.append([row["panel"], row["labels"], f"{row['examples']:,}", *numbers])
    return tables.markdown(head, lines)


def draw(shown: list[Panel], path: pathlib.Path) -> None:
    """Draws Figure 3: histograms of right and of wrong labels, as shares of each."""
    figure, axes = style.new_figure(2, 2, size=(9, 6))
    for panel, place in zip(shown, axes.flat, strict=True):
        _histogram(place, panel)
    plots.save(figure, path)


def _histogram(axes: Axes, panel: Panel) -> None:
    low, high = np.quantile(panel.values, [0.001, 0.999])
    edges = np.linspace(min(low, 0), max(high, 1), 31)
    for name, members, color in (("right", ~panel.wrong, RIGHT), ("wrong", panel.wrong, WRONG)):
        values = np.clip(panel.values[members], edges[0], edges[-1])
        share = np.full(len(values), 100 / len(values))
        text = f"{name} labels: {np.mean(panel.values[members] <= 0):.0%} "
        text += "not above 0" if panel.unit.startswith("margin") else "at 0"
        look = {"lw": 1.8, "histtype": "stepfilled", "ec": color, "fc": color + "30"}
        axes.hist(values, edges, weights=share, label=text, **look)
    scale = "linear" if panel.unit.startswith("margin") else "log"
    axes.set(xlabel=panel.unit, ylabel="share of these labels, %", yscale=scale)
    axes.set_title(panel.title, fontsize=10)
    axes.legend(frameon=False, fontsize=9)
