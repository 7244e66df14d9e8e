"""Parts of a pytree of parameters, by their paths."""

import re
from collections.abc import Callable
from typing import Any

import jax


def select_params(params: Any, pattern: str) -> tuple[dict[str, jax.Array], Callable]:
    """Returns (part, join): {path: leaf} of the matching leaves, and part -> whole params.

    `pattern` is a regular expression, searched for in paths such as "Conv_0/kernel". Raises
    ValueError, which lists the paths, if it matches none.
    """
    paths, treedef = jax.tree_util.tree_flatten_with_path(params)
    named = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in paths}
    part = {name: leaf for name, leaf in named.items() if re.search(pattern, name)}
    if not part:
        raise ValueError(f"{pattern!r} matches none of the parameters: {', '.join(named)}")
    return part, lambda part: jax.tree.unflatten(treedef, (named | part).values())
