"""A kernel that lacks the course, as on Colab and Kaggle: its first cell installs it, and then all is as elsewhere."""

import json
import shutil
from pathlib import Path

import ipywidgets
import pytest
from IPython.display import Image
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from folovllm.course import print_environment, style
from tests.test_notebooks import EACH, NOTEBOOKS, cells, source
from tests.test_project import PROJECT
from tests.test_wheel import ROOT, checkout, execute, make_environment, said, wheel

__all__ = ["checkout", "wheel"]  # fixtures
FIRST_CELL = """\
# Where the course is missing, as on Colab and Kaggle, this installs it.
from importlib.util import find_spec

if find_spec("folovllm") is None:
    %pip install --quiet "folovllm[course]"\
"""
VIEW = "application/vnd.jupyter.widget-view+json"
MANAGER = {"custom_widget_manager": {"url": "https://example.org/manager.js"}}
# What Colab's own package does, as far as it concerns widgets: the manager is named in messages of one kind only.
GOOGLE_COLAB = f"""
from IPython import get_ipython

def name_the_manager(message):
    if {VIEW!r} in message["content"]["data"]:
        message["content"]["metadata"].setdefault({VIEW!r}, {{}})["colab"] = {MANAGER!r}
    return message

def enable_custom_widget_manager():
    if name_the_manager not in get_ipython().display_pub._hooks:
        get_ipython().display_pub.register_hook(name_the_manager)
"""


@EACH
def test_the_first_code_cell_installs_the_course_where_it_is_missing(path):
    first = cells(path, "code")[0]
    assert source(first) == FIRST_CELL
    assert first["outputs"] == []
    assert first["metadata"] == {"jupyter": {"source_hidden": True}}
    others = [source(cell) for path in NOTEBOOKS for cell in cells(path, "code")[1:]]
    assert not any("%pip" in each for each in others)


@pytest.fixture
def colab(tmp_path):
    """An environment without the course whose kernel has imported Colab's package before any cell is run."""
    environment, startup = tmp_path / "env", tmp_path / "ipython" / "profile_default" / "startup"
    make_environment(environment)
    [site_packages] = environment.glob("lib/python*/site-packages")
    (site_packages / "google" / "colab").mkdir(parents=True)
    (site_packages / "google" / "colab" / "__init__.py").touch()
    (site_packages / "google" / "colab" / "output.py").write_text(GOOGLE_COLAB)
    startup.mkdir(parents=True)
    (startup / "00.py").write_text("import google.colab\n")
    return environment


def test_a_notebook_installs_the_course_and_runs_to_its_end(colab, wheel, bundled_model_path, tmp_path):
    notebook = tmp_path / "00_start_here.ipynb"
    shutil.copyfile(ROOT / "notebooks" / notebook.name, notebook)
    index = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheel.parent)}
    done = execute(colab, notebook, IPYTHONDIR=str(tmp_path / "ipython"), **index)
    assert list(colab.glob("lib/python*/site-packages/folovllm/__init__.py"))
    assert "Paris" in said(done)
    views = [output for cell in done.cells for output in cell.get("outputs", []) if VIEW in output.get("data", {})]
    assert len(views) == count_of_widgets(ROOT / "notebooks" / notebook.name)
    for view in views:
        assert view["metadata"][VIEW]["colab"] == MANAGER
        assert view["data"]["text/plain"]


def count_of_widgets(path: Path) -> int:
    count = json.dumps([output for cell in cells(path, "code") for output in cell["outputs"]]).count(VIEW)
    assert count
    return count


def test_a_kernel_that_has_older_packages_loaded_says_so(monkeypatch, capsys):
    print_environment()
    assert "still" not in capsys.readouterr().out
    monkeypatch.setattr(ipywidgets, "__version__", "7.7.1")
    print_environment()
    assert "\nipywidgets 7.7.1 is loaded still: restart the kernel (Colab: the session)" in capsys.readouterr().out


def test_a_picture_has_its_words_also_where_ipython_is_as_old_as_colabs(monkeypatch):
    class OlderImage(Image):
        def __init__(self, data, *, format, width=None, metadata=None):
            super().__init__(data, format=format, width=width, metadata=metadata)

    monkeypatch.setattr(style, "Image", OlderImage)
    figure = Figure()
    FigureCanvasAgg(figure)
    _, metadata = style.show(figure, "a bar")._repr_png_()
    assert metadata["alt"] == "a bar"
    assert metadata["width"] > 0


def test_what_is_installed_is_what_this_project_calls_itself():
    assert f'"{PROJECT["project"]["name"]}[course]"' in FIRST_CELL
