"""JupyterLab as a learner has it, in a headless Chromium: what the browser tests and the widgets' benchmark share."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, sync_playwright

PATIENCE = 150
"""Seconds that may pass where a laptop takes a few: the machine may be slow, and others may be busy on it."""
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
_SETTINGS = Path(__file__).parent.parent / "jupyter"
_FONTS = Path(__file__).parent.parent / "folovllm" / "course" / "fonts"
"""fontconfig looks for fonts in a folder of that name in XDG_DATA_HOME."""
_UNTIL_THE_KERNEL_ANSWERS = """async () => {
    const app = window.jupyterapp
    await app.restored
    await app.activatePlugin("@jupyter-widgets/jupyterlab-manager:plugin")
    const context = app.shell.currentWidget.sessionContext
    await context.ready
    while (!context.session?.kernel) await new Promise(resolve => setTimeout(resolve, 100))
    await context.session.kernel.info
}"""
# The numbers that came with the notebook are cleared, so that those that are seen are new.
_START_RUN_ALL = """async () => {
    const commands = window.jupyterapp.commands
    await commands.execute("editmenu:clear-all")
    window.runAll = commands.execute("notebook:run-all-cells")
    window.runAll.finally(() => { window.runAllEnded = true })
}"""

_IS_ON_SCREEN = """element => {
    const box = element.getBoundingClientRect()
    return box.top < window.innerHeight && box.bottom > 0
}"""


def find_chromium() -> str:
    """Return Chromium's path. A machine that runs these tests has one: its lack is a failure."""
    found = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    if found is None:
        raise FileNotFoundError("no Chromium: run `sh scripts/ensure_chromium.sh`")
    return found


@contextlib.contextmanager
def open_browser() -> Iterator[Browser]:
    """Start a headless Chromium. It finds the course's own Chinese font where the machine has none."""
    environment = os.environ | {"XDG_DATA_HOME": str(_FONTS.parent)}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=_FLAGS, env=environment)
        yield browser
        browser.close()


@contextlib.contextmanager
def serve_lab(folder: Path, app: str = "jupyterlab") -> Iterator[str]:
    """Serve a folder by JupyterLab, or by "notebook", Notebook 7; yields the address that opens it, token included."""
    log = folder / "jupyter.log"
    command = [sys.executable, "-m", app, "--no-browser", "--allow-root", "--ip=127.0.0.1", "--port=0"]
    command += [f"--{'LabApp' if app == 'jupyterlab' else 'JupyterNotebookApp'}.expose_app_in_browser=True"]
    environment = os.environ | {"JUPYTER_CONFIG_PATH": str(_SETTINGS), "JUPYTER_CONFIG_DIR": str(folder / "settings")}
    with log.open("w") as output:
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)
    try:
        yield _address(server, log)
    finally:
        server.terminate()
        server.wait(PATIENCE)


def _address(server: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and server.poll() is None:
        if found := re.search(r"http://127\.0\.0\.1:\d+/(lab|tree)\?token=\w+", log.read_text()):
            return found[0]
        time.sleep(0.2)
    raise RuntimeError(f"Jupyter did not start:\n{log.read_text()}")


class LabPage:
    """One notebook in one tab. problems: what the page's console reported as errors."""

    def __init__(self, browser: Browser, address: str, notebook: str, width: int = 1280) -> None:
        self.page: Page = browser.new_page(viewport={"width": width, "height": 1000})
        self.page.set_default_timeout(PATIENCE * 1000)
        self.problems: list[str] = []
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        # Without "reset" JupyterLab opens the tabs of the page before beside it.
        self._open(
            address.replace("/lab?", f"/lab/tree/{notebook}?reset&").replace("/tree?", f"/notebooks/{notebook}?")
        )
        self.page.wait_for_selector(".jp-Notebook .jp-Cell")

    def _open(self, address: str) -> None:
        self.page.goto(address)

    def _note(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.problems.append(message.text)

    def wait_for_kernel(self) -> None:
        """Wait until the kernel answers, and widgets can be shown."""
        self.page.evaluate(_UNTIL_THE_KERNEL_ANSWERS)

    def start_run_all(self) -> None:
        """Do what the menu's "Run All Cells" does; the kernel must answer already."""
        self.page.evaluate(_START_RUN_ALL)

    def run_all_ended(self) -> bool:
        """Return whether the last cell was run, or one failed."""
        return bool(self.page.evaluate("() => window.runAllEnded === true"))

    def run_all(self) -> None:
        """Run all cells, and wait for the last one."""
        self.wait_for_kernel()
        self.start_run_all()
        self.page.evaluate("() => window.runAll")
        prompts = ".jp-CodeCell .jp-InputPrompt:not(.jp-Placeholder-prompt)"  # those stand for code that is folded
        unnumbered = self.page.locator(prompts, has_not_text=re.compile(r"\d"))
        # An error stops the run; whoever asks for ``errors_in_outputs`` is told which one.
        self.wait_until(lambda: unnumbered.count() == 0 or bool(self.errors_in_outputs()), "not all cells were run")

    def errors_in_outputs(self) -> list[str]:
        """Return the tracebacks that the notebook shows."""
        found = self.page.locator('.jp-RenderedText[data-mime-type="application/vnd.jupyter.error"]')
        return found.all_text_contents()

    def cell(self, place: int) -> Locator:
        """Return a cell, counted from 0."""
        return self.page.locator(".jp-Notebook .jp-Cell").nth(place)

    def widget(self, name: str, place: int) -> Locator:
        """Return the widget of that class that a cell shows.

        What is out of sight is not rendered, and cells that are rendered on the way push others away: so
        it is scrolled to until it is there, and has stayed there.
        """
        cell = self.cell(place)
        found = cell.locator(f".{name}")
        boxes: list[object] = [None]

        def is_at_rest() -> bool:
            cell.evaluate("cell => cell.scrollIntoView()")
            self.page.wait_for_timeout(100)
            boxes.append(found.bounding_box() if found.is_visible() and found.evaluate(_IS_ON_SCREEN) else None)
            return boxes[-1] is not None and boxes[-1] == boxes[-2]

        self.wait_until(is_at_rest, f"no {name} in cell {place}")
        return found

    def set_theme(self, theme: str) -> None:
        """Choose a theme of JupyterLab's: "Light" or "Dark"."""
        self.page.evaluate(
            "name => window.jupyterapp.commands.execute('apputils:change-theme', {theme: name})", f"JupyterLab {theme}"
        )
        dark = f"document.body.dataset.jpThemeLight === '{str(theme == 'Light').lower()}'"
        self.wait_until(lambda: bool(self.page.evaluate(dark)), f"the theme does not become {theme}")
        self.page.wait_for_timeout(500)  # its style sheet is read

    def resize(self, width: int) -> None:
        """Make the page so wide, without the list of files beside the notebook where there is little room."""
        self.page.set_viewport_size({"width": width, "height": 1000})
        shown = self.page.locator("#jp-left-stack").is_visible()
        if shown != (width > 1000):
            self.page.evaluate("() => window.jupyterapp.commands.execute('application:toggle-left-area')")

    def wait_until(self, condition: Callable[[], bool], otherwise: str, seconds: float = PATIENCE) -> None:
        """Wait for a condition on the page; ``AssertionError`` with that message if it does not come."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, otherwise
            self.page.wait_for_timeout(50)

    def close(self) -> None:
        """Shut down the kernel, which holds a model, and close the tab."""
        self.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
        self.page.close()
