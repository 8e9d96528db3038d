"""``fork``: a sequence and its fork, which share neither tokens nor seed."""

from random import Random

from folovllm.course.exercises.exercise import Exercise, Mistake
from folovllm.request import Sequence, SequenceData
from folovllm.sampling_params import SamplingParams

Fork = tuple[list[int], list[int], int]


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
    "the original got the new token: the parent's own list has changed. The parent stays as it was; the token "
    "belongs to a copy"
)

EXERCISE = Exercise(
    name="fork",
    task="a fork's tokens and seed, and a parent that stays as it was",
    solution=fork_solution,
    cases=[
        *(([5, 6], 10, 0, 7), ([5, 6], 10, 2, 7), ([], 0, 0, 1), ([3, 3, 3], 1, 1, 3), ([6], 10, 0, 7)),
        (list(range(2000)), 10, 100, 7),
        ([5], 2**53, 0, 151_643),
    ],
    generate=_some_fork,
    mistakes=[
        Mistake(_grow_the_original, _GREW),
        Mistake(_grow_the_original_swapped, _GREW + " (and the results are: parent's tokens, fork's tokens, seed)"),
        Mistake(_grow_the_original_shared_seed, _GREW + " (and the fork needs a seed of its own)"),
        Mistake(
            _shared_list,
            "the parent got the token too, and it stays as it was: copy its list first (`child = tokens` copies "
            "nothing)",
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
