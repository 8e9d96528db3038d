"""Every notebook in JupyterLab as a learner sees it: Run All, then each widget and prediction by keyboard alone.

Each, and each table, is looked at in light and wide, and in dark and narrow: nothing is cut off, all text can be read.
What was on the screen is kept in ``build/screenshots``.
"""

import importlib
import json
import pkgutil
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator

from folovllm.course import widgets
from folovllm.course.widgets.widget import CourseWidget, PictureWidget
from folovllm.language import _
from tests.contrast import hard_to_read, measure_contrast
from tests.lab_in_browser import LabPage, open_browser, serve_lab

pytestmark = pytest.mark.browser
NOTEBOOKS = sorted(Path("notebooks").glob("*.ipynb"))
IN_CHINESE = [Path("notebooks/zh", f"{chapter}.ipynb") for chapter in ("00_start_here", "04_loading")]
"""The other Chinese ones have the same cells and widgets."""
SCREENSHOTS = Path("build/screenshots")
LOOKS = (("Light", 1280), ("Dark", 800))
"""Colours come from the theme and room from the width: each theme is looked at once, and each width."""


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


# -- what is done to a widget, by keyboard ---------------------------------------------------------------

Move = Callable[[Locator], None]


def press(button: str) -> Move:
    """Return the move that presses a button with Enter. button: in English, whatever language it is shown in."""

    def move(widget: Locator) -> None:
        widget.get_by_role("button", name=_(button)).press("Enter")

    move.__name__ = f"press {button!r}"
    return move


def enter(text: str, field: str) -> Move:
    """Return the move that types into a field (a CSS selector; the last one found) and leaves it."""

    def move(widget: Locator) -> None:
        box = widget.locator(field).last
        box.fill(text)
        box.press("Tab")

    move.__name__ = f"enter {text!r}"
    return move


def press_arrow(widget: Locator) -> None:
    widget.get_by_role("slider").first.press("ArrowRight")


def press_arrow_back(widget: Locator) -> None:
    widget.get_by_role("slider").first.press("ArrowLeft")


def press_generate(widget: Locator) -> None:
    widget.locator("textarea").fill("Two and two are")
    widget.get_by_role("button", name=_("Generate")).press("Enter")


def next_choice(widget: Locator) -> None:
    widget.locator(".widget-toggle-button:not(.mod-active)").first.press("Enter")


def pick_first(widget: Locator) -> None:
    widget.get_by_role("button").first.press("Enter")


def pick_last(widget: Locator) -> None:
    widget.get_by_role("button").last.press("Enter")


# After each of these the words of the widget are others.
MOVES: dict[str, list[Move]] = {
    "PromptBox": [press_generate],
    "KVBudget": [press_arrow, next_choice],
    "SamplingExplorer": [
        press_arrow,
        enter("0.3", "input[type=number]"),
        enter("The largest planet is", "input[type=text]"),
    ],
    "Timeline": [press_arrow, enter("9", "input[type=number]")],
    "PaddingExplorer": [
        next_choice,
        enter("The dog", "textarea"),
        enter("", "textarea"),
        enter("A dog\nI am", "textarea"),
    ],
    "StepDebugger": [
        *(
            press("Step"),
            press("Next hop"),
            press("A user arrives"),
            press_arrow_back,
            enter("1", "input[type=number]"),
        ),
        *(press("Begin again"), press("Step"), press("A user arrives"), press("Step")),
    ],
    "NumberBits": [enter("0.1", "input[type=text]")],
    "TokenColours": [enter("1.5", "input[type=number]")],
    "Predict": [pick_first, pick_last],
}


# -- the notebooks -----------------------------------------------------------------------------------------


def widgets_of(notebook: Path) -> list[tuple[int, str]]:
    """Return the cells of a notebook that make a widget, counted from 0, and the widget's class."""
    makes = re.compile(rf"^(?:\w+ = )?(?:({'|'.join(MOVES)})\(|(predict)\()", re.M)
    sources = ["".join(cell["source"]) for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]]
    found = [(place, makes.search(source)) for place, source in enumerate(sources)]
    return [(place, match[1] or "Predict") for place, match in found if match]


def tables_of(notebook: Path) -> list[tuple[int, str]]:
    """Return the cells of a notebook that show HTML and no widget, and the class that JupyterLab gives it."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    kinds = [[set(output.get("data", ())) for output in cell.get("outputs", ())] for cell in cells]
    return [
        (place, "jp-RenderedHTML") for place, found in enumerate(kinds) if any("text/html" in each for each in found)
    ]


def cell_of(notebook: str, widget: str) -> int:
    """Return the place of the cell that makes a widget."""
    [place] = [place for place, name in widgets_of(Path(f"notebooks/{notebook}.ipynb")) if name == widget]
    return place


@pytest.fixture
def notebook(request, address, monkeypatch) -> Path:
    """A notebook whose language is spoken here, too: moves then know the names of its buttons."""
    monkeypatch.setenv("FOLOVLLM_LANG", "zh" if request.param in IN_CHINESE else "en")  # after JupyterLab's start
    return request.param


EACH = pytest.mark.parametrize(
    "notebook", NOTEBOOKS + IN_CHINESE, ids=lambda path: path.relative_to("notebooks").as_posix(), indirect=True
)


@EACH
def test_run_all_then_every_widget_by_keyboard(browser, address, notebook):
    lab = LabPage(browser, address, str(notebook))
    lab.set_theme("Light")
    made = widgets_of(notebook)
    for place, name in made:
        if name == "Predict":
            assert_folded(lab, place + 1)
    lab.run_all()
    assert lab.errors_in_outputs() == []
    for place, name in made:
        widget = lab.widget(name, place)
        for move in MOVES[name]:
            assert_it_changes(lab, widget, move)
    shown = notebook.stem + ("-zh" if notebook in IN_CHINESE else "")
    for theme, width in LOOKS:
        lab.set_theme(theme)
        lab.resize(width)
        for place, name in made + tables_of(notebook):
            look_at(lab.widget(name, place), f"{shown}-{place}-{name}-{theme}-{width}")
    lab.set_theme("Light")
    assert lab.problems == []
    lab.close()


def assert_folded(lab: LabPage, place: int) -> None:
    """The stored answer to a prediction is not on the page before somebody opens it, or runs its cell."""
    cell = lab.cell(place)

    def is_folded() -> bool:
        cell.evaluate("cell => cell.scrollIntoView()")
        lab.page.wait_for_timeout(200)
        return cell.locator(".jp-OutputPlaceholder").count() > 0

    lab.wait_until(is_folded, f"the output of cell {place} is open", seconds=20)


def assert_it_changes(lab: LabPage, widget: Locator, move: Move) -> None:
    words, picture = words_of(widget), picture_of(widget)
    move(widget)
    lab.wait_until(lambda: words_of(widget) != words, f"{move.__name__} changes no word")
    if picture is not None:
        lab.wait_until(lambda: picture_of(widget) != picture, f"{move.__name__} changes no picture")


def words_of(widget: Locator) -> str:
    return " ".join(widget.locator(".widget-html").all_inner_texts())


def picture_of(widget: Locator) -> str | None:
    """Return the picture of a ``PictureWidget``; the others are made of words."""
    names = (widget.get_attribute("class") or "").split()
    if not any(each.__name__ in names for each in PictureWidget.__subclasses__()):
        return None
    return widget.locator("img").first.get_attribute("src")


def look_at(widget: Locator, name: str) -> None:
    """Keep what is on the screen; nothing is cut off, and all text can be read."""
    widget.scroll_into_view_if_needed()
    widget.screenshot(path=SCREENSHOTS / f"{name}.png")
    assert widget.evaluate("e => e.scrollWidth <= e.clientWidth + 1"), f"{name} is cut off"
    assert hard_to_read(widget) == [], name


# -- the tests' own means --------------------------------------------------------------------------------------


def is_widget(what: object) -> bool:
    return isinstance(what, type) and issubclass(what, CourseWidget) and what not in (CourseWidget, PictureWidget)


def test_every_widget_has_moves_and_is_in_a_notebook():
    names = [f"{widgets.__name__}.{each.name}" for each in pkgutil.iter_modules(widgets.__path__)]
    modules = map(importlib.import_module, names)
    classes = {name for module in modules for name, what in vars(module).items() if is_widget(what)}
    assert classes == set(MOVES)
    assert classes == {name for notebook in NOTEBOOKS for _, name in widgets_of(notebook)}


def test_chinese_characters_are_no_boxes(browser):
    page, shown = browser.new_page(), set()
    for character in "温度":
        page.set_content(f'<p lang="zh">{character}')
        shown.add(page.screenshot())
    assert len(shown) == 2
    page.close()


_PAGE = """<body style="background: #222; color: #111"><p id="a" style="color: #777">grey</p>
<p id="b" style="color: #fff">white</p><p id="c" style="background: rgba(255, 255, 255, .9)">on a veil</p>
<p id="d" style="background: linear-gradient(90deg, white, #444); color: #000">stripes</p>
<p id="e" style="visibility: hidden">hidden</p><p id="f" style="background: white; color: #767676">just so</p></body>"""


def test_contrast_is_measured_against_what_is_behind_the_text(browser):
    page = browser.new_page()
    page.set_content(_PAGE)
    measured = {each.text: each.contrast for each in measure_contrast(page.locator("body"))}
    assert set(measured) == {"grey", "white", "on a veil", "stripes", "just so"}
    assert measured["grey"] == pytest.approx(3.55, abs=0.02)
    assert measured["white"] == pytest.approx(15.91, abs=0.02)
    assert measured["on a veil"] > 14
    assert measured["stripes"] == pytest.approx(2.16, abs=0.02)
    assert measured["just so"] == pytest.approx(4.54, abs=0.01)
    assert [each.text for each in hard_to_read(page.locator("body"))] == ["grey", "stripes"]
    page.close()
