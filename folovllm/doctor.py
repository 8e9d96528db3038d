"""Is this machine ready for the course? ``python -m folovllm doctor``: one line a check, with the fix.

Nothing but the standard library is imported before the check that needs it: the doctor has to run where packages
are missing or broken.
"""

import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from folovllm.cache_folder import NoHomeError, cache_root, is_missing_home
from folovllm.control_groups import count_cores
from folovllm.course_folder import how_to_install, in_checkout
from folovllm.free_memory import GIB, FreeMemory, free_memory, is_out_of_memory
from folovllm.language import N_, _, counted, listed
from folovllm.lock import find_lock, installed_version, pins_of_course

Level = Literal["ok", "warn", "fail"]

OLDEST_PYTHON, NEWEST_PYTHON = (3, 11), (3, 14)
"""The first and last version that the locked packages have builds for."""

NEEDED_MEMORY, NEEDED_ADDRESSES, COMFORTABLE_MEMORY = 5 * GIB // 8, 1 * GIB, 2 * GIB
"""Beside PyTorch, which the doctor has loaded: the bundled model takes half a GiB, and twice that of addresses while it
is loaded; the default KV cache a quarter of what is free beside it."""

WITHOUT_KERNELS = N_("PyTorch computes, 1.5 to 2 times slower, and the last bits of a number depend on the batch")
"""What it costs where numba cannot be used."""


@dataclass(frozen=True)
class Check:
    """What one check found.

    level: "warn" may still work, "fail" will not.  detail: what is there.  fix: what to do; empty when all is well.
    tag: the detail in a few characters, for :func:`instructor_code`.
    """

    name: str
    level: Level
    detail: str
    fix: str = ""
    tag: str = ""


def check_python() -> Check:
    """Python is one that the locked packages have builds for."""
    version = platform.python_version()
    detail, tag = _("{version} in {name}").format(version=version, name=Path(sys.prefix).name), f"py{version}"
    if OLDEST_PYTHON <= sys.version_info[:2] <= NEWEST_PYTHON:
        return Check("python", "ok", detail, tag=tag)
    level: Level = "fail" if sys.version_info[:2] < OLDEST_PYTHON else "warn"
    return Check("python", level, detail, _("install Python 3.11 to 3.14, then `make lab PYTHON=python3.12`"), tag)


def check_packages() -> Check:
    """Every package that the course needs is there, and each that is there has the version of ``requirements.lock``."""
    lock = find_lock()
    if lock is None:
        fix = _("run the doctor from a checkout, installed with `make lab`")
        return Check("packages", "warn", _("requirements.lock is not there to compare with"), fix, "nolock")
    pins = pins_of_course(lock)
    found = {name: installed_version(name) for name in pins}
    differing = [name for name, version in pins.items() if found[name] != version]
    if not differing:
        return Check(
            "packages", "ok", _("all {num_pins} as in requirements.lock").format(num_pins=len(pins)), tag="lock"
        )
    # A wheel brings no versions of its own: pip has taken the newest that fit.
    level: Level = "fail" if any(found[name] is None for name in differing) else "warn" if in_checkout() else "ok"
    named = listed(
        _("{name} {version} (lock: {pin})").format(name=name, version=found[name] or _("missing"), pin=pins[name])
        for name in differing[:3]
    )
    more = _(" and {count} more").format(count=len(differing) - 3) if len(differing) > 3 else ""
    detail = _("{num_differing} of {num_pins} differ from requirements.lock: {named}{more}").format(
        num_differing=len(differing), num_pins=len(pins), named=named, more=more
    )
    return Check("packages", level, detail, "" if level == "ok" else how_to_install(), f"lock-{len(differing)}")


def check_device() -> Check:
    """PyTorch computes on the device that the engine will take."""
    import torch

    from folovllm.model_loader import resolve_device

    device = resolve_device("auto")
    total = torch.ones(2, device=device).sum().item()
    assert total == 2, f"1 + 1 gives {total} on {device}"
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        hardware = _("{name}, {size:.0f} GiB").format(name=card.name, size=card.total_memory / GIB)
    else:
        hardware = counted(torch.get_num_threads(), "{n} thread", "{n} threads")
    version = f"torch {torch.__version__}"
    detail = _("{version}, {device} ({hardware})").format(version=version, device=device, hardware=hardware)
    if device.type != "cpu":
        detail += _("; `make test-gpu` tests the course on it")
    tag = f"torch{torch.__version__.partition('+')[0]}-{device.type}"
    if device.type == "cpu" and shutil.which("nvidia-smi"):
        fix = _("update the driver, if `nvidia-smi` shows one for a CUDA older than {cuda}").format(
            cuda=torch.version.cuda
        )
        if torch.version.cuda is None:
            fix = _("this PyTorch is a build for CPU only; install the one for your card, or carry on with the CPU")
        return Check("device", "warn", _("{detail}, but there is an NVIDIA driver").format(detail=detail), fix, tag)
    if device.type == "cpu" and torch.get_num_threads() > (cores := count_cores()):
        fix = _("set OMP_NUM_THREADS={cores} before you start").format(cores=cores)
        return Check(
            "device",
            "warn",
            _("{detail}, more than the {cores} cores that this process may use").format(detail=detail, cores=cores),
            fix,
            tag,
        )
    return Check("device", "ok", detail, tag=tag)


def check_kernels() -> Check:
    """The CPU's kernels are compiled, or can be, and the result can be kept."""
    from folovllm.kernels.available import kernels_to_compile, why_no_kernels

    if (reason := why_no_kernels()) is not None:
        fix = _("unset it") if reason.startswith("NUMBA_") else how_to_install()
        return Check(
            "kernels",
            "warn",
            _("none on this CPU ({reason}): {without_kernels}").format(
                reason=_(reason), without_kernels=_(WITHOUT_KERNELS)
            ),
            fix,
            "nokernels",
        )
    import numba

    from folovllm.kernels.code_cache import can_keep

    detail, tag = f"numba {numba.__version__}", f"numba{numba.__version__}"
    if not kernels_to_compile():
        return Check("kernels", "ok", _("{detail}, compiled for this machine").format(detail=detail), tag=tag)
    if can_keep():
        fix = _("run `python -m folovllm model`, else the first LLM() takes up to a minute longer")
        return Check("kernels", "warn", _("{detail}, not compiled yet").format(detail=detail), fix, tag)
    detail += _(", no folder to keep compiled code in: every program compiles anew, for up to a minute")
    return Check("kernels", "warn", detail, _("set FOLOVLLM_CACHE to a folder that only you can write"), tag)


def check_memory() -> Check:
    """There is memory for the bundled model and a KV cache."""
    memory = free_memory()
    detail, tag = _what_is_free(memory), f"ram{memory.free / GIB:.1f}G"
    if memory.free >= COMFORTABLE_MEMORY:
        return Check("memory", "ok", detail, tag=tag)
    needed = NEEDED_ADDRESSES if memory.counts_addresses else NEEDED_MEMORY
    level: Level = "fail" if memory.free < needed else "warn"
    return Check("memory", level, detail, _("{fix}; 2 GiB are enough").format(fix=_(memory.fix)), tag)


def _what_is_free(memory: FreeMemory) -> str:
    free = _("{free:.1f} of {total:.1f} GiB free").format(free=memory.free / GIB, total=memory.total / GIB)
    return _("{free}, {limit}").format(free=free, limit=_(memory.limit)) if memory.limit else free


def check_disk() -> Check:
    """The cache folder can take the bundled model, if it has not got it."""
    from folovllm.models.bundled import SMOLLM2, cached_path

    root = cache_root()
    folder = next(path for path in (root, *root.parents) if path.exists())
    free = shutil.disk_usage(folder).free
    # The folder's name could be the user's, and this is printed in notebooks that are committed.
    shown = "FOLOVLLM_CACHE" if os.environ.get("FOLOVLLM_CACHE") else _("the user's cache")
    detail, tag = _("{free:.1f} GiB free in {shown}").format(free=free / GIB, shown=shown), f"disk{free / GIB:.0f}G"
    elsewhere = _("set FOLOVLLM_CACHE to a folder on another disk")
    if cached_path() is not None:
        return Check("disk", "ok", detail, tag=tag)
    if not os.access(folder, os.W_OK | os.X_OK):
        return Check("disk", "fail", _("{root} cannot be written").format(root=root), elsewhere, tag)
    if free < SMOLLM2.disk_bytes:
        return Check(
            "disk",
            "fail",
            detail,
            _("free {size:.1f} GiB, or {elsewhere}").format(size=SMOLLM2.disk_bytes / GIB, elsewhere=elsewhere),
            tag,
        )
    return Check("disk", "ok", detail, tag=tag)


def check_model() -> Check:
    """The model that ``LLM()`` takes is on this machine."""
    from folovllm.config import BUNDLED_MODEL
    from folovllm.models.bundled import cached_path

    chosen = os.environ.get("FOLOVLLM_MODEL") or BUNDLED_MODEL
    if chosen != BUNDLED_MODEL:
        return _check_chosen_model(chosen)
    if cached_path() is None:
        fix = _("run `python -m folovllm model`; without a network: `python -m folovllm model --from FILE`")
        return Check(
            "model", "fail", _("{bundled_model} is not prepared").format(bundled_model=BUNDLED_MODEL), fix, "none"
        )
    return Check(
        "model", "ok", _("{bundled_model}, the bundled model").format(bundled_model=BUNDLED_MODEL), tag="bundled"
    )


def _check_chosen_model(name: str) -> Check:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    detail = f"FOLOVLLM_MODEL={name}"
    if Path(name, "config.json").is_file():
        return Check("model", "ok", _("{detail}, a folder").format(detail=detail), tag="folder")
    try:
        cached = isinstance(try_to_load_from_cache(name, "config.json"), str)
    except HFValidationError:
        fix = _("set it to a model's folder or a name on the hub, or unset it")
        return Check(
            "model",
            "fail",
            _("{detail} is neither a model's folder nor a hub name").format(detail=detail),
            fix,
            "unknown",
        )
    if cached:
        return Check("model", "ok", _("{detail}, downloaded from the hub").format(detail=detail), tag="hub")
    fix = _("stay online while it loads for the first time, or unset FOLOVLLM_MODEL")
    return Check("model", "warn", _("{detail} is not downloaded yet").format(detail=detail), fix, "hub")


def check_widgets() -> Check:
    """JupyterLab has the extension that shows ipywidgets, in a version that fits."""
    from jupyter_core.paths import jupyter_path
    from packaging.requirements import Requirement

    widgets, manager = metadata.version("ipywidgets"), metadata.version("jupyterlab_widgets")
    detail, tag = listed([f"ipywidgets {widgets}", f"jupyterlab_widgets {manager}"]), f"widgets{widgets}"
    rules = [Requirement(line) for line in metadata.requires("ipywidgets") or []]
    if not all(manager in rule.specifier for rule in rules if rule.name == "jupyterlab_widgets"):
        return Check("widgets", "fail", _("{detail} do not fit together").format(detail=detail), how_to_install(), tag)
    folders = jupyter_path("labextensions", "@jupyter-widgets", "jupyterlab-manager")
    if not any(Path(folder, "package.json").is_file() for folder in folders):
        fix = _(
            "run `python -m pip install --force-reinstall --no-deps jupyterlab_widgets`, then start JupyterLab again"
        )
        return Check(
            "widgets", "fail", _("{detail}, but JupyterLab does not find its extension").format(detail=detail), fix, tag
        )
    return Check("widgets", "ok", detail, tag=tag)


CHECKS: dict[str, Callable[[], Check]] = {
    "python": check_python,
    "packages": check_packages,
    "device": check_device,
    "kernels": check_kernels,
    "memory": check_memory,
    "disk": check_disk,
    "model": check_model,
    "widgets": check_widgets,
}


def run_checks() -> list[Check]:
    """Run all checks; one that cannot even run has failed."""
    return [_run(name, check) for name, check in CHECKS.items()]


def _run(name: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except Exception as error:  # a broken installation raises anything, an OSError of a library that does not load too
        if isinstance(error, NoHomeError) or is_missing_home(error):
            return Check(name, "fail", _(NoHomeError.what), _(NoHomeError.fix), name)
        first_line = next(iter(str(error).splitlines()), "")
        fix = _more_memory() if is_out_of_memory(error) else how_to_install()
        return Check(name, "fail", f"{type(error).__name__}: {first_line}", fix, name)


def _more_memory() -> str:
    try:
        return _(free_memory().fix)
    except MemoryError:  # too little even to ask
        return _("allow this process more memory (`ulimit -v unlimited`)")


def instructor_code(checks: list[Check]) -> str:
    """Return the findings as one short line to paste to the instructor; ? marks a warning, ! a failure."""
    marks = {"ok": "", "warn": "?", "fail": "!"}
    passed = sum(check.level == "ok" for check in checks)
    tags = " ".join((check.tag or check.name) + marks[check.level] for check in checks)
    return f"FOLO-1 ok={passed}/{len(checks)} {tags} {platform.system()}-{platform.machine()}"


def main() -> int:
    """Print one line a check and the instructor's code; return 1 if a check failed, else 0."""
    checks = run_checks()
    for check in checks:
        fix = f" -> {check.fix}" if check.fix else ""
        print(f"{check.level:<4}  {check.name:<8}  {check.detail}{fix}")
    print("\n" + _("For the instructor: {code}").format(code=instructor_code(checks)))
    return int(any(check.level == "fail" for check in checks))
