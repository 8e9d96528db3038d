"""What the user sees on stderr while waiting."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Report:
    """Says what is going on, and how long it took.

    shown: False is silence.
    """

    def __init__(self, shown: bool) -> None:
        self.shown = shown

    def say(self, text: str) -> None:
        """Print one line."""
        if self.shown:
            print(f"bundled model: {text}", file=sys.stderr, flush=True)

    @contextmanager
    def stage(self, text: str) -> Iterator[None]:
        """Time one stage."""
        self.say(f"{text} ...")
        start = time.perf_counter()
        yield
        self.say(f"{text.split()[0]} done in {time.perf_counter() - start:.1f} s")
