"""A widget: how many KV blocks fit into memory, how many sequences into the blocks, and what holds nothing."""

import math
from dataclasses import dataclass, replace
from typing import Any

import ipywidgets
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter
from matplotlib.transforms import ScaledTranslation

from folovllm.config import CacheConfig
from folovllm.course.style import BLUE, GREY, ORANGE, LivePicture, new_figure
from folovllm.course.widgets.widget import PictureWidget, choice, slider_with_box
from folovllm.engine.block_manager import BlockManager
from folovllm.language import N_, _, counted, ngettext
from folovllm.llm import LLM
from folovllm.models.memory import bytes_per_block
from folovllm.models.probe import AttentionSpec

MIB = 1024**2
BLOCK_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
SHORTEST, LONGEST = 16, 8192
_LENGTHS = np.unique(np.geomspace(SHORTEST, LONGEST, 120).astype(int))
_PARTS = (
    (N_("keys and values"), BLUE, "///"),
    (N_("empty ends of last blocks"), ORANGE, "..."),
    (N_("left over: too little for one more sequence"), GREY, ""),
)
_AXIS_ENDS = (0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
_TOO_LOW = 0.03
"""Of the axis: a lower bar would be a line of a few pixels, so its number is written instead."""


@dataclass(frozen=True)
class Budget:
    """What so much memory holds, in KV blocks of so many tokens and sequences of so many tokens each."""

    spec: AttentionSpec
    dtype: torch.dtype
    memory_bytes: int
    block_size: int
    length: int

    @property
    def block_bytes(self) -> int:
        """Bytes of one block."""
        return bytes_per_block(CacheConfig(block_size=self.block_size), self.spec, self.dtype)

    @property
    def num_blocks(self) -> int:
        """Whole blocks that fit."""
        return self.memory_bytes // self.block_bytes

    @property
    def blocks_per_sequence(self) -> int:
        """Blocks that one sequence takes, the last one mostly not full."""
        return BlockManager(self.block_size, 1, 0, enable_prefix_caching=False).blocks_for(self.length)

    @property
    def num_sequences(self) -> int:
        """Sequences that run at the same time, each with its full length."""
        return self.num_blocks // self.blocks_per_sequence

    @property
    def used_bytes(self) -> int:
        """Bytes that hold keys and values of these sequences."""
        return self.num_sequences * self.length * self.spec.bytes_per_token(self.dtype)

    @property
    def empty_bytes(self) -> int:
        """Bytes of the sequences' last blocks that hold nothing."""
        return self.num_sequences * self.blocks_per_sequence * self.block_bytes - self.used_bytes

    @property
    def num_left_over(self) -> int:
        """Blocks that are too few for one more sequence."""
        return self.num_blocks - self.num_sequences * self.blocks_per_sequence

    @property
    def left_over_bytes(self) -> int:
        """Bytes that belong to no sequence: the blocks left over, and what is too small for a block."""
        return self.memory_bytes - self.used_bytes - self.empty_bytes

    @property
    def wasted_bytes(self) -> int:
        """Bytes that hold nothing, for either reason."""
        return self.empty_bytes + self.left_over_bytes

    def share_of(self, num_bytes: int) -> float:
        """Return how much of the memory some bytes are."""
        return num_bytes / self.memory_bytes

    def sentence(self) -> str:
        """Say in two lines what fits, and what of the whole memory holds nothing."""
        blocks, per_sequence, left_over = (
            counted(number, "{n} block", "{n} blocks")
            for number in (self.num_blocks, self.blocks_per_sequence, self.num_left_over)
        )
        if not self.num_left_over:
            left_over = _("less than one block")
        room = ngettext("{sequences} of {tokens}", "{sequences} of {tokens} each", self.num_sequences).format(
            sequences=counted(self.num_sequences, "{n} sequence", "{n} sequences"),
            tokens=counted(self.length, "{n} token", "{n} tokens"),
        )
        empty, wasted = (round(100 * self.share_of(size), 2) for size in (self.empty_bytes, self.wasted_bytes))
        left = wasted - empty  # so that the printed numbers add up
        fits = _("{blocks} of {size:,g} KiB: room for {room}, {per_sequence} per sequence").format(
            blocks=blocks, size=self.block_bytes / 1024, room=room, per_sequence=per_sequence
        )
        holds_nothing = _("wasted: {empty:.2f} % in last blocks + {left:.2f} % left over ({blocks}) = {wasted:.2f} %")
        return f"{fits}\n{holds_nothing.format(empty=empty, left=left, blocks=left_over, wasted=wasted)}"


class BudgetPicture(LivePicture):
    """The memory as one bar; beside it how the two lengths matter: the sequence's and the block's."""

    def __init__(self) -> None:
        figure, axes = new_figure(10, 4.7, nrows=2, ncols=2, height_ratios=(1, 2.8))
        grid = axes[0, 0].get_gridspec()
        for unused in axes[0]:
            unused.remove()
        self._add_memory(figure.add_subplot(grid[0, :]))
        self._add_fit(axes[1, 0])
        self._add_waste(axes[1, 1])
        moving_axes = self._fit_axis, self._waste_axis
        moving = [*moving_axes, *self._parts, self._words, self._fit, self._fit_now, self._none_fits]
        moving += [bar for bars in self._waste.values() for bar in bars] + [*self._numbers, self._waste_now]
        for artist in moving:
            artist.set_in_layout(artist in moving_axes)
        super().__init__(figure, moving)
        self.keep_background()

    def _add_memory(self, axes: Axes) -> None:
        self._parts = [
            axes.barh([0], [0], 0.8, label=_(label), color=color, hatch=hatch, edgecolor="white")[0]
            for label, color, hatch in _PARTS
        ]
        axes.set(xlim=(0, 1), ylim=(-0.5, 0.5), yticks=[])
        axes.set_title(_("the memory for the KV cache"), fontsize=12)
        axes.xaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
        axes.tick_params(labelsize=11)
        axes.spines[:].set_visible(False)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, -0.95), ncols=3, fontsize=11, frameon=False)
        box = {"facecolor": "white", "edgecolor": "none", "pad": 3}
        self._words = axes.text(0.015, 0, "", va="center", fontsize=12, fontweight="bold", bbox=box)

    def _add_fit(self, axes: Axes) -> None:
        [self._fit] = axes.step([], [], where="post", color=BLUE, linewidth=2)
        look: dict[str, Any] = {"color": ORANGE, "markeredgecolor": "black", "markersize": 9, "clip_on": False}
        [self._fit_now] = axes.plot([], [], "D", **look)
        self._none_fits = axes.text(0.97, 0.86, "", transform=axes.transAxes, ha="right", fontsize=12)
        axes.set(xscale="log", yscale="log", xlim=(16, LONGEST * 1.1), ylim=(0.8, 2e4))
        self._fit_axis = axes.yaxis
        axes.set_title(_("sequences that fit"), fontsize=12)
        axes.set_xlabel(_("tokens per sequence"))
        axes.set_xticks([16, 64, 256, 1024, 4096], ["16", "64", "256", "1,024", "4,096"])
        axes.yaxis.set_major_formatter("{x:,g}")
        axes.minorticks_off()
        axes.grid(color="#e8e8e8")

    def _add_waste(self, axes: Axes) -> None:
        places = {label: (color, hatch) for label, color, hatch in _PARTS[1:]}
        self._waste = {
            label: [
                axes.bar([i], [0], 0.7, color=color, hatch=hatch, edgecolor="white")[0] for i in range(len(BLOCK_SIZES))
            ]
            for label, (color, hatch) in places.items()
        }
        self._numbers = [
            axes.annotate("", (i, 0), (0, 7), textcoords="offset points", ha="center", va="bottom", fontsize=11)
            for i in range(len(BLOCK_SIZES))
        ]
        look: dict[str, Any] = {"color": ORANGE, "markeredgecolor": "black", "markersize": 9, "clip_on": False}
        [self._waste_now] = axes.plot([], [], "D", **look)
        up = ScaledTranslation(0, 9 / 72, axes.figure.dpi_scale_trans)  # 9 points: on a low bar it would hide it
        self._waste_now.set_transform(axes.transData + up)
        axes.set(ylim=(0, 1.05), xlim=(-0.6, len(BLOCK_SIZES) - 0.4))
        axes.set_title(_("memory that holds nothing"), fontsize=12)
        axes.set_xlabel(_("tokens per block"))
        axes.set_xticks(range(len(BLOCK_SIZES)), map(str, BLOCK_SIZES))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.yaxis.grid(color="#e8e8e8")
        self._waste_axis = axes.yaxis

    def update(self, budget: Budget) -> bytes:
        """Show a budget; return the picture as PNG."""
        left = 0.0
        for part, size in zip(self._parts, (budget.used_bytes, budget.empty_bytes, None), strict=True):
            width = 1 - left if size is None else budget.share_of(size)
            part.set(x=left, width=width)
            left += width
        wasted = f"{budget.share_of(budget.wasted_bytes):.1%}".replace("%", " %")
        sequences = counted(budget.num_sequences, "{n} sequence", "{n} sequences")
        self._words.set_text(_("{sequences}; {wasted} hold nothing").format(sequences=sequences, wasted=wasted))
        fitting = [replace(budget, length=int(n)).num_sequences for n in _LENGTHS]
        self._fit.set_data(_LENGTHS, [num or np.nan for num in fitting])
        self._fit_axis.axes.set_ylim(0.8, 2 * 10 ** math.ceil(math.log10(max(*fitting, 20) / 2)))
        self._fit_now.set_data([budget.length], [budget.num_sequences or np.nan])
        self._none_fits.set_text("" if budget.num_sequences else _("none of this length fits"))
        self._show_waste(budget)
        return self.redraw()

    def _show_waste(self, budget: Budget) -> None:
        empty_bars, left_bars = self._waste.values()
        others = [replace(budget, block_size=size) for size in BLOCK_SIZES]
        tops = [other.share_of(other.wasted_bytes) for other in others]
        top_of_axis = next(end for end in _AXIS_ENDS if max(tops) <= end + 1e-9)
        for other, empty_bar, left_bar, number in zip(others, empty_bars, left_bars, self._numbers, strict=True):
            wasted, empty = other.share_of(other.wasted_bytes), other.share_of(other.empty_bytes)
            is_low, is_now = wasted < _TOO_LOW * top_of_axis, other == budget
            number.set(text=f"{100 * wasted:.1f} %" if is_low or is_now else "", y=16 if is_now else 7)
            number.xy = number.xy[0], wasted
            empty_bar.set(height=empty, visible=not is_low)
            left_bar.set(y=empty, height=wasted - empty, visible=not is_low)
        self._waste_axis.axes.set_ylim(0, top_of_axis * 1.22)  # the number of the present setting above a highest bar
        now = BLOCK_SIZES.index(budget.block_size)
        self._waste_now.set_data([now], [tops[now]])


class KVBudget(PictureWidget):
    """Choose memory, block size, length and dtype; see how many sequences the KV cache of this model holds."""

    def __init__(self, llm: LLM, *, memory_mib: int = 256, block_size: int = 16, length: int = 200) -> None:
        self.spec = llm.llm_engine.attention_spec
        self._picture = BudgetPicture()
        rows = [
            slider_with_box(_("memory (MiB)"), memory_mib, 1, 4096, 1, is_logarithmic=True),
            slider_with_box(_("sequence length"), length, SHORTEST, LONGEST, 1, is_logarithmic=True),
        ]
        self.memory, self.length = (row.children[-1] for row in rows)
        label = {"description_width": "120px"}
        self.block_size = ipywidgets.SelectionSlider(
            options=BLOCK_SIZES, value=block_size, description="block_size", style=label
        )
        self.dtype = choice("dtype", ["float32", "bfloat16", "float16"])
        for control in (self.memory, self.length, self.block_size, self.dtype):
            control.observe(lambda _: self.refresh(), "value")
        columns = (
            ipywidgets.VBox(rows),
            ipywidgets.VBox([self.block_size, self.dtype], layout=ipywidgets.Layout(margin="0 0 0 1em")),
        )
        super().__init__([ipywidgets.HBox(columns, layout=ipywidgets.Layout(flex_flow="row wrap"))])
        self.refresh()

    @property
    def budget(self) -> Budget:
        """The budget that the controls stand for."""
        dtype = getattr(torch, self.dtype.value)
        return Budget(self.spec, dtype, self.memory.value * MIB, self.block_size.value, self.length.value)

    def refresh(self) -> None:
        """Recompute and redraw."""
        budget = self.budget
        self.show(budget.sentence(), self._picture.update(budget))

    def summary(self) -> str:
        """Say what the widget shows."""
        knobs = f"{self.memory.value} MiB, block_size={self.block_size.value}, {self.dtype.value}"
        return _("KVBudget: {knobs}\n{sentence}").format(knobs=knobs, sentence=self.budget.sentence())
