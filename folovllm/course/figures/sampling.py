"""The static figures of chapter 02, from the engine's own functions."""

from collections.abc import Mapping

import numpy as np
from IPython.display import Image
from matplotlib.ticker import PercentFormatter

from folovllm.course.distribution import make_distribution
from folovllm.course.style import BLUE, GREEN, ORANGE, new_figure, show
from folovllm.course.widgets.sampling_explorer import visible_text
from folovllm.engine.detokenizer import decode_token
from folovllm.llm import LLM
from folovllm.outputs import CompletionOutput
from folovllm.sampling_params import SamplingParams

_LOOKS = ((BLUE, "///"), (GREEN, ""), (ORANGE, "..."))


def plot_temperatures(llm: LLM, prompt: str, temperatures: tuple[float, float, float], num_tokens: int = 10) -> Image:
    """Show the likeliest next tokens of a prompt at three temperatures, one beside the other."""
    logits = llm.compute_logits(prompt).cpu()
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
    return show(figure, alt)


def plot_kept(llm: LLM, prompts: list[str], settings: Mapping[str, SamplingParams]) -> Image:
    """Show how many tokens each setting keeps, for several prompts: on a log scale, one bar each."""
    figure, axes = new_figure(9, 1.2 + 0.55 * len(settings))
    told = []
    for i, (prompt, (color, hatch)) in enumerate(zip(prompts, _LOOKS, strict=False)):
        logits = llm.compute_logits(prompt).cpu()
        kept = [make_distribution(logits, params).num_kept for params in settings.values()]
        places = np.arange(len(settings)) + 0.36 * (i - (len(prompts) - 1) / 2)
        bars = axes.barh(places, kept, 0.34, color=color, hatch=hatch, edgecolor="white", label=prompt)
        axes.bar_label(bars, padding=4, fontsize=10)
        told.append(f"after {prompt!r}: " + ", ".join(map(str, kept)))
    axes.set_yticks(range(len(settings)), settings)
    axes.set(xscale="log", xlabel="tokens kept", xlim=(0.8, None), ylim=(len(settings) - 0.45, -0.55))
    axes.xaxis.set_major_formatter("{x:g}")
    figure.legend(loc="outside upper center", ncols=len(prompts), fontsize=10, frameon=False)
    alt = f"Tokens that {', '.join(settings)} keep, {'; '.join(told)}."
    return show(figure, alt)


def plot_entropy(llm: LLM, prompt: str, completion: CompletionOutput) -> Image:
    """Show how open the choice was before each token of a completion, in bits, under the model itself."""
    tokenizer = llm.get_tokenizer()
    before = tokenizer(prompt).input_ids
    bits = []
    for i in range(len(completion.token_ids)):
        logits = llm.compute_logits({"prompt_token_ids": before + completion.token_ids[:i]}).cpu()
        bits.append(make_distribution(logits, SamplingParams()).entropy)
    figure, axes = new_figure(10, 3.4)
    axes.bar(range(len(bits)), bits, 0.8, color=BLUE, hatch="///", edgecolor="white")
    names = [visible_text(decode_token(tokenizer, token)) for token in completion.token_ids]
    axes.set_xticks(range(len(bits)), names, rotation=45, ha="right", family="monospace")
    axes.set(title=prompt, ylabel="entropy, bits")
    most, least = int(np.argmax(bits)), int(np.argmin(bits))
    told = f"the most open is before {names[most]!r} ({bits[most]:.1f}), the surest before {names[least]!r}"
    alt = f"Entropy before each of {len(bits)} tokens after {prompt!r}: {told} ({bits[least]:.1f})."
    return show(figure, alt)
