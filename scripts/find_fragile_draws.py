"""Name the cells of notebooks whose texts hang on the last bits of logits: another kind of CPU may write others.

    python scripts/find_fragile_draws.py notebooks/*.ipynb

Every token is chosen again from logits that are moved a little more than another CPU moves them (measured between
AVX2 and HuggingFace's code: 5e-6, and .000001 on the strip from 0 to 1 that a draw points to). A cell is named if any
of its tokens changes. Choose other seeds, a filter or fewer tokens for it.
"""

import json
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

_WATCH = """
import torch
from folovllm.sampling.sampler import Sampler

_choose, _changed, _cell = Sampler.__call__, {}, [-1]


def _choose_again(self, logits, metadata):
    chosen = _choose(self, logits, metadata)
    noise = torch.Generator().manual_seed(0)
    for stretch in (1 - 1e-6, 1 - 1e-6, 1 + 1e-6, 1 + 1e-6):
        moved = logits.float().cpu() * stretch
        moved += 1e-5 * torch.randn(moved.shape, generator=noise)
        again = _choose(self, moved.to(logits.device), metadata)
        if (again.token_ids != chosen.token_ids).any():
            _changed[_cell[0]] = _changed.get(_cell[0], 0) + 1
            break
    return chosen


def _next_cell(info):
    _cell[0] += 1


Sampler.__call__ = _choose_again
get_ipython().events.register("pre_run_cell", _next_cell)
"""
_TELL = "import json; print(json.dumps(_changed))"


def find(code: list[nbformat.NotebookNode], folder: Path) -> dict[int, int]:
    """Run a notebook's code cells in a folder; return, by their numbers, in how many steps a token changed."""
    watch, tell = (new_code_cell(source) for source in (_WATCH, _TELL))
    notebook = new_notebook(cells=[watch, *code, tell])
    NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(folder)}}).execute()
    return {int(cell): steps for cell, steps in json.loads(tell.outputs[0].text).items()}


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python scripts/find_fragile_draws.py NOTEBOOK ...")
    for path in map(Path, sys.argv[1:]):
        cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
        for number, steps in find(cells, path.parent).items():
            begins = cells[number].source.strip().splitlines()[0]
            print(f"{path.name}, code cell {number} ({steps} of its steps): {begins}")
