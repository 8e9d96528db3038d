"""What the web site is made of, without building it: a widget's code, docstrings, grids, pictures, links."""

import base64
import io

import nbformat
import numpy as np
import PIL.Image
import pytest
from book import budget_recording, prompt_recording, run_links, sampling_recording
from book.chapters import prediction_in_html
from book.docstrings import to_rst
from book.pictures import Pictures
from book.replay import needed, widget_of
from book.sampling_recording import plain
from book.words import _

from folovllm.language import speaking


def test_a_widget_needs_the_cells_whose_names_it_uses_and_theirs():
    sources = [
        "import math",
        "a = math.pi",
        "unused = 1",
        "b = a * 2\nprint(b)",
        "def f():\n    return b",
        "c = f()\nc",
    ]
    assert needed(sources) == [
        "import math",
        "a = math.pi",
        "b = a * 2\nprint(b)",
        "def f():\n    return b",
        "c = f()",
        "c",
    ]


def test_only_the_last_cell_that_makes_a_name_is_needed_unless_that_one_uses_it():
    assert needed(["a = 1", "a = 2", "a"]) == ["a = 2", "", "a"]
    assert needed(["a = 1", "a = a + 1", "a"]) == ["a = 1", "a = a + 1", "", "a"]


def test_an_augmented_assignment_uses_the_name_too():
    assert needed(["a = [1]", "a += [2]", "a"]) == ["a = [1]", "a += [2]", "", "a"]


def notebook(tmp_path, kept):
    cell = nbformat.v4.new_code_cell(
        "from folovllm.course import NumberBits\nNumberBits(5.0)",
        outputs=[nbformat.v4.new_output("execute_result", {"text/plain": kept})],
    )
    path = tmp_path / "one.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    return path, cell.id


def test_a_widget_that_says_something_else_than_the_notebook_keeps_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"one\.ipynb.*the engine says 'NumberBits.*the notebook keeps 'old'.*make notebooks"
    ):
        widget_of(*notebook(tmp_path, "old"))


def test_the_choices_of_a_prediction_are_chinese_in_a_chinese_chapter(monkeypatch):
    monkeypatch.setenv("FOLOVLLM_LANG", "zh")
    page = prediction_in_html("naive_dataclass")
    assert "<summary>两行都会</summary>" in page
    assert "<b>预测。</b>下面两行" in page


def test_parameters_of_a_docstring_become_a_list():
    lines = [
        "Do something.",
        "",
        "logits: [num_seqs, vocab], float32.  top_p: [num_seqs]; None",
        "    keeps all.",
        "Dropped tokens become -inf: at least one stays.",
    ]
    assert to_rst(lines) == [
        "Do something.",
        "",
        "* **logits**: [num_seqs, vocab], float32.",
        "* **top_p**: [num_seqs]; None",
        "  keeps all.",
        "",
        "Dropped tokens become -inf: at least one stays.",
    ]


def test_what_stands_after_a_blank_line_belongs_to_no_parameter():
    assert to_rst(["n: how many", "", "It may be used."]) == ["* **n**: how many", "", "It may be used."]


def test_a_bar_in_a_docstring_is_no_substitution():
    assert to_rst(["a remainder |r| < 1"]) == [r"a remainder \|r\| < 1"]


def test_greedy_and_single_filters_are_told_as_one_point():
    assert plain(("vllm", 0, 40, 0.9, 0.1)) == ("huggingface", 0, 0, 1, 0)
    assert plain(("vllm", 1, 40, 0.9, 0)) == ("huggingface", 1, 40, 0.9, 0)
    assert plain(("vllm", 1, 0, 1, 0.1)) == ("huggingface", 1, 0, 1, 0.1)
    assert plain(("vllm", 1, 0, 0.9, 0.1)) == ("vllm", 1, 0, 0.9, 0.1)


def test_what_a_page_says_beside_the_engines_sentences_has_a_chinese_form():
    messages = {*sampling_recording.MESSAGES, *budget_recording.MESSAGES, *prompt_recording.MESSAGES}
    with speaking("zh"):
        assert [each for each in messages if _(each) == each] == []


def as_html(pixels):
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "png")
    return f'<img src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'


def as_pixels(address):
    data = base64.b64decode(address.partition(",")[2])
    return np.asarray(PIL.Image.open(io.BytesIO(data)).convert("RGBA"))


def test_a_picture_that_comes_again_is_kept_once_and_others_as_layers_over_the_first():
    first = np.full((20, 30, 3), 200, np.uint8)
    second = first.copy()
    second[5:8, 10:20] = (0, 114, 178)
    pictures = Pictures()
    assert [pictures.take_from(as_html(each)) for each in (first, second, first)] == [
        '<img src="picture:0">',
        '<img src="picture:1">',
        '<img src="picture:0">',
    ]
    below, layer = map(as_pixels, pictures.kept())
    assert (below[..., :3] == first).all()
    is_changed = layer[..., 3] == 255
    assert (is_changed == (first != second).any(axis=-1)).all()
    assert (layer[..., 3][~is_changed] == 0).all()
    assert (layer[is_changed][:, :3] == second[is_changed]).all()


def test_a_chapter_is_linked_to_where_the_repository_is(monkeypatch):
    monkeypatch.setenv("GITHUB_REPOSITORY", "someone/course")
    links = run_links.links("notebooks/02_sampling.ipynb")
    assert links["Colab"].endswith("/github/someone/course/blob/main/notebooks/02_sampling.ipynb")
    assert links["Binder"].endswith("/gh/someone/course/main?urlpath=lab/tree/notebooks/02_sampling.ipynb")
    assert run_links.icons()[0]["url"] == "https://github.com/someone/course"


def test_without_a_repository_nothing_is_linked(monkeypatch):
    monkeypatch.setattr(run_links, "repository", lambda: "")
    assert run_links.links("notebooks/02_sampling.ipynb") == {}
    assert run_links.icons() == []
