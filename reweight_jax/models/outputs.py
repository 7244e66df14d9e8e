"""What tells a user's own model from another one whose parameters have the same shapes."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from reweight_jax.models.adapters import Model

TOLERANCE = 0.01  # of the largest output; versions of libraries round otherwise
OF_STATE = 0.5  # a mean or a variance, say


def outputs_of(model: Model, inputs) -> list[float]:
    """Returns the outputs [K] of a model in evaluation for one example.

    Its parameters are numbers that depend only on their shapes, and its inputs are ones, in the
    form of `inputs`, [1, ...]. So another model of the same shapes has other outputs. One that is
    not finite is 0.
    """
    params, model_state = jax.eval_shape(model.init, jax.random.key(0), inputs)
    params, model_state = jax.tree.map(_wave, params), jax.tree.map(_constant, model_state)
    apply = jax.jit(functools.partial(model.apply, train=False, key=None))
    outputs, _ = apply(params, model_state, jax.tree.map(np.ones_like, inputs))
    outputs = np.asarray(outputs[0], np.float64)
    return np.where(np.isfinite(outputs), outputs, 0).tolist()


def same_outputs(one: Sequence[float], other: Sequence[float]) -> bool:
    """Returns whether two models have the same `outputs_of`, to rounding."""
    one, other = np.asarray(one), np.asarray(other)
    close = TOLERANCE * np.abs(other).max(initial=0)
    return one.shape == other.shape and bool(np.all(np.abs(one - other) <= close))


def _wave(leaf):
    """Numbers of both signs, with which a layer keeps the size of its inputs."""
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        return _constant(leaf)
    fan_in = leaf.size / leaf.shape[-1] if len(leaf.shape) > 1 else 4
    numbers = np.sin(np.arange(1, leaf.size + 1)) * np.sqrt(2 / max(fan_in, 1))
    return jnp.asarray(numbers.reshape(leaf.shape), leaf.dtype)


def _constant(leaf):
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jnp.broadcast_to(jax.random.key(0), leaf.shape)
    is_float = jnp.issubdtype(leaf.dtype, jnp.floating)
    return jnp.full(leaf.shape, OF_STATE if is_float else 0, leaf.dtype)
