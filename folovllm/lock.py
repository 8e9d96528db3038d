"""``requirements.lock``: which packages the course was tested with, and which of them are here.

It needs the package ``packaging`` only when it is called: the doctor has to run where that is missing.
"""

from contextlib import suppress
from importlib import metadata
from pathlib import Path

from folovllm.course_folder import shipped_folder


def find_lock() -> Path | None:
    """Return the lock that came with the package."""
    folder = shipped_folder()
    return folder / "requirements.lock" if folder else None


def pins_of_course(lock: Path) -> dict[str, str]:
    """Return the versions that a lock asks for on this machine: of what the course needs, and of what else is here."""
    from packaging.utils import canonicalize_name

    needed = _needed_by("folovllm", "course")
    return {
        name: version
        for name, version in _read_pins(lock).items()
        if canonicalize_name(name) in needed or installed_version(name)
    }


def installed_version(package: str) -> str | None:
    """Return the installed version without its build tag: 2.13.0+cpu and 2.13.0 are the same code."""
    try:
        return metadata.version(package).partition("+")[0]
    except metadata.PackageNotFoundError:
        return None


def _read_pins(lock: Path) -> dict[str, str]:
    from packaging.requirements import Requirement

    lines = [line for line in lock.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    pins = [Requirement(line) for line in lines]
    return {pin.name: str(pin.specifier).lstrip("=") for pin in pins if not pin.marker or pin.marker.evaluate()}


def _needed_by(package: str, extra: str) -> set[str]:
    """Return the canonical names of all packages that one needs with an extra, directly or through others."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    needed: set[str] = set()
    todo = [(package, extra)]
    seen = set(todo)
    while todo:
        name, with_extra = todo.pop()
        needed.add(canonicalize_name(name))
        with suppress(metadata.PackageNotFoundError):
            for each in map(Requirement, metadata.requires(name) or []):
                if each.marker is None or each.marker.evaluate({"extra": with_extra}):
                    further = {(each.name, extra) for extra in {"", *each.extras}} - seen
                    seen |= further
                    todo += further
    return needed
