"""Two learners on one JupyterHub, each in a browser: log in, open a chapter, Run All at the same time, save.

The hub and its proxy are the real ones; its spawner is the one for tests, which needs no system accounts. What the two
notebooks hold afterwards must be what the committed one holds. One model cache serves both, and is only read.
"""

import contextlib
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import psutil
import pytest
import requests
from playwright.sync_api import Browser

from tests.lab_in_browser import PATIENCE, LabPage, open_browser

pytestmark = [pytest.mark.hub, pytest.mark.timeout(1800)]
ROOT = Path(__file__).parents[1]
PROXY = ROOT / "build" / "hub-proxy" / "configurable-http-proxy"
NOTEBOOK = "notebooks/03_sequences.ipynb"
LEARNERS = ("ana", "bo")
PASSWORD = "for this test only"
RUN_SECONDS = 900
CONFIG = """
c = get_config()
c.JupyterHub.bind_url = "http://127.0.0.1:{public}"
c.JupyterHub.hub_port = {hub}
c.JupyterHub.db_url = "sqlite://"
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{proxy_api}"
c.ConfigurableHTTPProxy.command = ["{proxy}"]
c.JupyterHub.authenticator_class = "shared-password"
c.SharedPasswordAuthenticator.user_password = "{password}"
c.Authenticator.allow_all = True
c.JupyterHub.spawner_class = "simple"
c.SimpleLocalProcessSpawner.home_dir_template = "{homes}/{{username}}"
c.Spawner.cmd = ["{python}", "-m", "jupyterhub.singleuser", "--allow-root"]
c.Spawner.args = ["--LabApp.expose_app_in_browser=True"]
c.Spawner.start_timeout = {start_seconds}
c.Spawner.http_timeout = {start_seconds}
c.Spawner.env_keep.extend(["HF_HUB_OFFLINE", "TOKENIZERS_PARALLELISM", "OMP_WAIT_POLICY"])
c.Spawner.environment = {{"FOLOVLLM_CACHE": "{cache}", "JUPYTER_CONFIG_PATH": "{settings}"}}
"""


class Hub:
    """A running JupyterHub. folder: all that it and its users write.  address: where learners go."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder = folder
        self.homes = folder / "homes"
        public, hub, proxy_api = free_ports(3)
        self.address = f"http://127.0.0.1:{public}"
        self._log = folder / "hub.log"
        config = CONFIG.format(
            public=public,
            hub=hub,
            proxy_api=proxy_api,
            proxy=PROXY,
            password=PASSWORD,
            homes=self.homes,
            python=sys.executable,
            start_seconds=PATIENCE,
            cache=cache,
            settings=ROOT / "jupyter",
        )
        (folder / "jupyterhub_config.py").write_text(config)
        with self._log.open("w") as output:
            command = [sys.executable, "-m", "jupyterhub", "--config", "jupyterhub_config.py"]
            self._process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output)

    def log(self) -> str:
        """Return what the hub, its proxy and its users' servers said last, but for the many requests that went well."""
        told = [line for line in self._log.read_text().splitlines() if " 200 GET " not in line]
        return "the hub's log ends:\n" + "\n".join(told[-60:])

    def wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(requests.RequestException):
                if requests.get(f"{self.address}/hub/api/", timeout=30).ok:
                    return
            assert self._process.poll() is None, f"the hub ended: {self.log()}"
            assert time.monotonic() < deadline, f"the hub does not answer: {self.log()}"
            time.sleep(0.2)

    def stop(self) -> None:
        """End the hub, which ends its proxy and its users' servers; then whatever is left of them."""
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(60)
        left = list(self._processes())
        for process in left:
            process.kill()
        psutil.wait_procs(left, timeout=60)

    def _processes(self) -> Iterator[psutil.Process]:
        """Yield every process that works in this hub's folder: each was started by the hub, or by a user's server."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if Path(process.cwd()).is_relative_to(self.folder):
                    yield process


def free_ports(number: int) -> list[int]:
    """Return ports on loopback that nobody listens on; all are held until the last is found, so they differ."""
    with contextlib.ExitStack() as held:
        found = [held.enter_context(socket.socket()) for _ in range(number)]
        for each in found:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in found]


@pytest.fixture(scope="module")
def hub(tmp_path_factory, bundled_model_path) -> Iterator[Hub]:
    assert PROXY.is_file(), "no proxy for JupyterHub: run `sh scripts/ensure_hub_proxy.sh`"
    folder = tmp_path_factory.mktemp("hub").resolve()
    started = Hub(folder, cache=bundled_model_path.parent)
    try:
        started.wait_until_it_answers()
        yield started
    finally:
        started.stop()


class Learner(LabPage):
    """One learner's browser. It comes in by a link that is the same for all, and is asked for a name first."""

    def __init__(self, browser: Browser, hub: Hub, name: str) -> None:
        self.name = name
        self.notebook = hub.homes / name / NOTEBOOK
        shutil.copytree(ROOT / "notebooks", self.notebook.parent)
        super().__init__(browser, f"{hub.address}/hub/user-redirect/lab?", NOTEBOOK)

    def _open(self, address: str) -> None:
        super()._open(address)
        self.page.fill("input[name=username]", self.name)
        self.page.fill("input[name=password]", PASSWORD)
        self.page.click("input[type=submit]")
        self.page.wait_for_url(f"**/user/{self.name}/lab/**")

    def save(self) -> None:
        self.page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")


def printed(notebook: Path) -> list[tuple[str, str]]:
    """Return each code cell's source with what it printed and returned as text, but for cells that are not compared."""
    cells = [cell for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == "code"]
    compared = [cell for cell in cells if "nbval-ignore-output" not in cell.metadata.get("tags", [])]
    return [(cell.source, "".join(map(text_of, cell.outputs))) for cell in compared]


def text_of(output: nbformat.NotebookNode) -> str:
    if output.output_type == "stream":
        return str(output.text) if output.name == "stdout" else ""
    return str(output.get("data", {}).get("text/plain", ""))


def run_together(learners: list[Learner]) -> None:
    """Run all cells for all learners at once, until each has come to an end."""
    for learner in learners:
        learner.wait_for_kernel()
    for learner in learners:
        learner.start_run_all()
    assert not any(learner.run_all_ended() for learner in learners), "one had ended before the last began"
    for learner in learners:
        learner.wait_until(learner.run_all_ended, f"{learner.name} did not come to an end", RUN_SECONDS)


def contents(cache: Path) -> dict[Path, tuple[int, int]]:
    """Return the cache's files, when each was written and how long it is; a compiled kernel's time is its last use."""
    files = {path: path.stat() for path in cache.rglob("*")}
    return {path: (path.parent != cache / "kernels" and each.st_mtime_ns, each.st_size) for path, each in files.items()}


def test_two_learners_on_a_hub_both_get_what_the_notebook_shows(hub, bundled_model_path):
    cached = contents(bundled_model_path.parent)
    try:
        with open_browser() as browser:
            learners = [Learner(browser, hub, name) for name in LEARNERS]
            run_together(learners)
            assert {learner.name: learner.errors_in_outputs() for learner in learners} == {"ana": [], "bo": []}
            for learner in learners:
                learner.save()
    except BaseException as error:  # a time limit of pytest's as well
        error.add_note(hub.log())
        raise
    expected = printed(ROOT / NOTEBOOK)
    assert sum(bool(text) for _, text in expected) > 15
    for learner in learners:
        assert learner.notebook.read_bytes() != (ROOT / NOTEBOOK).read_bytes(), "it was not saved"
        differing = [pair for pair in zip(printed(learner.notebook), expected, strict=True) if pair[0] != pair[1]]
        assert differing == [], f"cells of {learner.name}: (source, text) here, and as committed"
    assert contents(bundled_model_path.parent) == cached
