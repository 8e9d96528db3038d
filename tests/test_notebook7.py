"""One chapter in Notebook 7, the classic-looking page: its widgets show, and a prediction is answered."""

import shutil
from pathlib import Path

import pytest

from tests.lab_in_browser import LabPage, open_browser, serve_lab
from tests.test_browser import MOVES, assert_folded, assert_it_changes, widgets_of

pytestmark = pytest.mark.browser
CHAPTER = Path("notebooks/00_start_here.ipynb")
OF_ITS_OWN = {"Cannot read properties of undefined (reading 'schema')"}
"""What Notebook 7.6.5 reports by itself: of an empty notebook without the course's settings, too."""


def test_a_chapter_in_notebook_7(tmp_path, bundled_model_path):
    shutil.copytree("notebooks", tmp_path / "notebooks")
    with serve_lab(tmp_path, app="notebook") as address, open_browser() as browser:
        page = LabPage(browser, address, str(CHAPTER))
        made = {name: place for place, name in widgets_of(CHAPTER)}  # the last of each kind
        assert made.keys() == {"Predict", "PromptBox"}
        assert_folded(page, made["Predict"] + 1)
        page.run_all()
        page.wait_until(page.run_all_ended, "the run does not end")  # it scrolls otherwise than JupyterLab does
        assert page.errors_in_outputs() == []
        for move in MOVES["Predict"]:
            assert_it_changes(page, page.widget("Predict", made["Predict"]), move)
        for move in MOVES["PromptBox"]:
            assert_it_changes(page, page.widget("PromptBox", made["PromptBox"]), move)
        assert set(page.problems) <= OF_ITS_OWN
        page.close()
