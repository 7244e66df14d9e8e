"""Data: a source, cut into splits and corrupted by the seed and by nothing else."""

import numpy as np

from reweight_jax.data import corrupt
from reweight_jax.data.examples import Examples, Splits, check_sizes, concatenate, stack
from reweight_jax.data.lazy import LazyImages
from reweight_jax.data.sources import DATASETS, prepare
from reweight_jax.errors import UserError, choose

# The paper's background classes, one for each of its five trials (section 4.2): K -> classes.
BACKGROUND_CLASSES = {10: (0, 1, 3, 5, 7), 100: (7, 12, 41, 62, 85)}

__all__ = [
    "DATASETS",
    "Examples",
    "Splits",
    "check_sizes",
    "concatenate",
    "load",
    "num_classes_of",
    "prepare",
    "stack",
]


def load(config, seed: int) -> Splits:
    """Reads the set `config.name` and cuts it into disjoint splits with exact sizes.

    Args:
      config: the fields of `config.data`; configs/default.py says what each means.
      seed: int, draws everything that is drawn.

    Returns:
      Splits. `train` and `clean` have config.num_train examples together (0: all but hyper_val),
      config.num_clean of them clean; `clean` is stratified by class and split from the training
      set; `hyper_val` is as imbalanced as the training set, and has the same label noise; `clean`
      and `test` have none. `test` is balanced where config.balanced_test is set. Where
      config.resident is not set, all images are `LazyImages`, and the same ones.

    Raises:
      UserError: unknown name, missing or malformed data, or sizes that the set cannot give.
    """
    train, test = choose("config.data.name", config.name, DATASETS)(config)
    if not config.resident:
        train, test = ((LazyImages(image), label) for image, label in (train, test))
    num_classes = _num_classes(config, train[1], test[1])
    train, test = (_examples(part, config.classes) for part in (train, test))
    rng = np.random.default_rng([seed, 0])
    add_noise = _noise(config, num_classes, seed, rng)
    if config.imbalance_factor:
        if config.imbalance_ratio:
            raise UserError("config.data.imbalance_factor and imbalance_ratio: set one of the two")
        available = np.bincount(train.label, minlength=num_classes)
        kept = corrupt.long_tailed_counts(available, config.imbalance_factor)
        field = "config.data.imbalance_factor"
        train = train.take(corrupt.draw_per_class(train.label, kept, rng, field))
    if config.imbalance_ratio:
        if not config.num_train:
            raise UserError("config.data.num_train: 0; imbalance_ratio needs a number")
        dominant = _dominant(config, num_classes)

        def counts(examples, size):
            del examples
            return corrupt.imbalanced_counts(num_classes, dominant, size, config.imbalance_ratio)
    else:

        def counts(examples, size):
            return _proportional_counts(examples.label, num_classes, size)

    def draw(examples, wanted, field):
        rows = corrupt.draw_per_class(examples.label, wanted, rng, f"config.data.{field}")
        rest = np.setdiff1d(np.arange(len(examples.label)), rows)
        return examples.take(rows), examples.take(rest)

    if config.num_train:
        chosen, rest = draw(train, counts(train, config.num_train), "num_train")
        hyper_val, _ = draw(rest, counts(rest, config.num_hyper_val), "num_hyper_val")
    else:
        hyper_val, chosen = draw(train, counts(train, config.num_hyper_val), "num_hyper_val")
    even = corrupt.even_counts(num_classes, config.num_clean, "config.data.num_clean")
    clean, chosen = draw(chosen, even, "num_clean")
    if not len(chosen.label):
        raise UserError("config.data.num_clean: takes the whole training set")
    if config.balanced_test:
        per_class = np.bincount(test.label, minlength=num_classes).min()
        if not per_class:
            raise UserError("config.data.balanced_test: a class has no test example")
        test, _ = draw(test, np.full(num_classes, per_class), "balanced_test")
    chosen = chosen.take(rng.permutation(len(chosen.label)))
    return Splits(add_noise(chosen), clean, add_noise(hyper_val), test)


def num_classes_of(config, splits: Splits) -> int:
    """How many classes a loaded set has, K; the training set may lack one that is rare."""
    largest = max(int(part.label.max()) for part in splits)
    return len(config.classes) or config.num_classes or largest + 1


def _num_classes(config, train_label, test_label):
    """K of the source, after choosing classes; raises UserError for labels beyond it."""
    num_classes = config.num_classes or int(train_label.max()) + 1
    for name, label in (("train", train_label), ("test", test_label)):
        if label.min() < 0 or label.max() >= num_classes:
            raise UserError(
                f"{config.path or config.name}: {name} labels are {label.min()}..{label.max()}; "
                f"valid: 0..{num_classes - 1} (config.data.num_classes; 0: by the train labels)"
            )
    if num_classes < 2:
        raise UserError(f"{config.path or config.name}: all labels are 0; two classes are needed")
    return len(config.classes) or num_classes


def _examples(part, classes):
    """Keeps the chosen classes (all where none is named) and numbers them 0..K-1, in that order."""
    image, label = part
    index = np.arange(len(label), dtype=np.int64)
    if classes:
        missing = [k for k in classes if not np.any(label == k)]
        if missing or len(set(classes)) < max(2, len(classes)):
            raise UserError(
                f"config.data.classes: {tuple(classes)}; must be two or more different labels of "
                f"the set, 0..{label.max()}"
            )
        new_label = np.full(max(label.max(), *classes) + 1, -1)
        new_label[list(classes)] = np.arange(len(classes))
        keep = np.flatnonzero(new_label[label] >= 0)
        image, index, label = image.take(keep, axis=0), index[keep], new_label[label[keep]]
    label = label.astype(np.int32)
    return Examples(image, label, label.copy(), index)


def _noise(config, num_classes, seed, rng):
    """Returns Examples -> Examples with the label noise that `config` names."""

    def none(labels):
        return labels

    def uniform(labels):
        return corrupt.uniform_flip(labels, config.noise_ratio, num_classes, rng)

    def background(labels):
        return corrupt.background_flip(labels, config.noise_ratio, background_class, rng)

    kinds = {"none": none, "uniform_flip": uniform, "background_flip": background}
    flip = choose("config.data.noise", config.noise, kinds)
    if config.noise == "none" and config.noise_ratio:
        raise UserError(
            f"config.data.noise_ratio: {config.noise_ratio:g}, but config.data.noise is none; "
            "choose uniform_flip or background_flip"
        )
    if config.noise == "background_flip":
        background_class = _background(config, num_classes, seed)
    return lambda examples: examples._replace(label=flip(examples.label).astype(np.int32))


def _background(config, num_classes, seed):
    """The class named by the config, or the one of the paper's trials that the seed stands for."""
    chosen = config.background_class
    if chosen == -1 and num_classes in BACKGROUND_CLASSES:
        classes = BACKGROUND_CLASSES[num_classes]
        return classes[seed % len(classes)]
    if not 0 <= chosen < num_classes:
        raise UserError(
            f"config.data.background_class: {chosen}; must be in 0..{num_classes - 1}"
            + (", or -1" if num_classes in BACKGROUND_CLASSES else "")
        )
    return chosen


def _dominant(config, num_classes):
    classes = tuple(config.classes) or tuple(range(num_classes))
    if config.dominant_class not in classes:
        raise UserError(f"config.data.dominant_class: {config.dominant_class} is not in {classes}")
    return classes.index(config.dominant_class)


def _proportional_counts(label, num_classes, size):
    """`size` split over the classes as the labels are, to rounding; the largest remainders win."""
    if size > len(label):
        raise UserError(
            f"config.data.num_train and num_hyper_val: {size} examples wanted, of {len(label)} left"
        )
    share = np.bincount(label, minlength=num_classes) * (size / max(len(label), 1))
    counts = np.floor(share).astype(np.int64)
    order = np.argsort(-(share - counts), kind="stable")
    counts[order[: size - counts.sum()]] += 1
    return counts
