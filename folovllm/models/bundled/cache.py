"""The folder that keeps the bundled model: whether what lies there is good, and how it may change.

One rule makes every accident harmless: the cache changes only by renaming a finished folder into place. The work is
done in a ``.partial-*`` folder beside it, under a lock; what an interrupted run leaves there, the next one sweeps away.
"""

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from folovllm.cache_folder import cache_root
from folovllm.models.bundled.report import Report
from folovllm.models.bundled.source import SMOLLM2, BundledModelError, BundledSource

# Counts up whenever the conversion would write something else: caches of an older one are then rebuilt.
CONVERTER_VERSION = 2

MANIFEST = "folovllm-manifest.json"
_PARTIAL = ".partial-"
_ALWAYS_HASHED_BYTES = 8 * 2**20
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def cached_path(source: BundledSource = SMOLLM2) -> Path | None:
    """Return the model's folder if it is there and passes the quick check of :func:`verify`, else None."""
    return None if problems_of(source) else cache_root() / source.name


def verify(full: bool = True, source: BundledSource = SMOLLM2) -> None:
    """Compare the cached model with its manifest; :class:`BundledModelError` if it is missing or damaged.

    The quick check (``full=False``) hashes every small file, but the weights only if their modification time is not the
    recorded one: it takes milliseconds and notices whatever was written since. The full check hashes everything, and so
    notices a failing disk as well; it takes about half a second.
    """
    if problems := problems_of(source, full):
        raise BundledModelError(
            f"The bundled model cannot be used: {'; '.join(problems)}. Make it again: "
            "`python -m folovllm model --remove`, then `python -m folovllm model`."
        )


def remove(source: BundledSource = SMOLLM2) -> bool:
    """Delete the cached model and what killed runs left; return whether there was a model.

    Raises :class:`BundledModelError`.
    """
    root = cache_root()
    if not root.exists():
        return False
    with explained(root, source), locked(root, Report(True)), workspace(root) as work:
        found = (root / source.name).exists()
        if found:
            os.replace(root / source.name, work / "removed")
    return found


def seal(folder: Path, source: BundledSource) -> None:
    """Make the files of a finished model last, readable to all whom the umask allows, and add their manifest."""
    files = {}
    for path in sorted(folder.iterdir()):
        # safetensors makes its file private; a cache may be shared, so all get the mode that the user's umask gives.
        shutil.copymode(folder / "config.json", path)
        _flush_to_disk(path)
        stat = path.stat()
        files[path.name] = {"bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": sha256_of(path)}
    manifest = {"converter": CONVERTER_VERSION, "gguf_sha256": source.gguf_sha256, "files": files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")
    _flush_to_disk(folder / MANIFEST)


def _flush_to_disk(path: Path) -> None:
    """Make the content last before the rename does: after a power cut a renamed file may otherwise be empty."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def problems_of(source: BundledSource, full: bool = False) -> list[str]:
    """Say what is wrong with the cached model, and why; nothing where it can be used. full: hash the weights anyway."""
    folder = cache_root() / source.name
    try:
        if not folder.exists():
            return [f"{folder} does not exist"]
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if (manifest["converter"], manifest["gguf_sha256"]) != (CONVERTER_VERSION, source.gguf_sha256):
            return [f"{folder} was made by another version of FoloVLLM"]
        problems = [_file_problem(folder / name, record, full) for name, record in manifest["files"].items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return [f"{folder} has no readable manifest, or an unreadable file ({type(error).__name__}: {error})"]
    return [problem for problem in problems if problem]


def _file_problem(path: Path, record: dict[str, Any], full: bool) -> str | None:
    if not path.is_file():
        return f"{path.name} is missing"
    stat = path.stat()
    if stat.st_size != record["bytes"]:
        return f"{path.name} has {stat.st_size} bytes, not {record['bytes']}"
    trusted = stat.st_mtime_ns == record["mtime_ns"] and stat.st_size > _ALWAYS_HASHED_BYTES and not full
    return None if trusted or sha256_of(path) == record["sha256"] else f"{path.name} has another content"


def sha256_of(path: Path) -> str:
    """Return a file's SHA-256, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def locked(root: Path, report: Report) -> Iterator[None]:
    """Hold the cache's lock, which the system releases even if this process is killed."""
    root.mkdir(parents=True, exist_ok=True)
    lock = FileLock(root / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        report.say("another process is preparing it; waiting for that one ...")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def workspace(root: Path) -> Iterator[Path]:
    """A folder to work in, gone afterwards. Call with the lock held: any other one is then a dead process's."""
    for stale in root.glob(_PARTIAL + "*"):
        shutil.rmtree(stale, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=root))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def explained(root: Path, source: BundledSource) -> Iterator[None]:
    """Turn what the file system refuses into a :class:`BundledModelError` that says what to do."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        # safetensors wraps the system's error in one of its own, with the system's words in the text.
        if getattr(error, "errno", None) in _DISK_FULL or os.strerror(errno.ENOSPC) in str(error):
            what = f"is full: about {source.disk_bytes / 1e6:.0f} MB are needed there"
            advice = "Make room, or set FOLOVLLM_CACHE to a folder on another disk."
        else:
            what, advice = "cannot be written", "Set FOLOVLLM_CACHE to a folder that can be written."
        raise BundledModelError(f"The cache folder {root} {what} ({error}). {advice}") from error
