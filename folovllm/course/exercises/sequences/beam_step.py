"""``beam_step``: one step of a beam search."""

import math
from itertools import pairwise
from random import Random

import torch

from folovllm.course.exercises.exercise import Exercise, Mistake
from folovllm.engine.beam_search import choose, propose
from folovllm.engine.block_manager import BlockManager
from folovllm.request import BeamState, Request, SequenceStatus
from folovllm.sampling_params import BeamSearchParams, SamplingParams


def beam_step_solution(totals: list[float], logprobs: list[list[float]], width: int) -> list[tuple[int, int]]:
    """Return the ``width`` continuations that live on, best first, each as (number of the text, token)."""
    params = BeamSearchParams(beam_width=width, max_tokens=100)
    request = Request("0", None, [0], SamplingParams(n=len(totals), max_tokens=100))
    request.beam_state = BeamState(params)
    for i, (seq, total, row) in enumerate(zip(request.sequences, totals, logprobs, strict=True)):
        seq.transition_to(SequenceStatus.RUNNING)
        seq.add_token_id(i)  # by which the winner's parent is known
        seq.token_logprobs = [total]
        propose(request, seq, torch.tensor(row))
    choose(request, BlockManager(4, 1))
    return [(seq.data.output_token_ids[0], seq.data.output_token_ids[1]) for seq in request.sequences]


def _proposals(totals: list[float], logprobs: list[list[float]]) -> list[tuple[float, int, int]]:
    return [(totals[i] + p, i, token) for i, row in enumerate(logprobs) for token, p in enumerate(row)]


def _each_text_its_best(totals: list[float], logprobs: list[list[float]], width: int) -> list[tuple[int, int]]:
    best = sorted((max(p for p in _proposals(totals, logprobs) if p[1] == i) for i in range(len(totals))), reverse=True)
    return [(text, token) for _, text, token in best[:width]]


def _newest_alone(totals: list[float], logprobs: list[list[float]], width: int) -> list[tuple[int, int]]:
    best = sorted(_proposals([0.0] * len(totals), logprobs), reverse=True)
    return [(text, token) for _, text, token in best[:width]]


def _only_the_best_text(totals: list[float], logprobs: list[list[float]], width: int) -> list[tuple[int, int]]:
    leader = max(range(len(totals)), key=lambda i: totals[i])
    best = sorted((p for p in _proposals(totals, logprobs) if p[1] == leader), reverse=True)
    return [(text, token) for _, text, token in best[:width]]


def _worst_first(totals: list[float], logprobs: list[list[float]], width: int) -> list[tuple[int, int]]:
    return [(text, token) for _, text, token in sorted(_proposals(totals, logprobs))[:width]]


def _in_text_order(totals: list[float], logprobs: list[list[float]], width: int) -> list[tuple[int, int]]:
    return sorted(beam_step_solution(totals, logprobs, width))


def _token_first(totals: list[float], logprobs: list[list[float]], width: int) -> list[tuple[int, int]]:
    return [(token, text) for text, token in beam_step_solution(totals, logprobs, width)]


def _multiplied(totals: list[float], logprobs: list[list[float]], width: int) -> list[tuple[int, int]]:
    products = [(totals[i] * p, i, token) for i, row in enumerate(logprobs) for token, p in enumerate(row)]
    return [(text, token) for _, text, token in sorted(products)[:width]]


def _multiplied_largest_first(totals: list[float], logprobs: list[list[float]], width: int) -> list[tuple[int, int]]:
    products = [(totals[i] * p, i, token) for i, row in enumerate(logprobs) for token, p in enumerate(row)]
    return [(text, token) for _, text, token in sorted(products, reverse=True)[:width]]


def _of_probabilities(totals: list[float], logprobs: list[list[float]], width: int) -> list[tuple[int, int]]:
    best = sorted(((math.exp(total), text, token) for total, text, token in _proposals(totals, logprobs)), reverse=True)
    return [(text, token) for _, text, token in best[:width]]


def _of_probabilities_by_key(totals: list[float], logprobs: list[list[float]], width: int) -> list[tuple[int, int]]:
    best = sorted(_proposals(totals, logprobs), key=lambda proposal: math.exp(proposal[0]), reverse=True)
    return [(text, token) for _, text, token in best[:width]]


def _some_beams(random: Random) -> tuple[list[float], list[list[float]], int]:
    """Return texts and continuations; no two proposals are so near that rounding could decide.

    Texts may be so long that a float has no number for their probabilities, and two of them equally likely so far, or
    followed by equal rows.
    """
    while True:
        num_texts, vocab = random.randint(1, 4), random.randint(2, 5)
        length = random.choice((0.0, 0.0, 20.0, 800.0, 20_000.0))
        totals = [-length - random.choice((0.0, 1.0, 20.0)) - random.random() for _ in range(num_texts)]
        logprobs = []
        for _ in range(num_texts):
            logits = [random.gauss(0, random.choice((0.3, 3.0))) for _ in range(vocab)]
            norm = math.log(sum(map(math.exp, logits)))
            logprobs.append([logit - norm for logit in logits])
        alike = random.choice(("totals", "rows", "nothing", "nothing"))
        if alike == "totals":
            totals = totals[:1] * num_texts
        elif alike == "rows":
            logprobs = [list(logprobs[0]) for _text in totals]
        sums = sorted(total for total, _, _ in _proposals(totals, logprobs))
        if all(high - low > max(1e-3, length * 1e-6) for low, high in pairwise(sums)):
            return totals, logprobs, random.choice((1, 2, 4, 6))


def _logs(*rows: tuple[float, ...]) -> list[list[float]]:
    return [[math.log(p) for p in row] for row in rows]


_ALL_ZERO = (
    "almost: you turn the sums into probabilities; those of a long text are smaller than any float, so they are 0.0 "
    "and equal. Compare the sums themselves"
)
_PRODUCTS = "you multiply log-probabilities; they add, because probabilities multiply"

EXERCISE = Exercise(
    name="beam_step",
    task="which continuations of several texts live on",
    solution=beam_step_solution,
    cases=[
        ([-1.0, -1.5], _logs((0.5, 0.3, 0.2), (0.9, 0.06, 0.04)), 2),
        ([-1.0, -4.0], _logs((0.6, 0.3, 0.1), (0.9, 0.06, 0.04)), 2),
        ([0.0], _logs((0.2, 0.7, 0.1)), 2),
        ([-1.0, -2.0], [[0.0, -30.0], [-0.5, -3.0]], 1),  # 0: certain
        ([0.0], [[0.0, -30.0]], 2),
        ([-1.0, -1.0], _logs((0.9, 0.1), (0.6, 0.4)), 2),
        ([-1.0, -2.0], _logs((0.9, 0.1), (0.9, 0.1)), 2),
        ([-800.0, -801.0], _logs((0.1, 0.9), (0.6, 0.4)), 2),
        ([-1.0, -4.0], _logs((0.5, 0.3, 0.2), (0.9, 0.06, 0.04)), 2),
        ([-1.0, -4.0], _logs((0.5, 0.3, 0.2), (0.9, 0.06, 0.04)), 1),
        ([0.0], [[-9.0 + 0.001 * (j * 7 % 3001) for j in range(3001)]], 4),
        ([-40_000.0], [[-1.0, -2.0]], 2),
        # 40 texts of 49 tokens, no two sums nearer than 0.01
        ([-4.0 * (i % 5) - 0.01 * (i // 5) for i in range(40)], [[-0.08 * (j * 9 % 49) for j in range(49)]] * 40, 300),
        ([-1.0, -901.0, -801.0, -1001.0, -130.0], [[-0.1], [-0.3], [-0.2], [-0.4], [-0.5]], 5),
    ],
    generate=_some_beams,
    mistakes=[
        Mistake(
            _each_text_its_best,
            "you keep one continuation of each text; all continuations compete: one text may live on twice, "
            "another not at all",
        ),
        Mistake(_newest_alone, "you compare the newest tokens alone; the sum of the whole text decides"),
        Mistake(_only_the_best_text, "you continue the best text only; the others may still overtake it"),
        Mistake(_multiplied, _PRODUCTS),
        Mistake(_multiplied_largest_first, _PRODUCTS + " (and the largest product is that of the least likely text)"),
        Mistake(_of_probabilities, _ALL_ZERO),
        Mistake(_of_probabilities_by_key, _ALL_ZERO + ", in `key` too"),
        Mistake(_worst_first, "you keep the worst: a log-probability is negative, and near 0 is likely"),
        Mistake(_in_text_order, "the right ones, but the best must come first"),
        Mistake(_token_first, "each result is (text, token), in this order"),
    ],
    hints=(
        "How likely is a text with one more token, if you know both log-probabilities?",
        "Make one list of `(total + logprob, text, token)` of all texts and all tokens, sort it, largest first, and "
        "keep `width` of them.",
    ),
    code=(
        "proposals = [\n"
        "    (total + logprob, text, token)\n"
        "    for text, total in enumerate(totals)\n"
        "    for token, logprob in enumerate(logprobs[text])\n"
        "]\n"
        "best = sorted(proposals, reverse=True)[:width]\n"
        "return [(text, token) for _, text, token in best]"
    ),
)
