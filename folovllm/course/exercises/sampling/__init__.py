"""The exercises of chapter 02, with their solutions and the mistakes that they catch."""

import math
from collections.abc import Callable
from itertools import pairwise
from random import Random

import torch
from torch import Tensor

from folovllm.course.exercises.exercise import Exercise, Mistake
from folovllm.course.exercises.outcome import Case, Outcome
from folovllm.engine.detokenizer import find_stop
from folovllm.sampling.logits_processors import Penalties, apply_penalties
from folovllm.sampling.sampler import apply_min_p, apply_temperature, choose_greedily

_INF = float("inf")
_PARTS = (64, 4096)
"""Generated probabilities are so many parts of 1: float32 adds them without rounding, so a tie is a tie."""
_BESIDE = 1 / 32
"""So little of a part is p above or below a sum."""

# -- temperature -------------------------------------------------------------------------------------


def temperature_solution(logits: Tensor, temperature: Tensor) -> Tensor:
    """Return each row's probabilities at its temperature; at 0 its largest logit has them all."""
    divisor = torch.where(temperature > 0, temperature, 1.0)
    probs = apply_temperature(logits, divisor).softmax(dim=-1)
    greedy = torch.zeros_like(logits).scatter(1, choose_greedily(logits)[:, None], 1.0)
    return torch.where(temperature[:, None] > 0, probs, greedy)


_TEMPERATURES = (0.0, 0.0, 1e-30, 5e-9, 5e-7, 5e-6, 5e-5, 0.001, 0.005, 0.01, 0.05, 0.125, 0.5, 0.7, 1.0, 1.5, 2.0)


def _make_temperature_case(rng: Random) -> tuple[Tensor, Tensor]:
    """Return rows whose logits often lie as close together as a temperature near 0 is small, or very far apart."""
    size, width = rng.choice([1, 2, 3, 5, 8, 40]), rng.choice([0.005, 0.05, 1.0, 5.0, 20.0, 300.0])
    rows = []
    for _ in range(rng.choice([1, 2, 3])):
        digits = rng.choice([0, 4])  # 0: many equal ones, of which a sort need not keep the order
        row = [round(rng.uniform(-width, width), digits) for _ in range(size)]
        row[rng.randrange(size)] = max(row)  # often two equal ones
        if size > 1 and rng.random() < 0.3:
            row[row.index(min(row))] = -_INF
        rows.append(row)
    return torch.tensor(rows), torch.tensor([rng.choice(_TEMPERATURES) for _ in rows])


def _unlikely_is_not_impossible(case: Case, outcome: Outcome) -> str:
    """Ask of probabilities that only those are 0 which are: the comparison with the right ones takes 1e-6 for 0."""
    expected = temperature_solution(*case)
    if not isinstance(outcome.value, Tensor) or outcome.value.shape != expected.shape:
        return ""
    lost = expected[(expected > 1e-30) & (outcome.value == 0)]
    return f"your function returns 0 for a probability of {lost[0]:.1e}: small, but not 0" if len(lost) else ""


def _with_greedy(rule: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """Return an answer that is right at temperature 0 and follows a rule elsewhere."""

    def answer(logits: Tensor, temperature: Tensor) -> Tensor:
        is_greedy = temperature[:, None] == 0
        return torch.where(is_greedy, temperature_solution(logits, temperature), rule(logits, temperature))

    return answer


def _times_temperature(logits: Tensor, temperature: Tensor) -> Tensor:
    return (logits * temperature[:, None]).softmax(dim=-1)


def _minus_temperature(logits: Tensor, temperature: Tensor) -> Tensor:
    return (logits - temperature[:, None]).softmax(dim=-1)


def _temperature_after_softmax(logits: Tensor, temperature: Tensor) -> Tensor:
    return logits.softmax(dim=-1) / temperature[:, None]


def _renormalised_probabilities(logits: Tensor, temperature: Tensor) -> Tensor:
    scaled = _temperature_after_softmax(logits, temperature)
    return scaled / scaled.sum(dim=-1, keepdim=True)


def _only_scaled(logits: Tensor, temperature: Tensor) -> Tensor:
    return logits / temperature[:, None]


def _overflowing_softmax(logits: Tensor, temperature: Tensor) -> Tensor:
    powers = (logits / temperature[:, None]).exp()
    return powers / powers.sum(dim=-1, keepdim=True)


def _divided_by_zero(logits: Tensor, temperature: Tensor) -> Tensor:
    return (logits / temperature[:, None]).softmax(dim=-1)


def _likeliest_after_the_softmax(logits: Tensor, temperature: Tensor) -> Tensor:
    probs = temperature_solution(logits, torch.where(temperature > 0, temperature, 1.0))
    greedy = torch.zeros_like(probs).scatter(1, logits.softmax(dim=-1).argmax(dim=-1, keepdim=True), 1.0)
    return torch.where(temperature[:, None] > 0, probs, greedy)


def _raised_to_a_tenth(logits: Tensor, temperature: Tensor) -> Tensor:
    return (logits / temperature.clamp(min=0.1)[:, None]).softmax(dim=-1)


def _almost_zero(logits: Tensor, temperature: Tensor) -> Tensor:
    return (logits / temperature.clamp(min=1e-6)[:, None]).softmax(dim=-1)


def _along_the_vocabulary(logits: Tensor, temperature: Tensor) -> Tensor:
    return (logits / temperature).softmax(dim=-1)


def _softmax_over_requests(logits: Tensor, temperature: Tensor) -> Tensor:
    return (logits / temperature[:, None]).softmax(dim=0)


# -- top-p ---------------------------------------------------------------------------------------------


def top_p_solution(probs: Tensor, p: float) -> Tensor:
    """Return which tokens stay: True or False for each. (The engine's rule, in probabilities instead of logits.)"""
    ranked, order = (each.flip(0) for each in probs.sort(stable=True))
    mass_before = ranked.double().cumsum(0) - ranked
    return torch.zeros_like(probs, dtype=torch.bool).scatter(0, order, mass_before < p)


def _make_top_p_case(rng: Random) -> tuple[Tensor, float]:
    """Return few tokens, often equal ones, or many; and a p that is often the sum of some or just beside it."""
    has_many = rng.random() < 0.2
    parts = 4096 if has_many else rng.choice(_PARTS)
    if rng.random() < 0.1:
        p = rng.choice([1e-7, 1e-8])  # 1 - p is 1 in float32
        return torch.tensor(rng.choice([[0.6, 0.4], [0.25, 0.75], [0.5, 0.5], [1.0]])), p
    common = [0, parts // 8, parts // 4, parts // 2, 3 * parts // 4, parts - 1, parts]
    if has_many:
        shares = [*range(1, 90), 91]  # all different: how a sort ranks many equal ones differs from machine to machine
    else:
        places = [*common, *(rng.randint(0, parts) for _ in common)]
        cuts = sorted(rng.choices(places, k=rng.choice([0, 1, 2, 3, 4, 7])))
        shares = [end - start for start, end in pairwise([0, *cuts, parts])]  # equal cuts: tokens of probability 0
    rng.shuffle(shares)
    # At p = 1 the engine keeps all tokens: whether those of no probability stay is nobody's question.
    most = parts - (0 in shares)
    reached = min(most, rng.choice([*common[1:], parts // 32, 7 * parts // 8, parts - 2, rng.randint(1, parts)]))
    beside = rng.choice([0.0, -_BESIDE, _BESIDE if reached < parts else 0.0])
    return torch.tensor([share / parts for share in shares]), (reached + beside) / parts


def _up_to_the_first_that_reaches(probs: Tensor, p: float) -> Tensor:
    ranked, order = _ranked(probs)
    last = int((ranked.cumsum(0) >= p).int().argmax())
    return torch.zeros(len(probs), dtype=torch.bool).scatter(0, order[: last + 1], True)


def _ranked(probs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the probabilities, likeliest first, of equal ones the last; and the tokens that have them."""
    ranked, order = probs.sort(stable=True)
    return ranked.flip(0), order.flip(0)


def _sorted_downwards(probs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the same, but of equal ones the first."""
    ranked, order = probs.sort(descending=True, stable=True)
    return ranked, order


Ranking = Callable[[Tensor], tuple[Tensor, Tensor]]


def _keep_by(ranking: Ranking, keep: Callable[[Tensor, float], Tensor]) -> Callable[[Tensor, float], Tensor]:
    """Return an answer that ranks, says which ranks stay, and puts that back to where the tokens were.

    keep: says which of the ranked probabilities stay, for a p.
    """

    def answer(probs: Tensor, p: float) -> Tensor:
        ranked, order = ranking(probs)
        kept = keep(ranked, p)
        return torch.zeros_like(kept).scatter(0, order, kept)

    return answer


def _notes_rule(ranked: Tensor, p: float) -> Tensor:
    return ranked.cumsum(0) <= p


def _sums_below(ranked: Tensor, p: float) -> Tensor:
    return ranked.cumsum(0) < p


def _and_the_first(rule: Callable[[Tensor, float], Tensor]) -> Callable[[Tensor, float], Tensor]:
    """Return a rule that keeps the first token too."""

    def keep(ranked: Tensor, p: float) -> Tensor:
        return rule(ranked, p) | (torch.arange(len(ranked)) == 0)

    return keep


def _one_too_many_at_a_tie(ranked: Tensor, p: float) -> Tensor:
    return ranked.cumsum(0) - ranked <= p


def _right_rule(ranked: Tensor, p: float) -> Tensor:
    return ranked.cumsum(0) - ranked < p


def _unsorted_top_p(probs: Tensor, p: float) -> Tensor:
    return probs.cumsum(0) - probs < p


def _mask_in_rank_order(probs: Tensor, p: float) -> Tensor:
    ranked, _ = _ranked(probs)
    return ranked.cumsum(0) - ranked < p


def _sorted_twice_by(ranking: Ranking) -> Callable[[Tensor, float], Tensor]:
    def answer(probs: Tensor, p: float) -> Tensor:
        ranked, order = ranking(probs)
        return _right_rule(ranked, p)[order]

    return answer


def _threshold_top_p(probs: Tensor, p: float) -> Tensor:
    return probs >= 1 - p


def _threshold_on_the_last_kept(probs: Tensor, p: float) -> Tensor:
    ranked, _ = _ranked(probs)
    return probs >= ranked[ranked.cumsum(0) - ranked < p][-1]


# -- min-p ---------------------------------------------------------------------------------------------


def min_p_solution(logits: Tensor, min_p: Tensor) -> Tensor:
    """Return the logits, -inf for tokens less likely than their row's ``min_p`` times its likeliest token."""
    return apply_min_p(logits, min_p)


def _make_min_p_case(rng: Random) -> tuple[Tensor, Tensor]:
    size = rng.choice([1, 2, 3, 5, 8])
    rows, all_min_p = [], []
    for _ in range(rng.choice([1, 2, 3])):
        top = rng.choice([-20.0, -2.0, 0.0, 3.0, 1000.0])
        # Halves lie far from the logarithm of every min_p, and the first token 0.01 % from the border, or 0.2 % where
        # logits are large: neither is decided by rounding.
        beside = 0.002 if top == 1000 else 1e-4
        row = [top - 0.5 * rng.choice([0, 1, 2, 3, 5, 7, 9]) for _ in range(size)]
        min_p = rng.choice([0.0, 1e-30, 1e-8, 0.02, 0.1, 0.3, 0.7, 0.9, 1.0, 1.0])
        if size > 1 and min_p > 0:
            row[0] = top + math.log(min_p) + rng.choice([-beside, beside] if min_p < 1 else [-beside])
        row[rng.randrange(size)] = top
        if size > 2 and rng.random() < 0.3:
            row[row.index(min(row))] = -_INF
        rows.append(row)
        all_min_p.append(min_p)
    return torch.tensor(rows), torch.tensor(all_min_p)


def _drop(logits: Tensor, is_dropped: Tensor) -> Tensor:
    return logits.masked_fill(is_dropped, -_INF)


def _largest(logits: Tensor) -> Tensor:
    return logits.amax(dim=-1, keepdim=True)


def _absolute_min_p(logits: Tensor, min_p: Tensor) -> Tensor:
    return _drop(logits, logits.softmax(dim=-1) < min_p[:, None])


def _share_of_the_logit(logits: Tensor, min_p: Tensor) -> Tensor:
    return _drop(logits, logits < min_p[:, None] * _largest(logits))


def _maximum_of_the_batch(logits: Tensor, min_p: Tensor) -> Tensor:
    return _drop(logits, logits < logits.max() + min_p.log()[:, None])


def _dropped_instead_of_kept(logits: Tensor, min_p: Tensor) -> Tensor:
    return _drop(logits, logits >= _largest(logits) + min_p.log()[:, None])


def _border_dropped(logits: Tensor, min_p: Tensor) -> Tensor:
    largest = _largest(logits)
    return _drop(logits, (logits <= largest + min_p.log()[:, None]) & (logits < largest))


def _in_float64(logits: Tensor, min_p: Tensor) -> Tensor:
    return _drop(logits, logits.double() < _largest(logits.double()) + min_p.double().log()[:, None])


def _share_of_the_mean(logits: Tensor, min_p: Tensor) -> Tensor:
    probs = logits.softmax(dim=-1)
    return _drop(logits, probs < min_p[:, None] * probs.mean(dim=-1, keepdim=True))


def _minus_min_p(logits: Tensor, min_p: Tensor) -> Tensor:
    return _drop(logits, logits < _largest(logits) - min_p[:, None])


def _probabilities_returned(logits: Tensor, min_p: Tensor) -> Tensor:
    return min_p_solution(logits, min_p).softmax(dim=-1)


def _probabilities_not_renormalised(logits: Tensor, min_p: Tensor) -> Tensor:
    return logits.softmax(dim=-1).masked_fill(min_p_solution(logits, min_p) == -_INF, 0.0)


def _mask_returned(logits: Tensor, min_p: Tensor) -> Tensor:
    return min_p_solution(logits, min_p) > -_INF


def _zero_for_dropped(logits: Tensor, min_p: Tensor) -> Tensor:
    return logits.masked_fill(logits < _largest(logits) + min_p.log()[:, None], 0.0)


# -- penalties -------------------------------------------------------------------------------------------


def penalties_solution(
    logits: Tensor, prompt: list[int], output: list[int], repetition: float, frequency: float, presence: float
) -> Tensor:
    """Return one row of logits, [vocab], as the three penalties leave it."""
    row = logits[None].clone()
    values = (torch.tensor([each], dtype=torch.float32) for each in (repetition, frequency, presence))
    apply_penalties(row, Penalties.of([prompt], [output], row.shape[-1], *values))
    return row[0]


def _make_penalties_case(rng: Random) -> tuple[Tensor, list[int], list[int], float, float, float]:
    """Return a row of few tokens or many, and texts from empty to long ones of many distinct tokens."""
    size = rng.choice([1, 3, 5, 50])
    logits = [rng.choice([0.5 * rng.randint(-6, 6), rng.uniform(-9, 9)]) for _ in range(size)]
    if rng.random() < 0.2:
        logits[0] = -_INF
    prompt, output = ([rng.randrange(size) for _ in range(rng.choice([0, 1, 2, 5, 60]))] for _ in range(2))
    some = rng.choice([(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1), (1, 1, 1)])
    repetition = rng.choice([0.5, 1.25, 2.0]) if some[0] else 1.0
    frequency = rng.choice([-0.5, 0.3, 2.0]) if some[1] else 0.0
    presence = rng.choice([-1.0, 0.7, 2.0]) if some[2] else 0.0
    return torch.tensor(logits), prompt, output, repetition, frequency, presence


def _penalties(
    divide: Callable[[Tensor, float], Tensor] = lambda logit, by: logit / by if logit > 0 else logit * by,
    repeated: Callable[[list[int], list[int]], list[int]] = lambda prompt, output: list({*prompt, *output}),
    counted: Callable[[list[int], list[int]], list[int]] = lambda prompt, output: output,
    subtract_first: bool = False,
    presence_per_time: bool = False,
) -> Callable[..., Tensor]:
    """Return an answer with one part of the rule changed.

    divide: what the repetition penalty does to a logit.  repeated: the tokens that it does it to, once for each time
    that one is listed.  counted: the tokens whose occurrences the other two count.
    """

    def answer(
        logits: Tensor, prompt: list[int], output: list[int], repetition: float, frequency: float, presence: float
    ) -> Tensor:
        def subtract() -> None:
            tokens = counted(prompt, output)
            for token in set(tokens):
                count = tokens.count(token)
                row[token] -= frequency * count + presence * (count if presence_per_time else 1)

        row = logits.clone()
        if subtract_first:
            subtract()
        for token in repeated(prompt, output):
            row[token] = divide(row[token], repetition)
        if not subtract_first:
            subtract()
        return row

    return answer


_divided_below_zero = _penalties(divide=lambda logit, by: logit / by)
_subtracted_repetition = _penalties(divide=lambda logit, by: logit - by)
_rewarded = _penalties(divide=lambda logit, by: logit * by if logit > 0 else logit / by)
_once_per_occurrence = _penalties(repeated=lambda prompt, output: [*prompt, *output])
_repetition_of_the_output = _penalties(repeated=lambda prompt, output: list(set(output)))
_prompt_counted = _penalties(counted=lambda prompt, output: [*prompt, *output])
_frequency_once = _penalties(counted=lambda prompt, output: list(set(output)))
_subtracted_first = _penalties(subtract_first=True)
_presence_per_time = _penalties(presence_per_time=True)
_once_per_text = _penalties(repeated=lambda prompt, output: [*set(prompt), *set(output)])
_counted_in_the_prompt_too = _penalties(
    counted=lambda prompt, output: [each for each in [*prompt, *output] if each in output]
)


def _frequency_and_presence_swapped(
    logits: Tensor, prompt: list[int], output: list[int], repetition: float, frequency: float, presence: float
) -> Tensor:
    return penalties_solution(logits, prompt, output, repetition, presence, frequency)


# -- stop ------------------------------------------------------------------------------------------------


def stop_solution(text: str, stop: list[str]) -> str:
    """Return the text before the stop string that is completed first; all of it where there is none."""
    found = find_stop(text, stop)
    return text if found is None else text[: found[0]]


def _make_stop_case(rng: Random) -> tuple[str, list[str]]:
    """Return a text, and stop strings of which some never occur and two are often completed by the same character."""
    letters = rng.choice(["ab.", "ab\n", "aAb", " ab", "是的。", "aé🏮"])
    text = "".join(rng.choice(letters) for _ in range(rng.choice([0, 3, 6, 12, 150])))
    end = rng.randint(0, len(text))
    shortest = 25 if len(text) == 150 else 1  # short ones would all be found at once in a long text
    together = [text[max(0, end - length) : end] for length in rng.sample(range(shortest, shortest + 4), 2)]
    stop = [each for each in dict.fromkeys(together) if each]
    if shortest == 1:
        stop += ["".join(rng.choices(letters, k=rng.choice([1, 2, 3]))) for _ in range(rng.choice([0, 1, 2]))]
    stop += [f"{letters[0]}{number}" for number in range(rng.choice([0, 1, 6]))]
    rng.shuffle(stop)
    return text, stop


def _counted_in_bytes(text: str, stop: list[str]) -> str:
    raw = text.encode()
    found = [(raw.index(each.encode()) + len(each.encode()), i) for i, each in enumerate(stop) if each in text]
    return text[: min(found)[0] - len(stop[min(found)[1]].encode())] if found else text


def _first_in_the_list(text: str, stop: list[str]) -> str:
    return next((text[: text.index(each)] for each in stop if each in text), text)


def _earliest_beginning(text: str, stop: list[str]) -> str:
    return text[: min((text.index(each) for each in stop if each in text), default=len(text))]


def _kept_in_the_text(text: str, stop: list[str]) -> str:
    found = find_stop(text, stop)
    return text if found is None else text[: found[0] + len(found[1])]


def _any_case(text: str, stop: list[str]) -> str:
    return text[: len(stop_solution(text.lower(), [each.lower() for each in stop]))]


def _stripped(text: str, stop: list[str]) -> str:
    return stop_solution(text, stop).rstrip()


def _only_at_the_end(text: str, stop: list[str]) -> str:
    return next((text.removesuffix(each) for each in stop if text.endswith(each)), text)


def _cut_by(text: str, stop: list[str], rank: Callable[[int, str], object], find: Callable[..., int] = str.find) -> str:
    """Cut before the stop string that comes first in an order. rank: of where it begins, and of itself."""
    found = [(find(text, each), each) for each in stop if each in text]
    return text[: min(found, key=lambda pair: rank(*pair))[0]] if found else text  # type: ignore[arg-type, return-value]


def _last_occurrence(text: str, stop: list[str]) -> str:
    return _cut_by(text, stop, lambda start, each: start + len(each), str.rfind)


def _tie_by_the_end_of_the_list(text: str, stop: list[str]) -> str:
    return stop_solution(text, stop[::-1])


def _tie_by_alphabet(text: str, stop: list[str]) -> str:
    return _cut_by(text, stop, lambda start, each: (start + len(each), each))


def _longer_of_two(text: str, stop: list[str]) -> str:
    return _cut_by(text, stop, lambda start, each: (start + len(each), start))


def _shorter_of_two(text: str, stop: list[str]) -> str:
    return _cut_by(text, stop, lambda start, each: (start + len(each), len(each)))


_AT_ZERO = "; and at temperature 0 the largest logit gets all of the probability"
_MULTIPLIED = "you multiply by the temperature: 0.5 then flattens and 1.5 sharpens, the wrong way round; divide"
_TOO_LATE = "you divide probabilities, so they no longer add up to 1; divide the logits, before the softmax"
_NO_CHANGE = (
    "above 0 your temperature changes nothing: dividing probabilities and normalising again does not, nor does "
    "subtracting it from all logits of a row; divide the logits, before the softmax"
)
_NO_SOFTMAX = "you return scaled logits; the softmax that makes probabilities of them is missing"
_OVERFLOW = (
    "the exponential of a large logit is too large for float32, and the result is NaN; `softmax` subtracts the "
    "largest logit first"
)
_FIRST_THIS = ". There is a second fault: mend this one first"
_CROSSING_DROPPED = (
    "you drop the token that crosses p: for [.4 .3 .15 .1 .05] and p = .9 you keep 3 tokens with .85 of the mass, the "
    "set must reach .9 and hold 4; where the first token is above p you keep none"
)
_FIRST_ALWAYS = (
    "you keep the first token always, but still drop the one that crosses p: for [.4 .3 .15 .1 .05] and p = .9 your 3 "
    "tokens reach .85 only"
)
_REACHED = (
    "where the sum is exactly p, the set has reached it: for [.5 .25 .25] and p = .5 one token is enough; keep a token "
    "if the sum before it is *below* p"
)
_SORTED_TWICE = (
    "`keep[order]` sorts the mask once more; `order[i]` says where the token of rank i belongs: "
    "`result[order] = keep`, or `scatter`"
)


def _in_both_rankings(keep: Callable[[Tensor, float], Tensor], diagnosis: str) -> list[Mistake]:
    """Return a mistake as those make it who rank equal tokens as the engine does, and as the others make it."""
    return [
        Mistake(_keep_by(_ranked, keep), diagnosis),
        Mistake(_keep_by(_sorted_downwards, keep), diagnosis + _FIRST_THIS),
    ]


EXERCISES = [
    Exercise(
        name="temperature",
        task="from logits to probabilities, each row at a temperature of its own",
        solution=temperature_solution,
        cases=[
            (torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([0.5])),
            (torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([0.0])),
            (torch.tensor([[2.0, 1.0, 0.0], [2.0, 1.0, 0.0]]), torch.tensor([1.5, 0.0])),
            (torch.tensor([[0.0, 1.0, 1.0]]), torch.tensor([0.0])),
            (torch.tensor([[200.0, 199.0]]), torch.tensor([1.0])),
            (torch.tensor([[0.004, 0.0, -0.003]]), torch.tensor([0.01])),
            (torch.tensor([[0.004, 0.0, -0.003]]), torch.tensor([0.005])),
            (torch.tensor([[20.0, 0.0]]), torch.tensor([1.0])),
            (torch.zeros(1, 40), torch.tensor([0.0])),  # a sort keeps the order of so many ties only if it is stable
            (torch.tensor([[0.1, 0.10000001]]), torch.tensor([0.0])),  # equal after the softmax
            (torch.tensor([[2.0, 2.0]]), torch.tensor([5e-6])),
            (torch.tensor([[2.0, 2.0]]), torch.tensor([5e-9])),
            (torch.tensor([[2.0, 2.0]]), torch.tensor([1e-37])),
            *((torch.tensor([[2 * t, 0.0, -t]]), torch.tensor([t])) for t in (5e-5, 5e-6, 1e-9, 1e-30)),
        ],
        generate=_make_temperature_case,
        complaint=_unlikely_is_not_impossible,
        mistakes=[
            Mistake(_with_greedy(_times_temperature), _MULTIPLIED),
            Mistake(_times_temperature, _MULTIPLIED + _AT_ZERO),
            Mistake(_with_greedy(_temperature_after_softmax), _TOO_LATE),
            Mistake(_temperature_after_softmax, _TOO_LATE + _AT_ZERO),
            Mistake(_with_greedy(_renormalised_probabilities), _NO_CHANGE),
            Mistake(_renormalised_probabilities, _NO_CHANGE + _AT_ZERO),
            Mistake(
                _minus_temperature,
                "you subtract the temperature from all logits of a row, which changes no probability; divide by it"
                + _AT_ZERO,
            ),
            Mistake(_with_greedy(_only_scaled), _NO_SOFTMAX),
            Mistake(_only_scaled, _NO_SOFTMAX + _AT_ZERO),
            Mistake(_with_greedy(_overflowing_softmax), _OVERFLOW),
            Mistake(_overflowing_softmax, _OVERFLOW + _AT_ZERO),
            Mistake(
                _divided_by_zero,
                "right above 0; a row at temperature 0 is divided by 0 and comes out as NaN: choose the largest "
                "logit there",
            ),
            Mistake(
                _raised_to_a_tenth,
                "you raise small temperatures to 0.1: 0.05 is allowed and sharper, and 0 gives all of the probability "
                "to the largest logit, however close the second is",
            ),
            Mistake(
                _likeliest_after_the_softmax,
                "right, but at temperature 0 you look for the largest probability; look for the largest *logit*: the "
                "softmax can make two of them equal",
            ),
            Mistake(
                _almost_zero,
                "right, but for equal logits: at temperature 0 yours share the probability, and the first should get "
                "all of it; a tiny number in place of 0 shares it too",
            ),
            Mistake(
                _along_the_vocabulary,
                "you divide column by column; a temperature belongs to a row: write `temperature[:, None]`",
            ),
            Mistake(
                _with_greedy(_softmax_over_requests),
                "your softmax runs over the requests (dim=0); the probabilities of each row must add up to 1",
            ),
        ],
        hints=(
            "Temperature acts before the softmax, and each row has its own. What does division by 0 give?",
            "Divide by `temperature[:, None]` and take the `softmax`. Where the temperature is 0, let `torch.where` "
            "put a row of zeros with a single 1.",
        ),
        code=(
            "probs = (logits / temperature[:, None]).softmax(dim=-1)\n"
            "best = logits.argmax(dim=-1, keepdim=True)\n"
            "greedy = torch.zeros_like(probs).scatter(1, best, 1.0)\n"
            "return torch.where(temperature[:, None] > 0, probs, greedy)"
        ),
    ),
    Exercise(
        name="top_p",
        task="which tokens does top-p keep?",
        solution=top_p_solution,
        cases=[
            (torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05]), 0.9),  # the notes' example
            (torch.tensor([0.05, 0.4, 0.1, 0.3, 0.15]), 0.9),
            (torch.tensor([0.02, 0.9, 0.05, 0.03]), 0.5),
            (torch.tensor([0.5, 0.25, 0.25]), 0.5),
            (torch.tensor([0.25, 0.25, 0.25, 0.25]), 0.5),
            (torch.tensor([0.26, 0.24, 0.23, 0.27]), 1.0),
            (torch.tensor([0.75, 0.25, 0.0, 0.0]), 0.9995),
            (torch.tensor([0.75, 0.25, 0.0, 0.0]), 1 - 2**-20),
            (torch.tensor([0.6, 0.4]), 1e-30),
            (torch.tensor([0.6, 0.4]), 1e-8),  # so small that 1 - p is 1 in float32
            (torch.arange(1, 101) / 5050, 0.98),  # needs 87 tokens
            (torch.tensor([0.41794511675834656, 0.3100472390651703, 0.2720075845718384]), 1.0),  # all: 0.99999994
            (torch.full((20,), 0.05), 0.22),  # a sort keeps the order of so many ties only if it is stable
        ],
        generate=_make_top_p_case,
        mistakes=[
            Mistake(
                _up_to_the_first_that_reaches,
                "almost: you look for the first place where the sum reaches p; all probabilities together may be "
                "0.9999999, just below p = 1, and then nothing does: keep all",
            ),
            *_in_both_rankings(_notes_rule, _CROSSING_DROPPED),
            *_in_both_rankings(_sums_below, "by `cumsum < p` " + _CROSSING_DROPPED),
            *_in_both_rankings(_and_the_first(_notes_rule), _FIRST_ALWAYS),
            *_in_both_rankings(_and_the_first(_sums_below), "by `cumsum < p` " + _FIRST_ALWAYS),
            *_in_both_rankings(_one_too_many_at_a_tie, _REACHED),
            Mistake(
                _unsorted_top_p, "you add up in the order of the vocabulary; sort, the likeliest token comes first"
            ),
            Mistake(
                _mask_in_rank_order,
                "your mask is in the order of the sorted tokens; put it back to where each token was (`scatter`)",
            ),
            Mistake(_sorted_twice_by(_ranked), _SORTED_TWICE),
            Mistake(_sorted_twice_by(_sorted_downwards), _SORTED_TWICE + _FIRST_THIS),
            Mistake(
                _threshold_top_p,
                "you compare each probability with 1 - p; p is about the sum of the kept ones, not about single tokens",
            ),
            Mistake(
                _threshold_on_the_last_kept,
                "you keep every token as likely as the last that is needed: of [.25 .25 .25 .25] and p = .5 all four; "
                "the set must be the smallest, which is two",
            ),
            Mistake(
                _keep_by(_sorted_downwards, _right_rule),
                "right, but for equal tokens at the border: of these the later ones of the vocabulary stay; "
                "`probs.sort(stable=True)` and then `.flip(0)` ranks them so",
            ),
        ],
        hints=(
            "The set must *reach* p: which token makes it do so, and does it stay?",
            "Sort, add up, and keep a token if the sum of those *before* it is still below p. Then undo the sort.",
        ),
        code=(
            "ranked, order = probs.sort(stable=True)\n"
            "ranked, order = ranked.flip(0), order.flip(0)\n"
            "keep = ranked.cumsum(0) - ranked < p\n"
            "return torch.zeros_like(keep).scatter(0, order, keep)"
        ),
    ),
    Exercise(
        name="min_p",
        task="drop what min-p drops, in every row of a batch",
        solution=min_p_solution,
        cases=[
            (torch.tensor([[3.0, 2.5, 0.0]]), torch.tensor([0.1])),
            (torch.tensor([[3.0, 2.5, 0.0], [3.0, 2.5, 0.0]]), torch.tensor([0.9, 0.02])),
            (torch.tensor([[3.0, 2.5, 0.0], [-5.0, -5.5, -20.0]]), torch.tensor([0.1, 0.1])),
            (torch.tensor([[1.0, 0.0, -50.0]]), torch.tensor([0.0])),
            (torch.tensor([[0.0, -200.0]]), torch.tensor([0.0])),
            (torch.tensor([[0.0, -20.0]]), torch.tensor([1e-8])),
            (torch.tensor([[0.0, -80.0]]), torch.tensor([1e-30])),
            (torch.tensor([[0.0, math.log(0.1) - 1e-4]]), torch.tensor([0.1])),
            (torch.tensor([[1.0, 1.0, -_INF]]), torch.tensor([1.0])),
            (torch.tensor([[0.5, 1.0, 0.2]]).log(), torch.tensor([0.5])),  # at the border, whichever way it is computed
            (torch.tensor([[0.25, 1.0, 0.1]]).log(), torch.tensor([0.25])),
            (torch.tensor([[1.0, 0.75, 0.25]]).log(), torch.tensor([0.75])),  # at the border in float64 too
        ],
        generate=_make_min_p_case,
        mistakes=[
            Mistake(
                _absolute_min_p,
                "you compare with min_p itself; the threshold is min_p times the likeliest token's probability, so "
                "that it is strict when the model is sure and lenient when it is not",
            ),
            Mistake(
                _share_of_the_logit,
                "you multiply a logit by min_p, but min_p is a ratio of probabilities; in logits a ratio is a "
                "difference: add the logarithm of min_p to the largest logit",
            ),
            Mistake(
                _maximum_of_the_batch,
                "you compare with the largest logit of the whole batch; each request has a likeliest token of its own",
            ),
            Mistake(_dropped_instead_of_kept, "you drop the likely tokens and keep the others; turn the comparison"),
            Mistake(
                _in_float64,
                "you compute in float64, in which a border token may lie on the other side; "
                "work in the dtype that you got",
            ),
            Mistake(
                _border_dropped,
                "you drop tokens at the border too; min-p keeps those with *at least* min_p times what the likeliest "
                "has: drop where the logit is below the threshold (<)",
            ),
            Mistake(_share_of_the_mean, "you compare with the mean; the threshold is relative to the maximum"),
            Mistake(
                _minus_min_p,
                "you subtract min_p itself from the largest logit; what a ratio is among logits is its logarithm",
            ),
            Mistake(
                _probabilities_returned, "you return probabilities; the next filter wants logits, -inf where dropped"
            ),
            Mistake(
                _probabilities_not_renormalised,
                "you return probabilities, 0 where dropped; the next filter wants logits, -inf where dropped",
            ),
            Mistake(_mask_returned, "you return a mask; the next filter wants logits, -inf where dropped"),
            Mistake(
                _zero_for_dropped,
                "you set dropped logits to 0, which is a logit like others; -inf is the one of probability 0",
            ),
        ],
        hints=(
            "One token is min_p times as likely as another: how far apart are their logits?",
            "A ratio of probabilities is a difference of logits. So the threshold of a row is its `amax` plus "
            "`min_p.log()`; what is below becomes -inf with `masked_fill`.",
        ),
        code=(
            "threshold = logits.amax(dim=-1, keepdim=True) + min_p.log()[:, None]\n"
            "return logits.masked_fill(logits < threshold, -torch.inf)"
        ),
    ),
    Exercise(
        name="penalties",
        task="lower the logits of tokens that occurred",
        solution=penalties_solution,
        cases=[
            (torch.tensor([2.0, 1.0, -1.0]), [], [0], 1.0, 0.0, 1.0),
            (torch.tensor([2.0, 1.0, -1.0]), [], [0, 0, 1], 1.0, 0.5, 0.0),
            (torch.tensor([2.0, 1.0, -1.0]), [], [0, 2], 2.0, 0.0, 0.0),
            (torch.tensor([2.0, 1.0, -1.0]), [1], [0, 0], 2.0, 0.5, 1.0),
            (torch.tensor([2.0, 1.0, -1.0]), [1, 2], [], 2.0, 0.5, 1.0),
            (torch.tensor([2.0, 1.0, -1.0]), [0], [0], 2.0, 0.0, 0.0),
            (torch.tensor([2.0, 1.0, -1.0]), [0, 1], [0, 0], 1.0, 0.5, 0.0),
            (torch.tensor([2.0, 1.0, -1.0]), [], [1, *[0] * 12], 1.0, 0.5, 1.0),
            (torch.tensor([2.0, 1.0, -1.0]), [1], [0], 1.0, 0.0, 0.0),
        ],
        generate=_make_penalties_case,
        mistakes=[
            Mistake(
                _divided_below_zero,
                "you divide negative logits too, and -1 / 2 = -0.5 is *likelier* than before; multiply where the logit "
                "is not above 0",
            ),
            Mistake(_subtracted_repetition, "you subtract the repetition penalty; it divides, or multiplies below 0"),
            Mistake(
                _rewarded, "you multiply positive logits by the repetition penalty: repeated tokens become likelier"
            ),
            Mistake(
                _once_per_occurrence,
                "you apply the repetition penalty once per occurrence; once per token is right, it does not count",
            ),
            Mistake(
                _once_per_text,
                "you apply the repetition penalty twice to a token of both prompt and output; once per token is right",
            ),
            Mistake(
                _repetition_of_the_output,
                "the repetition penalty looks at the prompt too, and not only at the output",
            ),
            Mistake(
                _prompt_counted,
                "frequency and presence penalty look at the output only; you count the tokens of the prompt too",
            ),
            Mistake(
                _counted_in_the_prompt_too,
                "right tokens, but you count how often each was written in the prompt too; the frequency penalty "
                "counts the output only",
            ),
            Mistake(
                _frequency_and_presence_swapped,
                "you swap frequency and presence penalty: frequency acts per time, presence once",
            ),
            Mistake(
                _subtracted_first,
                "you subtract before you divide, so the repetition penalty scales the others too; divide first",
            ),
            Mistake(
                _presence_per_time,
                "you subtract the presence penalty per occurrence; the frequency penalty does so, presence is once",
            ),
            Mistake(
                _frequency_once,
                "you subtract the frequency penalty once per token; it grows with every occurrence in the output "
                "(with a list as index, PyTorch writes each place only once)",
            ),
        ],
        hints=(
            "Which tokens does each penalty look at, and how many times does it act on one of them?",
            "First the repetition penalty, for each token of `set(prompt + output)`. Then, for each of `set(output)`, "
            "subtract the frequency penalty times `output.count(token)`, and the presence penalty once.",
        ),
        code=(
            "row = logits.clone()\n"
            "for token in set(prompt + output):\n"
            "    value = row[token]\n"
            "    row[token] = value / repetition if value > 0 else value * repetition\n"
            "for token in set(output):\n"
            "    row[token] -= frequency * output.count(token) + presence\n"
            "return row"
        ),
    ),
    Exercise(
        name="stop",
        task="cut a text at the stop string that is completed first",
        solution=stop_solution,
        cases=[
            ("one, two, three", ["two"]),
            ("one, two, three", ["three", "two"]),
            ("Nothing to see.", ["###"]),
            ("a\n\nHuman: b", ["Human:"]),
            ("THE END the end", ["the"]),
            ("an abcd", ["abcd", "bc"]),
            ("two, two", ["two"]),
            ("a STOP", ["STOP", "TOP"]),
            ("a STOP", ["TOP", "STOP"]),
            ("巴黎。是的", ["是"]),
            ("two " * 3000 + "three", ["three"]),
        ],
        generate=_make_stop_case,
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
            Mistake(
                _any_case, "you find a stop string in capitals too; 'THE' is not 'the': the letters must be the same"
            ),
            Mistake(_stripped, "you take white space off the end too; the text before the stop string stays as it is"),
            Mistake(_kept_in_the_text, "you keep the stop string; by default the text ends where it begins"),
            Mistake(
                _only_at_the_end,
                "you look at the end of the text only; one token may bring the stop string and more after it",
            ),
            Mistake(
                _last_occurrence,
                "you take the last occurrence of a stop string; the text ended at its first, and never saw the others",
            ),
            Mistake(
                _tie_by_the_end_of_the_list,
                "of two that are completed together you take the last of the list; the first of the list wins",
            ),
            Mistake(
                _tie_by_alphabet,
                "of two that are completed together you take the first in the alphabet; the first of the list wins",
            ),
            Mistake(
                _counted_in_bytes,
                "you count bytes, but a str is cut by characters: 是 is one character of three bytes",
            ),
            Mistake(
                _longer_of_two, "of two that are completed together you take the longer; the first of the list wins"
            ),
            Mistake(
                _shorter_of_two, "of two that are completed together you take the shorter; the first of the list wins"
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
