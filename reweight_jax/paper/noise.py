"""Section 4.2: Tables 1 and 2, test accuracy under label noise, and how well weights find it.

A run gives up to four rows: its last step; +ES, the step that is best on the noisy hyper_val; +FT
and +ES+FT, both fine-tuned on the clean set. The runs of a variant whose name ends in "-short" are
the paper's form of early stopping, a shorter schedule; they are rows "+ES, short schedule" of the
same column.
"""

import collections
import math
import pathlib
import statistics

from reweight_jax.paper import published, tables

SHORT = "-short"
# Choice of model -> where its scores are in the result.json of a run, and of a short one.
CHOICES = {
    "": ("last", None),
    "+ES": ("best", None),
    "+ES, short schedule": (None, "last"),
    "+FT": ("finetuned_last", None),
    "+ES+FT": ("finetuned_best", None),
    "+ES+FT, short schedule": (None, "finetuned_last"),
}
# What makes a column of the noise table.
COLUMN = ("dataset", "noise_ratio", "imbalance_factor", "model", "num_clean", "num_train")
# How weights tell right labels from wrong ones: name in result.json -> heading, format.
WEIGHTS = {
    "mean_auc": ("AUC of the mean weight", ".3f"),
    "alignment_auc": ("AUC of the mean alignment", ".3f"),
    "margin_auc": ("AUC of the mean margin", ".3f"),
    "wrong_mass": ("share of the weight on wrong labels", ".1%"),
    "zero_right": ("right labels of weight 0", ".1%"),
    "zero_wrong": ("wrong labels of weight 0", ".1%"),
}


def collect(folder: pathlib.Path, name: str) -> list[dict]:
    """Returns `rows_of` the finished runs in the folders `name`-<variant> under `folder`."""
    folders = sorted(folder.glob(f"{name}-*"))
    return rows_of([run for run_folder in folders for run in tables.read_runs(run_folder)])


def rows_of(finished: list[tuple[dict, dict]]) -> list[dict]:
    """Returns the rows of finished runs, (config.json, result.json).

    One row per kind of noise, column, method, choice of model and setting. Accuracies are fractions
    and intervals are of the mean over seeds (`tables.mean_and_interval`). The statistics of the
    weights are means over seeds, of the last step; NaN in rows of other steps or without any.
    """
    runs = []
    for config, result in finished:
        if config["data"]["imbalance_ratio"] or "test_accuracy" not in result["last"]:
            continue
        short = result["variant"].endswith(SHORT)
        for choice, scores in CHOICES.items():
            if scores[short] in result:
                names = {"noise": config["data"]["noise"], **_column(config)}
                names |= {"method": result["method"], "choice": choice}
                names |= {"num_steps": result["num_steps"]}
                settings = tables.settings(config, finetuned="FT" in choice)
                accuracy = result[scores[short]]["test_accuracy"]
                runs.append((names, settings, (accuracy, result)))
    return sorted((_row(*group) for group in tables.group(runs)), key=_order)


def to_markdown(rows: list[dict], *, beside: bool = False) -> str:
    """Returns, for each kind of noise, a table of accuracies and one of weights.

    If `beside`, a table without a column of the paper's gets its numbers of CIFAR-10 beside ours.
    """
    parts = []
    for noise in sorted({row["noise"] for row in rows}, reverse=True):
        of_noise = [row for row in rows if row["noise"] == noise]
        name = "labels as they are" if noise == "none" else noise
        parts.append(f"{name}: test accuracy, %\n\n{_accuracies(of_noise, beside)}")
        weighted = [r for r in of_noise if not all(math.isnan(r[name]) for name in WEIGHTS)]
        if weighted:
            title = "how weights and margins tell right labels from wrong ones"
            parts.append(f"{name}: {title}\n\n{_weights(weighted)}")
    return "\n".join(parts)


def _column(config):
    data, model = config["data"], config["model"]
    network = model["name"]
    if "resnet" in network:
        network += f"-{model['depth']}-{model['width']}"
    sizes = {name: data[name] for name in ("noise_ratio", "imbalance_factor")}
    sizes |= {"model": network, "num_clean": data["num_clean"], "num_train": data["num_train"]}
    return {"dataset": data["name"], **sizes}


def _row(names, runs):
    accuracies, results = zip(*runs, strict=True)
    accuracy, interval = tables.mean_and_interval(list(accuracies))
    paper, paper_interval = _paper(names)
    weights = dict.fromkeys(WEIGHTS, math.nan)
    if CHOICES[names["choice"]][0] == "last":
        for name in WEIGHTS:
            weights[name] = statistics.fmean(r["weights"].get(name, math.nan) for r in results)
    scores = {"seeds": len(results), "test_accuracy": accuracy, "ci95": interval}
    scores |= {"paper": paper / 100, "paper_ci95": paper_interval / 100}
    return names | scores | weights | tables.speed(results)


def _paper(row):
    """Returns the paper's number for a row; (NaN, NaN) if it has none for this setting."""
    nothing = (math.nan, math.nan)
    setting = published.NOISE_SETTINGS.get((row["noise"], row["dataset"]))
    if (row["model"], row["num_clean"]) != setting:
        return nothing
    if row["noise_ratio"] != published.NOISE_RATIO or row["imbalance_factor"] or row["num_train"]:
        return nothing
    choice = row["choice"].replace(", short schedule", "")
    numbers = published.NOISE_ACCURACY[row["noise"]].get((row["method"], choice))
    return numbers[row["dataset"] == "cifar100"] if numbers else nothing


def _order(row):
    return row["noise"], *(row[name] for name in COLUMN), *_line_key(row), row["num_steps"]


def _line_key(row):
    """Orders methods that use only the noisy data before those that use clean data."""
    uses_clean = row["method"] in ("clean_only", "reweight") or "FT" in row["choice"]
    method = tables.rank(row["method"], published.NOISE_METHODS)
    return uses_clean, method, row["method"], list(CHOICES).index(row["choice"]), row["setting"]


def paper_elsewhere(row: dict) -> tuple[float, float]:
    """Returns the paper's number of CIFAR-10 for a row of any data set, (NaN, NaN) if none."""
    numbers = published.NOISE_ACCURACY.get(row["noise"], {})
    choice = row["choice"].replace(", short schedule", "")
    percent = numbers.get((row["method"], choice), [(math.nan, math.nan)])[0]
    return percent[0] / 100, percent[1] / 100


def _accuracies(rows, beside):
    columns = list(dict.fromkeys(_column_label(row) for row in rows))
    in_paper = {_column_label(row) for row in rows if not math.isnan(row["paper"])}
    head = [name for c in columns for name in ([c, "the paper's"] if c in in_paper else [c])]
    beside = beside and not in_paper
    if beside:
        network, num_clean = published.NOISE_SETTINGS[rows[0]["noise"], "cifar10"]
        head.append(f"the paper's: cifar10, {network}, {num_clean:,} clean")
    lines, by_line = [], collections.defaultdict(list)
    for row in sorted(rows, key=_line_key):
        by_line[_label(row)].append(row)
    for label, of_line in by_line.items():
        cells = [label]
        for column in columns:
            in_cell = [row for row in of_line if _column_label(row) == column]
            cells.append("<br>".join(_cell(row) for row in in_cell))
            if column in in_paper:
                known = [row for row in in_cell if not math.isnan(row["paper"])][:1]
                cells.append("".join(_paper_cell(row) for row in known))
        if beside:
            names = ("paper", "paper_ci95")
            number = dict(zip(names, paper_elsewhere(of_line[0]), strict=True))
            cells.append("" if math.isnan(number["paper"]) else _paper_cell(number))
        lines.append(cells)
    return tables.markdown(["method", *head], lines)


def _label(row):
    return tables.line_label(f"{row['method']} {row['choice']}".strip(), row["setting"])


def _column_label(row):
    if row["noise"] == "none":  # so that the trusted set need not be drawn either
        return f"{row['dataset']}, {row['model']}"
    parts = [row["dataset"], f"{100 * row['noise_ratio']:g}% noise", row["model"]]
    parts.append(f"{row['num_clean']:,} clean")
    if row["num_train"]:
        parts.append(f"{row['num_train']:,} training images")
    if row["imbalance_factor"]:
        parts.append(f"long tail {row['imbalance_factor']:g}:1")
    return ", ".join(parts)


def _cell(row):
    accuracy = tables.percent(row["test_accuracy"], row["ci95"])
    return f"{accuracy} ({row['seeds']} x {row['num_steps']:,} steps)"


def _paper_cell(row):
    if math.isnan(row["paper_ci95"]):  # MentorNet's, which the paper rounds
        return f"{100 * row['paper']:g}"
    return tables.percent(row["paper"], row["paper_ci95"])


def _weights(rows):
    headings = [heading for heading, _ in WEIGHTS.values()]
    lines = []
    for row in rows:
        cells = ((row[name], spec) for name, (_, spec) in WEIGHTS.items())
        cells = ("" if math.isnan(value) else format(value, spec) for value, spec in cells)
        lines.append([f"{_label(row)} ({_column_label(row)})", *cells])
    return tables.markdown(["method", *headings], lines)
