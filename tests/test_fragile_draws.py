"""``scripts/find_fragile_draws.py``: cells whose tokens hang on the last bits of logits are named, others are not."""

import subprocess
import sys

import nbformat
from nbformat.v4 import new_code_cell, new_notebook

_BEGIN = """
import torch
from folovllm import SamplingParams
from folovllm.sampling.metadata import SamplingMetadata, SamplingRow
from folovllm.sampling.sampler import Sampler


def choose(logits, temperature, uniform=0.5):
    row = SamplingRow(SamplingParams(temperature=temperature), [0], [], uniform)
    return Sampler()(torch.tensor([logits]), SamplingMetadata.build([row], len(logits), torch.device("cpu")))
"""


def test_cells_with_near_ties_and_draws_at_a_border_are_named(tmp_path):
    cells = [
        _BEGIN,
        "choose([1.0, 3.0, 2.0], 0)",
        "choose([1.0, 3.0, 2.999999], 0)",
        "choose([1.0, 1.0], 1, 0.4)",
        "for uniform in (0.5 - 1e-7, 0.2, 0.5 + 1e-7):\n    choose([1.0, 1.0], 1, uniform)",
    ]
    path = tmp_path / "some.ipynb"
    nbformat.write(new_notebook(cells=list(map(new_code_cell, cells))), path)
    command = [sys.executable, "scripts/find_fragile_draws.py", str(path)]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout
    assert told.splitlines() == [
        f"some.ipynb, code cell 2 (1 of its steps): {cells[2]}",
        "some.ipynb, code cell 4 (2 of its steps): for uniform in (0.5 - 1e-7, 0.2, 0.5 + 1e-7):",
    ]
