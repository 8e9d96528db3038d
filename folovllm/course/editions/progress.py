"""Which exercises of a notebook's file pass: its answers are run in processes of their own, with a limit of time.

Of a notebook only imports, definitions and plain assignments are run, so that no engine is loaded and no cell's
effect is needed. A learner's code may do anything: it may never end, exit, crash or print. It is not kept from
reading and writing files, so whoever collects the work of people they do not trust does that in a container.
"""

import ast
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from folovllm.course.editions.minutes import source_of
from folovllm.course.editions.notebook_file import read_notebook
from folovllm.course.exercises.checks import CHAPTERS
from folovllm.course.exercises.exercise import NOT_ATTEMPTED, Exercise
from folovllm.language import N_, _

State = Literal["right", "not yet", "not attempted", "missing", "failed"]
STATES: dict[State, str] = {
    "right": N_("correct"),
    "not yet": N_("not yet"),
    "not attempted": N_("not attempted"),
    "missing": N_("missing"),
    "failed": N_("failed"),
}
"""What each is called in a list for people."""
SECONDS = 30.0
"""An answer may take so long; the checks of a right one take less than one."""


@dataclass(frozen=True)
class Result:
    """What became of one exercise.

    state: "missing" without a function of its name, "failed" if judging it never ended or ended the process.
    verdict: what ``check`` says, in one line.
    """

    chapter: str
    exercise: str
    state: State
    verdict: str


class Judge:
    """A process that has imported the course and judges notebooks, each answer in a fork of it.

    seconds: an answer may take so long.  To be used as a context: at its end the process ends.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds = seconds

    def __enter__(self) -> "Judge":
        self._folder = tempfile.TemporaryDirectory()
        command = [sys.executable, "-P", "-m", "folovllm.course.editions.judge", str(self._seconds)]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(command, cwd=self._folder.name, text=True, encoding="utf-8", **pipes)
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._folder.cleanup()

    def judge(self, path: Path) -> list[Result]:
        """Return what became of each exercise in a notebook's file; nothing of it is run in this process.

        Raises ValueError for a file that is no notebook of the course.
        """
        chapter = chapter_of(path)
        _read_code(path)  # what is wrong with the file is said here
        asks, answers = self._process.stdin, self._process.stdout
        assert asks is not None
        assert answers is not None
        asks.write(json.dumps([str(path.resolve()), chapter]) + "\n")
        asks.flush()
        return [Result(**json.loads(answers.readline())) for _ in CHAPTERS[chapter]]


def judge_chapters(notebooks: Path) -> Iterator[tuple[Path, list[Result]]]:
    """Yield each notebook of a learner's folder that has exercises, with what became of them."""
    paths = [notebooks / f"{chapter}.ipynb" for chapter in CHAPTERS]
    there = [path for path in paths if path.is_file()]
    if not there:
        raise ValueError(f"there are no notebooks in {notebooks}; say where they are with --notebooks")
    with Judge() as judge:
        for path in there:
            yield path, judge.judge(path)


def chapter_of(path: Path) -> str:
    """Return the chapter whose notebook a file is, by its name: it begins as the course's does ("02_sampling-mei")."""
    fitting = [chapter for chapter in CHAPTERS if path.stem.startswith(chapter)]
    if not fitting:
        raise ValueError(
            f"{path} is no notebook with exercises; its name should begin with one of {', '.join(CHAPTERS)}"
        )
    return max(fitting, key=len)


def _read_code(path: Path) -> str:
    """Return all code of a notebook that can be parsed."""
    sources = [source_of(cell) for cell in read_notebook(path)["cells"] if cell["cell_type"] == "code"]
    return "\n".join(filter(_can_be_parsed, sources))


def _can_be_parsed(source: str) -> bool:
    try:
        ast.parse(source)
    except (SyntaxError, ValueError):
        return False
    return True


def _definitions(code: str) -> Iterator[str]:
    """Return the statements that define something and, as far as one can see, do nothing else."""
    for statement in ast.parse(code).body:
        defines = isinstance(statement, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef)
        if defines or (isinstance(statement, ast.Assign) and not _calls(statement)):
            yield ast.unparse(statement)


def _calls(statement: ast.AST) -> bool:
    return any(isinstance(node, ast.Call | ast.Await) for node in ast.walk(statement))


def judge_in_this_process(path: Path, exercise: Exercise, chapter: str) -> Result:
    """Run what a notebook defines, and judge one answer. Only for a process that may be lost."""
    namespace: dict[str, Any] = {}
    for statement in _definitions(_read_code(path)):
        try:
            exec(statement, namespace)
        except Exception:  # what needs a cell that is not run stays undefined, and an answer that needs it will say so
            continue
    answer = namespace.get(f"my_{exercise.name}")
    if not callable(answer):
        return Result(chapter, exercise.name, "missing", _("there is no function my_{name}").format(name=exercise.name))
    right, verdict = exercise.judge(answer)
    state: State = "right" if right else "not attempted" if verdict == _(NOT_ATTEMPTED) else "not yet"
    return Result(chapter, exercise.name, state, " ".join(verdict.split()))


def as_line(result: Result) -> str:
    """Return a result as a line of JSON."""
    return json.dumps(asdict(result))


def silence() -> None:
    """Send what the answers print to nowhere: to stdout belong the results alone."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(nowhere, descriptor)
