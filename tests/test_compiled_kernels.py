"""Compiled code outlives its process, and nothing that happens to its files is more than a compilation.

Each test works on a copy of what compiles, with a kernel of two lines, in processes of their own.
"""

import errno
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from folovllm.kernels import code_cache

PACKAGE = Path(code_cache.__file__).parents[1]
KERNEL = """
from folovllm.kernels.compiled import entry, kernel

@kernel
def inner(x):
    return x + 1

@entry
def little(numbers):
    return inner(numbers[2])
"""
CALL = """
import numpy as np
from folovllm.kernels.little import little
print(little(np.zeros(3)), sum(little.stats.cache_hits.values()), sum(little.stats.cache_misses.values()))
"""
COMPILED, LOADED = "1.0 0 1\n", "1.0 1 0\n"
NO_TEMPORARY_FILES = "import tempfile; tempfile.tempdir = '/dev/null/none'\n"


class Machine:
    """A copy of the code, a cache folder and one for temporary files, all in one folder."""

    def __init__(self, folder: Path) -> None:
        self.root = folder
        kernels = folder / "folovllm" / "kernels"
        kernels.mkdir(parents=True)
        for name in ("cache_folder.py", "kernels/__init__.py", "kernels/available.py", "kernels/compiled.py"):
            shutil.copy(PACKAGE / name, folder / "folovllm" / name)
        shutil.copy(PACKAGE / "kernels" / "code_cache.py", kernels)
        (kernels.parent / "__init__.py").touch()
        self.kernel = kernels / "little.py"
        self.kernel.write_text(KERNEL)
        self.cache = folder / "cache"
        self.temporary = folder / "temporary"
        self.temporary.mkdir()

    def start(self, script: str = CALL, **settings: str) -> subprocess.Popen[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
        environment |= {"FOLOVLLM_CACHE": str(self.cache), "TMPDIR": str(self.temporary), **settings}
        command = [sys.executable, "-c", script]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, cwd=self.root, env=environment, text=True, **pipes)

    def run(self, script: str = CALL, **settings: str) -> tuple[str, str]:
        """Return what a process printed, on stdout and on stderr."""
        process = self.start(script, **settings)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        return out, err

    @property
    def kept(self) -> list[Path]:
        return sorted((self.cache / "kernels").glob("*"))


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_the_first_process_compiles_and_says_so_and_the_second_loads_in_silence(machine):
    out, err = machine.run()
    assert out == COMPILED
    started, ended = err.splitlines()
    assert started == "kernels: compiling little for this machine, once (up to a minute) ..."
    assert ended.startswith("kernels: compiled in ")
    assert ended.endswith(" s")
    assert machine.run() == (LOADED, "")
    assert len(machine.kept) == 1
    assert list(machine.temporary.iterdir()) == []


def test_a_change_of_an_inner_function_alone_compiles_anew(machine):
    machine.run()
    machine.kernel.write_text(KERNEL.replace("x + 1", "x + 7"))
    assert machine.run()[0] == COMPILED.replace("1.0", "7.0")
    assert len(machine.kept) == 2
    machine.kernel.write_text(KERNEL)  # another checkout, another branch: both versions stay
    assert machine.run() == (LOADED, "")


def cut_off(content):
    return content[: len(content) // 2]


def one_bit_turned(content):
    return content[:-100] + bytes([content[-100] ^ 1]) + content[-99:]


def something_else(content):
    other = b"no compiled code"
    return hashlib.sha256(other).digest() + other


@pytest.mark.parametrize("damage", [cut_off, one_bit_turned, something_else, lambda content: b""])
def test_a_damaged_file_is_made_again(machine, damage):
    machine.run()
    [file] = machine.kept
    file.write_bytes(damage(file.read_bytes()))
    assert machine.run()[0] == COMPILED
    assert machine.run() == (LOADED, "")


def test_without_a_writable_home_a_folder_for_temporary_files_serves(machine):
    machine.cache.touch()  # a file where the folder should be: even root cannot write there
    assert machine.run()[0] == COMPILED
    assert machine.run() == (LOADED, "")
    [folder] = machine.temporary.iterdir()
    assert folder.stat().st_mode & 0o022 == 0


def test_without_any_folder_every_process_compiles_and_says_why(machine):
    machine.cache.touch()
    for _ in range(2):
        out, err = machine.run(NO_TEMPORARY_FILES + CALL)
        assert out == COMPILED
        assert err.endswith(" s, and nowhere to keep it: see FOLOVLLM_CACHE\n")
    script = NO_TEMPORARY_FILES + "from folovllm.kernels.code_cache import can_keep; print(can_keep())"
    assert machine.run(script) == ("False\n", "")


def test_a_user_without_a_home_is_no_error(machine):
    homeless = """
from pathlib import Path
def no_home(): raise RuntimeError("Could not determine home directory.")
Path.home = no_home
"""
    assert machine.run(homeless + CALL, FOLOVLLM_CACHE="", XDG_CACHE_HOME="")[0] == COMPILED
    assert machine.run(homeless + CALL, FOLOVLLM_CACHE="", XDG_CACHE_HOME="") == (LOADED, "")


def test_a_disk_that_fills_up_costs_nothing_but_the_time(machine):
    full = f"""
import os
def fill(*names): raise OSError({errno.ENOSPC}, "No space left on device")
os.replace = fill
"""
    out, err = machine.run(full + CALL)
    assert out == COMPILED
    assert "nowhere to keep it" in err
    assert machine.kept == []


def test_two_processes_may_compile_at_the_same_time(machine):
    processes = [machine.start() for _ in range(2)]
    for process in processes:
        out, err = process.communicate(timeout=300)
        assert (process.returncode, out) in ((0, COMPILED), (0, LOADED)), err
    assert len(machine.kept) == 1
    assert machine.run() == (LOADED, "")


def test_a_folder_that_others_can_write_is_neither_read_nor_written(machine):
    machine.run()
    [file] = machine.kept
    file.parent.chmod(0o777)
    assert machine.run()[0] == COMPILED
    assert machine.kept == [file]
    assert machine.run() == (LOADED, "")  # from the folder for temporary files


def test_a_file_that_others_can_write_is_not_read(machine):
    machine.run()
    machine.kept[0].chmod(0o666)
    assert machine.run()[0] == COMPILED
    assert machine.run() == (LOADED, "")


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="Windows has no such owners")
def test_only_this_user_root_and_the_owner_of_the_source_are_trusted(monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 1001)
    monkeypatch.setattr(code_cache.os, "stat", lambda path: SimpleNamespace(st_uid=1002))
    trusted = {
        uid for uid in (0, 1001, 1002, 1003) if code_cache._is_trusted(SimpleNamespace(st_uid=uid, st_mode=0o644))
    }
    assert trusted == {0, 1001, 1002}
    assert not code_cache._is_trusted(SimpleNamespace(st_uid=1001, st_mode=0o664))


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="Windows has no such owners")
def test_anothers_link_to_a_folder_of_ours_is_not_followed(tmp_path):
    (tmp_path / "ours").mkdir(mode=0o755)
    (tmp_path / "link").symlink_to(tmp_path / "ours")
    assert code_cache._is_safe(tmp_path / "link")

    class Planted(type(tmp_path)):
        def lstat(self):
            return SimpleNamespace(st_uid=self.stat().st_uid + 1)

    assert not code_cache._is_safe(Planted(tmp_path / "link"))


def test_a_folder_that_cannot_be_written_is_still_read(machine):
    """A hub's folder, which root has filled for all users."""
    machine.run()
    read_only = "import os; os.access = lambda path, mode: False\n"
    assert machine.run(read_only + CALL) == (LOADED, "")


def test_another_processor_has_code_of_its_own_and_so_has_another_setting(machine):
    machine.run()
    assert machine.run(NUMBA_CPU_NAME="generic")[0] == COMPILED
    assert machine.run(NUMBA_BOUNDSCHECK="1")[0] == COMPILED
    assert len(machine.kept) == 3
    assert machine.run() == (LOADED, "")


def test_numbas_own_folder_stays_the_users(machine):
    machine.run()
    own = machine.root / "own.py"
    own.write_text("import numba\n@numba.njit(cache=True)\ndef own(x):\n    return x + 1\n")
    script = CALL + "from own import own; own(1); import numba; print(numba.config.CACHE_DIR, own.stats.cache_path)"
    folder = machine.root / "users"
    out, _ = machine.run(script, NUMBA_CACHE_DIR=str(folder))
    assert out.startswith(LOADED)
    directory, path = out.splitlines()[1].split()
    assert Path(directory) == folder
    assert Path(path).parent == folder
    assert len(machine.kept) == 1
    assert [each.name for each in folder.iterdir()] == [Path(path).name]


def test_numbas_own_folder_serves_where_ours_cannot_be_written(machine):
    machine.cache.touch()
    folder = machine.root / "users"
    machine.run(NUMBA_CACHE_DIR=str(folder))
    assert len(list((folder / "folovllm").iterdir())) == 1
    assert machine.run(NUMBA_CACHE_DIR=str(folder)) == (LOADED, "")


def test_without_compilation_there_are_no_kernels_and_it_is_said_why(machine):
    script = """
from folovllm.kernels.available import why_no_kernels
from folovllm.kernels import little  # which does no harm
print(why_no_kernels())
"""
    assert machine.run(script, NUMBA_DISABLE_JIT="1") == ("NUMBA_DISABLE_JIT is set\n", "")
    assert machine.run(script) == ("None\n", "")
    missing = "import sys; sys.modules['numba'] = None\n" + script.replace("from folovllm.kernels import little", "")
    reason, _ = machine.run(missing)
    assert reason.startswith("ModuleNotFoundError: ")
    assert reason.count("\n") == 1


def test_what_is_still_to_compile_is_known(machine):
    script = "from folovllm.kernels.available import kernels_to_compile; print(kernels_to_compile())"
    assert machine.run(script) == ("['little']\n", "")
    machine.run()
    assert machine.run(script) == ("[]\n", "")
    machine.kernel.write_text(KERNEL + "\n")
    assert machine.run(script) == ("['little']\n", "")


def test_the_folder_keeps_the_files_used_last(tmp_path, monkeypatch):
    monkeypatch.setattr(code_cache, "_MOST_FILES", 2)
    for name, age in (("old", 300), ("older", 200)):
        assert code_cache._write(tmp_path / name, b"code")
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    assert code_cache._read(tmp_path / "old") == b"code"  # used: it stays
    assert code_cache._write(tmp_path / "new", b"code")
    assert {path.name for path in tmp_path.iterdir()} == {"old", "new"}


def run_in_checkout(script: str, **settings: str) -> tuple[str, str]:
    environment = {**os.environ, **settings}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=PACKAGE.parent, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_importing_the_engine_does_not_import_numba():
    script = "import sys, folovllm.llm; print({'numba', 'llvmlite'} & set(sys.modules))"
    assert run_in_checkout(script) == ("set()\n", "")


def test_after_compiling_ahead_no_model_has_to_wait():
    """Whatever has another head size, biases, a window, another family or another number of sequences."""
    script = """
from numba.core.dispatcher import Dispatcher
from folovllm import SamplingParams, kernels
from folovllm.compile_ahead import use_every_kernel
from folovllm.kernels.available import kernels_to_compile
from folovllm.kernels.compiled import ENTRIES
from tests.tiny_models import tiny_llm, tiny_model

print(kernels_to_compile())  # which imports all, and which the start of the tests has filled
found = (each for module in vars(kernels).values() for each in getattr(module, "__dict__", {}).values())
entries = {each for each in found if isinstance(each, Dispatcher) and each._cache in ENTRIES}

def types():
    return {entry.__name__: entry.signatures for entry in entries}

use_every_kernel()
ahead = types()
for family in ("llama", "qwen2", "qwen3", "mistral-window", "gpt2", "gemma"):
    for model_impl in ("auto", "transformers"):
        llm = tiny_llm(tiny_model(family), model_impl=model_impl)
        llm.generate([[5, 6, 7], [8, 9]], SamplingParams(max_tokens=3, n=2, logprobs=1, top_p=0.9), use_tqdm=False)
print(len(entries) == len(ENTRIES), all(ahead.values()), types() == ahead)
"""
    assert run_in_checkout(script) == ("[]\nTrue True True\n", "")
