"""Logistic regression and the optimizers in numpy, and the algorithm's functions in one form.

The tests of the algorithm compare with these.
"""

import functools

import jax
import numpy as np
import optax
import pytest

from reweight_jax import (
    ReweightState,
    reweight_step,
)

both_methods = pytest.mark.parametrize("method", ["lookahead", "jvp"])


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def batches(network, n, m, seed=0):
    rng = np.random.default_rng(seed)
    return network.batch(rng, n), network.batch(rng, m)


def jitted(function, loss_fn, **kwargs):
    return jax.jit(functools.partial(function, loss_fn, **kwargs))


def step_from_params(loss_fn, params, batch, clean, *, tx=None, **kwargs):
    """`reweight_step` in the form of the other functions."""
    tx = tx or optax.sgd(0.1)
    state = ReweightState(params, tx.init(params))
    return reweight_step(state, batch, clean, loss_fn=loss_fn, tx=tx, **kwargs)


def logistic_by_hand(theta, batch):
    """Losses [n] and their gradients [n, 1 + d], bias first, as `ravel_pytree` orders them."""
    x = np.c_[np.ones(len(batch["y"])), batch["x"]].astype(np.float64)
    z = x @ theta
    return np.logaddexp(0, z) - batch["y"] * z, (sigmoid(z) - batch["y"])[:, None] * x


def weights_by_hand(gradients, clean_gradient):
    """Eq. 8-9 for an example's usefulness <grad f_i, grad of the clean loss>."""
    useful = np.maximum(gradients @ clean_gradient, 0)
    return useful / (useful.sum() or 1)


def sgd_by_hand(gradient, memory):
    return -0.1 * gradient, None


def momentum_by_hand(gradient, memory):
    memory = gradient if memory is None else 0.9 * memory + gradient
    return -0.1 * memory, memory


def adam_by_hand(gradient, memory):
    first, second, t = (0, 0, 0) if memory is None else memory
    first, second, t = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2, t + 1
    corrected = first / (1 - 0.9**t), second / (1 - 0.999**t)
    return -0.01 * corrected[0] / (np.sqrt(corrected[1]) + 1e-8), (first, second, t)
