"""The static figures of chapter 05: the way of a request, where its time goes, and who waits for whom."""

import html
import itertools
import math
import time
from collections.abc import Collection, Mapping, Sequence

from IPython.display import HTML, Image
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from transformers import PreTrainedTokenizerBase

from folovllm.collector import collector_paused
from folovllm.course.flow_diagram import describe_data_flow, draw_data_flow
from folovllm.course.record import recorded
from folovllm.course.style import BLUE, GREEN, GREY, ORANGE, new_figure, show
from folovllm.course.widgets.token_colours import probabilities_of
from folovllm.engine.detokenizer import Detokenizer, decode_token
from folovllm.engine.history import StepRecord
from folovllm.engine.input_processor import TokensPrompt
from folovllm.language import N_, _, clauses, counted, labelled, listed, sentences
from folovllm.llm import LLM
from folovllm.outputs import CompletionOutput
from folovllm.sampling_params import SamplingParams

_PARTS_OF_A_STEP = {
    N_("scheduler"): "schedule_ms",
    N_("model runner"): "forward_ms",
    N_("sampler"): "sample_ms",
    N_("sequence and text"): "postprocess_ms",
}


def plot_data_flow(
    here: str | Collection[str] | None = None, says: Mapping[str, str] | None = None, pin: str = N_("you are here")
) -> Image:
    """Show the map of the engine.

    here: what is lit up, one key of :data:`flow_diagram.PARTS` or several.  pin: what stands on the first of them.
    says: second lines of boxes, by such keys.
    """
    figure, axes = new_figure(10, 4.8)
    draw_data_flow(axes, here, pin).say(says or {})
    return show(figure, describe_data_flow(here, says, pin))


# -- where the time goes -----------------------------------------------------------------------------------


def plot_step_parts(llm: LLM) -> Image:
    """Show the median milliseconds of each part of the recorded steps that drew one token. llm: records its history."""
    steps = [step for step in recorded(llm) if step.num_batched_tokens == 1]
    times = {part: _median([getattr(step, name) for step in steps]) for part, name in _PARTS_OF_A_STEP.items()}
    said = {part: _say_share(value, sum(times.values())) for part, value in times.items()}
    figure, axes = new_figure(10, 2.9)
    places = range(len(times))[::-1]
    for place, (part, value) in zip(places, times.items(), strict=True):
        slow = part == "model runner"
        axes.plot(value, place, "s" if slow else "o", color=ORANGE if slow else BLUE, markersize=13)
        near = {"xytext": (-14, 0), "ha": "right"} if slow else {"xytext": (14, 0), "ha": "left"}
        axes.annotate(said[part], (value, place), textcoords="offset points", va="center", fontsize=12, **near)
    decades = [10.0 ** math.floor(math.log10(min(times.values()))), 10.0 ** math.ceil(math.log10(max(times.values())))]
    axes.set(xscale="log", xlim=decades, ylim=(-0.6, 3.6))
    axes.set_xlabel(_("milliseconds per step (from one line to the next 10 times as many)"))
    axes.set_yticks(places, list(map(_, times)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.grid(color="#DDDDDD")
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=12)
    told = clauses(f"{_(part)} {value}" for part, value in said.items())
    return show(
        figure, _("Milliseconds of each part of a step for one token, on a scale of tens: {told}.").format(told=told)
    )


def _say_share(ms: float, whole: float) -> str:
    """Say a time and its share of the whole."""
    return _("{ms:.{width}f} ms, {percent:.2g} %").format(ms=ms, width=0 if ms >= 10 else 2, percent=100 * ms / whole)


def time_steps(llm: LLM, sizes: tuple[int, ...], num_rounds: int = 2) -> tuple[list[float], list[float]]:
    """Return the forward milliseconds of steps with so many tokens: one per sequence, and all of one prompt.

    llm: it records its history.
    The fastest of some rounds, because other programs can only slow a step down. In a round both kinds take turns, so
    that a slow moment does not meet one of them alone.
    """
    decode, prefill = dict.fromkeys(sizes, math.inf), dict.fromkeys(sizes, math.inf)
    for _round in range(num_rounds):
        for size in sizes:
            llm.reset_prefix_cache()
            llm.generate(_prompt(5, size), _greedy(1), use_tqdm=False)
            prefill[size] = min(prefill[size], recorded(llm)[-1].forward_ms)
            llm.generate([_prompt(5 + i, 1) for i in range(size)], _greedy(3), use_tqdm=False)
            decode[size] = min(decode[size], *(step.forward_ms for step in recorded(llm)[-2:]))
    return list(decode.values()), list(prefill.values())


def plot_tokens_per_step(sizes: tuple[int, ...], decode: list[float], prefill: list[float]) -> Image:
    """Show what a step costs by the tokens in it, decoding and reading, and what that is per token."""
    figure, (left, right) = new_figure(10, 3.6, ncols=2)
    for times, label, color, style in (
        (prefill, _("one prompt of so many tokens"), ORANGE, "s--"),
        (decode, _("one token for so many sequences"), BLUE, "o-"),
    ):
        left.plot(range(len(sizes)), times, style, color=color, linewidth=2.5, markersize=9, label=label)
    left.set(
        title=_("one step"), xlabel=_("tokens in the step (4 times as many at each mark)"), ylabel=_("milliseconds")
    )
    left.set_ylim(0, 1.35 * max(decode + prefill))
    left.legend(fontsize=11, loc="upper left")
    per_token = [ms / size for ms, size in zip(decode, sizes, strict=True)]
    bars = right.bar(range(len(sizes)), per_token, 0.7, color=BLUE, hatch="///", edgecolor="white")
    right.bar_label(bars, [f"{ms:.1f}" for ms in per_token], padding=3, fontsize=12)
    right.set(title=_("per token, decoding"), xlabel=_("sequences in the step"), ylabel=_("milliseconds per token"))
    right.set_ylim(0, 1.15 * max(per_token))
    right.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    for axes in (left, right):
        axes.set_xticks(range(len(sizes)), map(str, sizes))
    told = listed(labelled(size, f"{ms:.1f}") for size, ms in zip(sizes, per_token, strict=True))
    read = listed(labelled(size, f"{ms:.0f}") for size, ms in zip(sizes, prefill, strict=True))
    more = listed(labelled(size, f"{ms:.0f}") for size, ms in zip(sizes, decode, strict=True))
    return show(
        figure,
        _(
            "Milliseconds of a step by the tokens in it. Reading a prompt: {read}. Decoding: {more}. "
            "Milliseconds per token when so many sequences decode: {told}."
        ).format(read=read, more=more, told=told),
    )


def time_with_and_without_cache(llm: LLM, prompt: str, num_tokens: int) -> tuple[list[float], list[float]]:
    """Return the milliseconds of every token with the KV cache, and when all is computed anew each time.

    llm: it records its history.  Both take turns, so that a slow moment does not meet one of them alone.
    """
    llm.compute_logits(prompt)  # who comes first waits for memory
    llm.reset_prefix_cache()
    anew = []
    with collector_paused():  # its look takes longer than a token, or ten
        for output in llm.stream(prompt, _greedy(num_tokens)):
            read = [*output.prompt_token_ids, *output.outputs[0].token_ids[:-1]]
            started = time.perf_counter()
            llm.compute_logits({"prompt_token_ids": read})
            anew.append(1000 * (time.perf_counter() - started))
    return [step.forward_ms for step in recorded(llm)[-num_tokens:]], anew


def plot_cache(cached: list[float], anew: list[float]) -> Image:
    """Show the cost of every token with the KV cache and without, and how it adds up."""
    figure, axes = new_figure(10, 3.4, ncols=2)
    for panel, title, summed in ((axes[0], _("each token"), False), (axes[1], _("all tokens so far"), True)):
        for times, label, color, style in ((anew, _("all anew"), ORANGE, "s--"), (cached, _("KV cache"), GREEN, "o-")):
            shown = [sum(times[: i + 1]) for i in range(len(times))] if summed else times
            panel.plot(range(1, len(times) + 1), shown, style, color=color, linewidth=2, markersize=5, label=label)
        panel.set(title=title, xlabel=_("new token"), ylim=(0, None))
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    for panel in axes:
        panel.set_ylabel(_("milliseconds"))
        panel.legend(fontsize=11)
    alt = _("Time of {num_cached} tokens: {cached:.0f} ms with the KV cache, {anew:.0f} ms without.").format(
        num_cached=len(cached), cached=sum(cached), anew=sum(anew)
    )
    return show(figure, alt)


# -- who waits for whom ------------------------------------------------------------------------------------


def plot_seats(runs: Mapping[str, Sequence[StepRecord]], arrivals: Mapping[str, int], num_seats: int) -> Image:
    """Show who sits where in each step, which seats are empty, and how many people wait.

    runs: the recorded steps of each way to serve the same requests.
    arrivals: request id -> step of its arrival; Anna is one of them.
    """
    figure, panels = new_figure(10, 2.5 * len(runs), nrows=len(runs), sharex=True, squeeze=False)
    longest = max(map(len, runs.values()))
    told = []
    for axes, (name, steps) in zip(panels[:, 0], runs.items(), strict=True):
        seated = seat(steps, num_seats)
        _draw_seats(axes, seated)
        for step in range(len(seated)):
            waiting = sum(arrives <= step for arrives in arrivals.values()) - len(_seen(seated[: step + 1]))
            axes.text(step + 0.5, 0.5, str(waiting or "·"), ha="center", va="center", fontsize=12)
        axes.axvline(arrivals["Anna"], color="#8A4B00", linestyle=":", linewidth=2, zorder=0.5)
        axes.text(arrivals["Anna"] + 0.15, num_seats + 1.3, _("Anna comes"), va="center", fontsize=11, color="#8A4B00")
        axes.set(title=name, xlim=(0, longest), ylim=(0, num_seats + 1.6))
        axes.set_yticks(
            [0.5, *(i + 1.5 for i in range(num_seats))],
            [_("waiting"), *(_("seat {i}").format(i=i + 1) for i in range(num_seats))],
        )
        axes.tick_params(labelsize=11, left=False, labelbottom=True)
        empty = sum(row.count(None) for row in seated)
        waits = listed(f"{who} {steps_waited(who, steps, arrivals)}" for who in arrivals)
        told.append(
            _("{name}: {num_steps} steps, {empty} empty seats, steps waited: {waits}.").format(
                name=name, num_steps=len(steps), empty=empty, waits=waits
            )
        )
    panels[-1, 0].set(xlabel=_("step"), xticks=range(0, longest + 1, 2))
    return show(
        figure,
        _("Who sits on which of {num_seats} seats in each step. {told}").format(
            num_seats=num_seats, told=sentences(*told)
        ),
    )


def steps_waited(who: str, steps: Sequence[StepRecord], arrivals: Mapping[str, int]) -> int:
    """Return how many steps somebody waited from the arrival to the first step that computed for them."""
    return next(i for i, step in enumerate(steps) if who in _running(step)) - arrivals[who]


def _running(step: StepRecord) -> list[str]:
    return [seq.request_id for seq in step.sequences if seq.num_scheduled_tokens]


def seat(steps: Sequence[StepRecord], num_seats: int) -> list[list[str | None]]:
    """Return who sits on each seat in each step: one keeps a seat to the end, a newcomer takes the first free one."""
    rows: list[list[str | None]] = []
    row: list[str | None] = [None] * num_seats
    for step in steps:
        runs = _running(step)
        row = [who if who in runs else None for who in row]
        for who in runs:
            if who not in row:
                row[row.index(None)] = who
        rows.append(list(row))
    return rows


def _seen(rows: list[list[str | None]]) -> set[str]:
    return {who for row in rows for who in row if who is not None}


def _draw_seats(axes: Axes, seated: list[list[str | None]]) -> None:
    for place in range(len(seated[0])):
        start = 0
        for who, group in itertools.groupby(row[place] for row in seated):
            length = len(list(group))
            _draw_stay(axes, who, start, place + 1, length)
            start += length


def _draw_stay(axes: Axes, who: str | None, start: int, below: int, length: int) -> None:
    box = Rectangle((start + 0.04, below + 0.08), length - 0.08, 0.84)
    box.set(facecolor=ORANGE if who == "Anna" else "#A9D0EA", edgecolor="#333333", linewidth=1.2)
    if who is None:
        box.set(facecolor="white", edgecolor=GREY, hatch="////")
    axes.add_patch(box)
    name = who or (_("empty") if length > 1 else "")
    label = axes.text(start + length / 2, below + 0.5, name, ha="center", va="center", fontsize=12)
    if who is None and name:
        label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 2})


# -- text as it comes ----------------------------------------------------------------------------------------


def stream_table(tokenizer: PreTrainedTokenizerBase, text: str, stop: list[str]) -> HTML:
    """Show what the engine's detokenizer makes of the tokens of a text, one row per token.

    A table and not a picture: the browser has fonts for every script.
    """
    token_ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    detokenizer = Detokenizer(tokenizer, [], SamplingParams(stop=stop))
    rows, arrived = [], 0
    for token_id in token_ids:
        detokenizer.update([token_id])
        size = len(tokenizer.convert_ids_to_tokens(token_id))  # byte-level BPE: a letter per byte
        new, arrived = text.encode()[arrived : arrived + size], arrived + size
        waiting = arrived - len(detokenizer.text.encode())
        shown = detokenizer.stable_text(finished=False)
        half = " + " + counted(waiting, "{n} byte", "{n} bytes") if waiting else ""
        held = detokenizer.text[len(shown) :]
        rows.append([str(token_id), new.hex(" "), detokenizer.text, f"{held}{half}", shown])
    table = _table([_("token"), _("its bytes"), _("characters so far"), _("held back"), _("shown")], rows)
    return HTML(table)  # type: ignore[no-untyped-call]


def _table(names: list[str], rows: list[list[str]]) -> str:
    style = "text-align: left; padding: 4px 14px; font-size: 15px; color: #222; background: {}"
    colors = ["#FFF", "#FFF", "#FFF", "#FFE9BF", "#D5EFE4"]
    head = "".join(f'<th scope="col" style="{style.format("#EEE")}">{name}</th>' for name in names)
    body = "".join(
        "<tr>"
        + "".join(
            f'<td style="{style.format(color)}">{html.escape(value)}</td>'
            for color, value in zip(colors, row, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def plot_probabilities(llm: LLM, completion: CompletionOutput) -> Image:
    """Show the probability of every token of a completion that was made with log-probabilities."""
    values = probabilities_of(completion)
    names = [repr(decode_token(llm.get_tokenizer(), token))[1:-1] for token in completion.token_ids]
    figure, axes = new_figure(10, 3.6)
    for low, high, color, hatch, label in (
        (0.5, 1.1, "#7FB6DA", "", _("50 % and more")),
        (0.1, 0.5, "#F5CE7A", "///", _("10 to 50 %")),
        (0.0, 0.1, "#D55E00", "xxx", _("below 10 %")),
    ):
        inside = [i for i, value in enumerate(values) if low <= value < high]
        axes.bar(inside, [values[i] for i in inside], 0.8, color=color, hatch=hatch, edgecolor="#333333", label=label)
    axes.set_xticks(range(len(values)), names, rotation=60, ha="right", rotation_mode="anchor", family="monospace")
    axes.set(ylabel=_("probability"), ylim=(0, 1.02), xlim=(-0.6, len(values) - 0.4))
    figure.legend(*axes.get_legend_handles_labels(), fontsize=11, ncols=3, loc="outside upper center", frameon=False)
    least = min(range(len(values)), key=values.__getitem__)
    alt = _("Probability of each of {num_values} tokens; the least one is {name!r} with {value:.0%}.").format(
        num_values=len(values), name=names[least], value=values[least]
    )
    return show(figure, alt)


def _greedy(max_tokens: int) -> SamplingParams:
    return SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True)


def _prompt(token_id: int, length: int) -> TokensPrompt:
    return {"prompt_token_ids": [token_id] * length}


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]
