"""The conda recipe says what `pyproject.toml` says."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

import mksdask

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / ".github" / "conda" / "recipe.yaml"
# Packages that have another name there.
CONDA = {"dask": "dask-core", "matplotlib": "matplotlib-base"}


def test_recipe__says_what_the_project_says():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    recipe = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    wanted = {"python": project["requires-python"]}
    for line in project["dependencies"]:
        name, bound = re.fullmatch(r"([\w-]+)(?:\[\w+\])?(>=[\d.]+)", line).groups()
        wanted[CONDA.get(name, name)] = bound
    assert dict(line.split() for line in recipe["requirements"]["run"]) == wanted
    assert recipe["context"]["version"] == mksdask.__version__
    assert recipe["about"]["summary"] == project["description"]
    assert recipe["about"]["homepage"] == project["urls"]["Homepage"]
    assert recipe["build"]["python"]["entry_points"] == [f"mksdask = {project['scripts']['mksdask']}"]


def test_recipe__is_one_that_rattler_build_takes():
    rattler = pytest.importorskip("rattler_build", reason="pip install 'mksdask[dev]'")
    (variant,) = rattler.Stage0Recipe.from_file(RECIPE).render(rattler.VariantConfig(), rattler.RenderConfig())
    assert variant.recipe.to_dict()["package"] == {"name": "mksdask", "version": mksdask.__version__}
