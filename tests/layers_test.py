"""Imports go one way: a module imports from its own folder and from the floors above it."""

import ast
import pathlib

PACKAGE = pathlib.Path(__file__).resolve().parents[1] / "reweight_jax"
FLOORS = (
    "errors reweight approximate data models methods history train records paper startup cli main"
).split()


def floor(module: str) -> int:
    return FLOORS.index(module.split(".")[1])


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "reweight_jax":
            names = [f"reweight_jax.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.startswith("reweight_jax."))


def test_the_algorithm_imports_nothing_of_ours():
    assert not list(imports(PACKAGE / "reweight.py"))
