"""``copies``: copy on write."""

from collections.abc import Callable
from random import Random

from folovllm.course.exercises.exercise import Exercise, Mistake
from folovllm.engine.block_manager import BlockManager
from folovllm.request import Sequence, SequenceData
from folovllm.sampling_params import SamplingParams


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
_in_other_words = _copies_by(lambda tables, block, left: left > 1)


def _stops_at_an_empty_table(tables: list[list[int]], lengths: list[int], block_size: int) -> list[int]:
    end = tables.index([]) if [] in tables else len(tables)
    return _in_other_words(tables, lengths[:end] + [0] * len(tables[end:]), block_size)


def _empty_tables_dropped(tables: list[list[int]], lengths: list[int], block_size: int) -> list[int]:
    tables = [table for table in tables if table]
    return _in_other_words(tables, lengths[: len(tables)], block_size)


def _some_tables(random: Random) -> tuple[list[list[int]], list[int], int]:
    """Return the tables of up to three families: just forked, grown apart, at a block's end, one ahead of its forks.

    The one that reads prompt and own words again may be ahead: its forks share the prompt's blocks only. Blocks between
    may belong to nobody.
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
    sequences += [([], 0)] * random.choice((0, 0, 1, 2))
    random.shuffle(sequences)
    numbers = random.sample(range(2 * fresh), fresh) if random.random() < 0.5 else list(range(fresh))
    tables = [[numbers[block] for block in table] for table, _ in sequences]
    return tables, [length for _, length in sequences], block_size


EXERCISE = Exercise(
    name="copies",
    task="the blocks that must be copied before every sequence writes one token",
    solution=copies_solution,
    cases=[
        ([[0, 1], [0, 1], [0, 1]], [5, 5, 5], 4),
        ([[0, 1], [0, 1]], [8, 8], 4),
        ([[0, 1], [0, 2]], [6, 6], 4),
        ([[0, 1], [0, 1]], [8, 6], 4),
        ([[0, 1], [0, 2]], [8, 6], 4),
        ([[0, 1], [0, 1]], [6, 6], 4),
        ([[0, 1], [0, 1]], [6, 6], 3),
        ([[0], [0]], [1000, 1000], 1024),
        ([list(range(250)), list(range(250))], [999, 999], 4),
        ([[5000], [5000]], [1, 1], 4),
        ([[0, 2], [1, 2]], [5, 5], 4),
        ([[0, 1, 2], [0, 1]], [9, 6], 4),
        ([[3], [3], [7]], [2, 2, 1], 4),
        ([[0, 1], [0, 1], [3, 4]], [6, 6, 6], 4),
        ([], [], 4),
        ([[]], [0], 4),
        ([[0, 1], [2, 1], [0]], [5, 5, 2], 4),
        ([[0, 1], [], [0, 1]], [6, 0, 6], 4),
        ([[], [0], [0]], [0, 1, 1], 4),
        ([[], [0, 1], [0, 1]], [0, 8, 6], 4),
        ([[0], [], [0], [], [0]], [1, 0, 1, 0, 1], 4),
        ([[int("300")], [int("300")]], [1, 1], 4),  # equal, but two objects
        ([[0] for _ in range(1200)], [1] * 1200, 4),  # no call per sequence fits on Python's stack
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
        Mistake(
            _stops_at_an_empty_table,
            "you stop at an empty table: whoever has none writes into a new block, and the next sequence is still to "
            "come",
        ),
        Mistake(
            _empty_tables_dropped,
            "you drop the empty tables, but not their lengths: those that follow then belong to other tables",
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
