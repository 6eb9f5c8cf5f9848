"""Each program of the README and of the pages runs, and the pages name each public function."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mksdask

ROOT = Path(__file__).parents[1]
PAGES = ROOT / ".github" / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
MODULES = (
    "bases",
    "datasets",
    "exporters",
    "importers",
    "reduction",
    "regression",
    "simulation",
    "stats",
    "storage",
    "texture",
    "tools",
)

# Runs the blocks of a page in one namespace. Workers import this file, and not the blocks.
RUNNER = """
import re, sys
from pathlib import Path

def main(path):
    text, namespace = Path(path).read_text(encoding="utf-8"), {"__name__": "__main__"}
    for block in re.finditer(PATTERN, text, re.MULTILINE | re.DOTALL):
        # Errors name the line of the page.
        above = text.count("\\n", 0, block.start(1))
        exec(compile("\\n" * above + block[1], path, "exec"), namespace)

if __name__ == "__main__":
    main(sys.argv[1])
"""


def pages():
    for path in (ROOT / "README.md", *sorted(PAGES.rglob("*.md"))):
        if not path.is_relative_to(PAGES) or not path.relative_to(PAGES).parts[0].startswith("_"):
            yield path


def run(script, *arguments, cwd):
    result = subprocess.run(
        [sys.executable, script, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=os.environ | {"MPLBACKEND": "Agg"},
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [path for path in pages() if path.is_relative_to(PAGES) and "```python" in path.read_text()],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_page__runs(page, tmp_path):
    (tmp_path / "runner.py").write_text(RUNNER.replace("PATTERN", repr(BLOCK.pattern)))
    assert run("runner.py", page, cwd=tmp_path)


@pytest.mark.slow
def test_readme__each_program_runs_by_itself(tmp_path):
    linkage, localization = BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(linkage.splitlines()) <= 20
    assert len(localization.splitlines()) <= 15
    for name, block in (("linkage.py", linkage), ("localization.py", localization)):
        assert 'if __name__ == "__main__":' in block
        (tmp_path / name).write_text(block)
    out = run("linkage.py", cwd=tmp_path)
    assert float(re.search(r"R² .*: ([\d.]+)", out).group(1)) > 0.97
    out = run("localization.py", cwd=tmp_path)
    assert float(re.search(r"([\d.]+)% on average", out).group(1)) < 2


def test_readme__is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("page", [pytest.param(path, id=str(path.relative_to(ROOT))) for path in pages()])
def test_page__links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if not target.startswith(("https://", "#")) and "gallery/" not in target:
            assert (page.parent / target.split("#")[0]).exists(), target


def test_reference__names_what_is_public():
    text = (PAGES / "api" / "index.md").read_text(encoding="utf-8")
    listed = set()
    for block in re.findall(r"currentmodule:: (\S+)\n(.*?)```", text, re.DOTALL):
        module = importlib.import_module(block[0])
        listed |= {id(getattr(module, name)) for name in re.findall(r"^   (\w+)$", block[1], re.MULTILINE)}
    modules = [mksdask, *(getattr(mksdask, name) for name in MODULES)]
    public = {
        f"{module.__name__}.{name}": getattr(module, name)
        for module in modules
        for name in module.__all__
        if not name.startswith("_")
    }
    missing = [name for name, value in public.items() if id(value) not in listed and not hasattr(value, "__path__")]
    assert [name for name in missing if type(public[name]).__name__ != "module"] == []


def test_gallery__names_each_example():
    settings = (PAGES / "conf.py").read_text(encoding="utf-8")
    assert [path.stem for path in (ROOT / "examples").glob("*.py") if f'"{path.stem}": (' not in settings] == []


@pytest.mark.slow
def test_pictures__are_drawn(tmp_path):
    run(PAGES / "pictures.py", tmp_path / "drawn", cwd=tmp_path)
    drawn, kept = (
        sorted(path.name for path in folder.glob("*.png")) for folder in (tmp_path / "drawn", PAGES / "pictures")
    )
    assert drawn == kept
