"""The tree explains the package: imports run downwards, and nothing is hidden in a function."""

import ast
import sys
from collections import Counter
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from numba.core.dispatcher import Dispatcher

import mksdask
from mksdask import MKSHomogenizationModel, PrimitiveBasis
from mksdask.datasets import make_microstructure

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
    "texture",
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


def is_reordered(value):
    """Whether a compiled function may be computed in another order, unless it is inlined into its callers."""
    return (
        isinstance(value, Dispatcher)
        and "fastmath" in value.targetoptions
        and value.targetoptions.get("inline") != "always"
    )


def test_kernels__call_no_helper_that_is_compiled_twice():
    """A helper that is compiled in its caller and by itself may have two results. It is chance which one is called."""
    kernels = [value for name in MODULES for value in vars(import_module(name)).values() if is_reordered(value)]
    assert len(kernels) > 20
    for kernel in kernels:
        function = kernel.py_func
        called = [name for name in function.__code__.co_names if is_reordered(function.__globals__.get(name))]
        assert not called, (function.__module__, function.__name__)


def test_fit__hands_samples_to_no_module_more_than_three_times():
    """What is known of X is not asked again: no module is entered more often with all voxels or features of X."""
    X = make_microstructure(n_samples=24, size=(17, 18), grain_size=(3, 4), seed=3)
    y = X.mean(axis=(1, 2))
    model = MKSHomogenizationModel(PrimitiveBasis(2), n_components=3, periodic_axes=[0, 1])
    entered, last = Counter(), None

    def holds(value, depth=0):
        if isinstance(value, np.ndarray):
            return len(X) in value.shape and value.size >= X.size
        return isinstance(value, tuple | list) and depth < 2 and any(holds(part, depth + 1) for part in value)

    def profile(frame, event, _):
        nonlocal last
        code, name = frame.f_code, Path(frame.f_code.co_filename)
        if event != "call" or not name.is_relative_to(ROOT) or code.co_name.startswith("<"):
            return
        given = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount + 2]
        if any(holds(frame.f_locals.get(argument)) for argument in given):
            entered[name.relative_to(ROOT)] += name != last
            last = name

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        model.fit(X, y)
    finally:
        sys.setprofile(before)
    assert entered
    assert {name: count for name, count in entered.items() if count > 3} == {}
