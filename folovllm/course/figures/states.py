"""The figure of chapter 03 on statuses: every move that the engine's table allows, and why it is made."""

from typing import Any

from IPython.display import Image
from matplotlib.patches import FancyArrowPatch

from folovllm.course.style import BLUE, GREEN, new_figure, rounded_box, show
from folovllm.language import N_, _, clauses, sentences
from folovllm.request import ALLOWED_TRANSITIONS, SequenceStatus

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
    ("waiting", "finished_aborted"): (N_("user left, or\nrequest failed"), (8.0, 25.0), 0.0),
    ("running", "finished_aborted"): (N_("user left, or\nrequest failed"), (22.0, 18.0), 0.0),
    ("swapped", "finished_aborted"): (N_("user left, or\nrequest failed"), (32.0, 6.0), 0.0),
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
        boxes[str(status)] = rounded_box(axes, (x - 9, y - 4), 18, 8, GREEN if ended else BLUE, "--" if ended else "-")
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
