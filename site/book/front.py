"""The pages around the chapters: the first one, and how to run the course."""

from collections.abc import Iterable

from book import run_links
from book.chapters import Chapter
from book.words import _


def index(chapters: Iterable[Chapter], players: dict[str, str]) -> str:
    """Return the first page. players: the chapters' explorers; the one of sampling can be tried at once."""
    chapters = list(chapters)
    tagline = _("How an LLM inference engine works, in eight notebooks and a small real engine.")
    introduction = _(
        "You run **Lantern**, a small chat service of a town library. Every chapter begins with its trouble of the "
        "day, and ends with it solved in the numbers of a real engine. Its names are those of "
        "[vLLM](https://github.com/vllm-project/vllm): what you learn here, you will recognise there. Every output in "
        "this book was written by that engine, on a laptop's CPU."
    )
    try_text = _(
        "The model has read a prompt. Which token comes next? Move the settings: every number was computed by the "
        "engine when this page was built. [Chapter 02](02_sampling.ipynb) explains them."
    )
    player = next(each for each in players.values() if 'data-player="sampling"' in each)
    cards = "\n".join(map(_card, chapters))
    names = "\n".join(each.name for each in chapters)
    return (
        f"# FoloVLLM\n\n{{.tagline}}\n{tagline}\n\n{introduction}\n\n"
        f"## {_('Try it here')}\n\n{try_text}\n\n{player}\n\n"
        f'## {_("The chapters")}\n\n<div class="cards">\n{cards}\n</div>\n\n'
        f"```{{toctree}}\n:hidden:\n{names}\nrun\n{_('API reference')} <api/index>\n```\n"
    )


def _card(chapter: Chapter) -> str:
    outcomes = "".join(f"<li>{_inline(each)}</li>" for each in chapter.outcomes)
    told = _("{minutes} minutes. After it you can:").format(minutes=chapter.minutes)
    return (
        f'<div class="card"><h3><a href="{chapter.name}.html">{chapter.title}</a></h3>'
        f"<p>{told}</p><ol>{outcomes}</ol></div>"
    )


def _inline(text: str) -> str:
    """Return a line of a notebook's list as plain text."""
    return text.replace("*", "").replace("`", "")


def run(chapters: Iterable[Chapter]) -> str:
    """Return the page that says how to run the course, with a heading per chapter."""
    told = _(
        "A page of this book shows what the engine answered. To change the code, to solve the exercises and to ask the "
        "model what you like, run the course. You need Linux or macOS (on Windows: WSL), Python 3.11 or newer, `make`, "
        "and 3 GiB of disk. `make lab` installs what it needs into the course's own folder, prepares the model, and "
        "opens JupyterLab."
    )
    where = run_links.repository()
    clone = f"git clone https://github.com/{where}.git\ncd {where.partition('/')[2]}\n" if where else ""
    title = f"# {_('Run the course')}\n\n{told}\n\n```sh\n{clone}make lab\n```\n"
    return "\n".join([title, *map(_how_to_run, chapters)])


def _how_to_run(chapter: Chapter) -> str:
    lab = f'make lab LAB_ARGS="--LabApp.default_url=/lab/tree/{chapter.in_repository}"'
    links = run_links.links(chapter.in_repository)
    elsewhere = ", ".join(f"[{name}]({address})" for name, address in links.items())
    told = f"\n\n{_('Without an installation:')} {elsewhere}" if links else ""
    return f'<div id="{chapter.name}"></div>\n\n## {chapter.title}\n\n```sh\n{lab}\n```{told}\n'
