"""The API reference: a page per module of ``folovllm``, and which chapters explain which module."""

import ast
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from book.chapters import Chapter
from book.replay import as_python
from book.words import _
from folovllm.course.editions.minutes import source_of

PACKAGE = Path(__file__).parents[2] / "folovllm"
_LIVES_IN_COURSE = "folovllm.course"


@dataclass(frozen=True)
class Module:
    """One module. name: as it is imported.  says: the first sentence of its docstring.  defines: its public names."""

    name: str
    says: str
    defines: frozenset[str]
    is_package: bool

    @property
    def room(self) -> str:
        """The part of the package that it belongs to: "folovllm" itself, "folovllm.engine"..."""
        return self.name if self.is_package else self.name.rpartition(".")[0]


def modules() -> list[Module]:
    """Return all modules, without importing them; a package stands before its modules."""
    return [_read(path) for path in sorted(PACKAGE.rglob("*.py"), key=_order)]


def _order(path: Path) -> tuple[tuple[str, ...], bool, str]:
    return path.parent.parts, path.stem != "__init__", path.stem


def _read(path: Path) -> Module:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    parts = [*path.parent.relative_to(PACKAGE.parent).parts, path.stem]
    is_package = path.stem == "__init__"
    name = ".".join(parts[:-1] if is_package else parts)
    says = (ast.get_docstring(tree) or "").partition("\n\n")[0].replace("\n", " ")
    return Module(name, says, frozenset(_public_names(tree)), is_package)


def _public_names(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            yield node.name


def explained_in(chapters: Iterable[Chapter]) -> dict[str, list[str]]:
    """Return for each chapter (by its name) the engine's modules that it explains, in the order of the package.

    A module is explained where the text names its file, or a thing that it alone defines, or where code imports such.
    """
    engine = [each for each in modules() if not each.name.startswith(_LIVES_IN_COURSE) and not each.is_package]
    owners = Counter(name for module in engine for name in module.defines)
    told = {}
    for chapter in chapters:
        cells = chapter.read().cells
        prose = "\n".join(source_of(cell) for cell in cells if cell.cell_type == "markdown")
        named = set(re.findall(r"`([A-Za-z_]\w*)(?:\(\)|\.\w+(?:\(\))?)?`", prose))
        for cell in cells:
            if cell.cell_type == "code":
                named |= set(_imported(ast.parse(as_python(source_of(cell)))))
        told[chapter.name] = [
            module.name
            for module in engine
            if f"{module.name.replace('.', '/')}.py" in prose
            or any(name in named and owners[name] == 1 for name in module.defines)
        ]
    return told


def _imported(tree: ast.Module) -> Iterator[str]:
    """Return the names that code takes from the package."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("folovllm"):
            yield from (each.name for each in node.names)


def pages(chapters: Iterable[Chapter]) -> dict[str, str]:
    """Return the reference's pages: reStructuredText by the name of its file."""
    chapters, everything = list(chapters), modules()
    explains = explained_in(chapters)
    titles = {chapter.name: chapter.title for chapter in chapters}
    found = {"index.rst": _index(everything)}
    for module in everything:
        homes = [name for name, named in explains.items() if module.name in named]
        inside = (
            [each for each in everything if each.room == module.name and each != module] if module.is_package else []
        )
        found[f"{module.name}.rst"] = _page(module, [f":doc:`{titles[name]} <../{name}>`" for name in homes], inside)
    return found


def _page(module: Module, homes: list[str], inside: list[Module]) -> str:
    title = module.name.replace("_", r"\_")
    parts = [f"{title}\n{'=' * len(title)}\n"]
    if homes:
        parts.append(f".. rst-class:: explained-in\n\n{_('Explained in:')} {_(', ').join(homes)}\n")
    members = "" if module.is_package else "   :members:\n   :ignore-module-all:\n"
    parts.append(f".. automodule:: {module.name}\n{members}")
    return "\n".join([*parts, *_listed(inside)])


def _index(everything: list[Module]) -> str:
    title = _("API reference")
    told = _(
        "What each part of the package does, from its own docstrings, in English. A chapter links to the code that it "
        "explains, and a page here says which chapters those are."
    )
    rooms = [module for module in everything if module.is_package]
    return "\n".join([f"{title}\n{'=' * 2 * len(title)}\n\n{told}\n", *_listed(rooms)])


def _listed(some: list[Module]) -> list[str]:
    """Return lines that list modules with what they say, and put them under this page in the table of contents."""
    if not some:
        return []
    names = "\n".join(f"   {each.name}" for each in some)
    return [*(f"* :doc:`{each.name}`: {each.says}" for each in some), f"\n.. toctree::\n   :hidden:\n\n{names}\n"]
