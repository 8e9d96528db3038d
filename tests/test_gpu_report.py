"""``make test-gpu`` where there is no card, and what it makes of what it finds; no model is run."""

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import gpu
import pytest

ROOT = Path(__file__).parents[1]
REPORT = {
    "about": {"device": "cuda", "card": "Some Card", "dtype": "bfloat16"},
    "tests": {"tests": {"passed": 30, "failed": 1, "skipped": 2, "seconds": 9, "failures": ["test_x: no"]}},
    "workloads": {"W1": "one", "W2": "two"},
    "tokens_per_second": {
        "folovllm": {"W1": [30.0, 50.0, 40.0], "W2": [300.0]},
        "hf-static": {"W1": [20.0, 20.0, 20.0], "W2": [100.0]},
        "vllm": "vllm: not installed",
    },
}


def test_without_a_card_the_command_says_so_in_a_sentence_and_fails():
    nothing = {"CUDA_VISIBLE_DEVICES": "", "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", "import torch; torch.backends.mps.is_available = lambda: False; import gpu\n"]
    command[-1] += "import sys; sys.exit(gpu.main(['--out', 'never.json']))"
    done = subprocess.run(command, cwd=ROOT / "benchmarks", env=nothing, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.strip() == gpu.NO_CARD
    assert done.stdout == ""
    assert not (ROOT / "benchmarks" / "never.json").exists()


def test_the_table_holds_every_figure_and_our_ratios():
    lines = gpu.table(REPORT).splitlines()
    assert {line.count("|") for line in lines} == {5}
    assert lines[0].startswith("| Some Card, bfloat16 | W1 | W2 |")
    assert "| tests | 30 passed | 1 failed | 2 skipped |" in lines
    assert any(line.startswith("| folovllm, tokens/s | 40.0 (30.0-50.0) | 300.0 |") for line in lines)
    assert any(line.startswith("| folovllm / hf-static | 2.00 x | 3.00 x |") for line in lines)
    assert any(line.startswith("| vllm, tokens/s | vllm: not installed |") for line in lines)


def test_tests_are_counted_and_no_path_gets_into_the_report(tmp_path):
    (tmp_path / "test_few.py").write_text(
        "import pytest\n"
        "def test_good(): pass\n"
        "def test_bad(): open('/nowhere/somebody/private/notes.txt')\n"
        "@pytest.fixture\n"
        "def broken(): raise ValueError('broken')\n"
        "def test_broken(broken): pass\n"
        "@pytest.mark.skip\n"
        "def test_left_out(): pass\n",
        encoding="utf-8",
    )
    found = gpu.run_tests("few", ["-p", "no:cacheprovider", f"--rootdir={tmp_path}", str(tmp_path)])
    assert [found[key] for key in ("passed", "failed", "skipped")] == [1, 2, 1]
    assert [line.partition(":")[0] for line in found["failures"]] == ["test_few test_bad", "test_few test_broken"]
    assert "notes.txt" in found["failures"][0]
    assert "somebody" not in json.dumps(found)
    assert str(tmp_path) not in json.dumps(found)


def test_a_cell_that_fails_is_named_with_its_notebook_and_its_error():
    message = "#x1B[91mNotebook cell execution failed#x1B[0m\nInput:\n#x1B[0m1/0\n#x1B[94mTraceback:#x1B[0m\n\n"
    mark = ElementTree.Element("failure", message=message + "#x1B[31mZeroDivisionError#x1B[39m: division by zero\n\n")
    assert gpu.what_went_wrong(mark) == "ZeroDivisionError: division by zero"


@pytest.mark.parametrize(
    ("code", "content"), [(5, ""), (0, "import pytest\n@pytest.mark.skip\ndef test_left_out(): pass\n")]
)
def test_a_run_without_a_test_is_a_failure(tmp_path, code, content):
    (tmp_path / "test_none.py").write_text(content, encoding="utf-8")
    found = gpu.run_tests("none", [f"--rootdir={tmp_path}", str(tmp_path)])
    assert found["failed"] == 1
    assert f"exit code {code}" in found["failures"][0]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("No such file: '/nowhere/a b/x.py'", None),
        ("at /nowhere/code/x.py:3", "at x.py:3"),
        ("at C:\\nowhere\\x.py", "at x.py"),
        ("1/2 of 3 / 4", "1/2 of 3 / 4"),
    ],
)
def test_paths_lose_their_folders(text, left):
    assert "nowhere" not in (found := gpu.without_paths(text))
    assert left is None or found == left
