"""Where FoloVLLM keeps what it has made once."""

import os
import sys
from pathlib import Path


def cache_root() -> Path:
    """Return the folder of all that FoloVLLM keeps: ``FOLOVLLM_CACHE``, else ``folovllm`` in the platform's cache."""
    if chosen := os.environ.get("FOLOVLLM_CACHE"):
        return Path(chosen).expanduser().absolute()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "folovllm"
