"""Build the book: ``python site/build.py OUTPUT``; one language per folder of notebooks."""

import argparse
import shutil
import tempfile
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.util.console import nocolor

from book import chapters, front, reference
from book.editions import Edition, editions, switches

SITE = Path(__file__).parent


def write_sources(edition: Edition, folder: Path) -> list[str]:
    """Write what Sphinx reads for one edition; return the names of its pages."""
    book = chapters.chapters_of(edition.notebooks)
    explains = reference.explained_in(book)
    for chapter in book:
        page = chapters.page_of(chapter, edition, explains[chapter.name], {})
        (folder / f"{chapter.name}.ipynb").write_text(page, encoding="utf-8")
    (folder / "index.md").write_text(front.index(book, edition.words), encoding="utf-8")
    (folder / "run.md").write_text(front.run(book, edition.words), encoding="utf-8")
    (folder / "api").mkdir()
    for name, text in reference.pages(book).items():
        (folder / "api" / name).write_text(text, encoding="utf-8")
    return [path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.*")]


def build(output: Path) -> None:
    """Build all editions into a folder, which is replaced once all of them are there."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent) as room:
        made, languages = Path(room) / "site", editions()
        sources = {each.code: Path(room) / "sources" / each.code for each in languages}
        pages = {}
        for each in languages:
            sources[each.code].mkdir(parents=True)
            pages[each.name] = write_sources(each, sources[each.code])
        for each in languages:
            others = [other | {"pages": pages[other["name"]]} for other in switches(each, languages)]
            settings = {
                "language": each.code,
                "html_context.languages": others,
                "html_context.contents": each.words.contents,
            }
            doctrees = Path(room) / "doctrees" / each.code
            app = Sphinx(sources[each.code], SITE, made / each.site, doctrees, "html", settings, warningiserror=True)
            app.build()
            if app.statuscode:
                raise SystemExit("site: Sphinx warned (above); nothing was written")
        shutil.rmtree(output, ignore_errors=True)
        shutil.move(made, output)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    nocolor()
    build(parser.parse_args().output.resolve())
