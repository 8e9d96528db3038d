"""The static figures of chapter 03: the state machine and a beam search, from the engine's own table and texts."""

from typing import Any

from IPython.display import Image
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch

from folovllm.course.style import BLUE, GREEN, GREY, ORANGE, new_figure, show
from folovllm.course.widgets.sampling_explorer import visible_text
from folovllm.engine.detokenizer import decode_token
from folovllm.llm import LLM
from folovllm.outputs import RequestOutput
from folovllm.request import ALLOWED_TRANSITIONS, SequenceStatus

_PLACES = {
    "waiting": (0.0, 1.5),
    "running": (2.4, 2.4),
    "swapped": (2.4, 0.7),
    "finished_aborted": (2.4, -1.0),
    "finished_stopped": (5.2, 3.1),
    "finished_length_capped": (5.5, 1.5),
    "finished_ignored": (8.0, 2.4),
}


def plot_states() -> Image:
    """Draw the statuses of a sequence and every move that the engine's table allows."""
    figure, axes = new_figure(10, 4.6)
    moves = [(str(old), str(new)) for old, following in ALLOWED_TRANSITIONS.items() for new in sorted(following)]
    for old, new in moves:
        # Two that lead to and fro bend apart; the way from running to its abortion passes swapped by.
        bend = 0.18 if (new, old) in moves else -0.5 if (old, new) == ("running", "finished_aborted") else 0.0
        arrow: dict[str, Any] = {
            "arrowstyle": "-|>",
            "mutation_scale": 16,
            "shrinkA": 30,
            "shrinkB": 44,
            "linewidth": 1.5,
            "color": "#555555",
        }
        axes.add_patch(FancyArrowPatch(_PLACES[old], _PLACES[new], connectionstyle=f"arc3,rad={bend}", **arrow))
    for status in SequenceStatus:
        ended = status.is_finished()
        box: dict[str, Any] = {
            "boxstyle": "round,pad=0.5",
            "facecolor": "white",
            "edgecolor": GREEN if ended else BLUE,
            "linewidth": 2,
        }
        box["linestyle"] = "--" if ended else "-"
        axes.text(*_PLACES[status], status.replace("_", "\n", 1), ha="center", va="center", fontsize=11, bbox=box)
    axes.set(xlim=(-0.9, 9.0), ylim=(-1.6, 3.7))
    axes.axis("off")
    alt = "Statuses of a sequence and the moves between them: " + "; ".join(f"{old} to {new}" for old, new in moves)
    return show(figure, alt)


def plot_beams(llm: LLM, output: RequestOutput) -> Image:
    """Draw the results of a beam search as a tree: what they begin with in common is drawn once."""
    texts = [completion.token_ids for completion in output.outputs]
    depth = max(map(len, texts))
    figure, axes = new_figure(10, 1.0 + 0.75 * len(texts))
    order = sorted(range(len(texts)), key=lambda i: texts[i])
    height = {i: float(row) for row, i in enumerate(order)}
    _draw_branch(axes, llm, texts, list(height), height, 0, None)
    for rank, completion in enumerate(output.outputs):
        label = f"   {rank + 1}.  {completion.cumulative_logprob:.1f}"
        axes.text(len(completion.token_ids), height[rank], label, va="center", fontsize=11)
    axes.set(xlim=(-1.2, depth + 1.4), ylim=(len(texts) - 0.4, -0.6))
    axes.axis("off")
    axes.set_title(f"{output.prompt} ...  (rank, log-probability)")
    shown = "; ".join(f"{i + 1}. {each.text!r}" for i, each in enumerate(output.outputs))
    return show(figure, f"Tree of the texts that won: {shown}")


def _draw_branch(
    axes: Axes,
    llm: LLM,
    texts: list[list[int]],
    members: list[int],
    height: dict[int, float],
    depth: int,
    origin: tuple[float, float] | None,
) -> None:
    """Draw the tokens at ``depth`` of texts that were equal so far, then what follows each of them."""
    here = sum(height[i] for i in members) / len(members)
    if origin is not None:
        axes.plot([origin[0], depth], [origin[1], here], color=GREY, linewidth=2, zorder=0)
    axes.plot(depth, here, "o", color=ORANGE if len(members) > 1 else BLUE, markersize=9)
    following: dict[int, list[int]] = {}
    for i in members:
        if len(texts[i]) > depth:
            following.setdefault(texts[i][depth], []).append(i)
    for token, group in following.items():
        there = sum(height[i] for i in group) / len(group)
        name = visible_text(decode_token(llm.get_tokenizer(), token))
        background = {"facecolor": "white", "pad": 1.5, "linewidth": 0}
        place = (depth + 0.55, here + 0.55 * (there - here))
        axes.text(*place, name, ha="center", va="center", family="monospace", fontsize=10, bbox=background)
        _draw_branch(axes, llm, texts, group, height, depth + 1, (depth, here))
