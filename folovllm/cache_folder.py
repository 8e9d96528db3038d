"""Where FoloVLLM keeps what it has made once."""

import os
import sys
from pathlib import Path

from folovllm.language import N_


class NoHomeError(ValueError):
    """The user has no home folder, as in a container that runs under a number without an account."""

    what = N_("this user has no home folder")
    fix = N_("set HOME to a folder that can be written (without Jupyter, FOLOVLLM_CACHE is enough)")

    def __init__(self) -> None:
        super().__init__(f"{self.what}; {self.fix}")


def is_missing_home(error: Exception) -> bool:
    """Say whether a library, Jupyter's for one, failed because pathlib found no home folder."""
    return isinstance(error, RuntimeError) and "home directory" in str(error)


def cache_root() -> Path:
    """Return the folder of all that FoloVLLM keeps: ``FOLOVLLM_CACHE``, else ``folovllm`` in the platform's cache.

    Raises NoHomeError.
    """
    try:
        return _chosen_folder() or _platforms_cache() / "folovllm"
    except RuntimeError:  # what pathlib says of a missing home
        raise NoHomeError from None


def _chosen_folder() -> Path | None:
    chosen = os.environ.get("FOLOVLLM_CACHE")
    return Path(chosen).expanduser().absolute() if chosen else None


def _platforms_cache() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
