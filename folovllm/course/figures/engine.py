"""Figures of what the engine did, all drawn from its own record (``record_history=True``)."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from IPython.display import Image
from matplotlib.ticker import MaxNLocator

from folovllm.course.record import PHASES, phase_of, recorded
from folovllm.course.style import BLUE, ORANGE, new_figure, show
from folovllm.course.widgets.sampling_explorer import visible_text
from folovllm.engine.history import StepRecord
from folovllm.llm import LLM
from folovllm.sampling_params import SamplingParams

# No white edge: it would hide a bar that is one token high or one of a hundred. The hatch is drawn in its colour.
_BAR: dict[str, Any] = {"width": 0.9, "linewidth": 0, "edgecolor": "white"}


def plot_steps(llms: Mapping[str, LLM]) -> Image:
    """Show how many tokens went through the model in each step, one panel for each engine.

    llms: by the name that the panel gets; each records its history.
    """
    figure, panels = new_figure(10, 3.2, ncols=len(llms), sharey=True, squeeze=False)
    told = []
    for axes, (name, llm) in zip(panels[0], llms.items(), strict=True):
        steps = recorded(llm)
        below = np.zeros(len(steps))
        for phase, (color, hatch) in PHASES.items():
            counts = np.array([_tokens(step, phase) for step in steps])
            axes.bar(range(len(steps)), counts, bottom=below, color=color, hatch=hatch, label=phase, **_BAR)
            below += counts
        axes.set(title=name, xlabel="step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        told.append(f"{name}: {len(steps)} steps of at most {below.max():.0f} tokens")
    panels[0, 0].set_ylabel("tokens in the step")
    panels[0, -1].legend(fontsize=10)
    alt = f"Tokens a step, prefill below decode. {'; '.join(told)}."
    return show(figure, alt)


def plot_stream(llm: LLM, prompt: str, max_tokens: int = 20) -> Image:
    """Show how a greedy text grows while it is streamed: how long it is after each step, and what came."""
    params = SamplingParams(temperature=0, max_tokens=max_tokens)
    texts = ["", *(output.outputs[0].text for output in llm.stream(prompt, params))]
    lengths = [len(text) for text in texts]
    figure, axes = new_figure(10, 4)
    axes.bar(range(1, len(texts)), lengths[1:], color=BLUE, hatch="///", **_BAR)
    for step, (before, after) in enumerate(pairwise(texts), start=1):
        new = visible_text(after[len(before) :])
        axes.text(step, len(after), f" {new}", rotation=70, ha="center", va="bottom", fontsize=10, family="monospace")
    axes.set(title=prompt, xlabel="step", ylabel="characters shown", ylim=(0, 1.25 * lengths[-1]))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    alt = f"A staircase: after {len(texts) - 1} steps {lengths[-1]} characters are shown, a few more in each step."
    return show(figure, alt)


def plot_kv_use(llms: Mapping[str, LLM]) -> Image:
    """Show how much of the KV blocks that sequences hold is filled, step by step, one panel for each engine."""
    figure, panels = new_figure(10, 3.2, ncols=len(llms), sharey=True, squeeze=False)
    told = []
    for axes, (name, llm) in zip(panels[0], llms.items(), strict=True):
        held, filled = kv_use(llm)
        axes.bar(range(len(held)), held, color=ORANGE, hatch="...", label="held", **_BAR)
        axes.bar(range(len(filled)), filled, color=BLUE, hatch="///", label="filled", **_BAR)
        axes.set(title=name, xlabel="step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        told.append(f"{name}: at the end {filled[-1]} of {held[-1]} places are filled")
    panels[0, 0].set_ylabel("places for tokens")
    panels[0, 0].legend(fontsize=10)
    alt = f"Places in KV blocks that are held, and filled. {'; '.join(told)}."
    return show(figure, alt)


def kv_use(llm: LLM) -> tuple[list[int], list[int]]:
    """Return, for every step, the places for tokens in blocks that unfinished sequences hold, and how many are filled.

    A block that several sequences share counts once; so do the tokens in it.
    """
    size = llm.llm_engine.config.cache_config.block_size
    held, filled = [], []
    for step in recorded(llm):
        blocks: dict[int, int] = {}
        for seq in step.sequences:
            for i, block in enumerate(seq.block_table):
                blocks[block] = max(blocks.get(block, 0), min(size, seq.num_computed_tokens - i * size))
        if blocks:
            held.append(len(blocks) * size)
            filled.append(sum(blocks.values()))
    return held, filled


def _tokens(step: StepRecord, phase: str) -> int:
    return sum(seq.num_scheduled_tokens for seq in step.sequences if phase_of(seq) == phase)
