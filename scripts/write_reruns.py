"""Write notebooks whose cells are run again, as learners do, in both languages.

    python scripts/write_reruns.py FOLDER notebooks/00_start_here.ipynb ...

Each cell of the first half runs twice in a row. Those of the second half run again when all is done, as for somebody
who goes back: what a cell changes for itself and what later cells change for it are both found.

A cell's stored outputs are what each of its runs must show: what is said is the same each time, and nothing adds up.
The second run speaks Chinese, and must show what the Chinese edition (``zh/`` beside the notebook) stores: the
editions differ in words alone, so one kernel tests both.
"""

import sys
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook


def with_reruns(english: NotebookNode, chinese: NotebookNode) -> NotebookNode:
    """Return a notebook of the code cells alone: the first half in both languages, and twice from the middle on."""
    ours, theirs = ([cell for cell in each.cells if cell.cell_type == "code"] for each in (english, chinese))
    pairs = [_same_code(*pair) for pair in zip(ours, theirs, strict=True)]
    middle = len(pairs) // 2
    in_a_row = [run for mine, other in pairs[:middle] for run in (mine, _speaking("zh"), other, _speaking("en"))]
    first, again = zip(*pairs[middle:], strict=True)
    return new_notebook(metadata=english.metadata, cells=[*in_a_row, *first, _speaking("zh"), *again])


def _same_code(ours: NotebookNode, theirs: NotebookNode) -> tuple[NotebookNode, NotebookNode]:
    if theirs.source != ours.source.replace('use_language("en")', 'use_language("zh")'):
        raise ValueError(f"cell {ours.id} of the Chinese edition has other code than the English one:\n{theirs.source}")
    return _copy(ours), _copy(theirs)


def _speaking(language: str) -> NotebookNode:
    return new_code_cell(f'from folovllm.course import use_language\nuse_language("{language}")')


def _copy(cell: NotebookNode) -> NotebookNode:
    return new_code_cell(**{name: cell[name] for name in ("source", "metadata", "outputs", "execution_count")})


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("usage: python scripts/write_reruns.py FOLDER NOTEBOOK ...")
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for path in map(Path, sys.argv[2:]):
        editions = (nbformat.read(each, as_version=4) for each in (path, path.parent / "zh" / path.name))
        nbformat.write(with_reruns(*editions), folder / path.name)
