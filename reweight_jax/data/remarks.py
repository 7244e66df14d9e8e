"""What can be said of a data set before training: labels and rows that look like mistakes."""

import jax
import numpy as np

from reweight_jax.data.examples import Splits, is_lazy
from reweight_jax.data.targets import listed

MOST = 2_000_000  # training examples that are compared with others; it takes seconds
FEW = 0.01  # of held-out examples: CIFAR-10, too, has a few images twice
REPEATED = 0.1  # of the training examples: rows of few values are equal by chance


def remarks(splits: Splits, classes: tuple, ids: np.ndarray | None = None) -> list[str]:
    """Returns sentences on what looks like a mistake in the data of a run, [] if nothing does.

    - A label that clean examples have, but no training example.
    - Examples of another part that are in the training set too: their inputs are equal, bit by bit.
      Of the clean ones only those that have another label there. Inputs that are read from a disk
      one by one are not compared, nor training sets of more than two million examples, nor those
      that repeat themselves.

    `classes` and `ids` are as in `Data`. Clean examples that are trained on
    (config.data.clean_in_train) count for the clean set alone.
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
            found.append(_shared(name, part, train, place, is_class, ids))
    return list(filter(None, found))


def _places(train, rows):
    """Hash of a row's inputs -> the row; {} if they are not to be compared."""
    if is_lazy(train.inputs) or not 0 < len(rows) <= MOST:
        return {}
    place = dict(zip(_hashes(train.inputs, rows), rows.tolist(), strict=True))
    return place if len(rows) - len(place) < REPEATED * len(rows) else {}


def _shared(name, part, train, place, is_class, ids):
    keys = _hashes(part.inputs, range(part.size))
    pairs = [(row, place[key]) for row, key in enumerate(keys) if key in place]
    every = [i for _, i in pairs]
    other = [i for row, i in pairs if is_class and part.label[row] != train.label[i]]
    # Clean examples that are trained on under the same label do no harm.
    if not other if name == "clean" else len(every) <= FEW * part.size:
        return None
    index = train.index[other or every]
    rows = listed((index if ids is None else ids[index]).tolist())
    what = f"of {part.size} {name} examples are in the training set too"
    if name == "clean":
        return f"{len(other)} {what}, with another label (there: {rows}). One of the two is wrong."
    told = f", {len(other)} with another label" if other else ""
    advice = "Leave them out of it, or the scores are better than on new data"
    return f"{len(every)} {what}{told} (there: {rows}). {advice}."


def _hashes(inputs, rows):
    leaves = jax.tree.leaves(inputs)
    return [hash(tuple(leaf[row].tobytes() for leaf in leaves)) for row in rows]
