"""Cells are run again, as learners do: each twice in a row, with Ctrl+Enter, and all from the middle, after Run All.

What is said is the same each time, and nothing adds up.
"""

import copy
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

pytestmark = pytest.mark.twice
NOTEBOOKS = sorted(Path("notebooks").glob("*.ipynb"))


def again(cell: Any, run: str) -> Any:
    """Return a cell as one of its own."""
    copied = copy.deepcopy(cell)
    copied["id"] = f"{cell['id'][:50]}-{run}"
    return copied


def said(cell: Any) -> list[str]:
    """What a cell's outputs say; pictures and widgets say it in words."""
    return [output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.outputs]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_says_the_same_when_it_is_run_again(path, bundled_model_path):
    notebook = nbformat.read(path, as_version=4)
    first = [cell for cell in notebook.cells if cell.cell_type == "code"]
    twice = [again(cell, "twice") for cell in first]
    middle = len(first) // 2
    from_the_middle = [again(cell, "from-the-middle") for cell in first[middle:]]
    notebook.cells = [cell for pair in zip(first, twice, strict=True) for cell in pair] + from_the_middle
    client = NotebookClient(notebook, timeout=600, startup_timeout=300, resources={"metadata": {"path": "notebooks"}})
    client.coalesce_streams = True
    client.execute()
    reruns = [*zip(first, twice, strict=True), *zip(first[middle:], from_the_middle, strict=True)]
    different = [
        f"{rerun.id}: {said(rerun)} instead of {said(cell)}"
        for cell, rerun in reruns
        if "nbval-ignore-output" not in cell.metadata.get("tags", []) and said(rerun) != said(cell)
    ]
    assert different == []
