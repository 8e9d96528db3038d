"""``flat_batch``: the new tokens of several texts in one row."""

from random import Random

import torch
from torch import Tensor

from folovllm.course.exercises.exercise import Exercise, Mistake
from folovllm.models.flat_batch import FlatBatch, TokenRun
from folovllm.models.kv_cache import KVCache

FlatRow = tuple[list[int], list[int], list[int]]


def flat_batch_solution(sequences: list[list[int]], num_computed: list[int]) -> FlatRow:
    """Return what the engine's flat batch holds: token ids, positions, and the rows whose logits are wanted."""
    runs = [
        TokenRun(done, len(tokens) - done, [0] * len(tokens))
        for tokens, done in zip(sequences, num_computed, strict=True)
    ]
    token_ids = [token for tokens, run in zip(sequences, runs, strict=True) for token in tokens[run.start :]]
    cache = KVCache(1, 1, 16, 1, 1, torch.float32, torch.device("cpu"))
    batch = FlatBatch(token_ids, [], runs, cache)
    return token_ids, batch.positions.tolist(), (batch.first_tokens + batch.counts - 1).tolist()


def _one_text(sequences: list[list[int]], num_computed: list[int]) -> FlatRow:
    token_ids, _, rows = flat_batch_solution(sequences, num_computed)
    return token_ids, list(range(len(token_ids))), rows


def _every_token_again(sequences: list[list[int]], num_computed: list[int]) -> FlatRow:
    return flat_batch_solution(sequences, [0] * len(sequences))


def _positions_from_zero(sequences: list[list[int]], num_computed: list[int]) -> FlatRow:
    fresh = [tokens[done:] for tokens, done in zip(sequences, num_computed, strict=True)]
    return flat_batch_solution(fresh, [0] * len(fresh))


def _positions_from_one(sequences: list[list[int]], num_computed: list[int]) -> FlatRow:
    token_ids, positions, rows = flat_batch_solution(sequences, num_computed)
    return token_ids, [position + 1 for position in positions], rows


def _rows_within_each_text(sequences: list[list[int]], num_computed: list[int]) -> FlatRow:
    token_ids, positions, _ = flat_batch_solution(sequences, num_computed)
    rows = [len(tokens) - done - 1 for tokens, done in zip(sequences, num_computed, strict=True)]
    return token_ids, positions, rows


def _first_rows(sequences: list[list[int]], num_computed: list[int]) -> FlatRow:
    token_ids, positions, last = flat_batch_solution(sequences, num_computed)
    return token_ids, positions, [0, *(row + 1 for row in last[:-1])]


def _rows_of_the_next(sequences: list[list[int]], num_computed: list[int]) -> FlatRow:
    token_ids, positions, rows = flat_batch_solution(sequences, num_computed)
    return token_ids, positions, [row + 1 for row in rows]


def _rows_from_the_texts_lengths(sequences: list[list[int]], num_computed: list[int]) -> FlatRow:
    token_ids, positions, _ = flat_batch_solution(sequences, num_computed)
    return token_ids, positions, [len(tokens) - 1 for tokens in sequences]


def _looked_up_by_content(sequences: list[list[int]], num_computed: list[int]) -> FlatRow:
    return flat_batch_solution(sequences, [num_computed[sequences.index(tokens)] for tokens in sequences])


def _as_tensors(sequences: list[list[int]], num_computed: list[int]) -> tuple[Tensor, ...]:
    return tuple(map(torch.tensor, flat_batch_solution(sequences, num_computed)))


def _random_sequences(random: Random) -> tuple[list[list[int]], list[int]]:
    """Return sequences of which some are new, some in the midst of their prompt, some about to get their next token.

    Two may be equal, as when two readers ask the same.
    """
    sequences = [[random.randrange(99) for _ in range(random.randint(1, 9))] for _ in range(random.randint(1, 5))]
    sequences += random.choice([[], [list(random.choice(sequences))]])
    return sequences, [random.choice([0, len(each) - 1, random.randrange(len(each))]) for each in sequences]


EXERCISE = Exercise(
    name="flat_batch",
    task="the new tokens of several texts in one row",
    solution=flat_batch_solution,
    cases=[
        ([[7, 8, 9]], [0]),
        ([[7, 8, 9], [5, 6]], [0, 0]),
        ([[7, 8, 9], [5, 6]], [2, 1]),
        ([[7, 8, 9, 4], [5, 6], [3]], [3, 1, 0]),
        ([[7, 8, 9], [7, 8, 9]], [0, 2]),
        ([[5, 99, 256, 2049, 49151], [300, 5]], [0, 1]),  # ids of a real vocabulary
        ([list(range(3000)), list(range(2500))], [2000, 0]),
        ([[7, 8] for _ in range(1200)], [1] * 1200),  # no call per text fits on Python's stack
    ],
    generate=_random_sequences,
    mistakes=[
        Mistake(
            _one_text,
            "you count positions over the whole row, as if all were one text; each text has its own, and its "
            "first new token has position num_computed",
        ),
        Mistake(
            _every_token_again,
            "you put every token into the row; those that are computed already lie in the KV cache",
        ),
        Mistake(
            _positions_from_zero,
            "you begin each text at position 0; the tokens in the KV cache stand before its new ones, so begin at "
            "num_computed",
        ),
        Mistake(
            _positions_from_one,
            "you count positions from 1; a text's first token has position 0, so what is new begins at num_computed",
        ),
        Mistake(
            _rows_within_each_text,
            "your third list counts within each text's new tokens; count from the beginning of the whole row",
        ),
        Mistake(
            _rows_from_the_texts_lengths,
            "your third list holds the texts' last positions; count in the row: only what is new, and the texts in "
            "front too",
        ),
        Mistake(
            _looked_up_by_content,
            "almost: you look for each text among all of them, and find the first of two equal ones; go through "
            "both lists together, with zip",
        ),
        Mistake(_as_tensors, "you return tensors; three lists of whole numbers are asked for"),
        Mistake(_first_rows, "you give each text's first new token; the next one is asked for at its last"),
        Mistake(_rows_of_the_next, "your third list is one too far: it is the row's length so far, minus 1"),
    ],
    hints=(
        "Go from text to text and put what is new of it at the end of the row.",
        "Positions run from num_computed to the text's length. After each text, its last token is at the row's "
        "length so far, minus 1.",
    ),
    code=(
        "token_ids, positions, last_rows = [], [], []\n"
        "for tokens, done in zip(sequences, num_computed, strict=True):\n"
        "    token_ids += tokens[done:]\n"
        "    positions += range(done, len(tokens))\n"
        "    last_rows.append(len(token_ids) - 1)\n"
        "return token_ids, positions, last_rows"
    ),
)
