"""The exercises of chapter 02, with their solutions and the mistakes that they catch."""

import torch
from torch import Tensor

from folovllm.course.exercises.exercise import Exercise, Mistake
from folovllm.engine.detokenizer import find_stop
from folovllm.sampling.sampler import apply_min_p, apply_temperature, apply_top_p


def temperature_solution(logits: Tensor, temperature: float) -> Tensor:
    """Return the probabilities at a temperature."""
    return apply_temperature(logits[None], torch.tensor([temperature]))[0].softmax(dim=-1)


def top_p_solution(probs: Tensor, p: float) -> Tensor:
    """Return which tokens stay: True or False for each."""
    return apply_top_p(probs.log()[None], torch.tensor([p], dtype=torch.float64))[0] > -torch.inf


def min_p_solution(probs: Tensor, min_p: float) -> Tensor:
    """Return which tokens stay: True or False for each."""
    return apply_min_p(probs.log()[None], torch.tensor([min_p]))[0] > -torch.inf


def stop_solution(text: str, stop: list[str]) -> str:
    """Return the text before the stop string that is completed first; all of it where there is none."""
    found = find_stop(text, stop)
    return text if found is None else text[: found[0]]


def _times_temperature(logits: Tensor, temperature: float) -> Tensor:
    return (logits * temperature).softmax(dim=-1)


def _temperature_after_softmax(logits: Tensor, temperature: float) -> Tensor:
    return logits.softmax(dim=-1) / temperature


def _renormalised_probabilities(logits: Tensor, temperature: float) -> Tensor:
    scaled = logits.softmax(dim=-1) / temperature
    return scaled / scaled.sum()


def _only_scaled(logits: Tensor, temperature: float) -> Tensor:
    return logits / temperature


def _notes_top_p(probs: Tensor, p: float) -> Tensor:
    ranked, order = probs.sort(descending=True)
    return torch.zeros_like(probs, dtype=torch.bool).scatter(0, order, ranked.cumsum(0) <= p)


def _unsorted_top_p(probs: Tensor, p: float) -> Tensor:
    return probs.cumsum(0) - probs < p


def _mask_in_rank_order(probs: Tensor, p: float) -> Tensor:
    ranked = probs.sort(descending=True).values
    return ranked.cumsum(0) - ranked < p


def _threshold_top_p(probs: Tensor, p: float) -> Tensor:
    return probs >= 1 - p


def _absolute_min_p(probs: Tensor, min_p: float) -> Tensor:
    return probs >= min_p


def _dropped_instead_of_kept(probs: Tensor, min_p: float) -> Tensor:
    return probs < min_p * probs.max()


def _share_of_the_mean(probs: Tensor, min_p: float) -> Tensor:
    return probs >= min_p * probs.mean()


def _first_in_the_list(text: str, stop: list[str]) -> str:
    return next((text[: text.index(each)] for each in stop if each in text), text)


def _earliest_beginning(text: str, stop: list[str]) -> str:
    return text[: min(text.index(each) for each in stop if each in text)] if any(s in text for s in stop) else text


def _kept_in_the_text(text: str, stop: list[str]) -> str:
    found = find_stop(text, stop)
    return text if found is None else text[: found[0] + len(found[1])]


def _only_at_the_end(text: str, stop: list[str]) -> str:
    return next((text.removesuffix(each) for each in stop if text.endswith(each)), text)


_GIVEN = [
    torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05]),  # the notes' example
    torch.tensor([0.05, 0.4, 0.1, 0.3, 0.15]),
    torch.tensor([0.02, 0.9, 0.05, 0.03]),
    torch.tensor([0.26, 0.24, 0.23, 0.27]),
]
_LOGITS = [torch.tensor([2.0, 1.0, 0.0, -1.0]), torch.tensor([0.3, -4.0, 5.0, 0.1, 0.2])]

EXERCISES = [
    Exercise(
        name="temperature",
        task="from logits to probabilities at a temperature",
        solution=temperature_solution,
        cases=[(logits, t) for logits in _LOGITS for t in (0.5, 0.7, 1.5)],
        mistakes=[
            Mistake(
                _times_temperature,
                "you multiply by the temperature: 0.5 then flattens and 1.5 sharpens, the wrong way round; divide",
            ),
            Mistake(
                _temperature_after_softmax,
                "you divide probabilities, so they no longer add up to 1; divide the logits, before the softmax",
            ),
            Mistake(
                _renormalised_probabilities,
                "dividing probabilities and normalising again changes nothing; divide the logits, before the softmax",
            ),
            Mistake(_only_scaled, "you return scaled logits; the softmax that makes probabilities of them is missing"),
        ],
        hints=(
            "Temperature acts before the softmax.",
            "Divide the logits by it, then let `softmax` make probabilities.",
        ),
        code="return (logits / temperature).softmax(dim=-1)",
    ),
    Exercise(
        name="top_p",
        task="which tokens does top-p keep?",
        solution=top_p_solution,
        cases=[(probs, p) for probs in _GIVEN for p in (0.2, 0.62, 0.88, 0.93)],
        mistakes=[
            Mistake(
                _notes_top_p,
                "you drop the token that crosses p: for [.4 .3 .15 .1 .05] and p = .9 you keep 3 tokens with .85 of "
                "the mass, the set must reach .9 and hold 4; where the first token is above p you keep none",
            ),
            Mistake(
                _unsorted_top_p, "you add up in the order of the vocabulary; sort, the likeliest token comes first"
            ),
            Mistake(
                _mask_in_rank_order,
                "your mask is in the order of the sorted tokens; put it back to where each token was (`scatter`)",
            ),
            Mistake(
                _threshold_top_p,
                "you compare each probability with 1 - p; p is about the sum of the kept ones, not about single tokens",
            ),
        ],
        hints=(
            "The set must *reach* p: which token makes it do so, and does it stay?",
            "Sort, add up, and keep a token if the sum of those *before* it is still below p. Then undo the sort.",
        ),
        code=(
            "ranked, order = probs.sort(descending=True)\n"
            "keep = ranked.cumsum(0) - ranked < p\n"
            "return torch.zeros_like(keep).scatter(0, order, keep)"
        ),
    ),
    Exercise(
        name="min_p",
        task="which tokens does min-p keep?",
        solution=min_p_solution,
        cases=[(probs, min_p) for probs in _GIVEN for min_p in (0.0, 0.06, 0.3, 0.9)],
        mistakes=[
            Mistake(
                _absolute_min_p,
                "you compare with min_p itself; the threshold is min_p times the likeliest token's probability, so "
                "that it is strict when the model is sure and lenient when it is not",
            ),
            Mistake(_dropped_instead_of_kept, "you return the tokens that go; True is for those that stay"),
            Mistake(_share_of_the_mean, "you compare with the mean; the threshold is relative to the maximum"),
        ],
        hints=(
            "The threshold depends on the likeliest token.",
            "Multiply `probs.max()` by `min_p` and compare.",
        ),
        code="return probs >= min_p * probs.max()",
    ),
    Exercise(
        name="stop",
        task="cut a text at the stop string that is completed first",
        solution=stop_solution,
        cases=[
            ("one, two, three", ["two"]),
            ("one, two, three", ["three", "two"]),
            ("Nothing to see.", ["###"]),
            ("an abcd", ["abcd", "bc"]),
            ("Yes.\n\nHuman: and", ["Human:", "\n\n"]),
            ("a STOP", ["STOP", "TOP"]),
        ],
        mistakes=[
            Mistake(
                _first_in_the_list,
                "you take the first of the list that occurs; what counts is which one the growing text completes first",
            ),
            Mistake(
                _earliest_beginning,
                "you take the one that begins first; of 'abcd' and 'bc' in 'an abcd' the text completes 'bc' first, "
                "and generation ends there",
            ),
            Mistake(_kept_in_the_text, "you keep the stop string; by default the text ends where it begins"),
            Mistake(
                _only_at_the_end,
                "you look at the end of the text only; one token may bring the stop string and more after it",
            ),
        ],
        hints=(
            "The text grows from left to right. Which stop string is whole first?",
            "For each that occurs: `text.index(s) + len(s)` is where it is complete. The smallest wins.",
        ),
        code=(
            "found = [(text.index(s) + len(s), i) for i, s in enumerate(stop) if s in text]\n"
            "if not found:\n"
            "    return text\n"
            "end, i = min(found)\n"
            "return text[: end - len(stop[i])]"
        ),
    ),
]
