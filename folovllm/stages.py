"""A stage of the set-up is one line on stderr: what is going on, and at its end how long it took."""

import io
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import TextIO

from folovllm.language import _

_AGAIN = "\r\033[K"
"""Empties the line of a terminal."""


@contextmanager
def stage(says: str) -> Iterator[None]:
    """Keep what is printed on stderr meanwhile; it is shown when the stage fails.

    says: what is going on, and how long it takes.  Where somebody watches, what was printed last stands behind it.
    """
    stderr, began = sys.stderr, time.perf_counter()
    details = _Details(says, stderr)
    print(says, end=" ", file=stderr, flush=True)
    try:
        with redirect_stderr(details):
            yield
    except BaseException:
        print("", *details.lines(), sep="\n", file=stderr, flush=True)
        raise
    seconds = _("done in {seconds:.0f} s").format(seconds=time.perf_counter() - began)
    print(f"{_AGAIN}{says} {seconds}" if stderr.isatty() else seconds, file=stderr, flush=True)


class _Details(io.StringIO):
    """What was printed during a stage."""

    def __init__(self, says: str, stderr: TextIO) -> None:
        super().__init__()
        self._says = says
        self._stderr = stderr

    def write(self, text: str) -> int:
        written = super().write(text)
        if self._stderr.isatty():
            now = " ".join([self._says, *self.lines()[-1:]])
            self._stderr.write(_AGAIN + now[: shutil.get_terminal_size().columns - 1])
            self._stderr.flush()
        return written

    def lines(self) -> list[str]:
        """Return the lines as they would stand on a terminal: of a progress bar its last state."""
        lines = (line.rpartition("\r")[2] for line in self.getvalue().split("\n"))
        return [line for line in lines if line.strip()]
