"""The Chinese course: the English notebooks with the words of their catalogs, gettext's ``.po`` files.

English is the source. A catalog has one message per paragraph (``paragraphs``), with the cells that have it as places.
Only Markdown is translated. Code stays as it is, its comments and printed words too: then every cell does the same in
both languages, a learner's answers fit both, and what a program prints is what its text says that it prints.
"""

import copy
from functools import partial
from pathlib import Path
from typing import Any

import nbformat
from babel.messages.catalog import Catalog, Message
from babel.messages.pofile import read_po, write_po

from folovllm.course.editions.package_catalog import (
    PACKAGE,
    code_template,
    compile_catalog,
    is_translated,
    package_template,
)
from folovllm.course.editions.paragraphs import map_paragraphs

LOCALE = "zh_CN"
PACKAGE_CATALOGS = PACKAGE / "locale" / LOCALE / "LC_MESSAGES"
SITE_CATALOG = "site.po"
_CHOOSES_ENGLISH, _CHOOSES_CHINESE = 'use_language("en")', 'use_language("zh")'


def translate_notebooks(notebooks: Path, catalogs: Path) -> list[str]:
    """Bring the catalogs up to date with the notebooks, and ``notebooks/zh`` with both; return what is left to do.

    catalogs: the folder of the ``.po`` files, one per notebook; a missing one is made.
    A chapter whose catalog lacks a message is not written, unless it is there already: then a paragraph that changed
    has its former words, marked fuzzy in the catalog, and a new one is in English.
    """
    sources = sorted(notebooks.glob("*.ipynb"))
    if not sources:
        raise ValueError(f"there are no notebooks in {notebooks}; say where they are with --notebooks")
    (notebooks / "zh").mkdir(exist_ok=True)
    return [_translate_one(source, catalogs / f"{source.stem}.po", notebooks / "zh") for source in sources]


def _translate_one(source: Path, file: Path, folder: Path) -> str:
    english, target = _read_notebook(source), folder / source.name
    catalog = renewed(file, _template(english))
    missing, fuzzy = unfinished(catalog)
    if target.exists() or not missing + fuzzy:
        before = _read_notebook(target) if target.exists() else None
        nbformat.write(_in_chinese(english, catalog, before), target)  # type: ignore[no-untyped-call]
    return state(file, catalog) + ("" if target.exists() else "; no notebook yet")


def translate_package(folder: Path = PACKAGE_CATALOGS) -> str:
    """Bring the package's own catalog up to date with its code, and compile it; return what is left to do."""
    file = folder / "folovllm.po"
    catalog = renewed(file, package_template())
    compile_catalog(catalog, file.with_suffix(".mo"))
    return state(file, catalog)


def translate_site(site: Path, catalogs: Path) -> list[str]:
    """Bring the catalog of the web site up to date with its code; return what is left to do.

    site: the folder of the code; where there is none, as in a learner's folder, there is nothing to do.
    What the package says too has its words in the package's catalog.
    """
    if not site.is_dir():
        return []
    template, package = code_template(site), package_template()
    for message in list(template):
        if message.id in package:
            template.delete(message.id)
    file = catalogs / SITE_CATALOG
    return [state(file, renewed(file, template))]


def renewed(file: Path, template: Catalog) -> Catalog:
    """Bring a catalog's file up to date with all messages that there are now."""
    catalog = read_catalog(file)
    catalog.update(template)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as stream:
        write_po(stream, catalog, width=0, omit_header=True)
    return catalog


def state(file: Path, catalog: Catalog) -> str:
    """Say in a line how much of a catalog is left to do."""
    missing, fuzzy = unfinished(catalog)
    left = f"{len(missing)} to translate, {len(fuzzy)} to look at again" if missing or fuzzy else "complete"
    return f"{file.name}: {len(catalog)} messages, {left}"


def unfinished(catalog: Catalog) -> tuple[list[Message], list[Message]]:
    """Return the messages that have no translation, and those whose translation was made for other words (fuzzy)."""
    messages = [message for message in catalog if message.id]
    return [each for each in messages if not is_translated(each)], [
        each for each in messages if is_translated(each) and each.fuzzy
    ]


def read_catalog(file: Path) -> Catalog:
    """Return a catalog; an empty one where there is no file."""
    if not file.exists():
        return Catalog(LOCALE)
    with file.open("rb") as stream:
        return read_po(stream, LOCALE)


def _template(notebook: Any) -> Catalog:
    """Return a catalog of all messages of a notebook, in its order."""
    template = Catalog()
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            map_paragraphs(cell.source, partial(add_message, template, cell.id))
    return template


def add_message(template: Catalog, place: str, message: str) -> str:
    """Put a message of a cell or a section into a catalog, and return it as it is."""
    template.add(message, locations=[(place, None)])  # type: ignore[list-item]  # cells have names, no line numbers
    return message


def _in_chinese(english: Any, catalog: Catalog, before: Any) -> Any:
    """Return a notebook in Chinese. before: as it was; what it put out stays, where the code is the same."""
    outputs = {(cell.id, cell.source): cell for cell in before.cells} if before else {}
    chinese = copy.deepcopy(english)
    for cell in chinese.cells:
        if cell.cell_type == "markdown":
            cell.source = map_paragraphs(cell.source, lambda message: translation(catalog, message))
        else:
            cell.source = cell.source.replace(_CHOOSES_ENGLISH, _CHOOSES_CHINESE)
            kept = outputs.get((cell.id, cell.source))
            cell.outputs, cell.execution_count = (kept.outputs, kept.execution_count) if kept else ([], None)
    return chinese


def translation(catalog: Catalog, message: str) -> str:
    """Return a message in Chinese; in English where there is no translation."""
    found = catalog.get(message)
    return str(found.string) if found and found.string else message


def _read_notebook(path: Path) -> Any:
    return nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
