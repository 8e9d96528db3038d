"""``share``: who gets how many tokens of a step."""

import random
from collections.abc import Callable

from folovllm.config import SchedulerConfig
from folovllm.course.exercises.exercise import Exercise, Mistake
from folovllm.engine.block_manager import BlockManager
from folovllm.engine.scheduler import Scheduler
from folovllm.request import Request, SequenceStatus
from folovllm.sampling_params import SamplingParams


def share_solution(running: list[int], waiting: list[int], budget: int, seats: int) -> list[int]:
    """Return how many tokens each running and then each waiting request gets: the engine's scheduler decides."""
    manager = BlockManager(16, 10_000, enable_prefix_caching=False)
    scheduler = Scheduler(SchedulerConfig(max_num_batched_tokens=budget, max_num_seqs=seats), manager)
    requests = [Request(str(i), None, [0] * (16 + need), SamplingParams()) for i, need in enumerate(running)]
    for request in requests:
        [seq] = request.sequences
        seq.transition_to(SequenceStatus.RUNNING)
        manager.append_slots(seq, 16)
        seq.num_computed_tokens = 16
        scheduler.running.append(request)
    for length in waiting:
        requests.append(Request(str(len(requests)), None, [0] * length, SamplingParams()))
        scheduler.add_request(requests[-1])
    given = {item.request.request_id: len(item.token_ids) for item in scheduler.schedule().scheduled}
    return [given.get(request.request_id, 0) for request in requests]


def _random_step(rng: random.Random) -> tuple[list[int], list[int], int, int]:
    seats = rng.randint(1, 6)
    running = [rng.choice((1, 1, 1, rng.randint(2, 30))) for _ in range(rng.randint(0, seats))]
    waiting = [rng.choice((1, rng.randint(1, 40), 7, 7)) for _ in range(rng.randint(0, 5))]
    budget = rng.choice((seats, sum(running) + rng.randint(0, 40), sum(running + waiting), rng.randint(1, 90)))
    return running, waiting, max(seats, budget), seats


def _share_by(
    rule: Callable[[int, int], int],
) -> Callable[[list[int], list[int], int, int], list[int]]:
    """Return an answer that gives every request what a rule makes of its need and of the tokens that are left."""

    def answer(running: list[int], waiting: list[int], budget: int, seats: int) -> list[int]:
        given: list[int] = []
        for need in running + waiting:
            given.append(rule(need, budget - sum(given)) if len(given) < seats else 0)
        return given

    return answer


def _without_subtracting(running: list[int], waiting: list[int], budget: int, seats: int) -> list[int]:
    return [min(need, budget) if i < seats else 0 for i, need in enumerate(running + waiting)]


def _without_seats(running: list[int], waiting: list[int], budget: int, seats: int) -> list[int]:
    return _share_by(min)(running, waiting, budget, len(running + waiting))


def _one_seat_too_many(running: list[int], waiting: list[int], budget: int, seats: int) -> list[int]:
    return _share_by(min)(running, waiting, budget, seats + 1)


def _one_seat_too_few(running: list[int], waiting: list[int], budget: int, seats: int) -> list[int]:
    return _share_by(min)(running, waiting, budget, seats - 1)


def _seats_for_the_waiting(running: list[int], waiting: list[int], budget: int, seats: int) -> list[int]:
    return _share_by(min)(running, waiting, budget, seats + len(running))


def _one_each_for_the_running(running: list[int], waiting: list[int], budget: int, seats: int) -> list[int]:
    return _share_by(min)([1] * len(running), waiting, budget, seats)


def _waiting_first(running: list[int], waiting: list[int], budget: int, seats: int) -> list[int]:
    admitted = waiting[: max(0, seats - len(running))]
    given = _share_by(min)(admitted, running, budget, seats)
    return given[len(admitted) :] + given[: len(admitted)] + [0] * (len(waiting) - len(admitted))


def _waiting_before_running(running: list[int], waiting: list[int], budget: int, seats: int) -> list[int]:
    given = _share_by(min)(waiting, running, budget, seats)
    return given[len(waiting) :] + given[: len(waiting)]


def _waiting_before_running_in_the_list(running: list[int], waiting: list[int], budget: int, seats: int) -> list[int]:
    return _share_by(min)(waiting, running, budget, seats)


def _newcomers_uncut(running: list[int], waiting: list[int], budget: int, seats: int) -> list[int]:
    given: list[int] = []
    for i, need in enumerate(running + waiting):
        left = budget - sum(given)
        fits = i < len(running) or need <= left
        given.append(min(need, left) if i < seats and fits else 0)
    return given


def _shortest_first(running: list[int], waiting: list[int], budget: int, seats: int) -> list[int]:
    needs = (running + waiting)[:seats]
    given = [0] * len(running + waiting)
    for i in sorted(range(len(needs)), key=lambda i: needs[i]):
        given[i] = min(needs[i], budget)
        budget -= given[i]
    return given


def _one_newcomer(running: list[int], waiting: list[int], budget: int, seats: int) -> list[int]:
    return _share_by(min)(running, waiting[:1], budget, seats) + [0] * len(waiting[1:])


def _equal_shares(running: list[int], waiting: list[int], budget: int, seats: int) -> list[int]:
    needs = (running + waiting)[:seats]
    each = budget // max(1, len(needs))
    return [min(need, each) for need in needs] + [0] * (len(running + waiting) - len(needs))


EXERCISE = Exercise(
    name="share",
    task="tokens of each request in one step: first those that run, then those that wait, with chunked prefill",
    solution=share_solution,
    cases=[
        ([], [5, 7], 16, 4),
        ([], [5, 7], 8, 4),
        ([], [5, 7], 16, 1),
        ([1, 1], [5], 16, 4),
        ([], [20, 3], 16, 4),
        ([1, 1, 1], [9, 9], 16, 4),
        ([1, 12, 1], [9], 8, 4),
        ([1, 1], [10, 10, 2], 14, 8),
        ([1, 3], [], 9, 4),
        ([3, 1], [], 9, 4),
        ([1] * 100, [1000] * 20, 8192, 103),
        ([1] * 100, [1000] * 20, 8192, 256),
        ([], [40_000], 50_000, 1),
        ([], [1] * 1200, 4096, 1100),
    ],
    generate=_random_step,
    mistakes=[
        Mistake(
            _without_subtracting,
            "you compare each request with the whole budget; take off what the ones before it got, or the step "
            "has more tokens than the budget allows",
        ),
        Mistake(
            _seats_for_the_waiting,
            "you give all seats to the waiting requests; the running ones sit on some of them",
        ),
        Mistake(_without_seats, "you do not look at `seats`; whoever comes after the last seat gets 0"),
        Mistake(_one_seat_too_many, "you let in one request more than there are seats"),
        Mistake(_one_seat_too_few, "you leave the last seat empty: with `seats` seats that many requests may run"),
        Mistake(
            _share_by(lambda need, left: need if need <= left else 0),
            "you pass over a request that does not fit; with chunked prefill it gets what is left of the budget, "
            "and the rest in later steps",
        ),
        Mistake(
            _newcomers_uncut,
            "you pass over a waiting prompt that does not fit; with chunked prefill it gets what is left of the "
            "budget, and the rest in later steps",
        ),
        Mistake(_share_by(lambda need, left: need), "your step has more tokens than the budget allows"),
        Mistake(
            _one_each_for_the_running,
            "you give every running request one token; one whose prompt is half read needs more than one",
        ),
        Mistake(_waiting_first, "you serve the waiting ones first; then texts that grow stand still"),
        Mistake(
            _waiting_before_running,
            "you serve the waiting ones first, and they take the seats of those that run; `running` comes first",
        ),
        Mistake(
            _waiting_before_running_in_the_list,
            "you go through `waiting + running`; those that run come first, in the step and in the list",
        ),
        Mistake(_shortest_first, "you serve the shortest first; the order of arrival decides"),
        Mistake(
            _one_newcomer,
            "you let only one waiting request in; the step may begin several prompts, while budget and seats last",
        ),
        Mistake(_equal_shares, "you divide equally; first come, first served: the first may take all it needs"),
    ],
    hints=(
        "Go through them in their order, with the budget and the seats that are left.",
        "Each gets the smaller of what it needs and what is left; who comes after the last seat gets 0.",
    ),
    code=(
        "given = []\n"
        "for need in running + waiting:\n"
        "    if len(given) < seats:\n"
        "        given.append(min(need, budget - sum(given)))\n"
        "    else:\n"
        "        given.append(0)\n"
        "return given"
    ),
)
