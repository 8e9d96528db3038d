"""``course progress`` and ``course collect``: answers are judged apart, whatever they do."""

import csv
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from folovllm.__main__ import main
from folovllm.course.editions.collect import collect
from folovllm.course.editions.progress import Judge, chapter_of
from folovllm.course.exercises.checks import CHAPTERS

CHAPTER = "02_sampling"
NAMES = [exercise.name for exercise in CHAPTERS[CHAPTER]]


def write(path: Path, *sources: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = [{"cell_type": "code", "source": source, "metadata": {}} for source in sources]
    path.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    return path


def solved(exercise) -> str:
    body = "\n".join(f"    {line}" for line in exercise.code.splitlines())
    return f"def my_{exercise.name}({', '.join(exercise.argument_names)}):\n{body}"


def states(path, **further):
    with Judge(**further) as judge:
        return {result.exercise: result.state for result in judge.judge(path)}


def test_answers_are_judged_with_what_else_the_notebook_defines(tmp_path):
    exercises = CHAPTERS[CHAPTER]
    renamed = solved(exercises[0]).replace(f"my_{NAMES[0]}", "my_helper")
    helper = f"def helper(*given):\n    return my_helper(*given)\n{renamed}"
    path = write(
        tmp_path / f"{CHAPTER}.ipynb",
        "import torch\nraise SystemExit",
        "this is no Python",
        "%matplotlib inline",
        helper,
        f"def my_{NAMES[0]}(*given):\n    return helper(*given)",
        *map(solved, exercises[1:-1]),
        f"def my_{NAMES[-1]}(*given):\n    raise NotImplementedError",
    )
    assert states(path) == {**dict.fromkeys(NAMES[:-1], "right"), NAMES[-1]: "not attempted"}


def test_an_answer_may_do_anything_and_the_others_are_judged_all_the_same(tmp_path):
    first, second, third, last = NAMES[0], NAMES[1], NAMES[2], NAMES[-1]
    path = write(
        tmp_path / f"{CHAPTER}.ipynb",
        f"def my_{first}(*given):\n    while True:\n        pass",
        f"def my_{second}(*given):\n    import os\n    os._exit(0)",
        f"import sys\ndef my_{third}(*given):\n    print('right', file=sys.stderr)\n    return object()",
        "import torch\n" + solved(CHAPTERS[CHAPTER][-1]),
    )
    found = states(path, seconds=10)
    assert (found[first], found[second], found[third], found[last]) == ("failed", "failed", "not yet", "right")
    assert all(found[name] == "missing" for name in NAMES[3:-1])


def test_the_notebooks_as_they_are_committed_are_not_attempted(capsys):
    assert main(["course", "progress"]) == 0
    said = capsys.readouterr().out
    for chapter, exercises in CHAPTERS.items():
        assert f"{chapter}.ipynb: 0 of {len(exercises)} exercises are right" in said
        assert all(f"  {exercise.name:16} not attempted: not attempted yet" in said for exercise in exercises)


@pytest.mark.parametrize(
    ("text", "said"), [("{", "JSONDecodeError"), ("[]", "TypeError"), ('{"cells": [{}]}', "KeyError")]
)
def test_a_file_that_is_no_notebook_is_named(tmp_path, text, said):
    path = tmp_path / f"{CHAPTER}.ipynb"
    path.write_text(text)
    with Judge() as judge, pytest.raises(ValueError, match=rf"{CHAPTER}.ipynb is no notebook: {said}"):
        judge.judge(path)


def test_the_chapter_is_known_by_the_files_name():
    assert chapter_of(Path("a/02_sampling-mei.ipynb")) == "02_sampling"
    with pytest.raises(ValueError, match="its name should begin with one of 01_config, "):
        chapter_of(Path("homework.ipynb"))


@pytest.fixture
def handed_in(tmp_path):
    """Three ways to hand in, one of a file that cannot be read."""
    folder = tmp_path / "handed in"
    code = ["import torch", *map(solved, CHAPTERS[CHAPTER])]
    write(folder / "anna" / "week 1" / f"{CHAPTER}.ipynb", *code)
    for copies in (".ipynb_checkpoints", ".originals", "backups"):
        write(folder / "anna" / "week 1" / copies / f"{CHAPTER}.ipynb", *code)
    write(folder / f"{CHAPTER}-陈.ipynb", f"def my_{NAMES[0]}(*given):\n    raise NotImplementedError")
    (folder / "bo").mkdir()
    (folder / "bo" / f"{CHAPTER}.ipynb").write_text("{")
    return folder


def test_a_folder_of_submissions_becomes_a_table_and_files(handed_in, tmp_path, capsys):
    files = {form: tmp_path / f"results.{form}" for form in ("csv", "json", "junit")}
    options = [each for form, path in files.items() for each in (f"--{form}", str(path))]
    assert main(["course", "collect", str(handed_in), *options]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows[:-1]] == ["陈", "anna", "bo"]
    assert rows[1].count("✔") == len(NAMES)
    assert rows[0].count("·") == 1
    assert "is no notebook: JSONDecodeError" in rows[2]

    table = list(csv.DictReader(files["csv"].open(encoding="utf-8-sig")))
    assert [row["learner"] for row in table] == ["陈"] * len(NAMES) + ["anna"] * len(NAMES) + ["bo"]
    assert {row["state"] for row in table if row["learner"] == "anna"} == {"right"}
    assert [each["learner"] for each in json.loads(files["json"].read_text("utf-8"))] == ["陈", "anna", "bo"]
    report = ElementTree.parse(files["junit"]).getroot()
    assert len(report.findall(".//testcase")) == 2 * len(NAMES) + 1
    assert len(report.findall(".//skipped")) == 1
    assert len(report.findall(".//error")) == 1


def test_a_folder_without_notebooks_is_refused(tmp_path):
    with pytest.raises(ValueError, match="there are no notebooks in"):
        next(collect(tmp_path))
    with pytest.raises(ValueError, match="there is no folder"):
        next(collect(tmp_path / "nowhere"))
