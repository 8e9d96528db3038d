"""How all figures of the course look: large enough for a projector, colours that everybody can tell apart.

Colours are Okabe and Ito's (2008); what matters differs in hatch or marker as well as in colour.
Figures are made without pyplot, which keeps a global list of them and would show each one twice.
"""

import base64
import html
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imsave

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#999999"
DPI = 96


def new_figure(width: float, height: float, **subplots: Any) -> tuple[Figure, Any]:
    """Return a figure of so many inches and its axes, without frames where there is nothing to read."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
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


def to_png(figure: Figure) -> bytes:
    """Draw a figure."""
    figure.canvas.draw()
    return canvas_to_png(figure.canvas)


def canvas_to_png(canvas: Any) -> bytes:
    """Return what is drawn on a canvas now, without drawing it again."""
    buffer = io.BytesIO()
    imsave(buffer, np.asarray(canvas.buffer_rgba()), format="png", pil_kwargs={"compress_level": 1})
    return buffer.getvalue()


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
        return canvas_to_png(canvas)


def to_html(png: bytes, alt: str) -> str:
    """Return an image element that says in words what it shows."""
    data = base64.b64encode(png).decode()
    return f'<img alt="{html.escape(alt, quote=True)}" src="data:image/png;base64,{data}" style="max-width: 100%">'
