"""Slides of a notebook, made from its own cells: reveal.js pages that need no network, with notes for the speaker.

Which cells share a slide follows from what they are, so nothing about slides is kept in the notebooks:
a heading begins a slide; a text and the cell that it speaks of are one step of it (arrow down). What follows an output
waits for a key: the answer to a prediction, the explanation of what was seen. Hints stay in the notebook, and so does
code that is folded and shows nothing.
"""

import copy
import hashlib
import json
import subprocess
import sys
import tempfile
import zipfile
from importlib.resources import files
from pathlib import Path
from typing import Any

import nbformat
from jinja2 import DictLoader
from nbconvert.exporters import SlidesExporter

from folovllm.course.editions.instructor import notes_cell, notes_on, section_times
from folovllm.course.editions.minutes import Cell, hides_code, source_of
from folovllm.course.editions.notebook_file import language_of, read_notebook
from folovllm.language import current_language, speaking

REVEAL_WHEEL = "sphinx-revealjs==3.2.1"
"""reveal.js 5 (MIT) comes in this wheel; only its two folders below are used."""
_WHEEL_SHA256 = "805bed3ca459346e0f01967d5ed1c40d6b7b917de1541e1e4566c8341fe7017b"
_REVEAL_IN_WHEEL = "sphinx_revealjs/_static/revealjs/"
_REVEAL_PARTS = ("dist/", "plugin/notes/", "LICENSE")
_LOOKS_BACK = ("**Reading", "**Explain", "**解读", "**解释")
"""A text that begins so speaks of the output before it; any other speaks of what comes next."""


def write_slides(notebooks: Path, output: Path) -> list[Path]:
    """Write the slides of every notebook of a folder, and reveal.js beside them; return the pages.

    reveal.js is downloaded by pip, once: into ``output/reveal``. A ValueError says what is missing.
    """
    sources = sorted(notebooks.glob("*.ipynb"))
    if not sources:
        raise ValueError(f"there are no notebooks in {notebooks}; say where they are with --notebooks")
    output.mkdir(parents=True, exist_ok=True)
    obtain_reveal(output / "reveal")
    return [_write_one(source, output / f"{source.stem}.html") for source in sources]


def obtain_reveal(folder: Path) -> None:
    """Have pip download reveal.js, and unpack it into ``folder`` if it is not there yet."""
    if folder.exists():
        return
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", work, REVEAL_WHEEL]
        pip = subprocess.run(command, capture_output=True, text=True, check=False)
        if pip.returncode != 0:
            raise ValueError(f"{REVEAL_WHEEL} (reveal.js) could not be downloaded; pip said: {pip.stderr.strip()}")
        [wheel] = Path(work).glob("*.whl")
        if hashlib.sha256(wheel.read_bytes()).hexdigest() != _WHEEL_SHA256:
            raise ValueError(f"{wheel.name} has another SHA-256 than {_WHEEL_SHA256}; it is not used")
        unpacked = Path(work, "reveal")
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.namelist():
                part = member.removeprefix(_REVEAL_IN_WHEEL)
                if part != member and part.startswith(_REVEAL_PARTS) and not part.endswith((".map", "/")):
                    target = unpacked / part
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(archive.read(member))
        unpacked.rename(folder)  # last: a download that is stopped leaves no half of it


def _write_one(source: Path, target: Path) -> Path:
    notebook = read_notebook(source)
    language = language_of(notebook)
    with speaking(language):
        notebook["cells"] = slide_cells(notebook["cells"])
    content = nbformat.reads(json.dumps(notebook), as_version=4)  # type: ignore[no-untyped-call]
    template = files("folovllm.course.editions").joinpath("slides.html.j2").read_text(encoding="utf-8")
    exporter = SlidesExporter(  # type: ignore[no-untyped-call]
        extra_loaders=[DictLoader({"folovllm.html.j2": template})],
        template_file="folovllm.html.j2",
        reveal_url_prefix="reveal",
        reveal_theme="white",
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        language_code=language or current_language(),
    )
    page, _ = exporter.from_notebook_node(content, resources={"metadata": {"name": source.stem}})
    target.write_text(page, encoding="utf-8")
    return target


def slide_cells(cells: list[Cell]) -> list[Cell]:
    """Return the cells with nbconvert's ``slide_type`` in their metadata, and the speaker's notes among them."""
    marked: list[Cell] = []
    answered = False  # the present step has its code
    before: Cell | None = None
    for cell, times in zip(cells, section_times(cells), strict=True):
        kind = _slide_type(cell, before, answered)
        marked.append(_with_type(cell, kind))
        notes = times or notes_on(cell)
        if notes:
            marked.append(_with_type(notes_cell(cell, notes), "notes"))
        if kind != "skip":
            answered = cell["cell_type"] == "code" or (answered and kind not in ("slide", "subslide"))
            before = cell
    return marked


def _slide_type(cell: Cell, before: Cell | None, answered: bool) -> str:
    source = source_of(cell)
    if cell["cell_type"] == "code":
        if hides_code(cell) and not cell["outputs"]:
            return "skip"
        # Cells that print nothing prepare the next one; what follows an output is a step of its own.
        follows_output = before is not None and answered and (before["cell_type"] != "code" or before["outputs"])
        return "subslide" if follows_output else "-"
    if source.startswith("#"):
        return "slide"
    if "<details>" in source:
        return "skip"
    return "fragment" if source.startswith(_LOOKS_BACK) else "subslide"


def _with_type(cell: Cell, slide_type: str) -> Cell:
    marked: dict[str, Any] = copy.deepcopy(cell)
    marked["metadata"]["slideshow"] = {"slide_type": slide_type}
    return marked
