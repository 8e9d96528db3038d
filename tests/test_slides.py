"""Slides: every cell is on one, by rule; nothing comes from the network; nothing is cut off."""

import json
import re
import zipfile
from pathlib import Path

import pytest

from folovllm.__main__ import main
from folovllm.course.editions import slides
from folovllm.course.editions.minutes import is_heading
from folovllm.course.exercises.checks import EXERCISES
from tests.lab_in_browser import PATIENCE, open_browser

NOTEBOOKS = sorted(Path("notebooks").glob("*.ipynb"))
TYPES = {"slide", "subslide", "fragment", "-", "skip", "notes"}


def cells_of(path: Path) -> list[dict]:
    return json.loads(path.read_text("utf-8"))["cells"]


def slide_type(cell: dict) -> str:
    return cell["metadata"]["slideshow"]["slide_type"]


def make(kind: str, source: str, printed: str = "") -> dict:
    cell = {"id": source, "cell_type": kind, "source": source, "metadata": {}}
    return cell if kind == "markdown" else cell | {"outputs": [printed] if printed else []}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_is_there_once_and_only_what_is_folded_is_skipped(path):
    cells, marked = cells_of(path), slides.slide_cells(cells_of(path))
    own = [cell for cell in marked if slide_type(cell) != "notes"]
    assert [cell["source"] for cell in own] == [cell["source"] for cell in cells]
    assert {slide_type(cell) for cell in marked} <= TYPES
    for cell in own:
        source = "".join(cell["source"])
        heading = cell["cell_type"] == "markdown" and source.startswith("#")
        assert (slide_type(cell) == "slide") == heading
        folded_text = "<details>" in source and not heading
        folded_code = cell["metadata"].get("jupyter", {}).get("source_hidden") and not cell["outputs"]
        assert (slide_type(cell) == "skip") == bool(folded_text or folded_code)


@pytest.mark.parametrize("path", sorted(Path("notebooks/zh").glob("*.ipynb")), ids=lambda path: path.stem)
def test_chinese_slides_have_the_same_steps_and_notes_as_the_english_ones(path):
    english, chinese = (slides.slide_cells(cells_of(each)) for each in (Path("notebooks", path.name), path))
    assert [(cell["id"], slide_type(cell)) for cell in chinese] == [(cell["id"], slide_type(cell)) for cell in english]


def test_a_question_its_code_and_the_reading_are_one_step():
    cells = [
        make("markdown", "## Heading"),
        make("code", "setup"),
        make("code", "answer", printed="1"),
        make("markdown", "**Explain.** It is so."),
        make("markdown", "And now?"),
        make("code", "more", printed="2"),
        make("code", "ask", printed="?"),
        make("code", "and", printed="2") | {"metadata": {"jupyter": {"outputs_hidden": True}}},
        make("code", "most", printed="3"),
        make("markdown", "<details>hint</details>"),
        make("markdown", "## Next"),
        make("code", "first", printed="4"),
    ]
    types = [slide_type(cell) for cell in slides.slide_cells(cells) if slide_type(cell) != "notes"]
    first, asked = ["slide", "-", "-", "fragment", "subslide", "-"], ["subslide", "subslide"]
    assert types == [*first, *asked, "subslide", "skip", "slide", "-"]


def test_the_speaker_sees_when_a_section_begins_and_what_people_write_instead():
    marked = [cell for path in NOTEBOOKS for cell in slides.slide_cells(cells_of(path))]
    notes = "\n".join(cell["source"] for cell in marked if slide_type(cell) == "notes")
    headings = [cell for path in NOTEBOOKS for cell in cells_of(path) if is_heading(cell)]
    assert len(re.findall(r"^\*\d+:\d\d, \d+ min\*$", notes, flags=re.M)) == len(headings)
    for exercise in EXERCISES:
        assert all(mistake.diagnosis in notes for mistake in exercise.mistakes)


def test_a_failed_download_is_one_clear_error_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(slides, "REVEAL_WHEEL", "no-such-package-of-ours==0.0.1")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert main(["course", "slides", "--output", str(tmp_path / "new")]) == 2
    assert "could not be downloaded; pip said" in capsys.readouterr().err
    assert list((tmp_path / "new").iterdir()) == []


def test_a_wheel_that_is_not_the_one_we_know_is_not_used(tmp_path, monkeypatch):
    name, version = slides.REVEAL_WHEEL.split("==")
    info = f"{name.replace('-', '_')}-{version}.dist-info"
    with zipfile.ZipFile(tmp_path / f"{name.replace('-', '_')}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("sphinx_revealjs/_static/revealjs/dist/reveal.js", "alert('not reveal.js')")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(ValueError, match="another SHA-256"):
        slides.obtain_reveal(tmp_path / "reveal")
    assert not (tmp_path / "reveal").exists()


@pytest.mark.browser
@pytest.mark.parametrize(("written", "folder"), [("en", "notebooks"), ("zh", "notebooks/zh")])
def test_every_slide_fits_and_nothing_comes_from_elsewhere(written, folder, tmp_path):
    pages = slides.write_slides(Path(folder), tmp_path)
    assert [page.stem for page in pages] == [path.stem for path in NOTEBOOKS]
    asked, said = set(), []
    with open_browser() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 720})
        page.set_default_timeout(PATIENCE * 1000)
        page.on("request", lambda request: asked.add(request.url.partition(":")[0]))
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        for path in pages:
            page.goto(path.as_uri())
            page.wait_for_function("window.Reveal && Reveal.isReady()")
            assert page.evaluate("[document.documentElement.lang, document.title]") == [written, f"{path.stem} slides"]
            shown = 0
            while True:
                box = page.evaluate(
                    "() => { const s = Reveal.getCurrentSlide(), b = s.getBoundingClientRect();"
                    " return {right: b.right, bottom: b.bottom, scrolls: s.style.overflowY == 'auto'}; }"
                )
                assert box["right"] <= 1281, (path.stem, shown, box)
                assert box["bottom"] <= 721, (path.stem, shown, box)
                assert not box["scrolls"], (path.stem, shown, box)
                shown += 1
                if page.evaluate("Reveal.isLastSlide() && !Reveal.availableFragments().next"):
                    break
                page.evaluate("Reveal.next()")
            assert shown > 10
    assert asked <= {"file", "data"}
    assert said == []
