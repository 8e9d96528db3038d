"""Give a learner the original of a notebook back, or a newer one, and keep what they wrote."""

import json
from pathlib import Path

from folovllm.course.editions.answers import with_answers
from folovllm.course.editions.notebook_file import parse_notebook
from folovllm.course.editions.originals import originals_of, write_whole
from folovllm.language import _, listed


def reset_chapter(number: str, notebooks: Path, revision: str = "HEAD", keep_answers: bool = False) -> str:
    """Restore a chapter's notebook; return what was done, in words.

    number: as the notebook's name begins, "04" or "04b".  revision: in a clone, the commit that holds the original.
    keep_answers: put the learner's code into the original, by cell.
    The learner's file goes to the folder ``backups``.
    """
    originals = originals_of(notebooks, revision)
    chapters = {name.partition("_")[0]: name for name in originals.names()}
    if number not in chapters:
        raise ValueError(f"chapter must be one of {', '.join(sorted(chapters))}, got {number!r}")
    name = chapters[number]
    original = originals.read(name)
    notebook = notebooks / name
    mine = notebook.read_bytes() if notebook.exists() else None
    if mine == original:
        return _("{name} is {already}").format(name=name, already=originals.already)
    renewed = _renewed(original, mine, original, notebook) if keep_answers and mine is not None else original
    saved = None if mine is None else _back_up(notebook, originals.backups)
    write_whole(notebook, renewed)
    again = _("{name} is the original again with your answers") if keep_answers else _("{name} is the original again")
    done = again.format(name=name) + _("; in JupyterLab: File > Reload Notebook from Disk")
    return done if saved is None else _("{done}\nyour version: {saved}").format(done=done, saved=saved)


def update_notebooks(notebooks: Path) -> str:
    """Bring the newest notebooks, and put a learner's answers into them; return what was done, in words.

    Each notebook that was changed is backed up first. Where nothing newer can be had, all is as before.
    """
    originals = originals_of(notebooks)
    began = {name: originals.read(name) for name in originals.names()}
    there = {name: (notebooks / name).read_bytes() for name in began if (notebooks / name).exists()}
    mine = {name: file for name, file in there.items() if file != began[name]}
    for name in mine:  # what cannot be read is said before anything is touched
        _renewed(began[name], mine[name], began[name], notebooks / name)
    if not originals.are_outdated():
        return originals.newest
    for name in mine:
        _back_up(notebooks / name, originals.backups)
    try:
        done = originals.replace()
    except BaseException:
        for name, file in there.items():
            write_whole(notebooks / name, file)
        raise
    for name, file in mine.items():
        path = notebooks / name
        new = path.read_bytes() if path.exists() else began[name]
        write_whole(path, file if new == began[name] else _renewed(new, file, began[name], path))
    kept = (
        _("; your answers are in {mine}, and the files as they were in {backups}").format(
            mine=listed(mine), backups=originals.backups
        )
        if mine
        else ""
    )
    return done + kept


def _renewed(new: bytes, mine: bytes, old: bytes, path: Path) -> bytes:
    """Return a notebook's file with the learner's answers in it."""
    notebook, answers, began = (parse_notebook(each, path) for each in (new, mine, old))
    notebook["cells"] = with_answers(notebook["cells"], answers["cells"], began["cells"])
    return (json.dumps(notebook, indent=1, ensure_ascii=False) + "\n").encode()


def _back_up(notebook: Path, folder: Path) -> Path:
    """Copy a notebook to a name that is still free: an earlier backup is never overwritten."""
    folder.mkdir(exist_ok=True)
    count = 1
    while (saved := folder / f"{notebook.stem}-{count}.ipynb").exists():
        count += 1
    saved.write_bytes(notebook.read_bytes())
    return saved
