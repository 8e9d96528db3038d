"""``family_blocks``: the blocks of sequences that continue one prompt."""

from random import Random

from folovllm.course.exercises.exercise import Exercise, Mistake
from folovllm.engine.block_manager import BlockManager
from folovllm.request import Sequence, SequenceData
from folovllm.sampling_params import SamplingParams


def family_blocks_solution(prompt_len: int, length: int, n: int, block_size: int) -> int:
    """Return the blocks of ``n`` sequences of one prompt when each has ``length`` tokens in the cache."""
    num_blocks = n * -(-length // block_size)
    manager = BlockManager(block_size, num_blocks, enable_prefix_caching=False)
    prompt = list(range(length))
    seqs = [Sequence(str(i), "0", SequenceData(prompt), SamplingParams()) for i in range(n)]
    manager.append_slots(seqs[0], prompt_len)
    seqs[0].num_computed_tokens = prompt_len
    for seq in seqs[1:]:
        manager.fork(seqs[0], seq)
    for seq in seqs:
        if length > prompt_len:
            manager.append_slots(seq, length - prompt_len)
    return num_blocks - manager.gpu.num_free


def _up(tokens: int, block_size: int) -> int:
    return -(-tokens // block_size)


def _nothing_shared(prompt_len: int, length: int, n: int, block_size: int) -> int:
    return n * _up(length, block_size)


def _copied_before_writing(prompt_len: int, length: int, n: int, block_size: int) -> int:
    shared = prompt_len // block_size
    return shared + n * (_up(length, block_size) - shared)


def _partial_block_shared(prompt_len: int, length: int, n: int, block_size: int) -> int:
    shared = _up(prompt_len, block_size)
    return shared + n * (_up(length, block_size) - shared)


def _one_sequence(prompt_len: int, length: int, n: int, block_size: int) -> int:
    return _up(length, block_size)


def _own_begin_a_block(prompt_len: int, length: int, n: int, block_size: int) -> int:
    return _up(prompt_len, block_size) + n * _up(length - prompt_len, block_size)


def _last_block_forgotten(prompt_len: int, length: int, n: int, block_size: int) -> int:
    return prompt_len // block_size + n * _up(length - prompt_len, block_size)


def _without_the_prompt(prompt_len: int, length: int, n: int, block_size: int) -> int:
    return n * _up(length - prompt_len, block_size)


def _rounded_down(prompt_len: int, length: int, n: int, block_size: int) -> int:
    shared = prompt_len // block_size
    if length == prompt_len:
        return _up(prompt_len, block_size)
    return shared + n * (length // block_size - shared)


def _always_rounded_down(prompt_len: int, length: int, n: int, block_size: int) -> int:
    shared = prompt_len // block_size
    return shared + n * (length // block_size - shared)


def _without_the_shared(prompt_len: int, length: int, n: int, block_size: int) -> int:
    if length == prompt_len:
        return 0
    return n * (_up(length, block_size) - prompt_len // block_size)


def _some_family(random: Random) -> tuple[int, int, int, int]:
    block_size = random.choice((1, 2, 3, 4, 8, 16))
    prompt_len = random.choice((random.randint(1, 3 * block_size), block_size * random.randint(1, 20)))
    grown = random.choice((0, 0, 1, random.randint(1, 4 * block_size)))
    return prompt_len, prompt_len + grown, random.choice((1, 2, 3, 8)), block_size


_UP = (
    "you round down; tokens that fill only a part of a block hold that block too, so round up: "
    "`-(-length // block_size)`"
)

EXERCISE = Exercise(
    name="family_blocks",
    task="KV blocks of n sequences that continue one prompt",
    solution=family_blocks_solution,
    cases=[
        (5, 8, 3, 4),
        (5, 5, 3, 4),
        (6, 8, 3, 4),
        (16, 20, 4, 8),
        (64, 65, 8, 16),
        (7, 9, 1, 4),
        (4000, 4097, 3, 4096),
        (32000, 32001, 3, 16),
        (100, 150, 1000, 16),
    ],
    generate=_some_family,
    mistakes=[
        Mistake(
            _copied_before_writing,
            "right once they write, but at length == prompt_len nobody has written yet: all share every block of "
            "the prompt, the last one too",
        ),
        Mistake(_rounded_down, _UP),
        Mistake(_always_rounded_down, _UP + ". And at length == prompt_len all share every block of the prompt"),
        Mistake(_nothing_shared, "you count the prompt n times; its full blocks are shared"),
        Mistake(
            _partial_block_shared,
            "you share the prompt's last block although it is not full: each sequence writes its own next token "
            "there, so each has a copy (copy-on-write)",
        ),
        Mistake(
            _own_begin_a_block,
            "you let the output begin with a new block; it first fills what is left of the prompt's last block, "
            "in a copy of one's own",
        ),
        Mistake(
            _last_block_forgotten,
            "where are the prompt's last tokens, those after its full blocks? Each text's own blocks begin with them",
        ),
        Mistake(_without_the_prompt, "the prompt's tokens are in the cache too; you count the output alone"),
        Mistake(_without_the_shared, "you count what each has for itself; the shared blocks are held too, once"),
        Mistake(_one_sequence, "that is one sequence; the others have blocks of their own too"),
    ],
    hints=(
        "Which blocks are never written again? And has anybody written anything yet?",
        "At `length == prompt_len` all share all blocks. Later the prompt's *full* blocks, "
        "`prompt_len // block_size`, count once; each sequence's others count n times. `-(-a // b)` rounds up.",
    ),
    code=(
        "if length == prompt_len:\n"
        "    return -(-prompt_len // block_size)\n"
        "shared = prompt_len // block_size\n"
        "own = -(-length // block_size) - shared\n"
        "return shared + n * own"
    ),
)
