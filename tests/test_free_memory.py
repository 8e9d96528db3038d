"""What a process may take is what its tightest limit leaves: the machine's, a control group's, or ``ulimit``'s.

Control groups are folders of files; here they are written as the kernel would. What ``ulimit`` does is tried for real.
"""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

import folovllm.free_memory
from folovllm import get_model_and_tokenizer
from folovllm.config import CacheConfig, ModelConfig
from folovllm.control_groups import count_cores, find_groups
from folovllm.engine import llm_engine
from folovllm.free_memory import free_memory, is_out_of_memory, out_of_memory_explained
from folovllm.models.memory import size_cache
from folovllm.models.probe import get_attention
from tests.tiny_models import tiny_llm, tiny_model
from tests.tiny_tokenizers import byte_level_tokenizer

MIB, GIB = 2**20, 2**30
linux = pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux's")
V1_NO_LIMIT = 9223372036854771712


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """A machine with 16 GiB, 8 of them free; the process has no limits of its own."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=8 * GIB, total=16 * GIB))
    if sys.platform == "linux":
        import resource

        monkeypatch.setattr(resource, "getrlimit", lambda which: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


class System:
    """A root folder with ``proc`` and hierarchies of control groups."""

    def __init__(self, root: Path, memberships: str, *mounts: str) -> None:
        self.root = root
        self.write("proc/self/cgroup", memberships)
        self.write("proc/self/mountinfo", "".join(f"31 23 0:28 {mount}\n" for mount in mounts))

    def write(self, path: str, text: object) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(str(text))

    def group(self, folder: str, stat: str = "", **files: object) -> None:
        for name, content in files.items():
            self.write(f"sys/fs/cgroup/{folder}/{name.replace('memory_', 'memory.').replace('cpu_', 'cpu.')}", content)
        self.write(f"sys/fs/cgroup/{folder}/memory.stat", stat)

    def left(self) -> tuple[int, int, str]:
        memory = free_memory(root=self.root)
        return memory.free // MIB, memory.total // MIB, memory.limit


V2_MOUNT = "/ /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate"
V1_MOUNT = "/ /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory"
CONTAINER = "the container's limit"


def test_without_a_limit_it_is_the_machines(tmp_path):
    assert System(tmp_path, "").left() == (8192, 16384, "")


@linux
def test_version_1_counts_limits_of_groups_that_the_container_does_not_see(tmp_path):
    system = System(tmp_path, "9:memory:/\n", V1_MOUNT)
    unlimited = 9223372036854771712
    system.group("memory", f"hierarchical_memory_limit {GIB}", memory_limit_in_bytes=unlimited, memory_usage_in_bytes=0)
    assert system.left() == (1024, 1024, CONTAINER)


@linux
def test_version_2_counts_the_cache_of_files_as_free(tmp_path):
    system = System(tmp_path, "0::/job\n", V2_MOUNT)
    stat = (
        f"anon {200 * MIB}\nfile {600 * MIB}\ninactive_file {400 * MIB}\nactive_file {100 * MIB}\nshmem {100 * MIB}\n"
    )
    system.group("job", stat, memory_max=1000 * MIB, memory_current=800 * MIB)
    assert system.left() == (700, 1000, CONTAINER)
    assert str(free_memory(root=tmp_path)) == "0.7 of 1.0 GiB free, the container's limit"


@linux
def test_version_1_counts_groups_below_too_and_its_huge_number_is_no_limit(tmp_path):
    system = System(tmp_path, "9:name=systemd:/\n4:memory:/pods/mine\n0::/\n", V1_MOUNT)
    stat = f"inactive_file 0\nactive_file 0\ntotal_inactive_file {50 * MIB}\ntotal_active_file 0\n"
    system.group("memory", memory_limit_in_bytes=V1_NO_LIMIT, memory_usage_in_bytes=4 * GIB)
    system.group("memory/pods", memory_limit_in_bytes=V1_NO_LIMIT, memory_usage_in_bytes=2 * GIB)
    assert system.left() == (8192, 16384, "")
    system.group("memory/pods/mine", stat, memory_limit_in_bytes=800 * MIB, memory_usage_in_bytes=300 * MIB)
    assert system.left() == (550, 800, CONTAINER)


@linux
def test_a_group_above_may_be_the_tightest(tmp_path):
    system = System(tmp_path, "0::/slice/unit/scope\n", V2_MOUNT)
    system.group("slice/unit/scope", memory_max="max", memory_current=MIB)
    system.group("slice/unit", memory_max=3 * GIB, memory_current=MIB)
    system.group("slice", memory_max=4 * GIB, memory_current=3 * GIB)
    assert system.left() == (1024, 4096, CONTAINER)


@linux
def test_a_group_is_slowed_down_from_memory_high_on(tmp_path):
    system = System(tmp_path, "0::/\n", V2_MOUNT)
    system.group("", memory_max=4 * GIB, memory_high=2 * GIB, memory_current=GIB)
    assert system.left() == (1024, 2048, CONTAINER)


IN_CONTAINERS = {
    "own name space": ("0::/\n", V2_MOUNT, ""),
    "named as on the host, mounted as the root": ("0::/docker/abc\n", V2_MOUNT.replace("/ ", "/docker/abc ", 1), ""),
    "version 1, named as on the host": ("4:memory:/docker/abc\n", V1_MOUNT.replace("/ ", "/docker/abc ", 1), "memory"),
    "a group below the mounted one": ("0::/pod/abc/x\n", V2_MOUNT.replace("/ ", "/pod/abc ", 1), "x"),
    "mounted from outside the name space": ("0::/\n", V2_MOUNT.replace("/ ", "/../.. ", 1), ""),
    "moved out of the name space": ("0::/../other\n", V2_MOUNT, ""),
    "a mount of a longer name": ("0::/docker/abcd\n", V2_MOUNT.replace("/ ", "/docker/abc ", 1), ""),
    "two controllers together": (
        "4:cpu,memory:/\n",
        "/ /sys/fs/cgroup/cpu,memory rw - cgroup cgroup rw,cpu,memory",
        "cpu,memory",
    ),
    "both versions": ("4:memory:/a\n0::/b\n", V1_MOUNT, "memory/a"),
    "white space": ("0::/a b\n", r"/a\040b /sys/fs/cgroup/with\040space rw - cgroup2 none rw", "with space"),
}


@linux
@pytest.mark.parametrize(("memberships", "mount", "folder"), IN_CONTAINERS.values(), ids=IN_CONTAINERS)
def test_a_container_may_see_its_group_under_several_names(tmp_path, memberships, mount, folder):
    system = System(tmp_path, memberships, mount)
    prefix = "memory_max", "memory_current"
    if "memory" in folder:
        prefix = "memory_limit_in_bytes", "memory_usage_in_bytes"
    system.group(folder, **dict(zip(prefix, (GIB, GIB // 4), strict=True)))
    assert system.left() == (768, 1024, CONTAINER)


ODD = ["", "\n", "max", "-1", "0x10", "many", "\x00\xff", "1 2 3", "²"]


@linux
@pytest.mark.parametrize("text", ODD, ids=repr)
def test_odd_files_are_no_limit_and_never_an_error(tmp_path, text):
    system = System(tmp_path, f"{text}\n:::\n0::/a\n4:memory:/a\n", text, "- - -", "a b c", V2_MOUNT, V1_MOUNT)
    for folder in ("a", "memory/a"):
        names = ("memory_max", "memory_high", "memory_current", "memory_limit_in_bytes", "memory_usage_in_bytes")
        system.group(folder, text, **dict.fromkeys((*names, "cpu_max", "cpu_cfs_quota_us"), text))
    system.write("proc/self/statm", text)
    assert system.left() == (8192, 16384, "")
    assert count_cores(tmp_path) == count_cores(tmp_path / "nothing")


@linux
def test_files_that_cannot_be_read_are_no_limit(tmp_path):
    system = System(tmp_path, "0::/a\n", V2_MOUNT)
    (tmp_path / "sys/fs/cgroup/a/memory.max").mkdir(parents=True)  # a folder where a file should be
    assert system.left() == (8192, 16384, "")
    assert free_memory(root=tmp_path / "nowhere").limit == ""


@linux
def test_a_limit_without_a_usage_is_still_a_limit(tmp_path):
    system = System(tmp_path, "0::/\n", V2_MOUNT)
    system.group("", memory_max=GIB)
    assert system.left() == (1024, 1024, CONTAINER)


def test_another_system_has_no_control_groups(tmp_path, monkeypatch):
    System(tmp_path, "0::/\n", V2_MOUNT).group("", memory_max=GIB)
    monkeypatch.setattr(folovllm.free_memory.sys, "platform", "darwin")
    assert free_memory(root=tmp_path).limit == ""


@linux
def test_mapped_files_take_from_the_machine_and_the_groups_but_not_again_from_ulimit(tmp_path, monkeypatch):
    import resource

    system = System(tmp_path, "0::/\n", V2_MOUNT)
    assert free_memory(GIB, tmp_path).free == 7 * GIB
    system.group("", memory_max=2 * GIB, memory_current=GIB // 2)
    assert free_memory(GIB, tmp_path).free == GIB // 2
    assert free_memory(4 * GIB, tmp_path).free == 0
    limits = {resource.RLIMIT_AS: GIB, resource.RLIMIT_DATA: resource.RLIM_INFINITY}
    monkeypatch.setattr(resource, "getrlimit", lambda which: (limits[which], resource.RLIM_INFINITY))
    pages = 768 * MIB // resource.getpagesize()
    system.write("proc/self/statm", f"{pages} 9 9 9 0 {pages // 2} 0")
    assert free_memory(GIB // 4, tmp_path).free == GIB // 4
    assert free_memory(GIB // 4, tmp_path).limit == "the limit of `ulimit -v`"
    limits[resource.RLIMIT_DATA] = GIB // 2
    assert system.left() == (128, 512, "the limit of `ulimit -d`")


@linux
def test_this_process_finds_its_own_groups():
    groups = find_groups("memory")
    assert all(group.is_dir() for group in groups)
    if Path("/sys/fs/cgroup/cgroup.controllers").exists() or Path("/sys/fs/cgroup/memory").exists():
        assert groups


@linux
@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu_max": "150000 100000"}, 2),
        ({"cpu_max": "max 100000"}, 64),
        ({"cpu_max": "50000 100000"}, 1),
        ({"cpu_cfs_quota_us": 300_000, "cpu_cfs_period_us": 100_000}, 3),
        ({"cpu_cfs_quota_us": -1, "cpu_cfs_period_us": 100_000}, 64),
        ({"cpu_cfs_quota_us": 100_000, "cpu_cfs_period_us": 0}, 64),
    ],
)
def test_cores_are_those_that_the_groups_pay_for(tmp_path, monkeypatch, files, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(64))
    version_1 = "cpu_max" not in files
    mount = "/ /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu" if version_1 else V2_MOUNT
    system = System(tmp_path, "3:cpu:/\n" if version_1 else "0::/\n", mount)
    system.group("cpu" if version_1 else "", **files)
    assert count_cores(tmp_path) == cores


# -- what the engine makes of it --------------------------------------------------------------------------------


def set_free(monkeypatch, free: int) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=free, total=16 * GIB))


def sized(model: PreTrainedModel, **settings: object) -> tuple[int, int]:
    """Return the bytes of the KV cache, and of the host blocks, less than a block rounded off."""
    spec = get_attention(model, False)
    config = size_cache(CacheConfig(**settings), spec, model, 2048)
    block_bytes = 16 * spec.bytes_per_token(model.dtype)
    return config.num_gpu_blocks * block_bytes, config.num_cpu_blocks * block_bytes


@linux
@pytest.mark.parametrize(("free", "cache", "swap"), [(16 * GIB, GIB, 3 * GIB), (2 * GIB, GIB // 2, GIB // 2)])
def test_the_cache_and_the_swapped_blocks_each_take_a_quarter_at_most(monkeypatch, free, cache, swap):
    set_free(monkeypatch, free)
    assert sized(tiny_model(num_hidden_layers=1), swap_space=3) == (cache, swap)


@linux
def test_weights_that_are_pages_of_a_file_are_taken_off_first(monkeypatch, tmp_path):
    given = tiny_model(num_hidden_layers=1)
    given.save_pretrained(tmp_path)
    byte_level_tokenizer().save_pretrained(tmp_path)
    mapped, _ = get_model_and_tokenizer(ModelConfig(str(tmp_path)), device="cpu")
    weights = sum(weight.nbytes for weight in mapped.parameters())
    set_free(monkeypatch, 8 * weights)
    difference = sized(given, swap_space=0)[0] - sized(mapped, swap_space=0)[0]
    assert difference == pytest.approx(weights // 4, abs=8192)


@linux
def test_too_little_memory_for_a_block_is_refused_with_what_is_free_and_what_to_do(monkeypatch):
    set_free(monkeypatch, 1000)
    message = r"free memory \(0.0 of 16.0 GiB free, after the weights\) leaves 250 bytes .*close other programs"
    with pytest.raises(ValueError, match=message):
        tiny_llm()


@linux
@pytest.mark.parametrize("settings", [{"kv_cache_memory_bytes": 2 * GIB}, {"num_gpu_blocks_override": 10**6}])
def test_a_cache_larger_than_the_free_memory_is_refused(monkeypatch, settings):
    set_free(monkeypatch, GIB)
    [name] = settings
    with pytest.raises(ValueError, match=rf"CacheConfig: {name} asks for \d+ bytes .*1.0 of 16.0 GiB free"):
        tiny_llm(**settings)


REFUSALS = [
    MemoryError(),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"),
    RuntimeError("unable to mmap 9 bytes from file <x>: Cannot allocate memory (12)"),
    ImportError("libtorch_cpu.so: failed to map segment from shared object"),
]
OTHERS = [
    OSError(errno.ENOSPC, "No space left on device"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    ImportError("x.so: cannot allocate memory in static TLS block"),
    ValueError("cannot allocate memory"),
    KeyboardInterrupt(),
]


@pytest.mark.parametrize("error", REFUSALS, ids=repr)
def test_an_error_of_too_little_memory_says_how_much_there_was(monkeypatch, error):
    set_free(monkeypatch, GIB)
    assert is_out_of_memory(error)
    message = r"too little memory: 1\.0 of 16\.0 GiB free.*close other programs"
    with pytest.raises(ValueError, match=message) as caught, out_of_memory_explained():
        raise error
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", OTHERS, ids=repr)
def test_other_errors_pass_as_they_are(error):
    assert not is_out_of_memory(error)
    with pytest.raises(type(error)) as caught, out_of_memory_explained():
        raise error
    assert caught.value is error


@linux
def test_an_error_of_too_little_memory_while_loading_is_explained(monkeypatch, tmp_path):
    tiny_model(num_hidden_layers=1).save_pretrained(tmp_path)
    byte_level_tokenizer().save_pretrained(tmp_path)
    for refusal in REFUSALS[:4]:
        with monkeypatch.context() as patch:
            patch.setattr(AutoModelForCausalLM, "from_pretrained", raises(refusal))
            with pytest.raises(ValueError, match="there is too little memory"):
                get_model_and_tokenizer(ModelConfig(str(tmp_path)))
    monkeypatch.setattr(llm_engine, "make_cache", raises(REFUSALS[1]))
    with pytest.raises(ValueError, match="there is too little memory"):
        tiny_llm()


def raises(error: Exception) -> Callable[..., None]:
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    return fail


# -- ulimit, for real --------------------------------------------------------------------------------------------


def under_ulimit(kibibytes: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["sh", "-c", f'ulimit -v {kibibytes}; exec "$@"', "sh", sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


@linux
def test_the_limit_of_ulimit_is_seen():
    told = under_ulimit(1_500_000, "-c", "from folovllm.free_memory import free_memory; print(free_memory())")
    assert told.stdout.endswith(" of 1.4 GiB free, the limit of `ulimit -v`\n"), told.stderr


@linux
@pytest.mark.parametrize("kibibytes", [200_000, 400_000, 550_000, 1_500_000])  # for PyTorch, and for the weights
def test_generate_under_too_little_memory_is_one_line_and_exit_code_2(bundled_model_path, kibibytes):
    done = under_ulimit(kibibytes, "-m", "folovllm", "generate", "Once", "--max-tokens", "1")
    assert done.returncode == 2, done.stderr
    [line] = [line for line in done.stderr.splitlines() if not line.startswith("OpenBLAS")]
    assert line.startswith("error: there is too little memory: ")
    assert "the limit of `ulimit -v`" in line


@linux
def test_generate_lives_within_a_limit_that_the_default_cache_alone_would_break(bundled_model_path):
    done = under_ulimit(2_500_000, "-m", "folovllm", "generate", "Once upon a time", "--max-tokens", "2")
    assert (done.returncode, done.stderr) == (0, "")


def test_freed_memory_can_be_given_back_on_any_c_library(monkeypatch):
    module = folovllm.free_memory
    module.return_freed_memory()
    monkeypatch.setattr(module.ctypes, "CDLL", lambda name: object())
    module.return_freed_memory()
    monkeypatch.setattr(module.sys, "platform", "darwin")
    monkeypatch.setattr(module.ctypes, "CDLL", lambda name: pytest.fail("asked for a C library"))
    module.return_freed_memory()
