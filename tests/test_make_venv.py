"""``scripts/make_venv.sh`` against accidents, with stand-ins for Python, pip and df: its own logic is what runs."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOOLS = [
    "sh",
    "cat",
    "cksum",
    "awk",
    "mkdir",
    "find",
    "rm",
    "rmdir",
    "ls",
    "dirname",
    "cp",
    "chmod",
    "tail",
    "grep",
    "date",
]

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
    echo "$*" >>asked
    echo "pip says something"
    [ ! -e pip-is-killed ] || kill -9 0
    [ ! -e pip-fails ] || exit 1
    case "$*" in *--index-url*) [ ! -e no-index ] || exit 1 ;; esac
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
        (folder / "requirements.lock").write_text("numpy==2.4.6\ntorch==2.13.0\n")
        (folder / "pyproject.toml").write_text("[project]\n")
        self.bin = folder.parent / "bin"
        self.bin.mkdir()
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool))
        self.set_free_disk(100 * 1024**2)
        self.executable("uname", "#!/bin/sh\necho Darwin\n")

    def executable(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def add_python(self, name="python3", minor=11, venv_status=0) -> None:
        self.executable(name, PYTHON.format(minor=minor, venv_status=venv_status))

    def set_free_disk(self, kib: int) -> None:
        self.executable("df", f"#!/bin/sh\necho header\necho disk 0 0 {kib} 0 /\n")

    def run(self, level: str = "all", **environment: str) -> subprocess.CompletedProcess:
        """Run the script; its calls of venv and pip are in ``self.calls`` afterwards."""
        calls = self.folder / "calls"
        calls.unlink(missing_ok=True)
        run = subprocess.run(
            [shutil.which("sh"), "scripts/make_venv.sh", level],
            cwd=self.folder,
            env={"PATH": str(self.bin), "TMPDIR": os.curdir} | environment,
            capture_output=True,
            text=True,
            start_new_session=True,  # what kills its group leaves us alone
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

    def error_of_pip(self) -> str:
        """Run the script, whose pip must fail; return the last line, which comes after what pip said."""
        run = self.run()
        assert run.returncode == 1
        *pips, last = run.stderr.splitlines()
        assert "pip says something" in pips
        return last

    def asked(self) -> list[str]:
        """What pip was asked for since the last time."""
        asked = self.folder / "asked"
        lines = asked.read_text().splitlines()
        asked.unlink()
        return lines


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
    assert "Check the network and run the same command again" in clone.error_of_pip()
    (clone.folder / "pip-fails").unlink()
    assert clone.run().returncode == 0
    assert clone.calls == ["venv", "pip", "pip"]


def test_a_disk_that_fills_up_under_pip_is_named(made):
    (made.folder / "requirements.lock").write_text("numpy==3\n")
    (made.folder / "pip-fails").touch()
    made.set_free_disk(100)
    assert "the disk of . is full" in made.error_of_pip()


def test_an_installation_that_was_killed_is_made_anew(clone):
    clone.add_python()
    (clone.folder / "pip-is-killed").touch()
    assert clone.run().returncode == -9
    (clone.folder / "pip-is-killed").unlink()
    (clone.folder / ".venv" / "half").touch()
    assert clone.run().returncode == 0
    assert clone.calls == ["venv", "pip", "pip"]
    assert not (clone.folder / ".venv" / "half").exists()


def test_a_learner_gets_what_the_course_needs_and_pips_words_stay_in_its_log(clone):
    clone.add_python()
    run = clone.run("course")
    assert clone.asked() == [
        "-m pip install --no-input --no-compile --constraint requirements.lock setuptools",
        "-m pip install --no-input --no-compile --constraint requirements.lock --no-build-isolation -e .[course]",
    ]
    says = r"1/3 packages \(course\): downloaded and installed, one to five minutes \.\.\. done in \d+ s\n"
    assert re.fullmatch(says, run.stdout)
    assert (clone.folder / ".venv" / "pip.log").read_text().count("pip says something") == 2
    assert clone.run("course").stdout == ""


def test_tests_add_the_other_packages_and_the_course_then_finds_its_own(clone):
    clone.add_python()
    assert clone.run("course").returncode == 0
    assert clone.run("all").returncode == 0
    assert clone.calls == ["pip", "pip"]
    assert "-m pip install --no-input --no-compile -r requirements.lock" in clone.asked()
    assert clone.run("course").stdout == ""


def test_whoever_had_all_packages_keeps_them_when_the_lock_changes(made):
    made.asked()
    (made.folder / "requirements.lock").write_text("numpy==3\n")
    assert made.run("course").returncode == 0
    assert made.asked()[0] == "-m pip install --no-input --no-compile -r requirements.lock"


SMALL = "--index-url https://download.pytorch.org/whl/cpu torch==2.13.0"


@pytest.fixture
def linux(clone):
    clone.add_python()
    clone.executable("uname", "#!/bin/sh\necho Linux\n")
    return clone


@pytest.mark.skipif(Path("/proc/driver/nvidia/version").exists() or Path("/dev/dxg").exists(), reason="it has a card")
def test_under_linux_without_a_card_the_small_pytorch_is_asked_for_first(linux):
    assert linux.run("course").returncode == 0
    first, *further = linux.asked()
    assert first.endswith(SMALL)
    assert "--no-deps --retries 0" in first
    assert len(further) == 2


def test_where_its_index_cannot_be_reached_pypi_is_taken(linux):
    (linux.folder / "no-index").touch()
    assert linux.run("course").returncode == 0
    assert (linux.folder / ".venv" / ".made-by-make").read_text().startswith("course ")


def test_with_a_card_or_without_a_network_nobody_asks_for_the_small_one(linux):
    assert linux.run("course", PIP_NO_INDEX="1").returncode == 0
    linux.executable("nvidia-smi", "#!/bin/sh\n")
    (linux.folder / "requirements.lock").write_text("torch==2.14.0\n")
    assert linux.run("course").returncode == 0
    assert not any("--index-url" in line for line in linux.asked())


def test_with_a_card_more_disk_is_needed(linux):
    linux.executable("nvidia-smi", "#!/bin/sh\n")
    linux.set_free_disk(5 * 1024**2)
    assert "at least 8 GiB of free disk are needed" in linux.error()


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
