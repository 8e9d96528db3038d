"""What ``PromptBox`` writes at every setting of a grid, recorded token by token: a page plays it, and has no engine.

All settings are one batch of the engine, which gives each the tokens that it has alone (``LLM.is_batch_invariant``).
"""

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from book.words import _, forms, in_every_language, translated
from folovllm.course.widgets.prompt_box import PromptBox, ending_of
from folovllm.outputs import RequestOutput
from folovllm.sampling_params import SamplingParams

PROMPTS = ("What is a library?", "The capital of France is", "Once upon a time, a robot")
KNOBS: dict[str, tuple[Any, ...]] = {"temperature": (0.0, 0.7, 1.5), "seed": (0, 1, 2), "chat": (False, True)}
"""Where each control stops on a page."""
MESSAGES = ("prompt", "use the chat template", "Generate", "Press Generate.", "Bold: what the model wrote.")

Point = tuple[str, float, int, bool]
Watcher = Callable[[Point, RequestOutput], None]
"""Is told the point and what the engine said, for every point at which it is asked."""


def plain(point: Point) -> Point:
    """Return the point at which the engine does the same, told as shortly as can be: greedy draws nothing."""
    prompt, temperature, seed, chat = point
    return (prompt, temperature, 0 if temperature == 0 else seed, chat)


def record(box: PromptBox, watch: Watcher | None = None) -> dict[str, Any]:
    """Return the recording, ready for JSON. box: its engine is asked; its first setting is the page's."""
    first: Point = (box.prompt.value, box.temperature.value, box.seed.value, box.chat.value)
    prompts = [first[0], *(each for each in PROMPTS if each != first[0])]
    points: list[Point] = list(itertools.product(prompts, *KNOBS.values()))
    if first not in points:
        raise ValueError(f"the page's prompt box must begin at one of {KNOBS}, the notebook begins with {first}")
    asked = list(dict.fromkeys(map(plain, points)))
    results = _run(box, asked)
    if watch is not None:
        for point, outputs in zip(asked, results, strict=True):
            watch(point, outputs[-1])
    return {
        "words": in_every_language(partial(_words, box.max_tokens.value)),
        "prompts": prompts,
        "knobs": KNOBS,
        "start": [stops.index(at) for stops, at in zip((prompts, *KNOBS.values()), first, strict=True)],
        "runs": [
            {"pieces": list(_pieces(each)), "ending": in_every_language(partial(ending_of, each[-1]))}
            for each in results
        ],
        "places": [asked.index(plain(point)) for point in points],
    }


def _run(box: PromptBox, points: list[Point]) -> list[list[RequestOutput]]:
    """Return, of each point, the engine's results: one for every step in which it got on."""
    engine = box.llm.llm_engine
    for place, (prompt, temperature, seed, chat) in enumerate(points):
        asked = box.llm.chat_prompt([{"role": "user", "content": prompt}]) if chat else prompt
        params = SamplingParams(temperature=temperature, seed=seed, max_tokens=box.max_tokens.value)
        engine.add_request(str(place), asked, params)
    found: list[list[RequestOutput]] = [[] for _ in points]
    while engine.has_unfinished_requests():
        for output in engine.step():
            found[int(output.request_id)].append(output)
    return found


def _as_run(outputs: list[RequestOutput]) -> dict[str, Any]:
    return {"pieces": list(_pieces(outputs)), "ending": in_every_language(partial(ending_of, outputs[-1]))}


def _pieces(outputs: list[RequestOutput]) -> Iterator[str]:
    """Return what each step added to the text; nothing, where a character is not whole yet."""
    shown = ""
    for output in outputs:
        text = output.outputs[0].text
        assert text.startswith(shown), "the engine takes nothing back"
        yield text[len(shown) :]
        shown = text


def _words(max_tokens: int) -> dict[str, str]:
    told = _(
        "The engine wrote these texts when this page was built, at most {max_tokens} tokens each; here they are played "
        "at an even pace. To ask with your own words, run this chapter."
    )
    return translated(MESSAGES) | forms("{n} token", "{n} tokens") | {"told": told.format(max_tokens=max_tokens)}
