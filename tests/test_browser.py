"""Every notebook in JupyterLab as a learner sees it: Run All, then each widget moved by keyboard alone.

What was on the screen is kept in ``build/screenshots``.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator

import folovllm.course
from tests.lab_in_browser import LabPage, open_browser, serve_lab

pytestmark = pytest.mark.browser
NOTEBOOKS = sorted(Path("notebooks").glob("*.ipynb"))
SCREENSHOTS = Path("build/screenshots")
WIDTHS = (1280, 800)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def address(tmp_path_factory, bundled_model_path) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree("notebooks", folder / "notebooks")
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with serve_lab(folder) as served:
        yield served


def press_button(widget: Locator) -> None:
    widget.locator("textarea").fill("Two and two are")
    widget.get_by_role("button", name="Generate").press("Enter")


def press_arrow(widget: Locator) -> None:
    widget.get_by_role("slider").first.press("ArrowRight")


def type_number(widget: Locator) -> None:
    box = widget.locator("input[type=number]").last
    box.fill("0.3")
    box.press("Enter")


def press_step(widget: Locator) -> None:
    widget.get_by_role("button", name="Step").press("Enter")


def type_temperature(widget: Locator) -> None:
    box = widget.locator("input[type=number]")
    box.fill("1.5")
    box.press("Enter")


def type_step(widget: Locator) -> None:
    box = widget.locator("input[type=number]")
    box.fill("9")
    box.press("Enter")


def type_prompt(widget: Locator) -> None:
    box = widget.locator("input[type=text]").first
    box.fill("The largest planet is")
    box.press("Enter")


def type_fraction(widget: Locator) -> None:
    box = widget.locator("input[type=text]")
    box.fill("0.1")
    box.press("Enter")


def next_choice(widget: Locator) -> None:
    widget.locator(".widget-toggle-button:not(.mod-active)").first.press("Enter")


# Of each notebook's widgets, what is done to it by keyboard; after each the words change.
MOVES: dict[str, dict[str, list[Callable[[Locator], None]]]] = {
    "00_start_here": {"PromptBox": [press_button]},
    "01_config": {"KVBudget": [press_arrow, next_choice]},
    "02_sampling": {"SamplingExplorer": [press_arrow, type_number, type_prompt]},
    "03_sequences": {"Timeline": [press_arrow, type_step]},
    "04_loading": {"PaddingExplorer": [next_choice]},
    "04b_numbers": {"NumberBits": [type_fraction]},
    "05_data_flow": {"StepDebugger": [press_step], "TokenColours": [type_temperature]},
    "06_patterns_and_next": {},
}


@pytest.mark.parametrize("notebook", [path.stem for path in NOTEBOOKS])
def test_run_all_then_every_widget_by_keyboard(browser, address, notebook):
    lab = LabPage(browser, address, f"notebooks/{notebook}.ipynb")
    lab.run_all()
    assert lab.errors_in_outputs() == []
    for name, moves in MOVES[notebook].items():
        widget = lab.widget(name, cell_of(notebook, name))
        for move in moves:
            assert_it_changes(lab, widget, move)
        for width in WIDTHS:
            lab.resize(width)
            widget.scroll_into_view_if_needed()
            assert widget.evaluate("e => e.scrollWidth <= e.clientWidth + 1"), f"{name} is cut off at {width}"
            widget.screenshot(path=SCREENSHOTS / f"{notebook}-{name}-{width}.png")
    assert lab.problems == []
    lab.close()


def cell_of(notebook: str, widget: str) -> int:
    """Return the place of the cell that makes a widget."""
    cells = json.loads(Path(f"notebooks/{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]
    made = rf"^(?:\w+ = )?{widget}\("
    [place] = [i for i, cell in enumerate(cells) if re.search(made, "".join(cell["source"]), re.M)]
    return place


def assert_it_changes(lab: LabPage, widget: Locator, move: Callable[[Locator], None]) -> None:
    words, picture = words_of(widget), picture_of(widget)
    move(widget)
    lab.wait_until(lambda: words_of(widget) != words, f"{move.__name__} changes no word")
    if picture is not None:
        lab.wait_until(lambda: picture_of(widget) != picture, f"{move.__name__} changes no picture")


def words_of(widget: Locator) -> str:
    return " ".join(widget.locator(".widget-html").all_inner_texts())


def picture_of(widget: Locator) -> str | None:
    image = widget.locator("img")
    return image.get_attribute("src") if image.count() else None


def test_every_widget_of_the_notebooks_is_driven():
    classes = {name for name, what in vars(folovllm.course).items() if isinstance(what, type)}
    assert classes == {name for widgets in MOVES.values() for name in widgets}
    assert set(MOVES) == {path.stem for path in NOTEBOOKS}
