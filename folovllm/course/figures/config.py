"""The figure of chapter 01 on settings: the groups in a config, and who reads them."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from IPython.display import Image
from matplotlib.patches import FancyBboxPatch, Rectangle

from folovllm.config import EngineConfig
from folovllm.course.style import GREY, ORANGE, new_figure, show
from folovllm.language import N_, _, clauses, listed

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
