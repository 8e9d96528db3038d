"""The figures of chapter 03 on beam search: a race of two texts, and the tree of those that live."""

from collections.abc import Sequence as Listed
from itertools import accumulate, pairwise, permutations
from typing import Any

from IPython.display import Image
from matplotlib.patches import Patch

from folovllm.course.style import BLUE, GREY, ORANGE, new_figure, show
from folovllm.course.token_text import visible_token
from folovllm.engine.detokenizer import decode_token
from folovllm.language import N_, _, clauses, listed
from folovllm.llm import LLM
from folovllm.outputs import CompletionOutput
from folovllm.request import Sequence


def plot_race(llm: LLM, greedy: CompletionOutput, best: Sequence) -> Image:
    """Draw how the log-probability of a greedy text and of the best beam fall, token by token."""
    tokenizer = llm.get_tokenizer()
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
        for place, (total, other, token) in enumerate(zip(sums, others, tokens, strict=True)):
            above = total > other - 1e-3  # the same token of both is written once over the other
            how: dict[str, Any] = {"ha": "center", "va": "bottom" if above else "top", "family": "monospace"}
            how["bbox"] = {"facecolor": "white", "pad": 0.5, "linewidth": 0}
            offset = (0, 10 if above else -10)
            axes.annotate(
                visible_token(tokenizer, token),
                (place + 1, total),
                offset,
                textcoords="offset points",
                fontsize=13,
                weight="bold",
                **how,
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
            word = visible_token(llm.get_tokenizer(), text[-1])
            label = f"{word}\n{alive[step][row].cumulative_logprob:.2f}"
            box = {"facecolor": "white", "boxstyle": "round,pad=0.45", **look, "linewidth": 2}
            how: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 11, "family": "monospace"}
            axes.text(step + 1, row, label, bbox=box, **how)
    handles = [Patch(facecolor="white", label=_(name), **look | {"linewidth": 2}) for name, look in _FATES.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=12, frameon=False)
    for step in range(len(alive)):
        name = _("step {step}").format(step=step)
        axes.text(step + 1, -0.6, name, ha="center", va="center", fontsize=12, weight="bold")
    axes.plot(0, 0, "o", color="black", markersize=9)
    axes.text(-0.08, 0, _("prompt"), ha="right", va="center", fontsize=12)
    axes.set(xlim=(-0.6, len(rows) - 0.5), ylim=(most - 0.5, -0.8))
    axes.axis("off")
    told = [
        _("step {i}: {step}").format(i=i, step=listed(repr(_text(llm, text)) for text in step))
        for i, step in enumerate(rows[1:])
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
