"""Which of a user's examples to label by hand, and the trusted set that the answers make."""

import pathlib
import shutil

import numpy as np

from reweight_jax.data import corrupt
from reweight_jax.data.corrections import label_texts
from reweight_jax.data.examples import Data
from reweight_jax.data.randomness import generator
from reweight_jax.data.splits import load
from reweight_jax.errors import UserError
from reweight_jax.paths import expand

SOURCES = ("npz", "csv", "image_folder")
RANDOM, UNCERTAIN = "random", "uncertain"
WHOLE = {"noise": "none", "noise_ratio": 0.0, "imbalance_ratio": 0.0, "imbalance_factor": 0.0}
WHOLE |= {"num_train": 0, "num_clean": 0, "num_calibration": 0, "num_hyper_val": 0}
WHOLE |= {"balanced_test": False, "resident": False, "image_size": 1}


def read_data(config) -> Data:
    """Returns the data of a config without noise, and with all rows of the source in train.

    Rows that config.data.corrections drops are left out; those that it moves are trusted already.
    Images are not read, and may have any size. UserError if the data are not files of the user.
    """
    config = config.copy_and_resolve_references()
    fields = config.data
    if fields.name not in SOURCES:
        raise UserError(f"config.data.name: {fields.name}; must be {', '.join(SOURCES)}")
    fields.update(WHOLE)
    return load(config, config.seed)


def files_of(fields, data: Data) -> list[pathlib.Path] | None:
    """Returns the image file of each row of the source, or None if the inputs are no files."""
    path = expand(fields.path)
    if fields.name == "npz" or (fields.name == "csv" and data.columns):
        return None
    folder = path if fields.name == "image_folder" else path.parent
    return [folder / name for name in data.ids]


def choose_rows(
    data: Data, num: int, uncertainty: np.ndarray | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draws rows of train to label by hand, equally many of each given label.

    Args:
      data: of `read_data`.
      num: how many; at most the number of training examples.
      uncertainty: float [N], to choose half of them by, the largest first; None: all at random.
      seed: decides the draw.

    Returns:
      (rows int [num] in random order, str [num] of RANDOM and UNCERTAIN).
    """
    train, rng = data.splits.train, generator(seed, "split_clean")
    is_class = len(data.classes) > 0 and train.label.ndim == 1
    group = train.label if is_class else np.zeros(train.size, int)

    def shares(of, total):
        return corrupt.even_shares(np.bincount(of, minlength=group.max() + 1), total, rng)

    # The random ones first, of all examples: what the others leave has too few hard ones.
    num_random = num if uncertainty is None else num - num // 2
    rows = corrupt.draw_per_class(group, shares(group, num_random), rng)
    if num_random < num:
        rest = np.delete(np.arange(train.size), rows)
        counts = shares(group[rest], num - num_random)
        rest = rest[np.argsort(-uncertainty[rest], kind="stable")]
        rows = np.concatenate([rows, *(rest[group[rest] == k][:n] for k, n in enumerate(counts))])
    drawn = np.where(np.arange(num) < num_random, RANDOM, UNCERTAIN)
    order = rng.permutation(num)  # whoever labels must not guess the class from its neighbours
    return rows[order], drawn[order]


def uncertainty_of(examples: dict[str, np.ndarray], classes: tuple, data: Data) -> np.ndarray:
    """Returns how unsure a run was of each training example, float [N]; -inf if it did not see it.

    Minus the distance of the mean margin from 0, at which two labels are equally probable (of the
    known tags the nearest one); of numbers, how far the prediction was off.

    Args:
      examples: index, label and margin of the run's training examples.
      classes: of the run, as in `Data`.
      data: of `read_data`.

    Raises:
      ValueError: the run had other labels.
    """
    train = data.splits.train
    index, label, margin = (examples[name] for name in ("index", "label", "margin"))
    unsure = np.where(np.isnan(margin), -np.inf, -np.abs(margin) if classes else -margin)
    if unsure.ndim > 1:
        unsure = np.where(label >= 0, unsure, -np.inf).max(axis=1)
    there = dict(zip(train.index.tolist(), range(train.size), strict=True))
    found = np.full(train.size, -np.inf)
    given, before = label_texts(train.label, data.classes), label_texts(label, classes)
    for position, row in enumerate(index.tolist()):
        if row not in there:
            continue  # dropped since, or a clean example that was trained on
        if given[there[row]] != before[position]:
            raise ValueError(
                f"row {row} had the label {before[position]!r}, but here it has "
                f"{given[there[row]]!r}; the run had other data, or labels with injected noise"
            )
        found[there[row]] = unsure[position]
    return found


def calibration_half(label: np.ndarray, data: Data, seed: int) -> np.ndarray:
    """Draws half of N trusted examples to calibrate with, bool [N].

    `label` is like train's in `data`. Of a class with an odd number, more are left to be clean.
    """
    is_class = len(data.classes) > 0 and label.ndim == 1
    group = label if is_class else np.zeros(len(label), int)
    rng = generator(seed, "split_calibration")
    rows = corrupt.draw_per_class(group, np.bincount(group) // 2, rng)
    return np.isin(np.arange(len(label)), rows)


def copy(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copies a file; UserError if it cannot."""
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        raise UserError(f"{source}: cannot be copied to {target} ({error.strerror})") from None
