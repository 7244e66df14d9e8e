"""What can be said of a data set before training: labels and rows that look like mistakes."""

import collections

import jax
import numpy as np

from reweight_jax.data.examples import Examples, Splits, is_lazy
from reweight_jax.data.targets import listed

MOST = 1_000_000  # training examples that are compared with others; it takes seconds
FEW = 0.01  # of held-out examples: CIFAR-10, too, has a few images twice
REPEATED = 0.1  # of the training examples: then rows may be equal by chance


def remarks(splits: Splits, classes: tuple, ids: np.ndarray | None = None) -> list[str]:
    """Returns sentences on what looks like a mistake in the data of a run, [] if nothing does.

    - A label that clean examples have, but no training example.
    - Clean examples that are in the training set too, with another label.
    - More than one in a hundred of the calibration, hyper_val or test examples that are in the
      training set or the clean set too.

    Examples are the same if their inputs are equal, bit by bit. Inputs that are read from a disk
    one by one are not compared, nor training sets of more than a million examples.

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
    if is_lazy(train.inputs) or len(own) > MOST:
        return found
    trained = {"the training set": _places(train, own)}
    if clean is not None:
        found += _contradicted(clean, train, trained["the training set"], ids)
        trained["the clean set"] = _places(clean, range(clean.size))
    held_out = {name: getattr(splits, name) for name in ("calibration", "hyper_val", "test")}
    for name, part in held_out.items():
        if part is not None and not is_lazy(part.inputs):
            found += _shared(name, _hashes(part.inputs, range(part.size)), trained)
    return found


def _contradicted(clean, train, places, ids):
    rows = [places.get(key, ()) for key in _hashes(clean.inputs, range(clean.size))]
    other = [
        [i for i in same if _differ(clean.label[row], train.label[i])]
        for row, same in enumerate(rows)
    ]
    if not any(other):
        return []
    index = train.index[np.unique(np.concatenate([same for same in other if same]))]
    names = listed((index if ids is None else ids[index]).tolist())
    return [
        f"{sum(map(bool, other))} of {clean.size} clean examples are in the training set too, with "
        f"another label (there: {names}). One of the two is wrong."
    ]


def _differ(one, other) -> bool:
    """Whether two labels are not the same; of tags (several ints), -1 is one that is not known."""
    known = (one >= 0) & (other >= 0) if np.ndim(one) and one.dtype.kind == "i" else True
    return bool(np.any((one != other) & known))


def _shared(name, keys, trained):
    """Sentences on the parts of the data that are trained on and have examples with these keys."""
    found = []
    for where, places in trained.items():
        count, size = sum(key in places for key in keys), sum(map(len, places.values()))
        if count <= FEW * len(keys):
            continue
        repeated = 1 - len(places) / size
        chance = f", {repeated:.0%} of which repeats itself" if repeated > REPEATED else ""
        found.append(
            f"{count} of {len(keys)} {name} examples are in {where} too{chance}. Leave them out "
            "there, or their scores are better than on new data."
        )
    return found


def _places(examples: Examples, rows) -> dict[int, list[int]]:
    """Hash of a row's inputs -> the rows that have them."""
    places = collections.defaultdict(list)
    for row, key in zip(rows, _hashes(examples.inputs, rows), strict=True):
        places[key].append(int(row))
    return dict(places)


def _hashes(inputs, rows):
    leaves = jax.tree.leaves(inputs)
    return [hash(tuple(leaf[row].tobytes() for leaf in leaves)) for row in rows]
