"""What can be said of a data set before training: labels and rows that look like mistakes."""

import jax
import numpy as np

from reweight_jax.data.examples import Splits, is_lazy
from reweight_jax.data.targets import listed

MOST = 1_000_000  # training examples that are compared with others; it takes seconds
FEW = 0.01  # of held-out examples: CIFAR-10, too, has a few images twice
REPEATED = 0.1  # of the training examples: then rows may be equal by chance


def remarks(splits: Splits, classes: tuple, ids: np.ndarray | None = None) -> list[str]:
    """Returns sentences on what looks like a mistake in the data of a run, [] if nothing does.

    - A label or tag that trusted examples have, but no training example.
    - Clean examples that are in the training set too, with another label or tag.
    - More than one in a hundred of the calibration, hyper_val or test examples that are in the
      training set or the clean set too.

    Examples are the same if their inputs are equal, bit by bit. Inputs that are read from a disk
    one by one are not compared, nor training sets of more than a million examples.

    `classes` and `ids` are as in `Data`. Clean examples that are also trained on
    (config.data.clean_in_train) count as clean only.
    """
    train, clean = splits.train, splits.clean
    own, found = np.flatnonzero(~np.isin(train.index, () if clean is None else clean.index)), []
    if len(classes):
        trusted = [part.label for part in (clean, splits.calibration) if part is not None]
        new = set().union(*map(_classes_in, trusted)) - _classes_in(train.label[own])
        if new:
            what = "label" if train.label.ndim == 1 else "tag"
            names = listed([repr(classes[k]) for k in sorted(new)])  # a space may be the mistake
            found.append(
                f"No training example has a {what} that trusted ones have: {names}. Check the "
                "spelling, or give training examples of it."
            )
    if is_lazy(train.inputs) or not 0 < len(own) <= MOST:
        return found
    keys = _hashes(train.inputs, own)
    trained, repeated = {"the training set": set(keys)}, 1 - len(set(keys)) / len(keys)
    chance = ""
    if repeated > REPEATED:
        chance = f" But {repeated:.0%} of the training set repeats itself: it may be by chance."
    if clean is not None:
        of_clean, of_train = _hashes(clean.inputs), dict(zip(own.tolist(), keys, strict=True))
        found += _contradicted(clean, of_clean, train, of_train, ids, chance)
        trained["the clean set"] = set(of_clean)
    for name in ("calibration", "hyper_val", "test"):
        part = getattr(splits, name)
        if part is None or is_lazy(part.inputs):
            continue
        keys = _hashes(part.inputs)
        for where, others in trained.items():
            count = sum(key in others for key in keys)
            if count > FEW * part.size:
                found.append(
                    f"{count} of {part.size} {name} examples are in {where} too. Leave them out "
                    f"there, or their scores are better than on new data.{chance}"
                )
    return found


def _classes_in(label) -> set[int]:
    """The classes of labels [N], or the tags that an example of [N, K] has."""
    return set((label if label.ndim == 1 else np.flatnonzero((label > 0).any(axis=0))).tolist())


def _contradicted(clean, of_clean, train, of_train, ids, chance):
    """A sentence on clean examples that have another label in train.

    `of_clean`: hashes of their inputs, in order; `of_train`: row of train -> its hash.
    """
    if train.label.dtype.kind == "f":  # a value that is measured twice differs
        return []
    known = {key: {} for key in of_clean}  # to the first row with each label
    for row, key in of_train.items():
        if key in known:
            known[key].setdefault(train.label[row].tobytes(), row)
    count, rows = 0, set()
    for key, label in zip(of_clean, clean.label, strict=True):
        other = [row for row in known[key].values() if _differ(label, train.label[row])]
        count, rows = count + bool(other), rows | set(other)
    if not count:
        return []
    index, kind = train.index[sorted(rows)], "row" if ids is None else "id"
    names = listed((index if ids is None else ids[index]).tolist())
    return [
        f"{count} of {clean.size} clean examples are in the training set too, with another label "
        f"(there: {kind} {names}). One of the two is wrong.{chance}"
    ]


def _differ(one, other) -> bool:
    """Whether two labels are not the same; of several tags, -1 is one that is not known."""
    known = (one >= 0) & (other >= 0) if np.ndim(one) else True
    return bool(np.any((one != other) & known))


def _hashes(inputs, rows=None) -> list[int]:
    leaves = jax.tree.leaves(inputs)
    rows = range(len(leaves[0])) if rows is None else rows
    return [hash(tuple(leaf[row].tobytes() for leaf in leaves)) for row in rows]
