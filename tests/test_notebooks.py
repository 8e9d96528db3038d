"""What every committed notebook must be, so that nbval's comparison means something and a reader finds their way."""

import html
import itertools
import json
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from nbconvert import HTMLExporter

import folovllm.course.public
from folovllm.course.editions.minutes import CHARACTERS_PER_WORD, section_minutes, total_minutes, words_in

NOTEBOOKS = sorted(Path("notebooks").glob("*.ipynb"))
IN_CHINESE = sorted(Path("notebooks/zh").glob("*.ipynb"))
"""Made from the English ones, so what these have in their words need not be asked of them: ``test_translations``."""
TITLES = {
    "1": "配置系统设计",
    "2": "采样参数原理",
    "3": "请求和序列抽象",
    "4": "模型加载机制",
    "5": "数据流设计",
    "6": "关键设计模式",
}
"""The notes' chapters, whose home is the notebook of the same number, or two: 04 and 04b."""
SECTIONS = {
    "01_config": ("1.1", "1.2", "1.3 a", "1.3 b", "1.3 c", "1.4", "6.1"),
    "02_sampling": ("2.1", "2.2 a", "2.2 b", "2.2 c", "2.2 d", "2.2 e", "2.3", "2.4", "6.2"),
    "03_sequences": ("3.1", "3.2", "3.3", "3.4", "3.5", "6.4"),
    "04_loading": ("4.1", "4.2", "4.4", "6.3"),
    "04b_numbers": ("4.3",),
    "05_data_flow": ("5.1", "5.2", "5.3"),
    "06_patterns_and_next": ("6.1", "6.2", "6.3", "6.4", "7.1", "7.2", "8", "9"),
}
"""The notes' sections, and the notebook that is the home of each."""
WIDGETS = [name for name, what in vars(folovllm.course.public).items() if isinstance(what, type)]


def cells(path: Path, kind: str) -> list[dict[str, Any]]:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def test_there_are_notebooks():
    assert NOTEBOOKS


EACH = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
IN_BOTH_LANGUAGES = pytest.mark.parametrize(
    "path", NOTEBOOKS + IN_CHINESE, ids=lambda path: path.relative_to("notebooks").with_suffix("").as_posix()
)


@IN_BOTH_LANGUAGES
def test_every_code_cell_was_run_in_order(path):
    counts = [cell["execution_count"] for cell in cells(path, "code")]
    assert counts == list(range(1, len(counts) + 1))


@IN_BOTH_LANGUAGES
def test_the_metadata_holds_the_kernel_and_nothing_else(path):
    metadata = json.loads(path.read_text(encoding="utf-8"))["metadata"]
    assert metadata["kernelspec"]["name"] == "python3"
    assert set(metadata) == {"kernelspec", "language_info"}


@IN_BOTH_LANGUAGES
def test_outputs_hold_no_error_no_stderr_and_no_path(path):
    for cell in cells(path, "code"):
        for output in cell["outputs"]:
            assert output["output_type"] != "error"
            assert output.get("name") != "stderr"
            text = json.dumps({k: v for k, v in output.get("data", {}).items() if k != "image/png"})
            assert not re.search(r"/(home|root|tmp|Users|work)/", "".join(output.get("text", "")) + text)


@IN_BOTH_LANGUAGES
def test_at_most_one_cell_in_ten_is_not_compared_and_none_is_long(path):
    code = cells(path, "code")
    ignored = [cell for cell in code if cell["metadata"].get("tags")]
    assert all(cell["metadata"]["tags"] == ["nbval-ignore-output"] for cell in ignored)
    assert len(ignored) * 10 <= len(code)
    assert all(source(cell).count("\n") < 15 for cell in code)
    assert all(len(line) <= 84 for cell in code for line in source(cell).splitlines())  # what a page shows
    assert not any("!pip" in source(cell) or "sys.path" in source(cell) for cell in code)


@EACH
def test_the_opening_says_what_for_what_with_and_how_long(path):
    opening = source(cells(path, "markdown")[0])
    assert opening.startswith(f"# {path.stem.partition('_')[0]} · ")
    assert "**After this notebook you can**" in opening
    assert 3 <= len(re.findall(r"^\d\. ", opening, re.M)) <= 5
    assert "| you need | minutes | runs |" in opening
    assert "offline, on CPU or GPU" in opening


@EACH
def test_the_end_compares_with_vllm_and_asks_five_questions(path):
    text = "\n".join(map(source, cells(path, "markdown")))
    assert "## In vLLM" in text
    assert len(re.findall(r"<details><summary>\d\. ", text.split("## Five questions")[1])) == 5


@IN_BOTH_LANGUAGES
def test_every_picture_is_read_in_words(path):
    every = json.loads(path.read_text(encoding="utf-8"))["cells"]
    for cell, following in itertools.pairwise(every):
        pictures = [o for o in cell.get("outputs", []) if {"image/png"} <= set(o.get("data", {}))]
        for picture in pictures:
            assert source(following).startswith(("**Reading.**", "*Without", "**解读。**", "*没有"))
            assert picture["metadata"]["image/png"]["alt"]


def test_every_chapter_of_the_notes_has_its_home():
    assert {str(int(path.stem[:2])) for path in NOTEBOOKS} == {"0", *TITLES}
    for path in NOTEBOOKS:
        number = str(int(path.stem[:2]))
        if number in TITLES:
            assert TITLES[number] in source(cells(path, "markdown")[0])
    start = "\n".join(map(source, cells(Path("notebooks/00_start_here.ipynb"), "markdown")))
    assert all(title in start for title in TITLES.values())


@pytest.mark.parametrize("chapter", SECTIONS)
def test_every_section_of_the_notes_has_one_heading(chapter):
    text = "\n".join(map(source, cells(Path(f"notebooks/{chapter}.ipynb"), "markdown")))
    headings = re.findall(r"^## .*$", text, re.M)
    for section in SECTIONS[chapter]:
        assert sum(bool(re.search(rf"[(,] ?{section}\b", heading)) for heading in headings) == 1


@EACH
def test_the_opening_promises_the_minutes_that_are_computed(path):
    every = json.loads(path.read_text(encoding="utf-8"))["cells"]
    promised = int(re.search(r"^\| .* \| (\d+) \| offline", source(every[0]), re.M)[1])
    assert promised == total_minutes(every) == sum(minutes or 0 for minutes in section_minutes(every))
    assert 30 <= promised <= 60 or (path.stem == "00_start_here" and promised <= 20)


@pytest.mark.parametrize("path", IN_CHINESE, ids=lambda path: path.stem)
def test_a_chinese_notebook_takes_as_long_as_the_english_one(path):
    english, chinese = (json.loads(each.read_text("utf-8"))["cells"] for each in (Path("notebooks", path.name), path))
    assert abs(total_minutes(chinese) - total_minutes(english)) <= 5, "a step of the rounding, at most"


def test_chinese_is_counted_in_english_words():
    assert words_in("The scheduler (调度器) takes `n` tokens.") == 6
    assert words_in("**调度器**（scheduler）取 `n` 个 token，再停。") == pytest.approx(
        7 / CHARACTERS_PER_WORD + 5, abs=1
    )


@EACH
def test_the_engine_runs_within_the_first_cells(path):
    early = json.loads(path.read_text(encoding="utf-8"))["cells"][:12]
    code = [cell for cell in early if cell["cell_type"] == "code"]
    assert any("LLM(" in source(cell) or "llm." in source(cell) for cell in code[:5])


@EACH
def test_whoever_argues_with_the_notes_quotes_them(path):
    if path.stem == "00_start_here":
        return
    for cell in cells(path, "markdown"):
        if re.search(r"\b[Tt]he notes\b(?! (?:on|in) vLLM)", re.sub(r"^\|.*$", "", source(cell), flags=re.M)):
            assert re.search("[\u4e00-\u9fff]", source(cell))


@IN_BOTH_LANGUAGES
def test_folded_parts_hold_no_markdown_which_would_not_be_rendered(path):
    text = "\n".join(map(source, cells(path, "markdown")))
    assert not re.search(r"<details>[^\n]*`", text)


@IN_BOTH_LANGUAGES
def test_links_and_anchors_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", "\n".join(map(source, cells(path, "markdown")))):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        linked = path.parent / file if file else path
        assert linked.is_file()
        if anchor:
            headings = re.findall(r"^#+ (.*)$", "\n".join(map(source, cells(linked, "markdown"))), re.M)
            assert anchor in [heading.replace(" ", "-") for heading in headings]


@IN_BOTH_LANGUAGES
def test_without_a_kernel_every_picture_and_every_widget_is_there_with_its_words(path):
    page, _ = HTMLExporter(template_name="classic").from_filename(str(path))  # the one that keeps alt texts
    images = re.findall(r"<img[^>]*>", page)
    expected = [o for cell in cells(path, "code") for o in cell["outputs"] if "image/png" in o.get("data", {})]
    assert len(images) == len(expected)
    for image, output in zip(images, expected, strict=True):
        assert output["metadata"]["image/png"]["alt"].splitlines()[0] in html.unescape(image)
    default, _ = HTMLExporter().from_filename(str(path))
    assert len(re.findall(r"<img[^>]*>", default)) == len(expected)


@IN_BOTH_LANGUAGES
def test_a_static_figure_of_the_same_idea_follows_every_widget(path):
    code = cells(path, "code")
    widget = rf"^(?:\w+ = )?(?:{'|'.join(WIDGETS)})\("
    shown = [i for i, cell in enumerate(code) if re.search(widget, source(cell), re.M)]
    assert shown or path.stem == "06_patterns_and_next"
    for i in shown:
        assert any(
            "image/png" in output.get("data", {}) and "widget" not in json.dumps(list(output["data"]))
            for cell in code[i + 1 : i + 3]
            for output in cell["outputs"]
        )


def test_the_course_exports_what_it_imports_and_nothing_that_no_notebook_uses():
    used = "\n".join(source(cell) for path in NOTEBOOKS for cell in cells(path, "code"))
    assert [name for name in folovllm.course.__all__ if not hasattr(folovllm.course, name)] == []
    modules = {each.name for each in pkgutil.iter_modules(folovllm.course.__path__)}
    assert modules & set(folovllm.course.__all__) == set(), "once the module is imported, it hides what has its name"
    assert [name for name in folovllm.course.__all__ if not re.search(rf"\b{name}\b", used)] == []


def test_mypy_says_of_a_cell_what_the_notebook_quotes(tmp_path):
    """Whoever imports the package gets its types: ``py.typed`` goes with it."""
    notebook = json.loads(Path("notebooks/06_patterns_and_next.ipynb").read_text(encoding="utf-8"))
    sources = {cell["id"]: source(cell) for cell in notebook["cells"]}
    code, told = sources["patterns-hint-ignored"], sources["patterns-hints-said"]
    script = tmp_path / "cell.py"
    script.write_text(f"from folovllm import SamplingParams\n\n{code}\n", encoding="utf-8")
    run = subprocess.run([sys.executable, "-m", "mypy", str(script)], capture_output=True, text=True, check=False)
    found = re.findall(r"(error: .*?)  \[", run.stdout)
    assert found == re.findall(r"^    (error: .*)$", told, re.MULTILINE)
    assert len(found) == 2
