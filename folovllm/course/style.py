"""How all figures of the course look: large enough for a projector, colours that everybody can tell apart.

Colours are Okabe and Ito's (2008); what matters differs in hatch or marker as well as in colour.
Figures are made without pyplot, which keeps a global list of them and would show each one twice.
"""

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from IPython.display import Image
from matplotlib import rcParams
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, fontManager
from matplotlib.patches import FancyBboxPatch, Patch

from folovllm.course.png import encode_png

CHINESE_FONT = Path(__file__).parent / "fonts" / "NotoSansSC-common.otf"
"""Noto Sans SC with its most common characters, made by ``scripts/make_font.py``: figures look the same everywhere."""
CHINESE_FAMILY: str = FontProperties(fname=CHINESE_FONT).get_name()
fontManager.addfont(CHINESE_FONT)
fontManager.ttflist.append(
    replace(fontManager.ttflist[-1], weight=700)
)  # else bold words are warned of; they look thin
rcParams["font.family"] = [*rcParams["font.family"], CHINESE_FAMILY]  # for what the first family lacks

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#999999"
_CSS_DPI = 96
SCALE = 2
"""Pixels per pixel of the page: many screens have two, and a projector shows the larger picture."""


def new_figure(width: float, height: float, **subplots: Any) -> tuple[Figure, Any]:
    """Return a figure of so many inches and its axes, without frames where there is nothing to read."""
    figure = Figure(figsize=(width, height), dpi=SCALE * _CSS_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(**subplots)
    for each in figure.axes:
        tidy(each)
    return figure, axes


def tidy(axes: Axes) -> None:
    """Take away the frame's right and upper line, and set readable sizes."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=10)
    axes.title.set_fontsize(12)
    axes.xaxis.label.set_fontsize(11)
    axes.yaxis.label.set_fontsize(11)


def rounded_box(axes: Axes, corner: tuple[float, float], width: float, height: float, color: str, line: str) -> Patch:
    """Add the box of a diagram, of so many units; return it, so that arrows can end at it.  corner: the lower left."""
    look: dict[str, Any] = {"boxstyle": "round,pad=0,rounding_size=1", "facecolor": "white", "linewidth": 2}
    return axes.add_patch(FancyBboxPatch(corner, width, height, edgecolor=color, linestyle=line, **look))


def show(figure: Figure, alt: str) -> Image:
    """Return a figure as a notebook shows it, with what it shows in words."""
    png = to_png(figure)
    return Image(png, format="png", metadata=png_metadata(png, alt))  # type: ignore[no-untyped-call]


def to_png(figure: Figure) -> bytes:
    """Draw a figure, to be kept."""
    figure.canvas.draw()
    canvas: Any = figure.canvas
    return _in_few_colours(PIL.Image.fromarray(np.asarray(canvas.buffer_rgba())))


def to_keep(png: bytes) -> bytes:
    """Return a picture as a notebook keeps it."""
    return _in_few_colours(PIL.Image.open(io.BytesIO(png)))


def _in_few_colours(picture: PIL.Image.Image) -> bytes:
    """Return a picture as PNG in 128 colours, which takes a third of the bytes; the eye sees no difference."""
    buffer = io.BytesIO()
    picture.convert("RGB").quantize(128, dither=PIL.Image.Dither.NONE).save(buffer, "png")
    return buffer.getvalue()


def _width_on_page(png: bytes) -> int:
    """Return how many pixels of a page a picture is wide; a PNG's own width is its bytes 16 to 19."""
    return int.from_bytes(png[16:20], "big") // SCALE


def png_metadata(png: bytes, alt: str) -> dict[str, Any]:
    """Return what a notebook is told of a picture."""
    return {"width": _width_on_page(png), "alt": alt}


class LivePicture:
    """A figure of which only some artists move: the rest is drawn once and kept as a background.

    Redrawing a few bars takes a fifth of the time of a whole figure; that is what keeps up with a slider.
    """

    def __init__(self, figure: Figure, moving: Sequence[Artist]) -> None:
        self.figure = figure
        self._moving = moving
        for artist in moving:
            artist.set_animated(True)

    def keep_background(self) -> None:
        """Draw all that does not move; to be called again when that changes."""
        self.figure.canvas.draw()
        self._background = self.figure.canvas.copy_from_bbox(self.figure.bbox)  # type: ignore[attr-defined]

    def redraw(self) -> bytes:
        """Draw what moves over the background; return the picture as PNG."""
        canvas: Any = self.figure.canvas
        canvas.restore_region(self._background)
        for artist in self._moving:
            self.figure.draw_artist(artist)
        return encode_png(np.asarray(canvas.buffer_rgba()))


def to_html(png: bytes, alt: str) -> str:
    """Return an image element that says in words what it shows."""
    data = base64.b64encode(png).decode()
    words = html.escape(alt, quote=True)
    width = _width_on_page(png)
    return (
        f'<img alt="{words}" width="{width}" src="data:image/png;base64,{data}" style="max-width: 100%; height: auto">'
    )
