"""The exercises of chapter 05, with their solutions and the mistakes that they catch."""

from collections.abc import Callable

import torch
from torch import Tensor

from folovllm.config import SchedulerConfig
from folovllm.course.exercises import NOT_ATTEMPTED, Answer, Exercise, Mistake
from folovllm.engine.block_manager import BlockManager
from folovllm.engine.scheduler import Scheduler
from folovllm.llm import LLM
from folovllm.request import Request
from folovllm.sampler import choose_greedily
from folovllm.sampling_params import SamplingParams

NextLogits = Callable[[list[int]], Tensor]


def generate_solution(next_logits: NextLogits, prompt: list[int], eos: int, max_tokens: int) -> list[int]:
    """Return the greedy continuation, an end-of-sequence token included."""
    output: list[int] = []
    while len(output) < max_tokens and (not output or output[-1] != eos):
        output.append(int(choose_greedily(next_logits(prompt + output)[None])))
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


def compare_with_engine(llm: LLM, answer: Answer) -> None:
    """Run a learner's loop on the real model, and print whether it gives what ``LLM.generate`` gives."""
    tokenizer, engine = llm.get_tokenizer(), llm.llm_engine
    eos = tokenizer.convert_tokens_to_ids(tokenizer.eos_token)

    def next_logits(token_ids: list[int]) -> Tensor:
        return engine.compute_logits({"prompt_token_ids": token_ids})

    for text in ("The capital of France is", "Once upon a time"):
        [expected] = llm.generate(text, SamplingParams(temperature=0, max_tokens=10), use_tqdm=False)
        try:
            given = answer(next_logits, list(expected.prompt_token_ids), eos, 10)
        except NotImplementedError:
            print(f"your loop on the real model: {NOT_ATTEMPTED}")
            return
        print(f"{text!r}: same tokens as LLM.generate: {given == expected.outputs[0].token_ids}")


def _toy_model(token_ids: list[int]) -> Tensor:
    """Ten logits that depend on all tokens and their order, so that a wrong context shows."""
    scores = torch.zeros(10, dtype=torch.float64)
    for place, token in enumerate(token_ids, start=1):
        scores[(3 * token + place) % 10] += 1 + place % 3 + 0.01 * place
    return scores.float()


def _only_the_last_token(next_logits: NextLogits, prompt: list[int], eos: int, max_tokens: int) -> list[int]:
    return generate_solution(lambda token_ids: next_logits(token_ids[-1:]), prompt, eos, max_tokens)


def _prompt_only(next_logits: NextLogits, prompt: list[int], eos: int, max_tokens: int) -> list[int]:
    return generate_solution(lambda _: next_logits(prompt), prompt, eos, max_tokens)


def _never_stops(next_logits: NextLogits, prompt: list[int], eos: int, max_tokens: int) -> list[int]:
    return generate_solution(next_logits, prompt, -1, max_tokens)


def _with_the_prompt(next_logits: NextLogits, prompt: list[int], eos: int, max_tokens: int) -> list[int]:
    return prompt + generate_solution(next_logits, prompt, eos, max_tokens)


def _one_too_many(next_logits: NextLogits, prompt: list[int], eos: int, max_tokens: int) -> list[int]:
    return generate_solution(next_logits, prompt, eos, max_tokens + 1)


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


_RUNS = [(_toy_model, [1, 2], 7, 6), (_toy_model, [4], 8, 8), (_toy_model, [5, 5, 1], 3, 8), (_toy_model, [8, 3], 2, 8)]

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
        task="the whole loop: from a prompt to its greedy continuation",
        solution=generate_solution,
        cases=_RUNS,
        mistakes=[
            Mistake(
                _only_the_last_token,
                "you show the model the newest token alone; without a KV cache it must see everything so far",
            ),
            Mistake(_prompt_only, "the model never sees its own output: add each token to what you show it next"),
            Mistake(_never_stops, "you go on after the end-of-sequence token; it is the last one"),
            Mistake(_with_the_prompt, "you return the prompt too; the completion is what came after it"),
            Mistake(_one_too_many, "one token too many: `max_tokens` counts the generated ones"),
        ],
        hints=(
            "What does the model see in the second round?",
            "Repeat: `next_logits(prompt + output)`, take `argmax`, append; stop after `eos` or `max_tokens`.",
        ),
        code=(
            "output = []\n"
            "while len(output) < max_tokens and eos not in output:\n"
            "    output.append(int(next_logits(prompt + output).argmax()))\n"
            "return output"
        ),
    ),
]
