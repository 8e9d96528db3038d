"""``stop``: a text ends before the stop string that is completed first."""

from collections.abc import Callable
from random import Random

from folovllm.course.exercises.exercise import Exercise, Mistake
from folovllm.engine.detokenizer import find_stop


def stop_solution(text: str, stop: list[str]) -> str:
    """Return the text before the stop string that is completed first; all of it where there is none."""
    found = find_stop(text, stop)
    return text if found is None else text[: found[0]]


def _make_stop_case(rng: Random) -> tuple[str, list[str]]:
    """Return a text, and stop strings of which some never occur and two are often completed by the same character."""
    letters = rng.choice(["ab.", "ab\n", "aAb", " ab", "是的。", "aé🏮"])
    text = "".join(rng.choice(letters) for _ in range(rng.choice([0, 3, 6, 12, 150])))
    end = rng.randint(0, len(text))
    shortest = 25 if len(text) == 150 else 1  # short ones would all be found at once in a long text
    together = [text[max(0, end - length) : end] for length in rng.sample(range(shortest, shortest + 4), 2)]
    stop = [each for each in dict.fromkeys(together) if each]
    if shortest == 1:
        stop += ["".join(rng.choices(letters, k=rng.choice([1, 2, 3]))) for _ in range(rng.choice([0, 1, 2]))]
    stop += [f"{letters[0]}{number}" for number in range(rng.choice([0, 1, 6]))]
    rng.shuffle(stop)
    return text, stop


def _counted_in_bytes(text: str, stop: list[str]) -> str:
    raw = text.encode()
    found = [(raw.index(each.encode()) + len(each.encode()), i) for i, each in enumerate(stop) if each in text]
    return text[: min(found)[0] - len(stop[min(found)[1]].encode())] if found else text


def _first_in_the_list(text: str, stop: list[str]) -> str:
    return next((text[: text.index(each)] for each in stop if each in text), text)


def _earliest_beginning(text: str, stop: list[str]) -> str:
    return text[: min((text.index(each) for each in stop if each in text), default=len(text))]


def _kept_in_the_text(text: str, stop: list[str]) -> str:
    found = find_stop(text, stop)
    return text if found is None else text[: found[0] + len(found[1])]


def _any_case(text: str, stop: list[str]) -> str:
    return text[: len(stop_solution(text.lower(), [each.lower() for each in stop]))]


def _stripped(text: str, stop: list[str]) -> str:
    return stop_solution(text, stop).rstrip()


def _only_at_the_end(text: str, stop: list[str]) -> str:
    return next((text.removesuffix(each) for each in stop if text.endswith(each)), text)


def _cut_by(text: str, stop: list[str], rank: Callable[[int, str], object], find: Callable[..., int] = str.find) -> str:
    """Cut before the stop string that comes first in an order. rank: of where it begins, and of itself."""
    found = [(find(text, each), each) for each in stop if each in text]
    return text[: min(found, key=lambda pair: rank(*pair))[0]] if found else text  # type: ignore[arg-type, return-value]


def _last_occurrence(text: str, stop: list[str]) -> str:
    return _cut_by(text, stop, lambda start, each: start + len(each), str.rfind)


def _tie_by_the_end_of_the_list(text: str, stop: list[str]) -> str:
    return stop_solution(text, stop[::-1])


def _tie_by_alphabet(text: str, stop: list[str]) -> str:
    return _cut_by(text, stop, lambda start, each: (start + len(each), each))


def _longer_of_two(text: str, stop: list[str]) -> str:
    return _cut_by(text, stop, lambda start, each: (start + len(each), start))


def _shorter_of_two(text: str, stop: list[str]) -> str:
    return _cut_by(text, stop, lambda start, each: (start + len(each), len(each)))


EXERCISE = Exercise(
    name="stop",
    task="cut a text at the stop string that is completed first",
    solution=stop_solution,
    cases=[
        ("one, two, three", ["two"]),
        ("one, two, three", ["three", "two"]),
        ("one, two, three", ["three"]),
        ("Nothing to see.", ["###"]),
        ("a\n\nHuman: b", ["Human:"]),
        ("THE END the end", ["the"]),
        ("an abcd", ["abcd", "bc"]),
        ("two, two", ["two"]),
        ("a STOP", ["STOP", "TOP"]),
        ("a STOP", ["TOP", "STOP"]),
        ("巴黎。是的", ["是"]),
        ("two " * 3000 + "three", ["three"]),
        ("one\n", ["two"]),
        (" one\r\ntwo ", ["\n"]),
        *((f"3{sign}4=7", [sign]) for sign in "+*()[]{}?|$^\\."),
        ("one" + "-" * 300 + "two", ["-" * 300]),
        ("one, two, three", [*(f"#{i}" for i in range(30)), "two"]),
        ("cafe\u0301 STOP", ["\u00e9"]),  # an accent of its own is another character
        ("one<|im_end|>", []),
        ("xbc", ["ab", "c"]),
        ("xbc", ["a", "bc"]),
    ],
    generate=_make_stop_case,
    mistakes=[
        Mistake(
            _first_in_the_list,
            "you take the first of the list that occurs; what counts is which one the growing text completes first",
        ),
        Mistake(
            _earliest_beginning,
            "you take the one that begins first; of 'abcd' and 'bc' in 'an abcd' the text completes 'bc' first, "
            "and generation ends there",
        ),
        Mistake(_any_case, "you find a stop string in capitals too; 'THE' is not 'the': the letters must be the same"),
        Mistake(_stripped, "you take white space off the end too; the text before the stop string stays as it is"),
        Mistake(_kept_in_the_text, "you keep the stop string; by default the text ends where it begins"),
        Mistake(
            _only_at_the_end,
            "you look at the end of the text only; one token may bring the stop string and more after it",
        ),
        Mistake(
            _last_occurrence,
            "you take the last occurrence of a stop string; the text ended at its first, and never saw the others",
        ),
        Mistake(
            _tie_by_the_end_of_the_list,
            "of two that are completed together you take the last of the list; the first of the list wins",
        ),
        Mistake(
            _tie_by_alphabet,
            "of two that are completed together you take the first in the alphabet; the first of the list wins",
        ),
        Mistake(
            _counted_in_bytes,
            "you count bytes, but a str is cut by characters: 是 is one character of three bytes",
        ),
        Mistake(_longer_of_two, "of two that are completed together you take the longer; the first of the list wins"),
        Mistake(_shorter_of_two, "of two that are completed together you take the shorter; the first of the list wins"),
    ],
    hints=(
        "The text grows from left to right. Which stop string is whole first?",
        "For each that occurs: `text.index(s) + len(s)` is where it is complete. The smallest wins.",
    ),
    code=(
        "found = [(text.index(s) + len(s), i) for i, s in enumerate(stop) if s in text]\n"
        "if not found:\n"
        "    return text\n"
        "end, i = min(found)\n"
        "return text[: end - len(stop[i])]"
    ),
)
