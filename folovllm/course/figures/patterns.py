"""The figures of chapter 06: what tells four patterns apart, what a token keeps, where a strategy sits, and the end."""

import itertools
import math
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from IPython.display import Image
from matplotlib.axes import Axes
from matplotlib.patches import Circle, Ellipse, FancyBboxPatch, Rectangle
from matplotlib.ticker import PercentFormatter

from folovllm.course.exercises.checks import EXERCISES
from folovllm.course.exercises.patterns.strategies import Strategy
from folovllm.course.move import Move
from folovllm.course.predictions.all_predictions import CHAPTERS
from folovllm.course.style import BLUE, GREY, ORANGE, new_figure, show
from folovllm.course.token_text import token_fonts, token_label
from folovllm.language import N_, _, clauses, labelled, listed, sentences
from folovllm.llm import LLM
from folovllm.models.probe import get_attention

_BYTES_PER_ID = 36
"""A slot of a list, and the number that it points to."""
_LINES = ((N_("weights"), GREY, "s"), (N_("keys and values"), ORANGE, "o"), (N_("token ids in a list"), BLUE, "^"))
_QUESTIONS = {
    N_("Builder"): N_("Is a thing unfinished first,\nand finished by a last step?"),
    N_("Strategy"): N_("Can one part take another's place,\nand the caller does not notice?"),
    N_("Factory"): N_("Does data decide\nwhich class is used?"),
    N_("State"): N_("Does each state have a class,\nwith a behaviour of its own?"),
}


def plot_patterns() -> Image:
    """Show four design patterns as small drawings, each with the question that tells it from the others."""
    figure, axes = new_figure(10, 5.4, nrows=2, ncols=2)
    drawings = (_draw_builder, _draw_strategy, _draw_factory, _draw_state)
    for panel, draw, (name, question) in zip(axes.flat, drawings, _QUESTIONS.items(), strict=True):
        _empty(panel, 10, 5)
        draw(panel)
        panel.set_title(_(name), fontsize=14, fontweight="bold")
        panel.text(5, 0.75, _(question), ha="center", va="center", fontsize=12)
    told = sentences(
        *(labelled(_(name), sentences(*_(question).splitlines())) for name, question in _QUESTIONS.items())
    )
    return show(
        figure,
        _(
            "Four small drawings, one per pattern, each with its question. Orange is what there is "
            "first, blue what is used in the end; a dashed border is unfinished or not in use. {told}"
        ).format(told=told),
    )


def _draw_builder(axes: Axes) -> None:
    _box(axes, 0.1, 1.9, 4.1, 2.7, _("a dict\nmax_num_seqs = 8\ndtype = ?"), ORANGE, "--")
    _arrow(axes, (4.25, 3.25), (5.75, 3.25), _("finish"))
    _box(axes, 5.8, 1.9, 4.1, 2.7, _("EngineConfig\nmax_num_seqs = 8\ndtype = float32"), BLUE)


def _draw_strategy(axes: Axes) -> None:
    _box(axes, 0.3, 2.2, 3.2, 2.1, "LLMEngine", GREY)
    _arrow(axes, (3.5, 3.25), (5.6, 3.25), _("calls"))
    _box(axes, 5.9, 3.4, 3.6, 1.2, "Sampler", BLUE)
    _box(axes, 5.9, 1.9, 3.6, 1.2, _("another one"), GREY, "--")


def _draw_factory(axes: Axes) -> None:
    _box(axes, 0.1, 2.45, 2.5, 1.6, _("config.json\nsays B"), ORANGE)
    _arrow(axes, (2.65, 3.25), (4.4, 3.25), _("looked\nup in"))
    _box(axes, 4.45, 2.45, 1.6, 1.6, _("table"), GREY)
    _arrow(axes, (6.1, 3.0), (7.15, 2.6), "")
    axes.text(6.5, 2.05, _("chooses"), ha="center", fontsize=11)
    _box(axes, 7.2, 3.5, 2.5, 1.1, _("class A"), GREY, "--")
    _box(axes, 7.2, 1.9, 2.5, 1.2, _("class B"), BLUE)


def _draw_state(axes: Axes) -> None:
    _box(axes, 0.2, 2.2, 3.6, 2.1, _("class Waiting\nnext(): ask"), ORANGE)
    _box(axes, 6.2, 2.2, 3.6, 2.1, _("class Running\nnext(): write"), BLUE)
    _arrow(axes, (4.0, 3.25), (6.0, 3.25), _("becomes"))


def plot_place() -> Image:
    """Show the stages between logits and token, the free place after the filters, and where vLLM has its own."""
    figure, axes = new_figure(10.5, 3.3)
    _empty(axes, 21, 6.4)
    stages = (
        (_("logits"), 0.15, GREY, "-"),
        (_("bans,\npenalties"), 3.5, GREY, "-"),
        (_("temperature"), 6.85, GREY, "-"),
        (_("top-k, top-p,\nmin-p"), 10.2, GREY, "-"),
        (_("refine:\nyour rule"), 13.55, ORANGE, "--"),
        (_("token"), 18.05, BLUE, "-"),
    )
    width = 2.75
    for name, left, color, style in stages:
        _box(axes, left, 2.6, width, 2.2, name, color, style)
    for (_before, left, *_more), (name, right, *_rest) in itertools.pairwise(stages):
        _arrow(axes, (left + width + 0.05, 3.7), (right - 0.05, 3.7), _("draw") if name == _("token") else "")
    _arrow(axes, (9.9, 5.6), (9.9, 3.95))
    axes.text(9.9, 5.75, _("in vLLM it runs here, and min-p before it (section 9)"), ha="center", fontsize=12)
    axes.plot([4.9, 4.9, 19.4], [2.5, 0.9, 0.9], color="black", lw=1.4)
    _arrow(axes, (19.4, 0.9), (19.4, 2.5))
    axes.text(
        12, 1.25, _("temperature 0: the likeliest token, without filters and without refine"), ha="center", fontsize=12
    )
    return show(
        figure,
        _(
            "Six boxes from left to right: logits; bans and penalties; temperature; top-k, top-p and "
            "min-p; refine, with a dashed border, the place for your rule; the token, which is "
            "drawn. An arrow between temperature and top-k says: in vLLM it runs here, and "
            "min-p before it (section 9). A line goes from the second box past all others: with temperature 0 the "
            "likeliest token is taken, without any filter and without refine."
        ),
    )


def plot_memory_growth(llm: LLM, lengths: Sequence[int] = (1, 10, 100, 1000, 10_000, 100_000)) -> Image:
    """Show the bytes that a text of so many tokens needs: as a list of ids, as keys and values, beside the weights."""
    model = llm.llm_engine.model_runner.model
    weights = sum(each.numel() * each.element_size() for each in model.parameters())
    per_token = get_attention(model).bytes_per_token(model.dtype)
    tokens = np.asarray(lengths)
    sizes = (np.full(len(tokens), weights), per_token * tokens, _BYTES_PER_ID * tokens)
    figure, axes = new_figure(9, 3.9)
    for (label, color, marker), values in zip(_LINES, sizes, strict=True):
        axes.loglog(tokens, values / 1e6, color=color, marker=marker, lw=2.5, label=_(label))
        axes.annotate(_(label), (tokens[-1], values[-1] / 1e6), (9, -4), textcoords="offset points", fontsize=12)
    equal = weights / per_token
    axes.plot([equal, equal], [1e-5, weights / 1e6], color="black", ls=":", lw=1.6)
    axes.text(equal * 1.15, 3e-5, _("{equal:,.0f} tokens").format(equal=round(equal, -2)), fontsize=12)
    between = {"arrowstyle": "<->", "lw": 1.6, "color": "black"}
    axes.annotate("", (100, _BYTES_PER_ID / 1e4), (100, per_token / 1e4), arrowprops=between)
    axes.text(115, 0.06, _("{times:,.0f} times").format(times=per_token / _BYTES_PER_ID), fontsize=12)
    axes.set_xticks(tokens, [f"{each:,}" for each in tokens])
    axes.set_yticks([1e-4, 1e-2, 1, 100, 1e4], [_("100 bytes"), _("10 kB"), _("1 MB"), _("100 MB"), _("10 GB")])
    axes.minorticks_off()
    axes.set(xlabel=_("tokens of all texts together"), ylabel=_("memory"), xlim=(0.7, 3e6), ylim=(1e-5, 3e4))
    alt = _(
        "Memory against tokens, both axes logarithmic. The weights are a flat line at "
        "{weights:.0f} MB. Keys and values rise by {per_token:,} bytes per token and cross it at "
        "about {equal:,.0f} tokens. Token ids rise in parallel, {times:,.0f} times lower."
    ).format(weights=weights / 1e6, per_token=per_token, equal=round(equal, -2), times=per_token / _BYTES_PER_ID)
    return show(figure, alt)


def plot_cut(
    llm: LLM, prompts: Sequence[str], epsilons: Sequence[float], strategy: Strategy, num_tokens: int = 12
) -> Image:
    """Show the likeliest next tokens of two prompts, and where a strategy cuts them for two epsilons.

    epsilons: the smaller one first. strategy: what decides; the lines only say where epsilon is.
    """
    mild, strict = epsilons
    figure, axes = new_figure(10, 4.4, ncols=len(prompts), sharey=True)
    told = []
    for panel, prompt in zip(axes, prompts, strict=True):
        logits = llm.compute_logits(prompt).cpu().float()
        kept = strategy(logits.expand(2, -1).clone(), torch.tensor([mild, strict])) > -math.inf
        probs = logits.double().softmax(dim=-1)
        head = probs.argsort(descending=True)[:num_tokens]
        looks = {
            _("kept by both"): (kept[1, head], BLUE, "o"),
            _("kept by {mild:g} only").format(mild=mild): ((kept[0] & ~kept[1])[head], ORANGE, "s"),
            _("dropped by both"): (~kept[0, head], GREY, "X"),
        }
        for label, (mask, color, marker) in looks.items():
            places = np.flatnonzero(mask.numpy())
            heights = probs[head][mask].numpy()
            panel.plot(places, heights, marker, color=color, ms=8, label=label)
        for epsilon in epsilons:
            panel.axhline(epsilon, color="black", ls="--", lw=1.2)
            panel.text(
                num_tokens - 0.4,
                epsilon * 1.08,
                _("epsilon {epsilon:g}").format(epsilon=epsilon),
                ha="right",
                fontsize=11,
            )
        names = [token_label(llm.get_tokenizer(), int(token)) for token in head]
        panel.set_xticks(range(num_tokens), names, rotation=55, ha="right", family=token_fonts(), fontsize=11)
        panel.set(title=prompt, yscale="log", ylim=(2e-3, 1), xlim=(-0.7, num_tokens - 0.3))
        panel.grid(axis="x", color="#eeeeee")
        panel.yaxis.set_major_formatter(PercentFormatter(1))
        many, few = (int(each.sum()) for each in kept)
        told.append(
            _("After {prompt!r}, {mild:g} keeps {many} tokens and {strict:g} {few}.").format(
                prompt=prompt, mild=mild, many=many, strict=strict, few=few
            )
        )
    axes[0].set_ylabel(_("probability"))
    handles, labels = axes[-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, fontsize=11, frameon=False)
    lines = _("with dashed lines at {mild:g} and {strict:g}").format(mild=mild, strict=strict)
    return show(
        figure,
        _("Dots for the {num_tokens} likeliest next tokens, logarithmic, {lines}. {told}").format(
            num_tokens=num_tokens, lines=lines, told=sentences(*told)
        ),
    )


def plot_move(move: Move) -> Image:
    """Show tokens per second of this engine and of vLLM, as recorded on one machine."""
    figure, axes = new_figure(9, 2.9)
    looks = {"folovllm": (ORANGE, "..."), "vllm": (BLUE, "///")}
    who = list(move.tokens_per_second)
    told = []
    for i, (name, (color, hatch)) in enumerate(looks.items()):
        values = [move.tokens_per_second[each][name] for each in who]
        places = np.arange(len(who)) + 0.38 * (i - 0.5)
        bars = axes.barh(places, values, 0.36, color=color, hatch=hatch, edgecolor="white", label=_(move.titles[name]))
        axes.bar_label(bars, fmt="%.0f", padding=4, fontsize=12)
        shares = listed(
            _("{value:.0f} for {each}").format(value=value, each=_(each))
            for each, value in zip(who, values, strict=True)
        )
        told.append(_("{label}: {words}.").format(label=_(move.titles[name]), words=shares))
    axes.set_yticks(range(len(who)), list(map(_, who)), fontsize=12)
    axes.invert_yaxis()
    axes.set_title(_(move.machine), fontsize=12)
    axes.set(xlabel=_("tokens per second, all readers together"), xlim=(0, 1.1 * axes.get_xlim()[1]))
    figure.legend(loc="outside upper center", ncols=2, fontsize=12, frameon=False)
    return show(
        figure,
        _("Bars of tokens per second, recorded on {machine}. {told}").format(
            machine=_(move.machine), told=sentences(*told)
        ),
    )


def plot_lantern(text: str) -> Image:
    """Hang a lantern with a text in it, and beside it what the whole course was."""
    lines = _course_in_numbers()
    figure, axes = new_figure(10, 4.6)
    _empty(axes, 22, 10)
    axes.add_patch(Rectangle((0, 0), 22, 10, color="#14213d"))
    for radius, alpha in ((5.2, 0.10), (4.6, 0.14), (4.0, 0.18)):
        axes.add_patch(Ellipse((6.5, 5), 2.3 * radius, 1.75 * radius, color="#ffb703", alpha=alpha, lw=0))
    axes.add_patch(Ellipse((6.5, 5), 10.4, 6.4, color="#c1121f"))
    for width in (10.4, 7.0, 3.4):
        axes.add_patch(Ellipse((6.5, 5), width, 6.4, fill=False, edgecolor="#e5383b", lw=1.2))
    for low in (1.55, 8.0):
        axes.add_patch(Rectangle((5, low), 3, 0.45, color="#ffb703"))
    axes.plot([6.5, 6.5], [8.45, 10], color="#ffb703", lw=2)
    for x in (5.6, 6.2, 6.8, 7.4):
        axes.plot([x, x], [1.55, 0.5], color="#ffb703", lw=1.6)
    wrapped = textwrap.fill(text.strip(), 30)
    axes.text(6.5, 5, wrapped, ha="center", va="center", fontsize=12.5, color="#fff3d6", linespacing=1.3)
    axes.text(13, 8.6, _("You built an engine."), fontsize=19, fontweight="bold", color="#ffd97d", va="center")
    for i, line in enumerate(lines):
        axes.text(13, 7.2 - 1.15 * i, line, fontsize=13, color="white", va="center")
    for x, y, size in ((12.4, 1.0, 0.07), (20.9, 9.2, 0.10), (1.0, 8.9, 0.09), (18.2, 0.8, 0.09), (11.9, 9.3, 0.07)):
        axes.add_patch(Circle((x, y), size, color="#fff3d6"))
    beside = _("Beside it: You built an engine. {lines}.").format(lines=clauses(lines))
    return show(
        figure,
        _("A red lantern glows at night. In it stands: {text} {beside}").format(text=text.strip(), beside=beside),
    )


def _course_in_numbers() -> list[str]:
    """Say what a learner has done who did all."""
    num_predictions = sum(map(len, CHAPTERS.values()))
    return [
        _("{num_chapters} chapters, {num_predictions} predictions").format(
            num_chapters=len(CHAPTERS), num_predictions=num_predictions
        ),
        _("{num_exercises} exercises, and a rule of your own").format(num_exercises=len(EXERCISES) - 1),
        _("135 million weights, read in each step"),
        _("46,080 bytes, kept for each token"),
        _("8 of 8 texts as on vLLM, at temperature 0"),
    ]


# -- how the drawings are made -----------------------------------------------------------------------------


def _empty(axes: Axes, width: float, height: float) -> None:
    """Make of axes a sheet of so many units."""
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.set_axis_off()


def _box(axes: Axes, x: float, y: float, width: float, height: float, text: str, color: str, style: str = "-") -> None:
    shape = "round,pad=0,rounding_size=0.25"
    light: dict[str, Any] = {"facecolor": f"{color}26", "edgecolor": color, "lw": 2, "ls": style}
    axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=shape, **light))
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=12)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], text: str = "") -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "lw": 1.6, "color": "black"})
    axes.text((start[0] + end[0]) / 2, start[1] + 0.35, text, ha="center", fontsize=12)
