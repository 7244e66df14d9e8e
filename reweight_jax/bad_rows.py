"""Rows of a batch that are not finite: one must not spoil what is computed of the others."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def bad_rows(
    losses: Callable[[Any], jax.Array], batch: Any, *, axis_name: str | None = None
) -> jax.Array:
    """Returns which rows hold NaN or infinity and have a loss that is not finite.

    Such a row makes a gradient over the batch NaN even with weight 0, and with BatchNorm all
    losses. A row that is not finite but has a finite loss is left alone: NaN may stand for a
    missing label. The losses are asked, in one more forward pass, only if a row is not finite.

    Args:
      losses: batch -> [n].
      batch: pytree of arrays [n, ...].
      axis_name: device axis over which the batch is split, or None.

    Returns:
      bool [n], or [] False of a batch without floating-point arrays or in another form.
    """
    leaves = [x for x in jax.tree.leaves(batch) if jnp.issubdtype(x.dtype, jnp.inexact)]
    if not leaves or not _has_rows(batch, jax.eval_shape(losses, batch).size):
        return jnp.asarray(False)
    is_finite = [jnp.isfinite(x).all(axis=range(1, x.ndim)) for x in leaves]
    is_bad = ~jnp.stack(is_finite).all(axis=0)
    count = jnp.sum(is_bad)
    if axis_name is not None:  # all devices take the same branch: the losses may communicate
        count = jax.lax.psum(count, axis_name)
    return jax.lax.cond(count > 0, lambda: is_bad & ~jnp.isfinite(losses(batch)), lambda: is_bad)


def replace_rows(batch: Any, is_bad: jax.Array) -> Any:
    """Returns the batch with a copy of its first good row, or zeros, in place of each bad one.

    `is_bad` is bool [n], or [] False: the batch as it is, as is one that has not n rows. The copy
    is a sum over rows: for a batch that is split over devices, the communication of one row.
    """
    if not is_bad.ndim or not _has_rows(batch, len(is_bad)):
        return batch
    is_first = ~is_bad & (jnp.arange(len(is_bad)) == jnp.argmin(is_bad))

    def replaced(leaf):
        def along(rows):
            return rows.reshape(-1, *[1] * (leaf.ndim - 1))

        row = jnp.sum(jnp.where(along(is_first), leaf, 0), axis=0, dtype=leaf.dtype)
        return jnp.where(along(is_bad), row, leaf)

    return jax.tree.map(replaced, batch)


def _has_rows(batch, n):
    """Whether all arrays have n rows. A batch may have any form that the loss takes."""
    return all(leaf.shape[:1] == (n,) for leaf in jax.tree.leaves(batch))
