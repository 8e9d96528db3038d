"""Linux's control groups, which hold a container to its share of the machine.

A process is in one group of each hierarchy, and what limits a group above limits it too. Version 1 has a hierarchy
for every resource, version 2 one for all. A file that is missing or odd is no limit: nothing here raises.
(The kernel's documentation: ``admin-guide/cgroup-v1/``, ``admin-guide/cgroup-v2``.)
"""

import math
import os
import re
from pathlib import Path


def find_groups(controller: str, root: Path = Path("/")) -> list[Path]:
    """Return the folders of the groups that this process is in, each before the one above it.

    controller: of version 1's hierarchies, the one to look at: "memory", "cpu".  root: where ``proc`` lies.
    """
    paths: dict[str, str] = {}  # of the process's groups, by controller; version 2 has none: ""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = (line.split(":", 2) + [""] * 2)[:3]
        paths |= dict.fromkeys(controllers.split(","), path)
    groups: list[Path] = []
    for line in _read(root / "proc/self/mountinfo").splitlines():
        mount, _, file_system = line.partition(" - ")
        _, _, _, highest, folder, *_ = [*map(_unescape, mount.split()), *[""] * 5]
        kind, _, options, *_ = [*file_system.split(), *[""] * 3]
        name = "" if kind == "cgroup2" else controller
        if name in paths and (kind == "cgroup2" or (kind == "cgroup" and controller in options.split(","))):
            below = _names_below(paths[name], highest)
            mounted = root / folder.lstrip("/")
            groups += [mounted.joinpath(*below[:depth]) for depth in range(len(below), -1, -1)]
    return groups


def _names_below(path: str, highest: str) -> list[str]:
    """Return the way from ``highest``, the group where a hierarchy is mounted, down to the group ``path``.

    In a container either may be given as the host names it, or as "/": then the mounted group is the process's own.
    """
    names, above = ([name for name in each.split("/") if name not in ("", "..")] for each in (path, highest))
    return names[len(above) :] if names[: len(above)] == above else []


def _unescape(field: str) -> str:
    """Undo what ``mountinfo`` does to white space: a backslash and three octal digits."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def read_number(file: Path) -> int | None:
    """Return the number in a file; None where there is none: "max", -1, no file."""
    text = _read(file).strip()
    return int(text) if text.isdecimal() else None


def read_numbers(file: Path) -> dict[str, int]:
    """Return the lines ``name number`` of a file; others are left out."""
    pairs = (line.split() for line in _read(file).splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdecimal()}


def count_cores(root: Path = Path("/")) -> int:
    """Return how many cores this process may keep busy: of those that it may run on, as many as its groups pay for."""
    cores = [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1]
    for group in find_groups("cpu", root):
        files = [group / name for name in ("cpu.max", "cpu.cfs_quota_us", "cpu.cfs_period_us")]
        numbers = " ".join(map(_read, files)).split()  # version 2 has both in one file
        if len(numbers) == 2 and all(number.isdecimal() and int(number) for number in numbers):  # else "max", or -1
            cores.append(math.ceil(int(numbers[0]) / int(numbers[1])))
    return min(cores)
