"""``temperature``: from logits to probabilities, sharper or flatter."""

from collections.abc import Callable
from random import Random

import torch
from torch import Tensor

from folovllm.course.exercises.exercise import Exercise, Mistake
from folovllm.course.exercises.outcome import Case, Outcome
from folovllm.language import _
from folovllm.sampling.sampler import apply_temperature, choose_greedily


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
    for _row in range(rng.choice([1, 2, 3, 12])):
        digits = rng.choice([0, 4])  # 0: many equal ones, of which a sort need not keep the order
        row = [round(rng.uniform(-width, width), digits) for _ in range(size)]
        row[rng.randrange(size)] = max(row)  # often two equal ones
        if size > 1 and rng.random() < 0.3:
            row[row.index(min(row))] = -torch.inf
        rows.append(row)
    return torch.tensor(rows), torch.tensor([rng.choice(_TEMPERATURES) for _ in rows])


def _unlikely_is_not_impossible(case: Case, outcome: Outcome) -> str:
    """Ask of probabilities that those are 0 which are, and no others: the comparison takes 1e-6 for 0."""
    expected = temperature_solution(*case)
    if not isinstance(outcome.value, Tensor) or outcome.value.shape != expected.shape:
        return ""
    lost = expected[(expected > 1e-30) & (outcome.value == 0)]
    if len(lost):
        said = _("your function returns 0 for a probability of {probability:.1e}: small, but not 0")
        return said.format(probability=lost[0])
    found = outcome.value[(case[0] == -torch.inf) & (outcome.value != 0)]
    said = _("your function returns {probability:.1e} for a logit of -inf, which must never be drawn: exactly 0")
    return said.format(probability=found[0]) if len(found) else ""


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


def _with_and_without_greedy(rule: Callable[[Tensor, Tensor], Tensor], diagnosis: str) -> list[Mistake]:
    """Return a mistake as those make it who are right at temperature 0, and as the others make it."""
    return [Mistake(_with_greedy(rule), diagnosis), Mistake(rule, diagnosis + _AT_ZERO)]


_CLOSE = torch.linspace(1.0, 30.0, 200)

EXERCISE = Exercise(
    name="temperature",
    task="from logits to probabilities, each row at a temperature of its own",
    solution=temperature_solution,
    cases=[
        (torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([0.5])),
        (torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([0.0])),
        (torch.tensor([[2.0, 1.0, 0.0], [2.0, 1.0, 0.0]]), torch.tensor([1.5, 0.0])),
        (torch.tensor([[0.0, 1.0, 1.0]]), torch.tensor([0.0])),
        (torch.tensor([[200.0, 199.0]]), torch.tensor([1.0])),
        (torch.tensor([[-2e5, -1.5e5]]), torch.tensor([0.0])),
        (torch.tensor([[1.0, 0.0, -torch.inf]]), torch.tensor([1.0])),
        (torch.tensor([[-3e38, -torch.inf]]), torch.tensor([1.0])),  # no number stands in for -inf
        (torch.tensor([[0.004, 0.0, -0.003]]), torch.tensor([0.01])),
        (torch.tensor([[0.004, 0.0, -0.003]]), torch.tensor([0.005])),
        (torch.tensor([[20.0, 0.0]]), torch.tensor([1.0])),
        (torch.zeros(1, 40), torch.tensor([0.0])),  # a sort keeps the order of so many ties only if it is stable
        (torch.linspace(-9, 9, 2000).repeat(2, 1), torch.tensor([2.0, 0.0])),
        (torch.tensor([[0.1, 0.10000001]]), torch.tensor([0.0])),  # equal after the softmax
        (torch.stack([_CLOSE, torch.nextafter(_CLOSE, _CLOSE + 1)], dim=1), torch.zeros(len(_CLOSE))),  # and if divided
        (torch.tensor([[0.0, 1e-30]]), torch.tensor([0.0])),  # even if divided by next to nothing
        (torch.tensor([[2.0, 2.0]]), torch.tensor([5e-6])),
        (torch.tensor([[2.0, 2.0]]), torch.tensor([5e-9])),
        (torch.tensor([[2.0, 2.0]]), torch.tensor([1e-37])),
        (torch.tensor([[2.0, 1.0, 0.0], [2e-30, 0.0, -1e-30]]), torch.tensor([1.0, 1e-30])),
        *((torch.tensor([[2 * t, 0.0, -t]]), torch.tensor([t])) for t in (5e-5, 5e-6, 1e-9, 1e-30)),
    ],
    generate=_make_temperature_case,
    complaint=_unlikely_is_not_impossible,
    mistakes=[
        *_with_and_without_greedy(_times_temperature, _MULTIPLIED),
        *_with_and_without_greedy(_temperature_after_softmax, _TOO_LATE),
        *_with_and_without_greedy(_renormalised_probabilities, _NO_CHANGE),
        Mistake(
            _minus_temperature,
            "you subtract the temperature from all logits of a row, which changes no probability; divide by it"
            + _AT_ZERO,
        ),
        *_with_and_without_greedy(_only_scaled, _NO_SOFTMAX),
        *_with_and_without_greedy(_overflowing_softmax, _OVERFLOW),
        Mistake(
            _divided_by_zero,
            "right above 0; a row at temperature 0 is divided by 0 and comes out as NaN, and NaN * 0 is NaN: let "
            "`torch.where` choose the largest logit there",
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
            "you raise 0 and tiny temperatures to a larger one: smaller ones are allowed, and at 0 the first largest "
            "logit gets all, however close others are",
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
)
