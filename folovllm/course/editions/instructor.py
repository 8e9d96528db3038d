"""The instructor's edition of a notebook, made from the learners' own: nothing is kept twice."""

import json
import re
import textwrap
from pathlib import Path
from typing import Any

from folovllm.course.editions.minutes import Cell, section_minutes, source_of
from folovllm.course.editions.notebook_file import language_of, read_notebook
from folovllm.course.exercises.checks import EXERCISES
from folovllm.course.exercises.exercise import Exercise
from folovllm.course.exercises.patterns.classes import CLASSES
from folovllm.course.predictions.all_predictions import find_prediction
from folovllm.course.predictions.prediction import Prediction
from folovllm.language import _, labelled, speaking

_STUB = re.compile(r"^( *)raise NotImplementedError", re.MULTILINE)


def write_edition(notebooks: Path, output: Path) -> list[Path]:
    """Write the instructor's edition of every notebook of a folder; return the new files.

    Nothing is run: outputs are left out, since with the solutions in place they are others.
    """
    sources = sorted(notebooks.glob("*.ipynb"))
    if not sources:
        raise ValueError(f"there are no notebooks in {notebooks}; say where they are with --notebooks")
    if output.resolve() == notebooks.resolve():
        raise ValueError(f"output must be another folder than the notebooks' own, got {output}")
    originals = {source.name: _original(source) for source in sources}
    output.mkdir(parents=True, exist_ok=True)
    return [_write_one(notebook, output / name) for name, notebook in originals.items()]


def _original(path: Path) -> dict[str, Any]:
    """Return a notebook that nobody has answered: where a stub is gone, its solution has no place."""
    notebook = read_notebook(path)
    if answered := [name for cell in notebook["cells"] for name in _answered_in(cell)]:
        raise ValueError(
            f"{path} has answers in it ({', '.join(answered)}), and the edition is made from originals: "
            f"`python -m folovllm course reset {path.name.partition('_')[0]}` restores this one, and keeps yours"
        )
    return notebook


def _answered_in(cell: Cell) -> list[str]:
    source = source_of(cell)
    if cell["cell_type"] != "code" or _STUB.search(source):
        return []
    names = [f"my_{exercise.name}" for exercise in EXERCISES if f"def my_{exercise.name}(" in source]
    return names + [name for name in CLASSES if f"class {name}(" in source]


def _write_one(notebook: dict[str, Any], target: Path) -> Path:
    with speaking(language_of(notebook)):
        notebook["cells"] = [new for cell in with_times(notebook["cells"]) for new in instructor_cells(cell)]
    target.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return target


def section_times(cells: list[Cell]) -> list[str]:
    """Say for every heading when its section begins and how long it takes ("" for the other cells)."""
    times, clock = [], 0
    for minutes in section_minutes(cells):
        begins = f"{clock // 60}:{clock % 60:02}"
        times.append("" if minutes is None else _("*{begins}, {minutes} min*").format(begins=begins, minutes=minutes))
        clock += minutes or 0
    return times


def with_times(cells: list[Cell]) -> list[Cell]:
    """Return the cells with their :func:`section_times` as a line under every heading."""
    timed = []
    for cell, times in zip(cells, section_times(cells), strict=True):
        heading, _, rest = source_of(cell).partition("\n")
        timed.append(cell | {"source": f"{heading}\n\n{times}\n{rest}"} if times else cell)
    return timed


def _exercise_of(cell: Cell) -> Exercise | None:
    """Return the exercise whose place the cell is, answered or not."""
    source = source_of(cell) if cell["cell_type"] == "code" else ""
    return next((each for each in EXERCISES if f"def my_{each.name}(" in source), None)


def _solved(cell: Cell) -> str:
    """Return a cell's code with what belongs into the stub, if it is one."""
    source, exercise = source_of(cell), _exercise_of(cell)
    codes = [exercise.code] if exercise else [code for name, code in CLASSES.items() if f"class {name}(" in source]
    stub = _STUB.search(source)
    if stub is None or not codes:
        return source
    [code] = codes
    return source[: stub.start()] + textwrap.indent(code, stub[1]) + source[stub.end() :]


def notes_on(cell: Cell) -> str:
    """Return what an instructor should know of a cell: an exercise, or a prediction; "" for any other."""
    exercise = _exercise_of(cell)
    if exercise is not None:
        return _notes(exercise)
    asked = re.match(r'predict\("(\w+)"\)', source_of(cell))
    return _answers(find_prediction(asked[1])) if asked else ""


def instructor_cells(cell: Cell) -> list[Cell]:
    """Return what stands in the instructor's edition for one cell: a stub is solved, notes follow it."""
    if cell["cell_type"] != "code":
        return [cell]
    cell = cell | {"outputs": [], "execution_count": None}
    notes = notes_on(cell)
    cell["source"] = _solved(cell)
    return [cell, notes_cell(cell, notes)] if notes else [cell]


def notes_cell(cell: Cell, text: str) -> Cell:
    """Return a Markdown cell of notes on ``cell``."""
    return {"cell_type": "markdown", "id": f"{cell['id']}-notes", "metadata": {}, "source": text}


def _notes(exercise: Exercise) -> str:
    lines = [
        _("**For instructors.** What people write instead, and what `check` says (task: {task}):").format(
            task=_(exercise.task)
        ),
        "",
    ]
    lines += [f"* {_(mistake.diagnosis)}" for mistake in exercise.mistakes]
    lines += ["", _("What it is compared with runs the engine's function:"), ""]
    return "\n".join([*lines, "```python", exercise.solution_source().rstrip(), "```"])


def _answers(prediction: Prediction) -> str:
    lines = [_("**For instructors.** What is said to whoever picks:"), ""]
    return "\n".join(
        [
            *lines,
            *(
                f"* {labelled(prediction.words_of(choice), prediction.answer_to(choice))}"
                for choice in prediction.choices
            ),
        ]
    )
