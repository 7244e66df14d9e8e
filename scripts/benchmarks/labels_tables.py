"""The table and the picture of scripts/benchmarks/labels.py."""

import collections
import math
import pathlib

from labels_data import NOISES, SETTINGS, Setting
from matplotlib.figure import Figure

from reweight_jax.paper.tables import line, mean_and_interval, to_csv
from reweight_jax.records import plots
from reweight_jax.records.workdir import write_atomically

# Rows of the table in their order; a new one comes last.
METHODS = (
    *("reweight", "reweight, retrained", "reweight, retrained, fine-tuned", "reweight, alignment"),
    *("settled", "settled, retrained", "settled, retrained, fine-tuned", "settled, relabelled"),
    "judged",
    *("plain, margin (AUM)", "plain, calibrated", "plain, confidence", "plain, fine-tuned"),
    *("trusted only", "cleanlab, self confidence", "cleanlab, normalized margin"),
    "cleanlab, find and drop",
)
METRICS = ("auroc", "average_precision", "precision_at_n", "precision_at_100")
METRICS += tuple(
    f"{kind}_{rule}"
    for rule in ("1", "5", "10", "bh", "found")
    for kind in ("false_alarms", "recall", "discoveries")
)
METRICS += ("estimate", "true_share", "right_suggestions", "test_accuracy", "calibration_accuracy")
METRICS += ("seconds",)
# Columns of the Markdown table: title -> metrics, of which a row has at most one.
COLUMNS = {
    "AUROC": ("auroc",),
    "AP": ("average_precision",),
    "P@n": ("precision_at_n",),
    "P@100": ("precision_at_100",),
    "right suggestions": ("right_suggestions",),
    "false alarms": ("false_alarms_5", "false_alarms_found"),
    "recall": ("recall_5", "recall_found"),
    "false discoveries": ("discoveries_bh", "discoveries_found"),
    "test accuracy": ("test_accuracy",),
    "s": ("seconds",),
}
EXPLANATION = """\
Means over seeds, ± half a 95% interval (Student's t). AUROC, AP (average precision), P@n (n =
number of wrong labels) and P@100 are of the list that the method ranks by; right suggestions: share
of the wrong labels for which the class believed most is the right one. False alarms (share of the
right labels that are flagged) and recall are at an asked false-alarm rate of 5%, false discoveries
(share of right labels among the flagged) at an asked rate of 10% by Benjamini-Hochberg; in the row
of cleanlab's find_label_issues all three are of what it finds. s: seconds of training, all
trainings that the row needs, without compiling. `reweight` is the paper's method. Rows that
begin with "settled" are ours, and so are "retrained" (without the labels that are not believed),
"relabelled" (with other labels in their place), "fine-tuned" (after that, only on the clean
examples for a fifth of the steps) and "judged" (reweighted to the end; the list is that of a
judge). If a run did not settle, the lists in the rows "settled" and "settled, retrained" are those
of judges too. Other lists of "retrained" and "relabelled" are by the mean of both models' margins.
"""
# Of the picture: row of the table -> (label, marker, colour of Okabe and Ito).
SHOWN = {
    "reweight": ("the paper's method", "o", "#D55E00"),
    "settled": ("ours, as fit has it", "s", "#E69F00"),
    "plain, margin (AUM)": ("margin, plain (AUM)", "^", "#0072B2"),
    "cleanlab, self confidence": ("cleanlab, 5 folds", "D", "#009E73"),
    "plain, fine-tuned": ("plain, fine-tuned", "v", "#56B4E9"),
    "trusted only": ("trusted only", "X", "#777777"),
}
TITLES = {
    "mnist": "MNIST 12,000, MLP",
    "mnist_lenet": "MNIST 12,000, LeNet",
    "digits": "digits, MLP",
    "features": "CIFAR-10 features, MLP",
    "pixels": "CIFAR-10 12,000, small CNN",
}
LABELS = {"uniform10": "uniform\n10%", "human_worst": "human\nworst", "asymmetric": "asym-\nmetric"}
LABELS |= {"human_aggregate": "human\naggr.", "background": "back-\nground"}


def rows_of(cells: list[tuple[str, str, int, dict]]) -> list[dict]:
    """Returns a dict for each data set, noise, method and seed, in the order of the table.

    `cells`: (data set, noise, seed, {method: {metric: number}}) of each part.
    """
    merged = collections.defaultdict(dict)
    for data_set, noise, seed, methods in cells:
        for method, numbers in methods.items():
            merged[data_set, noise, method, seed] |= numbers
    sets, noises = [*SETTINGS], [*NOISES]

    def place(key):
        data_set, noise, method, seed = key
        rank = METHODS.index(method) if method in METHODS else len(METHODS)
        return sets.index(data_set), noises.index(noise), rank, method, seed

    names = ("data_set", "noise", "method", "seed")
    return [dict(zip(names, key, strict=True)) | merged[key] for key in sorted(merged, key=place)]


def over_seeds(rows: list[dict]) -> list[dict]:
    """Returns a row for each data set, noise and method: "seeds", METRIC and METRIC_ci95."""
    groups = collections.defaultdict(list)
    for row in rows:
        groups[row["data_set"], row["noise"], row["method"]].append(row)
    result = []
    for (data_set, noise, method), of_seeds in groups.items():
        mean = {"data_set": data_set, "noise": noise, "method": method, "seeds": len(of_seeds)}
        for metric in METRICS:
            values = [row[metric] for row in of_seeds if metric in row]
            pair = mean_and_interval(values) if values else (math.nan, math.nan)
            mean[metric], mean[f"{metric}_ci95"] = pair
        result.append(mean)
    return result


def to_markdown(means: list[dict], settings: dict[str, Setting]) -> str:
    """Returns a table for each data set; the best AUROC and P@n of each noise are bold."""
    text = [EXPLANATION]
    for data_set in dict.fromkeys(row["data_set"] for row in means):
        setting, rows = settings[data_set], [r for r in means if r["data_set"] == data_set]
        text += [f"\n## {TITLES[data_set]}\n"]
        text += [
            f"{setting.num_clean} + {setting.num_calibration} trusted examples, "
            f"{setting.num_steps:,} steps of {setting.batch_size}.\n"
        ]
        text += [line(["noise", "method", "seeds", *COLUMNS])]
        text += [line(["---"] * (3 + len(COLUMNS)))]
        for row in rows:
            of_noise = [r for r in rows if r["noise"] == row["noise"]]
            cells = [_cell(row, metrics, of_noise) for metrics in COLUMNS.values()]
            text += [line([row["noise"], row["method"], str(row["seeds"]), *cells])]
    return "\n".join(text) + "\n"


def _cell(row, metrics, of_noise):
    metric = next((m for m in metrics if not math.isnan(row[m])), None)
    if metric is None:
        return ""
    mean, interval = row[metric], row[f"{metric}_ci95"]
    if metric == "seconds":
        return f"{mean:.2g}" if mean < 10 else f"{mean:.0f}"
    text = f"{mean:.3f}" + ("" if math.isnan(interval) else f" ± {interval:.3f}")
    # NaN is not above anything.
    is_best = metric in ("auroc", "precision_at_n") and not any(r[metric] > mean for r in of_noise)
    return f"**{text}**" if is_best else text


def draw(means: list[dict]) -> Figure:
    """Draws P@n against the kind of noise, one panel for each data set."""
    means = [row for row in means if not math.isnan(row["precision_at_n"])]
    sets = [*dict.fromkeys(row["data_set"] for row in means)]
    num_columns = 2 if len(sets) == 3 else min(3, len(sets) + 1)
    num_rows = -(-(len(sets) + 1) // num_columns)  # the legend has a panel
    size = (4.2 * num_columns, 3.3 * num_rows)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(num_rows, num_columns, squeeze=False).ravel()
    for axes, data_set in zip(panels, sets, strict=False):
        rows = [row for row in means if row["data_set"] == data_set]
        noises = [*dict.fromkeys(row["noise"] for row in rows)]
        for i, (method, (label, marker, color)) in enumerate(SHOWN.items()):
            points = [row for row in rows if row["method"] == method]
            shift = 0.13 * (i - (len(SHOWN) - 1) / 2)
            intervals = [row["precision_at_n_ci95"] for row in points]
            axes.errorbar(
                [noises.index(row["noise"]) + shift for row in points],
                [row["precision_at_n"] for row in points],
                [0 if math.isnan(interval) else interval for interval in intervals],
                **{"marker": marker, "color": color, "label": label, "ls": "", "ms": 8},
            )
        axes.set_xticks(range(len(noises)), [LABELS.get(n, n) for n in noises], fontsize=11)
        axes.tick_params(axis="y", labelsize=11)
        axes.set_ylim(0, 1.03)
        axes.grid(axis="y", alpha=0.3)
        for x in range(1, len(noises)):
            axes.axvline(x - 0.5, color="0.85", lw=0.8)
        axes.set_title(TITLES[data_set], fontsize=13)
    for axes in panels[len(sets) :]:
        axes.set_axis_off()
    handles, labels = panels[0].get_legend_handles_labels()
    title = "share of wrong labels\namong the first n of the list\n(n: how many are wrong)"
    options = {"loc": "center", "fontsize": 13, "title_fontsize": 13, "frameon": False}
    panels[len(sets)].legend(handles, labels, title=title, **options)
    return figure


def write(rows: list[dict], output: pathlib.Path, settings: dict[str, Setting]) -> None:
    """Writes labels.md, labels.csv, labels_seeds.csv, and labels.png if a label is wrong."""
    means = over_seeds(rows)
    write_atomically(output / "labels.md", to_markdown(means, settings))
    write_atomically(output / "labels.csv", to_csv(means))
    names = ("data_set", "noise", "method", "seed", *METRICS)
    filled = [{name: row.get(name, math.nan) for name in names} for row in rows]
    write_atomically(output / "labels_seeds.csv", to_csv(filled))
    if any(not math.isnan(row["precision_at_n"]) for row in means):
        plots.save(draw(means), output / "labels.png")
    print(f"{output}/labels.md")
