"""The exercises of chapter 01, with their solutions and the mistakes that they catch."""

from decimal import Decimal
from fractions import Fraction
from itertools import accumulate, zip_longest
from random import Random
from typing import Any

import torch

from folovllm.config import CacheConfig
from folovllm.course.exercises.exercise import Exercise, Mistake
from folovllm.course.exercises.outcome import Case, Outcome, safely, show
from folovllm.engine.block_manager import BlockManager
from folovllm.language import _
from folovllm.models.probe import AttentionSpec

_DTYPES = {1: torch.int8, 2: torch.bfloat16, 4: torch.float32, 8: torch.float64}
Readers = list[tuple[int, int]]


def seats_needed_solution(num_readers: int, max_tokens: int, max_steps: int) -> int:
    """Return the smallest number of seats with which everybody has a first token after so many steps."""
    groups = (max_steps - 1) // max_tokens + 1
    return -(-num_readers // groups)


def kv_bytes_solution(num_layers: int, num_heads: int, num_kv_heads: int, head_dim: int, bytes_per_number: int) -> int:
    """Return the bytes of keys and values that one token takes."""
    return AttentionSpec(num_layers, num_kv_heads, head_dim).bytes_per_token(_DTYPES[bytes_per_number])


def num_fitting_solution(num_blocks: int, block_size: int, readers: Readers) -> int:
    """Return how many readers, (prompt, answer) in tokens, can sit in the blocks until all answers are complete."""
    manager = BlockManager(block_size, num_blocks, enable_prefix_caching=False)
    needed = accumulate(manager.max_blocks_needed(prompt, prompt + answer, 1) for prompt, answer in readers)
    return sum(blocks <= num_blocks for blocks in needed)


def block_size_solution(value: Any) -> int:
    """Return a block size that is allowed, or raise ValueError: the engine's, without the name of the group."""
    try:
        return CacheConfig(block_size=value).block_size
    except ValueError as error:
        raise ValueError(str(error).removeprefix("CacheConfig.")) from None


def _another_message(case: Case, outcome: Outcome) -> str:
    """Ask of an error's message that it is the one in the exercise, letter by letter."""
    if not isinstance(outcome.error, ValueError):
        return ""
    given, right = safely(str, outcome.error), f"block_size must be an int >= 1, got {case[0]!r}"
    if given == right:
        return ""
    first = next(i for i, (one, other) in enumerate(zip_longest(given, right)) if one != other)
    word = right.rfind(" ", 0, first) + 1  # where the word begins that differs
    return _(
        "your ValueError reads {given}; right: {right}; the first difference: {part} in place of {right_part}"
    ).format(given=show(given), right=show(right), part=repr(given[word:][:20]), right_part=repr(right[word:][:20]))


# -- inputs by chance ------------------------------------------------------------------------------


def _random_seats(random: Random) -> Case:
    max_tokens = random.choice((1, 2, 12, random.randint(1, 50)))
    edge = random.randint(0, 5) * max_tokens + random.choice((0, 1, 2))
    num_readers = random.choice((random.randint(1, 60), random.randint(1, 60), random.randint(61, 3000)))
    return num_readers, max_tokens, max(1, random.choice((edge, random.randint(1, 200))))


def _random_shape(random: Random) -> Case:
    kv_heads = random.randint(1, 12)
    heads = kv_heads * random.choice((1, 2, 3, 8))
    return random.randint(1, 80), heads, kv_heads, random.choice((1, 63, 64, 80, 128)), random.choice((1, 2, 4, 8))


def _random_readers(random: Random) -> Case:
    """Return readers of whom some fill their blocks exactly, and blocks that often suffice exactly or are one short."""
    block_size = random.choice((1, 4, 16, random.randint(2, 40)))
    readers = []
    for _reader in range(random.randint(0, 6)):
        total = max(2, random.randint(0, 4) * block_size + random.choice((0, 1, 2, random.randint(0, block_size))))
        prompt = random.randint(1, total - 1)
        readers.append((prompt, total - prompt))
    needed = [-(-(prompt + answer - 1) // block_size) for prompt, answer in readers]
    some = sum(needed[: random.randint(0, len(needed))])
    return max(1, some + random.choice((-1, 0, 0, 1, 30))), block_size, readers


def _random_value(random: Random) -> Case:
    whole = random.choice(
        (-1, 0, 1, 2, random.randint(-100, 100), random.randint(3, 40), random.randint(41, 5000), 2**40)
    )
    exotic = random.choice((Fraction(whole), Fraction(2 * whole + 1, 2), Decimal(whole), complex(whole), b"16", {16}))
    other = random.choice((None, bool(whole), float("nan"), "", "16\n", "it's 16", exotic))
    return (random.choice((whole, whole, whole, float(whole), whole + 0.5, str(whole), [whole], other, other)),)


# -- mistakes ----------------------------------------------------------------------------------------


def _whole_answers(num_readers: int, max_tokens: int, max_steps: int) -> int:
    return -(-num_readers // max(1, max_steps // max_tokens))


def _whole_answers_or_none(num_readers: int, max_tokens: int, max_steps: int) -> int:
    return -(-num_readers // (max_steps // max_tokens))


def _one_step_late(num_readers: int, max_tokens: int, max_steps: int) -> int:
    return -(-num_readers // (max_steps // max_tokens + 1))


def _seats_rounded_down(num_readers: int, max_tokens: int, max_steps: int) -> int:
    return num_readers // ((max_steps - 1) // max_tokens + 1)


def _a_seat_for_everybody(num_readers: int, max_tokens: int, max_steps: int) -> int:
    return num_readers


def _one_seat_too_many(num_readers: int, max_tokens: int, max_steps: int) -> int:
    return num_readers // ((max_steps - 1) // max_tokens + 1) + 1


def _groups(num_readers: int, max_tokens: int, max_steps: int) -> int:
    return (max_steps - 1) // max_tokens + 1


def _turns_a_step_too_short(num_readers: int, max_tokens: int, max_steps: int) -> int:
    return -(-num_readers // ((max_steps - 1) // (max_tokens - 1) + 1))


def _whole_block(num_layers: int, num_heads: int, num_kv_heads: int, head_dim: int, bytes_per_number: int) -> int:
    return 16 * 2 * num_layers * num_kv_heads * head_dim * bytes_per_number


def _keys_only(num_layers: int, num_heads: int, num_kv_heads: int, head_dim: int, bytes_per_number: int) -> int:
    return num_layers * num_kv_heads * head_dim * bytes_per_number


def _query_heads(num_layers: int, num_heads: int, num_kv_heads: int, head_dim: int, bytes_per_number: int) -> int:
    return 2 * num_layers * num_heads * head_dim * bytes_per_number


def _queries_too(num_layers: int, num_heads: int, num_kv_heads: int, head_dim: int, bytes_per_number: int) -> int:
    return num_layers * (num_heads + 2 * num_kv_heads) * head_dim * bytes_per_number


def _queries_and_keys(num_layers: int, num_heads: int, num_kv_heads: int, head_dim: int, bytes_per_number: int) -> int:
    return num_layers * (num_heads + num_kv_heads) * head_dim * bytes_per_number


def _one_layer(num_layers: int, num_heads: int, num_kv_heads: int, head_dim: int, bytes_per_number: int) -> int:
    return 2 * num_kv_heads * head_dim * bytes_per_number


def _numbers_not_bytes(num_layers: int, num_heads: int, num_kv_heads: int, head_dim: int, bytes_per_number: int) -> int:
    return 2 * num_layers * num_kv_heads * head_dim


def _heads_forgotten(num_layers: int, num_heads: int, num_kv_heads: int, head_dim: int, bytes_per_number: int) -> int:
    return 2 * num_layers * head_dim * bytes_per_number


def _count(num_blocks: int, needed: list[int]) -> int:
    """Return how many fit in this order, the first that does not fit being the end."""
    return sum(blocks <= num_blocks for blocks in accumulate(needed))


def _as_if_blocks_were_shared(num_blocks: int, block_size: int, readers: Readers) -> int:
    return _count(num_blocks * block_size, [prompt + answer - 1 for prompt, answer in readers])


def _last_token_too(num_blocks: int, block_size: int, readers: Readers) -> int:
    return _count(num_blocks, [-(-(prompt + answer) // block_size) for prompt, answer in readers])


def _rounded_down(num_blocks: int, block_size: int, readers: Readers) -> int:
    return _count(num_blocks, [(prompt + answer - 1) // block_size for prompt, answer in readers])


def _always_one_more(num_blocks: int, block_size: int, readers: Readers) -> int:
    return _count(num_blocks, [(prompt + answer) // block_size + 1 for prompt, answer in readers])


def _prompts_only(num_blocks: int, block_size: int, readers: Readers) -> int:
    return _count(num_blocks, [-(-prompt // block_size) for prompt, _ in readers])


def _never_full(num_blocks: int, block_size: int, readers: Readers) -> int:
    return _count(num_blocks - 1, [-(-(prompt + answer - 1) // block_size) for prompt, answer in readers])


def _answer_in_new_blocks(num_blocks: int, block_size: int, readers: Readers) -> int:
    return _count(num_blocks, [-(-p // block_size) + -(-(a - 1) // block_size) for p, a in readers])


def _last_token_in_new_blocks(num_blocks: int, block_size: int, readers: Readers) -> int:
    return _count(num_blocks, [-(-p // block_size) + -(-a // block_size) for p, a in readers])


def _shortest_first(num_blocks: int, block_size: int, readers: Readers) -> int:
    return _count(num_blocks, sorted(-(-(prompt + answer - 1) // block_size) for prompt, answer in readers))


def _passed_over(num_blocks: int, block_size: int, readers: Readers) -> int:
    seated = 0
    for prompt, answer in readers:
        needed = -(-(prompt + answer - 1) // block_size)
        if needed <= num_blocks:
            num_blocks -= needed
            seated += 1
    return seated


def _one_behind_the_last(num_blocks: int, block_size: int, readers: Readers) -> int:
    return min(len(readers), num_fitting_solution(num_blocks, block_size, readers) + 1)


def _blocks_never_taken(num_blocks: int, block_size: int, readers: Readers) -> int:
    return sum(-(-(prompt + answer - 1) // block_size) <= num_blocks for prompt, answer in readers)


def _notes_check(value: Any) -> Any:
    if value <= 0:
        raise ValueError("block_size must be positive")
    return value


def _true_is_an_int(value: Any) -> Any:
    if not isinstance(value, int) or value <= 0:
        raise ValueError(f"block_size must be an int >= 1, got {value!r}")
    return value


def _converted(value: Any) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = 0
    if number <= 0:
        raise ValueError(f"block_size must be an int >= 1, got {value!r}")
    return number


def _asserted(value: Any) -> Any:
    assert isinstance(value, int)
    assert not isinstance(value, bool)
    assert value > 0
    return value


def _without_a_word(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError
    return value


EXERCISES = [
    Exercise(
        name="seats_needed",
        task="the fewest seats with which everybody has a first token after so many steps",
        solution=seats_needed_solution,
        cases=[
            *((8, 12, 12), (8, 12, 13), (8, 12, 30), (8, 12, 1), (1, 5, 100), (7, 1, 3), (9, 4, 12)),
            (1001, 1, 1000),
            (2000, 12, 12),
        ],
        generate=_random_seats,
        mistakes=[
            Mistake(
                _one_step_late,
                "you let the last group begin one step too late: if it begins after `max_steps` steps, its first "
                "token comes one step later",
            ),
            Mistake(
                _whole_answers,
                "you count whole answers; the last group needs only its first token in time, which comes in the "
                "first step of its turn",
            ),
            Mistake(
                _whole_answers_or_none,
                "you count whole answers, and divide by 0 where none fits; the last group needs only its first token "
                "in time, which comes in the first step of its turn",
            ),
            Mistake(
                _turns_a_step_too_short,
                "you give a group `max_tokens - 1` steps; its turn takes `max_tokens`, the first of which reads the "
                "prompts and brings the first token",
            ),
            Mistake(_seats_rounded_down, "you round the seats down: some readers are left over and come too late"),
            Mistake(
                _a_seat_for_everybody,
                "a seat for everybody is always fast enough, but seldom the fewest: some may wait for a group before "
                "them",
            ),
            Mistake(_one_seat_too_many, "one seat too many where the groups come out even: round up, do not add one"),
            Mistake(_groups, "you return how many groups have time; the seats are the readers, divided by the groups"),
        ],
        hints=(
            "Readers come in groups as large as there are seats. After how many steps does each group begin?",
            "A group takes `max_tokens` steps, so group number g has its first token in step `(g - 1) * max_tokens + "
            "1`. How many groups have it in time? Divide the readers among them, rounded up: `-(-a // b)`.",
        ),
        code="groups = (max_steps - 1) // max_tokens + 1\nreturn -(-num_readers // groups)",
    ),
    Exercise(
        name="kv_bytes",
        task="bytes of the KV cache that one token takes",
        solution=kv_bytes_solution,
        cases=[(30, 9, 3, 64, 4), (1, 1, 1, 1, 1), (28, 16, 8, 128, 2), (12, 12, 12, 64, 4)],
        generate=_random_shape,
        mistakes=[
            Mistake(_keys_only, "you count the keys; the values take as much again"),
            Mistake(
                _query_heads,
                "you count the query heads; only the key-value heads are kept, and here there are fewer of them",
            ),
            Mistake(
                _queries_too, "queries are not kept: only keys and values are, so no argument for query heads is needed"
            ),
            Mistake(
                _queries_and_keys, "queries are not kept: count the key-value heads twice, for keys and for values"
            ),
            Mistake(_one_layer, "you count one layer; every layer keeps its own keys and values"),
            Mistake(_numbers_not_bytes, "you count numbers; each takes `bytes_per_number` bytes, 4 in float32"),
            Mistake(_whole_block, "you return the bytes of a block of 16; one token takes a 16th of it"),
            Mistake(_heads_forgotten, "you count one head; each key and each value has `num_kv_heads` of them"),
        ],
        hints=(
            "What does one layer keep of one token? Count the boxes of the picture.",
            "A key and a value, each of `num_kv_heads * head_dim` numbers; then times layers, times bytes.",
        ),
        code="return 2 * num_layers * num_kv_heads * head_dim * bytes_per_number",
    ),
    Exercise(
        name="num_fitting",
        task="readers who fit into the blocks in this order, until all their answers are complete",
        solution=num_fitting_solution,
        cases=[
            (4, 16, [(16, 1), (16, 1)]),
            (4, 16, []),
            (4, 16, [(16, 17), (16, 17), (1, 1)]),
            (91, 16, [(6, 12)] * 50),
            (3, 4, [(5, 5), (2, 3), (1, 1)]),
            (2, 4, [(9, 9), (1, 1)]),
            (5, 1, [(2, 2), (2, 2)]),
            (1000, 16, [(1, 1)] * 300),
        ],
        generate=_random_readers,
        mistakes=[
            Mistake(
                _as_if_blocks_were_shared,
                "you share out single tokens; each reader has blocks of their own, so each rounds up to whole blocks",
            ),
            Mistake(
                _last_token_too,
                "you give a block too many to readers whose last block is exactly full: either you round up "
                "by `// block_size + 1`, or you give the last token of an answer a place, and the model never reads it",
            ),
            Mistake(_rounded_down, "you round the blocks of a reader down: the last tokens have no place"),
            Mistake(
                _always_one_more,
                "tokens that fill their last block exactly need no further one: round up, do not add one",
            ),
            Mistake(_prompts_only, "you make room for the prompts; the answers need places too"),
            Mistake(_never_full, "whoever needs exactly the blocks that are left does fit: all blocks may be taken"),
            Mistake(
                _answer_in_new_blocks,
                "you give the answer blocks of its own; it goes on in the prompt's last block: add the tokens, then "
                "round up",
            ),
            Mistake(
                _last_token_in_new_blocks,
                "you give the answer blocks of its own, and its last token a place; it goes on in the prompt's last "
                "block, and the last token is never read",
            ),
            Mistake(_shortest_first, "you seat the shortest first; the order in which they come decides"),
            Mistake(
                _one_behind_the_last,
                "you count the first reader who does not fit too: look whether the blocks suffice before you count",
            ),
            Mistake(
                _blocks_never_taken,
                "you compare each reader with all blocks; those who sit hold theirs, so take them away first",
            ),
            Mistake(
                _passed_over, "you pass over a reader who does not fit and seat a later one; all behind them must wait"
            ),
        ],
        hints=(
            "How many tokens of a reader does the model read? Remember why it was 136 and not 144.",
            "Each needs `prompt + answer - 1` places, rounded up to blocks: `-(-places // block_size)`. Go through the "
            "readers, take their blocks away, and stop at the first who does not fit.",
        ),
        code=(
            "seated = 0\n"
            "for prompt, answer in readers:\n"
            "    num_blocks -= -(-(prompt + answer - 1) // block_size)\n"
            "    if num_blocks < 0:\n"
            "        break\n"
            "    seated += 1\n"
            "return seated"
        ),
    ),
    Exercise(
        name="block_size",
        task="accept what a block size may be, refuse all else by a ValueError in three parts",
        solution=block_size_solution,
        cases=[
            *(
                (value,)
                for value in (16, 0, 1, 3, 17, 24, -16, 16.5, 16.0, "16", "many", True, False, None, [16], 2**40)
            ),
            *((value,) for value in ((16,), Fraction(33, 2), Fraction(16), Decimal(16), torch.tensor(16.5))),
            ("as many as the readers of a whole day will need",),
        ],
        generate=_random_value,
        mistakes=[
            Mistake(
                _notes_check,
                "the notes' check lets 16.5 and True pass, and for '16' raises TypeError, which does not say what is "
                "wrong; ask for the type first",
            ),
            Mistake(_true_is_an_int, "True passes: bool is a subclass of int in Python; refuse it by name"),
            Mistake(
                _converted,
                "int() repairs what should be refused: 16.5 becomes 16 and '16' a number, and the user never learns "
                "that the setting was wrong",
            ),
            Mistake(
                _asserted,
                "assert raises AssertionError, and nothing at all under `python -O`; a user's mistake is a ValueError",
            ),
            Mistake(
                _without_a_word,
                "your ValueError has no message: say which field it is, what is allowed and what was given",
            ),
        ],
        hints=(
            "`value <= 0` compares before it knows what it compares.",
            "First `isinstance`, with `bool` refused although it is an `int`; then the range. One `raise` is enough.",
        ),
        code=(
            "if isinstance(value, bool) or not isinstance(value, int) or value < 1:\n"
            '    raise ValueError(f"block_size must be an int >= 1, got {value!r}")\n'
            "return value"
        ),
        complaint=_another_message,
    ),
]
