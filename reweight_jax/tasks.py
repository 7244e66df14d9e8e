"""Tasks: what outputs and labels mean. A model returns raw outputs [n, K]; a task does the rest.

The outputs of "classification" and "multi_label" are logits. Those of "regression" are targets in
standardised units; the labels stay in the user's units everywhere else.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax


class Task(NamedTuple):
    """One kind of label. n is a batch, N a split, K the number of outputs.

    All functions except `scores` can be jitted, and `loss` can be differentiated.

    Attributes:
      name: the key in TASKS.
      num_outputs: K.
      loss: (outputs float32 [n, K], labels) -> [n].
      error: (outputs, labels) -> [n]: 0 or 1; the fraction of the known tags that are wrong; the
        mean absolute error in the units of the labels.
      margin: (outputs, labels) -> [n], or [n, K] for multi_label: how far the model agrees.
      predict: outputs -> probabilities [n, K], or values [n] or [n, D].
      remembered: name -> (outputs -> [n, K]): what of the outputs is remembered of each example, so
        that another label can be suggested.
      scores: (numpy outputs [N, K], numpy labels) -> {name: float} of a split, with "loss".
      goodness: name of the score by which the best step is chosen.
      better_if_lower: whether a lower goodness is better.
    """

    name: str
    num_outputs: int
    loss: Callable[[jax.Array, jax.Array], jax.Array]
    error: Callable[[jax.Array, jax.Array], jax.Array]
    margin: Callable[[jax.Array, jax.Array], jax.Array]
    predict: Callable[[jax.Array], jax.Array]
    remembered: dict[str, Callable[[jax.Array], jax.Array]]
    scores: Callable[[np.ndarray, np.ndarray], dict[str, float]]
    goodness: str
    better_if_lower: bool = False


def classification(labels: np.ndarray, num_outputs: int) -> Task:
    """Returns the task of one class in K >= 2: labels int [N] in 0..K-1, outputs logits, softmax.

    The margin is log p(label) minus the largest log p of another class.
    """
    if num_outputs < 2:
        raise ValueError(f"num_outputs: {num_outputs}; classification needs at least 2 classes")

    def error(outputs, labels):
        return (jnp.argmax(outputs, axis=-1) != labels).astype(jnp.float32)

    def margin(outputs, labels):
        is_label = jnp.arange(num_outputs)[None] == labels[:, None]
        other = jnp.max(jnp.where(is_label, -jnp.inf, outputs), axis=-1)
        # The logarithm of softmax's denominator is in both terms, and cancels.
        return jnp.sum(jnp.where(is_label, outputs, 0.0), axis=-1) - other

    def log_probability(outputs):  # as the loss does it, so that the compiler does it once
        return outputs - jax.nn.logsumexp(outputs, axis=-1, keepdims=True)

    def scores(outputs, labels):
        from scipy.special import log_softmax

        log_p = log_softmax(np.asarray(outputs, np.float64), axis=-1)
        error = int(np.sum(np.argmax(outputs, axis=-1) != labels)) / len(labels)
        loss = -float(np.mean(log_p[np.arange(len(labels)), labels]))
        return {"accuracy": 1 - error, "error": error, "loss": loss}

    loss, functions = optax.softmax_cross_entropy_with_integer_labels, (error, margin)
    functions += (jax.nn.softmax, {"log_probability": log_probability}, scores)
    return Task("classification", num_outputs, loss, *functions, "accuracy")


def multi_label(labels: np.ndarray, num_outputs: int) -> Task:
    """Returns the task of K independent tags: labels int [N, K] of 1, 0 and -1 (not known).

    The loss is the mean sigmoid cross-entropy over the known tags, 0 if none is known. The margin
    of each tag is its logit z for label 1, -z for label 0, and 0 if the label is not known. In the
    scores macro_f1 is the mean over the tags, and loss over the examples that have a known tag.
    """

    def mean_of_known(values, labels):
        known = labels >= 0
        count = jnp.maximum(jnp.sum(known, axis=-1), 1)
        return jnp.sum(jnp.where(known, values, 0.0), axis=-1) / count

    def loss(outputs, labels):
        return mean_of_known(optax.sigmoid_binary_cross_entropy(outputs, labels == 1), labels)

    def error(outputs, labels):
        return mean_of_known(((outputs > 0) != (labels == 1)).astype(jnp.float32), labels)

    def margin(outputs, labels):
        return jnp.where(labels >= 0, jnp.where(labels == 1, outputs, -outputs), 0.0)

    def scores(outputs, labels):
        known, positive, z = labels >= 0, labels == 1, np.asarray(outputs, np.float64)
        if not known.any():
            raise ValueError("labels: all tags are missing (-1); scores need at least one")
        wrong = ((z > 0) != positive) & known
        error = float(wrong.sum() / known.sum())
        # F1 is 2 right / (2 right + wrong); a tag that is neither present nor predicted has none.
        right, wrong = np.sum(positive & (z > 0), axis=0), wrong.sum(axis=0)
        f1 = (2 * right / np.maximum(2 * right + wrong, 1))[right + wrong > 0]
        macro_f1 = float(f1.mean()) if f1.size else 0.0
        losses = np.sum((np.logaddexp(0, z) - positive * z) * known, axis=1)
        rows = known.any(axis=1)
        loss = float(np.mean(losses[rows] / known.sum(axis=1)[rows]))
        return {"accuracy": 1 - error, "error": error, "macro_f1": macro_f1, "loss": loss}

    # macro_f1 is the goodness: if tags are rare, a model that never predicts one is accurate.
    predict = jax.nn.sigmoid  # the margins say of each tag what its logit says
    return Task("multi_label", num_outputs, loss, error, margin, predict, {}, scores, "macro_f1")


def regression(labels: np.ndarray, num_outputs: int) -> Task:
    """Returns the task of D = K numbers: labels float [N] (D = 1) or [N, D].

    Targets are standardised by the mean and the deviation of `labels`, the training set's; a
    constant target is only shifted. The loss is half the squared error in standardised units,
    summed over D; the margin is minus the Euclidean distance in these units; error and scores are
    in the units of the labels. ValueError if the labels do not have K columns or are not finite.
    """
    is_vector = np.ndim(labels) == 1
    targets = np.asarray(labels, np.float64).reshape(len(labels), -1)
    if targets.shape[1] != num_outputs:
        raise ValueError(f"num_outputs: {num_outputs}; labels have {targets.shape[1]} columns")
    if not np.isfinite(targets).all():
        raise ValueError("labels: a target of regression is not a finite number")
    mean, deviation = targets.mean(axis=0, keepdims=True), targets.std(axis=0, keepdims=True)
    # A constant column's deviation is rounding, not always 0.
    is_constant = deviation <= np.finfo(np.float32).eps * np.abs(mean)
    mean, deviation = np.float32(mean), np.float32(np.where(is_constant, 1.0, deviation))

    def residuals(outputs, labels):
        return outputs - (labels.reshape(outputs.shape) - mean) / deviation

    def loss(outputs, labels):
        return 0.5 * jnp.sum(residuals(outputs, labels) ** 2, axis=-1)

    def error(outputs, labels):
        return jnp.mean(jnp.abs(residuals(outputs, labels)) * deviation, axis=-1)

    def margin(outputs, labels):
        return -jnp.sqrt(2 * loss(outputs, labels))

    def values(outputs):
        return outputs * deviation + mean

    def predict(outputs):
        return values(outputs)[:, 0] if is_vector else values(outputs)

    def scores(outputs, labels):
        truth = np.asarray(labels, np.float64).reshape(outputs.shape)
        raw = np.asarray(outputs, np.float64) * deviation + mean - truth
        squares, total = np.sum(raw**2, axis=0), np.sum((truth - truth.mean(axis=0)) ** 2, axis=0)
        # Of a constant target R^2 is 1 if it is met and else 0, as in scikit-learn.
        r2 = np.where(total > 0, 1 - squares / np.where(total > 0, total, 1), squares == 0)
        return {
            "rmse": float(np.sqrt(np.mean(raw**2))),
            "mae": float(np.mean(np.abs(raw))),
            "r2": float(np.mean(r2)),
            "loss": float(0.5 * np.mean(np.sum((raw / deviation) ** 2, axis=1))),
        }

    functions = (loss, error, margin, predict, {"prediction": values}, scores)
    return Task("regression", num_outputs, *functions, "rmse", better_if_lower=True)


# name -> make(training labels, num_outputs) -> Task. Add an entry to have a task of your own.
TASKS = {"classification": classification, "multi_label": multi_label, "regression": regression}
BUILT_IN = dict(TASKS)  # without entries of the user's own
