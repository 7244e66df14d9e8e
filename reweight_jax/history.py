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
    """One entry for each training example.

    Where a batch holds one twice, that is one visit, of one of its two weights.

    Attributes:
      visits: int32 [N_train], how many batches held it.
      last_weight: float32 [N_train], its weight in the last of them, times the batch size (1 is
        plain training); NaN before the first.
      mean_weight: float32 [N_train], the mean of all of them; NaN before the first.
      mean_alignment: float32 [N_train], the mean of its negative gradients by epsilon, exact or
        not as the weights', each divided by the mean absolute value of its batch: the inner product
        of its own gradient with the clean set's, on a scale that batches share. Below zero: by and
        large, steps on it would have raised the clean loss. NaN before the first visit, and where
        the method needs no clean set.
    """

    visits: jax.Array
    last_weight: jax.Array
    mean_weight: jax.Array
    mean_alignment: jax.Array


def empty_history(num_train: int) -> WeightHistory:
    """The history of examples that no batch has held."""

    def unseen():  # a buffer for each, as each is donated
        return jnp.full(num_train, jnp.nan, jnp.float32)

    return WeightHistory(
        visits=jnp.zeros(num_train, jnp.int32),
        last_weight=unseen(),
        mean_weight=unseen(),
        mean_alignment=unseen(),
    )


def add_visits(
    history: WeightHistory,
    rows: jax.Array,
    weights: jax.Array,
    epsilon_gradient: jax.Array | None,
) -> WeightHistory:
    """Returns the history with one batch more.

    Args:
      history: of the batches before.
      rows: int32 [N], which training examples the batch over all devices holds.
      weights: [N], their weights, which sum to one or to zero.
      epsilon_gradient: [N], as `reweight_jax.epsilon_gradient` returns it, or None.
    """
    visits = history.visits[rows] + 1

    def mean(before, value):  # as a change, so that equal weights keep equal means to the bit
        before = before[rows]
        return jnp.where(visits == 1, value, before + (value - before) / visits)

    weights = weights * len(weights)
    mean_alignment = history.mean_alignment
    if epsilon_gradient is not None:
        scale = jnp.mean(jnp.abs(epsilon_gradient))
        alignment = -epsilon_gradient / jnp.where(scale == 0, 1.0, scale)
        mean_alignment = mean_alignment.at[rows].set(mean(mean_alignment, alignment))
    return WeightHistory(
        visits=history.visits.at[rows].set(visits),
        last_weight=history.last_weight.at[rows].set(weights),
        mean_weight=history.mean_weight.at[rows].set(mean(history.mean_weight, weights)),
        mean_alignment=mean_alignment,
    )
