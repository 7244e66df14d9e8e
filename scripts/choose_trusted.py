"""Draws examples of your own data to label by hand, and makes a trusted set of the answers.

    python scripts/choose_trusted.py --config=configs/own_data.py:image_folder \\
      --config.data.path=photos --num=100 --output=to_label
    python scripts/choose_trusted.py --finish=to_label/to_label.csv --output=trusted

The first command takes the same --config options as training. It draws as many examples of each
given label (--config.seed=1: others), and writes to_label/to_label.csv, with copies of images in
to_label/pictures/. Fill in the column `label`: the name of a class; the tags that hold, separated
by ; (or - if none does, and ?NAME if you cannot tell); or a number. Leave the cell empty if you
cannot tell: an example without an answer is left out.

The second command reads the answers, writes trusted/decisions.csv, and prints the command to train
with it (config.data.corrections). It moves these rows, with the right labels, from the training set
to the clean set, and of 40 answers or more half of each class, rounded down, to the calibration
set. Trusted examples that the data has already stay. The data itself is not changed or copied.

To add to a trusted set, give what the printed command has, and --workdir=RUN, a finished run on the
same data. Then only half of the examples are drawn at random. The others are those that the run was
least sure of. They teach it most, but they are not drawn as the right labels are: with them among
the calibration examples, no rate of false alarms would hold. So the random half joins the
calibration set, and the others join the clean set.
"""

import contextlib
import itertools
import json
import os
import pathlib
import re
import shlex
import shutil
import sys

import numpy as np
from absl import flags
from ml_collections import ConfigDict
from PIL import Image

from reweight_jax import cli
from reweight_jax.configs import default
from reweight_jax.data.corrections import find_rows, label_parser, label_texts, parse_cell, to_csv
from reweight_jax.data.tables import read_table
from reweight_jax.data.trusted import (
    RANDOM,
    calibration_half,
    choose_rows,
    copy,
    files_of,
    read_data,
    uncertainty_of,
)
from reweight_jax.errors import UserError, prefix
from reweight_jax.paths import expand, open_regular
from reweight_jax.records.workdir import read_run, writing
from reweight_jax.sealed import read_npz

_CONFIG = cli.define_config("FILE.py or FILE.py:VARIANT")
_NUM = flags.DEFINE_integer("num", 100, "How many examples to draw.", lower_bound=1)
_WORKDIR = flags.DEFINE_string("workdir", None, "A finished run: half are what it is unsure of.")
_FINISH = flags.DEFINE_string("finish", None, "The CSV file with the answers.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder to write, which must not exist.")

MAX_FEATURES = 1_000  # of a table, in the file to fill in
MIN_ANSWERS = 40  # for a calibration set: half of fewer support no useful rate of false alarms
NO_TAG = "-"
# A feature of one of these names gets a _.
OURS = ("index", "id", "picture", "given_label", "label", "drawn")


# --- The file to fill in --------------------------------------------------------------------------


def draw(config, arguments: list[str], num: int, output: str, workdir: str | None) -> str:
    """Writes the folder `output` with the file to fill in; returns what to tell the user.

    `arguments` are the --config options of the command line, for the command to train with.
    """
    data = read_data(config)
    train, paths = data.splits.train, files_of(config.data, data)
    if workdir and data.splits.clean is None:
        # A clean set of nothing but hard examples was worse than a random one: digits with uniform
        # and with asymmetric noise.
        raise UserError(
            "--workdir: the data has no trusted set; draw the first one at random, or give the "
            "run's, such as --config.data.corrections or clean_path"
        )
    uncertainty = uncertainty_in(workdir, data) if workdir else None
    with prefix("--num"):
        rows, drawn = choose_rows(data, num, uncertainty, config.seed)
    columns = {"index": train.index[rows]}
    with new_folder(output) as folder:
        if data.ids is not None:
            columns["id"] = data.ids[train.index[rows]]
        inputs = None if isinstance(train.inputs, dict) else train.inputs
        is_image = inputs is not None and inputs.dtype == np.uint8 and inputs.ndim == 4
        if paths or (is_image and inputs.shape[-1] in (1, 3)):
            (folder / "pictures").mkdir()
            columns["picture"] = []
            for row in rows:
                index = train.index[row]
                name = f"pictures/{index}_{paths[index].name}" if paths else f"pictures/{index}.png"
                columns["picture"].append(name)
                if paths:
                    copy(paths[index], folder / name)
                else:
                    pixels = inputs[row]
                    Image.fromarray(pixels if pixels.shape[-1] == 3 else pixels[..., 0]).save(
                        folder / name
                    )
        columns["given_label"] = label_texts(train.label[rows], data.classes)
        columns["label"] = [""] * num
        if workdir:
            columns["drawn"] = drawn
        if not paths and inputs is not None and inputs.ndim == 2 and inputs.shape[1] < MAX_FEATURES:
            for column, name in enumerate(data.columns or map(str, range(inputs.shape[1]))):
                columns[f"{name}_" if name in OURS else name] = inputs[rows, column]
        text = to_csv(columns, zip(*columns.values(), strict=True))
        (folder / "to_label.csv").write_text(text, encoding="utf-8", errors="replace")
        saved = {"arguments": arguments, "config": json.loads(config.to_json())}
        (folder / "config.json").write_text(json.dumps(saved, indent=2))
    if not data.classes:
        answers = "a number, or several separated by ;"
    elif train.label.ndim == 1:
        answers = "one of " + ", ".join(map(str, data.classes[:20]))
        answers += ", ..." if len(data.classes) > 20 else ""
    else:
        answers = f"the tags that hold, separated by ; or {NO_TAG} if none does"
    return (
        f"{num} examples: {output}/to_label.csv\n"
        f"fill in the column label ({answers}), and then:\n"
        f"python {shlex.quote(sys.argv[0])} --finish={shlex.quote(f'{output}/to_label.csv')} "
        f"--output={_unused('trusted')}"
    )


def _unused(name):
    numbered = itertools.chain([name], (f"{name}{i}" for i in itertools.count(2)))
    return next(each for each in numbered if not expand(each).exists())


def uncertainty_in(workdir: str, data) -> np.ndarray:
    """Returns `uncertainty_of` the run in a folder; UserError if there is none on these data."""
    folder = expand(workdir)
    try:
        saved, result = read_run(folder)
        examples = read_npz(folder / "examples.npz", result)
        return uncertainty_of(examples, tuple(saved["dataset"]["classes"]), data)
    except UserError as error:
        raise UserError(f"--workdir {error}") from None
    except (KeyError, TypeError) as error:
        raise UserError(f"--workdir {workdir}: no finished run ({error})") from None
    except ValueError as error:
        raise UserError(f"--workdir {workdir}: {error}") from None


@contextlib.contextmanager
def new_folder(name: str):
    """Yields a folder that becomes `name` if nothing fails; UserError if `name` has files."""
    folder = expand(name)
    if os.path.lexists(folder) and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--output {name}: is there already; remove it, or choose another folder")
    part = cli.make_folder("--output", folder.with_name(f".{folder.name}.part"))
    try:
        with writing(folder):
            yield part
            if folder.exists():
                folder.rmdir()
            part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


# --- The answers ----------------------------------------------------------------------------------


def finish(config, arguments: list[str], answers: str, output: str) -> str:
    """Writes the answers as decisions.csv to the folder `output`; returns what to tell the user."""
    data, table = read_data(config), read_table(expand(answers))
    train, index = data.splits.train, data.splits.train.index
    rows = find_rows(table, train, data.num_rows, data.classes, data.ids, data.num_rows)
    lines = [line for line, cell in enumerate(table.column("label")) if cell.strip()]
    if not lines:
        raise UserError(f"{table.path}: the column label is empty; fill it in")
    label, rows = read_answers(table, lines, train, data.classes), rows[lines]
    is_random = np.ones(len(rows), bool)
    if "drawn" in table.cells:
        is_random = np.array([table.cells["drawn"][line].strip() == RANDOM for line in lines])
    to_calibrate = is_random
    if is_random.all():
        to_calibrate = calibration_half(label, data, config.seed) & (len(rows) >= MIN_ANSWERS)
    columns = {"index": index[rows]} | ({} if data.ids is None else {"id": data.ids[index[rows]]})
    columns["given_label"] = label_texts(train.label[rows], data.classes)
    columns["decision"] = np.where(to_calibrate, "calibration", "clean")
    columns["new_label"] = label_texts(label, data.classes)
    with new_folder(output) as folder:
        text = to_csv(columns, zip(*columns.values(), strict=True))
        (folder / "decisions.csv").write_text(text, encoding="utf-8", errors="replace")
    before = [config.data.corrections] if config.data.corrections else []
    corrections = ",".join([*before, f"{output}/decisions.csv"])
    is_other = label != train.label[rows]
    if data.classes and label.ndim == 2:  # a tag that is not known does not differ
        is_other &= (label >= 0) & (train.label[rows] >= 0)
    is_other = is_other.reshape(len(rows), -1).any(axis=1)
    text = [f"{len(rows)} trusted examples: {output}/decisions.csv"]
    text += [f"clean: {np.sum(~to_calibrate)} of them"]
    text += [f"calibration: {np.sum(to_calibrate)} of them"] if to_calibrate.any() else []
    if not to_calibrate.any() and data.splits.calibration is None:
        least = f"{MIN_ANSWERS} answers, and two of a class"
        least = least if is_random.all() else "an answer to an example that was drawn at random"
        text.append(f"no calibration set, so no rate of false alarms: it takes {least}")
    text += [f"left out without an answer: {len(table.lines) - len(rows)}"]
    if is_random.any():
        share, how = is_other[is_random].mean(), "of those drawn at random"
        if data.classes and label.ndim == 1:
            how = "each class weighted by its size"
            share = share_by_class(is_other[is_random], train.label[rows[is_random]], train.label)
        text.append(f"given labels that differ, {how}: {share:.0%}")
    if data.classes and label.ndim == 1:
        older = [] if data.splits.clean is None else data.splits.clean.label
        missing = set(range(len(data.classes))) - {*label[~to_calibrate].tolist(), *older}
        if missing:
            names = ", ".join(str(data.classes[k]) for k in sorted(missing)[:10])
            text.append(f"no clean example of: {names}{', ...' if len(missing) > 10 else ''}")
    kept = [a for a in arguments if not a.startswith("--config.data.corrections=")]
    train_with = ["-m", "reweight_jax.main", *kept, f"--config.data.corrections={corrections}"]
    return "\n".join([*text, "to train with them:", shlex.join(["python", *train_with])])


def share_by_class(is_other: np.ndarray, given: np.ndarray, label: np.ndarray) -> float:
    """Returns the share of other labels in a set of labels [N], from a sample of each class.

    `is_other`: of the sample, whose labels are `given`. Classes that are not in it do not count.
    """
    sampled, sizes = (np.bincount(k, minlength=label.max() + 1) for k in (given, label))
    others, there = np.bincount(given, is_other, minlength=label.max() + 1), sampled > 0
    return np.average(others[there] / sampled[there], weights=sizes[there])


def read_answers(table, lines, train, classes) -> np.ndarray:
    """Returns the labels in the column `label` of some lines; UserError that names all typos."""
    parse, labels, errors = label_parser(classes, train.label), [], {}
    has_tags = bool(classes) and train.label.ndim == 2
    for line in lines:
        try:
            is_none = has_tags and table.cells["label"][line].strip() == NO_TAG
            label = np.zeros_like(train.label[0]) if is_none else None
            labels.append(parse_cell(table, line, "label", parse) if label is None else label)
        except UserError as error:
            text = str(error).removeprefix(f"{table.path}, ")
            errors.setdefault(table.cells["label"][line].strip(), []).append(text)
    if errors:
        texts = [f"{same[0]} ({len(same)} x)" for same in list(errors.values())[:5]]
        more = f" | and {len(errors) - 5} more" if len(errors) > 5 else ""
        raise UserError(f"{table.path}: {' | '.join(texts)}{more}")
    return np.array(labels, train.label.dtype)


def config_arguments(argv: list[str]) -> list[str]:
    """Returns the --config options of a command line, each as one argument.

    That is --name=value, or --name or --noname for a boolean.
    """
    found = []
    for argument, following in zip(argv, [*argv[1:], "--"], strict=True):
        name, equals, _ = argument.lstrip("-").partition("=")
        if argument.startswith("-") and name.removeprefix("no").split(".")[0] == "config":
            is_whole = equals or re.match("--?[a-zA-Z]|--$", following)
            found.append(f"--{argument.lstrip('-')}" if is_whole else f"--{name}={following}")
    return found


def saved_config(answers: pathlib.Path):
    """Returns (config, arguments) that `draw` left beside the file to fill in."""
    path = answers.with_name("config.json")
    try:
        with open_regular(path) as file:
            saved = json.load(file)
        config = default.get_config()
        config.update(ConfigDict(saved["config"]))
        return config, saved["arguments"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); give --config as before") from None


def main():
    if not _OUTPUT.value:
        raise UserError("--output is missing: the folder to write")
    config, arguments = _CONFIG.value, config_arguments(sys.argv[1:])
    if _FINISH.value and config is None:
        config, arguments = saved_config(expand(_FINISH.value))
    else:
        cli.check_config(config)
    if _FINISH.value:
        print(finish(config, arguments, _FINISH.value, _OUTPUT.value))
    else:
        print(draw(config, arguments, _NUM.value, _OUTPUT.value, _WORKDIR.value))


if __name__ == "__main__":
    cli.run(main)
