"""The exercises of chapter 05, with their solutions and the mistakes that they catch."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from folovllm.config import SchedulerConfig
from folovllm.course.exercises.exercise import NOT_ATTEMPTED, Exercise, Mistake
from folovllm.course.exercises.outcome import Answer
from folovllm.engine.block_manager import BlockManager
from folovllm.engine.detokenizer import find_stop
from folovllm.engine.draws import Draw, DrawnToken
from folovllm.engine.output_processor import OutputProcessor
from folovllm.engine.scheduler import Scheduler
from folovllm.llm import LLM
from folovllm.request import Request, SequenceStatus
from folovllm.sampling.sampler import choose_greedily
from folovllm.sampling_params import SamplingParams

Why = tuple[str, int | None] | None
"""A finish reason and the stop id that caused it; None for a text that goes on."""

# -- share: who gets how many tokens of a step -----------------------------------------------------------


def share_solution(running: list[int], waiting: list[int], budget: int, seats: int) -> list[int]:
    """Return how many tokens each running and then each waiting request gets: the engine's scheduler decides."""
    manager = BlockManager(16, 1000, enable_prefix_caching=False)
    scheduler = Scheduler(SchedulerConfig(max_num_batched_tokens=budget, max_num_seqs=seats), manager)
    requests = [Request(str(i), None, [0] * (16 + need), SamplingParams()) for i, need in enumerate(running)]
    for request in requests:
        [seq] = request.sequences
        seq.transition_to(SequenceStatus.RUNNING)
        manager.append_slots(seq, 16)
        seq.num_computed_tokens = 16
        scheduler.running.append(request)
    for length in waiting:
        requests.append(Request(str(len(requests)), None, [0] * length, SamplingParams()))
        scheduler.add_request(requests[-1])
    given = {item.request.request_id: len(item.token_ids) for item in scheduler.schedule().scheduled}
    return [given.get(request.request_id, 0) for request in requests]


def _random_step(rng: random.Random) -> tuple[list[int], list[int], int, int]:
    seats = rng.randint(1, 6)
    running = [rng.choice((1, 1, 1, rng.randint(2, 30))) for _ in range(rng.randint(0, seats))]
    waiting = [rng.choice((1, rng.randint(1, 40), 7, 7)) for _ in range(rng.randint(0, 5))]
    budget = rng.choice((seats, sum(running) + rng.randint(0, 40), sum(running + waiting), rng.randint(1, 90)))
    return running, waiting, max(seats, budget), seats


def _share_by(
    rule: Callable[[int, int], int],
) -> Callable[[list[int], list[int], int, int], list[int]]:
    """Return an answer that gives every request what a rule makes of its need and of the tokens that are left."""

    def answer(running: list[int], waiting: list[int], budget: int, seats: int) -> list[int]:
        given: list[int] = []
        for need in running + waiting:
            given.append(rule(need, budget - sum(given)) if len(given) < seats else 0)
        return given

    return answer


def _without_subtracting(running: list[int], waiting: list[int], budget: int, seats: int) -> list[int]:
    return [min(need, budget) if i < seats else 0 for i, need in enumerate(running + waiting)]


def _without_seats(running: list[int], waiting: list[int], budget: int, seats: int) -> list[int]:
    return share_solution(running, waiting, max(budget, len(running + waiting)), len(running + waiting) or 1)


def _seats_for_the_waiting(running: list[int], waiting: list[int], budget: int, seats: int) -> list[int]:
    return _share_by(min)(running, waiting, budget, seats + len(running))


def _one_each_for_the_running(running: list[int], waiting: list[int], budget: int, seats: int) -> list[int]:
    return _share_by(min)([1] * len(running), waiting, budget, seats)


def _waiting_first(running: list[int], waiting: list[int], budget: int, seats: int) -> list[int]:
    admitted = waiting[: max(0, seats - len(running))]
    given = _share_by(min)(admitted, running, budget, seats)
    return given[len(admitted) :] + given[: len(admitted)] + [0] * (len(waiting) - len(admitted))


def _shortest_first(running: list[int], waiting: list[int], budget: int, seats: int) -> list[int]:
    needs = (running + waiting)[:seats]
    given = [0] * len(running + waiting)
    for i in sorted(range(len(needs)), key=lambda i: needs[i]):
        given[i] = min(needs[i], budget)
        budget -= given[i]
    return given


def _equal_shares(running: list[int], waiting: list[int], budget: int, seats: int) -> list[int]:
    needs = (running + waiting)[:seats]
    each = budget // max(1, len(needs))
    return [min(need, each) for need in needs] + [0] * (len(running + waiting) - len(needs))


# -- why: has a text ended, and for which reason ---------------------------------------------------------


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
    return output, eos, stop_token_ids, min_tokens, max_tokens


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


def _eos_as_reason(output: list[int], eos: int, stop_token_ids: list[int], min_tokens: int, max_tokens: int) -> Why:
    return why_solution(output, -1, [*stop_token_ids, eos], min_tokens, max_tokens)


# -- shown: how much of an unfinished text is safe -------------------------------------------------------


def shown_solution(data: bytes, stop: list[str]) -> str:
    """Return what may be shown: whole characters, without the longest ending that begins a stop string."""
    text = data.decode(errors="ignore")
    for start in range(len(text)):
        if any(each.startswith(text[start:]) for each in stop):
            return text[:start]
    return text


def _random_stream(rng: random.Random) -> tuple[bytes, list[str]]:
    alphabet = rng.choice(("ab", "aab", "水a🏮", "灯笼火", "END."))
    stop = ["".join(rng.choices(alphabet, k=rng.randint(1, 4))) for _ in range(rng.choice((0, 1, 1, 2, 3)))]
    text = "".join(rng.choices(alphabet, k=rng.randint(0, 8))) + rng.choice(["", *(each[:-1] for each in stop)])
    found = find_stop(text, stop)
    while found is not None:
        text = text[: found[0] + len(found[1]) - 1]
        found = find_stop(text, stop)
    half = rng.choice((b"", b"", "水".encode()[:2], "🏮".encode()[: rng.randint(1, 3)]))
    return text.encode() + half, stop


def _always_the_longest(data: bytes, stop: list[str]) -> str:
    text = data.decode(errors="ignore")
    held = max(map(len, stop), default=1) - 1
    return text[: max(0, len(text) - held)]


def _with_marks(data: bytes, stop: list[str]) -> str:
    whole = shown_solution(data, stop)
    if len(whole) < len(data.decode(errors="ignore")):
        return whole
    return data.decode(errors="replace")


def _strictly_decoded(data: bytes, stop: list[str]) -> str:
    data.decode()
    return shown_solution(data, stop)


def _shortest_ending(data: bytes, stop: list[str]) -> str:
    text = data.decode(errors="ignore")
    for start in reversed(range(len(text))):
        if any(each.startswith(text[start:]) for each in stop):
            return text[:start]
    return text


def _first_stop_only(data: bytes, stop: list[str]) -> str:
    return shown_solution(data, stop[:1])


def _cut_at_the_first_letter(data: bytes, stop: list[str]) -> str:
    text = data.decode(errors="ignore")
    places = [text.find(each[0]) for each in stop]
    return text[: min((place for place in places if place >= 0), default=len(text))]


def _last_letter_only(data: bytes, stop: list[str]) -> str:
    text = data.decode(errors="ignore")
    return text[:-1] if text and any(each.startswith(text[-1]) for each in stop) else text


def _characters_only(data: bytes, stop: list[str]) -> str:
    return data.decode(errors="ignore")


# -- generate: the whole loop ----------------------------------------------------------------------------


@dataclass(frozen=True)
class GreedySampler:
    """The engine's greedy choice as one object: logits [num_seqs, vocab] -> token ids [num_seqs]."""

    def __call__(self, logits: Tensor) -> Tensor:
        """Return each row's likeliest token."""
        return choose_greedily(logits)


@dataclass(frozen=True, repr=False)
class _RankSampler:
    """Takes each row's token of a fixed rank, so that whoever chooses by other means is found out."""

    rank: int

    def __call__(self, logits: Tensor) -> Tensor:
        return logits.argsort(dim=-1, descending=True, stable=True)[:, self.rank]

    def __repr__(self) -> str:
        return f"sampler(rank {self.rank})"


def generate_solution(tokenizer: Any, model: Any, sampler: Answer, text: str, max_tokens: int) -> list[int]:
    """Return the ids of the continuation that the sampler chooses, an end-of-sequence token included."""
    prompt = tokenizer.encode(text)
    output: list[int] = []
    while len(output) < max_tokens and tokenizer.eos_token_id not in output:
        logits = model(torch.tensor([prompt + output])).logits
        output.append(int(sampler(logits[:, -1])))
    return output


COMPARED = ("The capital of France is", "<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\n")
"""Prompts for a loop on the real model: one runs into the limit; one holds an EOS, and ends with one soon."""


def compare_with_engine(llm: LLM, model: PreTrainedModel, answer: Answer) -> None:
    """Run a learner's loop on a real model, and print whether it gives what ``LLM.generate`` gives.

    model: the one that ``llm`` runs, loaded once more and on the CPU, so that no part of the engine takes part.
    """
    for text in COMPARED:
        [expected] = llm.generate(text, SamplingParams(temperature=0, max_tokens=10), use_tqdm=False)
        engines = expected.outputs[0].token_ids
        try:
            with torch.inference_mode():
                given = list(answer(llm.get_tokenizer(), model, GreedySampler(), text, 10))
        except NotImplementedError:
            print(f"your loop on the real model: {NOT_ATTEMPTED}")
            return
        except Exception as error:
            print(f"{text!r}: your loop raises {type(error).__name__}: {error}")
            continue
        print(f"{text!r}: {len(engines)} tokens; yours are the same: {given == engines}")


@dataclass(frozen=True, repr=False)
class _ToyTokenizer:
    """Digits are tokens; ``eos_token_id`` can be chosen, so that some runs end early."""

    eos_token_id: int

    def encode(self, text: str) -> list[int]:
        return [int(digit) for digit in text]

    def __repr__(self) -> str:
        return f"digits(EOS {self.eos_token_id})"


@dataclass(frozen=True, repr=False)
class _ToyModel:
    """Ten logits a place, which depend on all tokens up to it and on their order, so that a wrong context shows."""

    def __call__(self, input_ids: Tensor) -> SimpleNamespace:
        state, rows = 7, []
        for token in input_ids[0].tolist():
            state = (3 * state + token + 5) % 100 + 1
            rows.append([float(state * place % 101) for place in range(1, 11)])  # 101 is prime: no two are equal
        return SimpleNamespace(logits=torch.tensor(rows).reshape(1, len(rows), 10))

    def __repr__(self) -> str:
        return "toy model"


def _random_run(rng: random.Random) -> tuple[_ToyTokenizer, _ToyModel, Answer, str, int]:
    text = "".join(rng.choices("0123456789", k=rng.randint(1, 6)))
    eos = int(rng.choice((text[0], text[-1], rng.choice("0123456789"))))
    sampler = _RankSampler(rng.choice((0, 0, 1, 2)))
    return _ToyTokenizer(eos), _ToyModel(), sampler, text, rng.randint(1, 7)


def _only_the_last_token(tokenizer: Any, model: Any, sampler: Answer, text: str, max_tokens: int) -> list[int]:
    return generate_solution(tokenizer, lambda ids: model(ids[:, -1:]), sampler, text, max_tokens)


def _then_only_the_newest(tokenizer: Any, model: Any, sampler: Answer, text: str, max_tokens: int) -> list[int]:
    length = len(tokenizer.encode(text))
    return generate_solution(
        tokenizer, lambda ids: model(ids if ids.shape[1] == length else ids[:, -1:]), sampler, text, max_tokens
    )


def _prompt_only(tokenizer: Any, model: Any, sampler: Answer, text: str, max_tokens: int) -> list[int]:
    length = len(tokenizer.encode(text))
    return generate_solution(tokenizer, lambda ids: model(ids[:, :length]), sampler, text, max_tokens)


def _output_only(tokenizer: Any, model: Any, sampler: Answer, text: str, max_tokens: int) -> list[int]:
    length = len(tokenizer.encode(text))
    return generate_solution(
        tokenizer, lambda ids: model(ids[:, length:] if ids.shape[1] > length else ids), sampler, text, max_tokens
    )


def _first_row(tokenizer: Any, model: Any, sampler: Answer, text: str, max_tokens: int) -> list[int]:
    def turned(input_ids: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=model(input_ids).logits.flip(1))

    return generate_solution(tokenizer, turned, sampler, text, max_tokens)


def _own_argmax(tokenizer: Any, model: Any, sampler: Answer, text: str, max_tokens: int) -> list[int]:
    return generate_solution(tokenizer, model, GreedySampler(), text, max_tokens)


def _never_stops(tokenizer: Any, model: Any, sampler: Answer, text: str, max_tokens: int) -> list[int]:
    endless = SimpleNamespace(encode=tokenizer.encode, eos_token_id=None)
    return generate_solution(endless, model, sampler, text, max_tokens)


def _stops_for_the_prompt(tokenizer: Any, model: Any, sampler: Answer, text: str, max_tokens: int) -> list[int]:
    if tokenizer.eos_token_id in tokenizer.encode(text):
        return []
    return generate_solution(tokenizer, model, sampler, text, max_tokens)


def _stops_late_for_the_prompt(tokenizer: Any, model: Any, sampler: Answer, text: str, max_tokens: int) -> list[int]:
    early = 1 if tokenizer.eos_token_id in tokenizer.encode(text) else max_tokens
    return generate_solution(tokenizer, model, sampler, text, early)


def _without_the_end(tokenizer: Any, model: Any, sampler: Answer, text: str, max_tokens: int) -> list[int]:
    output = generate_solution(tokenizer, model, sampler, text, max_tokens)
    return [token for token in output if token != tokenizer.eos_token_id]


def _with_the_prompt(tokenizer: Any, model: Any, sampler: Answer, text: str, max_tokens: int) -> list[int]:
    return list(tokenizer.encode(text)) + generate_solution(tokenizer, model, sampler, text, max_tokens)


def _one_too_many(tokenizer: Any, model: Any, sampler: Answer, text: str, max_tokens: int) -> list[int]:
    return generate_solution(tokenizer, model, sampler, text, max_tokens + 1)


_RUNS: list[tuple[Any, ...]] = [
    (_ToyTokenizer(eos), _ToyModel(), _RankSampler(0), text, max_tokens)
    for text, eos, max_tokens in (("12", 7, 3), ("4", 9, 8), ("551", 7, 8), ("83", 9, 4), ("12", 1, 4))
] + [(_ToyTokenizer(7), _ToyModel(), _RankSampler(1), "12", 4)]

EXERCISES = [
    Exercise(
        name="share",
        task="tokens of each request in one step: first those that run, then those that wait, with chunked prefill",
        solution=share_solution,
        cases=[
            ([], [5, 7], 16, 4),
            ([1, 1], [5], 16, 4),
            ([], [20, 3], 16, 4),
            ([1, 1, 1], [9, 9], 16, 4),
            ([1, 12, 1], [9], 8, 4),
            ([1, 1], [10, 10, 2], 14, 8),
        ],
        generate=_random_step,
        mistakes=[
            Mistake(
                _without_subtracting,
                "you compare each request with the whole budget; take off what the ones before it got, or the step "
                "has more tokens than the budget allows",
            ),
            Mistake(
                _seats_for_the_waiting,
                "you give all seats to the waiting requests; the running ones sit on some of them",
            ),
            Mistake(_without_seats, "you let in more requests than there are seats; who has no seat gets 0"),
            Mistake(
                _share_by(lambda need, left: need if need <= left else 0),
                "you pass over a request that does not fit; with chunked prefill it gets what is left of the budget, "
                "and the rest in later steps",
            ),
            Mistake(_share_by(lambda need, left: need), "your step has more tokens than the budget allows"),
            Mistake(
                _one_each_for_the_running,
                "you give every running request one token; one whose prompt is half read needs more than one",
            ),
            Mistake(_waiting_first, "you serve the waiting ones first; then texts that grow stand still"),
            Mistake(_shortest_first, "you serve the shortest first; the order of arrival decides"),
            Mistake(_equal_shares, "you divide equally; first come, first served: the first may take all it needs"),
        ],
        hints=(
            "Go through them in their order, with the budget and the seats that are left.",
            "Each gets the smaller of what it needs and what is left; who comes after the last seat gets 0.",
        ),
        code=(
            "given = []\n"
            "for need in running + waiting:\n"
            "    if len(given) < seats:\n"
            "        given.append(min(need, budget - sum(given)))\n"
            "    else:\n"
            "        given.append(0)\n"
            "return given"
        ),
    ),
    Exercise(
        name="shown",
        task="how much of an unfinished text may be shown, when stop strings and half characters are pending",
        solution=shown_solution,
        cases=[
            (b"one END", []),
            (b"one EN", ["END"]),
            (b"one END", ["END."]),
            (b"ENENE", ["ENEND"]),
            ("灯".encode() + "🏮".encode()[:2], ["END"]),
            (b"END of", ["END.", "off"]),
        ],
        generate=_random_stream,
        mistakes=[
            Mistake(
                _always_the_longest,
                "safe, but you hold back more than you must: the engine's own rule. Hold back an ending only if a stop "
                "string begins with it",
            ),
            Mistake(
                _strictly_decoded,
                "your function raises UnicodeDecodeError when a character is not complete; leave its bytes out",
            ),
            Mistake(_with_marks, "you show a mark for half a character, and must take it back when the rest comes"),
            Mistake(
                _shortest_ending,
                "you take the shortest ending that begins a stop string; a longer one may begin it too",
            ),
            Mistake(_first_stop_only, "you look at the first stop string only; each of them may begin here"),
            Mistake(
                _cut_at_the_first_letter,
                "you cut at the first letter of a stop string, wherever it stands; only the end of the text can still "
                "grow into one",
            ),
            Mistake(_last_letter_only, "you look at the last letter only; a stop string may have begun before it"),
            Mistake(
                _characters_only, "you show the beginning of a stop string, and must take it back when the rest comes"
            ),
        ],
        hints=(
            "Which endings of the text could still grow into a stop string?",
            '`data.decode(errors="ignore")` leaves half a character out. Then try the endings from the longest to the '
            "shortest: does one of the stop strings start with it?",
        ),
        code=(
            'text = data.decode(errors="ignore")\n'
            "for start in range(len(text)):\n"
            "    ending = text[start:]\n"
            "    if any(each.startswith(ending) for each in stop):\n"
            "        return text[:start]\n"
            "return text"
        ),
    ),
    Exercise(
        name="why",
        task="has a text ended after its newest token, for which reason, and by which stop id?",
        solution=why_solution,
        cases=[
            ([5, 6], 9, [], 0, 3),
            ([5, 9], 9, [], 0, 3),
            ([5, 6, 7], 9, [], 0, 3),
            ([5, 6, 9], 9, [], 0, 3),
            ([5, 7], 9, [7], 0, 3),
            ([9, 5], 9, [], 0, 4),
            ([5, 9], 9, [], 3, 4),
            ([5, 9], 9, [9], 0, 4),
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
            Mistake(_above_the_limit, "at `max_tokens` tokens the limit is reached, not one later"),
            Mistake(
                _without_counting_eos,
                "you leave older end-of-sequence tokens out of the count; every token of the output counts",
            ),
            Mistake(_without_min_tokens, "below `min_tokens` tokens neither EOS nor a stop id ends the text"),
            Mistake(_beyond_min_tokens, "with exactly `min_tokens` tokens the text may end, not one later"),
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
    ),
    Exercise(
        name="generate",
        task="the whole loop, from tokenizer, model and sampler: from a text to the continuation that is chosen",
        solution=generate_solution,
        cases=_RUNS,
        generate=_random_run,
        mistakes=[
            Mistake(
                _then_only_the_newest,
                "after the first round you show the model the newest token alone; without a KV cache it must see "
                "everything so far",
            ),
            Mistake(
                _only_the_last_token,
                "you show the model one token alone; without a KV cache it must see everything so far",
            ),
            Mistake(_prompt_only, "the model never sees its own output: add each token to what you show it next"),
            Mistake(_output_only, "after the first round the model no longer sees the prompt: show it both"),
            Mistake(
                _first_row,
                "you draw from the first row of logits; the model answers for every place, and what follows the text "
                "is in the last row",
            ),
            Mistake(_own_argmax, "you choose the token yourself; `sampler` chooses, and not always the likeliest"),
            Mistake(
                _without_the_end,
                "you leave the end-of-sequence token out; it was generated, and `token_ids` holds it",
            ),
            Mistake(_never_stops, "you go on after the end-of-sequence token; it is the last one"),
            Mistake(
                _stops_for_the_prompt,
                "you stop because an end-of-sequence token stands in the prompt; only one that was generated ends",
            ),
            Mistake(
                _stops_late_for_the_prompt,
                "you stop after one token because an end-of-sequence token stands in the prompt; only one that was "
                "generated ends",
            ),
            Mistake(_with_the_prompt, "you return the prompt too; the completion is what came after it"),
            Mistake(_one_too_many, "one token too many: `max_tokens` counts the generated ones"),
        ],
        hints=(
            "What does the model see in the second round?",
            "Encode the text. Repeat: `model(torch.tensor([ids])).logits`, `sampler` on its last row, append; stop "
            "after `tokenizer.eos_token_id` or `max_tokens`.",
        ),
        code=(
            "prompt, output = tokenizer.encode(text), []\n"
            "while len(output) < max_tokens and tokenizer.eos_token_id not in output:\n"
            "    logits = model(torch.tensor([prompt + output])).logits\n"
            "    output.append(int(sampler(logits[:, -1])))\n"
            "return output"
        ),
    ),
]
