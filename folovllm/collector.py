"""Python's collector of garbage, kept from looking through what is just being made, and will stay."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """Let no collection begin in the meantime, in whatever thread.

    Importing PyTorch and transformers and loading a model make some million objects that all stay. While they come,
    the collector goes through them again and again: a quarter of the time until the first token.
    (vLLM's ``freeze_gc_heap`` excludes for good what is there; in a notebook it would keep a learner's garbage too.)
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
