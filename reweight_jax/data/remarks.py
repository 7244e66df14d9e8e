"""What can be said of a data set before training: labels and rows that look like mistakes."""

import jax
import numpy as np

from reweight_jax.data.examples import Splits, is_lazy
from reweight_jax.data.targets import listed

MOST = 2_000_000  # training examples that are compared with others; it takes seconds
FEW = 0.01  # of a part: CIFAR-10, too, has a few images twice
REPEATED = 0.1  # of the training examples: rows of few values are equal by chance
HELD_OUT = ("calibration", "hyper_val", "test")  # whose scores shall be those of new data


def remarks(splits: Splits, classes: tuple) -> list[str]:
    """Returns sentences on what looks like a mistake in the data of a run, [] if nothing does.

    - A label that clean examples have, but no training example.
    - Examples of another part that are in the training set too: their inputs are equal, bit by bit.
      Inputs that are read from a disk one by one are not compared, nor training sets of more than
      two million examples, nor those that repeat themselves.

    `classes` are as in `Data`. Clean examples that are trained on (config.data.clean_in_train)
    count for the clean set alone.
    """
    train, clean = splits.train, splits.clean
    own = np.flatnonzero(~np.isin(train.index, () if clean is None else clean.index))
    is_class, found = len(classes) > 0 and train.label.ndim == 1, []
    if is_class and clean is not None and len(new := np.setdiff1d(clean.label, train.label[own])):
        names = listed([classes[k] for k in new])
        found.append(
            f"No training example has a label that clean ones have: {names}. Check the spelling."
        )
    place = _places(train, own)
    for name, part in splits._asdict().items():
        if name != "train" and part is not None and place and not is_lazy(part.inputs):
            found.append(_shared(name, part, train.label, place, is_class))
    return list(filter(None, found))


def _places(train, rows):
    """Hash of a row's inputs -> the row; {} if they are not to be compared."""
    if is_lazy(train.inputs) or not 0 < len(rows) <= MOST:
        return {}
    place = dict(zip(_hashes(train.inputs, rows), rows.tolist(), strict=True))
    return place if len(rows) - len(place) < REPEATED * len(rows) else {}


def _shared(name, part, label, place, is_class):
    keys = _hashes(part.inputs, range(part.size))
    pairs = [(row, place[key]) for row, key in enumerate(keys) if key in place]
    if len(pairs) <= FEW * part.size:
        return None
    text = f"{len(pairs)} of {part.size} {name} examples are in the training set too"
    rows, of_train = np.transpose(pairs)
    other = np.sum(part.label[rows] != label[of_train]) if is_class else 0
    text += f", {other} of them with another label" if other else ""
    reason = ", or their scores are better than on new data" if name in HELD_OUT else ""
    return f"{text}. Leave them out of it{reason}."


def _hashes(inputs, rows):
    leaves = jax.tree.leaves(inputs)
    return [hash(tuple(leaf[row].tobytes() for leaf in leaves)) for row in rows]
