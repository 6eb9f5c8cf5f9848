"""Each notebook runs from top to bottom at small sizes, and holds the outputs of a run at its own sizes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import real_data

NOTEBOOKS = sorted((Path(__file__).parents[1] / "examples" / "notebooks").glob("*.ipynb"))

# Stands for the kernel: the value of a cell's last line is shown, figures as PNG.
KERNEL = """
import ast, json, sys
from matplotlib.figure import Figure

def main(path):
    namespace, shown = {"__name__": "__main__"}, 0
    for number, cell in enumerate(json.load(open(path, encoding="utf-8"))["cells"]):
        if cell["cell_type"] != "code":
            continue
        source = "".join(line for line in cell["source"] if not line.startswith("%"))
        tree = ast.parse(source, f"cell {number}")
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, f"cell {number}", "exec"), namespace)
        value = None if last is None else eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), namespace)
        if isinstance(value, Figure):
            shown += 1
            value.savefig(f"figure{shown}.png")
        elif hasattr(value, "_repr_html_"):
            value._repr_html_()
    print("figures", shown)

if __name__ == "__main__":
    main(sys.argv[1])
"""


def run(notebook, folder, **variables):
    (folder / "kernel.py").write_text(KERNEL)
    result = subprocess.run(
        [sys.executable, folder / "kernel.py", notebook],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=os.environ | {"MKSDASK_QUICK": "1", "MPLBACKEND": "Agg"} | variables,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook__runs_and_draws(notebook, tmp_path):
    out = run(notebook, tmp_path)
    assert int(out.split("figures ")[1]) >= 4
    assert len(list(tmp_path.glob("figure*.png"))) >= 4


@pytest.mark.slow
def test_notebook__takes_a_scan_of_the_readers_own(tmp_path):
    (notebook,) = (path for path in NOTEBOOKS if path.stem == "your_own_tomogram")
    scan = real_data("electrode_256_3phase.tif")
    out = run(notebook, tmp_path, MKSDASK_SCAN=str(scan))
    assert "porosity" in out


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook__holds_the_outputs_of_one_run_and_describes_its_pictures(notebook):
    content = json.loads(notebook.read_text(encoding="utf-8"))
    assert content["nbformat"] == 4
    assert content["cells"][0]["cell_type"] == "markdown"
    cells = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert all(output["output_type"] in ("display_data", "execute_result", "stream") for output in outputs)
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) >= 4
    assert all(len(output["metadata"]["image/png"]["alt"].split()) >= 5 for output in pictures)
    assert notebook.stat().st_size < 600_000
    # Nothing tells where the notebook was run.
    assert not re.search(r"/(tmp|home|root|Users)/", json.dumps(outputs))
