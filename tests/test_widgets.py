"""A widget that is shown again closes the one before it, which lets go of all that it held."""

import gc
import weakref
from types import SimpleNamespace

import ipywidgets
import nbformat
import pytest
from ipywidgets.widgets.widget import _instances
from nbclient import NotebookClient

from folovllm import SamplingParams
from folovllm.course import KVBudget, SamplingExplorer, StepDebugger, Timeline, TokenColours
from folovllm.course.widgets import widget as base
from folovllm.course.widgets.widget import CourseWidget, PictureWidget, choice, slider_with_box
from tests.tiny_models import tiny_llm


@pytest.fixture
def cell(monkeypatch):
    """Return a function that says which cell runs now, and in which of its runs."""
    shell = SimpleNamespace(parent_header={})
    monkeypatch.setattr(base, "get_ipython", lambda: shell)
    monkeypatch.setattr(base, "_made_by", {})

    def run(name: str, run: str, kind: str = "execute_request", code: str = "KVBudget(llm)") -> None:
        header = {"msg_type": kind, "msg_id": run}
        metadata = {"cellId": name} if name else {}
        shell.parent_header = {"header": header, "metadata": metadata, "content": {"code": code}}

    return run


def is_open(widget: ipywidgets.Widget) -> bool:
    return widget.comm is not None


class Panel(CourseWidget):
    def __init__(self, llm: object = None) -> None:
        self.llm = llm
        row = slider_with_box("top-k", 1, 0, 9, 1)
        self.box = row.children[-1]
        self.box.observe(lambda _: self.summary(), "value")
        self.button = ipywidgets.Button()
        self.button.on_click(lambda _: self.summary())
        super().__init__([row, self.button, choice("side", ["left", "right"])])

    def summary(self) -> str:
        return "a panel"


def test_the_cell_run_again_closes_what_it_made_before(cell):
    cell("a", "1")
    first, beside = Panel(), Panel()
    assert is_open(first)
    assert is_open(beside)
    cell("a", "2")
    second = Panel()
    assert [is_open(each) for each in (first, beside, second)] == [False, False, True]


def test_other_cells_and_what_is_no_cell_close_nothing(cell):
    cell("a", "1")
    first = Panel()
    cell("b", "2")
    other = Panel()
    cell("a", "3", kind="comm_msg")  # a widget made when a control moves
    inner = Panel()
    assert all(map(is_open, (first, other, inner)))


def test_without_a_name_the_code_stands_for_the_cell(cell):
    cell("", "1", code="Panel()")
    first = Panel()
    cell("", "2", code="Panel() ")
    other = Panel()
    cell("", "3", code="Panel()")
    assert is_open(Panel())
    assert (is_open(first), is_open(other)) == (False, True)


def test_outside_of_a_notebook_nothing_is_closed():
    first, second = Panel(), Panel()
    assert is_open(first)
    assert is_open(second)


def test_no_part_stays_open(cell):
    cell("a", "1")
    before = set(_instances)
    panel = Panel()
    assert len(_instances) > len(before) + 5
    panel.close()
    panel.close()
    assert set(_instances) == before


def make_timeline(llm):
    recording = llm.with_settings(record_history=True)
    recording.generate("a", SamplingParams(max_tokens=2), use_tqdm=False)
    return Timeline(recording)


@pytest.mark.parametrize("make", [SamplingExplorer, KVBudget, TokenColours, StepDebugger, make_timeline])
def test_the_closed_one_lets_go_of_llm_and_figure_even_where_out_remembers_it(cell, make):
    cell("a", "1")
    llm = tiny_llm()
    remembered, held = make(llm), [weakref.ref(llm)]
    del llm
    if isinstance(remembered, PictureWidget):
        held.append(weakref.ref(remembered._picture.figure))
    controls = weakref.ref(remembered.children[0])
    cell("a", "2")
    newer = make(tiny_llm())
    gc.collect()
    assert [each() for each in (*held, controls)] == [None] * (len(held) + 1)
    assert is_open(newer)


_CELL = """
from folovllm.course.widgets.widget import CourseWidget
class Panel(CourseWidget):
    summary = lambda self: "a panel"
panels = [*globals().get("panels", []), Panel([])]
print([each.comm is not None for each in panels])
panels[-1]
"""


def test_in_a_real_kernel_too():
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(_CELL)])
    client = NotebookClient(notebook, kernel_name="python3", timeout=300)
    with client.setup_kernel():
        printed = [client.execute_cell(notebook.cells[0], 0).outputs[0]["text"] for _ in range(3)]
    assert printed == ["[True]\n", "[False, True]\n", "[False, False, True]\n"]
