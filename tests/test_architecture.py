"""The tree explains the package: imports run downwards, and nothing is hidden in a function."""

import ast
from pathlib import Path

import pytest

import mksdask

ROOT = Path(mksdask.__file__).parent
# Rooms and modules in the order in which they may import: each only from those that stand before it, or from itself.
ORDER = (
    "startup",
    "types",
    "display",
    "compute",
    "arrays",
    "labels",
    "schema",
    "grid",
    "bases",
    "samples",
    "storage",
    "stats",
    "reduction",
    "regression",
    "simulation",
    "datasets",
    "descriptors",
    "structure",
    "homogenization",
    "localization",
    "tools",
    "importers",
    "exporters",
    "accessor",
    "cli",
)
MODULES = {
    ".".join(("mksdask", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}


def imports(name, *, nested):
    """Modules of the package that a module imports: at its top, or inside functions and classes."""
    tree = ast.parse(MODULES[name].read_text())
    top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    everywhere = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    for node in [node for node in everywhere if node not in top] if nested else top:
        for alias in node.names:
            wanted = alias.name if isinstance(node, ast.Import) else f"{node.module}.{alias.name}"
            while wanted.partition(".")[0] == "mksdask" and wanted not in MODULES:
                wanted = wanted.rpartition(".")[0]
            if wanted in MODULES and wanted != "mksdask":
                yield wanted


def room(name):
    return [*name.split("."), ""][1]


@pytest.mark.parametrize("name", [name for name in MODULES if room(name) not in ("", "__main__")])
def test_imports__run_downwards(name):
    upwards = [wanted for wanted in imports(name, nested=False) if ORDER.index(room(wanted)) > ORDER.index(room(name))]
    assert not upwards


def test_imports__make_no_circle():
    graph = {name: set(imports(name, nested=False)) - {name} for name in MODULES}
    # A package imports its modules, and is imported with each of them: that is no circle.
    for name in graph:
        if MODULES[name].name == "__init__.py":
            graph[name] = set()
    while leaves := {name for name, wanted in graph.items() if not wanted & graph.keys()}:
        graph = {name: wanted for name, wanted in graph.items() if name not in leaves}
    assert not graph


@pytest.mark.parametrize("name", MODULES)
def test_imports__are_not_hidden_in_functions(name):
    assert not list(imports(name, nested=True))


def test_tree__is_small_at_the_top():
    assert len(list(ROOT.glob("*.py"))) <= 12


@pytest.mark.parametrize("name", MODULES)
def test_module__can_be_read_at_once(name):
    assert len(MODULES[name].read_text().splitlines()) <= 500


def test_dask__is_known_to_few_modules():
    users = [
        name
        for name in MODULES
        if any(
            alias.name.partition(".")[0] == "dask" if isinstance(node, ast.Import) else node.module == "dask"
            for node in ast.walk(ast.parse(MODULES[name].read_text()))
            if isinstance(node, ast.Import) or (isinstance(node, ast.ImportFrom) and node.module)
            for alias in node.names
        )
    ]
    assert len(users) <= 20, users
