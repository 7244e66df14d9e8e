"""Data: a source, cut into splits and corrupted by the seed and by nothing else."""

import numpy as np

from reweight_jax.data import corrupt
from reweight_jax.data.examples import Examples, Splits, concatenate
from reweight_jax.data.sources import DATASETS, prepare
from reweight_jax.errors import UserError, choose

__all__ = ["DATASETS", "Examples", "Splits", "concatenate", "load", "num_classes_of", "prepare"]


def load(config, seed: int) -> Splits:
    """Reads the set `config.name` and cuts it into disjoint splits with exact sizes.

    Args:
      config: the fields of `config.data`; configs/default.py says what each means.
      seed: int, draws everything that is drawn.

    Returns:
      Splits. `train` and `clean` have config.num_train examples together (0: all but hyper_val),
      config.num_clean of them clean; `clean` is stratified by
      class and split from the training set; `hyper_val` is as imbalanced as the training set;
      `test` is balanced where config.balanced_test is set.

    Raises:
      UserError: unknown name, missing or malformed data, or sizes that the set cannot give.
    """
    train, test = choose("config.data.name", config.name, DATASETS)(config)
    num_classes = _num_classes(config, train[1], test[1])
    train, test = (_examples(part, config.classes) for part in (train, test))
    rng = np.random.default_rng([seed, 0])
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
    return Splits(chosen.take(rng.permutation(len(chosen.label))), clean, hyper_val, test)


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
        keep = new_label[label] >= 0
        image, index, label = image[keep], index[keep], new_label[label[keep]]
    label = label.astype(np.int32)
    return Examples(image, label, label.copy(), index)


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
