"""Good files of every kind, and a way to run a command line on bad ones without a new process.

A case is a command line, perhaps with a file that is written first. In its arguments {d} is the
folder of good files of `make_good`, {c} a folder of the case's own, in which the command runs.
"""

import contextlib
import copy
import io
import os
import pathlib
import runpy
import signal
import sys
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from absl import flags
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[1]
SECONDS = 10  # after which a command is taken to hang
SCRIPTS = {
    "main": "reweight_jax/main.py",
    "predict": "reweight_jax/predict.py",
    "report": "reweight_jax/report.py",
    "sweep": "scripts/sweep.py",
    "choose_trusted": "scripts/choose_trusted.py",
    "prepare_data": "scripts/prepare_data.py",
}


class Case(NamedTuple):
    """A command line that is wrong.

    Attributes:
      name: of the test.
      command: a name in SCRIPTS.
      arguments: of it.
      words: what the message must have.
      make: writes files into the case's folder, its first argument; the other is that of good ones.
    """

    name: str
    command: str
    arguments: tuple[str, ...]
    words: tuple[str, ...] = ()
    make: Callable[[pathlib.Path, pathlib.Path], None] | None = None


class Ended(NamedTuple):
    """How a command ended, and the paths that it has written."""

    code: int
    out: str
    err: str
    written: set[str]


def run_here(
    case: Case, good: pathlib.Path, folder: pathlib.Path, seconds: float = SECONDS
) -> Ended:
    """Runs the command in this process; any exception but SystemExit is the test's."""
    handlers = signal.signal(signal.SIGALRM, _hangs), signal.getsignal(signal.SIGINT)
    if case.make:
        case.make(folder, good)
    before, where = contents(folder), os.getcwd()
    script = ROOT / SCRIPTS[case.command]
    out, err = io.StringIO(), io.StringIO()
    saved = {name: copy.copy(value) for name, value in vars(flags.FLAGS).items()}
    others = [name for name in flags.FLAGS if not _is_of_absl(name)]
    flags.FLAGS.remove_flag_values(others)  # of modules that other tests import
    path, argv = list(sys.path), sys.argv
    try:
        os.chdir(folder)
        sys.argv = [
            str(script),
            *(argument.format(d=good, c=folder) for argument in case.arguments),
        ]
        signal.setitimer(signal.ITIMER_REAL, seconds)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                runpy.run_path(str(script), run_name="__main__")
                code = 0
            except SystemExit as end:
                code = end.code or 0
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        os.chdir(where)
        sys.path[:], sys.argv = path, argv
        vars(flags.FLAGS).update(saved)
        signal.signal(signal.SIGALRM, handlers[0])
        signal.signal(signal.SIGINT, handlers[1])
    return Ended(code, out.getvalue(), err.getvalue(), contents(folder) - before)


def contents(folder: pathlib.Path) -> set[str]:
    """The paths of everything in a folder."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def _hangs(*_):
    raise TimeoutError("the command does not end")


def _is_of_absl(name):
    return flags.FLAGS.find_module_defining_flag(name, "").startswith("absl.")


# --- Good files, of which the cases change one thing ----------------------------------------------

NPZ = ("--config=configs/own_data.py:npz", "--config.data.path={d}/a.npz", "--workdir={c}/run")
CSV = ("--config=configs/own_data.py:csv", "--config.data.path={d}/a.csv")
CSV += ("--config.data.ignore_columns=('red','big','checked')",)
TRAIN_CSV = (*CSV, "--workdir={c}/run", "--config.method=baseline")
IMAGES = ("--config=configs/own_data.py:image_folder", "--config.data.path={d}/images")
IMAGES += ("--config.data.clean_path={d}/trusted", "--workdir={c}/run")
SHORT = ("--config.num_steps=2", "--config.log_every_steps=2", "--config.eval_every_steps=2")
SHORT += ("--config.checkpoint_every_steps=2", "--config.model.hidden=(4,)")
SHORT += ("--config.batch_size=20",)


def make_good(folder: pathlib.Path) -> None:
    """Writes a good file of every kind, and the folder `run` of a finished run."""
    np.savez(folder / "a.npz", **arrays())
    np.savez(folder / "new.npz", input=arrays()["test_input"])
    write_table(folder / "a.csv", table())
    write_table(folder / "trusted.csv", table(6, 20))
    write_images(folder / "images")
    write_images(folder / "trusted", 1)
    case = Case("good", "main", (*NPZ[:2], "--workdir={d}/run", *SHORT))
    ended = run_here(case, folder, folder, seconds=100)
    assert ended.code == 0, ended.err


def arrays() -> dict[str, np.ndarray]:
    """The arrays of a good npz file."""
    x = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    label = np.where(x[:, 0] > 0, "up", "down")
    parts = {"train": slice(0, 40), "clean": slice(40, 50), "test": slice(50, 60)}
    found = {f"{name}_input": x[rows] for name, rows in parts.items()}
    return found | {f"{name}_label": label[rows] for name, rows in parts.items()}


def table(rows: int = 12, start: int = 0) -> list[list]:
    """The lines of a good CSV file: two features, a label, two tags and a mark."""
    numbers = range(start, start + rows)
    lines = [[i, i % 3 - 1, "ab"[i % 2], i % 2, i // 2 % 2, int(i < 4)] for i in numbers]
    return [["x", "y", "label", "red", "big", "checked"], *lines]


def write_table(path: pathlib.Path, lines: list) -> None:
    path.write_text("".join(",".join(map(str, line)) + "\n" for line in lines))


def write_images(folder: pathlib.Path, per_class: int = 4, size: int = 8) -> None:
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            pixels = rng.integers(0, 256, (size, size, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
