"""``preempt``: who gives way when blocks are short."""

from collections.abc import Callable
from random import Random

from folovllm.config import SchedulerConfig
from folovllm.course.exercises.exercise import Exercise, Mistake
from folovllm.engine.block_manager import BlockManager
from folovllm.engine.scheduler import Scheduler
from folovllm.request import Request, SequenceStatus
from folovllm.sampling_params import SamplingParams
from folovllm.step import SchedulerOutput

Running = list[tuple[str, int, int, int]]
"""Requests, the oldest first: name, living sequences, blocks that it holds, new blocks that its next tokens need."""
Moved = list[tuple[str, str]]
_READERS = ["Anna", "Bo", "Chen", "Mei", "Dai", "Eve", "Fei"]


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
    """Return an evening, often so full that families give way: they just fill the host, or lack a block there.

    The oldest may be a family that needs more than all others hold, so that nobody is left.
    """
    full = random.choice((False, True))
    running = []
    for name in random.sample(_READERS, k=random.randint(4, 7) if full else random.randint(0, 5)):
        live = random.choice((1, 2, 3, 4, 5) if full else (1, 1, 2, 3, 4))
        held = live + random.choice((0, 0, 1, 2) if full else (0, 0, 1, 6))
        running.append((name, live, held, live if full else random.choice((0, 1, live, live))))
    if random.random() < 0.2:
        running[1:] = [(name, 1, 1, 1) for name, *_ in running[1:3]]
        running[:1] = [(name, 5, held + 5, 5) for name, _, held, _ in running[:1]]
    families = [held for _, live, held, _ in reversed(running) if live > 1]
    room = sum(families[: random.randint(0, 3)])
    free = random.choice((0, 0, 1) if full else (0, 0, 1, 2, 8))
    return running, free, random.choice((room, room, max(room - 1, 0), 100))


_ENOUGH = "somebody gives way only if more is needed than is free; as many free blocks as needed are enough"

EXERCISE = Exercise(
    name="preempt",
    task="who gives way when blocks are short, and how",
    solution=preempt_solution,
    cases=[
        ([("Anna", 1, 3, 1), ("Chen", 1, 2, 1)], 1, 10),
        ([("Anna", 1, 3, 1), ("Chen", 1, 2, 0)], 1, 10),
        ([("Anna", 1, 4, 0), ("Bo", 3, 7, 3)], 2, 10),
        ([("Anna", 1, 4, 0), ("Bo", 3, 7, 3)], 2, 6),
        ([("Anna", 1, 4, 0), ("Bo", 3, 7, 3)], 3, 10),
        ([("Anna", 2, 4, 2), ("Bo", 3, 4, 3), ("Chen", 2, 3, 2)], 0, 5),
        ([("Anna", 3, 7, 3), ("Bo", 3, 9, 3), ("Chen", 3, 4, 0)], 0, 13),
        ([("Anna", 4, 9, 4), ("Bo", 4, 9, 1), ("Chen", 4, 4, 4), ("Dai", 3, 8, 3)], 0, 9),
        ([("Anna", 3, 8, 0), ("Bo", 4, 9, 3), ("Chen", 4, 11, 3), ("Dai", 3, 5, 3)], 0, 16),
        ([("Anna", 1, 4, 1), ("Chen", 1, 2, 1)], 0, 10),
        ([("Anna", 1, 4, 1)], 0, 10),
        ([("Bo", 3, 7, 3)], 2, 10),
        ([("Anna", 1, 300, 1), ("Bo", 60, 2000, 60)], 60, 2000),
        ([("Anna", 1, 300, 1), ("Bo", 60, 2000, 60)], 60, 1999),
        ([("Anna", 1, 300, 1), ("Bo", 60, 2000, 60)], 61, 1999),
        ([("Anna", 30, 30, 30), *((f"reader {i}", 2, 2, 2) for i in range(20))], 0, 100),
        ([("Bo", 3, 7, 3)], 2, 6),
        ([("Bo", 5, 7, 5), ("Chen", 1, 2, 1)], 0, 10),
        ([("Bo", 5, 7, 5), ("Dai", 2, 2, 2)], 1, 8),
        ([], 4, 4),
        ([("Anna", 2, 2, 2), ("Bo", 2, 2, 2), ("Chen", 2, 3, 2)], 0, 2),
        ([], 0, 0),
        ([(f"reader {i}", 1, 1, 1) for i in range(1200)], 0, 10),  # no call per request fits on Python's stack
    ],
    generate=_some_evening,
    mistakes=[
        Mistake(_oldest_first, "the oldest gives way in your rule; the latest must, or the first may never be served"),
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
            "the oldest never gives way in your rule; it must too, if even alone it lacks blocks",
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
