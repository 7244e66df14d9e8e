"""What a method is: a few pure functions, each with plain training as its default."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from reweight_jax.data.batches import shuffled


class Context(NamedTuple):
    """What a method sees of a step when it chooses weights; N is the batch over all devices.

    Attributes:
      losses: [N], per-example training losses before the update.
      labels: int32 [N].
      key: this step's PRNG key, the same on every device.
      step: int32 [], steps taken before this one.
      method_state: what `Method.init` made, or the last `Method.weights` returned.
      epsilon_gradient: [N], `reweight_jax.epsilon_gradient` of this step where the method
        `needs_clean`, else None.
    """

    losses: jax.Array
    labels: jax.Array
    key: jax.Array
    step: jax.Array
    method_state: Any
    epsilon_gradient: jax.Array | None


def no_state(key, config, train, num_classes):
    """The `init` of a method that remembers nothing."""
    del key, config, train, num_classes
    return ()


def cross_entropy(logits, labels, method_state):
    """Softmax cross-entropy of each example: [n, K], int [n] -> [n]."""
    del method_state
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def uniform_weights(context: Context):
    """1/N for every example: plain training."""
    return jnp.full_like(context.losses, 1 / len(context.losses)), context.method_state


class Method(NamedTuple):
    """One way to train on bad labels.

    Attributes:
      init: (key, config, train, num_classes) -> method_state, a pytree of arrays; `train` is the
        training set as `reweight_jax.data.Examples`, which may lack some of the K classes.
      loss: (logits [n, K], labels [n], method_state) -> [n]; must be differentiable in the logits,
        and in the method_state where that is `trainable`.
      weights: Context -> (w [N], method_state). Weights sum to one, or to zero where the step
        should not move the model, so that all methods take steps of the same size.
      sampler: from `reweight_jax.data.batches`: which examples make up a batch.
      needs_clean: whether each step takes a batch of the clean set.
      trains_on_clean: whether the clean set takes the place of the training set.
      trainable: whether `method_state` is a pytree of parameters, which the optimiser trains along
        with the model's; `weights` then sees () in its place.
      uses_num_steps: whether its steps depend on the length of the run, which then is fixed.
    """

    init: Callable[..., Any] = no_state
    loss: Callable[..., jax.Array] = cross_entropy
    weights: Callable[[Context], tuple[jax.Array, Any]] = uniform_weights
    sampler: Callable[..., Any] = shuffled
    needs_clean: bool = False
    trains_on_clean: bool = False
    trainable: bool = False
    uses_num_steps: bool = False


def normalize(weights: jax.Array) -> jax.Array:
    """[N] >= 0 -> the same divided by its sum; all zero stays all zero."""
    total = jnp.sum(weights)
    return weights / jnp.where(total == 0, 1.0, total)
