"""The plots, drawn from the same JSON as the tables, in the course's style."""

import io
import statistics
from typing import Any

from matplotlib.figure import Figure

from folovllm.course.style import BLUE, GREY, new_figure


def to_small_png(figure: Figure) -> bytes:
    """Draw a figure as a PNG of few kilobytes: full compression, no date."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None}, pil_kwargs={"optimize": True})
    return buffer.getvalue()


def plot_speed(data: dict[str, Any]) -> bytes:
    """Draw a panel a workload: tokens a second by engine, with minimum and maximum; the roofline where it applies."""
    speeds = data["tokens_per_second"]
    engines = list(data["peak_gib"])
    figure, grid = new_figure(
        2.4 * len(speeds) + 1, 0.4 * len(engines) + 1.6, ncols=len(speeds), sharey=True, squeeze=False
    )
    for axes, (name, by_engine) in zip(grid[0], speeds.items(), strict=True):
        middles = [statistics.median(by_engine[engine]) for engine in engines]
        below = [m - min(by_engine[e]) for m, e in zip(middles, engines, strict=True)]
        above = [max(by_engine[e]) - m for m, e in zip(middles, engines, strict=True)]
        colours = [BLUE if engine == "folovllm" else GREY for engine in engines]
        bars = axes.barh(engines, middles, xerr=(below, above), color=colours, ecolor="black", capsize=3)
        axes.bar_label(bars, fmt="%.0f", padding=4, fontsize=10)
        axes.margins(x=0.2)
        if name == "W1":
            bound = max(round_["one_stream"] for round_ in data["roofline"])
            axes.axvline(bound, color="black", linestyle="--", linewidth=1)
            axes.set_xlabel("tokens/s (dashed: roofline)")
        else:
            axes.set_xlabel("tokens/s")
        axes.set_title(name)
    grid[0][0].invert_yaxis()
    return to_small_png(figure)


def plot_growth(data: dict[str, Any]) -> bytes:
    """Draw a panel a table of ``growth.py``, both axes logarithmic: nothing may be steeper than the dotted line."""
    parts = data["parts"]
    figure, grid = new_figure(4.4 * len(parts), 4.2, ncols=len(parts), squeeze=False)
    for axes, part in zip(grid[0], parts, strict=True):
        for (name, points), marker in zip(part["costs"].items(), "osd^vx*", strict=False):
            sizes = [float(size) for size in points]
            axes.loglog(sizes, list(points.values()), marker=marker, label=name)
        top = max(max(points.values()) for points in part["costs"].values())
        axes.loglog([sizes[0], sizes[-1]], [top * sizes[0] / sizes[-1], top], ":", color=GREY, label="linear")
        axes.set_xlabel(part["title"])
        axes.set_xticks(sizes, [f"{size:g}" for size in sizes])
        axes.minorticks_off()
        # Above the panel: inside, it would hide a line.
        axes.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    grid[0][0].set_ylabel("milliseconds")
    return to_small_png(figure)


def plot_waits(data: dict[str, Any]) -> bytes:
    """Draw a bar a wait, with minimum and maximum."""
    seconds = data["seconds"]
    middles = [statistics.median(each) for each in seconds.values()]
    below = [middle - min(each) for middle, each in zip(middles, seconds.values(), strict=True)]
    above = [max(each) - middle for middle, each in zip(middles, seconds.values(), strict=True)]
    figure, axes = new_figure(9, 0.4 * len(seconds) + 0.8)
    colours = [BLUE if "folovllm" in name else GREY for name in seconds]
    axes.barh(list(seconds), middles, xerr=(below, above), color=colours, ecolor="black", capsize=3)
    axes.invert_yaxis()
    axes.set_xlabel("seconds, in a fresh process")
    return to_small_png(figure)
