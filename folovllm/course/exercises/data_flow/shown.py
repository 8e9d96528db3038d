"""``shown``: how much of an unfinished text is safe."""

import random
from collections.abc import Callable

from folovllm.course.exercises.exercise import Exercise, Mistake
from folovllm.course.exercises.outcome import Answer
from folovllm.engine.detokenizer import find_stop


def shown_solution(data: bytes, stop: list[str]) -> str:
    """Return what may be shown: whole characters, without the longest ending that begins a stop string."""
    text = data.decode(errors="ignore")
    for start in range(len(text)):
        if any(each.startswith(text[start:]) for each in stop):
            return text[:start]
    return text


def _random_stream(rng: random.Random) -> tuple[bytes, list[str]]:
    alphabet = rng.choice(("ab", "aab", "aA", "水a🏮", "灯笼火", "END.", "a\ufffd", "a \n", " EN"))
    stop = ["".join(rng.choices(alphabet, k=rng.choice((1, 2, 3, 4, 20)))) for _ in range(rng.choice((0, 1, 1, 2, 3)))]
    text = "".join(rng.choices(alphabet, k=rng.choice((0, 1, 3, 8)))) + rng.choice(["", *(each[:-1] for each in stop)])
    found = find_stop(text, stop)
    while found is not None:
        text = text[: found[0] + len(found[1]) - 1]
        found = find_stop(text, stop)
    half = rng.choice((b"", b"", "水".encode()[:2], "é".encode()[:1], "🏮".encode()[: rng.randint(1, 3)]))
    return text.encode() + half, stop


def _always_the_longest(data: bytes, stop: list[str]) -> str:
    text = data.decode(errors="ignore")
    held = max(map(len, stop), default=1) - 1
    return text[: max(0, len(text) - held)]


def _engines_rule(without_stop: Callable[[str], str]) -> Answer:
    """Return an answer that cuts by a negative index, which keeps nothing where nothing is to be cut."""

    def answer(data: bytes, stop: list[str]) -> str:
        text = data.decode(errors="ignore")
        return text[: -(max(map(len, stop)) - 1)] if stop else without_stop(text)

    return answer


def _max_of_nothing(text: str) -> str:
    raise ValueError("max() of no stop strings")


def _cut_by_minus_0(data: bytes, stop: list[str]) -> str:
    text, safe = data.decode(errors="ignore"), shown_solution(data, stop)
    return text[: -(len(text) - len(safe))]


def _first_stop_that_fits(data: bytes, stop: list[str]) -> str:
    text = data.decode(errors="ignore")
    return next((safe for each in stop if (safe := shown_solution(data, [each])) != text), text)


def _one_stop_after_another(data: bytes, stop: list[str]) -> str:
    text = data.decode(errors="ignore")
    for each in stop:
        text = shown_solution(text.encode(), [each])
    return text


def _with_marks(data: bytes, stop: list[str]) -> str:
    whole = shown_solution(data, stop)
    if len(whole) < len(data.decode(errors="ignore")):
        return whole
    return data.decode(errors="replace")


def _with_marks_in_the_endings(data: bytes, stop: list[str]) -> str:
    return shown_solution(data.decode(errors="replace").encode(), stop)


def _marks_only(data: bytes, stop: list[str]) -> str:
    return data.decode(errors="replace")


def _without_one_byte(data: bytes, stop: list[str]) -> str:
    try:
        return shown_solution(data.decode().encode(), stop)
    except UnicodeDecodeError:
        return _with_marks_in_the_endings(data[:-1], stop)


def _without_any_mark(data: bytes, stop: list[str]) -> str:
    return shown_solution(data.decode(errors="replace").replace("\ufffd", "").encode(), stop)


def _whatever_the_case(data: bytes, stop: list[str]) -> str:
    text = data.decode(errors="ignore")
    for start in range(len(text)):
        if any(each.lower().startswith(text[start:].lower()) for each in stop):
            return text[:start]
    return text


def _text_stripped(data: bytes, stop: list[str]) -> str:
    return shown_solution(data.decode(errors="ignore").strip().encode(), stop)


def _strictly_decoded(data: bytes, stop: list[str]) -> str:
    data.decode()
    return shown_solution(data, stop)


def _shortest_ending(data: bytes, stop: list[str]) -> str:
    text = data.decode(errors="ignore")
    for start in reversed(range(len(text))):
        if any(each.startswith(text[start:]) for each in stop):
            return text[:start]
    return text


def _first_stop_only(data: bytes, stop: list[str]) -> str:
    return shown_solution(data, stop[:1])


def _cut_at_the_first_letter(data: bytes, stop: list[str]) -> str:
    text = data.decode(errors="ignore")
    places = [text.find(each[0]) for each in stop]
    return text[: min((place for place in places if place >= 0), default=len(text))]


def _last_letter_only(data: bytes, stop: list[str]) -> str:
    text = data.decode(errors="ignore")
    return text[:-1] if text and any(each.startswith(text[-1]) for each in stop) else text


def _characters_only(data: bytes, stop: list[str]) -> str:
    return data.decode(errors="ignore")


EXERCISE = Exercise(
    name="shown",
    task="how much of an unfinished text may be shown, when stop strings and half characters are pending",
    solution=shown_solution,
    cases=[
        (b"one END", []),
        (b"one EN", ["END"]),
        (b"one N", ["END"]),
        (b"one EN", ["NO", "END"]),
        (b"EN", ["NO", "END"]),
        (b"one EN", ["END", " of"]),
        (b"one", ["."]),
        (b"one END", ["END."]),
        (b"ENENE", ["ENEND"]),
        ("灯".encode() + "🏮".encode()[:2], ["END"]),
        (b"END of", ["END.", "off"]),
        (b"one en", ["END"]),
        ("a\ufffd".encode(), []),
        (b"...THE END OF TH", ["THE END OF THIS STORY"]),
        ("cafe\u0301 E".encode(), ["END"]),  # an accent of its own stays one
        ("\ufeffone E".encode(), ["END"]),  # a mark of byte order is a character too
        (b" Paris", ["END"]),
        (b"one two ", ["END"]),
        (b"one EN ", ["END"]),
        (b"one EN\n", ["END"]),
        (b"one\n", ["\nUser:"]),
        (b"one\ntwo\n", []),
        (b"caf\xc3", []),
        ("café".encode(), ["END"]),
        *((data, ["END"]) for data in (b"Hi.", b"what?", b"a [b")),  # no patterns
        (b"a User", ["\nUser:"]),
        (b"a\r\nb\x00", []),
        ("e\u0301".encode(), ["e\u0301X"]),
        (b"one EN", [*(f"#{i}" for i in range(30)), "END"]),
        (b"one " + b"-" * 300, ["-" * 301]),
        (b"two " * 300 + b"EN", ["END"]),
    ],
    generate=_random_stream,
    mistakes=[
        Mistake(
            _always_the_longest,
            "safe, but you hold back more than you must: the engine's own rule. Hold back an ending only if a stop "
            "string begins with it",
        ),
        Mistake(
            _engines_rule(lambda text: text),
            "that is the engine's rule: safe, but you hold back more than you must. And `text[:-0]`, where nothing "
            "is held back, is empty",
        ),
        Mistake(
            _engines_rule(lambda text: ""),
            "that is the engine's rule: safe, but you hold back more than you must. And `text[:-0]` is empty, so "
            "without stop strings nothing is shown",
        ),
        Mistake(
            _engines_rule(_max_of_nothing),
            "that is the engine's rule: safe, but you hold back more than you must. And `stop` may be empty: "
            "`max()` of nothing is an error",
        ),
        Mistake(
            _cut_by_minus_0,
            "where nothing is held back, `text[:-0]` is empty; return the whole text there",
        ),
        Mistake(
            _first_stop_that_fits,
            "you stop at the first stop string that fits; another one may have begun earlier in the text",
        ),
        Mistake(
            _one_stop_after_another,
            "you cut for one stop string after another; look at the same text for each, and cut once",
        ),
        Mistake(
            _strictly_decoded,
            "your function raises UnicodeDecodeError when a character is not complete; leave its bytes out",
        ),
        Mistake(
            _without_any_mark,
            "you take out every U+FFFD; it may stand in the text itself. Leave out the bytes of half a character "
            "before they become a mark",
        ),
        Mistake(_text_stripped, "you strip the text; its blanks and line ends belong to it, and to stop strings"),
        Mistake(_whatever_the_case, "you take en for EN; a stop string must be met letter by letter"),
        Mistake(
            _without_one_byte,
            "you leave out one byte; half a character may have up to three, and the others become \ufffd",
        ),
        Mistake(
            _with_marks_in_the_endings,
            "you show half a character, as \ufffd, and must take it back when the rest comes; leave its bytes out "
            "before you look at the endings",
        ),
        Mistake(
            _marks_only,
            "you show half a character, as \ufffd, and the beginning of a stop string; both must be taken back "
            "when the rest comes",
        ),
        Mistake(_with_marks, "you show half a character, as \ufffd, and must take it back when the rest comes"),
        Mistake(
            _shortest_ending,
            "you take the shortest ending that begins a stop string; a longer one may begin it too",
        ),
        Mistake(_first_stop_only, "you look at the first stop string only; each of them may begin here"),
        Mistake(
            _cut_at_the_first_letter,
            "you cut at the first letter of a stop string, wherever it stands; only the end of the text can still "
            "grow into one",
        ),
        Mistake(_last_letter_only, "you look at the last letter only; a stop string may have begun before it"),
        Mistake(_characters_only, "you show the beginning of a stop string, and must take it back when the rest comes"),
    ],
    hints=(
        "Which endings of the text could still grow into a stop string?",
        '`data.decode(errors="ignore")` leaves half a character out. Then try the endings from the longest to the '
        "shortest: does one of the stop strings start with it?",
    ),
    code=(
        'text = data.decode(errors="ignore")\n'
        "for start in range(len(text)):\n"
        "    ending = text[start:]\n"
        "    if any(each.startswith(ending) for each in stop):\n"
        "        return text[:start]\n"
        "return text"
    ),
)
