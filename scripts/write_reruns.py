"""Write notebooks whose cells are run again, as learners do: each twice in a row, and all from the middle at the end.

    python scripts/write_reruns.py FOLDER notebooks/00_start_here.ipynb ...

A cell's stored outputs are what each of its runs must show: what is said is the same each time, and nothing adds up.
"""

import sys
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_notebook


def with_reruns(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return a notebook of the code cells alone: each twice (Ctrl+Enter), then all from the middle after the end."""
    once = [cell for cell in notebook.cells if cell.cell_type == "code"]
    in_a_row = [cell for cell in once for _ in range(2)]
    runs = in_a_row + once[len(once) // 2 :]
    kept = ("source", "metadata", "outputs", "execution_count")
    cells = [new_code_cell(**{name: run[name] for name in kept}) for run in runs]
    return new_notebook(metadata=notebook.metadata, cells=cells)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("usage: python scripts/write_reruns.py FOLDER NOTEBOOK ...")
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for path in map(Path, sys.argv[2:]):
        nbformat.write(with_reruns(nbformat.read(path, as_version=4)), folder / path.name)
