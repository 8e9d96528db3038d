"""The instructor's edition of a notebook, made from the learners' own: nothing is kept twice."""

import json
import textwrap
from pathlib import Path
from typing import Any

from folovllm.course.checks import EXERCISES
from folovllm.course.exercises import Exercise

Cell = dict[str, Any]
_STUB = "    raise NotImplementedError"


def write_edition(notebooks: Path, output: Path) -> list[Path]:
    """Write the instructor's edition of every notebook of a folder; return the new files.

    Nothing is run: outputs are left out, since with the solutions in place they are others.
    """
    sources = sorted(notebooks.glob("*.ipynb"))
    if not sources:
        raise ValueError(f"there are no notebooks in {notebooks}; say where they are with --notebooks")
    if output.resolve() == notebooks.resolve():
        raise ValueError(f"output must be another folder than the notebooks' own, got {output}")
    output.mkdir(parents=True, exist_ok=True)
    return [_write_one(source, output / source.name) for source in sources]


def _write_one(source: Path, target: Path) -> Path:
    notebook = json.loads(source.read_text(encoding="utf-8"))
    notebook["cells"] = [new for cell in with_times(notebook["cells"]) for new in instructor_cells(cell)]
    target.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return target


def with_times(cells: list[Cell]) -> list[Cell]:
    """Return the cells with a line under every heading that says when its section begins and how long it takes.

    How long is in the heading's metadata: ``minutes``.
    """
    timed, clock = [], 0
    for cell in cells:
        minutes = cell["metadata"].get("minutes")
        if minutes is not None:
            heading, _, rest = "".join(cell["source"]).partition("\n")
            times = f"*{clock // 60}:{clock % 60:02}, {minutes} min*"
            cell = cell | {"source": f"{heading}\n\n{times}\n{rest}"}
            clock += minutes
        timed.append(cell)
    return timed


def instructor_cells(cell: Cell) -> list[Cell]:
    """Return what stands in the instructor's edition for one cell: a solved stub, and notes on it."""
    if cell["cell_type"] != "code":
        return [cell]
    cell = cell | {"outputs": [], "execution_count": None}
    source = "".join(cell["source"])
    for exercise in EXERCISES:
        if f"def my_{exercise.name}(" in source and _STUB in source:
            solved = cell | {"source": source.replace(_STUB, textwrap.indent(exercise.code, "    "))}
            notes = {"cell_type": "markdown", "id": f"{cell['id']}-notes", "metadata": {}, "source": _notes(exercise)}
            return [solved, notes]
    return [cell]


def _notes(exercise: Exercise) -> str:
    lines = [f"**For instructors.** What people write instead, and what `check` says (task: {exercise.task}):", ""]
    lines += [f"* {mistake.diagnosis}" for mistake in exercise.mistakes]
    lines += ["", "What it is compared with runs the engine's function:", ""]
    return "\n".join([*lines, "```python", exercise.solution_source().rstrip(), "```"])
