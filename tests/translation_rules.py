"""What a translated message must keep of the English one, and the words that it may use: ``translations/GLOSSARY.md``.

Each rule yields what is wrong, in words; the tests add the message.
"""

import html
import re
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

Rule = Callable[[str, str], Iterator[str]]
GLOSSARY = Path("translations/GLOSSARY.md")
_MARKDOWN = MarkdownIt("commonmark")
_GLOSS = re.compile(r"(?<=」),? \*\"[^*]*\"\*")
"""The English translation of a Chinese quotation, which a Chinese text leaves out."""
_PLACEHOLDER = re.compile(r"\{[^{}]*\}")
_QUOTATION = re.compile("「[^」]*」")
_COMMAND = re.compile(r"(?:python -m )?folovllm(?: [a-z]+)+|--[a-z-]+|%\(\w+\)s")
"""What one types, and argparse's placeholders."""
_HTML_CODE = re.compile(r"<code>(.*?)</code>", re.DOTALL)
_NUMBER = re.compile(r"(?<![A-Za-z_\d])(\d+(?:,\d{3})*(?:\.\d+)?)(?: ?(thousand|million|billion|万|亿))?")
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "万": 10**4, "亿": 10**8, "": 1}
_NUMBER_WORDS = re.findall(
    "[a-z]+",
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty",
)
_MORE_NUMBER_WORDS = {
    **{"no": 0, "none": 0, "a": 1, "an": 1, "once": 1, "first": 1, "single": 1, "twice": 2, "both": 2, "second": 2},
    **{"third": 3, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8, "ninth": 9, "tenth": 10},
    **{"half": 2, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "hundred": 100, "thousand": 1000},
}
_LATIN = re.compile(r"[A-Za-z][A-Za-z0-9_]*(?:[-'.][A-Za-z0-9]+)*")
_CHINESE = "[\u4e00-\u9fff]"
_IN_CHINESE = re.compile(rf"「([^」]*)」|\(([^()]*{_CHINESE}[^()]*)\)")
"""The notes' words, and Chinese terms and titles in brackets, in an English message."""
_HALF_WIDTH = re.compile(
    rf"{_CHINESE} ?[,;:!?]|{_CHINESE}\.(?!\w)|[,;:] ?{_CHINESE}|\([^()\n]*{_CHINESE}|[，。；：、（] (?={_CHINESE})"
)
"""A mark that stands beside Chinese and is half as wide as it should be, or has a space that it should not have."""
_QUOTED = re.compile(r"[\"“]([^\"”]*)[\"”]")


# -- what a message is made of ----------------------------------------------------------------------------------


def _tokens(message: str) -> list[Token]:
    [inline] = _MARKDOWN.parseInline(_HTML_CODE.sub(" ", message))
    return inline.children or []


def code_spans(message: str) -> Counter[str]:
    """Return the code of a message, in backticks or in HTML, with how often each piece stands there."""
    in_html = (html.unescape(code) for code in _HTML_CODE.findall(message))
    return Counter([token.content for token in _tokens(message) if token.type == "code_inline"]) + Counter(in_html)


def links(message: str) -> Counter[str]:
    """Return the targets of a message's links. A place in a page is left out: Chinese headings have others."""
    targets = (str(token.attrs["href"]) for token in _tokens(message) if token.type == "link_open")
    return Counter(target.partition("#")[0] for target in targets)


def prose(message: str) -> str:
    """Return a message's words: a bar stands for code, links' targets, HTML, marks and placeholders."""
    text = "".join(token.content if token.type == "text" else "|" for token in _tokens(message))
    return _PLACEHOLDER.sub("|", text)


def numbers(message: str) -> Counter[Decimal]:
    """Return the numbers of a message: "135 million" and 「1.35 亿」 are the same."""
    found = _NUMBER.findall(prose(message))
    return Counter(Decimal(digits.replace(",", "")) * _SCALES[scale] for digits, scale in found)


def numbers_in_words(message: str) -> Counter[Decimal]:
    """Return the numbers that an English message writes in words, which a Chinese one may write in digits."""
    words = re.findall("[a-z]+", prose(message).lower())
    values = {word: value for value, word in enumerate(_NUMBER_WORDS)} | _MORE_NUMBER_WORDS
    return Counter(Decimal(values[word]) for word in words if word in values)


# -- the glossary -----------------------------------------------------------------------------------------------


@cache
def _table(heading: str) -> list[list[str]]:
    """Return the rows of the table under a heading of the glossary."""
    section = GLOSSARY.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip(" `") for cell in row.strip("|").split("|")] for row in rows]


@cache
def _terms() -> list[tuple[str, list[str], list[str]]]:
    """Return each term with its Chinese forms and those that are never used; the longest first."""
    rows = [(english, forms.split(" / "), never.split(" / ")) for english, forms, never, _ in _table("Terms")]
    return sorted(rows, key=lambda row: -len(row[0]))


@cache
def _kept_words() -> set[str]:
    return {word for words, _ in _table("Words that stay as they are") for word in words.split(", ")}


@cache
def _bracketed_words() -> set[str]:
    terms = [english for english, _, _ in _terms()] + [words for [words] in _table("Terms in brackets only")]
    return {word.lower() for term in terms for word in re.findall(r"[\w-]+", term)}


# -- the rules --------------------------------------------------------------------------------------------------


def _differences(what: str, english: Counter[str], chinese: Counter[str]) -> Iterator[str]:
    if missing := english - chinese:
        yield f"{what} missing: {', '.join(missing.elements())}"
    if added := chinese - english:
        yield f"{what} added: {', '.join(added.elements())}"


def same_code(english: str, chinese: str) -> Iterator[str]:
    """Code spans are the same."""
    yield from _differences("code", code_spans(english), code_spans(chinese))


def same_placeholders(english: str, chinese: str) -> Iterator[str]:
    """What ``str.format`` fills in is the same."""
    yield from _differences("placeholder", *(Counter(_PLACEHOLDER.findall(each)) for each in (english, chinese)))


def same_chinese(english: str, chinese: str) -> Iterator[str]:
    """What is Chinese in the English message stays as it is: quotations, terms, the notes' own titles."""
    for quoted, bracketed in _IN_CHINESE.findall(english):
        pieces = [quoted] if quoted else [each for each in re.split("[,;] ", bracketed) if re.search(_CHINESE, each)]
        yield from (f"Chinese of the English text missing: {piece}" for piece in pieces if piece not in chinese)


def same_links(english: str, chinese: str) -> Iterator[str]:
    """Links lead to the same pages."""
    yield from _differences("link", links(english), links(chinese))


def same_numbers(english: str, chinese: str) -> Iterator[str]:
    """Numbers in digits are the same; one that is a word in English may be digits in Chinese."""
    english = _GLOSS.sub("", english)
    wanted, found = numbers(english), numbers(chinese)
    if missing := wanted - found:
        yield f"number missing: {', '.join(map(str, missing.elements()))}"
    if added := found - wanted - numbers_in_words(english):
        yield f"number added: {', '.join(map(str, added.elements()))}"


def same_marks(english: str, chinese: str) -> Iterator[str]:
    """HTML, bold words, table cells and lines are the same in kind and number, and every mark is understood as one."""
    english = _GLOSS.sub("", english)
    yield from _differences("HTML", *(Counter(re.findall(r"</?\w+>", each)) for each in (english, chinese)))
    bold = [sum(token.type == "strong_open" for token in _tokens(each)) for each in (english, chinese)]
    if bold[0] != bold[1]:
        yield f"bold words: {bold[0]} in English, {bold[1]} in Chinese"
    if "*" in prose(chinese).replace(" * ", "") and "*" not in prose(english).replace(" * ", ""):
        yield "a * is shown as such: no punctuation before its end, or a space after: **词**（word）, **解读。** 词"
    yield from _differences("sign", *(Counter(re.findall("[✔✘✓✗]", each)) for each in (english, chinese)))
    bars = [len(re.findall(r"(?<!\\)\|", each)) for each in (english, chinese)]
    if bars[0] != bars[1]:
        yield f"bars of the table: {bars[0]} in English, {bars[1]} in Chinese"
    kinds = [[token.type for token in _MARKDOWN.parse(each)] for each in (english, chinese)]
    if kinds[0] != kinds[1] or ("\n" in chinese and "\n" not in english):
        yield "it is no longer one paragraph"


def only_known_latin(english: str, chinese: str) -> Iterator[str]:
    """Latin letters are names and words of the glossary, quoted outputs, or identifiers that the English has."""
    words = _QUOTED.sub(lambda quoted: "" if quoted[1] in prose(english) else quoted[0], prose(chinese))
    words = _COMMAND.sub(lambda command: "" if command[0] in english else command[0], words)
    in_brackets = " ".join(re.findall(r"[（(]([^）)]*)[）)]", words))
    allowed_here = _bracketed_words() & {word.lower() for word in _LATIN.findall(in_brackets)}
    allowed_here |= {word.lower() for pair in _IN_CHINESE.findall(english) for word in _LATIN.findall(" ".join(pair))}
    for word in _LATIN.findall(words):
        is_identifier = len(word) == 1 or bool(re.search(r"[A-Z0-9_]", word[1:]))
        if word in _kept_words() or word.lower() in allowed_here or (is_identifier and word in english):
            continue
        yield f"left in English, and not in the glossary: {word}"


def marks_of_full_width(english: str, chinese: str) -> Iterator[str]:
    """Punctuation beside Chinese characters is Chinese; the notes' own words stay."""
    yield from (f"half-width mark: {mark}" for mark in half_width_marks(_QUOTATION.sub("", prose(chinese))))


def half_width_marks(text: str) -> list[str]:
    """Return what is no Chinese punctuation beside Chinese characters. A shape, [1, 词表大小], is no sentence."""
    return _HALF_WIDTH.findall(re.sub(r"\[[^]]*\]", "|", text))


def words_of_the_glossary(english: str, chinese: str) -> Iterator[str]:
    """Terms are those of the glossary."""
    left = _QUOTATION.sub("", prose(_GLOSS.sub("", english)))  # the notes' own words stay, their English ones too
    for term, forms, never in _terms():
        in_context = rf"\b{re.escape(term)}(?:s|es)?\b( \([^)]*{_CHINESE}[^)]*\))?"  # what has its Chinese in brackets
        found = list(re.finditer(in_context, left, 0 if term[0].isupper() else re.IGNORECASE))
        if any(not match[1] for match in found) and not any(form in chinese for form in forms):
            yield f"{term} must be {' or '.join(forms)}"
        yield from (f"{form} is never used for {term}" for form in never if found and form and form in chinese)
        for match in reversed(found):  # "block" is not looked for in "block table"
            left = left[: match.start()] + "|" + left[match.end() :]


def beginnings_of_the_glossary(english: str, chinese: str) -> Iterator[str]:
    """What returns at the beginning of many messages is always the same."""
    for beginning, wanted in _table("Beginnings"):
        if english.startswith(beginning) and not chinese.startswith(wanted):
            yield f"it must begin with {wanted}"


RULES: list[Rule] = [
    same_code,
    same_chinese,
    same_placeholders,
    same_links,
    same_numbers,
    same_marks,
    marks_of_full_width,
    only_known_latin,
    words_of_the_glossary,
    beginnings_of_the_glossary,
]


def problems(english: str, chinese: str) -> list[str]:
    """Return what is wrong with a translation, in words."""
    return [problem for rule in RULES for problem in rule(english, chinese)]
