"""What a learner's notebooks were before they were changed: git knows it, or the folder ``.originals``."""

import os
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

from folovllm.course_folder import (
    ORIGINALS,
    copy_notebooks,
    has_newer_notebooks,
    how_to_install,
    names_in,
    shipped_notebooks,
)
from folovllm.language import _

_ADVICE = "without git there is no original, and no update: download the course again, into another folder"


class Originals(Protocol):
    """The edition of the notebooks that a learner began with, and the way to a newer one.

    already, newest: what is said where a notebook, or the edition, is the one that is asked for.
    backups: the folder for what a learner wrote.
    """

    already: str
    newest: str
    backups: Path

    def names(self) -> list[str]:
        """Return the files' names; ValueError where there are none."""

    def read(self, name: str) -> bytes:
        """Return an original's file."""

    def are_outdated(self) -> bool:
        """Return whether there is a newer edition; nothing is changed."""

    def replace(self) -> str:
        """Put the newest edition in the place of this one and of the learner's notebooks; return a line on it."""


def originals_of(notebooks: Path, revision: str = "HEAD") -> Originals:
    """Return what knows the originals of a folder.

    revision: the commit that holds them.  Raises ValueError if it is named where there is no git.
    """
    if not (notebooks / ORIGINALS).is_dir():
        return GitOriginals(notebooks, revision)
    if revision != "HEAD":
        raise ValueError(f"--revision names a commit of a git clone, and {notebooks} is none")
    return FolderOriginals(notebooks)


class GitOriginals:
    """The originals of a clone's notebooks: those of a commit."""

    def __init__(self, notebooks: Path, revision: str) -> None:
        if not notebooks.is_dir():
            raise ValueError(f"there is no folder {notebooks}; say where the notebooks are with --notebooks")
        self._notebooks = notebooks
        self._revision = revision
        self.already = _(
            "as in {revision} already; if your answers are committed, name an earlier one with --revision"
        ).format(revision=revision)
        self.newest = _("these are the newest notebooks already")
        self.backups = notebooks.resolve().parent / "backups"

    def names(self) -> list[str]:
        """Return the files' names; ValueError where git knows none."""
        files = self._git("ls-tree", "-r", "--name-only", self._revision).decode().splitlines()
        if found := [name for name in files if name.endswith(".ipynb")]:
            return found
        raise ValueError(f"git knows no notebooks in {self._notebooks}: {_ADVICE}")

    def read(self, name: str) -> bytes:
        """Return the file of the commit."""
        return self._git("show", f"{self._revision}:./{name}")

    def are_outdated(self) -> bool:
        """Return whether the branch that is followed has further commits."""
        self._git("fetch", "--quiet", advice="nothing was changed")
        return self._git("rev-list", "--count", "HEAD..@{upstream}", advice="nothing was changed").strip() != b"0"

    def replace(self) -> str:
        """Move the clone forward; ValueError if git cannot."""
        self._git("checkout", "HEAD", "--", *self.names())
        return self._git("merge", "--ff-only", advice="nothing was changed").decode().strip().splitlines()[-1].strip()

    def _git(self, *arguments: str, advice: str = _ADVICE) -> bytes:
        try:
            done = subprocess.run(["git", "-C", str(self._notebooks), *arguments], capture_output=True)
        except FileNotFoundError:
            raise ValueError(f"git is not installed; {_ADVICE}") from None
        if done.returncode:
            reason = (done.stderr.decode(errors="replace").strip().splitlines() or [_("git failed")])[-1].strip()
            if "safe.directory" in reason:  # git's last line is the command
                raise ValueError(f"another user owns this folder, so git does not trust it; if you do, run: {reason}")
            raise ValueError(f"{reason}; {advice}")
        return done.stdout


class FolderOriginals:
    """The originals of a folder that ``folovllm lab`` has made: they came with the package, as newer ones do."""

    def __init__(self, notebooks: Path) -> None:
        self._notebooks = notebooks
        self._folder = notebooks / ORIGINALS
        self.already = _("the original already")
        self.newest = _(
            "these are the notebooks of folovllm {version} already; for newer ones {how_to_install}"
        ).format(version=version("folovllm"), how_to_install=how_to_install())
        self.backups = notebooks.resolve() / "backups"

    def names(self) -> list[str]:
        """Return the files' names; ValueError where there are none."""
        if found := names_in(self._folder):
            return found
        raise ValueError(f"there are no notebooks in {self._folder}; make a new folder with: folovllm lab --notebooks")

    def read(self, name: str) -> bytes:
        """Return the file as it was copied."""
        return (self._folder / name).read_bytes()

    def are_outdated(self) -> bool:
        """Return whether the package has other notebooks by now."""
        return has_newer_notebooks(self._notebooks)

    def replace(self) -> str:
        """Copy the package's notebooks; ValueError where one would take the place of a learner's own."""
        for name in names_in(shipped_notebooks()):
            if (self._notebooks / name).exists() and name not in self.names():
                raise ValueError(f"{name} is new, and you have another of that name: rename yours, and try again")
        new, old = (self._folder.with_name(f"{ORIGINALS}.{state}") for state in ("new", "old"))
        for left in (new, old):
            shutil.rmtree(left, ignore_errors=True)  # by an update that was stopped
        copy_notebooks(new)
        for name in names_in(new):
            write_whole(self._notebooks / name, (new / name).read_bytes())
        self._folder.rename(old)
        new.rename(self._folder)
        shutil.rmtree(old)
        return _("the notebooks are those of folovllm {version}").format(version=version("folovllm"))


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, or leave it as it is: never a half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.write_bytes(content)
    os.replace(new, path)
