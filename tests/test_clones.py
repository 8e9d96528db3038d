"""The course as it is cloned on other machines: with CRLF asked for, into a folder of an odd name, shallow."""

import subprocess
from pathlib import Path

import pytest

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
