"""Give a learner the original of a notebook back, and keep what they wrote."""

import subprocess
from pathlib import Path

_ADVICE = "without git there is no original to restore: download the notebook again"


def reset_chapter(number: str, notebooks: Path, revision: str = "HEAD") -> str:
    """Restore a chapter's notebook from git; return what was done, in words.

    number: as the notebook's name begins, "04" or "04b".  revision: the commit that holds the original.
    The learner's file goes to the folder ``backups`` beside the notebooks' folder.
    """
    names = _git(notebooks, "ls-tree", "--name-only", revision).decode().splitlines()
    chapters = {name.partition("_")[0]: name for name in names if name.endswith(".ipynb")}
    if not chapters:
        raise ValueError(f"git knows no notebooks in {notebooks}: {_ADVICE}")
    if number not in chapters:
        raise ValueError(f"chapter must be one of {', '.join(sorted(chapters))}, got {number!r}")
    name = chapters[number]
    original = _git(notebooks, "show", f"{revision}:./{name}")
    notebook = notebooks / name
    if notebook.exists() and notebook.read_bytes() == original:
        return f"{name} is as in {revision} already; if your answers are committed, name an earlier one with --revision"
    saved = _back_up(notebook) if notebook.exists() else None
    notebook.write_bytes(original)
    done = f"{name} is the original again; in JupyterLab: File > Reload Notebook from Disk"
    return done if saved is None else f"{done}\nyour version: {saved}"


def _back_up(notebook: Path) -> Path:
    """Copy a notebook to a name that is still free: an earlier backup is never overwritten."""
    folder = notebook.resolve().parent.parent / "backups"
    folder.mkdir(exist_ok=True)
    count = 1
    while (saved := folder / f"{notebook.stem}-{count}.ipynb").exists():
        count += 1
    saved.write_bytes(notebook.read_bytes())
    return saved


def _git(folder: Path, *arguments: str) -> bytes:
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}; say where the notebooks are with --notebooks")
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True)
    except FileNotFoundError:
        raise ValueError(f"git is not installed; {_ADVICE}") from None
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().splitlines()
        raise ValueError(f"{reason[-1] if reason else 'git failed'}; {_ADVICE}")
    return done.stdout
