"""Section 4.2: Tables 1 and 2, test accuracy under label noise, and how well weights find it.

Every run gives up to four rows: its last step; +ES, its step that was best on the noisy hyper_val;
+FT and +ES+FT, both fine-tuned on the clean set. Runs of a variant with "-short" are the paper's
form of early stopping, a shorter schedule, and stand as "+ES, short schedule" in the same column.
"""

import collections
import math
import pathlib
import statistics

from reweight_jax.paper.tables import mean_and_interval, percent, read_runs

METHODS = ("baseline", "random", "weighted", "reed_soft", "reed_hard", "s_model", "s_model_conf")
METHODS += ("mentornet", "clean_only", "reweight")
SHORT = "-short"

# Choice of model -> (its scores in the result.json of a run, of one with the short schedule).
CHOICES = {
    "": ("last", None),
    "+ES": ("best", None),
    "+ES, short schedule": (None, "last"),
    "+FT": ("finetuned_last", None),
    "+ES+FT": ("finetuned_best", None),
    "+ES+FT, short schedule": (None, "finetuned_last"),
}

NAN = math.nan
# (noise, data set) -> what a run must have for the paper's number to stand beside it.
PAPER_SETTINGS = {
    ("uniform_flip", "cifar10"): ("wide_resnet-28-10", 1_000),
    ("uniform_flip", "cifar100"): ("wide_resnet-28-10", 1_000),
    ("background_flip", "cifar10"): ("resnet-32-1", 100),
    ("background_flip", "cifar100"): ("resnet-32-1", 1_000),
}
# The paper's Tables 1 and 2: noise -> {(method, choice): accuracy in percent and 95% interval over
# five trials, for CIFAR-10 and CIFAR-100}. MentorNet's have no interval.
PAPER = {
    "uniform_flip": {
        ("baseline", ""): ((67.97, 0.62), (50.66, 0.24)),
        ("reed_hard", ""): ((69.66, 1.21), (51.34, 0.17)),
        ("s_model", ""): ((70.64, 3.09), (49.10, 0.58)),
        ("mentornet", ""): ((76.6, NAN), (56.9, NAN)),
        ("random", ""): ((86.06, 0.32), (58.01, 0.37)),
        ("clean_only", ""): ((46.64, 3.90), (9.94, 0.82)),
        ("baseline", "+FT"): ((78.66, 0.44), (54.52, 0.40)),
        ("mentornet", "+FT"): ((78.0, NAN), (59.0, NAN)),
        ("random", "+FT"): ((86.55, 0.24), (58.54, 0.52)),
        ("reweight", ""): ((86.92, 0.19), (61.34, 2.06)),
    },
    "background_flip": {
        ("baseline", ""): ((59.54, 2.16), (37.82, 0.69)),
        ("baseline", "+ES"): ((64.96, 1.19), (39.08, 0.65)),
        ("random", ""): ((69.51, 1.36), (36.56, 0.44)),
        ("weighted", ""): ((79.17, 1.36), (36.56, 0.44)),
        ("reed_soft", "+ES"): ((63.47, 1.05), (38.44, 0.90)),
        ("reed_hard", "+ES"): ((65.22, 1.06), (39.03, 0.55)),
        ("s_model", ""): ((58.60, 2.33), (37.02, 0.34)),
        ("s_model_conf", ""): ((68.93, 1.09), (46.72, 1.87)),
        ("s_model_conf", "+ES"): ((79.24, 0.56), (54.50, 2.51)),
        ("clean_only", ""): ((15.90, 3.32), (8.06, 0.76)),
        ("baseline", "+FT"): ((82.82, 0.93), (54.23, 1.75)),
        ("baseline", "+ES+FT"): ((85.19, 0.46), (55.22, 1.40)),
        ("weighted", "+FT"): ((85.98, 0.47), (53.99, 1.62)),
        ("s_model_conf", "+FT"): ((81.90, 0.85), (53.11, 1.33)),
        ("s_model_conf", "+ES+FT"): ((85.86, 0.63), (55.75, 1.26)),
        ("reweight", ""): ((86.73, 0.48), (59.30, 0.60)),
    },
}
# What makes a column of the table, and the statistics of weights.
COLUMN = ("dataset", "noise_ratio", "imbalance_factor", "model", "num_clean", "num_train")
AREAS = ("auc", "mean_auc", "alignment_auc")
SHARES = ("wrong_mass", "zero_right", "zero_wrong")


def collect(folder: pathlib.Path, name: str) -> list[dict]:
    """Returns the rows of every finished run in the folders `name`-<variant> under `folder`.

    One row per data set, noise, model, method and choice, over seeds; accuracies are fractions and
    intervals are of the mean (Student's t at 95%, NaN for one seed). The statistics of the weights
    (`evaluate.weight_statistics`) are means, NaN where a run lacks one; they are of the last step,
    and stand with the rows of it.
    """
    groups = collections.defaultdict(list)
    for run_folder in sorted(folder.glob(f"{name}-*")):
        for config, result in read_runs(run_folder):
            data, model = config["data"], config["model"]
            if data["noise"] == "none":
                continue
            network = model["name"]
            if "resnet" in network:
                network += f"-{model['depth']}-{model['width']}"
            short = result["variant"].endswith(SHORT)
            for choice, scores in CHOICES.items():
                if scores[short] not in result:
                    continue
                column = (data["name"], data["noise_ratio"], data["imbalance_factor"], network)
                column += (data["num_clean"], data["num_train"])
                key = (data["noise"], *column, result["method"], choice, result["num_steps"])
                groups[key].append((result[scores[short]]["test_accuracy"], result))
    names = ("noise", *COLUMN, "method", "choice", "num_steps")
    rows = (_row(dict(zip(names, key, strict=True)), runs) for key, runs in groups.items())
    return sorted(rows, key=_order)


def _row(row, runs):
    """What makes a row, and its runs (accuracy, result) -> the row."""
    accuracies, results = zip(*runs, strict=True)
    accuracy, interval = mean_and_interval(list(accuracies))
    paper, paper_interval = _paper(row)
    weights = dict.fromkeys(AREAS + SHARES, math.nan)
    if CHOICES[row["choice"]][0] == "last" and all(result["weights"] for result in results):
        for name in weights:  # the alignment is ours alone; runs of before it lack the mean too
            found = [result["weights"].get(name, math.nan) for result in results]
            weights[name] = statistics.fmean(found)
    return row | {
        "seeds": len(results),
        "test_accuracy": accuracy,
        "ci95": interval,
        "paper": paper / 100,
        "paper_ci95": paper_interval / 100,
        **weights,
        "steps_per_second": statistics.median(result["steps_per_second"] for result in results),
        "device": results[0]["device"],
    }


def _paper(row):
    """The paper's number for a row, (NaN, NaN) where it has none or its setting is another."""
    setting = PAPER_SETTINGS.get((row["noise"], row["dataset"]))
    if (row["model"], row["num_clean"]) != setting or row["noise_ratio"] != 0.4:
        return NAN, NAN
    if row["imbalance_factor"] or row["num_train"]:
        return NAN, NAN
    choice = row["choice"].replace(", short schedule", "")
    numbers = PAPER[row["noise"]].get((row["method"], choice), ((NAN, NAN), (NAN, NAN)))
    return numbers[row["dataset"] == "cifar100"]


def _order(row):
    """Methods that use the noisy data alone before those that use clean data, as in the paper."""
    uses_clean = row["method"] in ("clean_only", "reweight") or "FT" in row["choice"]
    method = METHODS.index(row["method"]) if row["method"] in METHODS else -1
    column = tuple(row[name] for name in COLUMN)
    return (
        row["noise"],
        *column,
        uses_clean,
        method,
        list(CHOICES).index(row["choice"]),
        row["num_steps"],
    )


def to_markdown(rows: list[dict]) -> str:
    """One table of accuracies, and one of weights, for each kind of noise: models across."""
    parts = []
    for noise in sorted({row["noise"] for row in rows}, reverse=True):
        here = [row for row in rows if row["noise"] == noise]
        parts.append(f"{noise}: test accuracy, %\n\n{_accuracies(here)}")
        told = [row for row in here if row["auc"] != 0.5 and not math.isnan(row["auc"])]
        if told:
            parts.append(
                f"{noise}: how weights tell right labels from wrong ones\n\n{_weights(told)}"
            )
    return "\n".join(parts)


def _accuracies(rows):
    columns = list(dict.fromkeys(_column(row) for row in rows))
    printed = {_column(row) for row in rows if not math.isnan(row["paper"])}
    head = [name for c in columns for name in ([c, "the paper's"] if c in printed else [c])]
    lines = [_line(["method", *head]), "|---" * (len(head) + 1) + "|"]
    for method, choice in dict.fromkeys(
        (row["method"], row["choice"]) for row in sorted(rows, key=_place)
    ):
        cells = [f"{method} {choice}".strip()]
        for column in columns:
            mine = [r for r in rows if (r["method"], r["choice"]) == (method, choice)]
            mine = [r for r in mine if _column(r) == column]
            cells.append("<br>".join(_cell(row) for row in mine))
            if column in printed:
                known = [r for r in mine if not math.isnan(r["paper"])][:1]
                cells.append("".join(_paper_cell(row) for row in known))
        lines.append(_line(cells))
    return "\n".join(lines) + "\n"


def _line(cells):
    return "| " + " | ".join(cells) + " |"


def _place(row):
    return _order(row)[1 + len(COLUMN) :]


def _column(row):
    parts = [row["dataset"], f"{100 * row['noise_ratio']:g}% noise", row["model"]]
    parts.append(f"{row['num_clean']:,} clean")
    if row["num_train"]:
        parts.append(f"{row['num_train']:,} training images")
    if row["imbalance_factor"]:
        parts.append(f"long tail {row['imbalance_factor']:g}:1")
    return ", ".join(parts)


def _cell(row):
    accuracy = percent(row["test_accuracy"], row["ci95"])
    return f"{accuracy} ({row['seeds']} x {row['num_steps']:,} steps)"


def _paper_cell(row):
    if math.isnan(row["paper_ci95"]):  # MentorNet's, rounded in the paper
        return f"{100 * row['paper']:g}"
    return percent(row["paper"], row["paper_ci95"])


def _weights(rows):
    lines = [
        "| method | AUC of the last weights | of the mean weights | of the mean alignment "
        "| last weight on wrong labels | right labels whose last weight is 0 | wrong ones |",
        "|---" * 7 + "|",
    ]
    for row in rows:
        areas = ["" if math.isnan(row[name]) else f"{row[name]:.3f}" for name in AREAS]
        shares = [f"{100 * row[name]:.1f}%" for name in SHARES]
        lines.append(_line([f"{row['method']} ({_column(row)})", *areas, *shares]))
    return "\n".join(lines) + "\n"
