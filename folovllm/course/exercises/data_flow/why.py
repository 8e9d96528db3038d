"""``why``: has a text ended, and for which reason."""

import random

from transformers import PreTrainedTokenizerBase

from folovllm.course.exercises.exercise import Exercise, Mistake
from folovllm.engine.draws import Draw, DrawnToken
from folovllm.engine.output_processor import OutputProcessor
from folovllm.request import Request, SequenceStatus
from folovllm.sampling_params import SamplingParams

Why = tuple[str, int | None] | None
"""A finish reason and the stop id that caused it; None for a text that goes on."""


def why_solution(output: list[int], eos: int, stop_token_ids: list[int], min_tokens: int, max_tokens: int) -> Why:
    """Return finish reason and stop reason after the newest token, or None: the engine's output processor decides."""
    params = SamplingParams(
        stop_token_ids=stop_token_ids, min_tokens=min_tokens, max_tokens=max_tokens, detokenize=False
    )
    request = Request("why", None, [0], params)
    [seq] = request.sequences
    seq.transition_to(SequenceStatus.RUNNING)
    for token_id in output[:-1]:
        seq.add_token_id(token_id)
    no_tokenizer = PreTrainedTokenizerBase()  # type: ignore[no-untyped-call]
    processor = OutputProcessor(no_tokenizer, eos, frozenset())
    processor.track(request)
    processor.append(Draw(request, seq, 0, [], [DrawnToken(output[-1], None, 0)]))
    if seq.finish_reason is None:
        return None
    assert not isinstance(seq.stop_reason, str), "no stop string was asked for"
    return seq.finish_reason, seq.stop_reason


def _random_end(rng: random.Random) -> tuple[list[int], int, list[int], int, int]:
    output = [rng.randint(0, 5) for _ in range(rng.randint(1, 6))]
    other = rng.randint(0, 5)
    stop_token_ids = rng.choice(([], [other], [other, output[-1]], [output[-1], other]))
    max_tokens = len(output) + rng.choice((0, 0, 1, 3))
    min_tokens = min(max_tokens, rng.choice((0, len(output), len(output) + 1)))
    eos = rng.choice((output[-1], output[-1], output[0], 9))
    fresh = _new_id
    return [*map(fresh, output)], fresh(eos), [*map(fresh, stop_token_ids)], min_tokens, max_tokens


def _new_id(small: int) -> int:
    """Return a token id as an object of its own, as a real vocabulary has them: `==` finds it, `is` does not."""
    return int(f"1{small:03}")


def _length_first(output: list[int], eos: int, stop_token_ids: list[int], min_tokens: int, max_tokens: int) -> Why:
    if len(output) >= max_tokens:
        return "length", None
    return why_solution(output, eos, stop_token_ids, min_tokens, max_tokens)


def _eos_anywhere(output: list[int], eos: int, stop_token_ids: list[int], min_tokens: int, max_tokens: int) -> Why:
    if eos in output and len(output) >= min_tokens:
        return "stop", None
    return why_solution(output, eos, stop_token_ids, min_tokens, max_tokens)


def _above_the_limit(output: list[int], eos: int, stop_token_ids: list[int], min_tokens: int, max_tokens: int) -> Why:
    return why_solution(output, eos, stop_token_ids, min_tokens, max_tokens + 1)


def _without_counting_eos(
    output: list[int], eos: int, stop_token_ids: list[int], min_tokens: int, max_tokens: int
) -> Why:
    found = why_solution(output, eos, stop_token_ids, min_tokens, len(output) + 1 + min_tokens)
    others = [token for token in output if token != eos]
    return found or (("length", None) if len(others) >= max_tokens else None)


def _without_min_tokens(
    output: list[int], eos: int, stop_token_ids: list[int], min_tokens: int, max_tokens: int
) -> Why:
    return why_solution(output, eos, stop_token_ids, 0, max_tokens)


def _beyond_min_tokens(output: list[int], eos: int, stop_token_ids: list[int], min_tokens: int, max_tokens: int) -> Why:
    if len(output) == min_tokens:
        return ("length", None) if len(output) >= max_tokens else None
    return why_solution(output, eos, stop_token_ids, min_tokens, max_tokens)


def _stop_ids_first(output: list[int], eos: int, stop_token_ids: list[int], min_tokens: int, max_tokens: int) -> Why:
    never = -1 if eos in stop_token_ids else eos
    return why_solution(output, never, stop_token_ids, min_tokens, max_tokens)


def _min_tokens_for_eos_only(
    output: list[int], eos: int, stop_token_ids: list[int], min_tokens: int, max_tokens: int
) -> Why:
    if output[-1] in stop_token_ids and len(output) < min_tokens:
        return "stop", output[-1]
    return why_solution(output, eos, stop_token_ids, min_tokens, max_tokens)


def _eos_as_reason(output: list[int], eos: int, stop_token_ids: list[int], min_tokens: int, max_tokens: int) -> Why:
    return why_solution(output, -1, [*stop_token_ids, eos], min_tokens, max_tokens)


EXERCISE = Exercise(
    name="why",
    task="has a text ended after its newest token, for which reason, and by which stop id?",
    solution=why_solution,
    cases=[
        ([5, 6], 9, [], 0, 3),
        ([5, 9], 9, [], 0, 3),
        ([5, 6, 7], 9, [], 0, 3),
        ([5, 6, 9], 9, [], 0, 3),
        ([5, 7], 9, [7], 0, 3),
        ([5, 9], 9, [], 0, 4),
        ([5, 9], 6, [], 0, 4),
        ([5, 9], 6, [], 0, 2),
        ([5, 5], 9, [3, 7], 0, 3),
        ([5, 1], 9, [12], 0, 3),
        ([5, 7], 9, [8], 0, 3),
        ([5, 65_543], 9, [7], 0, 3),
        ([*[5] * 1500, 9], 9, [], 1502, 2000),
        ([5] * 2000, 9, [], 0, 2001),
        ([5] * 2000, 9, [], 0, 2000),
        ([5, 2000], 9, list(range(1001, 3000)), 0, 3),
        ([9, 5], 9, [], 0, 4),
        ([9, 5], 9, [], 1, 4),
        ([7, 5], 9, [7], 1, 4),
        ([5, 9], 9, [], 3, 4),
        ([5, 7], 9, [7], 3, 4),
        ([5, 9], 9, [9], 0, 4),
        ([5, 0], 9, [0], 0, 3),
        ([5, 0], 0, [], 0, 3),
    ],
    generate=_random_end,
    mistakes=[
        Mistake(
            _length_first,
            "you look at the length first; an end-of-sequence token on the last allowed place is a `stop`, the "
            "text is complete",
        ),
        Mistake(
            _eos_anywhere,
            "you look for the end-of-sequence token anywhere; only the newest token can end the text",
        ),
        Mistake(
            _above_the_limit,
            "at `max_tokens` tokens you do not answer `length`: is it asked one token later, or only below "
            "`min_tokens`?",
        ),
        Mistake(
            _without_counting_eos,
            "you leave older end-of-sequence tokens out of the count; every token of the output counts",
        ),
        Mistake(_min_tokens_for_eos_only, "below `min_tokens` tokens no stop id ends the text either"),
        Mistake(_without_min_tokens, "below `min_tokens` tokens neither EOS nor a stop id ends the text"),
        Mistake(_beyond_min_tokens, "`min_tokens` tokens are enough to end; you wait for one more"),
        Mistake(
            _stop_ids_first,
            "you look at the stop ids before EOS; an EOS that is also a stop id counts as EOS",
        ),
        Mistake(_eos_as_reason, "you report EOS as a stop id; for EOS the second part is None"),
    ],
    hints=(
        "Only the newest token and the number of tokens matter. In which order are they asked?",
        "If there are `min_tokens` tokens: first EOS, then the stop ids. After that the length. Else None.",
    ),
    code=(
        "if len(output) >= min_tokens:\n"
        "    if output[-1] == eos:\n"
        '        return "stop", None\n'
        "    if output[-1] in stop_token_ids:\n"
        '        return "stop", output[-1]\n'
        'return ("length", None) if len(output) >= max_tokens else None'
    ),
)
