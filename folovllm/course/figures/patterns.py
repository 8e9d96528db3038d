"""The figures of chapter 06, measured when they are drawn."""

import numpy as np
from IPython.display import Image

from folovllm.course.costs import compare_records, fill_array, grow_array, grow_list, seconds
from folovllm.course.style import BLUE, GREEN, ORANGE, new_figure, show

_GROWTH = (
    (grow_array, "array, np.append", ORANGE, "s"),
    (fill_array, "array of full length, filled", GREEN, "^"),
    (grow_list, "list, append", BLUE, "o"),
)


def plot_growth(lengths: tuple[int, ...] = (250, 1000, 4000, 16000)) -> Image:
    """Show the milliseconds to collect a text's tokens one by one, in a list and in arrays."""
    figure, axes = new_figure(8, 3.6)
    told = []
    for grow, label, color, marker in _GROWTH:
        times = [1000 * seconds(lambda grow=grow, length=length: grow(length)) for length in lengths]  # type: ignore[misc]
        axes.loglog(lengths, times, color=color, marker=marker, label=label)
        told.append(f"{label} {times[-1]:.2g} ms")
    axes.set(xlabel="tokens", ylabel="milliseconds in all", title="Collecting tokens one by one")
    axes.set_xticks(lengths, [f"{length:,}" for length in lengths])
    axes.minorticks_off()
    axes.legend(fontsize=11)
    alt = f"Time against number of tokens, both axes logarithmic; at {lengths[-1]:,} tokens: {', '.join(told)}."
    return show(figure, alt)


def plot_records() -> Image:
    """Show what four fields cost as a dict and as dataclasses: to make, to read, to keep."""
    costs = compare_records()
    figure, axes = new_figure(10, 3.2, ncols=3)
    places = np.arange(len(costs))
    panels = {
        "to make one (ns)": [cost.make_ns for cost in costs],
        "to read a field (ns)": [cost.read_ns for cost in costs],
        "to keep one (bytes)": [cost.num_bytes for cost in costs],
    }
    for panel, (title, values) in zip(axes, panels.items(), strict=True):
        bars = panel.barh(places, values, color=[ORANGE, BLUE, BLUE, BLUE], edgecolor="white")
        bars[0].set_hatch("///")
        panel.bar_label(bars, fmt="%.0f", padding=3, fontsize=10)
        panel.set_yticks(places, [cost.kind for cost in costs])
        panel.invert_yaxis()
        panel.set_title(title, fontsize=12)
        panel.set_xlim(0, 1.25 * max(values))
    told = "; ".join(f"{c.kind} {c.make_ns:.0f} ns, {c.read_ns:.0f} ns, {c.num_bytes:.0f} bytes" for c in costs)
    alt = f"Bars of what a record of four fields costs to make, to read and to keep: {told}."
    return show(figure, alt)
