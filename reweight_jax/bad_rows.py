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
    losses. A row with a finite loss is not bad: NaN may mark a missing label. The losses are
    computed, in one more forward pass, only if a row is not finite.

    Args:
      losses: batch -> [n].
      batch: pytree; only its arrays [n, ...] of numbers are checked.
      axis_name: device axis over which the batch is split, or None.

    Returns:
      bool [n], or [] False of a batch without floating-point rows.
    """
    n = jax.eval_shape(lambda: losses(batch)).size
    leaves = [x for x in jax.tree.leaves(batch) if _has_rows(x, n, jnp.inexact)]
    if not leaves:
        return jnp.asarray(False)
    is_finite = [jnp.isfinite(x).all(axis=range(1, x.ndim)) for x in leaves]
    is_bad = ~jnp.stack(is_finite).all(axis=0)
    count = jnp.sum(is_bad)
    if axis_name is not None:  # all devices take the same branch: the losses may communicate
        count = jax.lax.psum(count, axis_name)
    return jax.lax.cond(count > 0, lambda: is_bad & ~jnp.isfinite(losses(batch)), lambda: is_bad)


def replace_rows(batch: Any, is_bad: jax.Array, *, axis_name: str | None = None) -> Any:
    """Returns the batch with a copy of its first good row, or zeros, in place of each bad one.

    Args:
      batch: pytree; only its arrays [n, ...] of numbers or bools change.
      is_bad: bool [n], or [] False, which changes nothing.
      axis_name: device axis over which the batch is split, or None. The good row may be another
        device's; one row is all that the devices communicate.
    """
    if not is_bad.ndim:
        return batch
    is_first = ~is_bad & (jnp.arange(len(is_bad)) == jnp.argmin(is_bad))
    if axis_name is not None:
        device, devices = jax.lax.axis_index(axis_name), jax.lax.psum(1, axis_name)
        has_good = jnp.where(is_bad.all(), devices, device)
        is_first &= device == jax.lax.pmin(has_good, axis_name)

    def replaced(leaf):
        is_mask = _has_rows(leaf, len(is_bad), jnp.bool_)
        if not is_mask and not _has_rows(leaf, len(is_bad), jnp.number):
            return leaf

        def along(rows):
            return rows.reshape(-1, *[1] * (leaf.ndim - 1))

        dtype = jnp.int32 if is_mask else leaf.dtype  # there is no sum of bools over devices
        row = jnp.sum(jnp.where(along(is_first), leaf, 0), axis=0, dtype=dtype)
        row = row if axis_name is None else jax.lax.psum(row, axis_name)
        return jnp.where(along(is_bad), row.astype(leaf.dtype), leaf)

    return jax.tree.map(replaced, batch)


def _has_rows(leaf, n, kind):
    """Whether it is an array [n, ...] of a kind of numbers; anything else may be in a batch too."""
    is_array = hasattr(leaf, "dtype") and jnp.shape(leaf)[:1] == (n,)
    return is_array and jnp.issubdtype(leaf.dtype, kind)
