"""The leaves of a pytree by their paths."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def by_path(tree: Any) -> dict[str, Any]:
    """Returns {path: leaf}, in the order of the leaves; a path is like "Conv_0/kernel"."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def select_params(params: Any, pattern: str) -> tuple[dict[str, jax.Array], Callable]:
    """Returns (part, join): {path: leaf} of the matching leaves, and part -> whole params.

    `pattern`: a regular expression, searched for in paths such as "Conv_0/kernel". ValueError,
    which lists the paths, if it matches none.
    """
    named, structure = by_path(params), jax.tree.structure(params)
    part = {name: leaf for name, leaf in named.items() if re.search(pattern, name)}
    if not part:
        raise ValueError(f"{pattern!r} matches none of the parameters: {', '.join(named)}")
    return part, lambda part: jax.tree.unflatten(structure, (named | part).values())


def check_params(params: Any) -> None:
    """Raises ValueError that names the first leaf which is not real floating-point numbers."""
    for path, leaf in by_path(params).items():
        dtype = jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.floating):
            raise ValueError(
                f"params: {path or 'the array'} is {dtype}, and parameters are real floating-point "
                "arrays; close over anything else in loss_fn"
            )
