"""The exercises of chapter 03, with their solutions and the mistakes that they catch."""

import math
from collections.abc import Callable
from itertools import pairwise
from random import Random

import torch

from folovllm.config import SchedulerConfig
from folovllm.course.exercises.exercise import Exercise, Mistake
from folovllm.engine.beam_search import choose, propose
from folovllm.engine.block_manager import BlockManager
from folovllm.engine.scheduler import Scheduler
from folovllm.request import BeamState, Request, Sequence, SequenceData, SequenceStatus
from folovllm.sampling_params import BeamSearchParams, SamplingParams
from folovllm.step import SchedulerOutput

Fork = tuple[list[int], list[int], int]
Running = list[tuple[str, int, int, int]]
"""Requests, the oldest first: name, living sequences, blocks that it holds, new blocks that its next tokens need."""
Moved = list[tuple[str, str]]
_READERS = ["Anna", "Bo", "Chen", "Mei", "Dai", "Eve", "Fei"]


# -- fork --------------------------------------------------------------------------------------------


def fork_solution(tokens: list[int], seed: int, num_forks: int, new_token: int) -> Fork:
    """Fork a sequence that forked ``num_forks`` times before; return the parent's tokens, the fork's, its seed."""
    parent = Sequence("0", "0", SequenceData([0], tokens), SamplingParams(), seed)
    for i in range(num_forks):
        parent.fork(f"earlier {i}")
    child = parent.fork("1")
    child.add_token_id(new_token)
    return parent.data.output_token_ids, child.data.output_token_ids, child.seed


def _grow_the_original(tokens: list[int], seed: int, num_forks: int, new_token: int) -> Fork:
    child = tokens.copy()
    tokens.append(new_token)
    return child, tokens, seed + num_forks + 1


def _grow_the_original_swapped(tokens: list[int], seed: int, num_forks: int, new_token: int) -> Fork:
    child = tokens.copy()
    tokens.append(new_token)
    return tokens, child, seed + num_forks + 1


def _grow_the_original_shared_seed(tokens: list[int], seed: int, num_forks: int, new_token: int) -> Fork:
    child = tokens.copy()
    tokens.append(new_token)
    return child, tokens, seed


def _shared_list(tokens: list[int], seed: int, num_forks: int, new_token: int) -> Fork:
    child = tokens
    child.append(new_token)
    return tokens, child, seed + num_forks + 1


def _only_the_new(tokens: list[int], seed: int, num_forks: int, new_token: int) -> Fork:
    return tokens, [new_token], seed + num_forks + 1


def _both_grow(tokens: list[int], seed: int, num_forks: int, new_token: int) -> Fork:
    return [*tokens, new_token], [*tokens, new_token], seed + num_forks + 1


def _child_first(tokens: list[int], seed: int, num_forks: int, new_token: int) -> Fork:
    return [*tokens, new_token], tokens, seed + num_forks + 1


def _shared_seed(tokens: list[int], seed: int, num_forks: int, new_token: int) -> Fork:
    return tokens, [*tokens, new_token], seed


def _seed_of_the_last_fork(tokens: list[int], seed: int, num_forks: int, new_token: int) -> Fork:
    return tokens, [*tokens, new_token], seed + num_forks


def _always_the_next_seed(tokens: list[int], seed: int, num_forks: int, new_token: int) -> Fork:
    return tokens, [*tokens, new_token], seed + 1


def _some_fork(random: Random) -> tuple[list[int], int, int, int]:
    tokens = random.choices(range(10), k=random.choice((0, 1, 2, 5)))
    new_token = random.choice([*tokens, random.randrange(50_000)])
    return tokens, random.choice((0, 1, random.randrange(2**40))), random.choice((0, 0, 1, 4)), new_token


_GREW = (
    "you made a copy, and then the original got the new token: the parent's own list has changed. The parent "
    "stays as it was; the token belongs to the copy"
)
FORK = Exercise(
    name="fork",
    task="a fork's tokens and seed, and a parent that stays as it was",
    solution=fork_solution,
    cases=[([5, 6], 10, 0, 7), ([5, 6], 10, 2, 7), ([], 0, 0, 1), ([3, 3, 3], 1, 1, 3)],
    generate=_some_fork,
    mistakes=[
        Mistake(_grow_the_original, _GREW),
        Mistake(_grow_the_original_swapped, _GREW + " (and the results are: parent's tokens, fork's tokens, seed)"),
        Mistake(_grow_the_original_shared_seed, _GREW + " (and the fork needs a seed of its own)"),
        Mistake(
            _shared_list,
            "parent and fork are the same list, so the parent got the token too: `child = tokens` gives the list "
            "a second name, it copies nothing",
        ),
        Mistake(_both_grow, "the parent stays as it was: the fork alone gets the new token"),
        Mistake(_only_the_new, "your fork forgets what came before: it begins with its parent's tokens"),
        Mistake(_child_first, "right lists in the wrong order: the parent's tokens come first, then the fork's"),
        Mistake(
            _shared_seed,
            "your fork has its parent's seed, as in the notes: both draw the same random numbers, and so write the "
            "same text",
        ),
        Mistake(
            _seed_of_the_last_fork,
            "in your rule the first fork (num_forks=0) gets its parent's own seed; it gets seed + 1, and the next "
            "one seed + 2",
        ),
        Mistake(_always_the_next_seed, "every fork gets seed + 1, so the second fork writes the text of the first"),
    ],
    hints=(
        "Two things must not be shared: the list of tokens, and the seed.",
        "`tokens + [new_token]` makes a new list and leaves the old one alone. Forks number 1, 2, 3 get seed + 1, "
        "seed + 2, seed + 3.",
    ),
    code="child = tokens + [new_token]\nreturn tokens, child, seed + num_forks + 1",
)

# -- copy on write -----------------------------------------------------------------------------------


def copies_solution(tables: list[list[int]], lengths: list[int], block_size: int) -> list[int]:
    """Let every sequence write one token, in order; return the blocks that are copied for it, in order."""
    held = [block for table in tables for block in table]
    manager = BlockManager(block_size, max(held, default=0) + 1 + len(tables), enable_prefix_caching=False)
    for block in range(max(held, default=0) + 1):
        manager.gpu.allocate()
        manager.gpu.ref_counts[block] = held.count(block)
    copies = []
    for i, (table, length) in enumerate(zip(tables, lengths, strict=True)):
        seq = Sequence(str(i), "0", SequenceData([0] * (length + 1)), SamplingParams())
        seq.block_ids, seq.num_computed_tokens = list(table), length
        copies += manager.append_slots(seq, 1)
    return [source for source, _ in copies]


def _copies_by(
    wants: Callable[[list[list[int]], int, int], bool],
    may: Callable[[int, int], bool] = lambda length, block_size: length % block_size > 0,
    *,
    only_last: bool = False,
) -> Callable[..., list[int]]:
    """Return a rule that copies the last block where ``wants(tables, block, holders left)`` says so.

    may: whether a length and a block size allow it at all.  only_last: a block has holders where it is the last one.
    """

    def rule(tables: list[list[int]], lengths: list[int], block_size: int) -> list[int]:
        left = [block for table in tables for block in (table[-1:] if only_last else table)]
        copied = []
        for table, length in zip(tables, lengths, strict=True):
            if table and may(length, block_size) and wants(tables, table[-1], left.count(table[-1])):
                left.remove(table[-1])
                copied.append(table[-1])
        return copied

    return rule


def _holders(tables: list[list[int]], block: int) -> int:
    return sum(block in table for table in tables)


def _all_shared_blocks(tables: list[list[int]], lengths: list[int], block_size: int) -> list[int]:
    return [block for table in tables for block in table if _holders(tables, block) > 1]


def _each_block_once(tables: list[list[int]], lengths: list[int], block_size: int) -> list[int]:
    return list(dict.fromkeys(copies_solution(tables, lengths, block_size)))


def _first_writer_keeps(tables: list[list[int]], lengths: list[int], block_size: int) -> list[int]:
    written = [table[-1] for table, length in zip(tables, lengths, strict=True) if length % block_size]
    return [block for i, block in enumerate(written) if block in written[:i]]


_every_writer_copies = _copies_by(lambda tables, block, left: _holders(tables, block) > 1)
_full_ones_too = _copies_by(lambda tables, block, left: left > 1, lambda length, block_size: True)
_counts_the_new_token = _copies_by(lambda tables, block, left: left > 1, lambda length, size: (length + 1) % size > 0)
_last_blocks_alone = _copies_by(lambda tables, block, left: left > 1, only_last=True)
_unshared_too = _copies_by(lambda tables, block, left: True)


def _some_tables(random: Random) -> tuple[list[list[int]], list[int], int]:
    """Return the tables of up to three families: just forked, grown apart, at a block's end, one ahead of its forks.

    The one that reads prompt and own words again may be ahead: its forks share the prompt's blocks only.
    """
    block_size = random.choice((1, 2, 3, 4, 4, 16))
    fresh = 0
    sequences: list[tuple[list[int], int]] = []
    for _ in range(random.randint(0, 3)):
        length, n = random.randint(1, 3 * block_size), random.randint(1, 4)
        num_blocks = -(-length // block_size)
        num_shared = random.choice((num_blocks, num_blocks, num_blocks - 1))
        shared = list(range(fresh, fresh + num_shared))
        fresh += num_shared
        for i in range(n):
            own = list(range(fresh, fresh + num_blocks - num_shared))
            fresh += len(own)
            ahead = random.choice((0, 0, 1, random.randint(1, 2 * block_size))) if i == 0 else 0
            further = list(range(fresh, fresh - (-(length + ahead) // block_size) - num_blocks))
            fresh += len(further)
            sequences.append((shared + own + further, length + ahead))
    random.shuffle(sequences)
    return [table for table, _ in sequences], [length for _, length in sequences], block_size


COPIES = Exercise(
    name="copies",
    task="the blocks that must be copied before every sequence writes one token",
    solution=copies_solution,
    cases=[
        ([[0, 1], [0, 1], [0, 1]], [5, 5, 5], 4),
        ([[0, 1], [0, 1]], [8, 8], 4),
        ([[0, 1], [0, 2]], [6, 6], 4),
        ([[0, 1], [0, 1]], [8, 6], 4),
        ([[0, 1, 2], [0, 1]], [9, 6], 4),
        ([[3], [3], [7]], [2, 2, 1], 4),
        ([], [], 4),
    ],
    generate=_some_tables,
    mistakes=[
        Mistake(
            _every_writer_copies,
            "the last holder copies too, but then nobody else holds the block any more: count the holders that "
            "are left at that moment",
        ),
        Mistake(
            _first_writer_keeps,
            "your first writer keeps the block, although others still hold it and need what is in it; whoever writes "
            "while others hold the block copies it, and the last holder keeps it",
        ),
        Mistake(
            _full_ones_too,
            "you copy blocks that are full: nobody writes there again, the next token opens a new block",
        ),
        Mistake(
            _last_blocks_alone,
            "a block may be another table's last but one: count it in all tables, not only where it is the last",
        ),
        Mistake(
            _counts_the_new_token,
            "`length + 1` counts the new token too; whether the last block has a free place depends on the tokens "
            "that are in it already: `length % block_size`",
        ),
        Mistake(_unshared_too, "you copy a block that one sequence alone holds; it may simply write there"),
        Mistake(_all_shared_blocks, "you copy every shared block; a sequence writes only into its last one"),
        Mistake(_each_block_once, "you copy each block once; of three holders, two need a copy of their own"),
    ],
    hints=(
        "Into which block does a sequence write its next token, and when does it need a new one anyway?",
        "Put all blocks of all tables into one list: `holders.count(block)` is the reference count. A sequence that "
        "copies a block no longer holds it: `holders.remove(block)`.",
    ),
    code=(
        "holders = [block for table in tables for block in table]\n"
        "copied = []\n"
        "for table, length in zip(tables, lengths):\n"
        "    if length % block_size and holders.count(table[-1]) > 1:\n"
        "        holders.remove(table[-1])\n"
        "        copied.append(table[-1])\n"
        "return copied"
    ),
)

# -- the blocks of a family --------------------------------------------------------------------------


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
FAMILY_BLOCKS = Exercise(
    name="family_blocks",
    task="KV blocks of n sequences that continue one prompt",
    solution=family_blocks_solution,
    cases=[(5, 8, 3, 4), (5, 5, 3, 4), (6, 8, 3, 4), (16, 20, 4, 8), (64, 65, 8, 16), (7, 9, 1, 4)],
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
        "`prompt_len // block_size`, count once; the others of a sequence count n times. `-(-a // b)` rounds up.",
    ),
    code=(
        "if length == prompt_len:\n"
        "    return -(-prompt_len // block_size)\n"
        "shared = prompt_len // block_size\n"
        "own = -(-length // block_size) - shared\n"
        "return shared + n * own"
    ),
)

# -- who gives way -----------------------------------------------------------------------------------


def preempt_solution(running: Running, free: int, host_free: int) -> Moved:
    """Return who gives way in the next step, in order, and where each goes: "swapped" or "waiting"."""
    num_blocks = free + sum(held for _, _, held, _ in running)
    config = SchedulerConfig(max_num_batched_tokens=1000, max_num_seqs=1000)
    scheduler = Scheduler(config, BlockManager(2, num_blocks, host_free, enable_prefix_caching=False))
    scheduler.running = [_make_running(scheduler.block_manager, *each) for each in running]
    # Not schedule(), which relies on it that the oldest can run alone: the engine refuses whoever cannot.
    step = SchedulerOutput()
    scheduler._schedule_running(step)
    return [(name, status.value) for name, status in step.preempted.items()]


def _make_running(manager: BlockManager, name: str, live: int, held: int, needed: int) -> Request:
    """Return a running request: its sequences share ``held - live`` blocks of 2, and each has one of its own."""
    request = Request(name, None, [0], SamplingParams(n=live))
    shared = [manager.gpu.allocate() for _ in range(held - live)]
    for block in shared:
        manager.gpu.ref_counts[block] = live
    for i, seq in enumerate(request.sequences):
        seq.transition_to(SequenceStatus.RUNNING)
        seq.block_ids = [*shared, manager.gpu.allocate()]
        seq.num_computed_tokens = 2 * len(seq.block_ids) - (i >= needed)
        seq.data.output_token_ids = [0] * seq.num_computed_tokens
    return request


def _preempts(
    last: Callable[[Running], int] = lambda running: -1,
    swaps: Callable[[int, int, int], bool] = lambda live, held, host: live > 1 and held <= host,
    *,
    host_fills: bool = True,
    need_stays: bool = False,
    frees: bool = True,
    enough: int = 0,
    stays: int = 0,
    once: bool = False,
) -> Callable[..., Moved]:
    """Return a rule that differs from the scheduler's in one respect.

    last: place of who gives way.  swaps: of its living sequences, its blocks, and the host's free ones.
    host_fills: the host's room is used up.  need_stays: of who gave way.  frees: blocks that are given back are free.
    enough: how many blocks may be missing.  stays: how many requests never give way.  once: nobody after the first.
    """

    def rule(running: Running, free: int, host_free: int) -> Moved:
        running = list(running)
        moved: Moved = []
        missing = sum(needed for *_, needed in running) - free
        while missing > enough and len(running) > stays and not (once and moved):
            name, live, held, needed = running.pop(last(running))
            missing -= (held if frees else 0) + (0 if need_stays else needed)
            swap = swaps(live, held, host_free)
            host_free -= held if swap and host_fills else 0
            moved.append((name, "swapped" if swap else "waiting"))
        return moved

    return rule


_oldest_first = _preempts(lambda running: 0)
_largest_first = _preempts(lambda running: max(range(len(running)), key=lambda i: running[i][2]))
_only_one = _preempts(once=True)
_all_swapped = _preempts(swaps=lambda live, held, host: True)
_all_recomputed = _preempts(swaps=lambda live, held, host: False)
_single_ones_swapped = _preempts(swaps=lambda live, held, host: held <= host)
_host_is_endless = _preempts(swaps=lambda live, held, host: live > 1)
_host_never_fills = _preempts(host_fills=False)
_host_is_never_filled_up = _preempts(swaps=lambda live, held, host: live > 1 and held < host)
_need_stays = _preempts(need_stays=True)
_frees_nothing = _preempts(frees=False)
_just_enough_is_short = _preempts(enough=-1)
_oldest_always_stays = _preempts(stays=1)


def _just_enough_is_short_unguarded(running: Running, free: int, host_free: int) -> Moved:
    moved = _just_enough_is_short(running, free, host_free)
    if len(moved) == len(running) and sum(held for _, _, held, _ in running) + free <= 0:
        raise IndexError("pop from empty list")
    return moved


def _in_order_of_arrival(running: Running, free: int, host_free: int) -> Moved:
    return preempt_solution(running, free, host_free)[::-1]


def _some_evening(random: Random) -> tuple[Running, int, int]:
    """Return an evening, often so full that families give way: they just fill the host, or lack a block there."""
    full = random.choice((False, True))
    running = []
    for name in random.sample(_READERS, k=random.randint(4, 7) if full else random.randint(0, 5)):
        live = random.choice((1, 2, 3, 4, 5) if full else (1, 1, 2, 3, 4))
        held = live + random.choice((0, 0, 1, 2) if full else (0, 0, 1, 6))
        running.append((name, live, held, live if full else random.choice((0, 1, live, live))))
    families = [held for _, live, held, _ in reversed(running) if live > 1]
    room = sum(families[: random.randint(0, 3)])
    free = random.choice((0, 0, 1) if full else (0, 0, 1, 2, 8))
    return running, free, random.choice((room, room, max(room - 1, 0), 100))


_ENOUGH = "somebody gives way only if more is needed than is free; as many free blocks as needed are enough"
PREEMPT = Exercise(
    name="preempt",
    task="who gives way when blocks are short, and how",
    solution=preempt_solution,
    cases=[
        ([("Anna", 1, 3, 1), ("Chen", 1, 2, 1)], 1, 10),
        ([("Anna", 1, 4, 0), ("Bo", 3, 7, 3)], 2, 10),
        ([("Anna", 1, 4, 0), ("Bo", 3, 7, 3)], 2, 6),
        ([("Anna", 1, 4, 0), ("Bo", 3, 7, 3)], 3, 10),
        ([("Anna", 2, 4, 2), ("Bo", 3, 4, 3), ("Chen", 2, 3, 2)], 0, 5),
        ([("Anna", 3, 7, 3), ("Bo", 3, 9, 3), ("Chen", 3, 4, 0)], 0, 13),
        ([("Anna", 4, 9, 4), ("Bo", 4, 9, 1), ("Chen", 4, 4, 4), ("Dai", 3, 8, 3)], 0, 9),
        ([("Anna", 3, 8, 0), ("Bo", 4, 9, 3), ("Chen", 4, 11, 3), ("Dai", 3, 5, 3)], 0, 16),
        ([("Anna", 1, 4, 1)], 0, 10),
        ([], 4, 4),
        ([], 0, 0),
    ],
    generate=_some_evening,
    mistakes=[
        Mistake(_oldest_first, "the oldest gives way in your rule; the latest must, or the first come is never served"),
        Mistake(_largest_first, "the largest gives way in your rule; the order of arrival decides, not the size"),
        Mistake(_in_order_of_arrival, "the right ones in the wrong order: the latest gives way first"),
        Mistake(_only_one, "one may not be enough: go on until what the others need is free"),
        Mistake(_all_swapped, "you swap everybody; a single sequence is computed again, and the host may be full"),
        Mistake(_all_recomputed, "you swap nobody; a family moves to the host if its blocks fit there"),
        Mistake(
            _single_ones_swapped,
            "you swap single sequences too; only a family is swapped, a single one waits and is computed again",
        ),
        Mistake(_host_is_endless, "you swap without asking whether the host has room for all the blocks"),
        Mistake(_host_is_never_filled_up, "the host may become full: blocks that just fit there are moved"),
        Mistake(_frees_nothing, "whoever gives way gives its blocks back: they are free for the others"),
        Mistake(_just_enough_is_short, _ENOUGH),
        Mistake(_just_enough_is_short_unguarded, _ENOUGH + " (and nobody can be taken from an empty list)"),
        Mistake(
            _oldest_always_stays,
            "your last one never gives way; if its need is not met although it is alone, it has to, too",
        ),
        Mistake(_host_never_fills, "whoever was swapped fills the host; the next one finds less room there"),
        Mistake(
            _need_stays,
            "whoever gives way needs no new blocks in this step: count only those who still run",
        ),
    ],
    hints=(
        "What do those who still run need together? Compare it with what is free, again after each move.",
        "`running.pop()` on a copy of the list takes the latest; its blocks become free. It is swapped if "
        "`live > 1 and held <= host_free`, and then the host has less room.",
    ),
    code=(
        "running, moved = list(running), []\n"
        "while sum(needed for _, _, _, needed in running) > free:\n"
        "    name, live, held, _ = running.pop()\n"
        "    free += held\n"
        "    if live > 1 and held <= host_free:\n"
        "        host_free -= held\n"
        '        moved.append((name, "swapped"))\n'
        "    else:\n"
        '        moved.append((name, "waiting"))\n'
        "return moved"
    ),
)

# -- one step of a beam search -----------------------------------------------------------------------


def beam_step_solution(totals: list[float], logprobs: list[list[float]], width: int) -> list[tuple[int, int]]:
    """Return the ``width`` continuations that live on, best first, each as (number of the text, token)."""
    params = BeamSearchParams(beam_width=width, max_tokens=100)
    request = Request("0", None, [0], SamplingParams(n=len(totals), max_tokens=100))
    request.beam_state = BeamState(params)
    for i, (seq, total, row) in enumerate(zip(request.sequences, totals, logprobs, strict=True)):
        seq.transition_to(SequenceStatus.RUNNING)
        seq.add_token_id(i)  # by which the winner's parent is known
        seq.token_logprobs = [total]
        propose(request, seq, torch.tensor(row))
    choose(request, BlockManager(4, 1))
    return [(seq.data.output_token_ids[0], seq.data.output_token_ids[1]) for seq in request.sequences]


def _proposals(totals: list[float], logprobs: list[list[float]]) -> list[tuple[float, int, int]]:
    return [(totals[i] + p, i, token) for i, row in enumerate(logprobs) for token, p in enumerate(row)]


def _each_text_its_best(totals: list[float], logprobs: list[list[float]], width: int) -> list[tuple[int, int]]:
    best = sorted((max(p for p in _proposals(totals, logprobs) if p[1] == i) for i in range(len(totals))), reverse=True)
    return [(text, token) for _, text, token in best[:width]]


def _newest_alone(totals: list[float], logprobs: list[list[float]], width: int) -> list[tuple[int, int]]:
    best = sorted(_proposals([0.0] * len(totals), logprobs), reverse=True)
    return [(text, token) for _, text, token in best[:width]]


def _only_the_best_text(totals: list[float], logprobs: list[list[float]], width: int) -> list[tuple[int, int]]:
    leader = max(range(len(totals)), key=lambda i: totals[i])
    best = sorted((p for p in _proposals(totals, logprobs) if p[1] == leader), reverse=True)
    return [(text, token) for _, text, token in best[:width]]


def _worst_first(totals: list[float], logprobs: list[list[float]], width: int) -> list[tuple[int, int]]:
    return [(text, token) for _, text, token in sorted(_proposals(totals, logprobs))[:width]]


def _in_text_order(totals: list[float], logprobs: list[list[float]], width: int) -> list[tuple[int, int]]:
    return sorted(beam_step_solution(totals, logprobs, width))


def _token_first(totals: list[float], logprobs: list[list[float]], width: int) -> list[tuple[int, int]]:
    return [(token, text) for text, token in beam_step_solution(totals, logprobs, width)]


def _multiplied(totals: list[float], logprobs: list[list[float]], width: int) -> list[tuple[int, int]]:
    products = [(totals[i] * p, i, token) for i, row in enumerate(logprobs) for token, p in enumerate(row)]
    return [(text, token) for _, text, token in sorted(products)[:width]]


def _multiplied_largest_first(totals: list[float], logprobs: list[list[float]], width: int) -> list[tuple[int, int]]:
    products = [(totals[i] * p, i, token) for i, row in enumerate(logprobs) for token, p in enumerate(row)]
    return [(text, token) for _, text, token in sorted(products, reverse=True)[:width]]


def _of_probabilities(totals: list[float], logprobs: list[list[float]], width: int) -> list[tuple[int, int]]:
    best = sorted(((math.exp(total), text, token) for total, text, token in _proposals(totals, logprobs)), reverse=True)
    return [(text, token) for _, text, token in best[:width]]


def _of_probabilities_by_key(totals: list[float], logprobs: list[list[float]], width: int) -> list[tuple[int, int]]:
    best = sorted(_proposals(totals, logprobs), key=lambda proposal: math.exp(proposal[0]), reverse=True)
    return [(text, token) for _, text, token in best[:width]]


def _some_beams(random: Random) -> tuple[list[float], list[list[float]], int]:
    """Return texts and continuations; no two proposals are so near that rounding could decide.

    Texts may be so long that a float has no number for their probabilities.
    """
    while True:
        num_texts, vocab = random.randint(1, 4), random.randint(2, 5)
        length = random.choice((0.0, 0.0, 20.0, 800.0, 20_000.0))
        totals = [-length - random.choice((0.0, 1.0, 20.0)) - random.random() for _ in range(num_texts)]
        logprobs = []
        for _ in range(num_texts):
            logits = [random.gauss(0, random.choice((0.3, 3.0))) for _ in range(vocab)]
            norm = math.log(sum(map(math.exp, logits)))
            logprobs.append([logit - norm for logit in logits])
        sums = sorted(total for total, _, _ in _proposals(totals, logprobs))
        if all(high - low > max(1e-3, length * 1e-6) for low, high in pairwise(sums)):
            return totals, logprobs, random.choice((1, 2, 4, 6))


def _logs(*rows: tuple[float, ...]) -> list[list[float]]:
    return [[math.log(p) for p in row] for row in rows]


_ALL_ZERO = (
    "almost: you turn the sums into probabilities; those of a long text are smaller than any float, so all of them are "
    "0.0 and none is the best. Compare the sums themselves"
)
_PRODUCTS = "you multiply log-probabilities; they add, because probabilities multiply"
BEAM_STEP = Exercise(
    name="beam_step",
    task="which continuations of several texts live on",
    solution=beam_step_solution,
    cases=[
        ([-1.0, -1.5], _logs((0.5, 0.3, 0.2), (0.9, 0.06, 0.04)), 2),
        ([-1.0, -4.0], _logs((0.6, 0.3, 0.1), (0.9, 0.06, 0.04)), 2),
        ([0.0], _logs((0.2, 0.7, 0.1)), 2),
        ([-800.0, -801.0], _logs((0.1, 0.9), (0.6, 0.4)), 2),
    ],
    generate=_some_beams,
    mistakes=[
        Mistake(
            _each_text_its_best,
            "you keep one continuation of each text; all continuations compete: one text may live on twice, "
            "another not at all",
        ),
        Mistake(_newest_alone, "you compare the newest tokens alone; the sum of the whole text decides"),
        Mistake(_only_the_best_text, "you continue the best text only; the others may still overtake it"),
        Mistake(_multiplied, _PRODUCTS),
        Mistake(_multiplied_largest_first, _PRODUCTS + " (and the largest product is that of the least likely text)"),
        Mistake(_of_probabilities, _ALL_ZERO),
        Mistake(_of_probabilities_by_key, _ALL_ZERO + ", in `key` too"),
        Mistake(_worst_first, "you keep the worst: a log-probability is negative, and near 0 is likely"),
        Mistake(_in_text_order, "the right ones, but the best must come first"),
        Mistake(_token_first, "each result is (text, token), in this order"),
    ],
    hints=(
        "How likely is a text with one more token, if you know both log-probabilities?",
        "Make one list of `(total + logprob, text, token)` of all texts and all tokens, sort it, largest first, and "
        "keep `width` of them.",
    ),
    code=(
        "proposals = [\n"
        "    (total + logprob, text, token)\n"
        "    for text, total in enumerate(totals)\n"
        "    for token, logprob in enumerate(logprobs[text])\n"
        "]\n"
        "best = sorted(proposals, reverse=True)[:width]\n"
        "return [(text, token) for _, text, token in best]"
    ),
)

EXERCISES = [FORK, COPIES, FAMILY_BLOCKS, PREEMPT, BEAM_STEP]
