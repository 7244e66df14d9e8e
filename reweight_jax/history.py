"""What is remembered of each training example: sums over the batches that held it.

One step's weights say little of a single label: a step that wants less of a class gives zero to all
of its examples. Means over many steps say more. Keep them in your own training loop like this, with
`weights` and `epsilon_gradient` from the metrics of `reweight_step`:

    history = empty_history(num_examples, {"weight": (), "alignment": ()})
    history = add_visits(  # inside the jitted step; rows int [n]: which examples the batch holds
        history, rows, {"weight": n * weights, "alignment": alignment(epsilon_gradient)}
    )
    means = history_means(history)  # numpy, one entry an example
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class History(NamedTuple):
    """Sums over visits; a visit is one occurrence of an example in a batch.

    Attributes:
      visits: int32 [N]; an example that a batch holds twice has two visits in it.
      sums: name -> float32 [N, ...], the sum of a quantity over the visits.
    """

    visits: jax.Array
    sums: dict[str, jax.Array]


def empty_history(num_examples: int, shapes: dict[str, tuple[int, ...]]) -> History:
    """Returns the history of `num_examples` N before any batch.

    `shapes`: name of each quantity -> the shape of one example's value, () for a number.
    """
    sums = {name: jnp.zeros((num_examples, *shape), jnp.float32) for name, shape in shapes.items()}
    return History(jnp.zeros(num_examples, jnp.int32), sums)


def add_visits(history: History, rows: jax.Array, values: dict[str, jax.Array]) -> History:
    """Returns the history with one more batch; several visits of an example add up.

    Args:
      history: of the previous batches.
      rows: int [n], which examples the (global) batch holds. N, one more than the last, pads a
        batch, and is no visit; -1 is the last example, as in numpy.
      values: each name of `history.sums` -> [n, ...], its values for these examples.

    Raises:
      ValueError: not as many values as rows.
    """
    rows = jnp.asarray(rows)
    for name in history.sums:
        if values[name].shape[: rows.ndim] != rows.shape:
            raise ValueError(f"{name}: {values[name].shape} values for {rows.shape} rows")
    sums = {
        name: total.at[rows].add(values[name].astype(total.dtype))
        for name, total in history.sums.items()
    }
    return History(history.visits.at[rows].add(1), sums)


def alignment(epsilon_gradient: jax.Array, *, axis_name: str | None = None) -> jax.Array:
    """Returns -epsilon_gradient [n] divided by its mean absolute value: a scale batches share.

    Entry i is proportional to the inner product of example i's gradient with the clean set's. Below
    zero, a step on the example would have raised the clean loss. Its sum over training is, up to
    the learning rate, first-order In-Run Data Shapley (Wang et al., arXiv 2406.11011), which is
    TracIn (Pruthi et al., 2020) at every step. An entry that is not finite counts as zero.
    `axis_name`: device axis over which the batch is split, or None; the mean is over all devices.
    """
    finite = jnp.isfinite(epsilon_gradient)
    values = jnp.where(finite, -epsilon_gradient, 0)
    values = values.astype(jnp.promote_types(values.dtype, jnp.float32))  # the sum may overflow
    total, count = jnp.sum(jnp.abs(values)), jnp.sum(finite)
    if axis_name is not None:
        total, count = jax.lax.psum((total, count), axis_name)
    scale = total / jnp.maximum(count, 1)
    return values / jnp.where(scale == 0, jnp.ones_like(scale), scale)


def history_means(history: History, num_examples: int | None = None) -> dict[str, np.ndarray]:
    """Returns {"visits": int [N], name: float [N, ...] mean over visits}, NaN before the first.

    `num_examples`: N, if the history has entries of more examples; None: it has not.
    """
    visits = np.asarray(history.visits)[:num_examples]
    means = {"visits": visits}
    for name, total in history.sums.items():
        total = np.asarray(total)[:num_examples]
        count = visits.reshape(-1, *[1] * (total.ndim - 1))
        means[name] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return means
