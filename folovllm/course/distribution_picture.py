"""The picture of a next-token distribution, before and after the filters, quick enough for a slider."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from folovllm.course.distribution import Distribution, FilterStep
from folovllm.course.style import BLUE, ORANGE, LivePicture, new_figure
from folovllm.course.token_text import token_fonts
from folovllm.language import N_, _, counted

NUM_SHOWN = 15
"""Likeliest tokens that get a bar; the numbers are of the whole vocabulary."""
NUM_DRAWS = 200
_AXIS_ENDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)
_DARK = "#333333"
_MODEL_LOOK: dict[str, Any] = {"facecolor": "#d9d9d9", "edgecolor": "#777777", "linewidth": 0.8}
_A_LOOK: dict[str, Any] = {"facecolor": ORANGE, "edgecolor": "black", "linewidth": 0.8}
_A_MARK: dict[str, Any] = {"marker": "s", "color": ORANGE, "markeredgecolor": "black"}
_NOW_LOOK: dict[str, Any] = {"facecolor": BLUE, "linewidth": 0}


class DistributionPicture(LivePicture):
    """The filters in their order, bars of the likeliest tokens, the cumulative curve, and what all others have.

    Three layers: what belongs to the prompt and to the setting A; the probability axis and the bars that only it
    moves; and what moves with the knobs.

    has_a: whether a second setting is shown beside the one of the knobs.
    """

    def __init__(self, has_a: bool) -> None:
        self._names = ("model", "A", "now") if has_a else (N_("model"), N_("now"))
        strip_height = 0.72 * len(self._names[1:])
        grid: dict[str, Any] = {"height_ratios": (strip_height, 3.4, 0.26 * len(self._names)), "width_ratios": (3, 2)}
        figure, axes = new_figure(10, 1.3 + sum(grid["height_ratios"]), nrows=3, ncols=2, **grid)
        spec = axes[0, 0].get_gridspec()
        for unused in (*axes[0], *axes[2]):
            unused.remove()
        self._bars, self._curve = axes[1]
        self._strip = _Strip(figure.add_subplot(spec[0, :]), self._names[1:])
        self._shares = _Shares(figure.add_subplot(spec[2, :]), self._names)
        self._add_bars()
        self._add_curve()
        moving = [*self._strip.texts["now"], *self._now_bars, self._dropped, self._dropped_word, self._drawn]
        moving += [
            self._drawn_word,
            self._drawn_key,
            self._cumulative,
            self._kept,
            *self._cuts,
            *self._shares.artists["now"],
        ]
        self._with_axis: list[Artist] = [self._bars.xaxis, *self._model_bars, *self._a_bars, self._a_marks]
        for artist in self._with_axis:
            artist.set_animated(True)
        of_the_prompt = [self._a_curve, self._a_end, *self._strip.all_texts(), *self._shares.all_artists()]
        for artist in (*moving, *self._with_axis[1:], *of_the_prompt):
            artist.set_in_layout(False)
        super().__init__(figure, moving)

    def _add_bars(self) -> None:
        axes, places = self._bars, np.arange(NUM_SHOWN)
        height = 0.84 / len(self._names)
        looks = {"model": _MODEL_LOOK, "A": _A_LOOK, "now": _NOW_LOOK}
        rows: dict[str, list[Rectangle]] = {}
        for i, name in enumerate(self._names):
            middle = places + (i - (len(self._names) - 1) / 2) * height
            rows[name] = list(axes.barh(middle, np.zeros(NUM_SHOWN), height * 0.92, label=_(name), **looks[name]))
        self._model_bars, self._a_bars, self._now_bars = rows["model"], rows.get("A", []), rows["now"]
        self._a_rows = places
        [self._a_marks] = axes.plot([], [], linestyle="", markersize=5, clip_on=False, **_A_MARK)
        over_rows = axes.get_yaxis_transform()  # x: part of the width, y: row
        crosses: dict[str, Any] = {"marker": "x", "linestyle": "", "color": _DARK, "markersize": 6, "clip_on": False}
        [self._dropped] = axes.plot([], [], transform=over_rows, **crosses)
        diamonds: dict[str, Any] = {"markeredgecolor": "black", "markersize": 7, "clip_on": False}
        [self._drawn] = axes.plot([], [], "D", color="#F0E442", **diamonds)
        axes.set(ylim=(NUM_SHOWN - 0.45, -0.6))
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(_("probability"))
        axes.grid(axis="x", color="#e8e8e8")
        axes.set_axisbelow(True)
        above: dict[str, Any] = {"transform": axes.transAxes, "va": "bottom", "fontsize": 11}
        beside_names = 0.55 if "A" in self._names else 0.4
        self._dropped_word = axes.text(beside_names, 1.02, _("× dropped"), **above)
        self._drawn_word = axes.text(0.82, 1.02, _("{num_draws} draws").format(num_draws=NUM_DRAWS), **above)
        [self._drawn_key] = axes.plot([0.79], [1.047], "D", color="#F0E442", transform=axes.transAxes, **diamonds)
        handles: dict[str, Any] = dict(zip(self._names, axes.containers, strict=True))
        if "A" in handles:
            handles["A"] = Line2D([], [], linewidth=7, markersize=8, **_A_MARK)
        _legend_above(axes, list(handles.values()), list(map(_, self._names)))

    def _add_curve(self) -> None:
        axes = self._curve
        [self._a_curve] = axes.plot([], [], color=ORANGE, linewidth=2, linestyle="--", label="A")
        [self._a_end] = axes.plot([], [], markersize=8, **_A_MARK)
        [self._cumulative] = axes.plot([], [], color="#777777", linewidth=2, label=_("all tokens"))
        # The marker at its end shows the curve where only one token is kept.
        thick: dict[str, Any] = {"linewidth": 5, "marker": "o", "markersize": 9, "markevery": [-1]}
        [self._kept] = axes.plot([], [], color=BLUE, **thick, label=_("kept"))
        words: dict[str, Any] = {"fontsize": 11, "color": _DARK}
        self._cut_lines = {
            "top-k": axes.axvline(1, color=_DARK, linestyle="--"),
            "min-p": axes.axvline(1, color=_DARK, linestyle=":", linewidth=2),
            "top-p": axes.axhline(1, color=_DARK, linestyle="-."),
        }
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        self._cut_words = {
            "top-k": axes.text(1, 0.03, "", **words, bbox=box, va="bottom"),
            "min-p": axes.text(1, 0.13, "", **words, bbox=box, va="bottom"),
            "top-p": axes.text(
                0.99, 1, "", **words, ha="right", va="top", bbox=box, transform=axes.get_yaxis_transform()
            ),
        }
        self._cuts = [*self._cut_lines.values(), *self._cut_words.values()]
        axes.set(xscale="log", ylim=(0, 1.04), xlabel=_("number of tokens, likeliest first"))
        axes.set_ylabel(_("their probability together"))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
        lines = [self._cumulative, self._kept] + ([self._a_curve] if "A" in self._names else [])
        _legend_above(axes, lines, [str(line.get_label()) for line in lines])

    def begin(self, before: NDArray[np.float64], labels: list[str], a: Distribution | None) -> None:
        """Draw what belongs to a prompt. before: [vocab], the model's probabilities.  labels: of the likeliest."""
        self._before, self._a = before, a
        self._order = np.argsort(-before, kind="stable")
        self._head = self._order[:NUM_SHOWN]
        self._axis_end = (0.0, 0.0)
        self._bars.set_yticks(np.arange(NUM_SHOWN), labels, family=list(token_fonts()), fontsize=11)
        self._curve.set_xlim(0.9, len(before))
        self._shares.update("model", before, self._head)
        if a is not None:
            self._strip.update("A", a)
            self._shares.update("A", a.after, self._head)
            self._a_curve.set_data(*self._curve_of(a.tempered))
            self._a_end.set_data([a.num_kept], [a.kept_mass])
        self.keep_background()
        self._of_prompt = self._background

    def update(self, now: Distribution, drawn: NDArray[np.int64] | None, is_log: bool) -> bytes:
        """Show a distribution over the prompt's background; return the picture as PNG."""
        self._fit_axis(now, is_log)
        start = self._axis_end[0]
        _set_widths(self._now_bars, now.after[self._head], start)
        is_kept = now.after[self._head] > 0
        rows = np.flatnonzero(~is_kept) + (len(self._names) - 1) / 2 * 0.84 / len(self._names)
        self._dropped.set_data(np.full(len(rows), 0.012), rows)
        self._dropped_word.set_visible(len(rows) > 0)
        self._show_draws(drawn, is_kept, start)
        ranks, rising = self._curve_of(now.tempered)
        self._cumulative.set_data(ranks, rising)
        self._kept.set_data(ranks[ranks <= now.num_kept], rising[ranks <= now.num_kept])
        self._show_cuts(now)
        self._strip.update("now", now)
        self._shares.update("now", now.after, self._head)
        return self.redraw()

    def _fit_axis(self, now: Distribution, is_log: bool) -> None:
        """Let the probability axis end where the longest bar does, and draw its layer if that is new."""
        shapes = [self._before, now.after] + ([] if self._a is None else [self._a.after])
        longest = max(shape[self._head].max() for shape in shapes)
        if is_log:
            start = 10 ** (np.floor(np.log10(max(self._before[self._head].min(), 1e-9))) - 1)
            end = 1.0
        else:
            start, end = 0.0, next(end for end in _AXIS_ENDS if longest <= end + 1e-9)
        if self._axis_end == (start, end):
            return
        self._axis_end = start, end
        axes = self._bars
        axes.set_xscale("log" if is_log else "linear")
        axes.set_xlim(start, end)
        axes.xaxis.set_major_locator(LogLocator(numticks=20) if is_log else MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.minorticks_off()
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
        axes.tick_params(labelsize=11)
        _set_widths(self._model_bars, self._before[self._head], start)
        if self._a is not None:
            values = self._a.after[self._head]
            _set_widths(self._a_bars, values, start)
            self._a_marks.set_data(np.where(values > start, values, np.nan), self._a_rows)
        canvas: Any = self.figure.canvas
        canvas.restore_region(self._of_prompt)
        for artist in self._with_axis:
            self.figure.draw_artist(artist)
        self._background = canvas.copy_from_bbox(self.figure.bbox)

    def _show_draws(self, drawn: NDArray[np.int64] | None, is_kept: NDArray[np.bool_], start: float) -> None:
        self._drawn_word.set_visible(drawn is not None)
        self._drawn_key.set_visible(drawn is not None)
        if drawn is None:
            self._drawn.set_data([], [])
            return
        shares = np.array([(drawn == token).sum() / NUM_DRAWS for token in self._head])
        rows = np.flatnonzero(is_kept & (shares >= start))  # on a log axis 0 has no place
        self._drawn.set_data(shares[rows], rows + (len(self._names) - 1) / 2 * 0.84 / len(self._names))

    def _show_cuts(self, now: Distribution) -> None:
        """Draw a line for each filter that is on, where it cuts."""
        mass_before = 1.0
        for step in now.steps[1:]:
            if step.is_on:
                self._place_cut(step, now, mass_before)
            self._cut_lines[step.name].set_visible(step.is_on)
            self._cut_words[step.name].set_visible(step.is_on)
            mass_before = step.mass_left

    def _place_cut(self, step: FilterStep, now: Distribution, mass_before: float) -> None:
        line, word = self._cut_lines[step.name], self._cut_words[step.name]
        words = f"{step.name} {step.value:g}"
        if step.name == "top-p":  # it is a share of what the filters before it left
            height = step.value * mass_before
            line.set_ydata([height, height])
            word.set(y=height - 0.01, text=words if mass_before > 0.9995 else f"{words} × {_percent(mass_before)}")
            return
        rank = step.value if step.name == "top-k" else np.count_nonzero(now.tempered >= step.value * now.tempered.max())
        line.set_xdata([rank, rank])
        word.set(x=rank * 1.15, text=words)

    def _curve_of(self, tempered: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        rising = np.cumsum(tempered[self._order])  # temperature does not change who is likelier
        # A log axis shows a few hundred places; more points would only take time.
        ranks = np.unique(np.geomspace(1, len(rising), 300).astype(int))
        return ranks, rising[ranks - 1]


class _Strip:
    """A row of boxes per setting: temperature and the filters in their order, and what each left."""

    def __init__(self, axes: Axes, names: Sequence[str]) -> None:
        axes.set(xlim=(0, 4.86), ylim=(len(names), 0), xticks=[])
        axes.set_yticks(np.arange(len(names)) + 0.5, list(map(_, names)), fontsize=11)
        _take_frame(axes)
        title = _("in this order: how many tokens are left, and their share of the probability after temperature")
        axes.set_title(title, fontsize=11, loc="left")
        self.texts: dict[str, list[Any]] = {}
        for row, name in enumerate(names):
            for i in range(5):
                edge: dict[str, Any] = {"edgecolor": BLUE if i == 4 else "#777777", "linewidth": 2 if i == 4 else 1}
                axes.add_patch(Rectangle((i, row + 0.05), 0.84, 0.9, facecolor="white", **edge))
                if i < 4:
                    arrow: dict[str, Any] = {"arrowstyle": "-|>", "color": _DARK, "shrinkA": 0, "shrinkB": 0}
                    axes.annotate("", (i + 1, row + 0.5), (i + 0.84, row + 0.5), arrowprops=arrow)
            middle: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 11, "linespacing": 1.1}
            self.texts[name] = [axes.text(i + 0.42, row + 0.5, "", **middle) for i in range(5)]

    def all_texts(self) -> list[Artist]:
        """Return the texts of all settings."""
        return [text for texts in self.texts.values() for text in texts]

    def update(self, name: str, shape: Distribution) -> None:
        """Write what each step left of a distribution."""
        for text, step in zip(self.texts[name], shape.steps, strict=False):
            if step.is_on or step.name == "temperature":
                left = f"{counted(step.num_left, '{n} token', '{n} tokens')}\n{_percent(step.mass_left)}"
                text.set(text=f"{step.name} {step.value:g}\n{left}", color="black")
            else:
                text.set(text=_("{name}\nis off").format(name=step.name), color="#6b6b6b")
        tokens = counted(shape.num_kept, "{n} token", "{n} tokens")
        drawn = _("drawn from\n{tokens}\nentropy {entropy:.2f} bits").format(tokens=tokens, entropy=shape.entropy)
        self.texts[name][4].set_text(drawn)


class _Shares:
    """A bar per distribution: how much of it the tokens with bars have, and how much all others."""

    def __init__(self, axes: Axes, names: Sequence[str]) -> None:
        looks = {"model": _MODEL_LOOK, "A": _A_LOOK, "now": _NOW_LOOK}
        axes.set(xlim=(0, 1.75), ylim=(len(names) - 0.4, -0.6), xticks=[])
        axes.set_yticks(range(len(names)), [_(name) for name in names], fontsize=11)
        _take_frame(axes)
        axes.set_title(
            _("where all the probability is: these {num_shown} tokens, and all others").format(num_shown=NUM_SHOWN),
            fontsize=11,
            loc="left",
        )
        self.artists: dict[str, list[Any]] = {}
        for row, name in enumerate(names):
            these = axes.add_patch(Rectangle((0, row - 0.36), 0, 0.72, **looks[name]))
            others = axes.add_patch(Rectangle((0, row - 0.36), 0, 0.72, facecolor="white", edgecolor="#777777"))
            words = axes.text(1.015, row, "", va="center", fontsize=11)
            self.artists[name] = [these, others, words]

    def all_artists(self) -> list[Artist]:
        """Return the bars and texts of all distributions."""
        return [artist for artists in self.artists.values() for artist in artists]

    def update(self, name: str, probabilities: NDArray[np.float64], head: NDArray[np.int64]) -> None:
        """Show one distribution."""
        these, others, words = self.artists[name]
        share = float(probabilities[head].sum())
        these.set_width(share)
        others.set(x=share, width=1 - share)
        rest = len(probabilities) - len(head)
        words.set_text(
            _("these {num_head}: {percent}   {rest:,} others: {percent2}").format(
                num_head=len(head), percent=_percent(share), rest=rest, percent2=_percent(max(1 - share, 0))
            )
        )


def _take_frame(axes: Axes) -> None:
    axes.tick_params(axis="y", length=0)
    axes.spines[:].set_visible(False)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _legend_above(axes: Axes, handles: Any, labels: list[str]) -> None:
    look: dict[str, Any] = {"frameon": False, "borderpad": 0, "borderaxespad": 0, "columnspacing": 1.2, "fontsize": 11}
    axes.legend(handles, labels, loc="lower left", bbox_to_anchor=(0, 1.02), ncols=3, handlelength=1.5, **look)


def _set_widths(bars: Sequence[Rectangle], values: NDArray[np.float64], start: float) -> None:
    for bar, value in zip(bars, values, strict=True):
        bar.set(x=start, width=max(value - start, 0))
