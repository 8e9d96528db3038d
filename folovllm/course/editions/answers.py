"""A new edition of a notebook with what a learner wrote into the old one: cells are known by their ids."""

import copy

from folovllm.course.editions.minutes import Cell, source_of
from folovllm.language import N_, _

_GONE = N_("**Your answers to exercises that are no longer in this notebook:**")


def with_answers(new: list[Cell], mine: list[Cell], old: list[Cell]) -> list[Cell]:
    """Return the new cells with the code that a learner changed or added.

    old: the cells that the learner began with.  A changed cell keeps its place; an added one follows the cell that it
    followed; what has no place any more stands at the end.
    """
    began, kept = {cell["id"]: source_of(cell) for cell in old}, {cell["id"] for cell in new}
    changed, following, homeless = {}, _added_after(mine, set(began), kept), []
    for cell in mine:
        if cell["cell_type"] == "code" and source_of(cell) != began.get(cell["id"], source_of(cell)):
            if cell["id"] in kept:
                changed[cell["id"]] = cell
            else:
                homeless.append(_without_result(cell))
    cells = list(following.get("", []))
    for cell in new:
        answer = changed.get(cell["id"])
        own = cell if answer is None else _without_result(cell) | {"source": answer["source"]}
        cells += [own, *following.get(cell["id"], [])]
    note: Cell = {"cell_type": "markdown", "id": "answers-without-a-place", "metadata": {}, "source": _(_GONE)}
    return [*cells, note, *homeless] if homeless else cells


def _added_after(mine: list[Cell], began: set[str], kept: set[str]) -> dict[str, list[Cell]]:
    """Return the cells that a learner added, by the id of the cell before them that is still there ("": none is)."""
    added: dict[str, list[Cell]] = {}
    before = ""
    for cell in mine:
        if cell["id"] not in began and cell["id"] not in kept:
            added.setdefault(before, []).append(cell)
        elif cell["id"] in kept:
            before = cell["id"]
    return added


def _without_result(cell: Cell) -> Cell:
    """Return a copy of a code cell that has not been run."""
    return copy.deepcopy(cell) | {"outputs": [], "execution_count": None}
