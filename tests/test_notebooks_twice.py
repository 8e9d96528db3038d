"""Every cell may be run twice in a row, as Ctrl+Enter does: it says the same again, and adds nothing up."""

import copy
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

pytestmark = pytest.mark.twice
NOTEBOOKS = sorted(Path("notebooks").glob("*.ipynb"))


def with_every_cell_twice(path: Path) -> Any:
    notebook = nbformat.read(path, as_version=4)
    cells = []
    for cell in notebook.cells:
        again = copy.deepcopy(cell)
        again["id"] = f"{cell['id'][:58]}-twice"
        cells += [cell, again] if cell.cell_type == "code" else [cell]
    notebook.cells = cells
    return notebook


def said(cell: Any) -> list[str]:
    """What a cell's outputs say; pictures and widgets say it in words."""
    return [output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.outputs]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_says_the_same_when_it_is_run_again(path, bundled_model_path):
    notebook = with_every_cell_twice(path)
    client = NotebookClient(notebook, timeout=600, startup_timeout=300, resources={"metadata": {"path": "notebooks"}})
    client.coalesce_streams = True
    client.execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for first, second in zip(code[::2], code[1::2], strict=True):
        if "nbval-ignore-output" not in first.metadata.get("tags", []):
            assert said(second) == said(first), first.source
