"""A chapter's page: its notebook, with stored outputs as a page without a kernel shows them.

What answers a prediction stays folded, a picture has its words, a prediction can be answered, a recorded widget plays.
"""

import html
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

from book import run_links
from book.editions import ROOT, Edition
from folovllm.course.editions.folded import is_folded
from folovllm.course.editions.minutes import source_of, total_minutes
from folovllm.course.predictions.all_predictions import find_prediction
from folovllm.language import N_, _, sentences

_FOLDED = N_("Predict first. Then open: what happened")
_WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
_PREDICT = re.compile(r'^predict\("(\w+)"\)', re.M)


@dataclass(frozen=True)
class Chapter:
    """One notebook. name: its file's, without the ending.  path: the file."""

    path: Path

    @property
    def name(self) -> str:
        """The notebook's name, which is its page's too."""
        return self.path.stem

    def read(self) -> Any:
        """Return the notebook."""
        return nbformat.read(self.path, as_version=4)

    @property
    def title(self) -> str:
        """The notebook's heading."""
        return source_of(self.read().cells[0]).splitlines()[0].removeprefix("# ")

    @property
    def outcomes(self) -> list[str]:
        """What a learner can do after it: the numbered list that it opens with."""
        return re.findall(r"^\d\. (.*?)[;.]?$", source_of(self.read().cells[0]), re.M)

    @property
    def minutes(self) -> int:
        """How many minutes it takes."""
        return total_minutes(self.read().cells)


def chapters_of(folder: Path) -> list[Chapter]:
    """Return the chapters of a folder of notebooks in their order."""
    return [Chapter(path) for path in sorted(folder.glob("*.ipynb"))]


def page_of(chapter: Chapter, edition: Edition, modules: Iterable[str], players: dict[str, str]) -> str:
    """Return the notebook that Sphinx reads.

    modules: those of the engine that the chapter explains.  players: HTML by the id of the cell whose widget it plays.
    """
    notebook = chapter.read()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            _show_outputs(cell, players)
    first = notebook.cells[0]
    title, _, rest = source_of(first).partition("\n")
    first.source = f"{title}\n\n{_bar(chapter, edition, modules)}\n{rest}"
    return nbformat.writes(notebook)


def _show_outputs(cell: Any, players: dict[str, str]) -> None:
    tags = cell.metadata.setdefault("tags", [])
    if is_folded(cell):
        tags.append("hide-output")
        cell.metadata["mystnb"] = {"code_prompt_show": _(_FOLDED), "code_prompt_hide": _(_FOLDED)}
    if cell.metadata.get("jupyter", {}).get("source_hidden"):
        tags.append("hide-input")
    asked = _PREDICT.search(source_of(cell))
    for output in cell.outputs:
        data = output.get("data", {})
        is_widget = data.pop(_WIDGET_VIEW, None) is not None
        if asked and is_widget:
            _replace(output, prediction_in_html(asked[1]))
        elif is_widget and cell.id in players:
            _replace(output, players[cell.id])
        elif "image/png" in data:
            alt = output.metadata["image/png"]["alt"]
            cell.metadata.setdefault("mystnb", {})["image"] = {"alt": alt}


def _replace(output: Any, shown: str) -> None:
    output.data = nbformat.from_dict({"text/html": shown})
    output.metadata = nbformat.from_dict({})


def prediction_in_html(name: str) -> str:
    """Return a question whose choices answer when they are opened, one at a time, without a script."""
    prediction = find_prediction(name)
    choices = "".join(
        f'<details name="{name}"><summary>{html.escape(prediction.words_of(choice))}</summary>'
        f"<p>{html.escape(prediction.answer_to(choice))}</p></details>"
        for choice in prediction.choices
    )
    asked = sentences(f"<b>{_('Predict.')}</b>", html.escape(_(prediction.question)))
    return (
        f'<div class="prediction" role="group" aria-labelledby="predict-{name}"><p id="predict-{name}">'
        f"{asked}</p>{choices}</div>"
    )


def _bar(chapter: Chapter, edition: Edition, modules: Iterable[str]) -> str:
    """Return what stands under a chapter's title: where to run it, and the code that it explains."""
    words = edition.words
    local = f'<a href="run.html#{chapter.name}">{words.on_this_computer}</a>'
    path = chapter.path.relative_to(ROOT).as_posix()
    elsewhere = [f'<a href="{address}">{name}</a>' for name, address in run_links.links(path).items()]
    told = f"<p><b>{words.run_here}</b> {' · '.join([local, *elsewhere])}</p>"
    code = [f'<a href="api/{module}.html"><code>{module}</code></a>' for module in modules]
    if code:
        told += f"<p><b>{words.code}</b> {', '.join(code)}</p>"
    return f'<div class="chapter-bar">{told}</div>\n'
