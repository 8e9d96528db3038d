"""Read a notebook's file, or say which file it is that cannot be read."""

import json
import re
from pathlib import Path
from typing import Any


def read_notebook(path: Path) -> dict[str, Any]:
    """Return a notebook as nbformat stores it. Raises a ValueError that names the file."""
    return parse_notebook(path.read_bytes(), path)


def parse_notebook(content: bytes, path: Path) -> dict[str, Any]:
    """Return the notebook in a file's content. path: for the ValueError where it is none."""
    try:
        notebook: dict[str, Any] = json.loads(content)
        for cell in notebook["cells"]:
            _ = cell["cell_type"], cell["source"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no notebook: {type(error).__name__}: {error}") from None
    return notebook


def language_of(notebook: dict[str, Any]) -> str | None:
    """Return the language that a notebook chooses in its first cells; None where it leaves that open."""
    code = "\n".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code")
    chosen = re.search(r'^use_language\("(\w+)"\)', code, re.MULTILINE)
    return chosen[1] if chosen else None
