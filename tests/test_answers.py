"""A newer notebook, or the original, with what a learner wrote: by cell, whatever became of the cells around it."""

import json
import subprocess
from pathlib import Path

import pytest

from folovllm.__main__ import main
from folovllm.course.editions.answers import with_answers

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


@pytest.fixture
def learner(tmp_path):
    """A course with one notebook, and a learner's clone of it in which an exercise is answered."""
    course, clone = tmp_path / "course", tmp_path / "learner"
    (course / "notebooks").mkdir(parents=True)
    git(course, "init", "--quiet", "--initial-branch=main")
    publish(course, OLD)
    git(tmp_path, "clone", "--quiet", str(course), str(clone))
    (clone / "notebooks" / "01_x.ipynb").write_text(as_file(MINE))
    return clone


def git(folder, *arguments):
    subprocess.run(["git", *IDENTITY, *arguments], cwd=folder, check=True, capture_output=True)


def as_file(cells):
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


def publish(course, cells):
    (course / "notebooks" / "01_x.ipynb").write_text(as_file(cells))
    git(course, "add", "-A")
    git(course, "commit", "--quiet", "-m", "an edition")


def run(clone, *command):
    return main(["course", "--notebooks", str(clone / "notebooks"), *command])


def cells_of(clone):
    return json.loads((clone / "notebooks" / "01_x.ipynb").read_text())["cells"]


def test_an_update_brings_new_text_and_keeps_the_answer(learner, capsys):
    publish(learner.parent / "course", [text("t", "Better."), *OLD[1:]])
    assert run(learner, "update") == 0
    assert sources(cells_of(learner))["t"] == "Better."
    assert sources(cells_of(learner))["stub"] == "return 1"
    assert (learner / "backups" / "01_x-1.ipynb").read_text() == as_file(MINE)
    assert "your answers are in 01_x.ipynb" in capsys.readouterr().out


def test_where_nothing_is_new_the_answers_stay(learner):
    assert run(learner, "update") == 0
    assert sources(cells_of(learner)) == sources(MINE)


def test_an_update_that_cannot_be_had_changes_nothing(learner, capsys):
    git(learner, "remote", "set-url", "origin", str(learner / "nowhere"))
    assert run(learner, "update") == 2
    assert "nothing was changed" in capsys.readouterr().err
    assert Path(learner / "notebooks" / "01_x.ipynb").read_text() == as_file(MINE)


def test_a_notebook_that_cannot_be_read_is_named_and_nothing_is_touched(learner, capsys):
    notebook = learner / "notebooks" / "01_x.ipynb"
    notebook.write_text("{")
    for command in (["update"], ["reset", "01", "--keep-answers"]):
        assert run(learner, *command) == 2
        assert "01_x.ipynb cannot be read as a notebook: JSONDecodeError" in capsys.readouterr().err
        assert notebook.read_text() == "{"
    assert not (learner / "backups").exists()


def test_a_deleted_notebook_comes_with_the_update(learner):
    publish(learner.parent / "course", OLD[:2])
    (learner / "notebooks" / "01_x.ipynb").unlink()
    assert run(learner, "update") == 0
    assert cells_of(learner) == OLD[:2]


def test_a_reset_may_keep_the_answers(learner, capsys):
    broken = [text("t", "I deleted the text."), *MINE[1:-1]]
    (learner / "notebooks" / "01_x.ipynb").write_text(as_file(broken))
    assert run(learner, "reset", "01", "--keep-answers") == 0
    assert sources(cells_of(learner)) == sources(MINE)
    assert "is the original again with your answers" in capsys.readouterr().out
