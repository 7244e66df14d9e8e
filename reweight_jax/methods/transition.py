"""A layer of noise transition probabilities behind the softmax, trained along with the model.

Goldberger & Ben-Reuven, "Training deep neural-networks using a noise adaptation layer" (ICLR 2017),
the simple model (S-Model). At test time the layer is left out.
"""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from reweight_jax.errors import UserError
from reweight_jax.methods.base import Method

SMOOTHING = 0.1  # probability that the first transition matrix gives to other classes


def _smoothed_identity(key, config, train, num_classes):
    """Method state: logits b [K, K]; softmax(b[i]) is how class i is labelled."""
    del key, config, train
    return {"transition": jnp.log(_smooth(np.eye(num_classes)))}


def _from_confusion_matrix(key, config, train, num_classes):
    """Likewise, from a baseline's confusion matrix: of what it takes for class i, the labels.

    That of the hyper-validation set (labels as noisy as the training set's, and none of them
    learned by heart), at the step that is best on it. `config.confusion_from` is the run's folder.
    """
    del key, train
    folder = config.confusion_from
    if not folder:
        raise UserError(
            "config.confusion_from: empty; s_model_conf starts from a finished run's confusion "
            "matrix: run --config.method=baseline first, and give its --workdir here"
        )
    path = pathlib.Path(folder) / "result.json"
    try:
        path = path.expanduser()
        result = json.loads(path.read_text())
        confusion = np.array(result["confusion"]["best"]["hyper_val"], np.float64)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise UserError(
            f"config.confusion_from: no confusion matrix in {path} ({type(error).__name__}); "
            "give the --workdir of a finished run"
        ) from None
    if confusion.shape != (num_classes, num_classes) or not (confusion >= 0).all():
        raise UserError(
            f"config.confusion_from: the confusion matrix in {path}, {confusion.shape}, is not "
            f"one of counts of {num_classes} classes"
        )
    predicted_by_label = confusion.T  # [predicted, labelled]
    seen = predicted_by_label.sum(axis=1, keepdims=True)
    share = np.where(seen > 0, predicted_by_label / np.maximum(seen, 1), np.eye(num_classes))
    return {"transition": jnp.log(_smooth(share))}


def _smooth(matrix):
    """Rows that sum to one, away from zero: a tenth of each is shared out over all classes."""
    smooth = (1 - SMOOTHING) * matrix + SMOOTHING / len(matrix)
    return jnp.asarray(smooth, jnp.float32)


def _mixture_loss(logits, labels, method_state):
    """-log sum_i p(i | x) theta[i, label], theta = softmax(b): [n, K], int [n] -> [n]."""
    log_theta = jax.nn.log_softmax(method_state["transition"])
    joint = jax.nn.log_softmax(logits) + log_theta[:, labels].T
    return -jax.nn.logsumexp(joint, axis=-1)


S_MODEL = Method(init=_smoothed_identity, loss=_mixture_loss, trainable=True)
S_MODEL_CONF = Method(init=_from_confusion_matrix, loss=_mixture_loss, trainable=True)
