"""Bootstrapping: the training target is partly the model's own prediction.

Reed et al., "Training Deep Neural Networks on Noisy Labels with Bootstrapping" (2014), with the
beta that the paper uses.
"""

import jax
import jax.numpy as jnp

from reweight_jax.methods.base import CLASSIFICATION, Method

SOFT_BETA, HARD_BETA = 0.95, 0.8


def _bootstrap(logits, labels, predicted, beta):
    """Returns -sum_k (beta t_k + (1 - beta) predicted_k) log q_k, q = softmax(logits): [n]."""
    target = beta * jax.nn.one_hot(labels, logits.shape[-1]) + (1 - beta) * predicted
    return -jnp.sum(target * jax.nn.log_softmax(logits), axis=-1)


def _soft_bootstrap(logits, labels, method_state):
    """REED SOFT: the prediction is q itself, and is differentiated too; [n, K], int [n] -> [n]."""
    return _bootstrap(logits, labels, jax.nn.softmax(logits), SOFT_BETA)


def _hard_bootstrap(logits, labels, method_state):
    """REED HARD: the prediction is the class with the largest q, one-hot; same shapes."""
    predicted = jax.nn.one_hot(jnp.argmax(logits, axis=-1), logits.shape[-1])
    return _bootstrap(logits, labels, predicted, HARD_BETA)


REED_SOFT = Method(loss=_soft_bootstrap, tasks=CLASSIFICATION)
REED_HARD = Method(loss=_hard_bootstrap, tasks=CLASSIFICATION)
