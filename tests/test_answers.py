"""A newer notebook, or the original, with what a learner wrote: by cell, whatever became of the cells around it."""

import json
import re
import subprocess

import pytest

from folovllm import course_folder
from folovllm.__main__ import main
from folovllm.course.editions.answers import with_answers
from folovllm.course_folder import make_learners_folder

IDENTITY = ["-c", "user.name=Tester", "-c", "user.email=tester@example.org"]


def code(name, source):
    return {"cell_type": "code", "id": name, "source": source, "metadata": {}, "outputs": ["old"], "execution_count": 3}


def text(name, source):
    return {"cell_type": "markdown", "id": name, "source": source, "metadata": {}}


OLD = [text("t", "Do it."), code("stub", "raise NotImplementedError"), code("check", "check()"), code("end", "bye()")]
MINE = [OLD[0], code("stub", "return 1"), code("own", "my_note()"), OLD[2], OLD[3]]


def sources(cells):
    return {cell["id"]: "".join(cell["source"]) for cell in cells}


def test_an_answer_and_a_cell_of_ones_own_keep_their_places_in_new_text():
    new = [text("t", "Do it better."), OLD[1], text("new", "News."), code("check", "check(2)"), OLD[3]]
    cells = with_answers(new, MINE, OLD)
    assert sources(cells) == {
        "t": "Do it better.",
        "stub": "return 1",
        "own": "my_note()",
        "new": "News.",
        "check": "check(2)",
        "end": "bye()",
    }
    assert list(sources(cells)) == ["t", "stub", "own", "new", "check", "end"]
    assert cells[1]["outputs"] == []
    assert new[1]["source"] == "raise NotImplementedError"


def test_an_answer_whose_cell_is_gone_stands_at_the_end():
    cells = with_answers([OLD[0], OLD[3]], MINE, OLD)
    assert list(sources(cells)) == ["t", "own", "end", "answers-without-a-place", "stub"]


def test_untouched_cells_take_the_new_text_and_nothing_is_added():
    new = [text("t", "New."), code("stub", "raise NotImplementedError  # new"), OLD[2]]
    assert with_answers(new, OLD, OLD) == new


@pytest.fixture(params=["clone", "folder"])
def learner(request, tmp_path, monkeypatch):
    """A learner's notebooks, in which an exercise is answered: in a clone, or where `folovllm lab` has copied them."""
    publish(tmp_path, OLD)
    if request.param == "clone":
        git(tmp_path, "clone", "--quiet", "course", "clone")
    monkeypatch.setattr(course_folder, "shipped_folder", lambda: tmp_path / "course")
    notebooks = tmp_path / request.param / "notebooks"
    make_learners_folder(notebooks)
    (notebooks / "01_x.ipynb").write_text(as_file(MINE))
    return notebooks


def git(folder, *arguments):
    subprocess.run(["git", *IDENTITY, *arguments], cwd=folder, check=True, capture_output=True)


def as_file(cells):
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


def publish(folder, cells):
    """Make the course with its notebooks, or a newer edition of it."""
    course = folder / "course"
    (course / "notebooks").mkdir(parents=True, exist_ok=True)
    (course / "notebooks" / "00_start_here.ipynb").write_text(as_file(OLD))
    (course / "notebooks" / "01_x.ipynb").write_text(as_file(cells))
    git(course, "init", "--quiet", "--initial-branch=main")
    git(course, "add", "-A")
    git(course, "commit", "--quiet", "-m", "an edition")


def run(notebooks, *command):
    return main(["course", "--notebooks", str(notebooks), *command])


def cells_of(notebooks):
    return json.loads((notebooks / "01_x.ipynb").read_text())["cells"]


def backups_of(notebooks):
    return next((folder for folder in (notebooks / "backups", notebooks.parent / "backups") if folder.exists()), None)


def test_an_update_brings_new_text_and_keeps_the_answer(learner, capsys):
    for count, words in enumerate(("Better.", "Best."), start=1):
        before = (learner / "01_x.ipynb").read_text()
        publish(learner.parent.parent, [text("t", words), *OLD[1:]])
        assert run(learner, "update") == 0
        assert sources(cells_of(learner))["t"] == words
        assert sources(cells_of(learner))["stub"] == "return 1"
        assert (backups_of(learner) / f"01_x-{count}.ipynb").read_text() == before
        assert "your answers are in 01_x.ipynb" in capsys.readouterr().out
        assert run(learner, "update") == 0
        assert re.match(r"these are the (newest notebooks|notebooks of folovllm \S+) already", capsys.readouterr().out)


def test_where_nothing_is_new_everything_stays(learner):
    assert run(learner, "update") == 0
    assert (learner / "01_x.ipynb").read_text() == as_file(MINE)
    assert backups_of(learner) is None


def test_a_notebook_that_is_not_new_keeps_its_outputs_too(learner):
    (learner / "00_start_here.ipynb").write_text(as_file(MINE))
    publish(learner.parent.parent, [text("t", "Better."), *OLD[1:]])
    assert run(learner, "update") == 0
    assert (learner / "00_start_here.ipynb").read_text() == as_file(MINE)


@pytest.mark.parametrize("learner", ["clone"], indirect=True)
def test_an_update_that_cannot_be_had_changes_nothing(learner, capsys):
    git(learner, "remote", "set-url", "origin", str(learner / "nowhere"))
    assert run(learner, "update") == 2
    assert "nothing was changed" in capsys.readouterr().err
    assert (learner / "01_x.ipynb").read_text() == as_file(MINE)


@pytest.mark.parametrize("learner", ["clone"], indirect=True)
def test_a_clone_with_commits_of_its_own_is_left_as_it_is(learner, capsys):
    git(learner, "commit", "--quiet", "-am", "mine")
    (learner / "01_x.ipynb").write_text(as_file(MINE[:-1]))
    publish(learner.parent.parent, [text("t", "Better."), *OLD[1:]])
    assert run(learner, "update") == 2
    assert "nothing was changed" in capsys.readouterr().err
    assert (learner / "01_x.ipynb").read_text() == as_file(MINE[:-1])


@pytest.mark.parametrize("learner", ["folder"], indirect=True)
@pytest.mark.parametrize("when", ["copy", "own"])
def test_an_update_of_a_folder_that_fails_changes_nothing(learner, monkeypatch, capsys, when):
    publish(learner.parent.parent, [text("t", "Better."), *OLD[1:]])
    if when == "own":
        (learner.parent.parent / "course" / "notebooks" / "07_new.ipynb").write_text(as_file(OLD))
        (learner / "07_new.ipynb").write_text("my own")
        message = "07_new.ipynb is new, and you have another of that name"
    else:
        monkeypatch.setattr(course_folder.shutil, "copyfile", raise_full)
        message = "No space left"
    before = {path: path.read_bytes() for path in learner.rglob("*.ipynb")}
    assert run(learner, "update") == 2
    assert message in capsys.readouterr().err
    assert {path: path.read_bytes() for path in learner.rglob("*.ipynb") if path.parent.name != "backups"} == before


def raise_full(*paths):
    raise OSError(28, "No space left on device")


def test_a_notebook_that_cannot_be_read_is_named_and_nothing_is_touched(learner, capsys):
    notebook = learner / "01_x.ipynb"
    notebook.write_text("{")
    for command in (["update"], ["reset", "01", "--keep-answers"]):
        assert run(learner, *command) == 2
        assert "01_x.ipynb is no notebook: JSONDecodeError" in capsys.readouterr().err
        assert notebook.read_text() == "{"
    assert backups_of(learner) is None


def test_a_deleted_notebook_comes_with_the_update(learner):
    publish(learner.parent.parent, OLD[:2])
    (learner / "01_x.ipynb").unlink()
    assert run(learner, "update") == 0
    assert cells_of(learner) == OLD[:2]


def test_a_reset_may_keep_the_answers(learner, capsys):
    broken = [text("t", "I deleted the text."), *MINE[1:-1]]
    (learner / "01_x.ipynb").write_text(as_file(broken))
    assert run(learner, "reset", "01", "--keep-answers") == 0
    assert sources(cells_of(learner)) == sources(MINE)
    assert "is the original again with your answers" in capsys.readouterr().out
    assert (backups_of(learner) / "01_x-1.ipynb").read_text() == as_file(broken)


@pytest.mark.parametrize("learner", ["folder"], indirect=True)
def test_a_folder_has_no_revisions_and_says_when_there_is_nothing_to_reset(learner, capsys):
    assert run(learner, "reset", "01", "--revision", "v1") == 2
    assert "--revision names a commit of a git clone" in capsys.readouterr().err
    assert run(learner, "reset", "00") == 0
    assert capsys.readouterr().out == "00_start_here.ipynb is the original already\n"
    assert run(learner, "reset", "9") == 2
    assert "chapter must be one of 00, 01, got '9'" in capsys.readouterr().err
