"""What all widgets of the course share."""

from typing import Any

import ipywidgets


class CourseWidget(ipywidgets.VBox):
    """A box of controls that says in words what it shows, also where nothing is live.

    Where no kernel runs (GitHub, nbviewer, an exported page) a notebook shows ``summary`` instead.
    """

    def summary(self) -> str:
        """Return what the widget shows, as plain text."""
        raise NotImplementedError(f"{type(self).__name__} must say what it shows")

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        bundle = dict(super()._repr_mimebundle_(**kwargs))
        bundle["text/plain"] = self.summary()
        return bundle


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
    return ipywidgets.HBox([slider, box])
