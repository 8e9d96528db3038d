"""What ``SamplingExplorer`` shows for every setting of a grid, recorded: a page looks it up, and computes nothing.

The engine runs once for every point. Most points keep the same tokens as others, so a recording has one *outcome* for
each set that is kept at a temperature, and says of every point which outcome it has. What a single filter left is the
outcome of the point at which the filters after it are off.
"""

import itertools
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from book.words import forms, in_every_language, translated
from folovllm.config import SamplingOrder
from folovllm.course.distribution import ORDERS, Distribution, make_distribution
from folovllm.course.distribution_picture import NUM_DRAWS, NUM_SHOWN
from folovllm.course.token_text import token_label
from folovllm.course.widgets.sampling_explorer import SamplingExplorer
from folovllm.language import N_
from folovllm.sampling_params import SamplingParams

PROMPTS = ("The best thing about summer is", "The capital of France is", "def add(a, b):\n    return")
KNOBS: dict[str, tuple[float, ...]] = {
    "temperature": (0, 0.2, 0.5, 0.8, 1, 1.2, 1.5, 2),
    "top_k": (0, 1, 5, 10, 20, 40, 100),
    "top_p": (0.1, 0.5, 0.7, 0.8, 0.9, 0.95, 1),
    "min_p": (0, 0.02, 0.05, 0.1, 0.3),
}
"""Where each slider stops on a page."""
NUM_PRESSES = 2
"""How many presses of "Draw 200" are recorded; the next one shows the first again."""
_CURVE_POINTS = 100
MESSAGES = (
    *("prompt", "order", "axis", "linear", "logarithmic", "Draw {num_draws}", "Keep as A", "Forget A", "model", "now"),
    *("{num_draws} draws", "probability", "number of tokens, likeliest first"),
    *("their probability together", "{name}\nis off", "drawn from\n{tokens}\nentropy {entropy:.2f} bits"),
    *("A ({setting}): {told}", "now: {now}"),
    "in this order: how many tokens are left, and their share of the probability after temperature",
    "where all the probability is: these {num_shown} tokens, and all others",
    "these {num_head}: {percent}   {rest:,} others: {percent2}",
    "; {num_draws} draws gave {num_unique} different tokens",
    # The page's own, for screen readers.
    *(N_("The {num_shown} likeliest tokens: {bars}"), N_("Tokens kept: {kept}; their probability together: {percent}")),
    N_("dropped"),
)
"""What the page says beside the engine's sentences: most are the widget's own words, from the course's catalog."""
Point = tuple[SamplingOrder, float, int, float, float]
Watcher = Callable[[str, Point, Distribution], None]
"""Is told the prompt, the point and what the engine said, for every point at which it is asked."""


def points() -> Iterator[Point]:
    """Return the grid: order, temperature, top-k, top-p and min-p, the last one changing fastest."""
    return itertools.product(ORDERS, *KNOBS.values())  # type: ignore[arg-type]


def plain(point: Point) -> Point:
    """Return the point at which the engine does the same, told as shortly as can be.

    Greedy looks at no filter, and where one filter is alone no order matters.
    """
    order, temperature, top_k, top_p, min_p = point
    if temperature == 0:
        return "huggingface", 0, 0, 1, 0
    if min_p == 0 or (top_k == 0 and top_p == 1):
        order = "huggingface"
    return order, temperature, top_k, top_p, min_p


def record(explorer: SamplingExplorer, watch: Watcher | None = None) -> dict[str, Any]:
    """Return the recording, ready for JSON. explorer: its engine is asked, and where its knobs stand is the start."""
    first = explorer.prompt.value
    prompts = [first, *(each for each in PROMPTS if each != first)]
    start = {name: knob.value for name, knob in explorer.knobs.items()}
    for name, value in start.items():
        if value not in KNOBS[name]:
            raise ValueError(f"the page's {name} must be one of {KNOBS[name]}, the notebook begins with {value}")
    return {
        "words": in_every_language(_words),
        "knobs": KNOBS | {"order": list(ORDERS)},
        "filters": {order: list(names) for order, names in ORDERS.items()},
        "start": start | {"order": explorer.order.value},
        "draws": NUM_DRAWS,
        "prompts": [_record_prompt(explorer, each, watch) for each in prompts],
    }


def _record_prompt(explorer: SamplingExplorer, prompt: str, watch: Watcher | None) -> dict[str, Any]:
    logits = explorer.llm.compute_logits(prompt).cpu()
    before = logits.double().softmax(-1).numpy()
    order = np.argsort(-before, kind="stable")
    head = order[:NUM_SHOWN]
    ranks = np.unique(np.geomspace(1, len(before), _CURVE_POINTS).astype(int))
    tokenizer = explorer.llm.get_tokenizer()
    # Of each temperature: its outcomes, by the tokens that are kept.
    outcomes: dict[float, dict[bytes, dict[str, Any]]] = {each: {} for each in KNOBS["temperature"]}
    curves: dict[float, list[float]] = {}
    places: dict[Point, int] = {}
    for point in dict.fromkeys(map(plain, points())):
        filter_order, temperature, top_k, top_p, min_p = point
        params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
        shape = make_distribution(logits, params, filter_order)
        if watch is not None:
            watch(prompt, point, shape)
        known, kept = outcomes[temperature], (shape.after > 0).tobytes()
        if kept not in known:
            known[kept] = _outcome(shape, head)
            curves[temperature] = _rounded(np.cumsum(shape.tempered[order])[ranks - 1])
        places[point] = list(known).index(kept)
    return {
        "text": prompt,
        "labels": [token_label(tokenizer, int(token)) for token in head],
        "before": _rounded(before[head]),
        "share": round(float(before[head].sum()), 6),
        "vocabulary": len(before),
        "ranks": ranks.tolist(),
        "curves": [curves[each] for each in KNOBS["temperature"]],
        "outcomes": [list(outcomes[each].values()) for each in KNOBS["temperature"]],
        "places": [places[plain(point)] for point in points()],
    }


def _words() -> dict[str, str]:
    return translated(MESSAGES) | forms("{n} token", "{n} tokens")


def _outcome(shape: Distribution, head: np.ndarray) -> dict[str, Any]:
    """Return what one set of kept tokens means. bars: what the likeliest tokens have; share: all of them together."""
    return {
        "kept": shape.num_kept,
        "mass": round(shape.kept_mass, 6),
        "bits": f"{shape.entropy:.2f}",
        "says": in_every_language(shape.sentence),
        "bars": _rounded(shape.after[head]),
        "share": round(float(shape.after[head].sum()), 6),
        "drawn": [_draws(shape, head, press) for press in range(NUM_PRESSES)],
    }


def _draws(shape: Distribution, head: np.ndarray, press: int) -> list[int]:
    """Return how many different tokens so many draws gave, and how often each of the likeliest came."""
    numbers = random.Random(press)
    drawn = shape.draw([numbers.random() for _ in range(NUM_DRAWS)])
    return [len(np.unique(drawn)), *(int((drawn == token).sum()) for token in head)]


def _rounded(values: Iterable[float]) -> list[float]:
    """Return numbers with six digits, which is more than a page shows."""
    return [float(f"{value:.6g}") for value in values]
