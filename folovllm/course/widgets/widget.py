"""What all widgets of the course share."""

import html
from collections.abc import Sequence
from typing import Any

import ipywidgets

from folovllm.course.style import png_metadata, to_html


class CourseWidget(ipywidgets.VBox):
    """A box of controls that says in words what it shows, also where nothing is live.

    Where no kernel runs (GitHub, nbviewer, an exported page) a notebook shows ``summary`` instead.
    On the page the box has its Python class as CSS class.
    """

    def __init__(self, children: Sequence[ipywidgets.Widget]) -> None:
        super().__init__(children)
        self.add_class(type(self).__name__)

    def summary(self) -> str:
        """Return what the widget shows, as plain text."""
        raise NotImplementedError(f"{type(self).__name__} must say what it shows")

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        bundle = dict(super()._repr_mimebundle_(**kwargs))
        bundle["text/plain"] = self.summary()
        return bundle


class PictureWidget(CourseWidget):
    """Controls over a line of text that states the result, over a picture; the last two also show without a kernel.

    png: the picture as it is now.
    """

    png: bytes

    def __init__(self, controls: Sequence[ipywidgets.Widget]) -> None:
        self.status = ipywidgets.HTML()
        self.picture = ipywidgets.HTML()
        super().__init__([*controls, self.status, self.picture])

    def say(self, sentence: str) -> None:
        """Write the line of text; a screen reader reads it out when it changes."""
        self.status.value = f'<b role="status">{html.escape(sentence)}</b>'

    def show(self, sentence: str, png: bytes) -> None:
        """Write the line and replace the picture."""
        self.png = png
        self.say(sentence)
        self.picture.value = to_html(png, self.summary())

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:  # type: ignore[override]
        data = super()._repr_mimebundle_(**kwargs) | {"image/png": self.png}
        return data, {"image/png": png_metadata(self.png, self.summary())}


def wide() -> ipywidgets.Layout:
    """Return the layout of a text field: as wide as a line is well read, or as the page where that is less."""
    return ipywidgets.Layout(width="calc(100% - 4px)", max_width="54em")  # the 4 px are its margin


def choice(label: str, options: Sequence[Any], value: Any = None) -> ipywidgets.ToggleButtons:
    """Return a choice of one among a few; buttons, since in a list JupyterLab takes the arrow keys for itself."""
    buttons = ipywidgets.ToggleButtons(options=options, description=label)
    buttons.style.button_width = "auto"
    if value is not None:
        buttons.value = value
    return buttons


def slider_with_box(label: str, value: float, minimum: float, maximum: float, step: float) -> ipywidgets.HBox:
    """Return a slider and a number box that move together; a screen reader reads the box, which has the label.

    The box is the last child: read ``.children[-1].value``.
    """
    kind = (ipywidgets.IntSlider, ipywidgets.BoundedIntText) if isinstance(value, int) else (
        ipywidgets.FloatSlider,
        ipywidgets.BoundedFloatText,
    )  # fmt: skip
    limits = {"value": value, "min": minimum, "max": maximum, "step": step}
    slider = kind[0](**limits, readout=False, layout=ipywidgets.Layout(width="220px"))
    box = kind[1](**limits, description=label, layout=ipywidgets.Layout(width="200px"))
    box.style.description_width = "100px"
    # A slider counts steps from its minimum, and 0.05 + 45 * 0.01 is not quite 0.5.
    ipywidgets.link((slider, "value"), (box, "value"), transform=(lambda moved: round(moved, 6), lambda typed: typed))
    return ipywidgets.HBox([slider, box], layout=ipywidgets.Layout(flex_flow="row wrap"))
