"""The figures of chapter 03: layers, statuses, shared blocks and beams, from the engine's own objects and records."""

from collections.abc import Mapping
from collections.abc import Sequence as Listed
from itertools import accumulate, chain, pairwise, permutations
from statistics import mean
from typing import Any

from IPython.display import Image
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch, Rectangle

from folovllm.course.record import recorded
from folovllm.course.style import BLUE, GREEN, GREY, ORANGE, new_figure, show
from folovllm.course.widgets.sampling_explorer import visible_text
from folovllm.engine.detokenizer import decode_token
from folovllm.engine.history import StepRecord
from folovllm.language import N_, _, clauses, listed, sentences
from folovllm.llm import LLM
from folovllm.outputs import CompletionOutput, RequestOutput
from folovllm.request import ALLOWED_TRANSITIONS, Request, Sequence, SequenceStatus

_OWNERS = [(BLUE, "-"), (ORANGE, "--"), (GREEN, ":")]
"""Colour and line of the sequences of a request, in their order."""
_PALE = {BLUE: "#d6e8f4", ORANGE: "#fcefd0", GREEN: "#d3efe6"}

# -- request > sequences > data, and the blocks ---------------------------------------------------------------

_BLOCK_WIDTH, _BLOCK_GAP, _SLOT_HEIGHT = 12.4, 1.6, 4.2
Slots = dict[int, list[str]]
"""What stands in each block: a word for each token, as far as it is filled."""


def plot_request(llm: LLM, request: Request) -> Image:
    """Draw a live request: its sequences in it, their data in them, and arrows to the KV blocks that they hold."""
    seqs = request.sequences
    slots = _slots(llm, [(seq.get_token_ids()[: seq.num_computed_tokens], tuple(seq.block_ids)) for seq in seqs])
    figure, axes = new_figure(11, 7)
    _box(axes, (1, 36), 98, 39, "black", "-")
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
    _box(axes, (left, 38), 30, 28, *owner)
    named = _("Sequence {seq_id!r}: {status}").format(seq_id=seq.seq_id, status=seq.status)
    axes.text(left + 1.5, 63.2, named, va="center", fontsize=12, weight="bold")
    holds = _("seed {seed}, block table {block_ids}").format(seed=seq.seed, block_ids=seq.block_ids)
    axes.text(left + 1.5, 59.6, holds, va="center", fontsize=12)
    _box(axes, (left + 1.5, 40), 27, 16.5, GREY, "-")
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
            _box(axes, (place[0] - 9, 29), 18, 5, color, line)
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


def _box(axes: Axes, corner: tuple[float, float], width: float, height: float, color: str, line: str) -> Patch:
    look: dict[str, Any] = {"boxstyle": "round,pad=0,rounding_size=1", "facecolor": "white", "linewidth": 2}
    return axes.add_patch(FancyBboxPatch(corner, width, height, edgecolor=color, linestyle=line, **look))


def _words(llm: LLM, token_ids: list[int]) -> list[str]:
    return [visible_text(decode_token(llm.get_tokenizer(), token_id)) for token_id in token_ids]


def _size_of(llm: LLM) -> int:
    return llm.llm_engine.config.cache_config.block_size


# -- the statuses ---------------------------------------------------------------------------------------------

_PLACES = {
    "waiting": (8.0, 46.0),
    "running": (56.0, 46.0),
    "swapped": (56.0, 6.0),
    "finished_aborted": (8.0, 6.0),
    "finished_stopped": (92.0, 58.0),
    "finished_length_capped": (92.0, 34.0),
    "finished_ignored": (126.0, 46.0),
}
_WHY = {
    ("waiting", "running"): (N_("blocks and a seat are free"), (32.0, 46.0), 0.0),
    ("running", "waiting"): (
        N_("no block left (single text, or\nno room on the host), or\na step was interrupted:\nblocks are dropped"),
        (32.0, 57.4),
        0.46,
    ),
    ("running", "swapped"): (N_("no block left,\nseveral texts:\nblocks move\nto the host"), (61.5, 26.0), -0.25),
    ("swapped", "running"): (N_("blocks\nare free\nagain"), (50.5, 26.0), -0.25),
    ("swapped", "waiting"): (N_("a step was\ninterrupted"), (22.0, 34.0), 0.0),
    ("waiting", "finished_aborted"): (N_("user left"), (8.0, 25.0), 0.0),
    ("running", "finished_aborted"): (N_("user left"), (22.0, 18.0), 0.0),
    ("swapped", "finished_aborted"): (N_("user left"), (32.0, 6.0), 0.0),
    ("running", "finished_stopped"): (N_("EOS, stop token\nor stop string"), (74.0, 52.0), 0.0),
    ("running", "finished_length_capped"): (N_("max_tokens\nreached"), (74.0, 40.0), 0.0),
    ("finished_stopped", "finished_ignored"): (N_("not among\nthe best n"), (108.0, 52.4), 0.0),
    ("finished_length_capped", "finished_ignored"): (N_("not among\nthe best n"), (108.0, 39.6), 0.0),
}
"""For each move of the engine's table: why it happens, where that is written, how the arrow bends."""


def plot_states() -> Image:
    """Draw the statuses of a sequence and every move that the engine's table allows, with the reason for it."""
    figure, axes = new_figure(12, 6.2)
    boxes = {}
    for status in SequenceStatus:
        x, y = _PLACES[status]
        ended = status.is_finished()
        boxes[str(status)] = _box(axes, (x - 9, y - 4), 18, 8, GREEN if ended else BLUE, "--" if ended else "-")
        axes.text(
            x, y, status.replace("_", "\n", 1).replace("_", " "), ha="center", va="center", fontsize=12, weight="bold"
        )
    moves = [(str(old), str(new)) for old, following in ALLOWED_TRANSITIONS.items() for new in sorted(following)]
    for old, new in moves:
        why, place, bend = _WHY[old, new]
        arrow: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 16, "linewidth": 1.6, "color": "#555555"}
        ends: dict[str, Any] = {"patchA": boxes[old], "patchB": boxes[new], "shrinkA": 1, "shrinkB": 1}
        style = f"arc3,rad={bend}"
        axes.add_patch(FancyArrowPatch(_PLACES[old], _PLACES[new], connectionstyle=style, **ends, **arrow))
        background = {"facecolor": "white", "pad": 1.5, "linewidth": 0}
        axes.text(*place, _(why), ha="center", va="center", fontsize=11, bbox=background)
    axes.set(xlim=(-2, 136), ylim=(1, 63))
    axes.axis("off")
    told = clauses(
        _("{old} to {new}: {why}").format(old=old, new=new, why=sentences(*_(_WHY[old, new][0]).splitlines()))
        for old, new in moves
    )
    return show(
        figure, _("Statuses of a sequence, the moves between them and their reasons. {told}.").format(told=told)
    )


# -- beam search ----------------------------------------------------------------------------------------------


def plot_race(llm: LLM, greedy: CompletionOutput, best: Sequence) -> Image:
    """Draw how the log-probability of a greedy text and of the best beam fall, token by token."""
    figure, axes = new_figure(11, 4.6)
    assert greedy.logprobs is not None
    values = [entry[token].logprob for entry, token in zip(greedy.logprobs, greedy.token_ids, strict=True)]
    lines = {
        _("greedy"): (greedy.token_ids, list(accumulate(values)), ORANGE, "s--"),
        _("best beam"): (best.data.output_token_ids, list(accumulate(best.token_logprobs)), BLUE, "o-"),
    }
    for name, (_tokens, sums, color, look) in lines.items():
        axes.plot(range(1, len(sums) + 1), sums, look, color=color, linewidth=2.5, markersize=9, label=name)
    for (tokens, sums, *_look), (_others, others, *_its) in permutations(lines.values()):
        for place, (total, other, word) in enumerate(zip(sums, others, _words(llm, tokens), strict=True)):
            above = total > other - 1e-3  # the same token of both is written once over the other
            how: dict[str, Any] = {"ha": "center", "va": "bottom" if above else "top", "family": "monospace"}
            how["bbox"] = {"facecolor": "white", "pad": 0.5, "linewidth": 0}
            offset = (0, 10 if above else -10)
            axes.annotate(
                word, (place + 1, total), offset, textcoords="offset points", fontsize=13, weight="bold", **how
            )
    told = [
        _("{name} after each token: {line}").format(name=name, line=listed(f"{total:.2f}" for total in line[1]))
        for name, line in lines.items()
    ]
    axes.set(xlabel=_("token"), ylabel=_("log-probability of the text so far"))
    axes.margins(x=0.07, y=0.16)
    axes.legend(fontsize=12, loc="lower left", frameon=False)
    return show(figure, _("Two falling lines; {told}.").format(told=clauses(told)))


_FATES: dict[str, dict[str, Any]] = {
    N_("lives to the end"): {"edgecolor": BLUE, "linestyle": "-", "linewidth": 3},
    N_("the greedy text, where it goes alone"): {"edgecolor": ORANGE, "linestyle": "--", "linewidth": 3},
    N_("dies"): {"edgecolor": GREY, "linestyle": ":", "linewidth": 2},
}


def plot_beams(llm: LLM, alive: Listed[Listed[Sequence]], greedy: Listed[int]) -> Image:
    """Draw all texts that lived in each step of a beam search, best on top, and whom each continues.

    alive: the sequences after each step, best first; one that ended in an earlier step is left out.
    greedy: the tokens of the greedy text, whose path is marked.
    """
    alive = [[seq for seq in seqs if seq.data.get_output_len() == i] for i, seqs in enumerate(alive, start=1)]
    rows: list[list[tuple[int, ...]]] = [[()], *([tuple(seq.data.output_token_ids) for seq in step] for step in alive)]
    most = max(map(len, rows))
    figure, axes = new_figure(12, 1.2 + 0.95 * most)
    for step, (before, after) in enumerate(pairwise(rows)):
        for row, text in enumerate(after):
            look = _FATES[_fate(text, rows[-1], greedy)]
            ends = [step, step + 1], [before.index(text[:-1]), row]
            axes.plot(*ends, look["linestyle"], color=look["edgecolor"], linewidth=look["linewidth"], zorder=0)
            [word] = _words(llm, [text[-1]])
            label = f"{word}\n{alive[step][row].cumulative_logprob:.2f}"
            box = {"facecolor": "white", "boxstyle": "round,pad=0.45", **look, "linewidth": 2}
            how: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 11, "family": "monospace"}
            axes.text(step + 1, row, label, bbox=box, **how)
    handles = [Patch(facecolor="white", label=_(name), **look | {"linewidth": 2}) for name, look in _FATES.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=12, frameon=False)
    for step in range(1, len(rows)):
        axes.text(step, -0.6, _("step {step}").format(step=step), ha="center", va="center", fontsize=12, weight="bold")
    axes.plot(0, 0, "o", color="black", markersize=9)
    axes.text(-0.08, 0, _("prompt"), ha="right", va="center", fontsize=12)
    axes.set(xlim=(-0.6, len(rows) - 0.5), ylim=(most - 0.5, -0.8))
    axes.axis("off")
    told = [
        _("step {i}: {step}").format(i=i, step=listed(repr(_text(llm, text)) for text in step))
        for i, step in enumerate(rows)
        if i
    ]
    return show(
        figure,
        _("The texts that live after each step of a beam search, best first. {told}.").format(told=clauses(told)),
    )


def _fate(text: tuple[int, ...], winners: list[tuple[int, ...]], greedy: Listed[int]) -> str:
    """Say what becomes of a text, a key of the legend."""
    if any(winner[: len(text)] == text for winner in winners):
        return "lives to the end"
    return "the greedy text, where it goes alone" if text == tuple(greedy[: len(text)]) else "dies"


def _text(llm: LLM, token_ids: Listed[int]) -> str:
    return "".join(decode_token(llm.get_tokenizer(), token_id) for token_id in token_ids)
