"""Cuts a data set into splits, and corrupts them, by the seed and by nothing else."""

import numpy as np

from reweight_jax.data import corrupt, targets
from reweight_jax.data.examples import Data, Examples, Part, Splits, arrays_of, concatenate
from reweight_jax.data.inputs import as_inputs, like_train
from reweight_jax.data.randomness import generator
from reweight_jax.data.sources import DATASETS, LABELS_ARE_RIGHT
from reweight_jax.errors import UserError, choose, prefix

# The paper's background classes, one for each of its five trials (section 4.2): K -> classes.
BACKGROUND_CLASSES = {10: (0, 1, 3, 5, 7), 100: (7, 12, 41, 62, 85)}
PARTS = Splits._fields
NUMBERED = ("train", "clean", "calibration", "hyper_val")  # `Examples.index` runs through these
CLEAN_MISSING = (
    "there is no trusted set, and none is drawn from labels of unknown quality; check some labels "
    "by hand and give them as config.data.clean_path or clean_column (npz: clean_input and "
    "clean_label; fit: clean=(x, y)), or, if all labels are right, set "
    "config.data.labels_are_right=True"
)


def load(config, seed: int) -> Data:
    """Reads the set `config.data.name` and cuts it into splits; see `make_data`.

    Args:
      config: the whole config; configs/default.py says what each field means.
      seed: integer that draws everything that is drawn.

    Raises:
      UserError: unknown name, missing or malformed data, or sizes that the set cannot give.
    """
    name = config.data.name
    parts = choose("config.data.name", name, DATASETS)(config.data)
    source = config.data.path or name
    return make_data(parts, config, seed, source=source, labels_are_right=name in LABELS_ARE_RIGHT)


def make_data(
    parts: dict[str, Part],
    config,
    seed: int,
    *,
    source: str = "data",
    labels_are_right: bool = False,
) -> Data:
    """Encodes the labels of a source, cuts it into disjoint splits, and adds label noise.

    Parts that the source has are taken whole, and never get noise: "clean" (num_clean is then
    ignored), "calibration", "hyper_val" and "test". Else:

    - hyper_val: config.data.num_hyper_val examples of train, as imbalanced and as noisy as it is.
    - clean: config.data.num_clean examples of train, equally many of each class, before noise is
      added. Only if train's labels are known to be right: `labels_are_right`,
      config.data.labels_are_right, or noise or imbalance that is injected here. None otherwise.
    - calibration: config.data.num_calibration examples out of clean, with its shares of classes.
    - test: None.

    If config.data.num_train is set, this many examples are kept for train, and for clean if that is
    drawn from it. For multi_label and regression all draws are uniform over the examples.

    Args:
      parts: split name -> Part; "train" is required.
      config: the whole config; its fields `task` and `data` are read.
      seed: integer that draws everything that is drawn.
      source: a file or name of the set, with which messages about its contents begin.
      labels_are_right: whether the labels of `parts` are known to be right.

    Returns:
      Data. true_label is None unless the labels are known to be right.

    Raises:
      UserError: malformed data, or sizes that the set cannot give.
    """
    fields, has_classes = config.data, config.task == "classification"
    with prefix(source):
        if set(parts) - set(PARTS) or "train" not in parts:
            raise ValueError(f"has the parts {sorted(parts)}; valid: {', '.join(PARTS)}")
        is_known = labels_are_right or fields.labels_are_right or fields.noise != "none"
        is_known = bool(is_known or fields.imbalance_ratio or fields.imbalance_factor)
        inputs = _inputs_of(parts)
        columns = _columns(parts["train"].columns, parts["train"].inputs)
        encoded, classes, num_outputs = targets.encode(
            config.task,
            {name: part.label for name, part in parts.items()},
            num_classes=fields.num_classes if has_classes else 0,
            tags=_columns(parts["train"].tags, parts["train"].label),
        )
        sets = _number(inputs, encoded, is_known)
    if has_classes:
        sets, classes = _choose_classes(sets, classes, tuple(fields.classes))
        num_outputs = len(classes)
    else:
        _check_unclassified(config)
    splits = _split(sets, fields, seed, classes if has_classes else None, is_known)
    return Data(splits, classes, num_outputs, _ids(parts), columns)


def with_clean_in_train(splits: Splits) -> Splits:
    """Returns the splits with the clean examples appended to the training set."""
    return splits._replace(train=concatenate(splits.train, splits.clean))


def _columns(names, table):
    """Names of a table's columns, which a DataFrame has itself."""
    return tuple(names) or tuple(str(name) for name in getattr(table, "columns", ()))


def _inputs_of(parts):
    """Returns the inputs of each part in the order of PARTS, checked, and like those of train."""
    inputs = {
        name: as_inputs(parts[name].inputs, f"{name}_input") for name in PARTS if name in parts
    }
    for name in inputs:
        inputs[name] = like_train(inputs[name], inputs["train"], f"{name}_input")
    return inputs


def _number(inputs, encoded, is_known):
    """Returns Examples of each part, with the rows numbered."""
    sets, start = {}, 0
    for name, part_inputs in inputs.items():
        label, size = encoded[name], len(arrays_of(part_inputs)[0])
        if size != len(label):
            raise ValueError(f"{name}_input has {size} rows, but {name}_label has {len(label)}")
        index = np.arange(size, dtype=np.int64) + (start if name in NUMBERED else 0)
        start += size
        sets[name] = Examples(part_inputs, label, label.copy() if is_known else None, index)
    return sets


def _ids(parts):
    """Names of all numbered rows, str [M], or None if there are no names."""
    numbered = [parts[name] for name in NUMBERED if name in parts]
    if all(part.id is None for part in numbered):
        return None
    ids = [np.arange(len(part.label)) if part.id is None else part.id for part in numbered]
    return np.concatenate([np.asarray(part_ids).astype(str) for part_ids in ids])


def _choose_classes(sets, classes, chosen):
    """Keeps the examples of the chosen classes, renumbered in their order; of all if none is."""
    if not chosen:
        return sets, classes
    if set(chosen) - set(classes) or len(set(chosen)) < max(2, len(chosen)):
        valid = ", ".join(map(str, classes[:10])) + (", ..." if classes[10:] else "")
        raise UserError(
            f"config.data.classes: {chosen}; must be two or more different labels of: {valid}"
        )
    new_label = np.full(len(classes), -1, np.int32)
    new_label[[classes.index(name) for name in chosen]] = np.arange(len(chosen))
    kept = {}
    for name, examples in sets.items():
        rows = np.flatnonzero(new_label[examples.label] >= 0)
        examples = examples.take(rows)
        label = new_label[examples.label]
        is_known = examples.true_label is not None
        kept[name] = examples._replace(label=label, true_label=label.copy() if is_known else None)
        if not len(rows):
            raise UserError(f"config.data.classes: {chosen}; the {name} part has none of them")
    return kept, chosen


def _check_unclassified(config):
    """Raises UserError if a field is set that has a meaning only for classes."""
    numbers = ("noise_ratio", "imbalance_ratio", "imbalance_factor", "num_classes")
    unset = {"noise": "none", "classes": (), "balanced_test": False, **dict.fromkeys(numbers, 0)}
    for name, value in unset.items():
        if config.data[name] != value:
            raise UserError(
                f"config.data.{name}: {config.data[name]}; only for task='classification', but "
                f"config.task is {config.task}"
            )


def _split(sets, fields, seed, classes, is_known):
    """Draws what the source has no part of; returns Splits, with noise. `classes`: or None."""
    train = sets["train"]
    num_classes = classes and len(classes)
    rows = np.arange(train.size)  # of train; only rows move until the end, to copy inputs once

    def draw(rows, total, field, counts=corrupt.proportional_counts, label=train.label):
        """Returns (`total` of the rows, the others), both sorted."""
        rng = generator(seed, field.replace("num_", "split_"))
        with prefix(f"config.data.{field}"):
            if num_classes is None:
                if total > len(rows):
                    raise ValueError(f"{total} examples wanted, of {len(rows)} left")
                drawn = np.sort(rng.choice(len(rows), total, replace=False))
            else:
                wanted = counts(label[rows], num_classes, total)
                drawn = corrupt.draw_per_class(label[rows], wanted, rng)
        return rows[drawn], np.delete(rows, drawn)

    if fields.imbalance_factor:
        with prefix("config.data.imbalance_factor"):
            available = np.bincount(train.label, minlength=num_classes)
            kept = corrupt.long_tailed_counts(available, fields.imbalance_factor)
        rows = corrupt.draw_per_class(train.label, kept, generator(seed, "long_tail"))
    counts = _train_counts(fields, classes)
    if fields.num_train:
        rows, pool = draw(rows, fields.num_train, "num_train", counts)
    hyper_val, clean, calibration, test = map(sets.get, ("hyper_val", *PARTS[1:3], "test"))
    noise = _noise(fields, num_classes, seed)
    if hyper_val is None and fields.num_hyper_val:
        if fields.num_train:
            drawn, _ = draw(pool, fields.num_hyper_val, "num_hyper_val", counts)
        else:
            drawn, rows = draw(rows, fields.num_hyper_val, "num_hyper_val", counts)
        hyper_val = noise(train.take(drawn), "noise_hyper_val")
    if clean is None and fields.num_clean and is_known:
        drawn, rows = draw(rows, fields.num_clean, "num_clean", corrupt.even_counts)
        if not len(rows):
            raise UserError("config.data.num_clean: takes the whole training set")
        clean = train.take(drawn)
    if calibration is None and fields.num_calibration:
        if clean is None:
            raise UserError(f"config.data.num_calibration: {CLEAN_MISSING}")
        every = np.arange(clean.size)
        drawn, rest = draw(every, fields.num_calibration, "num_calibration", label=clean.label)
        if not len(rest):
            raise UserError("config.data.num_calibration: takes the whole clean set")
        clean, calibration = clean.take(rest), clean.take(drawn)
    if fields.balanced_test and test is not None:
        test = _balance(test, num_classes, generator(seed, "balanced_test"))
    train = train if len(rows) == train.size else train.take(rows)
    return Splits(noise(train, "noise_train"), clean, calibration, hyper_val, test)


def _train_counts(fields, classes):
    """Returns (label, K, total) -> how many examples of each class train and hyper_val have."""
    if not fields.imbalance_ratio:
        return corrupt.proportional_counts
    if fields.imbalance_factor:
        raise UserError("config.data.imbalance_factor and imbalance_ratio: set one of the two")
    if not fields.num_train:
        raise UserError("config.data.num_train: 0; imbalance_ratio needs a number")
    if fields.dominant_class not in classes:
        raise UserError(f"config.data.dominant_class: {fields.dominant_class} is not in {classes}")

    def counts(labels, num_classes, total):
        del labels
        dominant = classes.index(fields.dominant_class)
        with prefix("config.data.imbalance_ratio"):
            return corrupt.imbalanced_counts(num_classes, dominant, total, fields.imbalance_ratio)

    return counts


def _balance(test, num_classes, rng):
    """Returns as many examples of each class as the rarest one has."""
    per_class = np.bincount(test.label, minlength=num_classes).min()
    if not per_class:
        raise UserError("config.data.balanced_test: a class has no test example")
    return test.take(corrupt.draw_per_class(test.label, np.full(num_classes, per_class), rng))


def _noise(fields, num_classes, seed):
    """Returns (Examples, stream) -> Examples with the label noise that the config names."""

    def uniform(labels, rng):
        return corrupt.uniform_flip(labels, fields.noise_ratio, num_classes, rng)

    def background(labels, rng):
        return corrupt.background_flip(labels, fields.noise_ratio, background_class, rng)

    kinds = {"none": None, "uniform_flip": uniform, "background_flip": background}
    flip = choose("config.data.noise", fields.noise, kinds)
    if flip is None:
        if fields.noise_ratio:
            raise UserError(
                f"config.data.noise_ratio: {fields.noise_ratio:g}, but config.data.noise is none; "
                "choose uniform_flip or background_flip"
            )
        return lambda examples, stream: examples
    if flip is background:
        background_class = _background(fields, num_classes, seed)

    def add_noise(examples, stream):
        with prefix("config.data.noise_ratio"):
            label = flip(examples.label, generator(seed, stream))
        return examples._replace(label=label.astype(np.int32))

    return add_noise


def _background(fields, num_classes, seed):
    """Returns the class named by the config, or that of the paper's trial with this seed."""
    chosen = fields.background_class
    if chosen == -1 and num_classes in BACKGROUND_CLASSES:
        classes = BACKGROUND_CLASSES[num_classes]
        return classes[seed % len(classes)]
    if not 0 <= chosen < num_classes:
        raise UserError(
            f"config.data.background_class: {chosen}; must be in 0..{num_classes - 1}"
            + (", or -1" if num_classes in BACKGROUND_CLASSES else "")
        )
    return chosen
