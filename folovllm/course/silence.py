"""``quiet``: transformers without progress bars and warnings, where a notebook does on purpose what they warn of."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from unittest.mock import patch

from tqdm.auto import tqdm
from transformers import logging as transformers_logging


@contextmanager
def quiet() -> Iterator[None]:
    """Hide transformers' bars and warnings while the block runs; errors are raised as always."""
    verbosity = transformers_logging.get_verbosity()
    had_bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        # The GGUF reader's bar is not one of those that transformers can switch off.
        with patch("transformers.modeling_gguf_pytorch_utils.tqdm", partial(tqdm, disable=True)):
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if had_bars:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
