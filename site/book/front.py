"""The pages around the chapters: the first one, and how to run the course."""

from collections.abc import Iterable

from book import run_links
from book.chapters import Chapter
from book.words import Words


def index(chapters: Iterable[Chapter], words: Words, players: dict[str, str]) -> str:
    """Return the first page. players: the chapters' explorers; the one of sampling can be tried at once."""
    chapters = list(chapters)
    cards = "\n".join(_card(each, words) for each in chapters)
    names = "\n".join(each.name for each in chapters)
    player = next(each for each in players.values() if 'data-player="sampling"' in each)
    tried = f"## {words.try_it}\n\n{words.try_text}\n\n{player}\n\n"
    return (
        f"# FoloVLLM\n\n{{.tagline}}\n{words.tagline}\n\n{words.introduction}\n\n{tried}## {words.chapters}\n\n"
        f'<div class="cards">\n{cards}\n</div>\n\n'
        f"```{{toctree}}\n:hidden:\n{names}\nrun\n{words.reference} <api/index>\n```\n"
    )


def _card(chapter: Chapter, words: Words) -> str:
    outcomes = "".join(f"<li>{_inline(each)}</li>" for each in chapter.outcomes)
    return (
        f'<div class="card"><h3><a href="{chapter.name}.html">{chapter.title}</a></h3>'
        f"<p>{chapter.minutes} {words.minutes}. {words.chapters_after}</p><ol>{outcomes}</ol></div>"
    )


def _inline(text: str) -> str:
    """Return a line of a notebook's list as plain text."""
    return text.replace("*", "").replace("`", "")


def run(chapters: Iterable[Chapter], words: Words) -> str:
    """Return the page that says how to run the course, with a heading per chapter."""
    where = run_links.repository()
    clone = f"git clone https://github.com/{where}.git\ncd {where.partition('/')[2]}\n" if where else ""
    parts = [f"# {words.run_title}\n\n{words.run_text}\n\n```sh\n{clone}make lab\n```\n"]
    for each in chapters:
        links = run_links.links(f"notebooks/{each.name}.ipynb")
        elsewhere = ", ".join(f"[{name}]({address})" for name, address in links.items())
        told = f"\n\n{words.run_elsewhere} {elsewhere}" if links else ""
        lab = f'make lab LAB_ARGS="--LabApp.default_url=/lab/tree/notebooks/{each.name}.ipynb"'
        parts.append(f'<div id="{each.name}"></div>\n\n## {each.title}\n\n```sh\n{lab}\n```{told}\n')
    return "\n".join(parts)
