"""``scripts/make_venv.sh`` against accidents, with stand-ins for Python, pip and df: its own logic is what runs."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOOLS = ["sh", "cat", "cksum", "awk", "mkdir", "find", "rm", "rmdir", "ls", "dirname", "cp", "chmod"]

# It copies itself into the environment it makes, and writes down what it was asked for.
PYTHON = """#!/bin/sh
case "$*" in
*version_info*) echo {minor} ;;
*ensurepip*) exit {venv_status} ;;
"-m venv .venv")
    echo venv >>calls
    mkdir -p .venv/bin .venv/lib/python3/site-packages
    cp "$0" .venv/bin/python ;;
*"-m pip install"*)
    echo pip >>calls
    [ ! -e pip-is-killed ] || kill -9 $PPID
    [ ! -e pip-fails ] || exit 1
    rm -rf .venv/lib/python3/site-packages/*
    mkdir .venv/lib/python3/site-packages/numpy-2.4.6.dist-info ;;
*print*) echo yes ;;
esac
"""


class Clone:
    """A folder with the script and what it reads, and a PATH on which nothing else is found."""

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "scripts").mkdir(parents=True)
        shutil.copy(ROOT / "scripts" / "make_venv.sh", folder / "scripts")
        (folder / "requirements.lock").write_text("numpy==2.4.6\n")
        (folder / "pyproject.toml").write_text("[project]\n")
        self.bin = folder.parent / "bin"
        self.bin.mkdir()
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool))
        self.set_free_disk(100 * 1024**2)

    def executable(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def add_python(self, name="python3", minor=11, venv_status=0) -> None:
        self.executable(name, PYTHON.format(minor=minor, venv_status=venv_status))

    def set_free_disk(self, kib: int) -> None:
        self.executable("df", f"#!/bin/sh\necho header\necho disk 0 0 {kib} 0 /\n")

    def run(self, **environment: str) -> subprocess.CompletedProcess:
        """Run the script; its calls of venv and pip are in ``self.calls`` afterwards."""
        calls = self.folder / "calls"
        calls.unlink(missing_ok=True)
        run = subprocess.run(
            [shutil.which("sh"), "scripts/make_venv.sh"],
            cwd=self.folder,
            env={"PATH": str(self.bin), "TMPDIR": os.curdir} | environment,
            capture_output=True,
            text=True,
        )
        self.calls = calls.read_text().split() if calls.exists() else []
        return run

    def error(self, **environment: str) -> str:
        """Run the script, which must fail with one line, and return that line."""
        run = self.run(**environment)
        assert run.returncode == 1
        assert run.stdout == ""
        assert run.stderr.count("\n") == 1, run.stderr
        return run.stderr


@pytest.fixture
def clone(tmp_path):
    return Clone(tmp_path / "clone")


@pytest.fixture
def made(clone):
    """A clone whose environment is complete."""
    clone.add_python()
    assert clone.run().returncode == 0
    assert clone.calls == ["venv", "pip", "pip"]
    return clone


def test_without_any_python_the_one_line_says_which_are_needed(clone):
    assert "Python 3.11 to 3.14 is needed; found: none. Install one" in clone.error()


def test_a_too_old_python_is_named(clone):
    clone.add_python(minor=8)
    assert "found: python3 is 3.8. Install one" in clone.error()


def test_a_python_newer_than_the_locked_builds_is_named(clone):
    clone.add_python(minor=15)
    assert "found: python3 is 3.15." in clone.error()


def test_a_fit_python_is_found_beside_one_that_is_too_old(clone):
    clone.add_python(minor=8)
    clone.add_python("python3.12", minor=12)
    assert clone.run().returncode == 0
    assert "echo 12" in (clone.folder / ".venv" / "bin" / "python").read_text()


def test_a_python_that_is_named_is_the_only_one_tried(clone):
    clone.add_python()
    clone.add_python("old python", minor=8)
    assert "found: old python is 3.8." in clone.error(PYTHON="old python")
    assert "found: none." in clone.error(PYTHON="nowhere")


def test_a_missing_venv_module_is_one_line_with_the_package_to_install(clone):
    clone.add_python(minor=12, venv_status=1)
    assert "sudo apt install python3.12-venv" in clone.error()


def test_a_full_disk_is_noticed_before_anything_is_written(clone):
    clone.add_python()
    clone.set_free_disk(100 * 1024)
    assert "at least 3 GiB of free disk are needed" in clone.error()
    assert not (clone.folder / ".venv").exists()


def test_a_pip_that_fails_is_explained_and_the_next_run_starts_over(clone):
    clone.add_python()
    (clone.folder / "pip-fails").touch()
    assert "Check the network and run the same command again" in clone.error()
    (clone.folder / "pip-fails").unlink()
    assert clone.run().returncode == 0
    assert clone.calls == ["venv", "pip", "pip"]


def test_a_disk_that_fills_up_under_pip_is_named(made):
    (made.folder / "requirements.lock").write_text("numpy==3\n")
    (made.folder / "pip-fails").touch()
    made.set_free_disk(100)
    assert "the disk of . is full" in made.error()


def test_an_installation_that_was_killed_is_made_anew(clone):
    clone.add_python()
    (clone.folder / "pip-is-killed").touch()
    assert clone.run().returncode == -9
    (clone.folder / "pip-is-killed").unlink()
    (clone.folder / ".venv" / "half").touch()
    assert clone.run().returncode == 0
    assert clone.calls == ["venv", "pip", "pip"]
    assert not (clone.folder / ".venv" / "half").exists()


def test_a_second_run_does_nothing_and_says_nothing(made):
    run = made.run()
    assert (run.returncode, run.stdout, run.stderr, made.calls) == (0, "", "", [])


@pytest.mark.parametrize("file", ["requirements.lock", "pyproject.toml"])
def test_new_requirements_are_installed_into_the_environment_that_is_there(made, file):
    (made.folder / file).write_text("something else\n")
    assert made.run().returncode == 0
    assert made.calls == ["pip", "pip"]


def test_a_package_that_was_changed_by_hand_is_put_back(made):
    packages = made.folder / ".venv" / "lib" / "python3" / "site-packages"
    (packages / "numpy-2.4.6.dist-info").rename(packages / "numpy-1.0.dist-info")
    assert made.run().returncode == 0
    assert made.calls == ["pip", "pip"]


def test_an_environment_whose_python_is_gone_is_made_anew(made):
    (made.folder / ".venv" / "bin" / "python").unlink()
    assert made.run().returncode == 0
    assert made.calls == ["venv", "pip", "pip"]


def test_a_clone_that_was_moved_gets_a_new_environment(made):
    made.folder = made.folder.rename(made.folder.with_name("moved"))
    assert made.run().returncode == 0
    assert made.calls == ["venv", "pip", "pip"]


def test_an_environment_of_the_users_own_is_left_alone(clone):
    clone.add_python()
    mine = clone.folder / ".venv" / "mine"
    mine.parent.mkdir()
    mine.touch()
    assert ".venv was not made by this Makefile" in clone.error()
    assert mine.exists()
