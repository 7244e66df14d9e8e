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


def long_tailed_counts(counts: np.ndarray, factor: float) -> np.ndarray:
    """Returns how many of its `counts[k]` examples class k keeps in a long tail, int64 [K].

    Class k keeps the share factor^(-k / (K - 1)), rounded, and at least one: the first class all,
    the last one `factor` times fewer (the exponential profile of Cui et al., 2019).
    """
    if not 1 <= factor < np.inf:
        raise UserError(f"config.data.imbalance_factor: {factor:g}; must be 0 or at least 1")
    share = factor ** (-np.arange(len(counts)) / (len(counts) - 1))
    return np.maximum(np.round(counts * share), np.minimum(counts, 1)).astype(np.int64)


def uniform_flip(
    labels: np.ndarray, ratio: float, num_classes: int, rng: np.random.Generator
) -> np.ndarray:
    """UNIFORMFLIP of section 4.2: gives floor(ratio * N) labels to one of the K - 1 other classes.

    int [N] -> int [N]; every one of the chosen labels is wrong afterwards.
    """
    flipped = labels.copy()
    rows = rng.choice(len(labels), _num_flips(ratio, len(labels)), replace=False)
    shift = rng.integers(1, num_classes, len(rows))
    flipped[rows] = (labels[rows] + shift) % num_classes
    return flipped


def background_flip(
    labels: np.ndarray, ratio: float, background: int, rng: np.random.Generator
) -> np.ndarray:
    """BACKGROUNDFLIP of section 4.2: gives floor(ratio * N) labels to the background class.

    int [N] -> int [N]. They are taken from the other classes, so that all of them are wrong
    afterwards; where the others have fewer examples than that, all of them go.
    """
    flipped = labels.copy()
    others = np.flatnonzero(labels != background)
    count = min(_num_flips(ratio, len(labels)), len(others))
    flipped[rng.choice(others, count, replace=False)] = background
    return flipped


def _num_flips(ratio, size):
    if not 0 <= ratio <= 1:
        raise UserError(f"config.data.noise_ratio: {ratio:g}; must be in 0..1")
    return int(np.floor(ratio * size + 1e-9))  # 0.29 * 100 is 28.999999999999996


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
            raise UserError(
                f"{what}: needs {count} examples of class {k}, which has {len(available)}"
            )
        rows.append(rng.choice(available, count, replace=False))
    return rng.permutation(np.concatenate(rows))


def even_counts(num_classes: int, total: int, what: str) -> np.ndarray:
    """Returns total / K for each class, int64 [K]; raises UserError where that is not whole."""
    if total % num_classes:
        raise UserError(f"{what}: {total} is not a multiple of the {num_classes} classes")
    return np.full(num_classes, total // num_classes)
