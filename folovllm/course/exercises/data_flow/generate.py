"""``generate``: the whole loop, from a text to its continuation."""

import random
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from folovllm.course.exercises.data_flow.toys import GapSampler, ToyModel, ToyTokenizer
from folovllm.course.exercises.exercise import Exercise, Mistake
from folovllm.course.exercises.outcome import Answer
from folovllm.sampling.sampler import choose_greedily


def generate_solution(tokenizer: Any, model: Any, sampler: Answer, text: str, max_tokens: int) -> list[int]:
    """Return the ids of the continuation that the sampler chooses, an end-of-sequence token included."""
    prompt = tokenizer.encode(text)
    output: list[int] = []
    while len(output) < max_tokens and tokenizer.eos_token_id not in output:
        logits = model(torch.tensor([prompt + output])).logits
        output.append(int(sampler(logits[:, -1])))
    return output


def _random_run(rng: random.Random) -> tuple[ToyTokenizer, ToyModel, Answer, str, int]:
    text = "".join(rng.choices("0123456789", k=rng.randint(1, 6)))
    eos = int(rng.choice((text[0], text[-1], rng.choice("0123456789"))))
    sampler = GapSampler(tuple(rng.choice((0, 0, 3, 10, 30)) for _ in range(rng.randint(1, 5))))
    max_tokens = rng.randint(1, 7)
    return ToyTokenizer(eos, rng.random() < 0.2), ToyModel(max_tokens), sampler, text, max_tokens


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


def _without_what_begins_it(tokenizer: Any, model: Any, sampler: Answer, text: str, max_tokens: int) -> list[int]:
    return generate_solution(replace(tokenizer, has_bos=False), model, sampler, text, max_tokens)


def _one_too_many(tokenizer: Any, model: Any, sampler: Answer, text: str, max_tokens: int) -> list[int]:
    return generate_solution(tokenizer, model, sampler, text, max_tokens + 1)


_RUNS: list[tuple[Any, ...]] = [
    (ToyTokenizer(eos), ToyModel(max_tokens), GapSampler((0,)), text, max_tokens)
    for text, eos, max_tokens in (
        *(("12", 7, 3), ("4", 9, 8), ("551", 7, 8), ("83", 9, 4), ("12", 1, 4)),
        *(("12", 7, 4), ("34", 7, 4)),
    )
] + [
    (ToyTokenizer(7), ToyModel(4, begin=8), GapSampler((0,)), "12", 4),
    (ToyTokenizer(7), ToyModel(4), GapSampler((10, 0)), "12", 4),
    (ToyTokenizer(7), ToyModel(4), GapSampler((0,)), " 12 ", 4),
    (ToyTokenizer(11), ToyModel(110), GapSampler((0,)), "12", 110),
    (ToyTokenizer(7, has_bos=True), ToyModel(4), GapSampler((0,)), "12", 4),
    # Longer than a context that somebody cuts, at either end.
    (ToyTokenizer(11), ToyModel(4), GapSampler((0,)), "".join(random.Random(0).choices("0123456789", k=2600)), 4),
]

EXERCISE = Exercise(
    name="generate",
    task="the whole loop, from tokenizer, model and sampler: from a text to the continuation that is chosen",
    solution=generate_solution,
    cases=_RUNS,
    generate=_random_run,
    mistakes=[
        Mistake(
            _without_what_begins_it,
            "you leave out the token that some tokenizers put before every text; `tokenizer.encode(text)` gives it",
        ),
        Mistake(
            _then_only_the_newest,
            "after the first round you show the model the newest token alone; without a KV cache it must see "
            "everything so far",
        ),
        Mistake(
            _only_the_last_token,
            "you show the model one token alone; without a KV cache it must see everything so far",
        ),
        Mistake(
            _prompt_only,
            "you always draw from what follows the prompt: show the model each new token, and read the newest row",
        ),
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
            "your loop does not look at `max_tokens`: an end-of-sequence token may never come, and then it never ends",
        ),
        Mistake(
            _cut_after_the_end,
            "you cut the list at `max_tokens` after the loop, and the loop itself may never end: an "
            "end-of-sequence token need not come",
        ),
        Mistake(
            _never_stops,
            "you go on after the end-of-sequence token; it is the last one (compare ids with `==`, not with `is`)",
        ),
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
)
