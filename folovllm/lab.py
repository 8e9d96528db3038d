"""``folovllm lab``: the notebooks in a folder of the learner's, in JupyterLab with the course's settings."""

import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from folovllm.course_folder import (
    FIRST,
    ORIGINALS,
    has_newer_notebooks,
    how_to_install,
    in_checkout,
    make_learners_folder,
    shipped_folder,
)
from folovllm.language import _, current_language


def prepare_notebooks(notebooks: Path) -> None:
    """Make the folder if it is not there; say if the package has newer notebooks.

    Raises ValueError where JupyterLab is missing, or the folder cannot be made.
    """
    if find_spec("jupyterlab") is None:
        raise ValueError(f"JupyterLab is not installed; {how_to_install()}")
    _make_jupyters_folders()
    make_learners_folder(notebooks)
    if (notebooks / ORIGINALS).is_dir() and has_newer_notebooks(notebooks):
        print(_("there are newer notebooks: `folovllm update` brings them, and keeps your answers"), file=sys.stderr)


def _make_jupyters_folders() -> None:
    """Make what JupyterLab would make itself: that there is no home, or it may not be written, is better said now."""
    from jupyter_core.paths import jupyter_config_dir, jupyter_data_dir, jupyter_runtime_dir

    Path.home()  # raises where there is none
    for folder in map(Path, (jupyter_config_dir(), jupyter_data_dir(), jupyter_runtime_dir())):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            writable = os.access(folder, os.W_OK)
        except OSError:
            writable = False
        if not writable:
            told = _("JupyterLab keeps files in {folder}, where you may not write; set HOME to a folder where you may")
            raise ValueError(told.format(folder=folder))


def start_lab(notebooks: Path, further: Sequence[str]) -> NoReturn:
    """Become JupyterLab, opened on the first notebook of the language that is spoken.

    further: arguments for JupyterLab.
    """
    notebooks, shipped = notebooks.resolve(), shipped_folder()
    is_clones = in_checkout() and notebooks.parent == shipped
    root = notebooks.parent if is_clones else notebooks  # of the clone, what is around them too
    translated = notebooks / current_language() / FIRST  # the English ones have no folder of their own
    first = (translated if translated.is_file() else notebooks / FIRST).relative_to(root).as_posix()
    settings = str(shipped / "jupyter") if shipped else None
    inherited = os.environ.get("JUPYTER_CONFIG_PATH")
    environment = os.environ | {"JUPYTER_CONFIG_PATH": os.pathsep.join(filter(None, [settings, inherited]))}
    allow_root = ["--allow-root"] if os.geteuid() == 0 else []
    command = [sys.executable, "-m", "jupyterlab", *allow_root, f"--LabApp.default_url=/lab/tree/{first}", *further]
    os.chdir(root)
    os.execve(sys.executable, command, environment)
