"""A layer of noise transition probabilities after the softmax, trained along with the model.

Goldberger & Ben-Reuven, "Training deep neural-networks using a noise adaptation layer" (ICLR 2017),
the simple model (S-Model). The layer is not used for predictions.
"""

import jax
import jax.numpy as jnp
import numpy as np

from reweight_jax.errors import UserError
from reweight_jax.methods.base import CLASSIFICATION, Method
from reweight_jax.paths import expand
from reweight_jax.sealed import MissingError, read_sealed

SMOOTHING = 0.1  # probability that the first transition matrix spreads over all classes


def _smoothed_identity(key, config, train, num_outputs, host_input=None):
    """Returns logits b [K, K]: softmax(b[i]) is the distribution of the labels of class i."""
    return {"transition": jnp.log(_smooth(np.eye(num_outputs)))}


def _read_confusion(config):
    """Returns a baseline's confusion matrix, a list of rows by label, from `config.confusion_from`.

    It is that of the hyper-validation set at its best step: those labels are as noisy as the
    training set's, and the model has not memorised them. UserError if there is no such matrix.
    """
    if not config.confusion_from:
        raise UserError(
            "config.confusion_from: empty; s_model_conf starts from a finished run's confusion "
            "matrix: run --config.method=baseline first, and give its --workdir here"
        )
    path = expand(config.confusion_from, "config.confusion_from") / "result.json"
    try:
        confusion = read_sealed(path)["confusion"]["best"]["hyper_val"]
        confusion = np.array(confusion, np.float64)
    except (ValueError, KeyError, TypeError) as error:
        is_missing = isinstance(error, MissingError)
        reason = "it is missing" if is_missing else type(error).__name__
        raise UserError(
            f"config.confusion_from: no confusion matrix in {path} ({reason}); "
            "give the --workdir of a finished run with hyper_val and at most 200 classes"
        ) from None
    if confusion.ndim != 2 or len(set(confusion.shape)) > 1 or not (confusion >= 0).all():
        raise UserError(
            f"config.confusion_from: the confusion matrix in {path}, {confusion.shape}, is not a "
            "square one of counts"
        )
    return confusion.tolist()


def _from_confusion_matrix(key, config, train, num_outputs, host_input):
    """Returns the same logits from a confusion matrix: how what is predicted as i was labelled."""
    confusion = np.array(host_input)
    if len(confusion) != num_outputs:
        raise UserError(
            f"config.confusion_from: the confusion matrix in {config.confusion_from} has "
            f"{len(confusion)} classes, this data set {num_outputs}"
        )
    counts = confusion.T  # [predicted, labelled]
    total = counts.sum(axis=1, keepdims=True)
    share = np.where(total > 0, counts / np.maximum(total, 1), np.eye(num_outputs))
    return {"transition": jnp.log(_smooth(share))}


def _smooth(matrix):
    """Returns rows that still sum to one, without zeros: SMOOTHING of each is spread evenly."""
    smooth = (1 - SMOOTHING) * matrix + SMOOTHING / len(matrix)
    return jnp.asarray(smooth, jnp.float32)


def _mixture_loss(logits, labels, method_state):
    """S-MODEL: -log sum_i p(i | x) theta[i, label], theta = softmax(b): [n, K], int [n] -> [n]."""
    log_theta = jax.nn.log_softmax(method_state["transition"])
    joint = jax.nn.log_softmax(logits) + log_theta[:, labels].T
    return -jax.nn.logsumexp(joint, axis=-1)


S_MODEL = Method(init=_smoothed_identity, loss=_mixture_loss, trainable=True, tasks=CLASSIFICATION)
S_MODEL_CONF = S_MODEL._replace(init=_from_confusion_matrix, host_input=_read_confusion)
