"""The static figures of chapter 04: what a dtype rounds away, and what padding does."""

import numpy as np
import torch
from IPython.display import Image
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from folovllm.course.padded_batch import POSITIONS, SIDES
from folovllm.course.style import BLUE, GREEN, GREY, ORANGE, new_figure, show
from folovllm.course.widgets.padding_explorer import PaddingExplorer

_LOOKS = {"float32": (GREY, "-"), "bfloat16": (GREEN, "--"), "float16": (BLUE, "-")}
_MAGNITUDES: NDArray[np.float64] = np.exp2(np.arange(-32, 21, dtype=np.float64))


def rounding_error(dtype: torch.dtype, magnitudes: NDArray[np.float64] = _MAGNITUDES) -> NDArray[np.float64]:
    """Return the largest relative error of storing a number between m and 2 m, for each magnitude m.

    1 where it becomes 0, infinite where it becomes infinite.
    """
    spread = np.linspace(1, 2, 500, endpoint=False)
    values = torch.from_numpy(magnitudes[:, None] * spread)
    errors: NDArray[np.float64] = ((values.to(dtype).double() - values).abs() / values).amax(dim=1).numpy()
    return errors


@torch.inference_mode()
def plot_rounding(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str) -> Image:
    """Show each dtype's rounding error by magnitude, and which magnitudes the model's numbers have."""
    states = model(**tokenizer(prompt, return_tensors="pt").to(model.device), output_hidden_states=True).hidden_states
    inside = {
        "weights": torch.cat([each.flatten()[::97] for each in model.parameters()]),
        "hidden states": torch.cat([each.flatten() for each in states]),
    }
    figure, axes = new_figure(9, 4)
    for dtype, (color, line) in _LOOKS.items():
        errors = rounding_error(getattr(torch, dtype))
        finite = np.isfinite(errors)
        # The marker shows where a dtype has no larger numbers.
        end = {"marker": "X", "markersize": 11, "markevery": [-1]} if not finite.all() else {}
        axes.plot(_MAGNITUDES[finite], errors[finite], line, color=color, linewidth=2.5, label=dtype, **end)
    bounds = {}
    for height, (name, values) in zip((2e-9, 4e-10), inside.items(), strict=True):
        sizes = values.float().abs().cpu().numpy()
        low, high = np.quantile(sizes[sizes > 0], [0.005, 1])
        bounds[name] = (low, high)
        axes.plot([low, high], [height, height], color=ORANGE, linewidth=7, solid_capstyle="butt")
        axes.text(low / 1.5, height, name, ha="right", va="center", fontsize=10)
    axes.set(xscale="log", yscale="log", ylim=(1e-10, 3), xlabel="size of the number")
    axes.set(ylabel="largest relative error", title="rounding; orange: sizes in this model")
    axes.legend(fontsize=11, loc="upper right", bbox_to_anchor=(1, 0.6))
    told = "; ".join(f"{name} reach {high:,.0f}" for name, (_, high) in bounds.items())
    alt = (
        "Relative rounding error by size. bfloat16: 0.4 % everywhere; float16: 0.05 % from 0.00006 to 65504, growing "
        f"below and without numbers above; float32: 0.000006 %. In this model the {told}."
    )
    return show(figure, alt)


def plot_padding(explorer: PaddingExplorer) -> Image:
    """Show the error in the last column for every way of padding, for both models of a widget, in float32."""
    ways = [(side, positions) for side in SIDES for positions in POSITIONS]
    looks = {"given": (BLUE, "///"), "gpt2": (GREY, "")}
    figure, axes = new_figure(9, 3.2)
    told = []
    for i, (name, (color, hatch)) in enumerate(looks.items()):
        errors = [max(explorer.effects[name][(*way, "float32")].at_last_column) for way in ways]
        label = f"{explorer.models[name].config.model_type} ({'rotary' if name == 'given' else 'learned'} positions)"
        places = np.arange(len(ways)) + 0.4 * (i - 0.5)
        shown = np.maximum(errors, 1e-7)
        axes.bar(places, shown, 0.36, color=color, hatch=hatch, edgecolor="white", label=label)
        told.append(f"{label}: {', '.join('large' if error > 0.1 else 'none to speak of' for error in errors)}")
    labels = [f"{side}\npositions: {positions}" for side, positions in ways]
    axes.set_xticks(range(len(ways)), labels)
    axes.set(yscale="log", ylim=(5e-8, 3e3), ylabel="largest error", title="logits in the last column, float32")
    axes.legend(fontsize=10, loc="upper left", ncols=2)
    alt = f"Bars of the error for {', '.join(label.replace(chr(10), ', ') for label in labels)}. {'. '.join(told)}."
    return show(figure, alt)
