"""Build the book: ``python site/build_site.py OUTPUT``; one language per folder of notebooks."""

import argparse
import shutil
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from book import chapters, front, recordings, reference
from book.editions import Edition, editions, switches
from book.recordings import Recordings
from book.words import _
from sphinx.application import Sphinx
from sphinx.util.console import nocolor

from folovllm.language import use_language

SITE = Path(__file__).parent


def build(output: Path, recorded: Recordings) -> None:
    """Build all editions into a folder, which is replaced once all of them are there."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent) as name:
        room, languages = Path(name), editions()
        pages = {each.name: _write_sources(each, room / each.code, recorded) for each in languages}
        # Side by side, each in a process of its own: a second run of Sphinx warns of what the first one registered.
        with ProcessPoolExecutor(len(languages), get_context("spawn")) as pool:
            runs = []
            for each in languages:
                others = [other | {"pages": pages[other["name"]]} for other in switches(each, languages)]
                runs.append(pool.submit(_run_sphinx, each, room / each.code, room / "html" / each.code, others))
            for each, run in zip(languages, runs, strict=True):
                run.result()
                shutil.copytree(room / "html" / each.code, room / "site" / each.site, dirs_exist_ok=True)
        shutil.rmtree(output, ignore_errors=True)
        shutil.move(room / "site", output)
    print(f"the site is there: {output / 'index.html'}")


def _write_sources(edition: Edition, room: Path, recorded: Recordings) -> list[str]:
    """Write what Sphinx reads for one edition; return the names of its pages."""
    use_language(edition.language)
    sources, scripts = room / "sources", room / "static" / recordings.FOLDER
    for folder in (sources / "api", scripts):
        folder.mkdir(parents=True)
    book = chapters.chapters_of(edition.notebooks)
    explains = reference.explained_in(book)
    players: dict[str, str] = {}
    for chapter in book:
        print(f"{edition.name}: {chapter.name}", flush=True)
        players |= recorded.of(chapter, scripts)
        page = chapters.page_of(chapter, explains[chapter.name], players)
        (sources / f"{chapter.name}.ipynb").write_text(page, encoding="utf-8")
    (sources / "index.md").write_text(front.index(book, players), encoding="utf-8")
    (sources / "run.md").write_text(front.run(book), encoding="utf-8")
    for name, text in reference.pages(book).items():
        (sources / "api" / name).write_text(text, encoding="utf-8")
    return [path.relative_to(sources).with_suffix("").as_posix() for path in sources.rglob("*.*")]


def _run_sphinx(edition: Edition, room: Path, output: Path, others: list[dict[str, object]]) -> None:
    """Let Sphinx write one edition. others: the other languages, for the switch."""
    use_language(edition.language)
    settings = {
        "language": edition.code,
        "html_static_path": [str(SITE / "static"), str(room / "static")],
        "html_context.languages": others,
        "html_context.contents": _("Contents"),
        "html_theme_options.search_bar_text": _("Search the book"),
    }
    nocolor()
    app = Sphinx(room / "sources", SITE, output, room / "doctrees", "html", settings, status=None, warningiserror=True)
    app.build()
    if app.statuscode:
        raise SystemExit("site: Sphinx warned (above); nothing was written")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    build(parser.parse_args().output.resolve(), Recordings())
