"""The static figures of chapter 02, from the engine's own functions."""

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from string import ascii_uppercase

import numpy as np
from IPython.display import Image
from matplotlib.axes import Axes
from numpy.typing import NDArray
from torch import Tensor

from folovllm.config import SamplingOrder
from folovllm.course.distribution import Distribution, make_distribution
from folovllm.course.style import BLUE, GREEN, GREY, ORANGE, new_figure, show
from folovllm.course.token_text import token_fonts, visible_text
from folovllm.engine.detokenizer import decode_token, find_stop
from folovllm.language import _, clauses, labelled, listed, sentences
from folovllm.llm import LLM
from folovllm.sampling.metadata import SamplingMetadata, SamplingRow
from folovllm.sampling.sampler import adjust_logits
from folovllm.sampling_params import SamplingParams

_LOOKS = ((BLUE, "///"), (ORANGE, "..."), (GREEN, ""))
_MARKERS = "osD^"
_PALE = "#DDDDDD"
_IN_FRONT = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}


def plot_draw(
    llm: LLM, prompt: str, settings: Mapping[str, SamplingParams], numbers: Sequence[float] = (), num_named: int = 3
) -> Image:
    """Show what a draw is: the vocabulary side by side on a strip from 0 to 1, one strip per setting.

    numbers: places on the strip that random numbers point to; the tokens that they draw are named.
    num_named: likeliest tokens that get a name; all others are grey. Tokens stand in the order of their ids, as the
    engine's draw adds them up.
    """
    logits = llm.compute_logits(prompt).cpu()
    shapes = [make_distribution(logits, params) for params in settings.values()]
    named = np.sort(np.argsort(-shapes[0].before, kind="stable")[:num_named])
    names = [_name(llm, token) for token in named]
    figure, axes = new_figure(10, 1.6 + 0.75 * len(shapes))
    told = []
    for row, (label, shape) in enumerate(zip(settings, shapes, strict=True)):
        _draw_strip(axes, row, shape, named, names)
        rest = max(0.0, 1 - float(shape.after[named].sum()))
        shares = listed(f"{name} {shape.after[token]:.0%}" for name, token in zip(names, named, strict=True))
        drawn = [_name(llm, token) for token in shape.draw(numbers)] if numbers else []
        for number, name in zip(numbers, drawn, strict=True):
            axes.text(
                number + 0.008,
                row - 0.31,
                _("draws {name}").format(name=name),
                va="bottom",
                fontsize=12,
                family=token_fonts(),
            )
        told.append(
            _("{label}: {shares}, all others {rest:.0%}").format(label=label, shares=shares, rest=rest)
            + "".join(_(", drawn: {name}").format(name=name) for name in drawn)
        )
    for number in numbers:
        axes.axvline(number, color="black", linestyle="--", linewidth=1.5)
        axes.text(number, -0.64, f"{number:.3f}", ha="center", va="bottom", fontsize=12)
    axes.set_yticks(range(len(shapes)), list(settings), fontsize=12)
    axes.set(xlim=(-0.005, 1.005), ylim=(len(shapes) - 0.55, -0.6), xlabel=_("place on the strip"))
    axes.set_title(
        _("{prompt} …    (grey: the other {num_logits:,} tokens)").format(
            prompt=prompt, num_logits=len(logits) - num_named
        ),
        pad=24 if numbers else 8,
    )
    pointed = (
        _("Random numbers point to {numbers}.").format(numbers=listed(f"{number:.3f}" for number in numbers))
        if numbers
        else ""
    )
    alt = _("After {prompt!r}, the strip from 0 to 1 divided among tokens. {told}.").format(
        prompt=prompt, told=clauses(told)
    )
    return show(figure, sentences(alt, pointed))


def _draw_strip(axes: Axes, row: int, shape: Distribution, named: NDArray[np.int64], names: Sequence[str]) -> None:
    """Draw one distribution as a strip: all of it in grey, the named tokens over it, each where it stands."""
    upper = np.cumsum(shape.after)
    axes.barh(row, 1, 0.6, color=_PALE)
    for token, name, (color, hatch) in zip(named, names, cycle(_LOOKS), strict=False):
        width, left = shape.after[token], upper[token] - shape.after[token]
        axes.barh(row, width, 0.6, left=left, color=color, hatch=hatch, edgecolor="white", linewidth=0.5)
        if width > 0.012 * len(name):
            middle = left + width / 2
            axes.text(middle, row, name, ha="center", va="center", fontsize=12, family=token_fonts(), bbox=_IN_FRONT)


def plot_filters(
    probs: Tensor, settings: Mapping[str, SamplingParams], orders: Mapping[str, SamplingOrder] | None = None
) -> Image:
    """Show what each setting makes of a few tokens: which stay, and where the probability of the others goes.

    probs: [num_tokens], together 1.  orders: those of settings that do not run their filters in Hugging Face's.
    """
    rows = {_("the model"): SamplingParams(), **settings}
    order: dict[str, SamplingOrder] = dict.fromkeys(rows, "huggingface")
    order.update(orders or {})
    names = ascii_uppercase[: len(probs)]
    shapes = [make_distribution(probs.double().log(), params, order[label]) for label, params in rows.items()]
    widest = max(float(shape.after.max()) for shape in shapes) * 1.12
    figure, axes = new_figure(10, 1.1 + 0.72 * len(rows))
    told = []
    for row, (label, shape) in enumerate(zip(rows, shapes, strict=True)):
        for place in range(len(probs)):
            _draw_token(axes, row, place, float(shape.before[place]), float(shape.after[place]), widest)
        after = " ".join(f"{name} {share:.0%}" for name, share in zip(names, shape.after, strict=True) if share)
        told.append(labelled(label, after))
    axes.set_yticks(range(len(rows)), list(rows), fontsize=12)
    axes.set_xticks([])
    axes.spines[["bottom", "left"]].set_visible(False)
    axes.tick_params(left=False)
    for place, name in enumerate(names):
        axes.text(place, -0.72, _("token {name}").format(name=name), fontsize=12, fontweight="bold")
    axes.set(xlim=(-0.05, len(probs)), ylim=(len(rows) - 0.45, -0.85))
    axes.set_xlabel(_("dotted outline: what the model gave.  filled: what the token is drawn with.  (rounded)"))
    return show(
        figure,
        _("{num_probs} tokens under several settings, with what is left of each. {told}.").format(
            num_probs=len(probs), told=clauses(told)
        ),
    )


def _draw_token(axes: Axes, row: int, place: int, before: float, after: float, widest: float) -> None:
    """Draw one token's bar: an outline for what the model gave it, filled as far as it is drawn now."""
    if after:
        axes.barh(row + 0.12, after / widest, 0.4, left=place, color=BLUE, hatch="///", edgecolor="white")
    axes.barh(row + 0.12, before / widest, 0.4, left=place, fill=False, edgecolor="black", linestyle=":", linewidth=1.5)
    text, color = (f"{after:.0%}", "black") if after else (_("✗ dropped"), "#555555")
    axes.text(place, row - 0.12, text, fontsize=12, va="bottom", color=color)


def plot_penalties(
    llm: LLM,
    prompt_token_ids: Sequence[int],
    output_token_ids: Sequence[int],
    settings: Mapping[str, SamplingParams],
    num_tokens: int = 6,
) -> Image:
    """Show where penalties move the logits of the likeliest next tokens, one marker per setting."""
    logits = llm.compute_logits([*prompt_token_ids, *output_token_ids]).cpu()
    moved = {label: _adjusted(logits, params, prompt_token_ids, output_token_ids) for label, params in settings.items()}
    best = {label: _name(llm, int(each.argmax())) for label, each in moved.items()}
    tokens = logits.topk(num_tokens).indices.tolist()
    figure, axes = new_figure(10, 1.5 + 0.5 * num_tokens)
    looks = zip(_MARKERS, (GREY, BLUE, ORANGE, GREEN), strict=True)
    for i, ((label, each), (marker, color)) in enumerate(zip(moved.items(), looks, strict=False)):
        places = np.arange(num_tokens) + 0.18 * (i - (len(moved) - 1) / 2)
        look = {"color": color, "markersize": 9, "markeredgecolor": "black"}
        axes.plot(each[tokens], places, marker, label=labelled(label, best[label]), **look)
    counts = [list(output_token_ids).count(token) for token in tokens]
    labels = [f"{_name(llm, token)}  ×{count}" for token, count in zip(tokens, counts, strict=True)]
    axes.set_yticks(range(num_tokens), labels, family=token_fonts(), fontsize=12)
    axes.set(
        xlabel=_("logit of the next token"), ylabel=_("token × times in the output"), ylim=(num_tokens - 0.5, -0.5)
    )
    axes.grid(axis="x", alpha=0.4)
    looks_of_legend = {"ncols": 2, "fontsize": 11, "title_fontsize": 11, "frameon": False}
    figure.legend(loc="outside upper center", title=_("setting: which token is then the likeliest"), **looks_of_legend)
    told = clauses(_("{label}: {name} has the largest").format(label=label, name=name) for label, name in best.items())
    return show(
        figure,
        _("Logits of {labels} under {num_settings} settings. {told}.").format(
            labels=listed(labels), num_settings=len(settings), told=told
        ),
    )


def _adjusted(logits: Tensor, params: SamplingParams, prompt: Sequence[int], output: Sequence[int]) -> Tensor:
    """Return one row of logits, [vocab], as a request's penalties leave them."""
    row = logits[None].float().clone()
    request = SamplingRow(params, prompt, output, uniform=0.0)
    adjust_logits(row, SamplingMetadata.build([request], row.shape[-1], row.device))
    return row[0]


def plot_kept(llm: LLM, prompts: list[str], settings: Mapping[str, SamplingParams]) -> Image:
    """Show how many tokens each setting keeps, for several prompts: one bar each."""
    figure, axes = new_figure(10, 1.2 + 0.6 * len(settings))
    told = []
    for i, (prompt, (color, hatch)) in enumerate(zip(prompts, _LOOKS, strict=False)):
        logits = llm.compute_logits(prompt).cpu()
        kept = [make_distribution(logits, params).num_kept for params in settings.values()]
        places = np.arange(len(settings)) + 0.36 * (i - (len(prompts) - 1) / 2)
        bars = axes.barh(places, kept, 0.34, color=color, hatch=hatch, edgecolor="white", label=prompt)
        axes.bar_label(bars, padding=4, fontsize=11)
        told.append(labelled(_("after {prompt!r}").format(prompt=prompt), listed(kept)))
    axes.set_yticks(range(len(settings)), list(settings), fontsize=12)
    axes.set(xlabel=_("tokens kept"))
    axes.set_ylim(len(settings) - 0.45, -0.55)
    figure.legend(loc="outside upper center", ncols=len(prompts), fontsize=11, frameon=False)
    return show(figure, _("Tokens that {settings} keep, {told}.").format(settings=listed(settings), told=clauses(told)))


def plot_repetition(
    llm: LLM, prompt_token_ids: Sequence[int], output_token_ids: Sequence[int], parts: Mapping[str, slice]
) -> Image:
    """Show which probability the model itself gave to each token, when it came first and when it came again.

    parts: pieces of the output that have the same tokens, to be compared.
    """
    judge = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0)
    [read] = llm.generate([[*prompt_token_ids, *output_token_ids]], judge, use_tqdm=False)
    judged = (read.prompt_logprobs or [])[len(prompt_token_ids) :]
    given = [math.exp(each[token].logprob) for each, token in zip(judged, output_token_ids, strict=True) if each]
    figure, axes = new_figure(10, 4.2)
    told = []
    for (label, part), marker, (color, _hatch) in zip(parts.items(), _MARKERS, _LOOKS, strict=False):
        shares = given[part]
        together = _("multiplied: {product}").format(
            product=np.format_float_positional(np.prod(shares), precision=2, fractional=False)
        )
        named = _("{label} ({together})").format(label=label, together=together)
        axes.plot(shares, marker=marker, color=color, markersize=9, linewidth=1.2, label=named)
        told.append(
            _("{label} {least:.2f} to {most:.2f}, {together}").format(
                label=label, least=min(shares), most=max(shares), together=together
            )
        )
    names = [_name(llm, token) for token in output_token_ids[part]]
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", family=token_fonts(), fontsize=11)
    axes.set(ylabel=_("probability of the token"), xlabel=_("the tokens, in the order of the text"))
    axes.set(xlim=(-0.6, len(names) - 0.4), ylim=(-0.04, 1.04))
    axes.grid(axis="y", alpha=0.4)
    figure.legend(loc="outside upper center", ncols=len(parts), fontsize=11, frameon=False)
    return show(
        figure,
        _("The probability of each of {num_names} tokens. {told}.").format(num_names=len(names), told=clauses(told)),
    )


def plot_stop(text: str, stop: list[str]) -> Image:
    """Show where each stop string begins and is complete in a text that grows letter by letter."""
    found = find_stop(text, stop)
    kept = len(text) if found is None else found[0]
    figure, axes = new_figure(8, 1.0 + 0.6 * (1 + len(stop)))
    for place, letter in enumerate(text):
        color, hatch = (BLUE, "") if place < kept else (_PALE, "...")
        axes.barh(0, 0.94, 0.7, left=place + 0.03, color=color, hatch=hatch, edgecolor="white")
        axes.text(place + 0.5, 0, visible_text(letter), ha="center", va="center", fontsize=13, bbox=_IN_FRONT)
    told, labels = [], [_("the text")]
    for row, each in enumerate(stop, start=1):
        start, end = text.index(each), text.index(each) + len(each)
        axes.barh(row, len(each), 0.5, left=start, color=ORANGE, hatch="///", edgecolor="white")
        axes.plot([end, end], [0.5, row + 0.3], color="black", linestyle="--")
        labels.append(_("{each!r}\ncomplete after {end}").format(each=each, end=end))
        told.append(
            _("{each!r} begins after {start} characters and is complete after {end}").format(
                each=each, start=start, end=end
            )
        )
    axes.set_yticks(range(len(stop) + 1), labels, fontsize=12)
    axes.set(xlim=(-0.1, len(text) + 0.1), ylim=(len(stop) + 0.5, -0.6), xticks=[])
    axes.spines["bottom"].set_visible(False)
    axes.set_xlabel(
        _("blue: what stays.  dotted grey: what is cut off.\norange: a stop string.  dashed line: where it is complete")
    )
    return show(
        figure,
        _("The text {text!r} letter by letter. {told}. What stays is {kept!r}.").format(
            text=text, told=clauses(told), kept=text[:kept]
        ),
    )


def _name(llm: LLM, token: int) -> str:
    """Return a token's text as a label."""
    text = decode_token(llm.get_tokenizer(), int(token))
    return _("new line") if text == "\n" else visible_text(text)
