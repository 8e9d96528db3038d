"""The static figures of chapter 05: where time goes, measured on the engine as it is shown."""

import time

from IPython.display import Image
from matplotlib.ticker import MaxNLocator

from folovllm.course.record import recorded
from folovllm.course.style import BLUE, GREEN, ORANGE, new_figure, show
from folovllm.course.widgets.token_colours import probabilities_of
from folovllm.engine.detokenizer import decode_token
from folovllm.engine.input_processor import TokensPrompt
from folovllm.llm import LLM
from folovllm.outputs import CompletionOutput
from folovllm.sampling_params import SamplingParams


def _greedy(max_tokens: int) -> SamplingParams:
    return SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True)


def _prompt(token_id: int, length: int) -> TokensPrompt:
    return {"prompt_token_ids": [token_id] * length}


def time_prefill(llm: LLM, lengths: tuple[int, ...]) -> list[float]:
    """Return the forward milliseconds of one step that reads a prompt of each length. llm: it records its history."""
    found = []
    for length in lengths:
        llm.llm_engine.reset_prefix_cache()
        llm.generate(_prompt(5, length), _greedy(1), use_tqdm=False)
        found.append(recorded(llm)[-1].forward_ms)
    return found


def time_decode(llm: LLM, batch_sizes: tuple[int, ...], num_tokens: int = 12) -> list[float]:
    """Return the median forward milliseconds of a step that adds one token to so many sequences."""
    found = []
    for size in batch_sizes:
        llm.generate([_prompt(5 + i, 8) for i in range(size)], _greedy(num_tokens + 1), use_tqdm=False)
        times = sorted(step.forward_ms for step in recorded(llm)[-num_tokens:])
        found.append(times[len(times) // 2])
    return found


def time_with_and_without_cache(llm: LLM, prompt: str, num_tokens: int) -> tuple[list[float], list[float]]:
    """Return the milliseconds of every token with the KV cache, and when all is computed anew each time."""
    params = _greedy(num_tokens)
    [output] = llm.generate(prompt, params, use_tqdm=False)
    cached = [step.forward_ms for step in recorded(llm)[-num_tokens:]]
    tokens, anew = list(output.prompt_token_ids), []
    for token in output.outputs[0].token_ids:
        started = time.perf_counter()
        llm.compute_logits({"prompt_token_ids": tokens})
        anew.append(1000 * (time.perf_counter() - started))
        tokens.append(token)
    return cached, anew


def plot_steps_in_time(
    lengths: tuple[int, ...], prefill: list[float], sizes: tuple[int, ...], decode: list[float]
) -> Image:
    """Show what a step costs: reading prompts of several lengths, and adding a token to several sequences."""
    figure, (left, right) = new_figure(10, 3.6, ncols=2)
    left.bar(range(len(lengths)), prefill, 0.7, color=ORANGE, hatch="...", edgecolor="white")
    left.set_xticks(range(len(lengths)), map(str, lengths))
    left.set(title="one step that reads a prompt", xlabel="tokens of the prompt", ylabel="milliseconds")
    right.bar(range(len(sizes)), decode, 0.7, color=BLUE, hatch="///", edgecolor="white")
    right.set_xticks(range(len(sizes)), map(str, sizes))
    right.set(
        title="one step that adds a token to each", xlabel="sequences", ylabel="milliseconds", ylim=left.get_ylim()
    )
    told = ", ".join(f"{length} tokens {ms:.0f} ms" for length, ms in zip(lengths, prefill, strict=True))
    more = ", ".join(f"{size} sequences {ms:.0f} ms" for size, ms in zip(sizes, decode, strict=True))
    alt = f"Milliseconds of a step. Reading a prompt: {told}. Adding a token: {more}."
    return show(figure, alt)


def plot_cache(cached: list[float], anew: list[float]) -> Image:
    """Show the cost of every token with the KV cache and without, and how it adds up."""
    figure, axes = new_figure(10, 3.4, ncols=2)
    for panel, title, summed in ((axes[0], "each token", False), (axes[1], "all tokens so far", True)):
        for times, label, color, style in ((anew, "all anew", ORANGE, "--"), (cached, "KV cache", GREEN, "-")):
            shown = [sum(times[: i + 1]) for i in range(len(times))] if summed else times
            panel.plot(range(1, len(times) + 1), shown, style, color=color, linewidth=2.5, label=label)
        panel.set(title=title, xlabel="token", ylim=(0, None))
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].set_ylabel("milliseconds")
    axes[0].legend(fontsize=10)
    alt = f"Time of {len(cached)} tokens: {sum(cached):.0f} ms with the KV cache, {sum(anew):.0f} ms without."
    return show(figure, alt)


def plot_probabilities(llm: LLM, completion: CompletionOutput) -> Image:
    """Show the probability of every token of a completion that was made with log-probabilities."""
    values = probabilities_of(completion)
    names = [repr(decode_token(llm.get_tokenizer(), token))[1:-1] for token in completion.token_ids]
    figure, axes = new_figure(10, 3.2)
    axes.bar(range(len(values)), values, 0.8, color=BLUE, hatch="///", edgecolor="white")
    axes.set_xticks(range(len(values)), names, rotation=60, ha="right", family="monospace")
    axes.set(ylabel="probability", ylim=(0, 1))
    least = min(range(len(values)), key=values.__getitem__)
    alt = (
        f"Probability of each of {len(values)} tokens; the least probable is {names[least]!r} with {values[least]:.0%}."
    )
    return show(figure, alt)
