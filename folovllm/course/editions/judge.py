"""Judge the answers in notebooks, each in a process of its own: ``python -m folovllm.course.editions.judge SECONDS``.

Reads a line of JSON per notebook: its file and its chapter; prints a line of JSON per exercise. The packages are
imported once, and each answer gets a fork of this process.
"""

import json
import os
import select
import signal
import sys
from contextlib import suppress
from pathlib import Path

import folovllm.course.public  # noqa: F401  (answers import from it: once here, instead of once in each fork)
from folovllm.course.editions.progress import Result, as_line, judge_in_this_process, silence
from folovllm.course.exercises.checks import CHAPTERS
from folovllm.course.exercises.exercise import Exercise
from folovllm.language import _


def judge_apart(path: Path, exercise: Exercise, chapter: str, seconds: float) -> str:
    """Return an exercise's result as a line of JSON, whatever becomes of the process that runs the answer."""
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        _answer(path, exercise, chapter, writes)
    os.close(writes)
    line = _read_line(reads, seconds)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # whether it has ended or not, and whatever it has started
    _pid, status = os.waitpid(child, 0)
    os.close(reads)
    if line:
        return line
    code = os.waitstatus_to_exitcode(status)
    reason = (
        _("no answer within {seconds:g} seconds").format(seconds=seconds)
        if code == -signal.SIGKILL
        else _("it ended the process ({code})").format(code=code)
    )
    return as_line(Result(chapter, exercise.name, "failed", reason))


def _answer(path: Path, exercise: Exercise, chapter: str, writes: int) -> None:
    """Judge, write the result and end: in the child, which never returns."""
    try:
        os.setsid()
        silence()
        os.write(writes, as_line(judge_in_this_process(path, exercise, chapter)).encode() + b"\n")
    finally:
        os._exit(1)


def _read_line(reads: int, seconds: float) -> str:
    """Return what comes until the line's end; "" if it does not come in time, or never."""
    received = b""
    while not received.endswith(b"\n"):
        ready, _, _ = select.select([reads], [], [], seconds)
        part = os.read(reads, 65536) if ready else b""
        if not part:
            return ""
        received += part
    return received.decode().strip()


def main(arguments: list[str]) -> None:
    """Judge every exercise of each notebook that is asked for."""
    for line in sys.stdin:
        path, chapter = json.loads(line)
        for exercise in CHAPTERS[chapter]:
            print(judge_apart(Path(path), exercise, chapter, float(arguments[0])), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
