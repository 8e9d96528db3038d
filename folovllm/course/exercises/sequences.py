"""The exercises of chapter 03, with their solutions and the mistakes that they catch."""

from itertools import pairwise
from typing import Any

from folovllm.course.exercises.exercise import Exercise, Mistake
from folovllm.engine.block_manager import BlockManager
from folovllm.request import ALLOWED_TRANSITIONS, Request, Sequence, SequenceData, SequenceStatus
from folovllm.sampling_params import SamplingParams


def fork_solution(tokens: list[int], new_token: int) -> tuple[list[int], list[int]]:
    """Fork, add a token to the fork, and return the tokens of the parent and of the fork."""
    parent = Sequence("0", "0", SequenceData([0], tokens), SamplingParams())
    child = parent.fork("1")
    child.add_token_id(new_token)
    return parent.data.output_token_ids, child.data.output_token_ids


def moves_solution(statuses: list[str]) -> bool:
    """Say whether a sequence may go through these statuses, one after the other."""
    return all(SequenceStatus(new) in ALLOWED_TRANSITIONS[SequenceStatus(old)] for old, new in pairwise(statuses))


def rank_solution(logprobs: list[list[float]], n: int) -> list[int]:
    """Return the numbers of the ``n`` best candidates, best first."""
    request = Request("0", None, [0], SamplingParams(n=n, best_of=len(logprobs)))
    for seq, values in zip(request.sequences, logprobs, strict=True):
        seq.token_logprobs = values
        seq.transition_to(SequenceStatus.RUNNING)
        seq.transition_to(SequenceStatus.FINISHED_STOPPED)
    request.ignore_leftovers()
    return [request.sequences.index(seq) for seq in request.ranked_sequences()]


def family_blocks_solution(prompt_len: int, length: int, n: int, block_size: int) -> int:
    """Return the blocks of ``n`` sequences of one prompt, each of ``length`` tokens."""
    # The engine's function is told one token more: the newest, which has no place yet.
    return BlockManager(block_size, 1).max_blocks_needed(prompt_len, length + 1, n)


def _shared_list(tokens: list[int], new_token: int) -> tuple[list[int], list[int]]:
    child = tokens
    child.append(new_token)
    return tokens, child


def _only_the_new(tokens: list[int], new_token: int) -> tuple[list[int], list[int]]:
    return tokens, [new_token]


def _parent_grows(tokens: list[int], new_token: int) -> tuple[list[int], list[int]]:
    return [*tokens, new_token], tokens


def _nested(tokens: list[int], new_token: int) -> tuple[list[int], list[Any]]:
    return tokens, [tokens, new_token]


def _ends_only(statuses: list[str]) -> bool:
    first, last = SequenceStatus(statuses[0]), SequenceStatus(statuses[-1])
    return len(statuses) == 1 or last in ALLOWED_TRANSITIONS[first]


def _notes_diagram(statuses: list[str]) -> bool:
    return all(pair == ("waiting", "swapped") or moves_solution(list(pair)) for pair in pairwise(statuses))


def _end_is_the_end(statuses: list[str]) -> bool:
    return moves_solution(statuses) and not any(SequenceStatus(each).is_finished() for each in statuses[:-1])


def _first_wrong_move_only(statuses: list[str]) -> bool:
    return any(moves_solution(list(pair)) for pair in pairwise(statuses)) or len(statuses) == 1


def _by_mean(logprobs: list[list[float]], n: int) -> list[int]:
    return sorted(range(len(logprobs)), key=lambda i: -sum(logprobs[i]) / len(logprobs[i]))[:n]


def _worst_first(logprobs: list[list[float]], n: int) -> list[int]:
    return sorted(range(len(logprobs)), key=lambda i: sum(logprobs[i]))[:n]


def _in_creation_order(logprobs: list[list[float]], n: int) -> list[int]:
    return sorted(rank_solution(logprobs, n))


def _longest(logprobs: list[list[float]], n: int) -> list[int]:
    return sorted(range(len(logprobs)), key=lambda i: -len(logprobs[i]))[:n]


def _nothing_shared(prompt_len: int, length: int, n: int, block_size: int) -> int:
    return n * -(-length // block_size)


def _partial_block_shared(prompt_len: int, length: int, n: int, block_size: int) -> int:
    shared = -(-prompt_len // block_size)
    return shared + n * (-(-length // block_size) - shared)


def _one_sequence(prompt_len: int, length: int, n: int, block_size: int) -> int:
    return -(-length // block_size)


_LOGPROBS = [
    [[-1.0, -1.0], [-0.2, -0.1, -0.3], [-0.5], [-3.0, -0.1]],
    [[-0.4, -0.4, -0.4, -0.4], [-1.0], [-0.9, -0.5]],
    [[-2.0, -0.3], [-0.1, -0.1]],
]

EXERCISES = [
    Exercise(
        name="moves",
        task="may a sequence go through these statuses?",
        solution=moves_solution,
        cases=[
            (statuses.split(),)
            for statuses in (
                "waiting running finished_stopped",
                "waiting swapped running",
                "waiting running swapped running finished_length_capped",
                "waiting running waiting running finished_aborted",
                "running finished_stopped running",
                "running finished_stopped finished_ignored",
                "running swapped finished_stopped",
                "waiting",
            )
        ],
        mistakes=[
            Mistake(
                _notes_diagram,
                "you allow waiting -> swapped, as the notes' diagram does; who waits holds no blocks, so there is "
                "nothing to swap",
            ),
            Mistake(_ends_only, "you look at the first and the last status; every move in between must be allowed"),
            Mistake(
                _end_is_the_end,
                "you let nothing follow an end; a finished sequence of best_of > n can still become finished_ignored",
            ),
            Mistake(_first_wrong_move_only, "one allowed move is not enough: all of them must be"),
        ],
        hints=(
            "Look at two neighbours at a time.",
            "`zip(statuses, statuses[1:])` gives the moves; `ALLOWED_TRANSITIONS[old]` is the set of what may follow.",
        ),
        code=(
            "moves = zip(statuses, statuses[1:], strict=False)\n"
            "return all(new in ALLOWED_TRANSITIONS[old] for old, new in moves)"
        ),
    ),
    Exercise(
        name="fork",
        task="the tokens of a parent and of its fork, which gets one more",
        solution=fork_solution,
        cases=[([5, 6], 7), ([], 1), ([3, 3, 3], 3)],
        mistakes=[
            Mistake(
                _shared_list,
                "parent and fork are the same list, so the parent got the token too: `child = tokens` gives the list "
                "a second name, it copies nothing",
            ),
            Mistake(_only_the_new, "your fork forgets what came before: it begins with its parent's tokens"),
            Mistake(_parent_grows, "the parent got the new token; the fork gets it, the parent stays as it was"),
            Mistake(_nested, "you put the parent's list into the fork as one element; its tokens belong there"),
        ],
        hints=(
            "What does `child = tokens` copy?",
            "Make a new list with the same tokens; only that one grows. A shallow copy is enough for integers.",
        ),
        code="child = list(tokens)\nchild.append(new_token)\nreturn tokens, child",
    ),
    Exercise(
        name="family_blocks",
        task="KV blocks of n sequences that continue one prompt",
        solution=family_blocks_solution,
        cases=[(20, 30, 3, 8), (16, 20, 4, 8), (5, 40, 2, 16), (64, 65, 8, 16), (7, 9, 1, 4)],
        mistakes=[
            Mistake(_nothing_shared, "you count the prompt n times; its full blocks are shared"),
            Mistake(
                _partial_block_shared,
                "you share the prompt's last block although it is not full: each sequence writes its own next token "
                "there, so each has a copy (copy on write)",
            ),
            Mistake(_one_sequence, "that is one sequence; the others have blocks of their own too"),
        ],
        hints=(
            "Which blocks hold the same tokens for all of them, for ever?",
            "The prompt's *full* blocks, `prompt_len // block_size`, count once; everything after them counts n times.",
        ),
        code=("shared = prompt_len // block_size\nown = -(-length // block_size) - shared\nreturn shared + n * own"),
    ),
    Exercise(
        name="rank",
        task="the n best of several candidates, by the log-probabilities of their tokens",
        solution=rank_solution,
        cases=[(values, n) for values in _LOGPROBS for n in (1, 2)][:-1],
        mistakes=[
            Mistake(
                _by_mean,
                "you take the mean; best_of ranks by the sum, which is the log-probability of the whole text (and "
                "therefore favours short ones)",
            ),
            Mistake(_worst_first, "you sort the wrong way round: a log-probability is negative, near 0 is likely"),
            Mistake(_in_creation_order, "the right ones, but the best must come first"),
            Mistake(_longest, "you rank by length; how likely the text is decides"),
        ],
        hints=(
            "How likely is a whole text, if you know it of each token?",
            "Probabilities multiply, so log-probabilities add: sort the numbers 0, 1, ... by the sum, largest first.",
        ),
        code="return sorted(range(len(logprobs)), key=lambda i: -sum(logprobs[i]))[:n]",
    ),
]
