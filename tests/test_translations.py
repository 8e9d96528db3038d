"""The Chinese course says what the English one says now: nothing is missing, older, or changed on the way.

A chapter is released once its notebook is in ``notebooks/zh``; then its catalog must be complete, and the notebook must
be what ``course translate`` makes of both. A catalog that is still being filled is held to the rules as far as it goes.
"""

import json
import shutil
from pathlib import Path

import nbformat
import pytest

from folovllm.__main__ import main
from folovllm.course.editions.translate import read_catalog, translate_notebooks, unfinished
from tests.translation_rules import RULES, problems

CATALOGS = Path("translations/zh_CN")
CHAPTERS = sorted(path.stem for path in Path("notebooks").glob("*.ipynb"))
RELEASED = sorted(path.stem for path in Path("notebooks/zh").glob("*.ipynb"))
BEING_TRANSLATED = {
    "01_config",
    "02_sampling",
    "03_sequences",
    "04_loading",
    "04b_numbers",
    "05_data_flow",
    "06_patterns_and_next",
}


def catalog_of(chapter):
    return read_catalog(CATALOGS / f"{chapter}.po")


def places(message):
    return ", ".join(place for place, _ in message.locations)


def test_every_chapter_is_there_in_chinese_or_is_being_translated():
    assert set(CHAPTERS) - set(RELEASED) <= BEING_TRANSLATED
    assert set(RELEASED) <= set(CHAPTERS)


# -- the released chapters --------------------------------------------------------------------------------------


def copy_of(chapter, folder):
    """Copy a chapter, its catalog and its Chinese notebook; return the folders of notebooks and catalogs."""
    notebooks, catalogs = folder / "notebooks", folder / "translations"
    for file in (Path(f"notebooks/{chapter}.ipynb"), Path(f"notebooks/zh/{chapter}.ipynb")):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, folder / file)
    catalogs.mkdir()
    shutil.copy(CATALOGS / f"{chapter}.po", catalogs)
    return notebooks, catalogs


def out_of_date(chapter, notebooks, catalogs):
    """Translate a copy of a chapter; return its paragraphs whose words are missing or old, else what else is old."""
    files = [notebooks / "zh" / f"{chapter}.ipynb", catalogs / f"{chapter}.po"]
    before = [file.read_bytes() for file in files]
    translate_notebooks(notebooks, catalogs)
    catalog = read_catalog(files[1])
    missing, fuzzy = unfinished(catalog)
    named = [f"{places(message)}: not translated: {message.id}" for message in missing]
    named += [f"{places(message)}: translated when it said something else: {message.id}" for message in fuzzy]
    old = [file.name for file, was in zip(files, before, strict=True) if file.read_bytes() != was]
    return named or old


@pytest.mark.parametrize("chapter", RELEASED)
def test_the_chinese_chapter_says_what_the_english_one_says_now(chapter, tmp_path):
    assert out_of_date(chapter, *copy_of(chapter, tmp_path)) == [], "run: python -m folovllm course translate"


@pytest.mark.parametrize("chapter", RELEASED)
def test_code_and_cells_are_those_of_the_english_chapter(chapter):
    english, chinese = (json.loads(Path(f"notebooks/{folder}{chapter}.ipynb").read_text()) for folder in ("", "zh/"))
    assert [cell["id"] for cell in chinese["cells"]] == [cell["id"] for cell in english["cells"]]
    differing = []
    for one, other in zip(english["cells"], chinese["cells"], strict=True):
        assert one["metadata"] == other["metadata"]
        if one["cell_type"] == "code":
            pairs = zip(one["source"], other["source"], strict=True)
            differing += [tuple(map(str.strip, pair)) for pair in pairs if pair[0] != pair[1]]
    assert differing == [('use_language("en")', 'use_language("zh")')]


# -- every message ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_message_keeps_code_links_numbers_and_the_words_of_the_glossary(chapter):
    done = [message for message in catalog_of(chapter) if message.id and message.string and not message.fuzzy]
    found = [
        f"{places(message)}: {problem}\n  {message.id}\n  {message.string}"
        for message in done
        for problem in problems(message.id, message.string)
    ]
    assert found == [], "\n".join(found)


def test_the_same_words_are_translated_the_same_way_everywhere():
    seen = {}
    for chapter in CHAPTERS:
        for message in catalog_of(chapter):
            if message.id and message.string:
                seen.setdefault(message.id, {}).setdefault(message.string, []).append(chapter)
    assert {english: forms for english, forms in seen.items() if len(forms) > 1} == {}


# -- the rules themselves ---------------------------------------------------------------------------------------

GOOD = [
    ("The **scheduler** takes `n` tokens.", "**调度器**（scheduler）取 `n` 个 token。"),
    ("It has 135 million **parameters (参数)**.", "它有 1.35 亿个**参数**（parameters）。"),
    ("Nineteen blocks are enough, Bo has 13.", "19 个块就够了，Bo 有 13 个。"),
    ('The notes write 「默认值（2048）」 *"default (2048)"*.', "笔记写的是「默认值（2048）」。"),
    ('The notes: 「Random sampling」 *"chance"*.', "笔记：「Random sampling」。"),
    ("Three groups (the notes say layers, 层次; not the model's).", "三组（笔记称为“层次”；不是模型的层）。"),
    ('A line break is likelier than " The".', '换行比 " The" 更可能。'),
    ("| [vLLM](https://x.org/a) | 0.33 |", "| [vLLM](https://x.org/a) | 0.33 |"),
    ("<code>a &gt; b</code> is *true*.", "<code>a &gt; b</code> 为真。"),
]
BAD = [
    ("Call `check`.", "调用 `chek`。", "code"),
    ("Call <code>a</code>.", "调用它。", "code"),
    ("The notes: 「默认值（2048）」.", "笔记：默认值是 2048。", "Chinese"),
    ("{n} things", "{m} 个", "placeholder"),
    ("See [here](https://x.org).", "见[这里](https://y.org)。", "link"),
    ("It has 12 words.", "它有 13 个字。", "number"),
    ("It has words.", "它有 2 个字。", "number added"),
    ("The **first**, then.", "**第一（先）**个。", "*"),
    ("The **first** one.", "第一个。", "bold"),
    ("| a | b |", "| 甲 乙 |", "bars"),
    ("<summary>Why</summary>", "为什么", "HTML"),
    ("One thing.", "一件\n\n事。", "paragraph"),
    ("It is simply finished.", "它 simply 完成了。", "simply"),
    ("The scheduler waits.", "排程器在等。", "调度器"),
    ("A token waits.", "一个 token 令牌在等。", "令牌"),
    ("**Reading.** It is so.", "**阅读。** 是这样。", "begin"),
]


@pytest.mark.parametrize(("english", "chinese"), GOOD)
def test_a_translation_as_it_should_be_breaks_no_rule(english, chinese):
    assert problems(english, chinese) == []


@pytest.mark.parametrize(("english", "chinese", "named"), BAD)
def test_what_was_lost_or_changed_on_the_way_is_named(english, chinese, named):
    assert any(named in problem for problem in problems(english, chinese))


def test_every_rule_is_broken_by_an_example():
    broken = {rule.__name__ for rule in RULES for english, chinese, _ in BAD if list(rule(english, chinese))}
    assert broken == {rule.__name__ for rule in RULES}


# -- the command ------------------------------------------------------------------------------------------------


def change(notebook, old, new):
    text = notebook.read_text(encoding="utf-8")
    assert text.count(old) == 1
    notebook.write_text(text.replace(old, new), encoding="utf-8")


def test_one_changed_english_sentence_is_one_finding_that_names_its_cell(tmp_path):
    notebooks, catalogs = copy_of("00_start_here", tmp_path)
    change(
        notebooks / "00_start_here.ipynb", "Mei has her sentence, well before lunch", "Mei has her sentence before ten"
    )
    [finding] = out_of_date("00_start_here", notebooks, catalogs)
    assert finding.startswith("start-over-2: translated when it said something else: Mei has her sentence before ten")


def test_a_new_paragraph_is_one_finding_that_names_its_cell(tmp_path):
    notebooks, catalogs = copy_of("00_start_here", tmp_path)
    change(
        notebooks / "00_start_here.ipynb",
        "Mei has her sentence",
        r"What follows, nobody foresaw.\n\nMei has her sentence",
    )
    [finding] = out_of_date("00_start_here", notebooks, catalogs)
    assert finding == "start-over-2: not translated: What follows, nobody foresaw."


def test_changed_code_is_found(tmp_path):
    notebooks, catalogs = copy_of("00_start_here", tmp_path)
    change(notebooks / "00_start_here.ipynb", "# your welcome", "# your own welcome")
    assert out_of_date("00_start_here", notebooks, catalogs) == ["00_start_here.ipynb"]


def test_outputs_stay_where_the_code_is_the_same(tmp_path):
    notebooks, catalogs = copy_of("00_start_here", tmp_path)
    file = notebooks / "zh" / "00_start_here.ipynb"
    before = {cell.id: cell for cell in nbformat.read(file, as_version=4).cells}
    change(notebooks / "00_start_here.ipynb", "# your welcome", "# your own welcome")
    translate_notebooks(notebooks, catalogs)
    after = {cell.id: cell for cell in nbformat.read(file, as_version=4).cells if cell.cell_type == "code"}
    changed = after.pop("start-your-welcome")
    assert (changed.outputs, changed.execution_count) == ([], None)
    assert all(cell.outputs == before[name].outputs for name, cell in after.items())
    assert sum(bool(cell.outputs) for cell in after.values()) > 10


def test_a_chapter_whose_catalog_is_not_complete_is_not_written(tmp_path, capsys):
    (tmp_path / "notebooks").mkdir()
    shutil.copy("notebooks/00_start_here.ipynb", tmp_path / "notebooks")
    assert main(["course", "--notebooks", str(tmp_path / "notebooks"), "translate"]) == 0
    assert "74 to translate, 0 to look at again; no notebook yet" in capsys.readouterr().out
    assert list((tmp_path / "notebooks" / "zh").iterdir()) == []


def test_a_folder_without_notebooks_is_an_error(tmp_path, capsys):
    assert main(["course", "--notebooks", str(tmp_path), "translate"]) == 2
    assert "there are no notebooks in" in capsys.readouterr().err
