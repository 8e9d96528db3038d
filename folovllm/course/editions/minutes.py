"""How long a notebook takes: computed from what there is to read, to run, to predict and to write."""

import re
from typing import Any

Cell = dict[str, Any]
WORDS_PER_MINUTE = 130
CHARACTERS_PER_WORD = 1.8
"""Chinese characters that say what one English word says: 1.7 to 1.8 in the eight notebooks."""
LINES_PER_MINUTE = 10
PER_EXERCISE = 3
PER_PREDICTION = 1
_ROUNDED_TO = 5
_CHINESE = re.compile("[\u4e00-\u9fff]")
_CHINESE_OR_ITS_MARKS = re.compile("[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef“”]")
_SAME_EVERYWHERE = "use_language("
"""The line that makes a notebook English or Chinese stands in each of them: nobody studies it."""


def total_minutes(cells: list[Cell]) -> int:
    """Return the minutes of a notebook, rounded to five."""
    return _ROUNDED_TO * round(sum(map(_minutes_of, cells)) / _ROUNDED_TO)


def section_minutes(cells: list[Cell]) -> list[int | None]:
    """Return for every heading the minutes of what stands under it, None for other cells; they add up to the total."""
    exact = list(map(_minutes_of, cells))
    stretch = total_minutes(cells) / sum(exact)
    heads = [i for i, cell in enumerate(cells) if is_heading(cell)]
    begins = [round(stretch * sum(exact[:i])) for i in heads[1:]]
    ends = [*begins, total_minutes(cells)]
    lengths = dict(zip(heads, (end - begin for begin, end in zip([0, *begins], ends, strict=True)), strict=True))
    return [lengths.get(i) for i in range(len(cells))]


def is_heading(cell: Cell) -> bool:
    """Return whether a section begins with this cell."""
    return cell["cell_type"] == "markdown" and source_of(cell).startswith(("# ", "## "))


def _minutes_of(cell: Cell) -> float:
    source = source_of(cell)
    if cell["cell_type"] == "markdown":
        return words_in(re.sub(r"<[^>]+>", " ", source)) / WORDS_PER_MINUTE
    read = [] if hides_code(cell) else [line for line in source.splitlines() if not line.startswith(_SAME_EVERYWHERE)]
    lines = sum(bool(line.strip()) for line in read)
    exercises = len(re.findall(r"^check\w*\(", source, re.M))
    predictions = len(re.findall(r"^predict\(", source, re.M))
    return lines / LINES_PER_MINUTE + PER_EXERCISE * exercises + PER_PREDICTION * predictions


def words_in(text: str) -> float:
    """Return how many English words there are to read, or would be if what is Chinese were English."""
    chinese, words = len(_CHINESE.findall(text)), len(text.split())
    if chinese < words:  # English: what it quotes in Chinese stands beside its translation
        return words
    return chinese / CHARACTERS_PER_WORD + len(_CHINESE_OR_ITS_MARKS.sub(" ", text).split())


def hides_code(cell: Cell) -> bool:
    """Return whether JupyterLab folds a cell's code: it is run, and not read."""
    return bool(cell["metadata"].get("jupyter", {}).get("source_hidden"))


def source_of(cell: Cell) -> str:
    """Return what a cell says; in a file it may be a list of lines."""
    return "".join(cell["source"])
