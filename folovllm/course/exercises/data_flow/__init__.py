"""The exercises of chapter 05, with their solutions and the mistakes that they catch."""

import math
import random
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import CausalLMOutput

from folovllm.config import SchedulerConfig
from folovllm.course.exercises.exercise import NOT_ATTEMPTED, Exercise, Mistake
from folovllm.course.exercises.outcome import Answer
from folovllm.course.exercises.time_limit import TimeIsUp, call_in_time
from folovllm.engine.block_manager import BlockManager
from folovllm.engine.detokenizer import find_stop
from folovllm.engine.draws import Draw, DrawnToken
from folovllm.engine.output_processor import OutputProcessor
from folovllm.engine.scheduler import Scheduler
from folovllm.language import _
from folovllm.llm import LLM
from folovllm.request import Request, SequenceStatus
from folovllm.sampling.sampler import apply_temperature, choose_greedily, sample_from_uniform
from folovllm.sampling_params import SamplingParams
from folovllm.sequence import UniformStream

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
    return _share_by(min)(running, waiting, budget, len(running + waiting))


def _one_seat_too_many(running: list[int], waiting: list[int], budget: int, seats: int) -> list[int]:
    return _share_by(min)(running, waiting, budget, seats + 1)


def _one_seat_too_few(running: list[int], waiting: list[int], budget: int, seats: int) -> list[int]:
    return _share_by(min)(running, waiting, budget, seats - 1)


def _seats_for_the_waiting(running: list[int], waiting: list[int], budget: int, seats: int) -> list[int]:
    return _share_by(min)(running, waiting, budget, seats + len(running))


def _one_each_for_the_running(running: list[int], waiting: list[int], budget: int, seats: int) -> list[int]:
    return _share_by(min)([1] * len(running), waiting, budget, seats)


def _waiting_first(running: list[int], waiting: list[int], budget: int, seats: int) -> list[int]:
    admitted = waiting[: max(0, seats - len(running))]
    given = _share_by(min)(admitted, running, budget, seats)
    return given[len(admitted) :] + given[: len(admitted)] + [0] * (len(waiting) - len(admitted))


def _waiting_before_running(running: list[int], waiting: list[int], budget: int, seats: int) -> list[int]:
    given = _share_by(min)(waiting, running, budget, seats)
    return given[len(waiting) :] + given[: len(waiting)]


def _waiting_before_running_in_the_list(running: list[int], waiting: list[int], budget: int, seats: int) -> list[int]:
    return _share_by(min)(waiting, running, budget, seats)


def _newcomers_uncut(running: list[int], waiting: list[int], budget: int, seats: int) -> list[int]:
    given: list[int] = []
    for i, need in enumerate(running + waiting):
        left = budget - sum(given)
        fits = i < len(running) or need <= left
        given.append(min(need, left) if i < seats and fits else 0)
    return given


def _shortest_first(running: list[int], waiting: list[int], budget: int, seats: int) -> list[int]:
    needs = (running + waiting)[:seats]
    given = [0] * len(running + waiting)
    for i in sorted(range(len(needs)), key=lambda i: needs[i]):
        given[i] = min(needs[i], budget)
        budget -= given[i]
    return given


def _one_newcomer(running: list[int], waiting: list[int], budget: int, seats: int) -> list[int]:
    return _share_by(min)(running, waiting[:1], budget, seats) + [0] * len(waiting[1:])


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


# -- shown: how much of an unfinished text is safe -------------------------------------------------------


def shown_solution(data: bytes, stop: list[str]) -> str:
    """Return what may be shown: whole characters, without the longest ending that begins a stop string."""
    text = data.decode(errors="ignore")
    for start in range(len(text)):
        if any(each.startswith(text[start:]) for each in stop):
            return text[:start]
    return text


def _random_stream(rng: random.Random) -> tuple[bytes, list[str]]:
    alphabet = rng.choice(("ab", "aab", "aA", "水a🏮", "灯笼火", "END.", "a\ufffd", "a \n", " EN"))
    stop = ["".join(rng.choices(alphabet, k=rng.choice((1, 2, 3, 4, 20)))) for _ in range(rng.choice((0, 1, 1, 2, 3)))]
    text = "".join(rng.choices(alphabet, k=rng.choice((0, 1, 3, 8)))) + rng.choice(["", *(each[:-1] for each in stop)])
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


def _engines_rule(without_stop: Callable[[str], str]) -> Answer:
    """Return an answer that cuts by a negative index, which keeps nothing where nothing is to be cut."""

    def answer(data: bytes, stop: list[str]) -> str:
        text = data.decode(errors="ignore")
        return text[: -(max(map(len, stop)) - 1)] if stop else without_stop(text)

    return answer


def _max_of_nothing(text: str) -> str:
    raise ValueError("max() of no stop strings")


def _cut_by_minus_0(data: bytes, stop: list[str]) -> str:
    text, safe = data.decode(errors="ignore"), shown_solution(data, stop)
    return text[: -(len(text) - len(safe))]


def _first_stop_that_fits(data: bytes, stop: list[str]) -> str:
    text = data.decode(errors="ignore")
    return next((safe for each in stop if (safe := shown_solution(data, [each])) != text), text)


def _one_stop_after_another(data: bytes, stop: list[str]) -> str:
    text = data.decode(errors="ignore")
    for each in stop:
        text = shown_solution(text.encode(), [each])
    return text


def _with_marks(data: bytes, stop: list[str]) -> str:
    whole = shown_solution(data, stop)
    if len(whole) < len(data.decode(errors="ignore")):
        return whole
    return data.decode(errors="replace")


def _with_marks_in_the_endings(data: bytes, stop: list[str]) -> str:
    return shown_solution(data.decode(errors="replace").encode(), stop)


def _marks_only(data: bytes, stop: list[str]) -> str:
    return data.decode(errors="replace")


def _without_one_byte(data: bytes, stop: list[str]) -> str:
    try:
        return shown_solution(data.decode().encode(), stop)
    except UnicodeDecodeError:
        return _with_marks_in_the_endings(data[:-1], stop)


def _without_any_mark(data: bytes, stop: list[str]) -> str:
    return shown_solution(data.decode(errors="replace").replace("\ufffd", "").encode(), stop)


def _whatever_the_case(data: bytes, stop: list[str]) -> str:
    text = data.decode(errors="ignore")
    for start in range(len(text)):
        if any(each.lower().startswith(text[start:].lower()) for each in stop):
            return text[:start]
    return text


def _text_stripped(data: bytes, stop: list[str]) -> str:
    return shown_solution(data.decode(errors="ignore").strip().encode(), stop)


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


@dataclass(eq=False)
class EngineSampler:
    """The engine's choice for one request as an object: logits [num_seqs, vocab] -> token ids [num_seqs].

    temperature: 0 for the likeliest token.  uniforms: the numbers of the request's draws.  num_drawn: used so far.
    """

    temperature: float
    uniforms: UniformStream
    num_drawn: int = 0

    def __call__(self, logits: Tensor) -> Tensor:
        """Return a token for each row; every row that is drawn takes the next number."""
        if self.temperature == 0:
            return choose_greedily(logits)
        uniforms = [self.uniforms[self.num_drawn + i] for i in range(len(logits))]
        self.num_drawn += len(logits)
        warmed = apply_temperature(logits.float(), torch.full((len(logits),), self.temperature))
        return sample_from_uniform(warmed, torch.tensor(uniforms, dtype=torch.float64))


@dataclass(eq=False, repr=False)
class _GapSampler:
    """Takes each row's likeliest token of those whose logit lies at least a gap below the best one.

    A gap is a difference of logits: whoever hands over probabilities, which differ by less than 1, is found out, and
    so is whoever chooses by other means. Every row takes the next gap: whoever draws for rows that are not needed
    is found out too.
    """

    gaps: tuple[int, ...]
    num_drawn: int = 0

    def __call__(self, logits: Tensor) -> Tensor:
        if logits.dim() != 2:
            raise ValueError(f"the sampler takes logits of shape [rows, vocabulary], got {list(logits.shape)}")
        return torch.tensor([self._choose(row) for row in logits])

    def _choose(self, row: Tensor) -> int:
        gap = self.gaps[self.num_drawn % len(self.gaps)]
        self.num_drawn += 1
        allowed = row <= row.max() - gap
        return int(row.masked_fill(~allowed, -math.inf).argmax() if allowed.any() else row.argmin())

    def __repr__(self) -> str:
        return f"sampler(gaps {', '.join(map(str, self.gaps))})"


def generate_solution(tokenizer: Any, model: Any, sampler: Answer, text: str, max_tokens: int) -> list[int]:
    """Return the ids of the continuation that the sampler chooses, an end-of-sequence token included."""
    prompt = tokenizer.encode(text)
    output: list[int] = []
    while len(output) < max_tokens and tokenizer.eos_token_id not in output:
        logits = model(torch.tensor([prompt + output])).logits
        output.append(int(sampler(logits[:, -1])))
    return output


COMPARED = (
    ("The capital of France is", 0.0),
    ("<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\n", 0.0),
    ("The capital of France is", 1.0),
)
"""Prompts and temperatures for a loop on the real model. One prompt holds an EOS, and ends with one soon."""
_SEED = 4
_SECONDS = 60.0
"""A loop on the real model may take so long; a right one takes a few."""


def compare_with_engine(llm: LLM, model: PreTrainedModel, answer: Answer) -> None:
    """Run a learner's loop on a real model, and print its texts and whether ``LLM.generate`` gives the same tokens.

    model: the one that ``llm`` runs, loaded once more and on the CPU, so that no part of the engine takes part.
    """
    tokenizer = llm.get_tokenizer()
    for text, temperature in COMPARED:
        params = SamplingParams(temperature=temperature, seed=_SEED, max_tokens=16)
        [expected] = llm.generate(text, params, use_tqdm=False)
        engines = expected.outputs[0].token_ids
        try:
            with torch.inference_mode():
                sampler = EngineSampler(temperature, UniformStream(_SEED))
                given = list(call_in_time(_SECONDS, answer, tokenizer, model, sampler, text, 16))
            written = tokenizer.decode(given)
        except NotImplementedError:
            print(_("your loop on the real model: {not_attempted}").format(not_attempted=_(NOT_ATTEMPTED)))
            return
        except TimeIsUp as error:
            print(_("{text!r}: your loop {stopped}").format(text=text, stopped=error))
            return
        except Exception as error:
            print(
                _("{text!r}: your loop raises {name}: {error}").format(
                    text=text, name=type(error).__name__, error=error
                )
            )
            continue
        print(
            _("temperature {temperature:g}, {text!r}\n    your loop: {written!r}").format(
                temperature=temperature, text=text, written=written
            )
        )
        print(
            _("    {num_tokens} tokens of the engine; yours are the same: {same}").format(
                num_tokens=len(engines), same=given == engines
            )
            + _why_they_differ(given, engines, tokenizer.eos_token_id)
        )


def _why_they_differ(given: list[int], engines: list[int], eos: int) -> str:
    """Say which of the two likely mistakes with EOS has been made; "" if neither."""
    if given == engines or given != engines[: len(given)]:
        return ""
    if given == engines[:-1] and engines[-1] == eos:
        return _(" (you leave the end-of-sequence token out; it belongs to the list)")
    return _(" (you end early; only a generated end-of-sequence token or `max_tokens` ends the loop)")


_TOY_VOCABULARY = [*"0123456789", " ", *(2 * digit for digit in "0123456789")]


@dataclass(frozen=True, repr=False)
class _ToyTokenizer:
    """Digits are tokens, and so are a blank and two equal digits side by side, but these are never drawn.

    So a text has other ids than those that were drawn for it, as with a real vocabulary: 1 and 1 become 11.
    ``eos_token_id`` can be chosen, so that some runs end early.
    """

    eos_token_id: int

    def encode(self, text: str, add_special_tokens: bool = True, return_tensors: str | None = None) -> Any:
        ids = [_TOY_VOCABULARY.index(found[0]) for found in re.finditer(r"(\d)\1|.", text)]
        return torch.tensor([ids]) if return_tensors else ids

    def decode(self, ids: Any, skip_special_tokens: bool = False) -> str:
        """Return the text of an id or of several."""
        return "".join(_TOY_VOCABULARY[each] for each in torch.as_tensor(ids).reshape(-1).tolist())

    def __call__(self, text: str, return_tensors: str | None = None) -> BatchEncoding:
        ids = self.encode(text)
        return BatchEncoding({"input_ids": [ids] if return_tensors else ids}, tensor_type=return_tensors)

    def __repr__(self) -> str:
        return f"digits(EOS {self.eos_token_id})"


@dataclass(eq=False, repr=False)
class _ToyModel:
    """Ten logits a place, which depend on all tokens up to it and on their order, so that a wrong context shows.

    max_tokens: of the run.  A loop that calls the model far more often does not look at it, and need not end.
    """

    max_tokens: int
    num_calls: int = 0

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def __call__(self, input_ids: Tensor) -> CausalLMOutput:
        if not isinstance(input_ids, Tensor):
            raise TypeError(f"the model takes a tensor of ids, got a {type(input_ids).__name__}")
        if input_ids.dim() != 2:
            raise ValueError(f"the model takes ids of shape [1, n], got {list(input_ids.shape)}")
        self.num_calls += 1
        if self.num_calls > self.max_tokens + 20:
            raise RuntimeError(_("more than max_tokens + 20 calls of the model; does your loop look at max_tokens?"))
        state, rows = 7, []
        for token in input_ids[0].tolist():
            state = (3 * state + token + 5) % 100 + 1
            rows.append([float(state * place % 101) for place in range(1, 11)])  # 101 is prime: no two are equal
        return CausalLMOutput(logits=torch.tensor(rows).reshape(1, len(rows), 10))

    def __repr__(self) -> str:
        return "toy model"


def _random_run(rng: random.Random) -> tuple[_ToyTokenizer, _ToyModel, Answer, str, int]:
    text = "".join(rng.choices("0123456789", k=rng.randint(1, 6)))
    eos = int(rng.choice((text[0], text[-1], rng.choice("0123456789"))))
    sampler = _GapSampler(tuple(rng.choice((0, 0, 3, 10, 30)) for _ in range(rng.randint(1, 5))))
    max_tokens = rng.randint(1, 7)
    return _ToyTokenizer(eos), _ToyModel(max_tokens), sampler, text, max_tokens


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


def _from_probabilities(tokenizer: Any, model: Any, sampler: Answer, text: str, max_tokens: int) -> list[int]:
    return generate_solution(tokenizer, model, lambda logits: sampler(logits.softmax(-1)), text, max_tokens)


def _drawn_twice(tokenizer: Any, model: Any, sampler: Answer, text: str, max_tokens: int) -> list[int]:
    def second(logits: Tensor) -> Tensor:
        sampler(logits)
        return Tensor(sampler(logits))

    return generate_solution(tokenizer, model, second, text, max_tokens)


def _drawn_after(tokenizer: Any, model: Any, sampler: Answer, text: str, max_tokens: int) -> list[int]:
    def first(logits: Tensor) -> Tensor:
        drawn = sampler(logits)
        sampler(logits)
        return Tensor(drawn)

    return generate_solution(tokenizer, model, first, text, max_tokens)


def _drawn_for_every_row(tokenizer: Any, model: Any, sampler: Answer, text: str, max_tokens: int) -> list[int]:
    prompt, output = tokenizer.encode(text), list[int]()
    while len(output) < max_tokens and tokenizer.eos_token_id not in output:
        output.append(int(sampler(model(torch.tensor([prompt + output])).logits[0])[-1]))
    return output


def _own_argmax(tokenizer: Any, model: Any, sampler: Answer, text: str, max_tokens: int) -> list[int]:
    return generate_solution(tokenizer, model, choose_greedily, text, max_tokens)


def _never_stops(tokenizer: Any, model: Any, sampler: Answer, text: str, max_tokens: int) -> list[int]:
    endless = SimpleNamespace(encode=tokenizer.encode, eos_token_id=None)
    return generate_solution(endless, model, sampler, text, max_tokens)


def _until_the_end(tokenizer: Any, model: Any, sampler: Answer, text: str, max_tokens: int) -> list[int]:
    return generate_solution(tokenizer, model, sampler, text, sys.maxsize)


def _cut_after_the_end(tokenizer: Any, model: Any, sampler: Answer, text: str, max_tokens: int) -> list[int]:
    return _until_the_end(tokenizer, model, sampler, text, max_tokens)[:max_tokens]


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


def _encoded_anew(tokenizer: Any, model: Any, sampler: Answer, text: str, max_tokens: int) -> list[int]:
    output: list[int] = []
    while len(output) < max_tokens and tokenizer.eos_token_id not in output:
        ids = tokenizer.encode(text + tokenizer.decode(output))
        output.append(int(sampler(model(torch.tensor([ids])).logits[:, -1])))
    return output


def _output_encoded_anew(tokenizer: Any, model: Any, sampler: Answer, text: str, max_tokens: int) -> list[int]:
    prompt, output = tokenizer.encode(text), list[int]()
    while len(output) < max_tokens and tokenizer.eos_token_id not in output:
        ids = prompt + tokenizer.encode(tokenizer.decode(output))
        output.append(int(sampler(model(torch.tensor([ids])).logits[:, -1])))
    return output


def _ids_of_the_new_text(tokenizer: Any, model: Any, sampler: Answer, text: str, max_tokens: int) -> list[int]:
    output = generate_solution(tokenizer, model, sampler, text, max_tokens)
    return list(tokenizer.encode(tokenizer.decode(output)))


def _stripped(tokenizer: Any, model: Any, sampler: Answer, text: str, max_tokens: int) -> list[int]:
    return generate_solution(tokenizer, model, sampler, text.strip(), max_tokens)


def _one_too_many(tokenizer: Any, model: Any, sampler: Answer, text: str, max_tokens: int) -> list[int]:
    return generate_solution(tokenizer, model, sampler, text, max_tokens + 1)


_RUNS: list[tuple[Any, ...]] = [
    (_ToyTokenizer(eos), _ToyModel(max_tokens), _GapSampler((0,)), text, max_tokens)
    for text, eos, max_tokens in (("12", 7, 3), ("4", 9, 8), ("551", 7, 8), ("83", 9, 4), ("12", 1, 4))
] + [
    (_ToyTokenizer(7), _ToyModel(4), _GapSampler((10, 0)), "12", 4),
    (_ToyTokenizer(7), _ToyModel(4), _GapSampler((0,)), " 12 ", 4),
    (_ToyTokenizer(11), _ToyModel(70), _GapSampler((0,)), "12", 70),
]

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
            Mistake(_without_seats, "you do not look at `seats`; whoever comes after the last seat gets 0"),
            Mistake(_one_seat_too_many, "you let in one request more than there are seats"),
            Mistake(_one_seat_too_few, "you leave the last seat empty: with `seats` seats so many requests may run"),
            Mistake(
                _share_by(lambda need, left: need if need <= left else 0),
                "you pass over a request that does not fit; with chunked prefill it gets what is left of the budget, "
                "and the rest in later steps",
            ),
            Mistake(
                _newcomers_uncut,
                "you pass over a waiting prompt that does not fit; with chunked prefill it gets what is left of the "
                "budget, and the rest in later steps",
            ),
            Mistake(_share_by(lambda need, left: need), "your step has more tokens than the budget allows"),
            Mistake(
                _one_each_for_the_running,
                "you give every running request one token; one whose prompt is half read needs more than one",
            ),
            Mistake(_waiting_first, "you serve the waiting ones first; then texts that grow stand still"),
            Mistake(
                _waiting_before_running,
                "you serve the waiting ones first, and they take the seats of those that run; `running` comes first",
            ),
            Mistake(
                _waiting_before_running_in_the_list,
                "you go through `waiting + running`; those that run come first, in the step and in the list",
            ),
            Mistake(_shortest_first, "you serve the shortest first; the order of arrival decides"),
            Mistake(
                _one_newcomer,
                "you let only one waiting request in; the step may begin several prompts, while budget and seats last",
            ),
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
            (b"one N", ["END"]),
            (b"one EN", ["NO", "END"]),
            (b"EN", ["NO", "END"]),
            (b"one EN", ["END", " of"]),
            (b"one", ["."]),
            (b"one END", ["END."]),
            (b"ENENE", ["ENEND"]),
            ("灯".encode() + "🏮".encode()[:2], ["END"]),
            (b"END of", ["END.", "off"]),
            (b"one en", ["END"]),
            ("a\ufffd".encode(), []),
            (b"...THE END OF TH", ["THE END OF THIS STORY"]),
            ("cafe\u0301 E".encode(), ["END"]),  # an accent of its own stays one
            ("\ufeffone E".encode(), ["END"]),  # a mark of byte order is a character too
            (b" Paris", ["END"]),
            (b"one two ", ["END"]),
            (b"one EN ", ["END"]),
            (b"one\n", ["\nUser:"]),
            (b"one\ntwo\n", []),
        ],
        generate=_random_stream,
        mistakes=[
            Mistake(
                _always_the_longest,
                "safe, but you hold back more than you must: the engine's own rule. Hold back an ending only if a stop "
                "string begins with it",
            ),
            Mistake(
                _engines_rule(lambda text: text),
                "that is the engine's rule: safe, but you hold back more than you must. And `text[:-0]`, where nothing "
                "is held back, is empty",
            ),
            Mistake(
                _engines_rule(lambda text: ""),
                "that is the engine's rule: safe, but you hold back more than you must. And `text[:-0]` is empty, so "
                "without stop strings nothing is shown",
            ),
            Mistake(
                _engines_rule(_max_of_nothing),
                "that is the engine's rule: safe, but you hold back more than you must. And `stop` may be empty: "
                "`max()` of nothing is an error",
            ),
            Mistake(
                _cut_by_minus_0,
                "where nothing is held back, `text[:-0]` is empty; return the whole text there",
            ),
            Mistake(
                _first_stop_that_fits,
                "you stop at the first stop string that fits; another one may have begun earlier in the text",
            ),
            Mistake(
                _one_stop_after_another,
                "you cut for one stop string after another; look at the same text for each, and cut once",
            ),
            Mistake(
                _strictly_decoded,
                "your function raises UnicodeDecodeError when a character is not complete; leave its bytes out",
            ),
            Mistake(
                _without_any_mark,
                "you take out every U+FFFD; it may stand in the text itself. Leave out the bytes of half a character "
                "before they become a mark",
            ),
            Mistake(_text_stripped, "you strip the text; its blanks and line ends belong to it, and to stop strings"),
            Mistake(_whatever_the_case, "you take en for EN; a stop string must be met letter by letter"),
            Mistake(
                _without_one_byte,
                "you leave out one byte; half a character may have up to three, and the others become \ufffd",
            ),
            Mistake(
                _with_marks_in_the_endings,
                "you show half a character, as \ufffd, and must take it back when the rest comes; leave its bytes out "
                "before you look at the endings",
            ),
            Mistake(
                _marks_only,
                "you show half a character, as \ufffd, and the beginning of a stop string; both must be taken back "
                "when the rest comes",
            ),
            Mistake(_with_marks, "you show half a character, as \ufffd, and must take it back when the rest comes"),
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
            Mistake(_above_the_limit, "at `max_tokens` tokens the limit is reached, not one later"),
            Mistake(
                _without_counting_eos,
                "you leave older end-of-sequence tokens out of the count; every token of the output counts",
            ),
            Mistake(_min_tokens_for_eos_only, "below `min_tokens` tokens no stop id ends the text either"),
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
            Mistake(_from_probabilities, "`sampler` takes logits, not probabilities: leave the softmax to it"),
            Mistake(_drawn_twice, "you call `sampler` twice per token; each call draws anew, so keep what it returned"),
            Mistake(_drawn_after, "you call `sampler` once more per token than you use it; each call uses up a draw"),
            Mistake(
                _drawn_for_every_row,
                "you let `sampler` draw for every row; each draw uses up a random number, so give it the last row only",
            ),
            Mistake(_own_argmax, "you choose the token yourself; `sampler` chooses, and not always the likeliest"),
            Mistake(
                _without_the_end,
                "you leave the end-of-sequence token out; it was generated, and `token_ids` holds it",
            ),
            Mistake(
                _until_the_end,
                "your loop does not look at `max_tokens`: an end-of-sequence token may never come, and then it never "
                "ends",
            ),
            Mistake(
                _cut_after_the_end,
                "you cut the list at `max_tokens` after the loop, and the loop itself may never end: an "
                "end-of-sequence token need not come",
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
            Mistake(
                _encoded_anew,
                "you encode the text anew in each round; its ids need not be those that were drawn (1 and 1 may become "
                "the one token 11): keep the ids, and append to them",
            ),
            Mistake(
                _output_encoded_anew,
                "you encode the new text anew in each round; its ids need not be those that were drawn (1 and 1 may "
                "become the one token 11): keep the ids, and append to them",
            ),
            Mistake(
                _ids_of_the_new_text,
                "you encode the text that was drawn; its ids need not be those that were drawn (1 and 1 may become the "
                "one token 11): return the ids themselves",
            ),
            Mistake(_stripped, "you strip the text; its blanks belong to the prompt, and the model must see them"),
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
