"""Imports go one way: from a module's own folder and the floors above it, and never in a circle."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).resolve().parents[1] / "reweight_jax"
FLOORS = (
    "errors paths trees sealed bad_rows reweight layerwise history startup configs tasks data "
    "models methods labels records train fitted confident api sklearn paper cli report predict main"
).split()
FILES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.parent != PACKAGE or path.stem != "__init__"
}


def floor(module):
    return FLOORS.index(module.split(".")[1])


def imports(path):
    """The modules of ours that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("reweight_jax"):
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                is_module = name in FILES or f"{name}.__init__" in FILES
                yield name if is_module or node.module == "reweight_jax" else node.module
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.startswith("reweight_jax."))


@pytest.mark.parametrize("module", FILES)
def test_imports_go_up(module):
    for name in imports(FILES[module]):
        assert floor(name) <= floor(module), f"{module} imports {name}"


def test_there_are_no_circles():
    graph = {
        module: {n if n in FILES else f"{n}.__init__" for n in imports(path)} & set(FILES)
        for module, path in FILES.items()
    }
    while graph:  # takes away what imports nothing that is left
        free = [module for module, names in graph.items() if not names & set(graph)]
        assert free, f"a circle among {sorted(graph)}"
        for module in free:
            del graph[module]


def test_the_algorithm_stands_alone():
    assert {name.split(".")[1] for name in imports(PACKAGE / "reweight.py")} == {
        "bad_rows",
        "trees",
    }
    assert not list(imports(PACKAGE / "bad_rows.py"))


def test_files_can_be_read_in_one_sitting():
    lines = {module: len(path.read_text().splitlines()) for module, path in FILES.items()}
    assert max(lines.values()) <= 300
    assert lines["reweight_jax.train.loop"] <= 150 and lines["reweight_jax.train.devices"] <= 170
