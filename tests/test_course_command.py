"""``python -m folovllm course``: the instructor's edition solves every exercise; a reset loses nothing."""

import gettext
import html
import itertools
import json
import re
import shutil
import subprocess
import textwrap
from pathlib import Path

import nbformat
import pytest

from folovllm import language
from folovllm.__main__ import main
from folovllm.course.editions import slides
from folovllm.course.editions.instructor import notes_on
from folovllm.course.editions.minutes import total_minutes
from folovllm.course.exercises.checks import EXERCISES, check
from folovllm.course.exercises.patterns.classes import CLASSES
from tests.test_course_exercises import NAMESPACE


@pytest.fixture(scope="module")
def edition(tmp_path_factory):
    folder = tmp_path_factory.mktemp("edition") / "new"
    assert main(["course", "instructor", "--output", str(folder)]) == 0
    return folder


def code_of(path):
    return ["".join(cell["source"]) for cell in json.loads(path.read_text("utf-8"))["cells"] if "outputs" in cell]


def test_the_edition_has_every_notebook_and_all_are_valid(edition):
    names = sorted(path.name for path in Path("notebooks").glob("*.ipynb"))
    assert sorted(path.name for path in edition.iterdir()) == names
    for name in names:
        nbformat.validate(nbformat.read(edition / name, as_version=4))


def test_no_stub_is_left_and_every_check_of_the_edition_passes(edition, capsys):
    code = [cell for path in sorted(edition.iterdir()) for cell in code_of(path)]
    assert not any("NotImplementedError" in cell for cell in code)
    namespace = NAMESPACE | {"check": check}
    answers = [f"def my_{exercise.name}(" for exercise in EXERCISES]
    for cell in code:
        if cell.startswith(tuple(answers)) or re.search(r'^check\("', cell, re.MULTILINE):
            exec(cell, namespace)
    said = capsys.readouterr().out.splitlines()
    assert said == [f"{each.name}: ✔ right, on all {len(each.all_cases)} inputs" for each in EXERCISES]


def test_the_edition_is_otherwise_the_learners_notebook_with_the_mistakes_named(edition):
    for path in edition.iterdir():
        original = json.loads((Path("notebooks") / path.name).read_text("utf-8"))["cells"]
        cells = json.loads(path.read_text("utf-8"))["cells"]
        kept = {cell["id"]: "".join(cell["source"]) for cell in cells if not cell["id"].endswith("-notes")}
        assert list(kept) == [cell["id"] for cell in original]
        for cell in original:
            source = "".join(cell["source"])
            untimed = re.sub(r"\n\n\*\d:\d\d, \d+ min\*\n", "\n", kept[cell["id"]], count=1)
            assert untimed.strip() == source or "NotImplementedError" in source
    notes = "\n".join("".join(cell["source"]) for cell in cells_with_notes(edition))
    assert all(mistake.diagnosis in notes for exercise in EXERCISES for mistake in exercise.mistakes)


def test_the_times_in_the_edition_go_on_from_section_to_section(edition):
    cells = json.loads((edition / "02_sampling.ipynb").read_text("utf-8"))["cells"]
    lines = [line for cell in cells for line in "".join(cell["source"]).split("\n")]
    times = [re.fullmatch(r"\*(\d):(\d\d), (\d+) min\*", line) for line in lines]
    starts = [(60 * int(found[1]) + int(found[2]), int(found[3])) for found in times if found]
    assert starts[0][0] == 0
    assert all(start + minutes == following for (start, minutes), (following, _) in itertools.pairwise(starts))
    assert sum(starts[-1]) == total_minutes(cells_of("02_sampling"))


def test_the_classes_of_the_capstone_are_solved_as_their_hints_say(edition):
    text = "\n".join("".join(cell["source"]) for cell in cells_of("06_patterns_and_next"))
    for name, code in CLASSES.items():
        [cell] = [cell for cell in code_of(edition / "06_patterns_and_next.ipynb") if f"class {name}(" in cell]
        assert textwrap.indent(code, "        ") in cell
        assert html.escape(code, quote=False) in text


def cells_of(notebook):
    return json.loads(Path(f"notebooks/{notebook}.ipynb").read_text("utf-8"))["cells"]


def cells_with_notes(edition):
    every = (cell for path in edition.iterdir() for cell in json.loads(path.read_text("utf-8"))["cells"])
    return [cell for cell in every if cell["id"].endswith("-notes")]


def test_the_edition_never_overwrites_the_learners_notebooks(tmp_path, capsys):
    (tmp_path / "02_x.ipynb").write_text("{}")
    assert main(["course", "--notebooks", str(tmp_path), "instructor", "--output", str(tmp_path)]) == 2
    assert "output must be another folder" in capsys.readouterr().err
    assert (tmp_path / "02_x.ipynb").read_text() == "{}"


def solved_copy(folder):
    """A folder with one notebook, in which one exercise is answered."""
    notebook = json.loads(Path("notebooks/06_patterns_and_next.ipynb").read_text("utf-8"))
    [stub] = [cell for cell in notebook["cells"] if "def my_epsilon(" in "".join(cell["source"])]
    stub["source"] = "".join(stub["source"]).replace("raise NotImplementedError", "return 0  # mine")
    folder.mkdir()
    (folder / "06_patterns_and_next.ipynb").write_text(json.dumps(notebook), "utf-8")
    return folder


def test_the_edition_is_not_made_from_answers(tmp_path, capsys):
    notebooks = solved_copy(tmp_path / "mine")
    assert main(["course", "--notebooks", str(notebooks), "instructor", "--output", str(tmp_path / "new")]) == 2
    said = capsys.readouterr().err
    assert re.search(r"06_patterns_and_next\.ipynb has answers in it \(my_epsilon\).*course reset 06", said)
    assert not (tmp_path / "new").exists()


def test_slides_of_an_answered_notebook_keep_the_notes(tmp_path):
    cells = json.loads((solved_copy(tmp_path / "mine") / "06_patterns_and_next.ipynb").read_text("utf-8"))["cells"]
    [answered] = [cell for cell in cells if "def my_epsilon(" in "".join(cell["source"])]
    assert "What people write instead" in notes_on(answered)


class Marked(gettext.NullTranslations):
    """A language in which every sentence begins with a mark."""

    def gettext(self, message):
        return f"~{message}"


def test_notes_for_instructors_are_in_the_language_that_is_spoken(monkeypatch):
    monkeypatch.setattr(language, "_sentences", lambda name: Marked())
    notebooks = [json.loads(path.read_text("utf-8")) for path in Path("notebooks").glob("*.ipynb")]
    notes = [text for notebook in notebooks for cell in notebook["cells"] if (text := notes_on(cell))]
    lines = [line for text in notes for line in text.partition("```")[0].splitlines() if line]
    assert len(lines) > 100
    assert [line for line in lines if not line.removeprefix("* ").startswith("~")] == []
    assert not any("(task: " in line and "(task: ~" not in line for line in lines)
    assert all("✔ ~" in line or "✘ ~" in line for line in lines if "✔" in line or "✘" in line)


@pytest.mark.parametrize(("spoken", "of", "written"), [("zh", "notebooks", "en"), ("en", "notebooks/zh", "zh")])
def test_an_edition_is_in_the_language_of_its_notebooks_whatever_is_spoken(spoken, of, written, tmp_path, monkeypatch):
    monkeypatch.setenv("FOLOVLLM_LANG", spoken)
    folder, edition, pages = tmp_path / "mine", tmp_path / "edition", tmp_path / "pages"
    folder.mkdir()
    shutil.copy(Path(of, "01_config.ipynb"), folder)
    (pages / "reveal").mkdir(parents=True)  # so that it need not be downloaded
    assert main(["course", "--notebooks", str(folder), "instructor", "--output", str(edition)]) == 0
    assert main(["course", "--notebooks", str(folder), "slides", "--output", str(pages)]) == 0
    cells = json.loads((edition / "01_config.ipynb").read_text("utf-8"))["cells"]
    page = (pages / "01_config.html").read_text("utf-8")
    noted = [cell["source"] for cell in cells if cell["id"].endswith("-notes")]
    spoken_of = re.findall(r'<aside class="notes">(.*?)</aside>', page, re.DOTALL)
    assert len(noted) > 5
    assert len(spoken_of) > len(noted)
    for note in noted + spoken_of:
        assert bool(re.search("[\u4e00-\u9fff]", note)) == (written == "zh"), note
    assert f'<html lang="{written}"' in page


@pytest.mark.parametrize("command", ["instructor", "slides"])
@pytest.mark.parametrize("content", ['{"cells": []}\n{}', "[]", '{"cells": [{}]}', ""])
def test_a_file_that_is_no_notebook_is_named(tmp_path, capsys, command, content, monkeypatch):
    monkeypatch.setattr(slides, "obtain_reveal", lambda folder: None)
    (tmp_path / "02_x.ipynb").write_text(content)
    assert main(["course", "--notebooks", str(tmp_path), command, "--output", str(tmp_path / "new")]) == 2
    assert "02_x.ipynb is no notebook" in capsys.readouterr().err


def test_a_folder_without_notebooks_is_an_error(tmp_path, capsys):
    assert main(["course", "--notebooks", str(tmp_path), "instructor", "--output", str(tmp_path / "new")]) == 2
    assert "there are no notebooks in" in capsys.readouterr().err


@pytest.fixture
def checkout(tmp_path):
    notebooks = tmp_path / "checkout" / "notebooks"
    notebooks.mkdir(parents=True)
    (notebooks / "02_sampling.ipynb").write_bytes(b"the original \xe2\x9c\x94\n")
    identity = ["-c", "user.name=Tester", "-c", "user.email=tester@example.org"]
    for command in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-q", "-m", "notebooks"]):
        subprocess.run(["git", "-C", str(notebooks.parent), *command], check=True)
    return notebooks


def reset(notebooks, chapter="02", *options):
    return main(["course", "--notebooks", str(notebooks), "reset", chapter, *options])


def test_a_reset_restores_the_original_and_keeps_every_version_of_the_learner(checkout, capsys):
    notebook, backups = checkout / "02_sampling.ipynb", checkout.parent / "backups"
    original = notebook.read_bytes()
    for count, mine in enumerate((b"first", b"second"), start=1):
        notebook.write_bytes(mine)
        assert reset(checkout) == 0
        assert notebook.read_bytes() == original
        assert (backups / f"02_sampling-{count}.ipynb").read_bytes() == mine
    assert "your version: " in capsys.readouterr().out
    assert len(list(backups.iterdir())) == 2


def test_an_untouched_notebook_is_left_alone_and_a_deleted_one_comes_back(checkout, capsys):
    assert reset(checkout) == 0
    assert "02_sampling.ipynb is as in HEAD already; if your answers are committed" in capsys.readouterr().out
    (checkout / "02_sampling.ipynb").unlink()
    assert reset(checkout) == 0
    assert (checkout / "02_sampling.ipynb").read_bytes().startswith(b"the original")
    assert not (checkout.parent / "backups").exists()


def test_a_second_notebook_of_a_chapter_is_reset_by_its_letter(checkout):
    second = checkout / "02b_more.ipynb"
    second.write_bytes(b"the original of 02b")
    identity = ["-c", "user.name=Tester", "-c", "user.email=tester@example.org"]
    for command in (["add", "-A"], [*identity, "commit", "-q", "-m", "more"]):
        subprocess.run(["git", "-C", str(checkout.parent), *command], check=True)
    for notebook in checkout.iterdir():
        notebook.write_bytes(b"mine")
    assert reset(checkout, "02b") == 0
    assert second.read_bytes() == b"the original of 02b"
    assert (checkout / "02_sampling.ipynb").read_bytes() == b"mine"
    assert reset(checkout, "02") == 0
    assert (checkout / "02_sampling.ipynb").read_bytes().startswith(b"the original")


def test_an_unknown_chapter_or_revision_is_refused_and_nothing_is_touched(checkout, capsys):
    (checkout / "02_sampling.ipynb").write_bytes(b"mine")
    assert reset(checkout, "07") == 2
    assert "chapter must be one of 02, got '07'" in capsys.readouterr().err
    assert reset(checkout, "02", "--revision", "nowhere") == 2
    assert (checkout / "02_sampling.ipynb").read_bytes() == b"mine"


def test_a_folder_inside_another_repository_is_told_that_git_does_not_know_it(checkout, capsys):
    """As where a ZIP was unpacked into somebody's own repository."""
    other = checkout.parent / "unpacked"
    shutil.copytree(checkout, other)
    assert main(["course", "--notebooks", str(other), "reset", "02"]) == 2
    assert "git knows no notebooks in" in capsys.readouterr().err


def test_without_git_the_message_says_what_to_do(checkout, monkeypatch, capsys):
    (checkout / "02_sampling.ipynb").write_bytes(b"mine")
    shutil.rmtree(checkout.parent / ".git")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(checkout.parent.parent))
    assert reset(checkout) == 2
    assert "download the course again" in capsys.readouterr().err
    monkeypatch.setenv("PATH", "")
    assert reset(checkout) == 2
    assert "git is not installed" in capsys.readouterr().err
    assert (checkout / "02_sampling.ipynb").read_bytes() == b"mine"
