"""Bootstrapping: the training target is partly the model's own prediction.

Reed et al., "Training Deep Neural Networks on Noisy Labels with Bootstrapping" (2014), with the
beta that the paper uses.
"""

import jax
import jax.numpy as jnp

from reweight_jax.methods.base import CLASSIFICATION, Method

SOFT_BETA = 0.95
HARD_BETA = 0.8


def _soft_bootstrap(logits, labels, method_state):
    """REED SOFT: -sum_k (beta t_k + (1 - beta) q_k) log q_k, [n, K], int [n] -> [n].

    q is the softmax of the logits; the q in the target is differentiated too.
    """
    del method_state
    log_q = jax.nn.log_softmax(logits)
    target = jax.nn.one_hot(labels, logits.shape[-1])
    return -jnp.sum((SOFT_BETA * target + (1 - SOFT_BETA) * jnp.exp(log_q)) * log_q, axis=-1)


def _hard_bootstrap(logits, labels, method_state):
    """REED HARD: -sum_k (beta t_k + (1 - beta) z_k) log q_k, z one-hot of the predicted class."""
    del method_state
    log_q = jax.nn.log_softmax(logits)
    target = jax.nn.one_hot(labels, logits.shape[-1])
    predicted = jax.nn.one_hot(jnp.argmax(logits, axis=-1), logits.shape[-1])
    return -jnp.sum((HARD_BETA * target + (1 - HARD_BETA) * predicted) * log_q, axis=-1)


REED_SOFT = Method(loss=_soft_bootstrap, tasks=CLASSIFICATION)
REED_HARD = Method(loss=_hard_bootstrap, tasks=CLASSIFICATION)
