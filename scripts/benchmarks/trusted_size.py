"""How many trusted examples are enough: settled runs against the size of the trusted set.

    python scripts/benchmarks/trusted_size.py --features=PATH --human=PATH

From 40 trusted examples on, half of them are kept out of the gradient to calibrate the list, as
scripts/choose_trusted.py does. Beside ours is plain training that is fine-tuned on all of them. A
finished training is a file in --workdir, so the same command again goes on; trusted_size.md, .csv
and .png in --output hold what is finished. The files are those of scripts/benchmarks/labels.py.
"""

import gc
import json
import math
import pathlib
import time

import jax
import labels_data
import labels_fits
import labels_tables
from absl import flags
from matplotlib.figure import Figure

from reweight_jax import cli
from reweight_jax.errors import UserError, choose
from reweight_jax.paper.tables import line, mean_and_interval, to_csv
from reweight_jax.records import plots
from reweight_jax.records.workdir import write_atomically

_WORKDIR = flags.DEFINE_string("workdir", "runs/trusted_size", "Folder of finished trainings.")
_OUTPUT = flags.DEFINE_string("output", "runs/results", "Folder of the table and the picture.")
_ONLY = flags.DEFINE_list("only", ["mnist", "features"], "Data sets.")
_SIZES = flags.DEFINE_list("sizes", ["10", "30", "100", "300", "1000"], "Trusted examples, in all.")
_SEEDS = flags.DEFINE_integer("seeds", 3, "Seeds 0, 1, ... that are run.", 1, 100)
_TRAIN = flags.DEFINE_bool("train", True, "Whether to run what is missing, or only make tables.")
_FILES = {
    name: flags.DEFINE_string(name, "", f"An npz file of {what}; as of labels.py.")
    for name, what in {"mnist": "MNIST", "features": "features", "human": "CIFAR-10N"}.items()
}

NOISES = {
    "mnist": ("uniform", "background", "asymmetric"),
    "features": ("human_worst", "background", "asymmetric"),
}
NEEDED = 40  # trusted examples, from which on half of them calibrate
METRICS = {
    "precision_at_n": "P@n",
    "recall_5": "recall at 5%",
    "false_alarms_5": "false alarms at 5%",
    "test_accuracy": "test accuracy",
}
LINES = {  # method -> label, marker, line style
    "settled": ("settled", "o", "-"),
    "plain, fine-tuned": ("plain, fine-tuned", "v", "--"),
}
COLORS = ("#0072B2", "#D55E00", "#009E73")  # of the noises; Okabe and Ito


def setting_of(data_set: str, size: int) -> labels_data.Setting:
    """Returns the benchmark's setting with `size` trusted examples in all."""
    calibration = size // 2 if size >= NEEDED else 0
    sizes = {"num_clean": size - calibration, "num_calibration": calibration}
    return labels_data.SETTINGS[data_set]._replace(**sizes)


def train(setting: labels_data.Setting, noise: str, seed: int, paths: dict[str, str]) -> dict:
    """Returns {method: {metric: number}} of the two trainings of a cell."""
    data = labels_data.load(setting, noise, seed, paths)
    ours = labels_fits.settled_once(data, setting, seed)
    plain = labels_fits.plain(data, setting, seed)
    return {"settled": ours, "plain, fine-tuned": plain["plain, fine-tuned"]}


def rows_of(workdir: pathlib.Path, sizes: list[int]) -> list[dict]:
    """Returns a row for each data set, noise, size and method: seeds, METRIC and METRIC_ci95."""
    rows = []
    for data_set, noises in NOISES.items():
        for noise in noises:
            for size in sizes:
                folder = workdir / f"{data_set}-{noise}-{size}"
                setting = setting_of(data_set, size)
                cells = [finished(path, setting) for path in sorted(folder.glob("seed*.json"))]
                cells = [cell for cell in cells if cell]
                rows += [_row(data_set, noise, size, m, cells) for m in LINES if cells]
    return rows


def finished(path: pathlib.Path, setting: labels_data.Setting) -> dict | None:
    """Returns what a file says of `train`; None if there is none, or one of another setting."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content["cell"] if content.get("setting") == labels_fits.fields_of(setting) else None


def _row(data_set, noise, size, method, cells):
    row = {"data_set": data_set, "noise": noise, "trusted": size, "method": method}
    row["seeds"] = len(cells)
    for metric in METRICS:
        values = [cell[method][metric] for cell in cells if metric in cell[method]]
        pair = mean_and_interval(values) if values else (math.nan, math.nan)
        row[metric], row[f"{metric}_ci95"] = pair
    return row


def to_markdown(rows: list[dict]) -> str:
    """Returns one table; means over seeds with half a 95% interval (Student's t)."""
    names = ("data_set", "noise", "trusted", "method", "seeds")
    lines = [line([*(n.replace("_", " ") for n in names), *METRICS.values()])]
    lines += [line(["---"] * (len(names) + len(METRICS)))]
    for row in rows:
        lines += [line([*(str(row[name]) for name in names), *(_cell(row, m) for m in METRICS)])]
    return "\n".join(lines) + "\n"


def _cell(row, metric):
    mean, interval = row[metric], row[f"{metric}_ci95"]
    if math.isnan(mean):
        return ""
    return f"{mean:.3f}" + ("" if math.isnan(interval) else f" ± {interval:.3f}")


def draw(rows: list[dict]) -> Figure:
    """Draws P@n and the test accuracy against the size of the trusted set."""
    sets = [*dict.fromkeys(row["data_set"] for row in rows)]
    figure = Figure(figsize=(11, 3.6 * len(sets)), layout="constrained")
    panels = figure.subplots(len(sets), 2, squeeze=False)
    for data_set, (left, right) in zip(sets, panels, strict=True):
        for noise, color in zip(NOISES[data_set], COLORS, strict=True):
            for method, (label, marker, style) in LINES.items():
                key = (data_set, noise, method)
                points = [r for r in rows if (r["data_set"], r["noise"], r["method"]) == key]
                for axes, metric in ((left, "precision_at_n"), (right, "test_accuracy")):
                    axes.errorbar(
                        [row["trusted"] for row in points],
                        [row[metric] for row in points],
                        [0 if math.isnan(e := row[f"{metric}_ci95"]) else e for row in points],
                        marker=marker, ls=style, color=color, capsize=2,
                        label=f"{noise.replace('_', ', ')}: {label}",
                    )  # fmt: skip
        for axes, title in ((left, "P@n of the list"), (right, "test accuracy")):
            axes.set(
                xscale="log",
                xlabel="trusted examples",
                title=f"{labels_tables.TITLES[data_set]}: {title}",
            )
            axes.grid(alpha=0.3)
        right.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def main():
    for name in _ONLY.value:
        choose("--only", name, NOISES)
    if not all(size.isdigit() and int(size) >= 10 for size in _SIZES.value):
        raise UserError("--sizes: must be numbers from 10 on")
    sizes = [int(size) for size in _SIZES.value]
    workdir = cli.make_folder("--workdir", _WORKDIR.value)
    output = cli.make_folder("--output", _OUTPUT.value)
    paths = {name: flag.value for name, flag in _FILES.items()}
    for seed in range(_SEEDS.value if _TRAIN.value else 0):
        for data_set in _ONLY.value:
            for noise in NOISES[data_set]:
                for size in sizes:
                    path = workdir / f"{data_set}-{noise}-{size}" / f"seed{seed}.json"
                    setting = setting_of(data_set, size)
                    if not finished(path, setting):
                        content = {"setting": labels_fits.fields_of(setting)}
                        content["cell"] = train(setting, noise, seed, paths)
                        write_atomically(path, json.dumps(content, indent=1) + "\n")
                        print(f"{time.strftime('%H:%M:%S')} {path}", flush=True)
                        jax.clear_caches()  # each cell compiles its own programs
                        gc.collect()
    rows = rows_of(workdir, sorted(sizes))
    if not rows:
        raise UserError(f"--workdir {workdir}: nothing is finished")
    write_atomically(output / "trusted_size.md", to_markdown(rows))
    write_atomically(output / "trusted_size.csv", to_csv(rows))
    plots.save(draw(rows), output / "trusted_size.png")
    print(f"{output}/trusted_size.md")


if __name__ == "__main__":
    cli.run(main, resumes=True)
