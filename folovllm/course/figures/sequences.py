"""The figures of chapter 03 on a request: its sequences, and the blocks that they share, from the engine's own objects
and records.
"""

from collections.abc import Mapping
from collections.abc import Sequence as Listed
from itertools import chain
from statistics import mean
from typing import Any

from IPython.display import Image
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from folovllm.course.record import recorded
from folovllm.course.style import BLUE, GREEN, GREY, ORANGE, new_figure, rounded_box, show
from folovllm.course.token_text import visible_token
from folovllm.engine.history import StepRecord
from folovllm.language import _, clauses, listed
from folovllm.llm import LLM
from folovllm.outputs import RequestOutput
from folovllm.request import Request, Sequence

_OWNERS = [(BLUE, "-"), (ORANGE, "--"), (GREEN, ":")]
"""Colour and line of the sequences of a request, in their order."""
_PALE = {BLUE: "#d6e8f4", ORANGE: "#fcefd0", GREEN: "#d3efe6"}

_BLOCK_WIDTH, _BLOCK_GAP, _SLOT_HEIGHT = 12.4, 1.6, 4.2
Slots = dict[int, list[str]]
"""What stands in each block: a word for each token, as far as it is filled."""


def plot_request(llm: LLM, request: Request) -> Image:
    """Draw a live request: its sequences in it, their data in them, and arrows to the KV blocks that they hold."""
    seqs = request.sequences
    slots = _slots(llm, [(seq.get_token_ids()[: seq.num_computed_tokens], tuple(seq.block_ids)) for seq in seqs])
    figure, axes = new_figure(11, 7)
    rounded_box(axes, (1, 36), 98, 39, "black", "-")
    params = request.sampling_params
    axes.text(
        3,
        72.3,
        _("Request {request_id!r}: {status}").format(request_id=request.request_id, status=request.status),
        va="center",
        fontsize=13,
        weight="bold",
    )
    told = _("prompt: {prompt!r}      n={n}, seed={seed}, max_tokens={max_tokens}").format(
        prompt=request.prompt, n=params.n, seed=params.seed, max_tokens=params.max_tokens
    )
    axes.text(3, 68.6, told, va="center", fontsize=12)
    starts = []
    for i, seq in enumerate(seqs):
        left = 3 + 32 * i
        _draw_sequence(axes, left, _OWNERS[i], llm, seq)
        starts.append((left + 15.0, 38.0))
    tables = [tuple(seq.block_ids) for seq in seqs]
    places = _places([tables], 100)
    _draw_blocks(axes, tables, slots, _size_of(llm), starts, places)
    legend = _("KV blocks,\n{block_size} tokens each.\nGrey: shared,\n×3 means\nthree holders.").format(
        block_size=_size_of(llm)
    )
    axes.text(max(places.values()) + _BLOCK_WIDTH + 3, 8, legend, va="center", fontsize=12)
    axes.set(xlim=(0, 100), ylim=(-2.5, 76))
    axes.axis("off")
    each = clauses(
        _("sequence {seq_id}, {status}, seed {seed}, blocks {block_ids}").format(
            seq_id=seq.seq_id, status=seq.status, seed=seq.seed, block_ids=seq.block_ids
        )
        for seq in seqs
    )
    return show(
        figure,
        _("Nested boxes: request {request_id}, {status}, holds {each}. Arrows lead to blocks.").format(
            request_id=request.request_id, status=request.status, each=each
        ),
    )


def _draw_sequence(axes: Axes, left: float, owner: tuple[str, str], llm: LLM, seq: Sequence) -> None:
    """Draw a sequence as a box in its request's, and its data in it.  owner: colour and kind of its lines."""
    rounded_box(axes, (left, 38), 30, 28, *owner)
    named = _("Sequence {seq_id!r}: {status}").format(seq_id=seq.seq_id, status=seq.status)
    axes.text(left + 1.5, 63.2, named, va="center", fontsize=12, weight="bold")
    holds = _("seed {seed}, block table {block_ids}").format(seed=seq.seed, block_ids=seq.block_ids)
    axes.text(left + 1.5, 59.6, holds, va="center", fontsize=12)
    rounded_box(axes, (left + 1.5, 40), 27, 16.5, GREY, "-")
    data = seq.data
    words = "".join(_words(llm, data.output_token_ids))
    lines = [
        "SequenceData",
        _("prompt_token_ids: {count} tokens").format(count=data.get_prompt_len()),
        _("output_token_ids: {count} tokens").format(count=data.get_output_len()),
        f"  {words}",
    ]
    for row, text in enumerate(lines):
        weight = "bold" if row == 0 else "normal"
        axes.text(left + 2.7, 54 - 3.8 * row, text, va="center", fontsize=11, weight=weight)


def plot_block_tables(llm: LLM, output: RequestOutput, steps: Listed[int]) -> Image:
    """Draw the block tables of the one request that ``llm`` recorded, a frame for each of ``steps``."""
    size, chosen = _size_of(llm), [recorded(llm)[number] for number in steps]
    each_tables = [[seq.block_table for seq in step.sequences] for step in chosen]
    blocks_width = (_BLOCK_WIDTH + _BLOCK_GAP) * len({*chain(*chain(*each_tables))})
    width = max(blocks_width, 20.0 * max(map(len, each_tables))) + 2
    places = _places(each_tables, width)
    figure, frames = new_figure(0.11 * width, 3.1 * len(steps), nrows=len(steps), squeeze=False)
    told = []
    for axes, step, tables in zip(frames[:, 0], chosen, each_tables, strict=True):
        slots = _slots(llm, _computed(output, step))
        starts = []
        for i, seq in enumerate(step.sequences):
            color, line = _OWNERS[i]
            place = (width * (i + 0.5) / len(tables), 29.0)
            rounded_box(axes, (place[0] - 9, 29), 18, 5, color, line)
            axes.text(
                place[0], 31.5, _("sequence {seq_id}").format(seq_id=seq.seq_id), ha="center", va="center", fontsize=12
            )
            starts.append(place)
        _draw_blocks(axes, tables, slots, size, starts, places)
        copied = (
            _(", blocks copied: {blocks_copied}").format(blocks_copied=step.blocks_copied) if step.blocks_copied else ""
        )
        axes.set_title(
            _("after step {step}{copied}").format(step=step.step, copied=copied), loc="left", fontsize=12, weight="bold"
        )
        axes.set(xlim=(0, width), ylim=(-3, 35))
        axes.axis("off")
        each = listed(f"{seq.seq_id} {list(seq.block_table)}" for seq in step.sequences)
        told.append(
            _("after step {step} the block tables are {each}{copied}").format(step=step.step, each=each, copied=copied)
        )
    frames[0, 0].set_title(_("grey: shared, ×3: three holders"), loc="right", fontsize=12)
    return show(
        figure,
        _("Block tables of {num_tables} sequences of one request: {told}.").format(
            num_tables=len(tables), told=clauses(told)
        ),
    )


def _computed(output: RequestOutput, step: StepRecord) -> list[tuple[list[int], tuple[int, ...]]]:
    """Return for each sequence the tokens that are in its blocks, and its table."""
    assert output.prompt_token_ids is not None
    return [
        ((output.prompt_token_ids + completion.token_ids)[: seq.num_computed_tokens], seq.block_table)
        for seq, completion in zip(step.sequences, output.outputs, strict=True)
    ]


def _slots(llm: LLM, computed: list[tuple[list[int], tuple[int, ...]]]) -> Slots:
    """Return what stands in each block. computed: the tokens of a sequence that were computed, and its block table."""
    size = _size_of(llm)
    return {
        block: _words(llm, tokens[i * size : (i + 1) * size])
        for tokens, table in computed
        for i, block in enumerate(table)
    }


def _places(each_tables: Listed[Listed[tuple[int, ...]]], width: float) -> dict[int, float]:
    """Return how far from the left each block stands: in the order of those who hold it, so that few arrows cross.

    each_tables: the tables of each moment that is drawn; a block keeps its place.  width: of the sheet.
    """
    holders: dict[int, list[int]] = {}
    for tables in each_tables:
        for i, table in enumerate(tables):
            for block in table:
                holders.setdefault(block, []).append(i)
    order = sorted(holders, key=lambda block: (mean(holders[block]), block))
    first = (width - (_BLOCK_WIDTH + _BLOCK_GAP) * len(order) + _BLOCK_GAP) / 2
    return {block: first + (_BLOCK_WIDTH + _BLOCK_GAP) * place for place, block in enumerate(order)}


def _draw_blocks(
    axes: Axes,
    tables: Listed[tuple[int, ...]],
    slots: Slots,
    size: int,
    starts: Listed[tuple[float, float]],
    left: Mapping[int, float],
) -> None:
    """Draw the blocks below, each a column of ``size`` slots, and an arrow to each from whoever holds it.

    left: how far from the left each block stands.
    """
    top = size * _SLOT_HEIGHT
    for block, words in slots.items():
        holders = [i for i, table in enumerate(tables) if block in table]
        own = _OWNERS[holders[0]] if len(holders) == 1 else None
        for row in range(size):
            filled = row < len(words)
            look: dict[str, Any] = {"facecolor": "white", "edgecolor": GREY, "linewidth": 1}
            if filled:
                look["facecolor"] = _PALE[own[0]] if own else "#e6e6e6"
            place = (left[block], top - (row + 1) * _SLOT_HEIGHT)
            axes.add_patch(Rectangle(place, _BLOCK_WIDTH, _SLOT_HEIGHT, **look))
            if filled:
                middle = (place[0] + _BLOCK_WIDTH / 2, place[1] + _SLOT_HEIGHT / 2)
                axes.text(*middle, words[row], ha="center", va="center", fontsize=11, family="monospace")
        border: dict[str, Any] = {"fill": False, "edgecolor": own[0] if own else "black", "linewidth": 2}
        border["linestyle"] = own[1] if own else "-"
        axes.add_patch(Rectangle((left[block], 0), _BLOCK_WIDTH, top, **border))
        label = (
            _("block {block}").format(block=block)
            if own
            else _("block {block}: ×{num_holders}").format(block=block, num_holders=len(holders))
        )
        axes.text(left[block] + _BLOCK_WIDTH / 2, -1.6, label, ha="center", va="center", fontsize=11, weight="bold")
    for i, table in enumerate(tables):
        for number, block in enumerate(sorted(table, key=left.__getitem__)):
            # Both ends lie side by side, so that arrows from one box, or to a shared block, can be counted.
            start = (starts[i][0] + 4 * (number - (len(table) - 1) / 2), starts[i][1])
            end = (left[block] + _BLOCK_WIDTH * (i + 1) / (len(tables) + 1), top + 0.2)
            _draw_arrow(axes, start, end, *_OWNERS[i])


def _draw_arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], color: str, line: str) -> None:
    """Draw an arrow of some kind of line, with a solid head: a dotted one would be a few dots."""
    neck = end[0] + 0.05 * (start[0] - end[0]), end[1] + 0.05 * (start[1] - end[1])
    axes.plot(*zip(start, neck, strict=True), color=color, linestyle=line, linewidth=1.8)
    head = {"arrowstyle": "-|>", "mutation_scale": 20, "color": color, "linewidth": 1.8, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", end, neck, arrowprops=head)


def _words(llm: LLM, token_ids: list[int]) -> list[str]:
    return [visible_token(llm.get_tokenizer(), token_id) for token_id in token_ids]


def _size_of(llm: LLM) -> int:
    return llm.llm_engine.config.cache_config.block_size
