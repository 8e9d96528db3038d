"""The wheel: built, looked into, installed into an environment of its own, and used as a learner does."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import time
import urllib.request
import venv
import zipfile
from pathlib import Path

import nbformat
import pytest

from folovllm import course_folder, lab
from folovllm.__main__ import main
from tests.lab_in_browser import PATIENCE
from tests.test_project import ROOT, committed

NOTEBOOKS = sorted(path.name for path in Path("notebooks").glob("*.ipynb"))
EVERY_LANGUAGE = course_folder.names_in(Path("notebooks"))
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
NEW_TEXT = "A newer edition."


def build(folder: Path, output: Path) -> Path:
    """Build a wheel from a folder, with the setuptools that is locked."""
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(output)]
    subprocess.run([*PIP, "wheel", *options, str(folder)], check=True)
    [wheel] = output.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """The repository's files, without what git ignores."""
    folder = tmp_path_factory.mktemp("source")
    for path in committed():
        copy = folder / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    return folder


@pytest.fixture(scope="module")
def wheel(checkout, tmp_path_factory):
    return build(checkout, tmp_path_factory.mktemp("wheel"))


def make_environment(folder: Path) -> None:
    """Make an environment without the course; all other packages, and their files for Jupyter, are this one's."""
    venv.create(folder, symlinks=True)
    others = folder.with_name("others")  # outside: pip never removes what is not in its environment
    others.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if "folovllm" not in path.name:
            (others / path.name).symlink_to(path)
    Path(sysconfig.get_path("purelib", vars={"base": str(folder)}), "others.pth").write_text(f"{others}\n")
    for place in ("share", "etc"):
        (folder / place).mkdir(exist_ok=True)
        (folder / place / "jupyter").symlink_to(Path(sys.prefix, place, "jupyter"))


def install(environment: Path, wheel: Path) -> None:
    command = [*PIP, "--python", str(environment / "bin" / "python"), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(command, cwd=environment, env=outside(), check=True)


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    folder = tmp_path_factory.mktemp("environment") / "env"
    make_environment(folder)
    install(folder, wheel)
    return folder


def outside(**more):
    """The variables of a process in which nothing leads to this repository."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | more


def run(environment, *arguments, folder, **variables):
    """Run a program of the environment in a folder."""
    command = [str(environment / "bin" / arguments[0]), *arguments[1:]]
    return subprocess.run(command, cwd=folder, env=outside(**variables), capture_output=True, text=True, check=False)


def execute(environment, notebook, **variables):
    """Run all cells of a notebook's file by the environment's own kernel; return it as it is then."""
    command = ["-m", "nbconvert", "--to", "notebook", "--execute", "--inplace", notebook.name]
    done = run(environment, "python", *command, folder=notebook.parent, **variables)
    assert done.returncode == 0, done.stderr
    return nbformat.read(notebook, as_version=4)


def said(notebook):
    """What the outputs of a notebook say."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "\n".join(output.get("text", "") for output in outputs)


def test_the_wheel_carries_the_notebooks_and_all_that_they_need(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        shipped = {name.split("/share/folovllm/")[1]: archive.read(name) for name in names if "/share/" in name}
        [entry_points] = [archive.read(name).decode() for name in names if name.endswith("entry_points.txt")]
    assert shipped == {name: (ROOT / name).read_bytes() for name in tracked(r"notebooks/.*\.ipynb|jupyter/.*|.*\.lock")}
    assert {name for name in names if name.startswith("folovllm/")} == tracked(r"folovllm/.*(?<!\.po)")
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"folovllm"}
    assert "folovllm = folovllm.__main__:main" in entry_points


def tracked(pattern: str) -> set[str]:
    """The names of the repository's files that a pattern matches."""
    names = (path.relative_to(ROOT).as_posix() for path in committed())
    return {name for name in names if re.fullmatch(pattern, name)}


def test_a_wheel_made_from_the_source_archive_is_the_same(wheel, checkout, tmp_path):
    script = f"from setuptools.build_meta import build_sdist; build_sdist({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", script], cwd=checkout, capture_output=True, check=True)
    [archive] = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(tmp_path, filter="data")
    again = build(next(path for path in tmp_path.iterdir() if path.is_dir()), tmp_path / "again")
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(again) as other:
        assert sorted(one.namelist()) == sorted(other.namelist())


def test_an_installation_knows_that_it_is_no_checkout(environment, tmp_path):
    script = "from folovllm.course_folder import *; print(in_checkout(), shipped_folder(), how_to_install())"
    done = run(environment, "python", "-c", script, folder=tmp_path)
    shipped = (environment / "share" / "folovllm").resolve()
    assert done.stdout == f"False {shipped} run `python -m pip install --upgrade 'folovllm[course]'`\n", done.stderr


@pytest.fixture(scope="module")
def learner(environment, bundled_model_path, tmp_path_factory):
    """A folder in which `folovllm lab` was run; what it served is kept as ``served.html`` and ``served.json``."""
    home = tmp_path_factory.mktemp("learner")
    variables = outside(JUPYTER_CONFIG_DIR=str(home / "settings"), JUPYTER_RUNTIME_DIR=str(home / "runtime"))
    command = [environment / "bin" / "folovllm", "lab", "--no-browser", "--ip=127.0.0.1", "--port", "0"]
    log = home / "log"
    with log.open("w") as output:
        server = subprocess.Popen(command, cwd=home, env=variables, stdout=output, stderr=output)
    try:
        address = wait_for_address(server, log)
        (home / "served.html").write_bytes(urllib.request.urlopen(address, timeout=PATIENCE).read())
        contents = address.replace("/lab?", "/api/contents/00_start_here.ipynb?content=0&")
        (home / "served.json").write_bytes(urllib.request.urlopen(contents, timeout=PATIENCE).read())
    finally:
        server.terminate()
        server.wait(PATIENCE)
    return home


def wait_for_address(server, log):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and server.poll() is None:
        if found := re.search(r"http://127\.0\.0\.1:\d+/lab\S*\?token=\w+", log.read_text()):
            return re.sub(r"/lab\S*\?", "/lab?", found[0])
        time.sleep(0.2)
    raise AssertionError(f"JupyterLab did not start:\n{log.read_text()}")


def test_lab_copies_the_notebooks_and_serves_them_with_the_courses_settings(learner):
    course = learner / "folovllm-course"
    assert course_folder.names_in(course) == course_folder.names_in(course / ".originals") == EVERY_LANGUAGE
    assert set(NOTEBOOKS) < set(EVERY_LANGUAGE)
    assert "/lab/tree/00_start_here.ipynb?token=" in (learner / "log").read_text()
    assert json.loads((learner / "served.json").read_text())["type"] == "notebook"
    assert "@jupyterlab/apputils-extension:announcements" in (learner / "served.html").read_text()


def test_the_first_notebook_runs_from_the_learners_folder(learner, environment):
    notebook = execute(environment, learner / "folovllm-course" / "00_start_here.ipynb")
    assert "in env\n" in said(notebook)  # the doctor's first line says which environment it is
    assert "Paris" in said(notebook)
    assert "make lab" not in said(notebook)


def test_update_brings_a_newer_edition_and_keeps_an_answer(learner, environment, checkout, tmp_path):
    course = learner / "folovllm-course"
    name = "02_sampling.ipynb"
    mine = nbformat.read(course / name, as_version=4)
    stub = next(cell for cell in mine.cells if "raise NotImplementedError" in cell.source)
    stub.source = stub.source.replace("raise NotImplementedError", "return 42")
    nbformat.write(mine, course / name)
    answered = (course / name).read_bytes()

    newer = tmp_path / "newer"
    shutil.copytree(checkout, newer)
    edition = nbformat.read(newer / "notebooks" / name, as_version=4)
    edition.cells[1].source = NEW_TEXT
    nbformat.write(edition, newer / "notebooks" / name)
    project = (newer / "pyproject.toml").read_text()
    (newer / "pyproject.toml").write_text(re.sub(r'^version = ".*"$', 'version = "9.9"', project, flags=re.M))
    install(environment, build(newer, tmp_path / "wheel"))

    done = run(environment, "folovllm", "update", folder=learner)
    assert done.stdout.startswith("the notebooks are those of folovllm 9.9; your answers are in "), done.stderr
    updated = nbformat.read(course / name, as_version=4)
    assert updated.cells[1].source == NEW_TEXT
    assert next(cell for cell in updated.cells if cell.id == stub.id).source == stub.source
    assert (course / "backups" / "02_sampling-1.ipynb").read_bytes() == answered

    assert run(environment, "folovllm", "course", "reset", "02", folder=course).returncode == 0
    assert (course / name).read_bytes() == (newer / "notebooks" / name).read_bytes()


def test_progress_is_said_of_the_learners_folder(learner, environment):
    course = learner / "folovllm-course"
    for name in set(NOTEBOOKS) - {"02_sampling.ipynb"}:
        (course / name).unlink()
    progress = run(environment, "folovllm", "course", "progress", folder=course)
    assert progress.stdout.startswith("02_sampling.ipynb: 0 of "), progress.stderr


@pytest.fixture
def from_a_wheel(monkeypatch, tmp_path):
    """The commands as they are where a wheel was installed, run in an empty folder."""
    monkeypatch.setattr(course_folder, "in_checkout", lambda: False)
    for module in (course_folder, lab):
        monkeypatch.setattr(module, "shipped_folder", lambda: ROOT)
    monkeypatch.setattr(lab.os, "execve", pytest.fail)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folder_that_holds_something_else_is_left_alone(from_a_wheel, capsys):
    (from_a_wheel / "folovllm-course").mkdir()
    (from_a_wheel / "folovllm-course" / "thesis.txt").touch()
    assert main(["lab"]) == 2
    assert "folovllm-course holds other files, and no notebooks of the course; name another" in capsys.readouterr().err
    assert [path.name for path in from_a_wheel.rglob("*")] == ["folovllm-course", "thesis.txt"]


@pytest.mark.parametrize(
    ("folder", "message"),
    [("file", "file is a file; name another"), ("file/x", "file/x cannot be written (Not a directory); name another")],
)
def test_a_folder_that_cannot_be_made_is_a_sentence(from_a_wheel, capsys, folder, message):
    (from_a_wheel / "file").touch()
    assert main(["lab", "--notebooks", folder]) == 2
    assert message in capsys.readouterr().err


def test_a_copy_that_fails_leaves_nothing(from_a_wheel, monkeypatch, capsys):
    def fail(*paths):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(course_folder.shutil, "copyfile", fail)
    assert main(["lab"]) == 2
    assert "folovllm-course cannot be written (Permission denied); name another" in capsys.readouterr().err
    assert list((from_a_wheel / "folovllm-course").iterdir()) == []


def test_an_empty_folder_is_filled_and_hidden_files_do_not_count(from_a_wheel):
    (from_a_wheel / ".DS_Store").touch()
    course_folder.make_learners_folder(Path("."))
    assert course_folder.names_in(from_a_wheel) == EVERY_LANGUAGE
    assert {path.name for path in from_a_wheel.iterdir()} == {".DS_Store", ".originals", "zh", *NOTEBOOKS}


def test_without_jupyterlab_one_is_told_how_to_install_it(from_a_wheel, monkeypatch, capsys):
    monkeypatch.setattr(lab, "find_spec", lambda name: None)
    assert main(["lab"]) == 2
    assert capsys.readouterr().err == (
        "error: JupyterLab is not installed; run `python -m pip install --upgrade 'folovllm[course]'`\n"
    )
    assert list(from_a_wheel.iterdir()) == []


def test_a_command_whose_packages_are_missing_says_so(from_a_wheel, monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "folovllm.course.editions.slides", raising=False)
    monkeypatch.setitem(sys.modules, "nbconvert.exporters", None)
    assert main(["course", "slides", "--output", "slides"]) == 2
    assert "the package nbconvert.exporters is missing; run `python -m pip install" in capsys.readouterr().err


def test_work_that_is_there_is_opened_and_never_touched(from_a_wheel, monkeypatch):
    started = []
    monkeypatch.setattr(lab.os, "execve", lambda *arguments: started.append(arguments))
    monkeypatch.setenv("FOLOVLLM_MODEL", "x")  # or the bundled one would be prepared
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", "/mine")
    main(["lab", "--notebooks", "here", "--no-browser", "--port", "9000"])
    monkeypatch.chdir(from_a_wheel)
    (from_a_wheel / "here" / "00_start_here.ipynb").write_text("mine")
    main(["lab", "--notebooks", "here"])
    assert (from_a_wheel / "here" / "00_start_here.ipynb").read_text() == "mine"
    (python, command, settings), (_, again, _) = started
    assert python == sys.executable
    assert command[-4:] == ["--LabApp.default_url=/lab/tree/00_start_here.ipynb", "--no-browser", "--port", "9000"]
    assert again == command[:-3]
    assert ("--allow-root" in command) == (os.geteuid() == 0)
    assert settings["JUPYTER_CONFIG_PATH"] == f"{ROOT / 'jupyter'}{os.pathsep}/mine"


@pytest.mark.parametrize(("language", "folder"), [("en", "notebooks"), ("zh", "notebooks/zh")])
def test_in_a_checkout_lab_opens_its_own_notebooks(language, folder, monkeypatch):
    started = []
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(lab.os, "execve", lambda *arguments: started.append((Path.cwd(), arguments[1][-1])))
    monkeypatch.setenv("FOLOVLLM_MODEL", "x")
    monkeypatch.setenv("FOLOVLLM_LANG", language)
    main(["lab"])
    assert started == [(ROOT, f"--LabApp.default_url=/lab/tree/{folder}/00_start_here.ipynb")]


def test_the_commands_of_the_course_find_the_folder_around_them(from_a_wheel, monkeypatch, capsys):
    assert main(["course", "instructor", "--output", "edition"]) == 2
    assert "there are no notebooks in folovllm-course" in capsys.readouterr().err
    course_folder.make_learners_folder(Path("folovllm-course"))
    for place in (from_a_wheel, from_a_wheel / "folovllm-course", from_a_wheel / "folovllm-course" / ".originals"):
        monkeypatch.chdir(place)
        assert main(["course", "instructor", "--output", str(from_a_wheel / "edition")]) == 0
        assert len(capsys.readouterr().out.splitlines()) == len(NOTEBOOKS)


def test_only_lab_takes_arguments_that_it_does_not_know(capsys):
    with pytest.raises(SystemExit):
        main(["doctor", "--port", "9"])
    assert "unrecognized arguments: --port 9" in capsys.readouterr().err
