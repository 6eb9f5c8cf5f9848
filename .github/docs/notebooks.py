"""Run the notebooks of `examples/`, and store their outputs in them: small pictures with texts that describe them.

The extra ``jupyter`` has what this needs. The texts stand in the metadata of each cell, under ``alt``, one for each
picture. A notebook that is named is run, or all of them are::

    python .github/docs/notebooks.py start_here
"""

from __future__ import annotations

import base64
import io
import re
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

NOTEBOOKS = Path(__file__).parents[2] / "examples" / "notebooks"
# So many colours show figures without a visible loss, in a third of the bytes.
COLOURS = 256
# Notebooks call the folder of their stores so, too.
PLACE = re.escape(tempfile.gettempdir()) + r"/tmp\w+"


def small(png: str) -> str:
    """Reduce the colours of a picture, both as base64."""
    with Image.open(io.BytesIO(base64.b64decode(png))) as image:
        reduced = image.convert("RGB").quantize(COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    reduced.save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def tidy(cell: nbformat.NotebookNode) -> None:
    """Describe the pictures of a cell, make them small, and drop what only belongs to this run."""
    cell.metadata.pop("execution", None)
    cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    texts = iter(cell.metadata.get("alt", ()))
    for output in cell.outputs:
        for kind, text in (data := output.get("data", {})).items():
            if kind.startswith("text/"):
                data[kind] = re.sub(PLACE, "folder", text)
        if "image/png" in data:
            data["image/png"] = small(data["image/png"])
            output.metadata["image/png"] = {"alt": next(texts, "")}
            data.pop("text/plain", None)


def main(names: list[str]) -> None:
    """Run notebooks in an empty folder, and write them with their outputs."""
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        if names and path.stem not in names:
            continue
        notebook = nbformat.read(path, as_version=4)
        with tempfile.TemporaryDirectory() as folder:
            client = NotebookClient(
                notebook, timeout=3600, record_timing=False, resources={"metadata": {"path": folder}}
            )
            client.execute()
        for cell in notebook.cells:
            if cell.cell_type == "code":
                tidy(cell)
        nbformat.write(notebook, path)
        sys.stdout.write(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB\n")


if __name__ == "__main__":
    main(sys.argv[1:])
