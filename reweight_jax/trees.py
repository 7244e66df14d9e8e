"""The leaves of a pytree by their paths."""

from typing import Any

import jax


def by_path(tree: Any) -> dict[str, Any]:
    """Returns {path: leaf}, in the order of the leaves; a path is like "Conv_0/kernel"."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
