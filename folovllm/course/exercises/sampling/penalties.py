"""``penalties``: lower logits for tokens that occurred."""

from collections.abc import Callable
from random import Random

import torch
from torch import Tensor

from folovllm.course.exercises.exercise import Exercise, Mistake
from folovllm.sampling.logits_processors import Penalties, apply_penalties


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
    size = rng.choice([1, 3, 5, 5, 50, 50, 2000])
    logits = [rng.choice([0.5 * rng.randint(-6, 6), rng.uniform(-9, 9), rng.uniform(-0.1, 0.1)]) for _ in range(size)]
    if rng.random() < 0.2:
        logits[0] = -torch.inf
    prompt, output = ([rng.randrange(size) for _ in range(rng.choice([0, 1, 2, 5, 60, 300]))] for _ in range(2))
    some = rng.choice([(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1), (1, 1, 1)])
    repetition = rng.choice([0.1, 0.5, 1.25, 2.0, 10.0]) if some[0] else 1.0
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


EXERCISE = Exercise(
    name="penalties",
    task="lower the logits of tokens that occurred",
    solution=penalties_solution,
    cases=[
        (torch.tensor([2.0, 1.0, -1.0]), [], [0], 1.0, 0.0, 1.0),
        (torch.tensor([1.0, 2.0, -1.0]), [], [0], 1.0, 0.0, 1.0),
        (torch.tensor([2.0, 1.0, -1.0]), [], [0, 0, 1], 1.0, 0.5, 0.0),
        (torch.tensor([2.0, 1.0, -1.0]), [], [0, 2], 2.0, 0.0, 0.0),
        (torch.tensor([2.0, 1.0, -1.0]), [1], [0, 0], 2.0, 0.5, 1.0),
        (torch.tensor([2.0, 1.0, -1.0]), [1, 2], [], 2.0, 0.5, 1.0),
        # Each differs from the one above in one argument alone, all beginning with this one.
        (torch.tensor([2.0, 1.0, -1.0]), [1, 2], [0], 2.0, 0.5, 1.0),
        (torch.tensor([2.0, 1.0, -1.0]), [1], [0], 2.0, 0.5, 1.0),
        (torch.tensor([2.0, 1.0, -1.0]), [1], [0], 0.5, 0.5, 1.0),
        (torch.tensor([2.0, 1.0, -1.0]), [1], [0], 0.5, 0.25, 1.0),
        (torch.tensor([2.0, 1.0, -1.0]), [1], [0], 0.5, 0.25, -1.0),
        (torch.tensor([2.0, -1.0, 1.0]), [1], [0], 0.5, 0.25, -1.0),
        (torch.tensor([2.0, 1.0, -1.0]), [0], [0], 2.0, 0.0, 0.0),
        (torch.tensor([2.0, 1.0, -1.0]), [0, 1], [0, 0], 1.0, 0.5, 0.0),
        (torch.tensor([2.0, 1.0, -1.0]), [], [1, *[0] * 12], 1.0, 0.5, 1.0),
        (torch.tensor([2.0, 1.0, -1.0]), [1], [0], 1.0, 0.0, 0.0),
        (torch.tensor([4e-4, -4e-4, 5e-7]), [0, 1, 2], [], 100.0, 0.0, 0.0),
        (torch.tensor([2.0, 1.0, -1.0]), [], [1, *[0] * 3000], 1.0, 0.5, 0.25),
    ],
    generate=_make_penalties_case,
    mistakes=[
        Mistake(
            _divided_below_zero,
            "you divide negative logits too, and -1 / 2 = -0.5 is *likelier* than before; multiply where the logit "
            "is not above 0",
        ),
        Mistake(_subtracted_repetition, "you subtract the repetition penalty; it divides, or multiplies below 0"),
        Mistake(_rewarded, "you multiply positive logits by the repetition penalty: repeated tokens become likelier"),
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
)
