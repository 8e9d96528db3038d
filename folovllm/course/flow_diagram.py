"""The map of chapter 05: a text's way through the parts of the engine, drawn once and lit up where one stands.

Both the figures and the step debugger draw it, so it belongs to neither.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path
from matplotlib.text import Text

from folovllm.course.style import BLUE, ORANGE
from folovllm.language import N_, _, listed, sentences

SHEET = (100, 52)
"""Width and height of the map in its own units; a figure of 10 by 4.8 inches shows it well."""
_HALF_WIDTH, _HALF_HEIGHT = 8.3, 4.6
_INK = "#222222"
_STEP = (2, 1, 96, 33.2)


@dataclass(frozen=True)
class Part:
    """One part of the engine on the map.

    title, does: the two lines of its box.  x, y: the box's centre on the sheet.
    """

    title: str
    does: str
    x: float
    y: float


PARTS = {
    N_("tokenizer"): Part(N_("tokenizer"), N_("text to ids"), 21, 44),
    N_("request"): Part(N_("request"), N_("with a sequence"), 47, 44),
    N_("scheduler"): Part(N_("scheduler"), N_("who runs now?"), 14, 23),
    N_("KV blocks"): Part(N_("KV blocks"), N_("keys and values"), 38, 9.4),
    N_("model"): Part(N_("model runner"), N_("ids to logits"), 38, 23),
    N_("sampler"): Part(N_("sampler"), N_("logits to token"), 62, 23),
    N_("sequence"): Part(N_("sequence"), N_("append, the end?"), 85.5, 23),
    N_("detokenizer"): Part(N_("detokenizer"), N_("ids to text"), 85.5, 9.4),
    N_("output"): Part(N_("output"), N_("text so far"), 75, 44),
}
"""The parts of the map by name, in the order in which a prompt's first step meets them."""
_WAYS: tuple[tuple[tuple[tuple[float, float], ...], str, tuple[float, float]], ...] = (
    (((5.5, 44), (12.6, 44)), N_("text"), (8.7, 45.6)),
    (((29.4, 44), (38.6, 44)), N_("token ids"), (33.9, 45.6)),
    (((47, 39.3), (47, 36.8), (14, 36.8), (14, 27.8)), N_("waits for its turn"), (30.5, 38.2)),
    (((22.4, 23), (29.6, 23)), N_("ids"), (25.7, 24.6)),
    (((46.4, 23), (53.6, 23)), N_("logits"), (49.8, 24.6)),
    (((70.4, 23), (77.1, 23)), N_("id"), (73.5, 24.6)),
    (((94, 23), (96.2, 23), (96.2, 3), (14, 3), (14, 18.2)), N_("not the end: one more step"), (60, 4.6)),
    (((85.5, 27.7), (85.5, 36.8), (75, 36.8), (75, 39.2)), N_("every step"), (80.5, 38.2)),
    (((83.4, 44), (92, 44)), N_("text"), (87.7, 45.6)),
    (((16.5, 18.3), (16.5, 9.4), (29.5, 9.4)), N_("gives blocks"), (23.1, 11)),
)
"""Every arrow: the corners it goes through, what is handed on, and where that is written."""


class DataFlowDiagram:
    """The map on some axes; its lights and the second lines of its boxes can change in place.

    moving: the artists that change, for :class:`folovllm.course.style.LivePicture`.
    """

    def __init__(self, axes: Axes) -> None:
        axes.set(xlim=(0, SHEET[0]), ylim=(0, SHEET[1]))
        axes.set_axis_off()
        _draw_ways(axes)
        self._boxes = {name: axes.add_patch(_box(part)) for name, part in PARTS.items()}
        titles = [_text(axes, part.x, part.y + 1.5, _(part.title), size=12, weight="bold") for part in PARTS.values()]
        self._lines = {name: _text(axes, part.x, part.y - 1.9, _(part.does)) for name, part in PARTS.items()}
        badge = {"facecolor": ORANGE, "edgecolor": "none", "boxstyle": "round,pad=0.25"}
        self._pin = _text(axes, 0, 0, "", weight="bold", bbox=badge, zorder=6)
        self.moving: list[Artist] = [*self._boxes.values(), *titles, *self._lines.values(), self._pin]
        self.light(None)

    def light(self, here: str | Collection[str] | None, pin: str = N_("you are here")) -> None:
        """Light up one part or several, and no other; None for none. pin: what stands on the first of them."""
        names = [] if here is None else [here] if isinstance(here, str) else list(here)
        for name in names:
            if name not in PARTS:
                raise ValueError(f"here must be one of {', '.join(PARTS)}, got {name!r}")
        for name, box in self._boxes.items():
            lit = name in names
            box.set(facecolor="#FFE9BF" if lit else "white", edgecolor=ORANGE if lit else BLUE)
            box.set_linewidth(4 if lit else 1.6)
        self._pin.set(text=_(pin) if names else "", visible=bool(names))
        if names:
            self._pin.set_position((PARTS[names[0]].x, PARTS[names[0]].y + _HALF_HEIGHT + 0.4))

    def say(self, lines: Mapping[str, str]) -> None:
        """Write under a part's name what it did (18 letters fit); parts that are not named say what they do."""
        for name, line in self._lines.items():
            line.set_text(lines.get(name, _(PARTS[name].does)))


def draw_data_flow(
    axes: Axes, here: str | Collection[str] | None = None, pin: str = N_("you are here")
) -> DataFlowDiagram:
    """Draw the map on some axes, lit up where one is; the diagram's ``light`` and ``say`` change it in place."""
    diagram = DataFlowDiagram(axes)
    diagram.light(here, pin)
    return diagram


def describe_data_flow(
    here: str | Collection[str] | None = None, says: Mapping[str, str] | None = None, pin: str = N_("you are here")
) -> str:
    """Return the map in words, for those who do not see it."""
    names = [] if here is None else [here] if isinstance(here, str) else list(here)
    words = [
        _(
            "Map of the engine: text, tokenizer, request, then a loop, once per step: the scheduler, which gives out "
            "KV blocks, the model runner, which uses them, the sampler, the sequence with the detokenizer; back to the "
            "scheduler until the end. After every step an output with the text so far."
        )
    ]
    if names:
        titles = listed(_(PARTS[name].title) for name in names)
        words.append(_("{label}: {words}.").format(label=_(pin).capitalize(), words=titles))
    for name, line in (says or {}).items():
        words.append(_("{label}: {words}.").format(label=_(PARTS[name].title), words=line))
    return sentences(*words)


def _draw_ways(axes: Axes) -> None:
    frame = FancyBboxPatch(_STEP[:2], *_STEP[2:], boxstyle="round,pad=0,rounding_size=2", zorder=0)
    frame.set(facecolor="#EAF2F8", edgecolor=BLUE, linestyle="--", linewidth=1.5)
    axes.add_patch(frame)
    _text(
        axes,
        50,
        31.4,
        _("LLMEngine.step(): a new token per sequence, once its prompt is read"),
        weight="bold",
        color=BLUE,
    )
    for corners, label, (x, y) in _WAYS:
        axes.add_patch(_arrow(corners, "-|>"))
        _text(axes, x, y, _(label))
    for name in ("model", "sequence"):  # both ask what lies below them, and get an answer
        axes.add_patch(_arrow(((PARTS[name].x, 18.3), (PARTS[name].x, 14.1)), "<|-|>"))


def _arrow(corners: tuple[tuple[float, float], ...], style: str) -> FancyArrowPatch:
    arrow = FancyArrowPatch(path=Path(corners), fill=False, arrowstyle=style, mutation_scale=14, zorder=2)
    arrow.set(color=_INK, linewidth=1.6)
    return arrow


def _box(part: Part) -> FancyBboxPatch:
    corner = (part.x - _HALF_WIDTH, part.y - _HALF_HEIGHT)
    style = "round,pad=0,rounding_size=1.2"
    return FancyBboxPatch(corner, 2 * _HALF_WIDTH, 2 * _HALF_HEIGHT, boxstyle=style, zorder=3)


def _text(axes: Axes, x: float, y: float, text: str, **style: object) -> Text:
    style = {"ha": "center", "va": "center", "size": 11, "color": _INK, "zorder": 4} | style
    return axes.text(x, y, text, **style)  # type: ignore[arg-type]
