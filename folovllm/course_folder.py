"""Where a learner's notebooks are, and where the package keeps what comes with it beside its code."""

import filecmp
import shutil
import sys
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory

from folovllm.language import _

FIRST = "00_start_here.ipynb"
ORIGINALS = ".originals"
"""A folder in a learner's folder: the notebooks as they were when they were copied."""
_CHECKOUT = Path(__file__).resolve().parent.parent
_ELSEWHERE = "name another folder with --notebooks"


def in_checkout() -> bool:
    """Return whether this package is run from a checkout, and not from where a wheel was installed."""
    return (_CHECKOUT / "pyproject.toml").is_file()


def shipped_folder() -> Path | None:
    """Return the folder of ``notebooks``, ``jupyter`` (JupyterLab's settings) and ``requirements.lock``.

    It is the checkout, or ``share/folovllm`` where a wheel was installed; None if the package was only copied.
    """
    if in_checkout():
        return _CHECKOUT
    try:
        files = metadata.files("folovllm") or []
    except metadata.PackageNotFoundError:
        files = []
    # pip's own list says where it put them: not always below sys.prefix (--user, Debian).
    return next((Path(file.locate()).resolve().parent for file in files if file.name == "requirements.lock"), None)


def how_to_install() -> str:
    """Return the command that brings missing packages into the environment that runs this."""
    if not in_checkout():
        return _("run `python -m pip install --upgrade 'folovllm[course]'`")
    if Path(sys.prefix).name == ".venv":
        return _("run `make lab`")
    return _("run `python -m pip install -r requirements.lock -e .` in the checkout")


def find_notebooks() -> Path:
    """Return the learner's folder around the current one, else the checkout's notebooks, else where to make one."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / ORIGINALS).is_dir():
            return folder
    return _CHECKOUT / "notebooks" if in_checkout() else Path("folovllm-course")


def shipped_notebooks() -> Path:
    """Return the folder of the notebooks that came with the package."""
    folder = shipped_folder()
    if folder is None or not names_in(folder / "notebooks"):
        raise ValueError(f"this installation has no notebooks; {how_to_install()}")
    return folder / "notebooks"


def names_in(folder: Path) -> list[str]:
    """Return the notebooks of a folder by their names, as "02_sampling.ipynb" and "zh/02_sampling.ipynb"."""
    paths = [path.relative_to(folder) for path in folder.rglob("*.ipynb")]
    return sorted(path.as_posix() for path in paths if not any(part.startswith(".") for part in path.parts))


def has_newer_notebooks(folder: Path) -> bool:
    """Return whether the notebooks of the package are others than those that a learner's folder was made from."""
    shipped, originals = shipped_notebooks(), folder / ORIGINALS
    names = names_in(shipped)
    same, _, _ = filecmp.cmpfiles(shipped, originals, names, shallow=False)
    return names != names_in(originals) or len(same) < len(names)


def copy_notebooks(target: Path) -> None:
    """Copy the notebooks that came with the package into a folder."""
    shipped = shipped_notebooks()
    for name in names_in(shipped):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(shipped / name, target / name)


def make_learners_folder(folder: Path) -> None:
    """Copy the notebooks into a new folder, and once more into its ``.originals``; one with notebooks stays as it is.

    Raises ValueError where there is something else, or nothing can be written.
    """
    if (folder / FIRST).is_file() or (folder / ORIGINALS).is_dir():
        return
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; {_ELSEWHERE}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(not path.name.startswith(".") for path in folder.iterdir()):
            raise ValueError(f"{folder} holds other files, and no notebooks of the course; {_ELSEWHERE}")
        with TemporaryDirectory(dir=folder, prefix=".new-") as work:
            copy_notebooks(Path(work))
            copy_notebooks(Path(work, ORIGINALS))
            for path in sorted(Path(work).iterdir(), reverse=True):  # only when all are there
                path.rename(folder / path.name)
    except OSError as error:
        raise ValueError(f"{folder} cannot be written ({error.strerror}); {_ELSEWHERE}") from None
