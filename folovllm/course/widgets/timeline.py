"""A widget: go through the steps of a recorded run; who did what, who holds which block, which words are there."""

import base64
import html
from collections.abc import Sequence
from typing import Any, Literal

import ipywidgets
from IPython.display import Image
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from folovllm.course.run_story import EDGES, TINTS, Block, RunStory
from folovllm.course.style import new_figure, png_metadata, show, to_png
from folovllm.course.widgets.card import background, card, label, names, table
from folovllm.course.widgets.widget import CourseWidget, slider_with_box, spoken
from folovllm.language import N_, _, labelled, listed, ngettext, sentences
from folovllm.llm import LLM

MAX_BLOCKS = 64
"""How many blocks of a memory are shown at most."""
MAX_NOTES = 3
"""How many shortages are told in a picture at most; its alternative text tells all."""
_LINE = 0.13
"""The part of the memory's picture that a line of words takes; how many blocks that is depends on what is drawn."""
# What a sequence does in a step: the colour and the hatch of its cell; "" is the colour of its request.
_LOOKS = {
    N_("reads its prompt"): ("", "..."),
    N_("reads again"): ("", "++"),
    N_("shares a prompt"): ("", "\\\\\\"),
    N_("gets a token"): ("", ""),
    N_("stands still"): ("white", "---"),
    N_("waiting"): ("#EEEEEE", ""),
    N_("swapped"): ("white", "xxx"),
}
_IN_LEGEND = {"swapped": N_("swapped (above), in host memory (below)")}
_CURSOR_MARGIN = 0.01
"""How far the frame of a step reaches beyond it, above and below, as a part of the picture's height."""
_NUMBERED_STEPS = 20
"""Up to how many steps the cells are wide enough for a number."""


def _look(activity: str, color: int, *, edge: bool = True) -> dict[str, Any]:
    face, hatch = _LOOKS[activity]
    style = {"facecolor": face or TINTS[color], "edgecolor": EDGES[color], "hatch": hatch}
    return style | {"linewidth": 1 if edge else 0, "linestyle": _line(activity)}


def _line(activity: str) -> Literal["-", ":"]:
    return ":" if activity == "waiting" else "-"


def draw_sequences(axes: Axes, story: RunStory) -> None:
    """Draw one row per sequence and one column per step, in the colour of its request.

    In a cell stands how many blocks the sequence holds after the step, shared ones too.
    """
    num_steps, few = len(story.steps), len(story.steps) <= 80
    width = 0.92 if few else 1
    for row, seq_id in enumerate(story.seq_ids):
        color = story.color_index(story.label(seq_id))
        for step in range(num_steps):
            done = story.activity(step, seq_id)
            if done is not None:
                place = (step - width / 2, row - 0.4)
                look = _look(done, color, edge=few)
                axes.add_patch(Rectangle(place, width, 0.8, **look))
                if num_steps <= _NUMBERED_STEPS:
                    _write_held(axes, step, row, story.held_by(step, seq_id), look["facecolor"])
    rows = range(len(story.seq_ids))
    axes.set(xlim=(-0.7, num_steps - 0.3), ylim=(len(story.seq_ids) - 0.4, -0.6))
    axes.set_yticks(rows, [story.label(seq_id) for seq_id in story.seq_ids], fontsize=12, fontweight="bold")
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _write_held(axes: Axes, step: int, row: int, held: int, behind: str) -> None:
    """Write into a cell how many blocks its sequence holds, if any. behind: the colour that keeps the hatch away."""
    if held:
        box = {"facecolor": behind, "linewidth": 0, "boxstyle": "round,pad=0.15"}
        axes.text(step, row, str(held), ha="center", va="center_baseline", fontsize=11, bbox=box)


def draw_memory(axes: Axes, story: RunStory) -> None:
    """Draw how many blocks are held after each step, and where they ran out: how many were needed, how many free."""
    steps = range(len(story.steps))
    held = [story.count(step)[0] for step in steps]
    host = [sum(bool(block.owners) for block in story.host_blocks(step)) for step in steps]
    style: dict[str, Any] = {"width": 0.92 if len(held) <= 80 else 1, "linewidth": 0}
    axes.bar(steps, held, color="#8FA3B0", label=_("on the device"), **style)
    if any(host):
        grey = {"color": "white", "edgecolor": "#444444", "hatch": "xxx"}
        axes.bar(steps, [-count for count in host], **(style | grey | {"linewidth": 1}))
        axes.axhline(0, color="#111111", linewidth=1)
    top = max(1, *held)
    if story.num_blocks <= 2 * top:
        axes.axhline(story.num_blocks, color="#111111", linestyle="--", linewidth=1.5)
        note: dict[str, Any] = {"ha": "right", "va": "bottom", "fontsize": 11, "textcoords": "offset points"}
        told = _("all {num_blocks} blocks of the device").format(num_blocks=story.num_blocks)
        axes.annotate(told, (len(held) - 0.35, story.num_blocks), (0, 3), **note)  # over the cursor
        top = max(top, story.num_blocks)
    short = [step for step in steps if story.shortage(step)][:MAX_NOTES]
    low = -1.1 * max(host)
    num_lines = 1.3 + len(short)  # over the highest bar; the first is for "all blocks of the device"
    line = _LINE * (top - low) / (1 - _LINE * num_lines)
    axes.set(ylim=(low, top + line * num_lines), xlabel=_("step"), ylabel=_("blocks held\nafter the step"))
    ticks = MaxNLocator(integer=True, nbins=5).tick_values(low, top)
    shown = [tick for tick in ticks if low <= tick <= top]  # above are words
    axes.set_yticks(shown, [f"{abs(tick):.0f}" for tick in shown])
    _tell_shortages(axes, story, short, held, [top + line * (0.95 + i) for i in range(len(short))])


def _tell_shortages(
    axes: Axes, story: RunStory, short: Sequence[int], heights: Sequence[int], lines: Sequence[float]
) -> None:
    """Write one line per shortage, with an arrow straight down to its bar. heights: of all bars; lines: from below.

    The lines are steps of a stair, so that no arrow crosses a line.
    """
    arrow: dict[str, Any] = {"arrowstyle": "-|>", "color": "#111111", "linewidth": 1.5, "shrinkA": 0}
    on_the_right = bool(short) and short[0] > 0.4 * len(heights)
    for i, step in enumerate(short):
        needed, free = story.needed_next(step - 1), story.steps[step - 1].num_free_blocks
        losers = list(story.gave_way(step))
        gave = ngettext("{who} gives way", "{who} give way", len(losers)).format(who=_(" and ").join(losers))
        height = lines[i if on_the_right else -1 - i]
        axes.annotate("", (step, heights[step]), (step, height), arrowprops=arrow)
        look: dict[str, Any] = {"ha": "right" if on_the_right else "left", "va": "bottom", "fontsize": 11}
        look["bbox"] = {"facecolor": "white", "linewidth": 0, "pad": 0.5}  # over the cursor
        edge = step + (0.3 if on_the_right else -0.3)
        told = _("step {step}: {gave}: {needed} needed, {free} free").format(
            step=step, gave=gave, needed=needed, free=free
        )
        axes.text(edge, height, told, fontweight="bold", **look)


def draw_run(story: RunStory) -> tuple[Figure, Axes, Axes]:
    """Draw a whole run: its sequences above, the blocks they hold below. Returns the figure and both axes."""
    count = len(story.seq_ids)
    above, below = 0.34 * count + 0.2, 1.5
    figure, (sequences, memory) = new_figure(
        10, above + below + 1.15, nrows=2, sharex=True, height_ratios=(above, below)
    )
    draw_sequences(sequences, story)
    draw_memory(memory, story)
    sequences.tick_params(labelbottom=False)
    seen = {story.activity(step, seq_id) for step in range(len(story.steps)) for seq_id in story.seq_ids}
    handles: list[Artist] = [
        Patch(
            facecolor=face or "#CCCCCC",
            edgecolor="#444444",
            hatch=hatch,
            linestyle=_line(name),
            label=_(_IN_LEGEND.get(name, name)),
        )
        for name, (face, hatch) in _LOOKS.items()
        if name in seen
    ]
    # The longest label last: the others of its column would stand far from the next one.
    place = next((i for i, handle in enumerate(handles) if handle.get_label() == _IN_LEGEND["swapped"]), len(handles))
    handles[place:place] = memory.get_legend_handles_labels()[0]
    if len(story.steps) <= _NUMBERED_STEPS:
        number: dict[str, Any] = {"marker": "$2$", "markersize": 8, "linestyle": "", "color": "#111111"}
        handles.append(Line2D([], [], label=_("blocks that a text holds, shared ones too"), **number))
    figure.legend(handles=handles, loc="outside upper left", ncols=4, fontsize=11, frameon=False)
    return figure, sequences, memory


def plot_timeline(llm: LLM, names: Sequence[str] = ()) -> Image:
    """Show what every sequence did in every step that an engine recorded, and how many blocks they held.

    names: of the requests, one each; none: A, B, C...
    """
    story = RunStory(llm, names)
    figure = draw_run(story)[0]
    last = len(story.steps) - 1
    told = [story.sentence(0), *filter(None, map(story.shortage, range(last + 1))), story.sentence(last)]
    alt = _("What {num_seq_ids} sequences did in {last} steps. {told}").format(
        num_seq_ids=len(story.seq_ids), last=last + 1, told=sentences(*told)
    )
    return show(figure, alt)


class Timeline(CourseWidget):
    """Scrub through the steps of a run that ``llm`` recorded (``record_history=True``).

    step: the one that is shown first.  names: of the requests, such as those of users; one each, or none.
    """

    def __init__(self, llm: LLM, *, step: int = 0, names: Sequence[str] = ()) -> None:
        self.story = RunStory(llm, names)
        last = len(self.story.steps) - 1
        if last < 0:
            raise ValueError("this LLM has recorded no step yet: generate something first")
        self._overview = self._draw_overview()
        row = slider_with_box(_("step"), min(step, last), 0, last, 1)
        self.step = row.children[-1]
        self.step.observe(lambda _: self.refresh(), "value")
        self.status, self.picture = ipywidgets.HTML(), ipywidgets.HTML()
        super().__init__([row, self.status, self.picture])
        self.refresh()

    def _draw_overview(self) -> str:
        """Draw the run once; return it as HTML with a place for the cursor, which the browser moves over it."""
        figure, sequences, memory = draw_run(self.story)
        data = base64.b64encode(to_png(figure)).decode()
        self._columns = sequences.get_position()
        tops = [bar.get_y() + bar.get_height() for bar in memory.patches if isinstance(bar, Rectangle)]
        place, highest = memory.get_position(), max(tops)
        low, high = memory.get_ylim()
        bars = place.y0 + (highest - low) / (high - low) * place.height
        above = (self._columns.y1 + _CURSOR_MARGIN, self._columns.y0 - _CURSOR_MARGIN)
        self._rows = (above, (bars, place.y0 - _CURSOR_MARGIN))  # not over the words above the bars
        self._limits = sequences.get_xlim()
        alt = _("One row per sequence, one column per step; below, the blocks held. {sentence}").format(
            sentence=self.story.sentence(0)
        )
        return f'<img alt="{html.escape(alt, quote=True)}" src="data:image/png;base64,{data}">'

    def refresh(self) -> None:
        """Show the chosen step."""
        step, story = self.step.value, self.story
        self.status.value = spoken(story.sentence(step))
        held, _shared, free = story.count(step)
        needed = story.needed_next(step)
        device = _("Device memory: {held} blocks held, {free} free; the next tokens need {needed} new")
        parts = [
            names(story.names.items()),
            f'<div style="position: relative">{self._overview}{self._cursor(step)}</div>',
            f"<h4>{device.format(held=held, free=free, needed=needed)}</h4>",
            self._blocks(story.device_blocks(step)),
        ]
        if story.host_ids:
            parts += [
                f"<h4>{_('Host memory: where blocks wait that were moved')}</h4>",
                self._blocks(story.host_blocks(step)),
            ]
        self.picture.value = card(*parts, table(("", _("in this step"), _("the words so far")), self._rows_of(step)))

    def _frames(self, step: int) -> list[tuple[float, float, float, float]]:
        """Return the frames around a step, in parts of the picture: left, bottom, width, height."""
        (first, last), columns = self._limits, self._columns
        left = columns.x0 + (step - 0.5 - first) / (last - first) * columns.width
        return [(left, bottom, columns.width / (last - first), top - bottom) for top, bottom in self._rows]

    def _cursor(self, step: int) -> str:
        return "".join(
            f'<div class="cursor" style="position: absolute; left: {left:.2%}; width: max({width:.2%}, 4px); '
            f"bottom: {bottom:.2%}; height: {height:.2%}; border: 2px solid #111; "
            f'border-radius: 3px; box-sizing: border-box; pointer-events: none"></div>'
            for left, bottom, width, height in self._frames(step)
        )

    def _blocks(self, blocks: Sequence[Block]) -> str:
        cells = "".join(map(self._block, blocks[:MAX_BLOCKS]))
        further = _("{count} further ones").format(count=len(blocks) - MAX_BLOCKS)
        left = f" <div>{further}</div>" if len(blocks) > MAX_BLOCKS else ""
        return f'<div class="folovllm-blocks">{cells}{left}</div>'

    def _block(self, block: Block) -> str:
        if not block.owners:
            return f'<div class="free"><b>{block.number}</b> {_("free")}</div>'
        colors = [self.story.color_index(owner) for owner in block.owners]
        shared = ' class="shared"' if len(block.owners) > 1 else ""
        return (
            f'<div{shared} style="background: {background(colors)}"><b>{block.number}</b>: {" ".join(block.owners)}'
            f"<small>{block.origin}</small></div>"
        )

    def _rows_of(self, step: int) -> list[tuple[str, str, str]]:
        rows = []
        for seq_id in self.story.seq_ids:
            name = self.story.label(seq_id)
            old, new = map(html.escape, self.story.words(step, seq_id))
            text = f'<span class="text">{old}<span class="new">{new}</span></span>'
            rows.append((label(name, self.story.color_index(name)), self.story.in_words(step, seq_id), text))
        return rows

    def summary(self) -> str:
        """Say what the step did, and list every sequence with its blocks, their owners and its words."""
        step, story = self.step.value, self.story
        lines = [_("Timeline. {sentence}").format(sentence=story.sentence(step))]
        for seq_id in story.seq_ids:
            text = "".join(story.words(step, seq_id))
            lines.append(f"{story.label(seq_id):3} {labelled(story.in_words(step, seq_id), repr(text))}")
        for name, blocks in ((_("device"), story.device_blocks(step)), (_("host"), story.host_blocks(step))):
            held = [f"{each.number} {'+'.join(each.owners)}" for each in blocks if each.owners]
            lines += [_("{name} blocks: {held}").format(name=name, held=listed(held))] if held else []
        return "\n".join(lines)

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:  # type: ignore[override]
        figure, *_ = draw_run(self.story)
        line: dict[str, Any] = {"fill": False, "edgecolor": "#111111", "linewidth": 2}
        for left, bottom, width, height in self._frames(self.step.value):
            figure.add_artist(Rectangle((left, bottom), width, height, transform=figure.transFigure, **line))
        png = to_png(figure)
        data = super()._repr_mimebundle_(**kwargs) | {"image/png": png}
        return data, {"image/png": png_metadata(png, self.summary())}
