"""The static figures of chapter 02, from the engine's own functions."""

import numpy as np
from IPython.display import Image
from matplotlib.ticker import PercentFormatter

from folovllm.course.distribution import make_distribution
from folovllm.course.sampling_explorer import visible_text
from folovllm.course.style import BLUE, GREEN, ORANGE, new_figure, to_png
from folovllm.engine.detokenizer import decode_token
from folovllm.llm import LLM
from folovllm.sampling_params import SamplingParams

_LOOKS = ((BLUE, "///"), (GREEN, ""), (ORANGE, "..."))


def plot_temperatures(llm: LLM, prompt: str, temperatures: tuple[float, float, float], num_tokens: int = 10) -> Image:
    """Show the likeliest next tokens of a prompt at three temperatures, one beside the other."""
    logits = llm.llm_engine.compute_logits(prompt).cpu()
    shapes = [make_distribution(logits, SamplingParams(temperature=each)) for each in temperatures]
    head = np.argsort(-shapes[0].before, kind="stable")[:num_tokens]
    figure, axes = new_figure(9, 3.6)
    for i, (shape, (color, hatch)) in enumerate(zip(shapes, _LOOKS, strict=True)):
        label = f"temperature {temperatures[i]:g}: {shape.entropy:.1f} bits"
        places = np.arange(num_tokens) + 0.27 * (i - 1)
        axes.bar(places, shape.after[head], 0.25, color=color, hatch=hatch, edgecolor="white", label=label)
    names = [visible_text(decode_token(llm.get_tokenizer(), int(token))) for token in head]
    axes.set_xticks(np.arange(num_tokens), names, rotation=30, ha="right", family="monospace")
    axes.set(title=prompt, ylabel="probability")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.legend(fontsize=11)
    shares = zip(temperatures, shapes, strict=True)
    told = "; ".join(f"at {each:g} the likeliest has {shape.after.max():.0%}" for each, shape in shares)
    alt = f"Bars of the {num_tokens} likeliest tokens after {prompt!r}: {told}."
    return Image(to_png(figure), format="png", alt=alt)  # type: ignore[no-untyped-call]
