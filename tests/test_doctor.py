"""Each check of the doctor is shown a healthy machine and a broken one; the broken one must name its fix."""

import re
import subprocess
import sys
import types
from collections import namedtuple
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import psutil
import pytest
import torch

from folovllm import course_folder, doctor
from folovllm.__main__ import main as command_line
from folovllm.free_memory import FreeMemory, free_memory
from folovllm.kernels import available, code_cache
from folovllm.models import bundled
from tests.pretended_device import PretendedCard

Version = namedtuple("Version", "major minor")
GIB = 1024**3


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    """No test sees the machine's own cache."""
    monkeypatch.setenv("FOLOVLLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "cache"


@pytest.fixture
def model_is_cached(monkeypatch):
    monkeypatch.setattr(bundled, "cached_path", lambda: Path("somewhere"))


def set_versions(monkeypatch, **versions):
    """Pretend that these packages have these versions (None: not installed)."""
    real = metadata.version

    def version(name):
        if name in versions and versions[name] is None:
            raise metadata.PackageNotFoundError(name)
        return versions[name] if name in versions else real(name)

    monkeypatch.setattr(metadata, "version", version)


def test_this_python_is_fit():
    check = doctor.check_python()
    assert (check.level, check.fix) == ("ok", "")
    assert ".".join(map(str, sys.version_info[:3])) in check.detail


@pytest.mark.parametrize(("version", "level"), [(Version(3, 10), "fail"), (Version(3, 15), "warn")])
def test_a_python_without_locked_builds_is_named(monkeypatch, version, level):
    monkeypatch.setattr(sys, "version_info", tuple(version))
    check = doctor.check_python()
    assert check.level == level
    assert check.fix == "install Python 3.11 to 3.14, then `make lab PYTHON=python3.12`"


@pytest.fixture
def lock(tmp_path, monkeypatch):
    """A lock of two packages that are installed as it says, one that only tests need, and one for another system."""
    path = tmp_path / "requirements.lock"
    path.write_text("# comment\ntorch==2.13.0\nnumpy==1.2.3\npytest==9.1\nnowhere==1 ; sys_platform == 'plan9'\n")
    monkeypatch.setattr(doctor, "find_lock", lambda: path)
    needs = {"folovllm": ['torch[small]>=2; extra == "course"', 'pytest; extra == "dev"'], "torch": ["Numpy", "tqdm"]}
    monkeypatch.setattr(metadata, "requires", lambda name: needs.get(name, []))
    set_versions(monkeypatch, torch="2.13.0+cpu", numpy="1.2.3", pytest=None)
    return path


def test_packages_as_locked_are_fit_whatever_their_build(lock):
    assert doctor.check_packages() == doctor.Check("packages", "ok", "all 2 as in requirements.lock", tag="lock")


def test_another_version_is_a_warning_that_names_both(lock, monkeypatch):
    set_versions(monkeypatch, numpy="9.9", pytest="9.1")
    check = doctor.check_packages()
    assert check.level == "warn"
    assert check.detail == "1 of 3 differ from requirements.lock: numpy 9.9 (lock: 1.2.3)"
    assert "requirements.lock" in check.fix or check.fix == "run `make lab`"


def test_a_development_tool_may_be_missing_but_nothing_that_the_course_needs_through_others(lock, monkeypatch):
    assert doctor.check_packages().level == "ok"
    set_versions(monkeypatch, numpy=None)
    check = doctor.check_packages()
    assert check.level == "fail"
    assert check.detail == "1 of 2 differ from requirements.lock: numpy missing (lock: 1.2.3)"


def test_a_development_tool_of_another_version_is_a_warning(lock, monkeypatch):
    set_versions(monkeypatch, pytest="1.0")
    assert doctor.check_packages().level == "warn"


def test_many_differences_are_counted_not_listed(lock, monkeypatch):
    lock.write_text("".join(f"nowhere{i}==1\n" for i in range(5)))
    monkeypatch.setattr(metadata, "requires", lambda name: [f"nowhere{i}" for i in range(5)])
    check = doctor.check_packages()
    assert check.detail.startswith("5 of 5 differ")
    assert check.detail.endswith("nowhere2 missing (lock: 1) and 2 more")
    assert check.tag == "lock-5"


def test_a_wheel_brings_the_newest_versions_which_is_no_fault(lock, monkeypatch):
    monkeypatch.setattr(doctor, "in_checkout", lambda: False)
    monkeypatch.setattr(course_folder, "in_checkout", lambda: False)
    set_versions(monkeypatch, numpy="9.9")
    assert (doctor.check_packages().level, doctor.check_packages().fix) == ("ok", "")
    set_versions(monkeypatch, numpy=None)
    assert doctor.check_packages().level == "fail"
    assert doctor.check_packages().fix == "run `python -m pip install --upgrade 'folovllm[course]'`"


def test_a_lock_that_is_not_there_is_a_warning(lock, monkeypatch):
    monkeypatch.setattr(doctor, "find_lock", lambda: None)
    check = doctor.check_packages()
    assert check.level == "warn"
    assert "`make lab`" in check.fix


@pytest.mark.parametrize(
    ("prefix", "fix"),
    [
        ("clone/.venv", "run `make lab`"),
        ("conda/envs/folovllm", "run `python -m pip install -r requirements.lock -e .` in the checkout"),
    ],
)
def test_the_fix_for_packages_fits_the_environment(lock, monkeypatch, prefix, fix):
    monkeypatch.setattr(sys, "prefix", prefix)
    set_versions(monkeypatch, torch="1.0")
    assert doctor.check_packages().fix == fix


def without_a_card(monkeypatch, nvidia_driver):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/usr/bin/nvidia-smi" if nvidia_driver else None)


def test_a_cpu_is_a_fit_device(monkeypatch):
    without_a_card(monkeypatch, nvidia_driver=False)
    monkeypatch.setattr(doctor, "count_cores", torch.get_num_threads)
    check = doctor.check_device()
    assert (check.level, check.fix) == ("ok", "")
    assert re.search(rf"\({torch.get_num_threads()} threads?\)", check.detail)


def test_more_threads_than_cores_are_a_warning(monkeypatch):
    without_a_card(monkeypatch, nvidia_driver=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    monkeypatch.setattr(doctor, "count_cores", lambda: 2)
    check = doctor.check_device()
    assert (check.level, check.fix) == ("warn", "set OMP_NUM_THREADS=2 before you start")
    assert "64 threads), more than the 2 cores" in check.detail


@pytest.mark.parametrize(("built_for", "fix"), [(None, "a build for CPU only"), ("13.0", "update the driver")])
def test_an_unused_nvidia_card_is_a_warning_that_says_why(monkeypatch, built_for, fix):
    without_a_card(monkeypatch, nvidia_driver=True)
    monkeypatch.setattr(torch.version, "cuda", built_for)
    check = doctor.check_device()
    assert check.level == "warn"
    assert fix in check.fix


@pytest.mark.gpu
def test_the_card_is_named():
    check = doctor.check_device()
    assert check.level == "ok"
    assert torch.cuda.get_device_name() in check.detail


def test_a_device_that_computes_nothing_has_failed(monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("CUDA error: no kernel image\nCompile with ...")

    monkeypatch.setattr(torch, "ones", broken)
    check = doctor._run("device", doctor.check_device)
    assert (check.level, check.detail) == ("fail", "RuntimeError: CUDA error: no kernel image")
    assert check.fix


@pytest.fixture
def machine_with_kernels(monkeypatch):
    monkeypatch.setattr(available, "why_no_kernels", lambda: None)
    monkeypatch.setattr(available, "kernels_to_compile", lambda: [])


def test_compiled_kernels_are_fit(machine_with_kernels):
    check = doctor.check_kernels()
    assert (check.level, check.fix) == ("ok", "")
    assert check.detail == f"numba {metadata.version('numba')}, compiled for this machine"


def test_kernels_that_are_not_compiled_yet_are_a_warning(machine_with_kernels, monkeypatch):
    monkeypatch.setattr(available, "kernels_to_compile", lambda: ["forward"])
    check = doctor.check_kernels()
    assert check.level == "warn"
    assert "not compiled yet" in check.detail
    assert check.fix.startswith("run `python -m folovllm model`")


def test_kernels_that_nothing_can_keep_are_a_warning(machine_with_kernels, monkeypatch):
    monkeypatch.setattr(available, "kernels_to_compile", lambda: ["forward"])
    monkeypatch.setattr(code_cache, "can_keep", lambda: False)
    check = doctor.check_kernels()
    assert check.level == "warn"
    assert "every program compiles anew" in check.detail
    assert check.fix == "set FOLOVLLM_CACHE to a folder that only you can write"


@pytest.mark.parametrize(
    ("reason", "fix"),
    [("ImportError: llvmlite is broken", course_folder.how_to_install()), ("NUMBA_DISABLE_JIT is set", "unset it")],
)
def test_a_machine_without_kernels_is_told_what_that_costs(monkeypatch, reason, fix):
    monkeypatch.setattr(available, "why_no_kernels", lambda: reason)
    check = doctor.check_kernels()
    assert (check.level, check.fix) == ("warn", fix)
    assert check.detail == f"none on this CPU ({reason}): {doctor.WITHOUT_KERNELS}"


def test_a_missing_numba_is_a_warning_not_a_traceback(monkeypatch):
    available.why_no_kernels.cache_clear()
    monkeypatch.setitem(sys.modules, "numba", None)
    check = doctor.check_kernels()
    available.why_no_kernels.cache_clear()
    assert check.level == "warn"
    assert "ModuleNotFoundError" in check.detail


@pytest.mark.parametrize(("free", "level"), [(8.0, "ok"), (1.5, "warn"), (0.5, "fail")])
def test_memory_is_judged_by_what_is_free(monkeypatch, free, level):
    memory = types.SimpleNamespace(available=int(free * GIB), total=16 * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    check = doctor.check_memory()
    assert check.level == level
    assert check.detail == f"{free:.1f} of 16.0 GiB free"
    assert ("close other programs" in check.fix) == (level != "ok")


@pytest.mark.parametrize(("mebibytes", "level"), [(2048, "ok"), (1000, "warn"), (600, "fail")])
def test_memory_is_that_of_the_container_if_it_has_a_limit(monkeypatch, mebibytes, level):
    limit = FreeMemory(mebibytes * 2**20, 4 * GIB, "the container's limit", "allow the container more memory")
    monkeypatch.setattr(doctor, "free_memory", lambda: limit)
    check = doctor.check_memory()
    assert (check.level, check.detail) == (level, f"{mebibytes / 1024:.1f} of 4.0 GiB free, the container's limit")
    assert check.fix == ("" if level == "ok" else "allow the container more memory; 2 GiB are enough")


def test_the_doctor_speaks_of_memory_in_the_language_of_its_user(monkeypatch):
    monkeypatch.setenv("FOLOVLLM_LANG", "zh")
    memory = types.SimpleNamespace(available=GIB // 2, total=16 * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    found = free_memory()
    assert "0.5 of 16.0 GiB free" in str(found)  # the engine's errors stay English
    check = doctor.check_memory()
    assert (check.detail, check.fix) == ("16.0 GiB 中空闲 0.5 GiB", "关掉别的程序和用完的 notebook；2 GiB 就够了")
    monkeypatch.setattr(doctor, "free_memory", lambda: replace(found, limit="the container's limit"))
    assert doctor.check_memory().detail == "16.0 GiB 中空闲 0.5 GiB，这是容器的上限"


def test_addresses_run_out_before_pages_do(monkeypatch):
    limit = FreeMemory(1000 * 2**20, 2 * GIB, "the limit of `ulimit -v`", counts_addresses=True)
    monkeypatch.setattr(doctor, "free_memory", lambda: limit)
    assert doctor.check_memory().level == "fail"


def test_a_check_that_found_no_memory_says_so(monkeypatch):
    def starved(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(torch, "ones", starved)
    check = doctor._run("device", doctor.check_device)
    assert (check.level, check.fix) == ("fail", free_memory().fix)


def set_free_disk(monkeypatch, free):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: types.SimpleNamespace(free=free))


def test_a_disk_with_room_for_the_model_is_fit(monkeypatch):
    set_free_disk(monkeypatch, bundled.SMOLLM2.disk_bytes)
    assert doctor.check_disk().level == "ok"


def test_a_full_disk_is_a_failure_with_two_ways_out(monkeypatch):
    set_free_disk(monkeypatch, bundled.SMOLLM2.disk_bytes - 1)
    check = doctor.check_disk()
    assert check.level == "fail"
    assert check.fix == "free 0.8 GiB, or set FOLOVLLM_CACHE to a folder on another disk"


def test_a_cache_that_cannot_be_written_is_a_failure(monkeypatch):
    monkeypatch.setattr(doctor.os, "access", lambda folder, mode: False)
    check = doctor.check_disk()
    assert (check.level, check.fix) == ("fail", "set FOLOVLLM_CACHE to a folder on another disk")


def test_once_the_model_is_there_the_disk_may_be_full(monkeypatch, model_is_cached):
    set_free_disk(monkeypatch, 0)
    assert doctor.check_disk().level == "ok"


@pytest.mark.parametrize("name", ["disk", "model"])
def test_without_a_home_folder_the_doctor_says_what_to_set(monkeypatch, name):
    for variable in ("FOLOVLLM_CACHE", "FOLOVLLM_MODEL", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(Path, "home", without_a_home)
    [check] = [each for each in doctor.run_checks() if each.name == name]
    assert check.level == "fail"
    assert check.detail == "this user has no home folder"
    assert check.fix.startswith("set HOME to a folder that can be written")


def test_a_library_that_finds_no_home_gets_the_same_advice(monkeypatch):
    monkeypatch.setattr(doctor, "CHECKS", {"widgets": without_a_home})
    [check] = doctor.run_checks()
    assert (check.level, check.detail) == ("fail", "this user has no home folder")


def without_a_home():
    raise RuntimeError("Could not determine home directory.")


def test_a_healthy_disk_is_shown_without_anybodys_folder_names(monkeypatch, tmp_path):
    assert doctor.check_disk().detail.endswith("GiB free in FOLOVLLM_CACHE")
    monkeypatch.delenv("FOLOVLLM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert doctor.check_disk().detail.endswith("GiB free in the user's cache")


def test_the_bundled_model_is_fit_when_it_is_cached(model_is_cached):
    check = doctor.check_model()
    assert (check.level, check.tag) == ("ok", "bundled")


def test_a_missing_bundled_model_is_a_failure_that_also_knows_the_way_without_network():
    check = doctor.check_model()
    assert check.level == "fail"
    assert "`python -m folovllm model`" in check.fix
    assert "--from FILE" in check.fix


def test_a_model_folder_is_fit_when_it_has_a_config(monkeypatch, tmp_path):
    monkeypatch.setenv("FOLOVLLM_MODEL", str(tmp_path))
    check = doctor.check_model()
    assert (check.level, check.fix) == ("fail", "set it to a model's folder or a name on the hub, or unset it")
    (tmp_path / "config.json").touch()
    assert doctor.check_model().level == "ok"


def test_a_hub_model_that_is_not_downloaded_is_a_warning(monkeypatch):
    import huggingface_hub

    monkeypatch.setenv("FOLOVLLM_MODEL", "someone/some-model")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda name, file: None)
    check = doctor.check_model()
    assert check.level == "warn"
    assert "stay online" in check.fix
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda name, file: f"cache/{name}/{file}")
    assert doctor.check_model().level == "ok"


def test_widgets_of_the_lock_are_fit():
    assert doctor.check_widgets().level == "ok"


def test_widgets_whose_versions_do_not_fit_are_a_failure(monkeypatch):
    set_versions(monkeypatch, jupyterlab_widgets="1.1.0")
    check = doctor.check_widgets()
    assert check.level == "fail"
    assert "do not fit together" in check.detail
    assert check.fix


def test_an_extension_that_jupyterlab_does_not_find_is_a_failure(monkeypatch, tmp_path):
    import jupyter_core.paths

    monkeypatch.setattr(jupyter_core.paths, "jupyter_path", lambda *parts: [str(tmp_path.joinpath(*parts))])
    check = doctor.check_widgets()
    assert check.level == "fail"
    assert "--force-reinstall --no-deps jupyterlab_widgets" in check.fix


@pytest.mark.parametrize(
    ("module", "checks"),
    [
        ("packaging.requirements", ["packages", "widgets"]),
        ("torch", ["device"]),
        ("psutil", ["memory"]),
        ("folovllm.models.bundled", ["disk", "model"]),
        ("jupyter_core.paths", ["widgets"]),
    ],
)
def test_a_missing_package_is_a_finding_not_a_traceback(monkeypatch, module, checks):
    monkeypatch.setitem(sys.modules, module, None)  # Python's own way to say: cannot be imported
    found = {check.name: check for check in doctor.run_checks()}
    for name in checks:
        assert found[name].level == "fail"
        assert found[name].detail.startswith("ModuleNotFoundError: ")
        assert module in found[name].detail
        assert found[name].fix


def test_the_doctor_starts_where_nothing_is_installed():
    command = "import sys; from folovllm import doctor; print({'torch', 'packaging', 'psutil'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"


def fake_checks(monkeypatch, *levels):
    checks = [
        doctor.Check(f"check{i}", level, "found", "" if level == "ok" else "mend it", f"tag{i}")
        for i, level in enumerate(levels)
    ]
    monkeypatch.setattr(doctor, "CHECKS", {check.name: lambda check=check: check for check in checks})
    return checks


@pytest.mark.parametrize(("levels", "code"), [(["ok", "ok"], 0), (["ok", "warn"], 0), (["fail", "ok"], 1)])
def test_the_exit_code_says_whether_something_failed(monkeypatch, levels, code):
    fake_checks(monkeypatch, *levels)
    assert command_line(["doctor"]) == code


def test_every_finding_is_one_line_with_its_fix(monkeypatch, capsys):
    fake_checks(monkeypatch, "ok", "warn", "fail")
    doctor.main()
    assert capsys.readouterr().out.splitlines()[:3] == [
        "ok    check0    found",
        "warn  check1    found -> mend it",
        "fail  check2    found -> mend it",
    ]


def test_the_instructors_code_is_one_line_that_marks_what_is_not_well(monkeypatch):
    code = doctor.instructor_code(fake_checks(monkeypatch, "ok", "warn", "fail"))
    assert code.startswith("FOLO-1 ok=1/3 tag0 tag1? tag2! ")
    assert "\n" not in code


def test_every_check_of_the_real_machine_fits_a_line(capsys):
    doctor.main()
    *lines, blank, code = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == list(doctor.CHECKS)
    assert blank == ""
    assert code.startswith("For the instructor: FOLO-1 ok=")


def test_the_doctors_command_starts_where_psutil_is_missing():
    command = "import sys; sys.modules['psutil'] = None; from folovllm.__main__ import main; main(['doctor'])"
    run = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    [line] = [line for line in run.stdout.splitlines() if line.split()[1:2] == ["memory"]]
    assert "psutil" in line


def test_where_there_is_a_card_its_command_is_named():
    with PretendedCard(memory=3 * 2**30):
        check = doctor.check_device()
    assert check.level == "ok"
    assert "cuda (pretended card, 3 GiB); `make test-gpu`" in check.detail
    assert "make test-gpu" not in doctor.check_device().detail
