"""The exercises of chapter 05, with their solutions and the mistakes that they catch."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from folovllm.config import SchedulerConfig
from folovllm.course.exercises.exercise import NOT_ATTEMPTED, Exercise, Mistake
from folovllm.course.exercises.outcome import Answer
from folovllm.engine.block_manager import BlockManager
from folovllm.engine.scheduler import Scheduler
from folovllm.llm import LLM
from folovllm.request import Request
from folovllm.sampling.sampler import choose_greedily
from folovllm.sampling_params import SamplingParams


@dataclass(frozen=True)
class GreedySampler:
    """The engine's greedy choice as one object: logits [num_seqs, vocab] -> token ids [num_seqs]."""

    def __call__(self, logits: Tensor) -> Tensor:
        """Return each row's likeliest token."""
        return choose_greedily(logits)


def generate_solution(tokenizer: Any, model: Any, sampler: Answer, text: str, max_tokens: int) -> list[int]:
    """Return the ids of the greedy continuation, an end-of-sequence token included."""
    prompt = tokenizer.encode(text)
    output: list[int] = []
    while len(output) < max_tokens and tokenizer.eos_token_id not in output:
        logits = model(torch.tensor([prompt + output])).logits
        output.append(int(sampler(logits[:, -1])))
    return output


def why_solution(output: list[int], eos: int, max_tokens: int) -> str | None:
    """Return why a sequence has ended, or None if it goes on."""
    if output[-1] == eos:
        return "stop"
    return "length" if len(output) >= max_tokens else None


def share_solution(waiting: list[int], budget: int) -> list[int]:
    """Return how many tokens each waiting prompt gets in a step."""
    config = SchedulerConfig(max_num_batched_tokens=budget, max_num_seqs=min(budget, 8))
    scheduler = Scheduler(config, BlockManager(16, 100))
    requests = [Request(str(i), None, [0] * length, SamplingParams()) for i, length in enumerate(waiting)]
    for request in requests:
        scheduler.add_request(request)
    given = {item.request.request_id: len(item.token_ids) for item in scheduler.schedule().scheduled}
    return [given.get(request.request_id, 0) for request in requests]


def compare_with_engine(llm: LLM, model: PreTrainedModel, answer: Answer) -> None:
    """Run a learner's loop on a real model, and print whether it gives what ``LLM.generate`` gives.

    model: the one that ``llm`` runs, loaded once more and on the CPU, so that no part of the engine takes part.
    """
    params = SamplingParams(temperature=0, max_tokens=10)
    for text in ("The capital of France is", "Once upon a time"):
        [expected] = llm.generate(text, params, use_tqdm=False)
        try:
            with torch.inference_mode():
                given = answer(llm.get_tokenizer(), model, GreedySampler(), text, 10)
        except NotImplementedError:
            print(f"your loop on the real model: {NOT_ATTEMPTED}")
            return
        print(f"{text!r}: same tokens as LLM.generate: {given == expected.outputs[0].token_ids}")


@dataclass(frozen=True)
class _ToyTokenizer:
    """Digits are tokens; ``eos_token_id`` can be chosen, so that some runs end early."""

    eos_token_id: int

    def encode(self, text: str) -> list[int]:
        return [int(digit) for digit in text]


@dataclass(frozen=True)
class _ToyModel:
    """Ten logits a place, which depend on all tokens up to it and on their order, so that a wrong context shows."""

    def __call__(self, input_ids: Tensor) -> SimpleNamespace:
        rows = input_ids[0].tolist()
        return SimpleNamespace(logits=torch.stack([_toy_logits(rows[: i + 1]) for i in range(len(rows))])[None])


def _toy_logits(token_ids: list[int]) -> Tensor:
    scores = torch.zeros(10, dtype=torch.float64)
    for place, token in enumerate(token_ids, start=1):
        scores[(3 * token + place) % 10] += 1 + place % 3 + 0.01 * place
    return scores.float()


def _only_the_last_token(tokenizer: Any, model: Any, sampler: Answer, text: str, max_tokens: int) -> list[int]:
    return generate_solution(tokenizer, lambda ids: model(ids[:, -1:]), sampler, text, max_tokens)


def _prompt_only(tokenizer: Any, model: Any, sampler: Answer, text: str, max_tokens: int) -> list[int]:
    length = len(tokenizer.encode(text))
    return generate_solution(tokenizer, lambda ids: model(ids[:, :length]), sampler, text, max_tokens)


def _first_row(tokenizer: Any, model: Any, sampler: Answer, text: str, max_tokens: int) -> list[int]:
    def turned(input_ids: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=model(input_ids).logits.flip(1))

    return generate_solution(tokenizer, turned, sampler, text, max_tokens)


def _never_stops(tokenizer: Any, model: Any, sampler: Answer, text: str, max_tokens: int) -> list[int]:
    endless = SimpleNamespace(encode=tokenizer.encode, eos_token_id=None)
    return generate_solution(endless, model, sampler, text, max_tokens)


def _without_the_end(tokenizer: Any, model: Any, sampler: Answer, text: str, max_tokens: int) -> list[int]:
    output = generate_solution(tokenizer, model, sampler, text, max_tokens)
    return [token for token in output if token != tokenizer.eos_token_id]


def _with_the_prompt(tokenizer: Any, model: Any, sampler: Answer, text: str, max_tokens: int) -> list[int]:
    return list(tokenizer.encode(text)) + generate_solution(tokenizer, model, sampler, text, max_tokens)


def _one_too_many(tokenizer: Any, model: Any, sampler: Answer, text: str, max_tokens: int) -> list[int]:
    return generate_solution(tokenizer, model, sampler, text, max_tokens + 1)


def _length_first(output: list[int], eos: int, max_tokens: int) -> str | None:
    return "length" if len(output) >= max_tokens else "stop" if output[-1] == eos else None


def _eos_anywhere(output: list[int], eos: int, max_tokens: int) -> str | None:
    return "stop" if eos in output else "length" if len(output) >= max_tokens else None


def _above_the_limit(output: list[int], eos: int, max_tokens: int) -> str | None:
    return "stop" if output[-1] == eos else "length" if len(output) > max_tokens else None


def _whole_prompts_only(waiting: list[int], budget: int) -> list[int]:
    given = []
    for length in waiting:
        given.append(length if length <= budget else 0)
        budget -= given[-1]
    return given


def _equal_shares(waiting: list[int], budget: int) -> list[int]:
    return [min(length, budget // len(waiting)) for length in waiting]


def _without_budget(waiting: list[int], budget: int) -> list[int]:
    return list(waiting)


def _shortest_first(waiting: list[int], budget: int) -> list[int]:
    given = [0] * len(waiting)
    for i in sorted(range(len(waiting)), key=lambda i: waiting[i]):
        given[i] = min(waiting[i], budget)
        budget -= given[i]
    return given


_RUNS = [
    (_ToyTokenizer(eos), _ToyModel(), GreedySampler(), text, max_tokens)
    for text, eos, max_tokens in (("12", 7, 6), ("4", 8, 8), ("551", 3, 8), ("83", 2, 8))
]

EXERCISES = [
    Exercise(
        name="share",
        task="tokens of each waiting prompt in one step, first come first served, with chunked prefill",
        solution=share_solution,
        cases=[([5, 7, 9], 16), ([20, 3], 16), ([4, 4, 4], 64), ([10, 10, 2], 12), ([3, 30, 30], 33)],
        mistakes=[
            Mistake(
                _whole_prompts_only,
                "you pass over a prompt that does not fit; with chunked prefill it gets what is left of the budget, "
                "and the rest in later steps",
            ),
            Mistake(_equal_shares, "you divide equally; first come, first served: the first may take all it needs"),
            Mistake(_without_budget, "your step has more tokens than the budget allows"),
            Mistake(_shortest_first, "you serve the shortest first; the order of arrival decides"),
        ],
        hints=(
            "Go through them in their order, with the budget that is left.",
            "Each gets the smaller of what it needs and what is left.",
        ),
        code=("given = []\nfor length in waiting:\n    given.append(min(length, budget - sum(given)))\nreturn given"),
    ),
    Exercise(
        name="why",
        task="why has a sequence ended, after its newest token?",
        solution=why_solution,
        cases=[([5, 6], 9, 3), ([5, 9], 9, 3), ([5, 6, 7], 9, 3), ([5, 6, 9], 9, 3), ([9, 5], 9, 4), ([9], 9, 1)],
        mistakes=[
            Mistake(
                _length_first,
                "you look at the length first; an end-of-sequence token on the last allowed place is a `stop`, the "
                "text is complete",
            ),
            Mistake(
                _eos_anywhere,
                "you look for the token anywhere; only the newest can end the text (with `ignore_eos` there may be "
                "older ones)",
            ),
            Mistake(_above_the_limit, "at `max_tokens` tokens the limit is reached, not one later"),
        ],
        hints=(
            "Which of the two reasons is the better news for the user?",
            "First the newest token, then the length; else `None`.",
        ),
        code=('if output[-1] == eos:\n    return "stop"\nreturn "length" if len(output) >= max_tokens else None'),
    ),
    Exercise(
        name="generate",
        task="the whole loop, from tokenizer, model and sampler: from a text to its greedy continuation",
        solution=generate_solution,
        cases=_RUNS,
        mistakes=[
            Mistake(
                _only_the_last_token,
                "you show the model the newest token alone; without a KV cache it must see everything so far",
            ),
            Mistake(_prompt_only, "the model never sees its own output: add each token to what you show it next"),
            Mistake(
                _first_row,
                "you draw from the first row of logits; the model answers for every place, and what follows the text "
                "is in the last row",
            ),
            Mistake(
                _without_the_end,
                "you leave the end-of-sequence token out; it was generated, and `token_ids` holds it",
            ),
            Mistake(_never_stops, "you go on after the end-of-sequence token; it is the last one"),
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
