"""What Binder would build from this repository: repo2docker, its own tool, writes the Dockerfile. None is built."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from repo2docker.app import Repo2Docker
from repo2docker.buildpacks import CondaBuildPack

ROOT = Path(__file__).parents[1]


@pytest.fixture
def buildpack(monkeypatch):
    """The first of repo2docker's buildpacks, in its own order, that wants this repository."""
    monkeypatch.chdir(ROOT)
    offered = (kind("base image") for kind in Repo2Docker().buildpacks)
    found = next(pack for pack in offered if pack.detect())
    found.platform = "linux/amd64"
    return found


@pytest.fixture
def dockerfile(buildpack) -> str:
    return buildpack.render()


def place(dockerfile: str, pattern: str) -> int:
    """Return where the only line is that the pattern matches."""
    [found] = re.finditer(pattern, dockerfile, re.MULTILINE)
    return found.start()


def test_binder_takes_the_conda_environment_with_its_python(buildpack):
    assert type(buildpack) is CondaBuildPack
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert f"python={buildpack.python_version}" in environment["dependencies"]


def test_the_course_is_there_before_pip_is_asked_to_install_it(dockerfile):
    """``-r requirements.lock`` and ``-e .`` need the repository, which Binder copies late."""
    copied = place(dockerfile, r"^COPY --chown=\S+ src/ \$\{REPO_DIR\}/$")
    installed = place(dockerfile, r'env update -p \S+ --file "environment.yml"')
    assert copied < installed


def test_the_model_is_prepared_at_last_by_the_user_who_will_run_it(dockerfile):
    installed = place(dockerfile, r'env update -p \S+ --file "environment.yml"')
    prepared = place(dockerfile, r"^RUN \./postBuild$")
    assert installed < prepared
    assert re.findall(r"^USER (.*)$", dockerfile[:prepared], re.MULTILINE)[-1] == "${NB_USER}"
    assert re.findall(r"^USER", dockerfile[prepared:], re.MULTILINE) == []
    assert re.findall(r"^\s*(?:ENV|ARG)?\s*\bHOME=", dockerfile[prepared:], re.MULTILINE) == []


def test_what_binder_runs_at_last_prepares_the_model(bundled_model_path):
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    run = subprocess.run([ROOT / "postBuild"], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert run.stdout == f"{bundled_model_path}\n", run.stderr
