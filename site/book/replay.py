"""A notebook's widget, made again by the notebook's own code: the cells that it needs, and no others."""

import ast
import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from IPython.core.inputtransformer2 import TransformerManager

from folovllm.course.editions.minutes import source_of
from folovllm.course.widgets.widget import CourseWidget


def code_of(notebook: Path, cell_id: str) -> list[str]:
    """Return the code that makes a cell's widget; its last piece is an expression, the widget."""
    return needed([as_python(source_of(cell)) for cell in _code_cells(notebook, cell_id)])


def widget_of(notebook: Path, cell_id: str) -> CourseWidget:
    """Return the widget that a cell shows; ``ValueError`` if it says something else than the notebook keeps of it."""
    *before, shows = code_of(notebook, cell_id)
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        for source in before:
            exec(compile(source, notebook.name, "exec"), names)
        widget = eval(compile(shows, cell_id, "eval"), names)
    assert isinstance(widget, CourseWidget), f"{cell_id} shows a widget"
    kept = "".join(output.data["text/plain"] for output in _code_cells(notebook, cell_id)[-1].outputs)
    if widget.summary() != kept:
        told = f"the engine says {widget.summary()!r}, the notebook keeps {kept!r}"
        raise ValueError(f"{notebook.name}, {cell_id}: {told}; `make notebooks` stores new outputs")
    return widget


def _code_cells(notebook: Path, cell_id: str) -> list[Any]:
    """Return a notebook's code cells up to one of them."""
    cells = [cell for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == "code"]
    return cells[: [cell.id for cell in cells].index(cell_id) + 1]


def needed(sources: list[str]) -> list[str]:
    """Return what must run so that the last cell can: cells that make a name which a later one of them uses.

    The last cell is split in two: all but its last line, and that line, which shows the widget.
    """
    *earlier, last = sources
    tree = ast.parse(last)
    shows = tree.body.pop()
    found = [ast.unparse(tree), ast.unparse(shows)]
    missing = {*_used(tree), *_used(shows)}
    for source in reversed(earlier):
        tree = ast.parse(source)
        made = set(_made(tree))
        if made & missing:
            missing = (missing - made) | set(_used(tree))
            found.insert(0, source)
    return found


def as_python(source: str) -> str:
    """Return a cell's code as Python has it: ``%pip`` and the like are IPython's own."""
    return str(TransformerManager().transform_cell(source))


def _used(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            yield node.target.id


def _made(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.alias):
            yield (node.asname or node.name).partition(".")[0]
