"""A widget: how many KV blocks fit into memory, how many sequences into the blocks, and what is wasted."""

from dataclasses import dataclass, replace

import ipywidgets
import numpy as np
import torch
from matplotlib.ticker import PercentFormatter

from folovllm.config import CacheConfig
from folovllm.course.style import BLUE, GREY, ORANGE, LivePicture, new_figure
from folovllm.course.widgets.widget import PictureWidget, choice, slider_with_box
from folovllm.engine.block_manager import BlockManager
from folovllm.llm import LLM
from folovllm.models.memory import bytes_per_block
from folovllm.models.probe import AttentionSpec

MIB = 1024**2
BLOCK_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
_LENGTHS = np.unique(np.geomspace(1, 8192, 120).astype(int))


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
    def wasted_bytes(self) -> int:
        """Bytes of their last blocks that hold nothing."""
        return self.num_sequences * self.blocks_per_sequence * self.block_bytes - self.used_bytes

    @property
    def wasted_share(self) -> float:
        """Share of the sequences' memory that holds nothing; it does not depend on how many there are."""
        slots = self.blocks_per_sequence * self.block_size
        return 1 - self.length / slots

    def sentence(self) -> str:
        """Say it in one line."""
        seqs = f"{self.num_sequences} sequences of {self.length} tokens fit"
        blocks = f"{self.num_blocks} blocks of {self.block_bytes / 1024:g} KiB"
        return f"{blocks}; {seqs} ({self.blocks_per_sequence} blocks each); {self.wasted_share:.1%} wasted"


class BudgetPicture(LivePicture):
    """The memory as one bar; beside it how the two lengths matter: the sequence's and the block's."""

    def __init__(self) -> None:
        figure, axes = new_figure(10, 4.8, nrows=2, ncols=2, height_ratios=(1, 2.6))
        grid = axes[0, 0].get_gridspec()
        for unused in axes[0]:
            unused.remove()
        memory, (fit, waste) = figure.add_subplot(grid[0, :]), axes[1]
        looks = (
            ("keys and values", BLUE, "///"),
            ("empty ends of last blocks", ORANGE, "..."),
            ("left over", GREY, ""),
        )
        self._parts = [
            memory.barh([0], [0], 0.8, label=label, color=color, hatch=hatch, edgecolor="white")[0]
            for label, color, hatch in looks
        ]
        memory.set(xlim=(0, 1), ylim=(-0.5, 0.5), yticks=[], title="the memory for the KV cache")
        memory.xaxis.set_major_formatter(PercentFormatter(1))
        memory.spines[["top", "right", "left"]].set_visible(False)
        memory.legend(loc="lower center", bbox_to_anchor=(0.5, -1.05), ncols=3, fontsize=10, frameon=False)
        [self._fit] = fit.plot([], [], color=BLUE, linewidth=2)
        [self._fit_now] = fit.plot([], [], "D", color=ORANGE, markersize=9)
        fit.set(xscale="log", yscale="log", xlim=(16, 8192), ylim=(0.8, 2e4), title="sequences that fit")
        fit.set(xlabel="tokens a sequence")
        for axis in (fit.xaxis, fit.yaxis):
            axis.set_major_formatter("{x:g}")
        [self._waste] = waste.plot([], [], "o-", color=BLUE, linewidth=2)
        [self._waste_now] = waste.plot([], [], "D", color=ORANGE, markersize=9)
        waste.set_xscale("log", base=2)
        waste.set(xlim=(0.9, 142), ylim=(-0.03, 1), title="memory wasted in last blocks", xlabel="tokens a block")
        waste.set_xticks(BLOCK_SIZES, map(str, BLOCK_SIZES))
        waste.yaxis.set_major_formatter(PercentFormatter(1))
        self._sentence = figure.suptitle(" ", fontsize=12, fontweight="bold")
        lines = [self._fit, self._fit_now, self._waste, self._waste_now]
        super().__init__(figure, [*self._parts, *lines, self._sentence])
        self.keep_background()

    def update(self, budget: Budget) -> bytes:
        """Show a budget; return the picture as PNG."""
        left = 0.0
        for part, size in zip(self._parts, (budget.used_bytes, budget.wasted_bytes, None), strict=True):
            width = 1 - left if size is None else size / budget.memory_bytes
            part.set(x=left, width=width)
            left += width
        self._fit.set_data(_LENGTHS, [replace(budget, length=int(n)).num_sequences or np.nan for n in _LENGTHS])
        self._fit_now.set_data([budget.length], [budget.num_sequences or np.nan])
        self._waste.set_data(BLOCK_SIZES, [replace(budget, block_size=size).wasted_share for size in BLOCK_SIZES])
        self._waste_now.set_data([budget.block_size], [budget.wasted_share])
        self._sentence.set_text(budget.sentence())
        return self.redraw()


class KVBudget(PictureWidget):
    """Choose memory, block size, length and dtype; see how many sequences the KV cache of this model holds."""

    def __init__(self, llm: LLM, *, memory_mib: int = 256, block_size: int = 16, length: int = 200) -> None:
        self.spec = llm.llm_engine.attention_spec
        self._picture = BudgetPicture()
        rows = [
            slider_with_box("memory (MiB)", memory_mib, 16, 1024, 16),
            slider_with_box("tokens each", length, 16, 8192, 1),
        ]
        self.memory, self.length = (row.children[-1] for row in rows)
        label = {"description_width": "100px"}
        self.block_size = ipywidgets.SelectionSlider(
            options=BLOCK_SIZES, value=block_size, description="block_size", style=label
        )
        self.dtype = choice("dtype", ["float32", "bfloat16", "float16"])
        for control in (self.memory, self.length, self.block_size, self.dtype):
            control.observe(lambda _: self.refresh(), "value")
        columns = ipywidgets.VBox(rows), ipywidgets.VBox([self.block_size, self.dtype])
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
        return f"KVBudget: {knobs}\n{self.budget.sentence()}"
