"""What all widgets of the course share."""

import html
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from weakref import WeakSet

import ipywidgets
from IPython.core.getipython import get_ipython

from folovllm.course.style import png_metadata, to_html, to_keep
from folovllm.course.widgets.colab import on_colab, show_on_colab

# What a widget needs to be one, even when it is closed: as any object with traits, and as a widget.
_MACHINERY = vars(ipywidgets.CallbackDispatcher()).keys() | {"_model_id", "_repr_mimebundle_"}


class CourseWidget(ipywidgets.VBox):
    """A box of controls that says in words what it shows, also where nothing is live.

    Where no kernel runs (GitHub, nbviewer, an exported page) a notebook shows ``summary`` instead.
    On the page the box has its Python class as CSS class.
    A cell that runs again closes the widgets that it made before.
    """

    def __init__(self, children: Sequence[ipywidgets.Widget]) -> None:
        super().__init__(children)
        self.add_class(type(self).__name__)
        _close_those_before(self)

    def summary(self) -> str:
        """Return what the widget shows, as plain text."""
        raise NotImplementedError(f"{type(self).__name__} must say what it shows")

    def close(self) -> None:
        """Take the widget from the page for good, and let go of its engine, its figure and its controls.

        IPython remembers what a cell returned (``Out``), so the object itself may live on, empty.
        """
        if self.comm is None:
            return
        for part in _parts_of(self):
            part.unobserve_all()
            if part is not self:
                part.close()
        super().close()
        self.children = ()
        for name in vars(self).keys() - _MACHINERY:
            delattr(self, name)

    def _ipython_display_(self) -> None:
        if self.comm is None or not on_colab():
            raise NotImplementedError  # IPython goes on to _repr_mimebundle_
        bundle: Any = self._repr_mimebundle_()
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        show_on_colab(data, metadata)

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        bundle = dict(super()._repr_mimebundle_(**kwargs))
        bundle["text/plain"] = self.summary()
        return bundle


class PictureWidget(CourseWidget):
    """Controls over a line of text that states the result, over a picture; the last two also show without a kernel.

    png: the picture as it is now; None where there is nothing to show.
    """

    png: bytes | None = None

    def __init__(self, controls: Sequence[ipywidgets.Widget], below: Sequence[ipywidgets.Widget] = ()) -> None:
        self.status = ipywidgets.HTML()
        self.picture = ipywidgets.HTML()
        super().__init__([*controls, self.status, self.picture, *below])

    def say(self, sentence: str) -> None:
        """Write the line of text; a screen reader reads it out when it changes."""
        self.status.value = spoken(sentence)

    def show(self, sentence: str, png: bytes) -> None:
        """Write the line and replace the picture."""
        self.png = png
        self.say(sentence)
        self.picture.value = to_html(png, self.summary())
        self.picture.layout.visibility = "visible"

    def hide(self, sentence: str) -> None:
        """Write the line, and hide the picture for a while: it shows something else. Its place stays; nothing jumps."""
        self.png = None
        self.say(sentence)
        self.picture.layout.visibility = "hidden"

    def refuse(self, sentence: str) -> None:
        """Write the line alone: no picture stays beside an error."""
        self.png = None
        self.say(sentence)
        self.picture.value = ""

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:  # type: ignore[override]
        data = super()._repr_mimebundle_(**kwargs)
        if self.png is None:
            return data, {}
        return data | {"image/png": to_keep(self.png)}, {"image/png": png_metadata(self.png, self.summary())}


def _parts_of(widget: ipywidgets.Widget) -> list[ipywidgets.Widget]:
    """Return a widget and all that it is made of, layouts and styles too: ipywidgets keeps each until it is closed."""
    own = [getattr(widget, name) for name in ("layout", "style") if widget.has_trait(name)]
    inner = [part for child in getattr(widget, "children", ()) for part in _parts_of(child)]
    return [widget, *own, *inner]


# Of each cell of the notebook: its newest run, and the widgets that this run made.
_made_by: dict[str, tuple[str, WeakSet[CourseWidget]]] = {}


def _close_those_before(widget: CourseWidget) -> None:
    """Close what earlier runs of the running cell made; what the same run made stays."""
    cell, run = _running_cell()
    if not cell:
        return
    earlier_run, made = _made_by.get(cell, (run, WeakSet()))
    if earlier_run != run:
        for each in list(made):
            each.close()
        made = WeakSet()
    made.add(widget)
    _made_by[cell] = run, made


def _running_cell() -> tuple[str, str]:
    """Return a name of the notebook's cell that runs now, and one of this run; empty where none does."""
    request = getattr(get_ipython(), "parent_header", None) or {}
    if request.get("header", {}).get("msg_type") != "execute_request":  # a script, or a moved control
        return "", ""
    # JupyterLab tells which cell it is; where nobody does, its code stands for it.
    cell = request["metadata"].get("cellId") or request["content"]["code"]
    return cell, request["header"]["msg_id"]


def spoken(sentence: str) -> str:
    """Return HTML of a text that a screen reader reads out when it changes; its line breaks stay."""
    return f'<b role="status" style="white-space: pre-line">{html.escape(sentence)}</b>'


def wide() -> ipywidgets.Layout:
    """Return the layout of a text field: as wide as a line is well read, or as the page where that is less."""
    return ipywidgets.Layout(width="calc(100% - 4px)", max_width="54em")  # the 4 px are its margin


def choice(label: str, options: Sequence[Any], value: Any = None) -> ipywidgets.ToggleButtons:
    """Return a choice of one among a few; buttons, since in a list JupyterLab takes the arrow keys for itself."""
    beside_label = ipywidgets.Layout(display="flex", flex_flow="row wrap", grid_gap="0 6px", width="auto")
    buttons = ipywidgets.ToggleButtons(options=options, description=label, layout=beside_label)
    buttons.style.button_width = "auto"
    if value is not None:
        buttons.value = value
    return buttons


def slider_with_box(
    label: str, value: float, minimum: float, maximum: float, step: float, *, is_logarithmic: bool = False
) -> ipywidgets.HBox:
    """Return a slider and a number box that move together; a screen reader reads the box, which has the label.

    The box is the last child: read ``.children[-1].value``.
    is_logarithmic: the slider multiplies where others add, a tenth of a doubling per step; ``step`` is the box's.
    """
    is_whole = isinstance(value, int)
    slider_kind, box_kind = (
        (ipywidgets.IntSlider, ipywidgets.BoundedIntText)
        if is_whole
        else (ipywidgets.FloatSlider, ipywidgets.BoundedFloatText)
    )
    limits = {"value": value, "min": minimum, "max": maximum, "step": step}
    look = {"readout": False, "layout": ipywidgets.Layout(width="220px")}
    box = box_kind(**limits, description=label, layout=ipywidgets.Layout(width="220px"))
    box.style.description_width = "120px"
    digits = None if is_whole else 6  # a slider counts steps from its minimum: 0.05 + 45 * 0.01 is not quite 0.5
    to_box: Callable[[float], float]
    to_slider: Callable[[float], float]
    if is_logarithmic:
        # Places are whole numbers: a page rounds what lies between a slider's steps, and would tell the box.
        slider = ipywidgets.IntSlider(_place(value, minimum), 0, _place(maximum, minimum), **look)
        to_box = partial(_at_place, minimum=minimum, maximum=maximum, digits=digits)
        to_slider = partial(_place, minimum=minimum)
    else:
        slider = slider_kind(**limits, **look)
        to_box, to_slider = partial(round, ndigits=digits), _same
    ipywidgets.link((box, "value"), (slider, "value"), transform=(to_slider, to_box))
    return ipywidgets.HBox([slider, box], layout=ipywidgets.Layout(flex_flow="row wrap"))


def _place(number: float, minimum: float) -> int:
    """Return where a number is on a logarithmic slider, which has 10 places per doubling."""
    return round(10 * math.log2(number / minimum))


def _at_place(place: int, *, minimum: float, maximum: float, digits: int | None) -> float:
    """Return the number at a place of a logarithmic slider."""
    return min(round(minimum * 2 ** (place / 10), digits), maximum)


def _same(number: float) -> float:
    return number
