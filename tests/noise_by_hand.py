"""What the tests of the methods for noisy labels share: plain numpy, and weights of a context."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from reweight_jax.data.examples import Examples
from reweight_jax.methods import METHODS, Context

LOGITS = np.random.default_rng(0).normal(0, 2, (6, 3)).astype(np.float32)


LABELS = np.array([0, 1, 2, 2, 0, 1])


def examples(labels, true_labels=None):
    labels = np.array(labels, np.int32)
    true_labels = labels if true_labels is None else np.array(true_labels, np.int32)
    return Examples(np.zeros((len(labels), 2, 2, 1), np.uint8), labels, true_labels, labels)


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def slopes(function, x, h=1e-5):
    """The gradient of `function`, a scalar of an array, by central differences in float64."""
    x = np.asarray(x, np.float64)
    result = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[i] = h
        result[i] = (function(x + step) - function(x - step)) / (2 * h)
    return result


def gradient(name, logits, labels, method_state=()):
    """Returns the gradient of the summed losses by the logits: one row for each example."""
    loss = METHODS[name].loss
    return jax.grad(lambda z: jnp.sum(loss(z, jnp.asarray(labels), method_state)))(
        jnp.asarray(logits)
    )


@functools.cache  # the mentor's is compiled once for all tests
def jitted_weights(method):
    return jax.jit(METHODS[method].weights)


def weigh(method, state, losses, labels, step=0):
    context = Context(
        losses=jnp.asarray(losses, jnp.float32),
        labels=jnp.asarray(labels, jnp.int32),
        key=jax.random.key(0),
        step=jnp.int32(step),
        method_state=state,
        epsilon_gradient=None,
    )
    weights, state = jitted_weights(method)(context)
    return np.asarray(weights), state
