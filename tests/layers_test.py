"""Data flows one way: a module imports only from modules above it in the layout."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).resolve().parents[1] / "reweight_jax"
ORDER = (
    "errors reweight approximate data models methods history state step processes parallel "
    "checkpoints evaluate report plots check tables run train benchmark startup grid cli main"
).split()


def rank(module: str) -> int:
    return ORDER.index(module.split(".")[1])


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


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_imports_go_up(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    if parts == ("reweight_jax", "__init__"):
        assert set(imports(path)) == {"reweight_jax.reweight"}
        return
    for name in imports(path):
        assert rank(name) <= rank(".".join(parts)), f"{path} imports {name}"


def test_the_algorithm_imports_nothing_of_ours():
    assert not list(imports(PACKAGE / "reweight.py"))
