"""The figures of chapter 01 in time: who waits how long, and what a step takes, from the engine's own record
(``record_history=True``).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from statistics import median
from typing import Any

from IPython.display import Image
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from folovllm.course.record import phase_of, recorded
from folovllm.course.style import BLUE, GREEN, GREY, ORANGE, new_figure, show
from folovllm.engine.history import SequenceRecord, StepRecord
from folovllm.language import N_, _, clauses, listed
from folovllm.llm import LLM

_TURNS: dict[str, dict[str, Any]] = {
    N_("waits"): {"facecolor": "#dddddd"},
    N_("the prompt is read"): {"facecolor": ORANGE, "hatch": "....", "edgecolor": "white"},
    N_("the answer is being written"): {"facecolor": BLUE, "hatch": "////", "edgecolor": "white"},
}
_PHASES = {None: "waits", "prefill": "the prompt is read", "decode": "the answer is being written"}


def step_ms(step: StepRecord) -> float:
    """Return the milliseconds that a step took, from choosing who runs to the text."""
    return step.schedule_ms + step.forward_ms + step.sample_ms + step.postprocess_ms


@dataclass
class Turn:
    """One request in time: bars (what, from, to) in seconds, and when each of its tokens came."""

    bars: list[tuple[str, float, float]]
    tokens: list[float]

    def add(self, record: SequenceRecord, start: float, end: float) -> None:
        """Add one step; a bar that goes on grows."""
        kind = _PHASES[phase_of(record)]
        if self.bars and self.bars[-1][0] == kind:
            start = self.bars.pop()[1]
        self.bars.append((kind, start, end))
        if record.num_output_tokens > len(self.tokens):
            self.tokens.append(end)

    def longest_wait(self) -> tuple[float, float]:
        """Return the longest time without a new token, from the arrival or second 0 on, as (from, to)."""
        moments = [moment for moment in (self.bars[0][1], *self.tokens) if moment >= 0]
        return max(pairwise(moments), key=lambda pair: pair[1] - pair[0])

    def first_wait(self) -> tuple[float, float]:
        """Return the time from the arrival to the first token, as (from, to)."""
        return self.bars[0][1], self.tokens[0]


def turns_of(llm: LLM, late: str | None = None) -> dict[str, Turn]:
    """Return what happened to each request, by its id, in the order in which they came.

    late: the request with whose arrival second 0 begins; otherwise it begins with the first step.
    """
    turns: dict[str, Turn] = {}
    steps = recorded(llm)
    seconds = [step_ms(step) / 1000 for step in steps]
    arrival = next((i for i, step in enumerate(steps) if late in [seq.request_id for seq in step.sequences]), 0)
    moments = list(accumulate(seconds, initial=0.0))
    moments = [moment - moments[arrival] for moment in moments]
    for step, (start, end) in zip(steps, pairwise(moments), strict=True):
        for record in step.sequences:
            turns.setdefault(record.request_id, Turn([], [])).add(record, start, end)
    return turns


def plot_turns(llms: Mapping[str, LLM], watch: str, late: str | None = None) -> Image:
    """Show in seconds when each request waits, is read and is written; one panel per engine.

    llms: by the title of the panel.  watch: the request whose longest wait is measured.
    late: a request that comes while others are served; time counts from its arrival, and its first token is marked.
    """
    runs = {title: turns_of(llm, late) for title, llm in llms.items()}
    heights = [len(turns) + (1.4 if late is None else 2.6) for turns in runs.values()]
    figure, panels = new_figure(
        10, 1.5 + 0.28 * sum(heights), nrows=len(runs), sharex=True, squeeze=False, height_ratios=heights
    )
    told = []
    for axes, (title, turns) in zip(panels[:, 0], runs.items(), strict=True):
        _draw_turns(axes, turns, watch, late)
        axes.set_title(title, loc="left", fontsize=12)
        start, end = turns[watch].longest_wait()
        told.append(
            _("{title}: {watch} sees nothing new for {longest:.2g} s at the longest").format(
                title=title, watch=watch, longest=end - start
            )
        )
        if late is not None:
            told[-1] += _(", {late} has the first token after {first_wait:.2g} s").format(
                late=late, first_wait=turns[late].first_wait()[1]
            )
    panels[-1, 0].set_xlabel(
        _("seconds") if late is None else _("seconds since {late} came").format(late=late), fontsize=11
    )
    first = min(bar[1] for turns in runs.values() for turn in turns.values() for bar in turn.bars)
    panels[-1, 0].set_xlim(first, None)
    seen = {kind for turns in runs.values() for turn in turns.values() for kind, _, _ in turn.bars}
    handles: list[Any] = [Patch(label=_(kind), **look) for kind, look in _TURNS.items() if kind in seen]
    handles += [_token_marks(panels[0, 0], [], 0)]
    figure.legend(handles=handles, loc="outside upper left", ncols=4, fontsize=11, frameon=False)
    return show(figure, _("Requests in time, one row each. {told}.").format(told=clauses(told)))


def _draw_turns(axes: Axes, turns: dict[str, Turn], watch: str, late: str | None) -> None:
    """Draw one panel, with an arrow for what is measured."""
    arrows = {watch: (turns[watch].longest_wait(), _("nothing new for"))}
    if late is not None:
        arrows[late] = turns[late].first_wait(), _("first token after")
        axes.axvline(0, color=GREY, linestyle=":", linewidth=1.5, zorder=0)
    places: dict[str, float] = {}
    below = 0.0
    for name in turns:
        places[name] = below
        below += 2.2 if name in arrows else 1.0
    for name, turn in turns.items():
        for kind, start, end in turn.bars:
            axes.barh(places[name], end - start, 0.62, start, linewidth=0, **_TURNS[kind])
        _token_marks(axes, turn.tokens, places[name])
    for name, ((start, end), words) in arrows.items():
        _draw_arrow(
            axes,
            (start, end),
            places[name] + 0.62,
            _("{name}: {words} {seconds:.2g} s").format(name=name, words=words, seconds=end - start),
        )
    axes.set_ylim(below - 0.4, -0.6)
    axes.set_yticks(list(places.values()), list(places), fontsize=11)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _draw_arrow(axes: Axes, between: tuple[float, float], level: float, words: str) -> None:
    start, end = between
    look: dict[str, Any] = {"arrowstyle": "<|-|>", "shrinkA": 0, "shrinkB": 0, "color": "black"}
    axes.annotate("", (start, level), (end, level), arrowprops=look)
    look = {"ha": "left", "va": "top", "fontsize": 11, "fontweight": "bold"}
    axes.annotate(words, (start, level + 0.25), (4, 0), textcoords="offset points", **look)  # beside second 0's line


def _token_marks(axes: Axes, moments: list[float], row: float) -> Any:
    return axes.plot(
        moments, [row] * len(moments), "|", color="black", markersize=11, markeredgewidth=1.2, label=_("a new token")
    )[0]


def plot_step_times(llms: Mapping[int, Sequence[LLM]]) -> Image:
    """Show how long a step takes that adds a token to so many sequences, and what that is per token.

    llms: by the number of sequences that each ran together; one for each round. The median of all rounds is drawn.
    """
    times = {
        seats: median(map(step_ms, chain.from_iterable(_full_steps(llm, seats) for llm in rounds)))
        for seats, rounds in llms.items()
    }
    figure, (step, token) = new_figure(10, 3.2, ncols=2)
    looks: dict[str, Any] = {"width": 0.6, "edgecolor": "white", "linewidth": 0}
    bars = step.bar(range(len(times)), list(times.values()), color=BLUE, hatch="//", **looks)
    step.bar_label(bars, fmt="%.0f", fontsize=11)
    step.set(title=_("one step"), ylabel=_("milliseconds"))
    shares = [ms / seats for seats, ms in times.items()]
    bars = token.bar(range(len(times)), shares, color=GREEN, hatch="\\\\", **looks)
    token.bar_label(bars, fmt="%.1f", fontsize=11)
    token.set(title=_("one step, divided by its tokens"), ylabel=_("milliseconds per token"))
    for axes in (step, token):
        axes.set_xticks(range(len(times)), [f"{seats}" for seats in times])
        axes.set_xlabel(_("sequences in the step"))
        axes.margins(y=0.15)
    told = listed(_("{seats} in a step {ms:.0f} ms").format(seats=seats, ms=ms) for seats, ms in times.items())
    fewest, most = min(times), max(times)
    half = most / fewest / 2
    told += _(". {most} take less than {half:.1f} times as long as {fewest}: {is_so}").format(
        most=most, half=half, fewest=fewest, is_so=times[most] < half * times[fewest]
    )
    return show(
        figure, _("Milliseconds of a step that adds one token to each sequence, as a median: {told}.").format(told=told)
    )


def _full_steps(llm: LLM, seats: int) -> list[StepRecord]:
    """Return the steps in which every seat got one more token and no prompt was read."""
    found = []
    for step in recorded(llm):
        phases = [phase_of(record) for record in step.sequences]
        if phases.count("decode") == seats and "prefill" not in phases:
            found.append(step)
    return found
