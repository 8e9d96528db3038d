"""Recordings of widgets that show words and HTML: what they show at every setting of their controls, frame by frame."""

import html
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ipywidgets

from book.pictures import Pictures
from book.words import translated
from folovllm.course.widgets.number_bits import NumberBits
from folovllm.course.widgets.padding_explorer import PaddingExplorer
from folovllm.course.widgets.step_debugger import StepDebugger
from folovllm.course.widgets.timeline import Timeline
from folovllm.course.widgets.token_colours import TokenColours

Watcher = Callable[[tuple[Any, ...], str], None]
"""Is told the setting, and what the widget says of it, for every frame."""


@dataclass(frozen=True)
class Control:
    """A control of a page.

    kind: "slider" or "choice".  widget: the control that it stands for.  stops: what it can stand on, by its name.
    """

    kind: str
    label: str
    widget: ipywidgets.ValueWidget
    stops: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return what the page needs; its control begins where the widget's own stands."""
        start = list(self.stops.values()).index(self.widget.value)
        return {"kind": self.kind, "label": self.label, "stops": list(self.stops), "start": start}


def record_timeline(timeline: Timeline, watch: Watcher | None = None) -> dict[str, Any]:
    """Record every step of a run."""
    steps = {str(step): step for step in range(len(timeline.story.steps))}
    return _record(
        [Control("slider", timeline.step.description, timeline.step, steps)], timeline.status, timeline.picture, watch
    )


def record_padding(explorer: PaddingExplorer, watch: Watcher | None = None) -> dict[str, Any]:
    """Record every model, side, kind of positions and dtype, for the prompts of the notebook."""
    controls = [_choice(control) for control in explorer.controls.values()]
    return _record(controls, explorer.status, explorer.picture, watch)


def record_colours(colours: TokenColours, watch: Watcher | None = None) -> dict[str, Any]:
    """Record what is generated from the notebook's prompt at some temperatures."""
    temperatures = {f"{value:g}": value for value in (0.0, 0.3, 0.7, 1.0, 1.3, 2.0)}
    control = Control("slider", colours.temperature.description, colours.temperature, temperatures)
    return _record([control], colours.status, colours.text, watch)


def record_bits(bits: NumberBits, watch: Watcher | None = None) -> dict[str, Any]:
    """Record some numbers: near and far, with and without an end in binary, too large and too small for some format."""
    first = bits.number.value
    numbers = dict.fromkeys(
        (first, "0.1", "1", "-0.5", "3.14159", "1000.5", "65504", "65520", "16777217", "1e-8", "1e39")
    )
    control = Control("choice", bits.number.description, bits.number, {each: each for each in numbers})
    return _record([control], bits.status, bits.picture, watch)


def record_steps(debugger: StepDebugger, watch: Watcher | None = None) -> dict[str, Any]:
    """Record a run in which two users arrive while the notebook's first one is served: all moments, with their hops."""
    start = debugger.history.value
    for act in (debugger.step, debugger.arrive, debugger.step, debugger.step, debugger.arrive):
        act()
    while debugger.llm.llm_engine.has_unfinished_requests():
        debugger.step()
    pictures, moments = Pictures(), []
    for place, moment in enumerate(debugger.moments):
        debugger.history.value = place
        hops = []
        for hop in range(len(moment.hops)):
            if hop:
                debugger.next_hop()
            hops.append(_frame(debugger.status, debugger.picture, pictures))
            if watch is not None:
                watch((place, hop), hops[-1]["says"])
        moments.append(hops)
    words = [*debugger.buttons, "history"]
    return {"words": translated(words), "start": start, "moments": moments, "pictures": pictures.kept()}


def _choice(buttons: ipywidgets.ToggleButtons) -> Control:
    options = [each if isinstance(each, tuple) else (str(each), each) for each in buttons.options]
    return Control("choice", buttons.description, buttons, dict(options))


def _record(
    controls: Sequence[Control], status: ipywidgets.HTML, picture: ipywidgets.HTML, watch: Watcher | None
) -> dict[str, Any]:
    """Put the controls on every setting, the last one changing fastest."""
    described = [each.to_json() for each in controls]
    pictures, frames = Pictures(), []
    for setting in itertools.product(*(control.stops.values() for control in controls)):
        for control, value in zip(controls, setting, strict=True):
            control.widget.value = value
        frames.append(_frame(status, picture, pictures))
        if watch is not None:
            watch(setting, frames[-1]["says"])
    return {"controls": described, "frames": frames, "pictures": pictures.kept()}


def _frame(status: ipywidgets.HTML, picture: ipywidgets.HTML, pictures: Pictures) -> dict[str, str]:
    """Return what a widget says, as text, and what it shows, as HTML."""
    says = html.unescape(re.sub("<[^>]+>", "", status.value))
    return {"says": says, "shows": pictures.take_from(picture.value)}
