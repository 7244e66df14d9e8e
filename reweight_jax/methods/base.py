"""The interface of a method: a few pure functions, each with plain training as its default."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from reweight_jax.data.batches import shuffled

CLASSIFICATION = ("classification",)  # `Method.tasks` of a method that needs classes


class Context(NamedTuple):
    """What a method knows of a step when it chooses the weights of a batch.

    N is the batch size over all devices; every device has all N.

    Attributes:
      losses: [N], the training loss of each example before the update.
      labels: of the N examples, as the task has them: int32 [N] in classification.
      key: this step's PRNG key, the same on every device.
      step: int32 [], the number of steps taken before this one.
      method_state: the result of `Method.init`, or of the last call of `Method.weights`.
      epsilon_gradient: [N], from `reweight_jax.epsilon_gradient`; None unless `needs_clean`.
    """

    losses: jax.Array
    labels: jax.Array
    key: jax.Array
    step: jax.Array
    method_state: Any
    epsilon_gradient: jax.Array | None


def no_state(key, config, train, num_outputs, host_input=None):
    """Returns (), the state of a method that remembers nothing."""
    return ()


def uniform_weights(context: Context):
    """Returns the weight 1/N for every example: plain training."""
    return jnp.full_like(context.losses, 1 / len(context.losses)), context.method_state


class Method(NamedTuple):
    """One way to train on bad labels.

    Attributes:
      init: (key, config, train, num_outputs, host_input=None) -> method_state, a pytree of arrays.
        `train` is the training set as `reweight_jax.data.Examples`, which may lack some of the
        classes; `num_outputs` is K.
      loss: (outputs [n, K], labels [n], method_state) -> losses [n], differentiable in the outputs,
        and in method_state if that is `trainable`. None: the task's loss.
      weights: Context -> (weights [N], method_state). The weights sum to one, so that all methods
        take steps of the same size, or to zero for a step without a gradient.
      sampler: a sampler of `reweight_jax.data.batches`; it chooses the examples of each batch.
      needs_clean: whether each step takes a batch of the clean set too.
      trains_on_clean: whether the method trains on the clean set instead of the training set.
      trainable: whether `method_state` is a pytree of parameters, which the optimiser trains along
        with the model's; `weights` then gets () in its place.
      uses_num_steps: whether a step depends on the length of the run, which can then not change.
      tasks: the names of the tasks that the method can train; None: any.
      host_input: config -> a value that JSON can represent, which `init` gets as `host_input`: what
        the method reads from a file. It is called in the first of several processes only.
    """

    init: Callable[..., Any] = no_state
    loss: Callable[..., jax.Array] | None = None
    weights: Callable[[Context], tuple[jax.Array, Any]] = uniform_weights
    sampler: Callable[..., Any] = shuffled
    needs_clean: bool = False
    trains_on_clean: bool = False
    trainable: bool = False
    uses_num_steps: bool = False
    tasks: tuple[str, ...] | None = None
    host_input: Callable[[Any], Any] | None = None


def normalize(weights: jax.Array) -> jax.Array:
    """Returns weights [N] >= 0 divided by their sum; if all are zero, they stay zero."""
    total = jnp.sum(weights)
    return weights / jnp.where(total == 0, 1.0, total)
