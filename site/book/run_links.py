"""Where a chapter can be run, in one place: the repository, and what Colab and Binder make of it.

The repository is the one whose workflow builds the site (``GITHUB_REPOSITORY``, which GitHub sets), else that of the
checkout's ``origin``. Where neither is on GitHub there is nothing to link to, and a page says how to run it locally.
"""

import os
import re
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
BRANCH = "main"


def repository() -> str:
    """Return the repository on GitHub as "owner/name", or "" where none is known."""
    if named := os.environ.get("GITHUB_REPOSITORY"):
        return named
    asked = subprocess.run(
        ["git", "remote", "get-url", "origin"], cwd=HERE, capture_output=True, text=True, check=False
    )
    found = re.search(r"github\.com[:/]([\w.-]+/[\w.-]+?)(?:\.git)?$", asked.stdout.strip())
    return found[1] if found else ""


def icons() -> list[dict[str, str]]:
    """Return the theme's links to the repository."""
    where = repository()
    return [{"name": "GitHub", "url": f"https://github.com/{where}", "icon": "fa-brands fa-github"}] if where else []


def links(notebook: str) -> dict[str, str]:
    """Return where a notebook (its path in the repository) runs without an installation: a name and its address."""
    where = repository()
    if not where:
        return {}
    return {
        "Colab": f"https://colab.research.google.com/github/{where}/blob/{BRANCH}/{notebook}",
        "Binder": f"https://mybinder.org/v2/gh/{where}/{BRANCH}?urlpath=lab/tree/{notebook}",
        "GitHub": f"https://github.com/{where}/blob/{BRANCH}/{notebook}",
    }
