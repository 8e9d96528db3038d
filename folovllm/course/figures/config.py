"""The figures of chapter 01: who waits how long, what a token leaves in memory, which blocks are held; all from the
engine's own record (``record_history=True``) and its sizes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import accumulate, chain, pairwise
from statistics import median
from typing import Any

from IPython.display import Image
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch, Rectangle

from folovllm.config import EngineConfig
from folovllm.course.record import phase_of, recorded
from folovllm.course.style import BLUE, GREEN, GREY, ORANGE, new_figure, show
from folovllm.course.token_text import visible_text
from folovllm.engine.detokenizer import decode_token
from folovllm.engine.history import SequenceRecord, StepRecord
from folovllm.language import N_, _, clauses, listed
from folovllm.llm import LLM
from folovllm.sampling_params import SamplingParams

# -- time ----------------------------------------------------------------------------------------

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


# -- memory --------------------------------------------------------------------------------------


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
        words = [visible_text(decode_token(llm.get_tokenizer(), token)) for token in tokens]
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


# -- settings ------------------------------------------------------------------------------------

_READERS = {
    "model_config": N_("the model loader"),
    "cache_config": N_("the block manager"),
    "scheduler_config": N_("the scheduler"),
}


_WRONG: dict[str, Any] = {"facecolor": "#fce4b3", "edgecolor": ORANGE, "linewidth": 1.5, "linestyle": "--", "pad": 2}


def plot_config_layers(config: EngineConfig, marks: Mapping[str, str]) -> Image:
    """Draw the three groups in a config: their first fields with their values, and which part reads them.

    marks: what was wrong, by the name of the field; the field is framed, and it stands under its box.
    """
    figure, panels = new_figure(10, 3.4, ncols=3)
    layout: Any = figure.get_layout_engine()
    layout.set(rect=(0.015, 0.0, 0.97, 0.88))
    frame: dict[str, Any] = {"boxstyle": "round,pad=0,rounding_size=0.015", "facecolor": "none", "edgecolor": "black"}
    figure.add_artist(FancyBboxPatch((0.008, 0.215), 0.984, 0.70, linewidth=1.5, **frame))
    name_box = {"facecolor": "white", "edgecolor": "none", "pad": 4}
    figure.text(
        0.5, 0.915, type(config).__name__, ha="center", va="center", fontsize=13, fontweight="bold", bbox=name_box
    )
    told = []
    for axes, (name, reader) in zip(panels, _READERS.items(), strict=True):
        layer = getattr(config, name)
        names = [each.name for each in fields(layer)][:4]
        lines = [f"{each} = {getattr(layer, each)!r}" for each in names]
        axes.axis("off")
        axes.set(xlim=(0, 1), ylim=(0, 1))
        axes.text(0.5, 0.94, type(layer).__name__, ha="center", va="center", fontsize=13, fontweight="bold")
        axes.add_patch(Rectangle((0.04, 0.4), 0.92, 0.47, facecolor="#eeeeee", edgecolor=GREY))
        for i, (field, line) in enumerate(zip([*names, ""], [*lines, "..."], strict=True)):
            box = _WRONG if field in marks else None
            axes.text(0.5, 0.81 - 0.086 * i, line, ha="center", va="center", fontsize=11, bbox=box)
        wrong = [marks[each] for each in names if each in marks]
        axes.text(0.5, 0.33, "".join(wrong), ha="center", va="center", fontsize=11, style="italic")
        axes.annotate("", (0.5, 0.1), (0.5, 0.25), arrowprops={"arrowstyle": "-|>", "color": "black"})
        axes.text(0.5, 0.03, _(reader), ha="center", va="center", fontsize=12)
        told.append(
            _("{name} for {reader}: {names}").format(
                name=type(layer).__name__, reader=_(reader), names=listed([*lines, *wrong])
            )
        )
    return show(figure, _("EngineConfig holds three groups. {told}.").format(told=clauses(told)))
