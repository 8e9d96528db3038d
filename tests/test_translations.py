"""The Chinese course says what the English one says now: nothing is missing, older, or changed on the way.

A chapter is released once its notebook is in ``notebooks/zh``; then its catalog must be complete, and the notebook must
be what ``course translate`` makes of both. A catalog that is still being filled is held to the rules as far as it goes.
"""

import json
import shutil
from pathlib import Path

import nbformat
import pytest
from matplotlib.font_manager import get_font

from folovllm.__main__ import main
from folovllm.course.editions.package_catalog import is_translated, package_template
from folovllm.course.editions.translate import (
    PACKAGE_CATALOGS,
    read_catalog,
    translate_notebooks,
    translate_package,
    unfinished,
)
from folovllm.course.editions.translate_pages import PAGES, translate_pages
from folovllm.course.style import CHINESE_FONT
from tests.translation_rules import RULES, half_width_marks, problems

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
    folder = PACKAGE_CATALOGS if chapter == "folovllm" else CATALOGS
    return read_catalog(folder / f"{chapter}.po")


def places(message):
    return ", ".join(place for place, _ in message.locations)


def pairs(message):
    """Return the English and the Chinese text of a message; Chinese has one form for all numbers, as the plural."""
    return [(message.id[-1], message.string[0])] if message.pluralizable else [(message.id, message.string)]


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
    return found_old(files, lambda: translate_notebooks(notebooks, catalogs))


def found_old(files, translate):
    """Translate; return the messages of the last file, a catalog, that are missing or old, else the files that were."""
    before = [file.read_bytes() for file in files]
    translate()
    missing, fuzzy = unfinished(read_catalog(files[-1]))
    named = [f"{places(message)}: not translated: {message.id}" for message in missing]
    named += [f"{places(message)}: translated when it said something else: {message.id}" for message in fuzzy]
    return named or [file.name for file, was in zip(files, before, strict=True) if file.read_bytes() != was]


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


# -- README and INSTRUCTORS -------------------------------------------------------------------------------------


def page_found_old(page, folder):
    """Translate a page of a folder; return what of it is missing or old."""
    catalogs = folder / CATALOGS
    return found_old([folder / f"{page}.zh.md", catalogs / f"{page}.po"], lambda: translate_pages(folder, catalogs))


@pytest.mark.parametrize("page", PAGES)
def test_the_chinese_page_says_what_the_english_one_says_now(page, tmp_path):
    for file in (Path(f"{page}.md"), Path(f"{page}.zh.md"), CATALOGS / f"{page}.po"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, tmp_path / file)
    assert page_found_old(page, tmp_path) == [], "run: python -m folovllm course translate"


SMALL_PAGE = """English | [简体中文](README.zh.md)

# A small page

See [INSTRUCTORS.md](INSTRUCTORS.md).

```mermaid
flowchart LR
    one["words"] -->|then| two["tokens"]
```

## When it does not work

```sh
make lab    # opens the course
```

Call `make`.
"""
SMALL_PAGE_IN_CHINESE = """[English](README.md) | 简体中文

# 很小的一页

见 [INSTRUCTORS.zh.md](INSTRUCTORS.zh.md)。

```mermaid
flowchart LR
    one["字"] -->|然后| two["词元"]
```

## 遇到问题时

```sh
make lab    # 打开课程
```

调用 `make`。
"""
_SMALL_WORDS = ["字", "然后", "词元", "很小的一页", "见 [INSTRUCTORS.md](INSTRUCTORS.md)。"]
_SMALL_WORDS += ["打开课程", "遇到问题时", "调用 `make`。"]


@pytest.fixture
def small_page(tmp_path):
    """A page that is translated; a function that changes its English returns what is found."""
    english, catalog = tmp_path / "README.md", tmp_path / CATALOGS / "README.po"
    english.write_text(SMALL_PAGE, encoding="utf-8")
    assert translate_pages(tmp_path, catalog.parent) == ["README.po: 8 messages, 8 to translate, 0 to look at again"]
    words = catalog.read_text(encoding="utf-8")
    for chinese in _SMALL_WORDS:
        words = words.replace('msgstr ""', f'msgstr "{chinese}"', 1)
    catalog.write_text(words, encoding="utf-8")
    assert translate_pages(tmp_path, catalog.parent) == ["README.po: 8 messages, complete"]

    def found(old="", new=""):
        english.write_text(SMALL_PAGE.replace(old, new, 1), encoding="utf-8")
        return page_found_old("README", tmp_path)

    found.chinese = lambda: (tmp_path / "README.zh.md").read_text(encoding="utf-8")
    return found


def test_a_page_is_written_with_its_labels_comments_and_links_to_chinese_pages(small_page):
    assert small_page.chinese() == SMALL_PAGE_IN_CHINESE
    assert small_page() == []


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("does not work", "does not work well", "when-it-does-not-work-well: translated when it said something else"),
        ("opens the course", "opens the course here", "when-it-does-not-work: translated when it said something else"),
        ("|then|", "|nobody foresaw it|", "a-small-page: not translated: nobody"),
    ],
)
def test_a_changed_sentence_of_a_page_is_one_finding_that_names_its_section(small_page, old, new, named):
    [found] = small_page(old, new)
    assert found.startswith(named)


def test_changed_code_of_a_page_makes_the_chinese_one_old(small_page):
    assert small_page("make lab ", "make book ") == ["README.zh.md"]


@pytest.mark.parametrize("page", PAGES)
def test_pages_lead_to_each_other_and_to_pages_of_their_language(page):
    english, chinese = (Path(f"{page}{end}").read_text(encoding="utf-8") for end in (".md", ".zh.md"))
    assert english.splitlines()[0] == f"English | [简体中文]({page}.zh.md)"
    assert chinese.splitlines()[0] == f"[English]({page}.md) | 简体中文"
    [other] = set(PAGES) - {page}
    assert f"]({other}.md)" in english
    assert f"]({other}.zh.md)" in chinese


# -- the package's own sentences ------------------------------------------------------------------------------------


def test_the_packages_catalog_has_the_sentences_that_the_code_has_now(tmp_path):
    files = [PACKAGE_CATALOGS / name for name in ("folovllm.po", "folovllm.mo")]
    for file in files:
        shutil.copy(file, tmp_path)
    translate_package(tmp_path)
    old = [file.name for file in files if (tmp_path / file.name).read_bytes() != file.read_bytes()]
    assert old == [], "run: python -m folovllm course translate"


def test_the_catalog_holds_what_code_shows_and_what_data_says():
    sentences = [message.id for message in package_template() if message.id]
    assert "Press Generate." in sentences  # an argument
    assert "Anna comes" in sentences
    assert ("{n} token", "{n} tokens") in sentences
    assert "The likeliest token has 0.773. How many tokens does the rule of the notes keep at p = 0.7?" in sentences
    assert any(isinstance(each, str) and each.startswith("you drop the token that crosses p") for each in sentences)


def test_the_font_of_the_figures_has_every_character_of_the_catalog():
    drawn = get_font(CHINESE_FONT).get_charmap()
    said = "".join("".join(message.string or "") for message in read_catalog(PACKAGE_CATALOGS / "folovllm.po"))
    assert {char for char in said if "\u3000" <= char < "\uffef" and ord(char) not in drawn} == set()


# -- every message ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chapter", [*CHAPTERS, *PAGES, "folovllm"])
def test_every_message_keeps_code_links_numbers_and_the_words_of_the_glossary(chapter):
    found = [
        f"{places(message)}: {problem}\n  {english}\n  {chinese}"
        for message in catalog_of(chapter)
        if message.id and is_translated(message) and not message.fuzzy
        for english, chinese in pairs(message)
        for problem in problems(english, chinese)
    ]
    assert found == [], "\n".join(found)


def test_the_same_words_are_translated_the_same_way_everywhere():
    seen = {}
    for chapter in [*CHAPTERS, *PAGES]:
        for message in catalog_of(chapter):
            if message.id and message.string:
                seen.setdefault(message.id, {}).setdefault(message.string, []).append(chapter)
    assert {english: forms for english, forms in seen.items() if len(forms) > 1} == {}


def said_by(chapter):
    """Yield what the code cells of a Chinese chapter have put out, with their ids: lines, and pictures' words."""
    for cell in json.loads(Path(f"notebooks/zh/{chapter}.ipynb").read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", []):
            said = [output.get("text", ""), output.get("data", {}).get("text/plain", "")]
            said += [output.get("metadata", {}).get("image/png", {}).get("alt", "")]
            yield from ((cell["id"], "".join(each)) for each in said)


@pytest.mark.parametrize("chapter", RELEASED)
def test_what_code_puts_between_chinese_words_is_chinese_punctuation(chapter):
    found = [f"{cell}: {mark} in {said}" for cell, said in said_by(chapter) for mark in half_width_marks(said)]
    assert found == [], "\n".join(found)


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
    ("✔ right", "正确", "sign"),
    ("It waits: its blocks moved.", "它在等: 块已搬走。", "half-width"),
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


PARAGRAPHS = ["# 99 · A small chapter", "Mei has her sentence, well before lunch.", "One request.\n\nAnother request."]
IN_CHINESE = ["99 · 很小的一章", "离午饭还早，Mei 就拿到了她的句子。", "一个请求。", "另一个请求。"]


def made_of(paragraphs, code):
    cells = [nbformat.v4.new_markdown_cell(text, id=f"small-{i}") for i, text in enumerate(paragraphs)]
    cells += [nbformat.v4.new_code_cell(text, id=f"code-{i}") for i, text in enumerate(code)]
    return nbformat.v4.new_notebook(cells=cells)


@pytest.fixture
def small(tmp_path):
    """A chapter that is translated and was run; a function that gives it other words or code returns what is found."""
    notebooks, catalogs = tmp_path / "notebooks", tmp_path / "catalogs"
    (notebooks / "zh").mkdir(parents=True)
    code = ['use_language("en")\n1', "2"]

    def found(paragraphs=PARAGRAPHS, code=code):
        nbformat.write(made_of(paragraphs, code), notebooks / "99_small.ipynb")
        return out_of_date("99_small", notebooks, catalogs)

    nbformat.write(made_of(PARAGRAPHS, code), notebooks / "99_small.ipynb")
    assert translate_notebooks(notebooks, catalogs) == [
        "99_small.po: 4 messages, 4 to translate, 0 to look at again; no notebook yet"
    ]
    assert list((notebooks / "zh").iterdir()) == []
    catalog = (catalogs / "99_small.po").read_text()
    for chinese in IN_CHINESE:
        catalog = catalog.replace('msgstr ""', f'msgstr "{chinese}"', 1)
    (catalogs / "99_small.po").write_text(catalog)
    assert translate_notebooks(notebooks, catalogs) == ["99_small.po: 4 messages, complete"]
    written = nbformat.read(notebooks / "zh" / "99_small.ipynb", as_version=4)
    for count, cell in enumerate(cell for cell in written.cells if cell.cell_type == "code"):
        cell.execution_count = count + 1
        cell.outputs = [nbformat.v4.new_output("stream", text=f"{count}")]
    nbformat.write(written, notebooks / "zh" / "99_small.ipynb")
    found.cells = lambda: nbformat.read(notebooks / "zh" / "99_small.ipynb", as_version=4).cells
    return found


def test_a_chapter_is_written_once_its_catalog_is_complete(small):
    assert small() == []
    sources = [cell.source for cell in small.cells()]
    assert sources[:2] == ["# 99 · 很小的一章", "离午饭还早，Mei 就拿到了她的句子。"]
    assert sources[2:] == ["一个请求。\n\n另一个请求。", 'use_language("zh")\n1', "2"]


def test_one_changed_english_sentence_is_one_finding_that_names_its_cell(small):
    changed = [PARAGRAPHS[0], "Mei has her sentence, well before ten.", PARAGRAPHS[2]]
    assert small(changed) == ["small-1: translated when it said something else: Mei has her sentence, well before ten."]
    assert small.cells()[1].source == "离午饭还早，Mei 就拿到了她的句子。"  # its former words, until somebody looks


def test_a_new_paragraph_is_one_finding_that_names_its_cell(small):
    assert small([*PARAGRAPHS, "Nobody foresaw it."]) == ["small-3: not translated: Nobody foresaw it."]


def test_changed_code_is_found_and_outputs_stay_where_it_is_the_same(small):
    assert small(code=['use_language("en")\n1', "3"]) == ["99_small.ipynb"]
    same, changed = small.cells()[-2:]
    assert (same.execution_count, same.outputs[0].text) == (1, "0")
    assert (changed.execution_count, changed.outputs) == (None, [])


def test_a_folder_without_notebooks_is_an_error(tmp_path, capsys):
    assert main(["course", "--notebooks", str(tmp_path), "translate"]) == 2
    assert "there are no notebooks in" in capsys.readouterr().err
