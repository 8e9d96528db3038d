"""The figures of chapter 01 in memory: what a token leaves, who shares it, how much of the held blocks is filled."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from IPython.display import Image
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, Patch

from folovllm.course.record import recorded
from folovllm.course.style import BLUE, GREEN, GREY, ORANGE, new_figure, show
from folovllm.course.token_text import visible_token
from folovllm.engine.history import SequenceRecord
from folovllm.language import _, clauses
from folovllm.llm import LLM
from folovllm.sampling_params import SamplingParams


def plot_keys_and_values(llm: LLM) -> Image:
    """Draw what the model keeps of one token: in each layer a key and a value for each key-value head."""
    spec = llm.llm_engine.attention_spec
    layers = [1, 2, None, spec.num_layers]
    figure, axes = new_figure(10, 3.6)
    axes.text(0.55, 1.5, _("one\ntoken"), ha="center", va="center", fontsize=12, bbox={"facecolor": "white", "pad": 10})
    axes.add_patch(FancyArrowPatch((1.15, 1.5), (2.0, 1.5), arrowstyle="-|>", mutation_scale=18, color="black"))
    axes.plot([2.15, 2.0, 2.0, 2.15], [-0.4, -0.4, 3.4, 3.4], color="black", linewidth=1.5)
    for row, layer in enumerate(layers):
        if layer is None:
            words = _("... {num_layers} more layers").format(num_layers=spec.num_layers - 3)
            axes.text(6.5, row, words, ha="center", va="center", fontsize=12)
            continue
        axes.text(3.1, row, _("layer {layer}").format(layer=layer), ha="right", va="center", fontsize=11)
        for start, name, color, hatch in ((3.3, _("key"), "#cfe6f5", "//"), (6.7, _("value"), "#fce4b3", "..")):
            look = {"facecolor": color, "edgecolor": "white", "hatch": hatch}
            _draw_heads(axes, start, row, [spec.head_dim] * spec.num_kv_heads, look)
            if row == 0:
                words = _("{name}: {num_kv_heads} heads of {head_dim} numbers").format(
                    name=name, num_kv_heads=spec.num_kv_heads, head_dim=spec.head_dim
                )
                axes.text(start + 1.5, -0.6, words, ha="center", fontsize=12)
    axes.set(xlim=(0, 9.8), ylim=(3.5, -1.0))
    axes.axis("off")
    kept = _("a key and a value, each {num_kv_heads} heads of {head_dim} numbers").format(
        num_kv_heads=spec.num_kv_heads, head_dim=spec.head_dim
    )
    return show(
        figure,
        _("One token leaves in each of {num_layers} layers {kept}.").format(num_layers=spec.num_layers, kept=kept),
    )


def _draw_heads(axes: Axes, start: float, row: int, sizes: list[int], look: Mapping[str, Any]) -> None:
    """Draw one key or value: a box for each head, with how many numbers it holds."""
    width = 3.0 / len(sizes)
    background = {"facecolor": "white", "linewidth": 0, "pad": 2}
    for head, size in enumerate(sizes):
        left = start + head * width
        axes.bar(left, 0.7, width - 0.06, row - 0.35, align="edge", **look)
        middle = left + width / 2 - 0.03
        axes.text(middle, row, str(size), ha="center", va="center", fontsize=11, bbox=background)


@dataclass(frozen=True)
class _Block:
    """A KV block: its tokens' texts, how many of them are of the prompt, and how many sequences hold the block."""

    words: list[str]
    num_of_prompt: int
    holders: int


def plot_shared_blocks(llm: LLM, prompts: Mapping[str, str], block_size: int = 4) -> Image:
    """Run two prompts with one beginning, and draw the blocks in which they lie, with the tokens in their places.

    prompts: by the name of the reader; exactly two.
    """
    tables, blocks = _run_two(llm, list(prompts.values()), block_size)
    places = {block: 1.45 * i for i, block in enumerate(sorted(blocks))}
    figure, axes = new_figure(10, 4.6)
    for number, block in blocks.items():
        _draw_block(axes, places[number], number, block, block_size)
    for levels, name, table in zip(((-2.4, -0.75), (block_size + 1.5, block_size)), prompts, tables, strict=True):
        _draw_table(axes, levels, name, table, places)
    axes.set(xlim=(-1.3, 1.45 * len(places)), ylim=(block_size + 2.4, -3.2))
    axes.axis("off")
    looks: list[Any] = [
        Patch(**_SHARED, label=_("a block that both hold")),
        Patch(**_OWN, label=_("the prompt, in one reader's block")),
        Patch(**_WRITTEN, label=_("written by the model")),
        Patch(**_OWN, linestyle=":", label=_("an empty place")),
    ]
    figure.legend(handles=looks, loc="outside upper left", ncols=4, fontsize=11, frameon=False)
    shared = [number for number, block in blocks.items() if block.holders > 1]
    num_written = sum(max(0, len(block.words) - max(0, block.num_of_prompt)) for block in blocks.values())
    told = clauses(
        _("{name}'s table names the blocks {blocks}").format(name=name, blocks=list(table))
        for name, table in zip(prompts, tables, strict=True)
    )
    return show(
        figure,
        _(
            "Blocks of {block_size} places. {told}; both hold {shared}, in which the common "
            "beginning lies. {num_written} tokens in blocks of their own were written by the model."
        ).format(block_size=block_size, told=told, shared=shared, num_written=num_written),
    )


_SHARED: dict[str, Any] = {"facecolor": "#cfe6f5", "edgecolor": BLUE, "hatch": "//"}
_OWN: dict[str, Any] = {"facecolor": "white", "edgecolor": GREY}
_WRITTEN: dict[str, Any] = {"facecolor": "#cdebe1", "edgecolor": GREEN, "hatch": "\\\\"}


def _run_two(llm: LLM, prompts: list[str], block_size: int) -> tuple[list[tuple[int, ...]], dict[int, _Block]]:
    """Generate a few tokens for two prompts; return their tables and blocks in the last step that both were in."""
    engine = llm.with_settings(record_history=True, block_size=block_size, num_gpu_blocks_override=64)
    params = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)
    outputs = engine.generate(prompts, params, use_tqdm=False)
    step = next(
        step for step in reversed(recorded(engine)) if sum(bool(seq.block_table) for seq in step.sequences) == 2
    )
    blocks: dict[int, _Block] = {}
    for seq, output in zip(step.sequences, outputs, strict=True):
        tokens = (*output.prompt_token_ids, *output.outputs[0].token_ids)[: seq.num_computed_tokens]
        words = [visible_token(llm.get_tokenizer(), token) for token in tokens]
        for i, (number, holders) in enumerate(zip(seq.block_table, seq.ref_counts, strict=True)):
            start = i * block_size
            blocks[number] = _Block(words[start : start + block_size], seq.num_prompt_tokens - start, holders)
    return [seq.block_table for seq in step.sequences], blocks


def _draw_block(axes: Axes, left: float, number: int, block: _Block, block_size: int) -> None:
    background = {"facecolor": "white", "linewidth": 0, "pad": 1, "alpha": 0.9}
    for place in range(block_size):
        filled = place < len(block.words)
        look = _SHARED if block.holders > 1 else _OWN if place < block.num_of_prompt else _WRITTEN
        axes.bar(left, 0.9, 1.25, place, align="edge", **(look if filled else _OWN | {"linestyle": ":"}))
        if filled:
            word = block.words[place]
            axes.text(left + 0.62, place + 0.45, word, ha="center", va="center", fontsize=11, bbox=background)
    axes.text(
        left + 0.62,
        -0.15,
        _("block {number}").format(number=number),
        ha="center",
        va="bottom",
        fontsize=11,
        fontweight="bold",
    )


def _draw_table(
    axes: Axes, levels: tuple[float, float], name: str, table: tuple[int, ...], places: Mapping[int, float]
) -> None:
    """Draw a reader's block table at the first level, and an arrow from each entry to the block at the second."""
    level, end = levels
    axes.text(-0.2, level, _("{name}'s\ntable").format(name=name), ha="right", va="center", fontsize=11)
    for block in table:
        middle = places[block] + 0.62
        axes.text(middle, level, str(block), ha="center", va="center", fontsize=11, bbox={"facecolor": "#eeeeee"})
        arrow: dict[str, Any] = {"arrowstyle": "-|>", "shrinkA": 12, "color": "#555555"}
        axes.annotate("", (middle, end), (middle, level), arrowprops=arrow)


def plot_kv_use(llms: Mapping[str, LLM]) -> Image:
    """Show how much of the KV blocks that sequences hold is filled, step by step, one panel for each engine."""
    figure, panels = new_figure(10, 3.4, ncols=len(llms), sharey=True, squeeze=False)
    told = []
    for axes, (name, llm) in zip(panels[0], llms.items(), strict=True):
        held, filled = kv_use(llm)
        steps = range(1, len(held) + 1)
        axes.bar(
            steps,
            held,
            1.0,
            facecolor="#fce4b3",
            edgecolor=ORANGE,
            hatch="...",
            linewidth=0,
            label=_("held, but empty"),
        )
        axes.bar(steps, filled, 1.0, color=BLUE, label=_("filled"))
        axes.set(
            title=_("{name}\nstep {num_held}: {empty} of {held} empty").format(
                name=name, num_held=len(held), empty=held[-1] - filled[-1], held=held[-1]
            ),
            xlabel=_("step"),
        )
        axes.set_xticks([1, *range(5, len(held) + 1, 5)])
        told.append(
            _("{name}: in step {num_held} {filled} of {held} places are filled").format(
                name=name, num_held=len(held), filled=filled[-1], held=held[-1]
            )
        )
    panels[0, 0].set_ylabel(_("places for tokens"))
    panels[0, 0].legend(fontsize=11, loc="upper left")
    panels[0, 0].margins(y=0.1)
    return show(figure, _("Places in KV blocks that are held, and filled. {told}.").format(told=clauses(told)))


def kv_use(llm: LLM) -> tuple[list[int], list[int]]:
    """Return, for every step, the places for tokens in blocks that its sequences hold, and how many are filled.

    A block that several sequences share counts once; so do the tokens in it.
    """
    size = llm.llm_engine.config.cache_config.block_size
    held, filled = [], []
    tables: dict[str, list[Any]] = {}
    for step in recorded(llm):
        blocks: dict[Any, int] = {}
        for seq in step.sequences:
            num_read, table = _held_during(seq, tables.get(seq.seq_id, []), size)
            tables[seq.seq_id] = table
            for i, block in enumerate(table):
                blocks[block] = max(blocks.get(block, 0), min(size, num_read - i * size))
        held.append(len(blocks) * size)
        filled.append(sum(blocks.values()))
    return held, filled


def _held_during(seq: SequenceRecord, before: list[Any], block_size: int) -> tuple[int, list[Any]]:
    """Return how many tokens a sequence had read at the end of a step, and the blocks that it held for them.

    The record of its last step is written when its blocks are given back: they are those of the step before, and those
    that its last tokens needed, which get names of our own.  before: its blocks in the step before.
    """
    if seq.block_table or not seq.num_scheduled_tokens:
        return seq.num_computed_tokens, list(seq.block_table)
    num_read = seq.num_prompt_tokens + seq.num_output_tokens - 1  # all but the newest
    added = range(len(before), -(-num_read // block_size))
    return num_read, [*before, *((seq.seq_id, i) for i in added)]
