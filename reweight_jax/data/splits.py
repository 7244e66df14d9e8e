"""Cuts a data set into splits and corrupts them; the seed decides every draw."""

import jax
import numpy as np

from reweight_jax.data import corrupt
from reweight_jax.data.corrections import correct
from reweight_jax.data.examples import Data, Examples, Part, Splits, concatenate
from reweight_jax.data.inputs import as_inputs, like_train, table_names
from reweight_jax.data.randomness import generator
from reweight_jax.data.sources import DATASETS, LABELS_ARE_RIGHT
from reweight_jax.data.targets import encode, listed
from reweight_jax.errors import UserError, choose, prefix

# The paper's background classes, one for each of its five trials (section 4.2): K -> classes.
BACKGROUND_CLASSES = {10: (0, 1, 3, 5, 7), 100: (7, 12, 41, 62, 85)}
PARTS = Splits._fields
# Fields that only classification has, and their values if they are not set.
OF_CLASSES = {"noise": "none", "classes": (), "balanced_test": False}
OF_CLASSES |= {"noise_ratio": 0, "imbalance_ratio": 0, "imbalance_factor": 0, "num_classes": 0}
CLEAN_MISSING = (
    "there is no trusted set, and none is drawn from labels of unknown quality; check some labels "
    "by hand and give them as config.data.clean_path or clean_column (npz: clean_input and "
    "clean_label; fit: clean=(x, y)) or by scripts/choose_trusted.py, or, if all labels are right, "
    "set config.data.labels_are_right=True"
)


def load(config, seed: int) -> Data:
    """Reads the set `config.data.name` and cuts it into splits; see `make_data`.

    `config` is the whole config. UserError for an unknown name, missing or malformed data, or sizes
    that the set cannot give.
    """
    name = config.data.name
    parts = choose("config.data.name", name, DATASETS)(config.data)
    source = config.data.path or name
    return make_data(parts, config, seed, source=source, labels_are_right=name in LABELS_ARE_RIGHT)


def make_data(
    parts: dict[str, Part], config, seed: int, *, source="data", labels_are_right=False
) -> Data:
    """Encodes the labels of a source, cuts it into disjoint splits, and adds label noise.

    Parts that the source has are taken whole, and never get noise: "clean" (num_clean is then
    ignored), "calibration", "hyper_val" and "test". The others are drawn:

    - hyper_val: config.data.num_hyper_val examples of train, as imbalanced and as noisy as it is.
    - clean: config.data.num_clean examples of train, equally many of each class, before noise is
      added. Only if train's labels are known to be right: `labels_are_right`,
      config.data.labels_are_right, or noise or imbalance that is injected here.
    - calibration: config.data.num_calibration examples of clean, with its shares of classes.

    Before all this, the rows of train are dropped, relabelled and moved to clean and calibration
    that config.data.corrections says; see `corrections.correct`. A part that has such rows is not
    drawn. Indices are those of the source, before it.

    If config.data.num_train is set, this many examples are kept for train, and for clean if that is
    drawn from it. For multi_label and regression all draws are uniform over the examples.

    Args:
      parts: split name -> Part; "train" is required.
      config: the whole config; its fields `task` and `data` are read.
      seed: integer that decides all draws.
      source: a file or name of the set, with which messages about its contents begin.
      labels_are_right: whether the labels of `parts` are known to be right; if not, true_label is
        None in the result.

    Raises:
      UserError: malformed data, or sizes that the set cannot give.
    """
    fields, has_classes, train = config.data, config.task == "classification", parts.get("train")
    is_known = labels_are_right or fields.labels_are_right or fields.noise != "none"
    is_known = bool(is_known or fields.imbalance_ratio or fields.imbalance_factor)
    with prefix(source):
        if set(parts) - set(PARTS) or train is None:
            raise ValueError(f"has the parts {sorted(parts)}; valid: {', '.join(PARTS)}")
        for name, part in parts.items():
            if not isinstance(part, Part):
                raise ValueError(f"its part {name} is a {type(part).__name__}; must be a Part")
        parts = {name: parts[name] for name in PARTS if name in parts}
        columns = tuple(train.columns) or table_names(train.inputs)
        as_floats = are_features(columns, config)
        inputs = {
            name: as_inputs(
                part.inputs, f"{name}_input", trains=name == "train", as_floats=as_floats
            )
            for name, part in parts.items()
        }
        labels, classes, num_outputs = encode(
            config.task,
            {name: part.label for name, part in parts.items()},
            num_classes=fields.num_classes if has_classes else 0,
            tags=tuple(train.tags) or table_names(train.label),
        )
        sets = _number(inputs, labels, is_known)
        starts = {name: int(examples.index[0]) for name, examples in sets.items()}
    ids, corrections, num_rows = _ids(parts), None, sets["train"].size
    if fields.corrections:
        size = sum(examples.size for name, examples in sets.items() if name != "test")
        sets["train"], trusted, corrections = correct(
            sets["train"], fields.corrections, classes, ids, size
        )
        for name, part in trusted.items():
            sets[name] = concatenate(sets[name], part) if name in sets else part
    if has_classes and fields.classes:
        sets, classes = _choose_classes(sets, classes, tuple(fields.classes))
        num_outputs = len(classes)
    for name, value in OF_CLASSES.items():
        if fields[name] != value and not has_classes:
            raise UserError(
                f"config.data.{name}: {fields[name]}; only for task='classification', but "
                f"config.task is {config.task}"
            )
    splits = _split(sets, fields, seed, classes if has_classes else None, is_known)
    return Data(splits, classes, num_outputs, ids, columns, corrections, starts, num_rows)


def are_features(columns, config) -> bool:
    """Whether integers are features: those with names, such as ages, are no tokens."""
    return bool(columns) and config.model.name in ("auto", "mlp")


def _number(inputs, labels, is_known):
    """Returns Examples of each part, in the types of train, with the rows numbered."""
    sets, start = {}, 0
    for name, array in inputs.items():
        array = like_train(array, inputs["train"], f"{name}_input")
        label, size = labels[name], len(jax.tree.leaves(array)[0])
        if size != len(label):
            raise ValueError(f"{name}_input has {size} rows, but {name}_label has {len(label)}")
        index = np.arange(size, dtype=np.int64) + (0 if name == "test" else start)
        start += size
        sets[name] = Examples(array, label, label.copy() if is_known else None, index)
    return sets


def _ids(parts):
    """Names of all rows but test's, str [M], or None if there are no names."""
    numbered = [part for name, part in parts.items() if name != "test"]
    if all(part.id is None for part in numbered):
        return None
    ids = [np.arange(len(part.label)) if part.id is None else part.id for part in numbered]
    return np.concatenate([np.asarray(part_ids).astype(str) for part_ids in ids])


def _choose_classes(sets, classes, chosen):
    """Returns (the examples of the chosen classes, renumbered in their order, `chosen`)."""
    if set(chosen) - set(classes) or len(set(chosen)) < max(2, len(chosen)):
        raise UserError(
            f"config.data.classes: {chosen}; must be two or more different labels of: "
            f"{listed(classes)}"
        )
    new_label = np.full(len(classes), -1, np.int32)
    new_label[[classes.index(name) for name in chosen]] = np.arange(len(chosen))
    kept = {}
    for name, examples in sets.items():
        examples = examples.take(np.flatnonzero(new_label[examples.label] >= 0))
        if not examples.size:
            raise UserError(f"config.data.classes: {chosen}; the {name} part has none of them")
        label = new_label[examples.label]
        true_label = None if examples.true_label is None else label.copy()
        kept[name] = examples._replace(label=label, true_label=true_label)
    return kept, chosen


def _split(sets, fields, seed, classes, is_known):
    """Draws the parts that the source does not have; returns Splits, with noise.

    `classes` is None if the labels are no classes.
    """
    train, num_classes = sets["train"], len(classes) if classes else 1
    rows = pool = np.arange(train.size)  # of train; inputs are copied once, at the end

    def draw(rows, field, counts=corrupt.proportional_counts, examples=train):
        """Returns (as many of the rows as the field says, the others), both sorted."""
        total, rng = fields[field], generator(seed, field.replace("num_", "split_"))
        label = examples.label[rows] if classes else np.zeros(len(rows), int)
        with prefix(f"config.data.{field}"):
            if total > len(rows):
                raise ValueError(f"{total} examples wanted, of {len(rows)} left")
            counted = counts(label, num_classes, total)
            drawn = corrupt.draw_per_class(label, counted, rng, classes)
        return rows[drawn], np.delete(rows, drawn)

    if fields.imbalance_factor:
        with prefix("config.data.imbalance_factor"):
            available = np.bincount(train.label, minlength=num_classes)
            kept = corrupt.long_tailed_counts(available, fields.imbalance_factor)
        rows = pool = corrupt.draw_per_class(train.label, kept, generator(seed, "long_tail"))
    counts = _train_counts(fields, classes)
    if fields.num_train:
        rows, pool = draw(rows, "num_train", counts)
    hyper_val, clean, calibration, test = map(sets.get, ("hyper_val", *PARTS[1:3], "test"))
    noise = _noise(fields, classes, seed)
    if hyper_val is None and fields.num_hyper_val:
        drawn, left = draw(pool, "num_hyper_val", counts)
        rows = rows if fields.num_train else left
        hyper_val = noise(train.take(drawn), "noise_hyper_val")
    if clean is None and fields.num_clean and is_known:
        drawn, rows = draw(rows, "num_clean", corrupt.even_counts)
        if not len(rows):
            raise UserError("config.data.num_clean: takes the whole training set")
        clean = train.take(drawn)
    if calibration is None and fields.num_calibration:
        if clean is None:
            raise UserError(f"config.data.num_calibration: {CLEAN_MISSING}")
        drawn, rest = draw(np.arange(clean.size), "num_calibration", examples=clean)
        if not len(rest):
            raise UserError("config.data.num_calibration: takes the whole clean set")
        clean, calibration = clean.take(rest), clean.take(drawn)
    if fields.balanced_test and test is not None:
        per_class = np.full(num_classes, np.bincount(test.label, minlength=num_classes).min())
        if not per_class.all():
            raise UserError("config.data.balanced_test: a class has no test example")
        rng = generator(seed, "balanced_test")
        test = test.take(corrupt.draw_per_class(test.label, per_class, rng))
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
    dominant = classes.index(fields.dominant_class)

    def counts(labels, num_classes, total):
        with prefix("config.data.imbalance_ratio"):
            return corrupt.imbalanced_counts(num_classes, dominant, total, fields.imbalance_ratio)

    return counts


def _noise(fields, classes, seed):
    """Returns (Examples, stream) -> Examples with the label noise that the config names."""
    targets = {  # name of the noise -> () -> the classes that its flip takes
        "none": None,
        "uniform_flip": lambda: len(classes),
        "background_flip": lambda: _background(fields, len(classes), seed),
        "asymmetric_flip": lambda: corrupt.asymmetric_targets(fields.name, classes),
    }
    find_target = choose("config.data.noise", fields.noise, targets)
    if find_target is None:
        if fields.noise_ratio:
            *others, last = (name for name in targets if name != "none")
            raise UserError(
                f"config.data.noise_ratio: {fields.noise_ratio:g}, but config.data.noise is none; "
                f"choose {', '.join(others)} or {last}"
            )
        return lambda examples, stream: examples
    with prefix("config.data.noise"):
        flip, target = getattr(corrupt, fields.noise), find_target()

    def add_noise(examples, stream):
        with prefix("config.data.noise_ratio"):
            label = flip(examples.label, fields.noise_ratio, target, generator(seed, stream))
        return examples._replace(label=label.astype(np.int32))

    return add_noise


def _background(fields, num_classes, seed):
    """Returns the class named by the config, or that of the paper's trial with this seed."""
    chosen, of_paper = fields.background_class, BACKGROUND_CLASSES.get(num_classes, ())
    if chosen == -1 and of_paper:
        return of_paper[seed % len(of_paper)]
    if not 0 <= chosen < num_classes:
        valid = f"0..{num_classes - 1}" + (", or -1" if of_paper else "")
        raise UserError(f"config.data.background_class: {chosen}; must be in {valid}")
    return chosen
