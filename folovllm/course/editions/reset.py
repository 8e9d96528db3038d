"""Give a learner the original of a notebook back, or a newer one, and keep what they wrote."""

import json
import subprocess
from pathlib import Path

from folovllm.course.editions.answers import with_answers

_ADVICE = "without git there is no original to restore: download the notebook again"
_NO_PULL = "nothing was changed. Without a clone, download the new course into another folder"


def reset_chapter(number: str, notebooks: Path, revision: str = "HEAD", keep_answers: bool = False) -> str:
    """Restore a chapter's notebook from git; return what was done, in words.

    number: as the notebook's name begins, "04" or "04b".  revision: the commit that holds the original.
    keep_answers: put the learner's code into the original, by cell.
    The learner's file goes to the folder ``backups`` beside the notebooks' folder.
    """
    chapters = {name.partition("_")[0]: name for name in _known_notebooks(notebooks, revision, _ADVICE)}
    if number not in chapters:
        raise ValueError(f"chapter must be one of {', '.join(sorted(chapters))}, got {number!r}")
    name = chapters[number]
    original = _git(notebooks, "show", f"{revision}:./{name}")
    notebook = notebooks / name
    mine = notebook.read_bytes() if notebook.exists() else None
    if mine == original:
        return f"{name} is as in {revision} already; if your answers are committed, name an earlier one with --revision"
    renewed = _renewed(original, mine, original, notebook) if keep_answers and mine is not None else original
    saved = None if mine is None else _back_up(notebook)
    notebook.write_bytes(renewed)
    done = f"{name} is the original again{' with your answers' if keep_answers else ''}"
    done += "; in JupyterLab: File > Reload Notebook from Disk"
    return done if saved is None else f"{done}\nyour version: {saved}"


def update_notebooks(notebooks: Path) -> str:
    """Pull the newest course, and put a learner's answers into its notebooks; return what was done, in words.

    Each notebook that was changed is backed up first. Where git cannot pull, all is as before.
    """
    _known_notebooks(notebooks, "HEAD", _NO_PULL)  # not a repository of other things, around this folder
    changed = _git(notebooks, "diff", "--name-only", "--relative", "HEAD", "--", "*.ipynb").decode().splitlines()
    mine = {name: (notebooks / name).read_bytes() for name in changed if (notebooks / name).exists()}
    began = {name: _git(notebooks, "show", f"HEAD:./{name}") for name in mine}
    for name in mine:  # what cannot be read is said before anything is touched
        _renewed(began[name], mine[name], began[name], notebooks / name)
    backups = [_back_up(notebooks / name) for name in mine]
    try:
        if changed:
            _git(notebooks, "checkout", "HEAD", "--", *changed)
        pulled = _git(notebooks, "pull", "--ff-only", advice=_NO_PULL).decode().strip()
    except BaseException:
        for name, file in mine.items():
            (notebooks / name).write_bytes(file)
        raise
    for name, file in mine.items():
        path = notebooks / name
        path.write_bytes(_renewed(path.read_bytes() if path.exists() else file, file, began[name], path))
    done = pulled.splitlines()[-1].strip() if pulled else "done"
    kept = f"; your answers are in {', '.join(mine)}, and the files as they were in {backups[0].parent}" if mine else ""
    return done + kept


def _known_notebooks(folder: Path, revision: str, advice: str) -> list[str]:
    names = _git(folder, "ls-tree", "--name-only", revision, advice=advice).decode().splitlines()
    if known := [name for name in names if name.endswith(".ipynb")]:
        return known
    raise ValueError(f"git knows no notebooks in {folder}; {advice}")


def _renewed(new: bytes, mine: bytes, old: bytes, path: Path) -> bytes:
    """Return a notebook's file with the learner's answers in it."""
    try:
        notebook, answers, began = (json.loads(each) for each in (new, mine, old))
        notebook["cells"] = with_answers(notebook["cells"], answers["cells"], began["cells"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read as a notebook: {type(error).__name__}: {error}") from None
    return (json.dumps(notebook, indent=1, ensure_ascii=False) + "\n").encode()


def _back_up(notebook: Path) -> Path:
    """Copy a notebook to a name that is still free: an earlier backup is never overwritten."""
    folder = notebook.resolve().parent.parent / "backups"
    folder.mkdir(exist_ok=True)
    count = 1
    while (saved := folder / f"{notebook.stem}-{count}.ipynb").exists():
        count += 1
    saved.write_bytes(notebook.read_bytes())
    return saved


def _git(folder: Path, *arguments: str, advice: str = _ADVICE) -> bytes:
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}; say where the notebooks are with --notebooks")
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True)
    except FileNotFoundError:
        raise ValueError(f"git is not installed; {advice}") from None
    if done.returncode == 0:
        return done.stdout
    reason = done.stderr.decode(errors="replace").strip().splitlines() or ["git failed"]
    if "safe.directory" in reason[-1]:
        command = reason[-1].strip()
        raise ValueError(f"another user owns this folder, so git does not trust it; if you do, run: {command}")
    raise ValueError(f"{reason[-1]}; {advice}")
