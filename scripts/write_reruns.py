"""Write notebooks whose cells are run again, as learners do: each twice in a row, and all from the middle at the end.

    python scripts/write_reruns.py FOLDER notebooks/00_start_here.ipynb ...

A cell's stored outputs are what each of its runs must show: what is said is the same each time, and nothing adds up.
The second run in a row speaks Chinese, and must show what the Chinese edition (``zh/`` beside the notebook) stores:
the editions differ in words alone, so one kernel tests both.
"""

import sys
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook


def with_reruns(english: NotebookNode, chinese: NotebookNode) -> NotebookNode:
    """Return a notebook of the code cells alone: each in both languages, then all from the middle after the end."""
    ours, theirs = ([cell for cell in each.cells if cell.cell_type == "code"] for each in (english, chinese))
    in_a_row = [run for pair in zip(ours, theirs, strict=True) for run in _in_both_languages(*pair)]
    return new_notebook(metadata=english.metadata, cells=[*in_a_row, *map(_copy, ours[len(ours) // 2 :])])


def _in_both_languages(ours: NotebookNode, theirs: NotebookNode) -> tuple[NotebookNode, ...]:
    if theirs.source != ours.source.replace('use_language("en")', 'use_language("zh")'):
        raise ValueError(f"cell {ours.id} of the Chinese edition has other code than the English one:\n{theirs.source}")
    return _copy(ours), _speaking("zh"), _copy(theirs), _speaking("en")


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
