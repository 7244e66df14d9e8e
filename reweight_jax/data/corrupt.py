"""What is done to a clean training set: pure functions of labels and a numpy generator."""

import numpy as np

from reweight_jax.errors import UserError


def imbalanced_counts(num_classes: int, dominant: int, total: int, ratio: float) -> np.ndarray:
    """Returns how many examples each class keeps, int64 [K], summing to `total`.

    The dominant class has `ratio` times as many examples as each other class, to rounding: with
    two classes, total 5,000 and ratio 200 these are 4,975 and 25 (section 4.1 of the paper). It is
    never the smaller one.
    """
    if not ratio >= 1:
        raise UserError(f"config.data.imbalance_ratio: {ratio:g}; must be at least 1")
    other = min(round(total / (ratio + num_classes - 1)), total // num_classes)
    counts = np.full(num_classes, other, np.int64)
    counts[dominant] = total - (num_classes - 1) * other
    return counts


def draw_per_class(
    labels: np.ndarray, counts: np.ndarray, rng: np.random.Generator, what: str
) -> np.ndarray:
    """Draws counts[k] rows of each class k without replacement, and returns them shuffled.

    Raises UserError, naming the config field `what`, where a class has too few rows.
    """
    rows = []
    for k, count in enumerate(counts):
        available = np.flatnonzero(labels == k)
        if count > len(available):
            raise UserError(f"{what}: needs {count} examples of class {k}, of {len(available)}")
        rows.append(rng.choice(available, count, replace=False))
    return rng.permutation(np.concatenate(rows))


def even_counts(num_classes: int, total: int, what: str) -> np.ndarray:
    """Returns total / K for each class, int64 [K]; raises UserError where that is not whole."""
    if total % num_classes:
        raise UserError(f"{what}: {total} is not a multiple of the {num_classes} classes")
    return np.full(num_classes, total // num_classes)
