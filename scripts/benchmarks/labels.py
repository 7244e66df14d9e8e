"""Finds wrong labels and trains without them, beside other methods; makes a table and a picture.

    python scripts/benchmarks/labels.py --features=PATH --human=PATH --cifar10=PATH
    python scripts/benchmarks/labels.py --only=mnist --noise=uniform,background --seeds=1 --quick

Every cell is a data set, a kind of noise and a seed; its parts are groups of trainings. A finished
part is a file in --workdir, so the same command again goes on. The tables in --output hold all
parts that are there and belong to the current settings, whichever command made them: labels.md,
labels.csv (means and 95% intervals over seeds), labels_seeds.csv (one row a seed) and labels.png.

Sets: MNIST and scikit-learn's digits are read as everywhere in the project. A set whose file is not
given or not there is skipped with a line: --features is an npz with train_input, train_label,
test_input and test_label (CIFAR-10 as features); --human is CIFAR-10N as an npz with clean_label,
worse_label and aggre_label in the order of the training images; --cifar10 is an npz of the images
in the same order (without it they are read by TFDS, and have no human labels).
"""

import gc
import json
import pathlib
import sys
import time
from typing import NamedTuple

import jax
import labels_data
import labels_fits
import labels_tables
from absl import flags

import reweight_jax
from reweight_jax import cli
from reweight_jax.errors import UserError, choose
from reweight_jax.paper.grid import side_by_side
from reweight_jax.records.workdir import write_atomically

_WORKDIR = flags.DEFINE_string("workdir", "runs/labels", "Folder of the finished parts.")
_OUTPUT = flags.DEFINE_string("output", "runs/results", "Folder of the tables and the picture.")
_ONLY = flags.DEFINE_list("only", [*labels_data.SETTINGS], "Data sets.")
_NOISE = flags.DEFINE_list("noise", [*labels_data.NOISES], "Kinds of noise.")
_SEEDS = flags.DEFINE_integer("seeds", 3, "Seeds 0, 1, ... that are run.", 1, 100)
_PARTS = flags.DEFINE_list("parts", [*labels_fits.PARTS], "Groups of trainings.")
_WORKERS = flags.DEFINE_integer("workers", 1, "Processes that share the parts.", 1, 64)
_QUICK = flags.DEFINE_bool("quick", False, "Few examples and steps: to try the command.")
_TRAIN = flags.DEFINE_bool("train", True, "Whether to run what is missing, or only make tables.")
_FILES = {
    name: flags.DEFINE_string(name, "", f"An npz file of {what}.")
    for name, what in {
        "mnist": "MNIST; default: read by TFDS",
        "cifar10": "CIFAR-10's images; default: read by TFDS",
        "features": "CIFAR-10 as features",
        "human": "CIFAR-10N",
    }.items()
}


class Part(NamedTuple):
    """A group of trainings of a cell, and the file that says what came of it."""

    data_set: str
    setting: labels_data.Setting
    noise: str
    seed: int
    name: str
    path: pathlib.Path


def settings_of(quick: bool) -> dict[str, labels_data.Setting]:
    """Returns the settings of all data sets."""
    change = labels_data.quick if quick else lambda setting: setting
    return {name: change(setting) for name, setting in labels_data.SETTINGS.items()}


def parts_of(names, noises, seeds: int, parts, workdir: pathlib.Path, settings) -> list[Part]:
    """Returns all parts in the order in which they are run: seed by seed."""
    return [
        Part(name, settings[name], noise, seed, part, _path(workdir, name, noise, seed, part))
        for seed in range(seeds)
        for name in names
        for noise in noises
        if labels_data.has_noise(settings[name], noise)
        for part in parts
    ]


def _path(workdir, name, noise, seed, part):
    return workdir / f"{name}-{noise}" / f"seed{seed}" / f"{part}.json"


def finished(part: Part) -> dict | None:
    """Returns what a part's file holds; None if it has to be run, also if of other settings."""
    try:
        content = json.loads(part.path.read_text())
    except (OSError, ValueError):
        return None
    return content if content["setting"] == labels_fits.fields_of(part.setting) else None


def run(part: Part, paths: dict[str, str]) -> str:
    """Runs a part and writes its file; returns a line about it. UserError: its data is missing."""
    start, start_cpu = time.perf_counter(), time.process_time()
    data = labels_data.load(part.setting, part.noise, part.seed, paths)
    rows = labels_fits.PARTS[part.name](data, part.setting, part.seed)
    seconds = round(time.perf_counter() - start, 1)
    content = {"setting": labels_fits.fields_of(part.setting), "version": reweight_jax.__version__}
    # Of all threads: what else the machine does changes it less than the seconds.
    content |= {"seconds": seconds, "cpu_seconds": round(time.process_time() - start_cpu, 1)}
    content["rows"] = rows
    write_atomically(part.path, json.dumps(content, indent=1) + "\n")
    jax.clear_caches()  # hundreds of compiled programs would fill the memory
    gc.collect()
    row = next(iter(rows.values()))
    numbers = {k: row[k] for k in ("auroc", "precision_at_n", "test_accuracy") if k in row}
    text = ", ".join(f"{name} {value:.3f}" for name, value in numbers.items())
    title = f"{part.data_set} {part.noise} seed {part.seed} {part.name}"
    return f"{time.strftime('%H:%M:%S')} {title}: {seconds:.0f} s; {text}"


def run_all(parts: list[Part], paths: dict[str, str], workers: int) -> None:
    """Runs the parts, and prints a line about each; a set that is missing is skipped."""
    if workers == 1:
        for part in parts:
            print(run(part, paths), flush=True)
        return
    for text in side_by_side(run, [(part, paths) for part in parts], workers):
        print(text, flush=True)


def without_missing(parts: list[Part], paths: dict[str, str]) -> list[Part]:
    """Returns the parts whose data and packages are there; prints a line about what is not."""
    reasons, kept = {}, []
    for part in parts:
        key = part.data_set, part.noise if part.noise in labels_data.HUMAN else ""
        if key not in reasons:
            try:
                labels_data.load(part.setting, part.noise, part.seed, paths)
                reasons[key] = None
            except UserError as error:
                reasons[key] = str(error)
                print(f"skipped: {' '.join(key).strip()}: {error}", file=sys.stderr)
        if reasons[key] is None and (part.name != "cleanlab" or _has_cleanlab()):
            kept.append(part)
    if any(part.name == "cleanlab" for part in parts) and not _has_cleanlab():
        print("skipped: cleanlab: pip install 'reweight-jax[bench]'", file=sys.stderr)
    return kept


def _has_cleanlab():
    try:
        import cleanlab  # noqa: F401
    except ImportError:
        return False
    return True


def main():
    for flag, values, valid in (
        ("--only", _ONLY.value, labels_data.SETTINGS),
        ("--noise", _NOISE.value, dict.fromkeys(labels_data.NOISES)),
        ("--parts", _PARTS.value, labels_fits.PARTS),
    ):
        for value in values:
            choose(flag, value, valid)
    workdir = cli.make_folder("--workdir", _WORKDIR.value)
    output = cli.make_folder("--output", _OUTPUT.value)
    settings = settings_of(_QUICK.value)
    if _TRAIN.value:
        chosen = (_ONLY.value, _NOISE.value, _SEEDS.value, _PARTS.value)
        parts = parts_of(*chosen, workdir, settings)
        paths = {name: flag.value for name, flag in _FILES.items()}
        missing = [part for part in parts if finished(part) is None]
        run_all(without_missing(missing, paths), paths, _WORKERS.value)
    seeds = max([0, *(int(p.name[4:]) + 1 for p in workdir.glob("*/seed*"))])
    every = (labels_data.SETTINGS, labels_data.NOISES, seeds, labels_fits.PARTS)
    found = ((part, finished(part)) for part in parts_of(*every, workdir, settings))
    cells = [(part.data_set, part.noise, part.seed, c["rows"]) for part, c in found if c]
    if not cells:
        raise UserError(f"--workdir {workdir}: no part is finished")
    labels_tables.write(labels_tables.rows_of(cells), output, settings)


if __name__ == "__main__":
    cli.run(main, resumes=True)
