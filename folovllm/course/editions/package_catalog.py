"""The catalog of the sentences that the package itself shows: widgets, figures, checks, predictions, commands.

A sentence in the code is an argument of one of the functions of ``folovllm.language``; sentences that are data are read
from the data. They are found in the syntax tree: Babel's own extractor does not look into f-strings under Python 3.11.
"""

import ast
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from babel.messages.catalog import Catalog, Message
from babel.messages.mofile import write_mo

from folovllm.course.exercises.checks import CHAPTERS as EXERCISES
from folovllm.course.move import recorded_move
from folovllm.course.predictions.all_predictions import CHAPTERS as PREDICTIONS

PACKAGE = Path(__file__).parents[2]
_PLACES = {
    "_": slice(0, 1),
    "N_": slice(0, 1),
    "ngettext": slice(0, 2),
    "counted": slice(1, 3),
    "pgettext": slice(1, 2),
}
"""Of each function: which arguments are the sentence, or its singular and plural; ``pgettext`` has a context first."""
_NO_TIME = datetime(2026, 1, 1, tzinfo=UTC)
"""A compiled catalog has dates in its head; with these it is the same whenever it is made."""


def package_template() -> Catalog:
    """Return a catalog of all sentences, in the order of files and lines, then those that are data."""
    template = Catalog()
    for file in sorted(PACKAGE.rglob("*.py")):
        name = file.relative_to(PACKAGE.parent).as_posix()
        for context, sentence in _sentences_in(ast.parse(file.read_text(encoding="utf-8"))):
            template.add(sentence, locations=[(name, None)], context=context)  # type: ignore[list-item]  # lines move
    for place, context, sentence in _sentences_in_data():
        template.add(sentence, locations=[(place, None)], context=context)  # type: ignore[list-item]
    return template


def _sentences_in(tree: ast.AST) -> Iterator[tuple[str | None, str | tuple[str, str]]]:
    """Yield what is translated, with its context if it has one; two forms where a number decides."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    for call in sorted(calls, key=lambda call: (call.lineno, call.col_offset)):
        assert isinstance(call.func, ast.Name)
        forms = [_text(each) for each in call.args[_PLACES.get(call.func.id, slice(0))]]
        if forms and all(forms):
            context = _text(call.args[0]) if call.func.id == "pgettext" else None
            yield context, forms[0] if len(forms) == 1 else (forms[0], forms[1])


def _text(node: ast.expr) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _sentences_in_data() -> Iterator[tuple[str, str | None, str]]:
    """Yield what predictions, the recorded move and exercises say, with its place, and its context if it has one."""
    for prediction in (each for chapter in PREDICTIONS.values() for each in chapter):
        place = f"prediction:{prediction.name}"
        for choice in prediction.choices:
            yield place, prediction.context, choice
        for sentence in (prediction.question, *prediction.choices.values()):
            yield place, None, sentence
    move = recorded_move()
    for sentence in (move.machine, *move.tokens_per_second):
        yield "recorded_move", None, sentence
    for exercise in (each for chapter in EXERCISES.values() for each in chapter):
        for sentence in (exercise.task, *(mistake.diagnosis for mistake in exercise.mistakes)):
            yield f"exercise:{exercise.name}", None, sentence


def is_translated(message: Message) -> bool:
    """Return whether a message has a translation; in Chinese there is one form for all numbers."""
    return bool("".join(message.string or ""))


def compile_catalog(catalog: Catalog, target: Path) -> None:
    """Write a catalog as Python's gettext reads it. It is committed beside its source: an installation has no Babel."""
    compiled = Catalog(catalog.locale, creation_date=_NO_TIME, revision_date=_NO_TIME)
    for message in catalog:
        if message.id and is_translated(message) and not message.fuzzy:
            compiled[message.id] = message
    with target.open("wb") as stream:
        write_mo(stream, compiled)
