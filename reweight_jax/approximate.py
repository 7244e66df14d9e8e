"""Cheaper epsilon gradients that are not exact: from some of the parameters, or an old clean one.

Everywhere the default is the exact one (`reweight_jax.epsilon_gradient`). What these do to weights
and accuracy is measured by scripts/compare_approximations.py.
"""

import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from reweight_jax.errors import UserError
from reweight_jax.reweight import (
    LinearizedLosses,
    LossFn,
    clean_gradient,
    linearize_losses,
    linearized_epsilon_gradient,
)


def part_of(params: Any, pattern: str) -> tuple[dict[str, jax.Array], Callable[[dict], Any]]:
    """Splits off the parameters whose path, as "Conv_0/kernel", has a match of `pattern`.

    Returns:
      They, by path, and a function that puts others in their place, and returns the whole.

    Raises:
      UserError: where none matches.
    """
    paths, treedef = jax.tree_util.tree_flatten_with_path(params)
    named = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in paths}
    part = {name: leaf for name, leaf in named.items() if re.search(pattern, name)}
    if not part:
        raise UserError(
            f"config.epsilon_params: {pattern!r} matches none of the parameters: {', '.join(named)}"
        )
    return part, lambda part: jax.tree.unflatten(treedef, (named | part).values())


def initial_clean_gradient(params: Any, config) -> Any:
    """What a run remembers of the clean gradient: () where each step computes its own.

    Raises UserError where `config.epsilon_params` matches no parameter.
    """
    part = part_of(params, config.epsilon_params)[0] if config.epsilon_params else params
    if config.clean_gradient_every == 1:
        return ()
    return jax.tree.map(jnp.zeros_like, part)


def approximate_epsilon_gradient(
    loss_fn: LossFn,
    params: Any,
    batch: Any,
    clean_batch: Any,
    linearized: LinearizedLosses,
    *,
    method: str,
    pattern: str,
    fresh: bool | jax.Array,
    kept: Any,
    axis_name: str | None,
) -> tuple[jax.Array, Any]:
    """Returns the epsilon gradient [n] of a step, and the clean gradient to keep for the next.

    Args:
      loss_fn, params, batch, clean_batch, method, axis_name: as `reweight_jax.epsilon_gradient`.
      linearized: the losses of `batch` at `params`.
      pattern: the inner products are over the parameters that it matches alone (`part_of`); all
        others count as fixed, and no derivative goes further down than it must. "": all.
      fresh: whether the clean gradient is computed, or the one that was kept used; better no
        array on a CPU, where XLA's convolutions are slow behind a condition.
      kept: the clean gradient kept by the step before; () where each step computes its own.
    """
    if pattern:
        params, join = part_of(params, pattern)
        loss_fn = functools.partial(_loss_of_part, loss_fn, join)
        linearized = linearize_losses(loss_fn, params, batch)
    if not jax.tree.leaves(kept):
        gradient = linearized_epsilon_gradient(
            loss_fn, params, batch, clean_batch, linearized, method, 1.0, axis_name
        )
        return gradient, kept

    def compute():
        return clean_gradient(loss_fn, params, clean_batch, axis_name=axis_name)

    if isinstance(fresh, bool):
        kept = compute() if fresh else kept
    else:
        kept = jax.lax.cond(fresh, compute, lambda: kept)
    return -linearized.jvp(kept), kept


def _loss_of_part(loss_fn, join, part, examples):
    return loss_fn(join(part), examples)
