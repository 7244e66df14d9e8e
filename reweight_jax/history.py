"""What is remembered of each training example: how it was weighed, last and on average.

A weight is zero for every example that a step finds unhelpful, by a little or by far, and at one
step the clean set may want less of whole classes. The mean over the visits is of no single step,
and the gradient by epsilon before it is rectified also says how far.
"""

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class WeightHistory:
    """One entry for each training example; where a batch holds one twice, it is visited once.

    Attributes:
      visits: int32 [N_train], how many batches held it.
      last_weight: float32 [N_train], its weight in the last of them, times the batch size (1 is
        plain training); NaN before the first.
      mean_weight: float32 [N_train], the mean of all of them; NaN before the first.
      mean_alignment: float32 [N_train], the mean of its negative gradients by epsilon, each in
        units of its batch's mean absolute one: how far its own gradient and the clean set's point
        the same way. Below zero, its label is at odds with the clean set. NaN before the first
        visit, and always where the method takes no gradient by epsilon.
    """

    visits: jax.Array
    last_weight: jax.Array
    mean_weight: jax.Array
    mean_alignment: jax.Array


def empty_history(num_train: int) -> WeightHistory:
    """The history of examples that no batch has held."""
    nothing = [jnp.full(num_train, jnp.nan, jnp.float32) for _ in range(3)]  # apart: all donated
    return WeightHistory(jnp.zeros(num_train, jnp.int32), *nothing)


def add_visits(
    history: WeightHistory,
    rows: jax.Array,
    weights: jax.Array,
    epsilon_gradients: jax.Array | None,
) -> WeightHistory:
    """Returns the history with one batch more.

    Args:
      history: of the batches before.
      rows: int32 [N], which training examples the batch over all devices holds.
      weights: [N], their weights, which sum to one or to zero.
      epsilon_gradients: [N], as `reweight_jax.epsilon_gradient` returns them, or None.
    """
    visits = history.visits[rows] + 1

    def mean(before, value):
        before = before[rows]
        return jnp.where(visits == 1, value, before + (value - before) / visits)

    weights = weights * len(weights)
    mean_alignment = history.mean_alignment
    if epsilon_gradients is not None:
        scale = jnp.mean(jnp.abs(epsilon_gradients))
        alignment = -epsilon_gradients / jnp.where(scale == 0, 1.0, scale)
        mean_alignment = mean_alignment.at[rows].set(mean(mean_alignment, alignment))
    return WeightHistory(
        visits=history.visits.at[rows].set(visits),
        last_weight=history.last_weight.at[rows].set(weights),
        mean_weight=history.mean_weight.at[rows].set(mean(history.mean_weight, weights)),
        mean_alignment=mean_alignment,
    )
