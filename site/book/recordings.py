"""The chapters' widgets that a page can play: each is made by its notebook's own code, recorded, and put on the page.

A recording is a script: a page that was opened as a file may load scripts, and nothing else.
"""

import html
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from book import budget_recording, frames, prompt_recording, replay, sampling_recording
from book.chapters import Chapter
from book.words import _
from folovllm.course.editions.minutes import source_of
from folovllm.language import current_language

RECORDERS: dict[str, tuple[str, Callable[..., dict[str, Any]]]] = {
    "PromptBox": ("prompt", prompt_recording.record),
    "SamplingExplorer": ("sampling", sampling_recording.record),
    "KVBudget": ("budget", budget_recording.record),
    "Timeline": ("frames", frames.record_timeline),
    "PaddingExplorer": ("frames", frames.record_padding),
    "NumberBits": ("frames", frames.record_bits),
    "StepDebugger": ("steps", frames.record_steps),
    "TokenColours": ("frames", frames.record_colours),
}
"""Of each class of widgets: who plays it on a page (``static/explorers``), and who records it."""
FOLDER = "recordings"
_SPEAK_EVERY_LANGUAGE = {"PromptBox", "SamplingExplorer"}
"""Their recordings serve all editions; those of the others are made in each language, which takes little time."""


class Recordings:
    """All recordings of a site.

    watchers: by the class of widgets, who is told what the engine says while it is recorded.
    """

    def __init__(self, watchers: dict[str, Callable[..., None]] | None = None) -> None:
        self._watchers = watchers or {}
        self._made: dict[tuple[str, ...], dict[str, Any]] = {}

    def of(self, chapter: Chapter, folder: Path) -> dict[str, str]:
        """Record a chapter's widgets into a folder of scripts; return the HTML that plays each, by the cell's id."""
        found = {}
        for cell in chapter.read().cells:
            name = next((name for name in RECORDERS if f"{name}(" in source_of(cell)), None)
            if cell.cell_type != "code" or name is None:
                continue
            title = f"{chapter.name}-{cell.id}"
            recording = json.dumps(self._record(chapter, cell.id, name), ensure_ascii=False, separators=(",", ":"))
            script = f'explorers.recordings["{title}"]={recording}\n'
            (folder / f"{title}.js").write_text(script, encoding="utf-8")
            found[cell.id] = _player(RECORDERS[name][0], title, cell.outputs[0])
        return found

    def _record(self, chapter: Chapter, cell_id: str, name: str) -> dict[str, Any]:
        code = tuple(replay.code_of(chapter.path, cell_id))
        if name not in _SPEAK_EVERY_LANGUAGE:
            code = current_language(), *code
        if code not in self._made:
            watch = [self._watchers[name]] if name in self._watchers else []
            self._made[code] = RECORDERS[name][1](replay.widget_of(chapter.path, cell_id), *watch)
        return self._made[code]


def _player(kind: str, title: str, output: Any) -> str:
    """Return what a script turns into an explorer; without one it is what the notebook keeps."""
    data = output.data
    kept = f"<pre>{html.escape(data['text/plain'])}</pre>"
    if "image/png" in data:
        alt = html.escape(output.metadata["image/png"]["alt"], quote=True)
        kept = f'<img alt="{alt}" width="960" src="data:image/png;base64,{"".join(data["image/png"].split())}">'
    kept += f"<noscript><p>{_('Without JavaScript it has no controls, and shows one setting.')}</p></noscript>"
    return (
        f'<div class="explorer" data-player="{kind}" data-recording="{title}" '
        f'data-source="_static/{FOLDER}/{title}.js">{kept}</div>'
    )
