"""``seats_needed``: the fewest seats with which nobody waits too long for a first token."""

from random import Random

from folovllm.course.exercises.exercise import Exercise, Mistake
from folovllm.course.exercises.outcome import Case


def seats_needed_solution(num_readers: int, max_tokens: int, max_steps: int) -> int:
    """Return the smallest number of seats with which everybody has a first token after so many steps."""
    groups = (max_steps - 1) // max_tokens + 1
    return -(-num_readers // groups)


def _random_seats(random: Random) -> Case:
    max_tokens = random.choice((1, 2, 12, random.randint(1, 50)))
    edge = random.randint(0, 5) * max_tokens + random.choice((0, 1, 2))
    num_readers = random.choice((random.randint(1, 60), random.randint(1, 60), random.randint(61, 3000)))
    return num_readers, max_tokens, max(1, random.choice((edge, random.randint(1, 200))))


def _whole_answers(num_readers: int, max_tokens: int, max_steps: int) -> int:
    return -(-num_readers // max(1, max_steps // max_tokens))


def _whole_answers_or_none(num_readers: int, max_tokens: int, max_steps: int) -> int:
    return -(-num_readers // (max_steps // max_tokens))


def _one_step_late(num_readers: int, max_tokens: int, max_steps: int) -> int:
    return -(-num_readers // (max_steps // max_tokens + 1))


def _seats_rounded_down(num_readers: int, max_tokens: int, max_steps: int) -> int:
    return num_readers // ((max_steps - 1) // max_tokens + 1)


def _seats_rounded_down_but_one(num_readers: int, max_tokens: int, max_steps: int) -> int:
    return max(1, _seats_rounded_down(num_readers, max_tokens, max_steps))


def _a_seat_for_everybody(num_readers: int, max_tokens: int, max_steps: int) -> int:
    return num_readers


def _one_seat_too_many(num_readers: int, max_tokens: int, max_steps: int) -> int:
    return num_readers // ((max_steps - 1) // max_tokens + 1) + 1


def _groups(num_readers: int, max_tokens: int, max_steps: int) -> int:
    return (max_steps - 1) // max_tokens + 1


def _turns_a_step_too_short(num_readers: int, max_tokens: int, max_steps: int) -> int:
    return -(-num_readers // ((max_steps - 1) // (max_tokens - 1) + 1))


EXERCISE = Exercise(
    name="seats_needed",
    task="the fewest seats with which everybody has a first token after so many steps",
    solution=seats_needed_solution,
    cases=[
        *((8, 12, 12), (8, 12, 13), (8, 12, 30), (8, 12, 1), (1, 5, 100), (7, 1, 3), (9, 4, 12)),
        (1001, 1, 1000),
        (2000, 12, 12),
        (100_001, 1, 100_000),
        (8, 5, 13),
        (300, 2000, 2000),
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
        Mistake(
            _seats_rounded_down,
            "you round the seats down, even to 0: some readers are left over and come too late",
        ),
        Mistake(_seats_rounded_down_but_one, "you round the seats down: some readers are left over and come too late"),
        Mistake(
            _a_seat_for_everybody,
            "a seat for everybody is always fast enough, but seldom the fewest: some may wait for a group before them",
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
)
