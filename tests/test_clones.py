"""The course on other machines: cloned with CRLF, shallow, into a folder of an odd name; unpacked; another user's."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from folovllm.__main__ import main

ROOT = Path(__file__).parents[1]
FOLDERS = ["course", "我的 课程 (LLM)"]


@pytest.fixture(params=FOLDERS)
def clone(request, tmp_path):
    """The last commit, cloned as git for Windows does, with one commit of history."""
    folder = tmp_path / request.param
    options = ["-c", "core.autocrlf=true", "-c", "core.eol=crlf", "--depth=1", "--quiet"]
    subprocess.run(["git", "clone", *options, f"file://{ROOT}", str(folder)], check=True)
    return folder


def test_no_text_of_a_clone_has_carriage_returns(clone):
    texts = [path for path in clone.rglob("*") if path.suffix in {".sh", ".py", ".ipynb", ".md", ".toml", ""}]
    files = [path for path in texts if path.is_file() and ".git" not in path.relative_to(clone).parts]
    assert len(files) > 200
    assert [path for path in files if b"\r\n" in path.read_bytes()] == []


def test_make_and_every_script_can_be_read(clone):
    listed = subprocess.run(["make", "help"], cwd=clone, capture_output=True, text=True, check=True)
    assert "make lab" in listed.stdout
    for script in clone.glob("scripts/*.sh"):
        assert subprocess.run(["sh", "-n", str(script)], capture_output=True, check=False).returncode == 0


@pytest.fixture
def unpacked(tmp_path):
    """The course as its ZIP brings it, without git."""
    folder = tmp_path / "zip"
    folder.mkdir()
    packed = subprocess.run(["git", "-C", str(ROOT), "archive", "HEAD"], capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x", "-C", str(folder)], input=packed, check=True)
    return folder


@pytest.fixture
def inside_another(unpacked):
    """A ZIP that was unpacked inside a repository of other things."""
    settings = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    subprocess.run(["git", "init", "--quiet", str(unpacked.parent)], check=True)
    commit = ["git", "-C", str(unpacked.parent), *settings, "commit", "--quiet", "--allow-empty", "-m", "one"]
    subprocess.run(commit, check=True)
    return unpacked


def course(folder: Path, *arguments: str) -> int:
    return main(["course", "--notebooks", str(folder / "notebooks"), *arguments])


@pytest.mark.parametrize("kind", ["unpacked", "inside_another"])
def test_without_a_clone_of_the_course_nothing_is_restored_or_pulled_and_one_is_told_why(kind, request, capsys):
    folder = request.getfixturevalue(kind)
    before = {path: path.read_bytes() for path in folder.rglob("*.ipynb")}
    reason = "not a git repository" if kind == "unpacked" else "git knows no notebooks"
    assert course(folder, "reset", "03") == 2
    assert re.search(f"{reason}.*download the course again, into another folder", capsys.readouterr().err)
    assert course(folder, "update") == 2
    assert re.search(f"{reason}.*download the course again, into another folder", capsys.readouterr().err)
    assert {path: path.read_bytes() for path in folder.rglob("*.ipynb")} == before


@pytest.mark.parametrize("kind", ["unpacked", "inside_another"])
def test_without_a_clone_there_is_no_kit(kind, request):
    done = run_script(request.getfixturevalue(kind), "make_kit.sh")
    assert done.returncode == 1
    assert "the kit is made from a git clone, and this folder is none" in done.stderr


def test_what_needs_no_git_works_in_an_unpacked_zip(unpacked, capsys):
    assert course(unpacked, "instructor", "--output", str(unpacked / "solved")) == 0
    assert course(unpacked, "progress") == 0
    assert "06_patterns_and_next.ipynb: 0 of" in capsys.readouterr().out


# What git's own tests use: it then takes every folder for another user's.
FOREIGN = {"GIT_TEST_ASSUME_DIFFERENT_OWNER": "1"}


@pytest.mark.parametrize("command", [["reset", "03"], ["update"]])
def test_in_another_users_clone_git_is_asked_to_trust_it(clone, command, monkeypatch, capsys):
    monkeypatch.setenv(*next(iter(FOREIGN.items())))
    assert course(clone, *command) == 2
    said = capsys.readouterr().err
    assert re.search(
        "another user owns this folder.*git config --global --add safe.directory .*" + clone.name[:2], said
    )


def test_a_kit_of_another_users_clone_says_how_git_trusts_it(clone):
    done = run_script(clone, "make_kit.sh", **FOREIGN)
    assert done.returncode == 1
    assert f"git config --global --add safe.directory '{clone}'" in done.stderr


def as_a_stranger() -> list[str]:
    """Return what to write before a command, so that it may read everything and write nothing of ours."""
    if os.geteuid() != 0:
        return []
    user = ["--reuid", "54321", "--regid", "54321", "--clear-groups"]
    return ["setpriv", *user, "--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"]


def run_script(folder: Path, name: str, before: Sequence[str] = (), **environment: str) -> subprocess.CompletedProcess:
    command = [*before, "sh", f"scripts/{name}"]
    return subprocess.run(command, cwd=folder, env=os.environ | environment, capture_output=True, text=True)


@pytest.fixture
def read_only(unpacked):
    """A course that may be read by everybody and written by nobody; not below tmp_path, which is private."""
    folder = Path(tempfile.mkdtemp()) / "course"
    unpacked.rename(folder)
    folder.parent.chmod(0o755)
    subprocess.run(["chmod", "-R", "a-w", str(folder)], check=True)
    yield folder
    subprocess.run(["chmod", "-R", "u+w", str(folder)], check=True)
    shutil.rmtree(folder.parent)


def test_a_course_that_may_not_be_written_says_that_it_must_be_copied(read_only):
    done = run_script(read_only, "make_venv.sh", as_a_stranger())
    assert done.returncode == 1
    assert done.stderr == (
        f"folovllm: you may not write in {read_only}: copy the course into a folder of yours, and run the same command "
        "there.\n"
    )


def folovllm(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """Run a command of the course in ``folder``, as somebody else."""
    command = [*as_a_stranger(), sys.executable, "-m", "folovllm", *arguments]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"} | environment
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_an_output_that_may_not_be_written_is_named(read_only, tmp_path_factory):
    home = str(read_only.parent)
    done = folovllm(read_only, "course", "instructor", "--output", "build/solved", HOME=home, MPLCONFIGDIR=home)
    assert done.returncode == 2
    assert "error: you may not write (or read) build; name another folder, or work in a copy" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user without an account")
@pytest.mark.parametrize("command", [["model"], ["course", "slides", "--output", "build"]])
def test_a_user_without_an_account_and_a_home_is_told_to_set_one(read_only, command):
    done = folovllm(read_only, *command)
    assert done.returncode == 2
    assert "error: this user has no home folder; set HOME to a folder that can be written" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user without an account")
@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["lab"], "JupyterLab keeps files in /.jupyter, where you may not write; set HOME to a folder where you may"),
        (["model"], "Set FOLOVLLM_CACHE to a folder that can be written."),
        (["generate", "hi"], "Set FOLOVLLM_CACHE to a folder that can be written."),
    ],
)
def test_a_user_whose_home_is_the_roots_is_told_what_to_set(read_only, command, told):
    """As in a container that runs under another number."""
    done = folovllm(read_only, *command, HOME="/")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith(told)
