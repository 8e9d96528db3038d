"""The figures of chapter 04b: the bits of a number, what rounding loses, a near-tie, and blocks of few bits."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from IPython.display import Image
from matplotlib.axes import Axes
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from folovllm.course.number_bits import BitsDrawing
from folovllm.course.style import BLUE, GREEN, GREY, ORANGE, new_figure, show, tidy
from folovllm.course.token_text import visible_token
from folovllm.language import _, clauses

_LOOKS = {"float32": (GREY, "-", "s"), "bfloat16": (GREEN, "--", "o"), "float16": (BLUE, "-.", "^")}
_MAGNITUDES: NDArray[np.float64] = np.exp2(np.arange(-32, 21, dtype=np.float64))


def plot_bits(number: float) -> Image:
    """Show the bits of one number in three formats, and which number they mean."""
    drawing = BitsDrawing()
    alt = drawing.write(number)
    return show(drawing.figure, alt)


def rounding_error(dtype: torch.dtype, magnitudes: NDArray[np.float64] = _MAGNITUDES) -> NDArray[np.float64]:
    """Return the largest relative error of storing a number between m and 2 m, for each magnitude m.

    1 where it becomes 0. Numbers beyond the dtype's largest are left out; infinite if all are.
    """
    values = torch.from_numpy(magnitudes[:, None] * np.linspace(1, 2, 500, endpoint=False))
    errors = (values.to(dtype).double() - values).abs() / values
    errors = errors.where(values <= torch.finfo(dtype).max, -torch.inf)
    largest: NDArray[np.float64] = errors.amax(dim=1).numpy()
    return np.where(largest < 0, np.inf, largest)


def _sizes(tensors: Sequence[Tensor]) -> tuple[float, float]:
    """Return the magnitude below which the smallest 0.5 % lie, judged by one number in 97, and the largest of all."""
    some = torch.cat([each.flatten()[::97] if each.numel() > 10**5 else each.flatten() for each in tensors])
    found = some.float().abs().cpu().numpy()
    return float(np.quantile(found[found > 0], 0.005)), max(float(each.abs().max()) for each in tensors)


@torch.inference_mode()
def plot_rounding(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str) -> Image:
    """Show each dtype's rounding error by magnitude, and below it which magnitudes the model's numbers have."""
    states = model(**tokenizer(prompt, return_tensors="pt").to(model.device), output_hidden_states=True).hidden_states
    inside = {_("weights"): list(model.parameters()), _("hidden states"): list(states)}
    figure, (axes, sizes) = new_figure(9.5, 4.8, nrows=2, height_ratios=(3, 1), sharex=True)
    for dtype, (color, line, marker) in _LOOKS.items():
        kind = getattr(torch, dtype)
        errors = 100 * rounding_error(kind)
        finite = np.isfinite(errors)
        ends = [*_MAGNITUDES[finite], min(torch.finfo(kind).max, 2 * _MAGNITUDES[-1])]
        shown = [*errors[finite], errors[finite][-1]]
        every: dict[str, Any] = {"marker": marker, "markevery": 6, "markersize": 6}
        axes.plot(ends, shown, line, color=color, linewidth=2.5, label=dtype, **every)
    for end, error in ((65504 * 3, 2.0**-11), (2.0**22, 2.0**-8), (2.0**22, 2.0**-24)):
        percent = np.format_float_positional(100 * error, precision=1, fractional=False, trim="-")
        axes.text(end, 100 * error, f"{percent} %", va="center", fontsize=12)
    axes.text(6e-8, 100, _("100 %: becomes 0"), va="center", fontsize=12)
    axes.plot(65504, 100 * 2.0**-11, "X", color="#A33B00", markersize=13, label=_("float16 ends: 65,504"))
    told = []
    for row, (name, tensors) in enumerate(inside.items()):
        low, high = _sizes(tensors)
        largest = f"{high:,.0f}" if high > 100 else f"{high:.4g}"
        sizes.plot([low, high], [row, row], color=ORANGE, linewidth=12, solid_capstyle="butt")
        sizes.text(high * 2, row, _("up to {largest}").format(largest=largest), va="center", fontsize=12)
        told.append(_("{name} reach {largest}").format(name=name, largest=largest))
    axes.set(
        xscale="log", yscale="log", ylim=(1e-6, 300), ylabel=_("largest error in %"), title=_("what rounding loses")
    )
    axes.set_yticks([1e-5, 1e-3, 0.1, 10], ["0.00001", "0.001", "0.1", "10"])
    axes.legend(fontsize=11, loc="upper left", bbox_to_anchor=(0, 0.5), ncols=2)
    sizes.set_yticks([0, 1], list(inside), fontsize=12)
    sizes.set(ylim=(1.7, -0.7), xlim=(1e-10, 1e8), xlabel=_("size of the number"))
    sizes.set_title(_("sizes in this model with this prompt, without the smallest 0.5 %"))
    alt = _(
        "Rounding error by size. bfloat16: 0.4 % everywhere; float16: 0.05 % from 0.00006 to its "
        "end at 65,504, growing below; float32: 0.000006 %. In this model, with this prompt, "
        "{told}."
    ).format(told=_(" and ").join(told))
    return show(figure, alt)


def plot_errors(errors: Mapping[str, float]) -> Image:
    """Show how far the logits are off in each way of computing. errors: by the name of the way."""
    figure, axes = new_figure(9, 0.6 * len(errors) + 0.9)
    for row, (name, error) in enumerate(errors.items()):
        whole = "every" in name
        look: dict[str, Any] = {"color": ORANGE, "hatch": ""} if whole else {"color": BLUE, "hatch": "///"}
        axes.barh(row, error, 0.6, edgecolor="white", **look)
        axes.text(error, row, f" {error:.3f}", va="center", fontsize=12)
    axes.set_yticks(range(len(errors)), list(errors), fontsize=12)
    axes.set(ylim=(len(errors) - 0.4, -0.6), xlabel=_("largest error of a logit, against float32"))
    axes.margins(x=0.12)
    return show(
        figure,
        _("{told}.").format(
            told=clauses(
                _("{name}: off by {error:.2f}").format(name=name, error=error) for name, error in errors.items()
            )
        ),
    )


def plot_near_tie(logits: Tensor, tokenizer: PreTrainedTokenizerBase) -> Image:
    """Show the two largest logits between the numbers that bfloat16 can store. logits: [vocab], float32."""
    values, tokens = logits.topk(2)
    step = float(torch.finfo(torch.bfloat16).eps * 2.0 ** np.floor(np.log2(float(values[0]))))
    stored = values.bfloat16().float()
    grid = float(stored[0]) + step * np.arange(-1, 2)
    figure, axes = new_figure(9.5, 2.6)
    axes.hlines(0, grid[0], grid[-1], color="#555555")
    axes.plot(grid, np.zeros(3), "|", color=GREEN, markersize=28, markeredgewidth=3)
    for place in grid:
        axes.text(place, -0.6, f"{place:.4f}", ha="center", va="top", fontsize=12, color="#00614A")
    told = []
    for i, (color, marker) in enumerate(((BLUE, "o"), (ORANGE, "D"))):
        name, value, target = visible_token(tokenizer, int(tokens[i])), float(values[i]), float(stored[i])
        aside = step * (0.1 if i == 0 else -0.1)
        axes.plot([value, value + aside], [0, 0.9], color="#555555", linewidth=0.9)
        side: dict[str, Any] = {"ha": "left" if i == 0 else "right", "va": "bottom", "fontsize": 13}
        axes.text(value + aside, 0.93, f"“{name}”  {value:.4f}", **side)
        axes.plot(value, 0, marker, color=color, markersize=13, zorder=3)
        bend = {"connectionstyle": f"arc3,rad={-0.5 if i == 0 else 0.5}", "shrinkA": 7, "shrinkB": 3}
        arrow = {"arrowstyle": "-|>", "color": color, "linewidth": 2, **bend}
        axes.annotate("", xy=(target, 0), xytext=(value, 0), arrowprops=arrow)
        told.append(_("{name}: {value:.3f} becomes {target:.4f}").format(name=name, value=value, target=target))
    axes.set(ylim=(-1.0, 1.4), xlim=(grid[0] - step / 8, grid[-1] + step / 8))
    axes.set_axis_off()
    axes.set_title(_("the two best logits; green: the numbers that bfloat16 has here"), loc="left")
    return show(
        figure,
        _("A line with the numbers that bfloat16 can store, {step} apart. {told}.").format(
            step=step, told=clauses(told)
        ),
    )


def _draw_block(axes: Axes, weights: NDArray[np.float32], restored: NDArray[np.float32]) -> int:
    """Draw a block's weights, the values that are left of them, and the steps between; return how many values."""
    levels = np.unique(restored)
    axes.hlines(levels, -0.7, 31.7, color=GREY, linewidth=0.8)
    axes.plot(weights, "o", color=BLUE, markersize=8, fillstyle="none", markeredgewidth=2, label=_("weight"))
    axes.plot(restored, "x", color="#A33B00", markersize=8, markeredgewidth=2, label=_("what comes back"))
    axes.set(xlim=(-0.7, 31.7), xticks=[0, 10, 20, 31])
    return len(levels)


def _magnify_all_but(outlier: int, axes: Axes, weights: NDArray[np.float32], restored: NDArray[np.float32]) -> None:
    """Draw a block once more within its picture, on a scale on which its outlier has no place."""
    inset = axes.inset_axes((0.22, 0.24, 0.74, 0.4))
    tidy(inset)
    _draw_block(inset, np.delete(weights, outlier), np.delete(restored, outlier))
    inset.set(xticks=[], title=_("the 31 others, enlarged"))
    inset.margins(y=0.2)  # the outermost circles are whole


def plot_quantised(blocks: Mapping[str, tuple[Tensor, Tensor]]) -> Image:
    """Show blocks of 32 weights side by side. blocks: by name, the weights [32] and what comes back [32]."""
    figure, every = new_figure(4.9 * len(blocks), 3.6, ncols=len(blocks), squeeze=False)
    told = []
    for axes, (name, (weights, restored)) in zip(every[0], blocks.items(), strict=True):
        count = _draw_block(axes, weights.numpy(), restored.numpy())
        error = float((weights - restored).abs().max())
        second, largest = weights.abs().sort().values[-2:].tolist()
        if largest > 10 * second:
            _magnify_all_but(int(weights.abs().argmax()), axes, weights.numpy(), restored.numpy())
        axes.set(
            title=_("{name}: {count} values").format(name=name, count=count),
            xlabel=_("number of the weight in its block"),
        )
        told.append(
            _("{name}: {count} different values, largest error {error:.4f}").format(name=name, count=count, error=error)
        )
    every[0][0].set_ylabel(_("weight"))
    every[0][-1].legend(fontsize=11)
    return show(figure, _("32 weights of a block, and what comes back. {told}.").format(told=clauses(told)))


def plot_sizes(megabytes: Mapping[str, float]) -> Image:
    """Show how much room the weights take in each format."""
    figure, axes = new_figure(9, 0.55 * len(megabytes) + 0.9)
    rows = range(len(megabytes))
    axes.barh(rows, list(megabytes.values()), 0.6, color=BLUE, hatch="///", edgecolor="white")
    for row, size in zip(rows, megabytes.values(), strict=True):
        axes.text(size, row, _(" {size:,.0f} MB").format(size=size), va="center", fontsize=12)
    axes.set_yticks(rows, list(megabytes), fontsize=12)
    axes.set(ylim=(len(megabytes) - 0.4, -0.6), xlabel=_("MB for the weights"))
    axes.margins(x=0.15)
    return show(
        figure,
        _("{told}.").format(
            told=clauses(_("{name}: {size:,.0f} MB").format(name=name, size=size) for name, size in megabytes.items())
        ),
    )
