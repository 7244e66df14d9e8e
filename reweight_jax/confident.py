"""A stand-in for a trusted set, if there is none: what plain training is most certain of."""

from collections.abc import Callable

import numpy as np

FOLDS = 5


def confident_rows(
    predict: Callable[[np.ndarray, np.ndarray], np.ndarray],
    label: np.ndarray,
    num_classes: int,
    count: int,
    seed: int,
) -> np.ndarray:
    """Returns rows whose label a model that did not see them gives the highest probability.

    The paper asks for labels that are known to be right, and these are not: a wrong label that the
    model has learnt is as certain as a right one.

    Args:
      predict: (rows to train on, rows [m] to predict) -> probabilities [m, K].
      label: int [N] in 0..K-1, as given.
      num_classes: K.
      count: how many rows, as equally many of each class as there are.
      seed: draws the folds.

    Returns:
      int [count] or fewer, sorted: per class those of the highest probability, if the label is also
      the most probable one.
    """
    from sklearn.model_selection import KFold

    size = len(label)
    probability = np.zeros((size, num_classes))
    for train, held_out in KFold(FOLDS, shuffle=True, random_state=seed).split(label):
        probability[held_out] = predict(train, held_out)
    own = probability[np.arange(size), label]
    agrees = probability.argmax(axis=1) == label
    chosen = []
    for k in range(num_classes):
        members = np.flatnonzero(agrees & (label == k))
        chosen.append(members[np.argsort(-own[members], kind="stable")][: -(-count // num_classes)])
    return np.sort(np.concatenate(chosen))
