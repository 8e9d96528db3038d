"""``num_fitting``: how many readers the blocks can hold until all their answers are complete."""

from itertools import accumulate
from random import Random

from folovllm.course.exercises.exercise import Exercise, Mistake
from folovllm.course.exercises.outcome import Case
from folovllm.engine.block_manager import BlockManager

Readers = list[tuple[int, int]]


def num_fitting_solution(num_blocks: int, block_size: int, readers: Readers) -> int:
    """Return how many readers, (prompt, answer) in tokens, can sit in the blocks until all answers are complete."""
    manager = BlockManager(block_size, num_blocks, enable_prefix_caching=False)
    needed = accumulate(manager.max_blocks_needed(prompt, prompt + answer, 1) for prompt, answer in readers)
    return sum(blocks <= num_blocks for blocks in needed)


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


EXERCISE = Exercise(
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
        (1, 4096, [(4000, 98)]),  # a block is nearly enough
        (1, 4096, [(4000, 97)]),
        (0, 16, [(4, 4)]),
        (2000, 16, [(16000, 1000), (1, 1)]),
        (4, 8, [(16, 17), (16, 17), (1, 1)]),
        (3000, 16, [(1, 1)] * 5000),
        (6249, 16, [(100_000, 1)]),
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
)
