"""Label noise, imbalance and stratified draws: pure functions of labels and a generator."""

import numpy as np

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer")
CIFAR10_CLASSES += ("dog", "frog", "horse", "ship", "truck")
# Source class -> the class that it is taken for; from section 5 of Patrini et al., "Making Deep
# Neural Networks Robust to Label Noise" (2017). They are half of the classes: at ratio 0.4, 20% of
# all labels are wrong.
CIFAR10_PAIRS = {"truck": "automobile", "bird": "airplane", "deer": "horse"}
CIFAR10_PAIRS |= {"cat": "dog", "dog": "cat"}
MNIST_PAIRS = {2: 7, 3: 8, 5: 6, 6: 5, 7: 1}


def imbalanced_counts(num_classes: int, dominant: int, total: int, ratio: float) -> np.ndarray:
    """Returns how many examples each class keeps, int64 [K], summing to `total`.

    The dominant class has `ratio` times as many as each other class, rounded, and never fewer: of
    5,000 examples of two classes, ratio 200 keeps 4,975 and 25 (section 4.1 of the paper).
    """
    if not ratio >= 1:
        raise ValueError(f"ratio {ratio:g} must be at least 1")
    other = min(round(total / (ratio + num_classes - 1)), total // num_classes)
    if other < 1 <= total:
        raise ValueError(f"ratio {ratio:g} leaves some classes none of {total} examples")
    counts = np.full(num_classes, other, np.int64)
    counts[dominant] = total - (num_classes - 1) * other
    return counts


def long_tailed_counts(counts: np.ndarray, factor: float) -> np.ndarray:
    """Returns how many of its `counts[k]` examples class k keeps in a long tail, int64 [K].

    Class k keeps the share factor^(-k / (K - 1)), rounded, and at least one: the first class keeps
    all, the last one `factor` times fewer (the exponential profile of Cui et al., 2019).
    """
    if not 1 <= factor < np.inf:
        raise ValueError(f"factor {factor:g} must be at least 1, and finite")
    share = factor ** (-np.arange(len(counts)) / (len(counts) - 1))
    return np.maximum(np.round(counts * share), np.minimum(counts, 1)).astype(np.int64)


def uniform_flip(
    labels: np.ndarray, ratio: float, num_classes: int, rng: np.random.Generator
) -> np.ndarray:
    """Changes floor(ratio * N) labels to one of the K - 1 other classes (UNIFORMFLIP, section 4.2).

    int [N] -> int [N]. Every one of them is wrong afterwards.
    """
    flipped = labels.copy()
    rows = rng.choice(len(labels), _num_flips(ratio, len(labels)), replace=False)
    flipped[rows] = (labels[rows] + rng.integers(1, num_classes, len(rows))) % num_classes
    return flipped


def background_flip(
    labels: np.ndarray, ratio: float, background: int, rng: np.random.Generator
) -> np.ndarray:
    """Changes floor(ratio * N) labels to the background class (BACKGROUNDFLIP, section 4.2).

    int [N] -> int [N]. They are taken from the other classes: every one of them is wrong
    afterwards. If the other classes have fewer examples, all of these are changed.
    """
    flipped = labels.copy()
    others = np.flatnonzero(labels != background)
    count = min(_num_flips(ratio, len(labels)), len(others))
    flipped[rng.choice(others, count, replace=False)] = background
    return flipped


def asymmetric_flip(
    labels: np.ndarray, ratio: float, targets: dict[int, int], rng: np.random.Generator
) -> np.ndarray:
    """Changes floor(ratio * N_k) of the N_k labels of each source class k to targets[k].

    int [N] -> int [N]. Classes that are no key of `targets` keep their labels.
    """
    flipped = labels.copy()
    for source, target in targets.items():
        rows = np.flatnonzero(labels == source)
        flipped[rng.choice(rows, _num_flips(ratio, len(rows)), replace=False)] = target
    return flipped


def asymmetric_targets(name: str, classes: tuple) -> dict[int, int]:
    """Returns source class -> target class of `asymmetric_flip`, as indices into `classes`.

    CIFAR-10 (the set "cifar10", or any whose classes have its ten names) and "mnist" have the pairs
    of Patrini et al. (2017), as far as both classes are in `classes`. In any other set every class
    k goes to k + 1 modulo K. ValueError if no pair is in `classes`.
    """
    names, pairs = list(classes), MNIST_PAIRS
    if name == "cifar10":
        names = [CIFAR10_CLASSES[k] for k in classes]
    elif classes and isinstance(classes[0], str):
        names = [label.strip().lower() for label in classes]
    if name == "cifar10" or sorted(map(str, names)) == sorted(CIFAR10_CLASSES):
        pairs = CIFAR10_PAIRS
    elif name != "mnist":
        return {k: (k + 1) % len(classes) for k in range(len(classes))}
    found = {names.index(a): names.index(b) for a, b in pairs.items() if {a, b} <= set(names)}
    if not found:
        valid = ", ".join(f"{a} -> {b}" for a, b in pairs.items())
        raise ValueError(f"asymmetric_flip: no pair is among the classes {names}; pairs: {valid}")
    return found


def _num_flips(ratio, size):
    if not 0 <= ratio <= 1:
        raise ValueError(f"ratio {ratio:g} must be in 0..1")
    return int(np.floor(ratio * size + 1e-9))  # 0.29 * 100 is 28.999999999999996


def draw_per_class(
    labels: np.ndarray, counts: np.ndarray, rng: np.random.Generator, classes: tuple | None = None
) -> np.ndarray:
    """Draws counts[k] rows of each class k without replacement; returns them sorted, int64.

    Raises ValueError if a class has too few rows; `classes` are their names, else 0..K-1.
    """
    rows = []
    for k, count in enumerate(counts):
        available = np.flatnonzero(labels == k)
        if count > len(available):
            name = classes[k] if classes else k
            raise ValueError(f"needs {count} examples of class {name}, which has {len(available)}")
        rows.append(rng.choice(available, count, replace=False))
    return np.sort(np.concatenate(rows))


def even_counts(labels: np.ndarray, num_classes: int, total: int) -> np.ndarray:
    """Returns total / K for each class, int64 [K]; ValueError if that is not a whole number."""
    if total % num_classes:
        raise ValueError(f"{total} is not a multiple of the {num_classes} classes")
    return np.full(num_classes, total // num_classes)


def proportional_counts(labels: np.ndarray, num_classes: int, total: int) -> np.ndarray:
    """Returns `total` split over the classes as the labels are, int64 [K].

    Shares are rounded down, and the largest remainders get what is left.
    """
    share = np.bincount(labels, minlength=num_classes) * (total / max(len(labels), 1))
    counts = np.floor(share).astype(np.int64)
    order = np.argsort(-(share - counts), kind="stable")
    counts[order[: total - counts.sum()]] += 1
    return counts


def even_shares(available: np.ndarray, total: int, rng: np.random.Generator) -> np.ndarray:
    """Returns `total` split over the classes as evenly as they allow, int64 [K].

    A class with fewer examples than its share gives all of its `available[k]`, and the others more;
    `rng` draws the classes that get what is left over. ValueError if all have fewer than `total`.
    """
    if total > available.sum():
        raise ValueError(f"{total} examples wanted, of {available.sum()}")
    counts = np.zeros(len(available), np.int64)
    while (left := total - counts.sum()) > 0:
        room = np.flatnonzero(counts < available)
        if left < len(room):
            room = rng.choice(room, left, replace=False)
        counts[room] += np.minimum(available[room] - counts[room], max(1, left // len(room)))
    return counts
