"""How long a learner waits for a widget: from a moved control to its picture.

    make bench-widgets

First in Python alone, for every widget with a picture; then for ``SamplingExplorer`` the whole way in
JupyterLab: from the key that moves a slider to the decoded picture on the page. Medians and 95th percentiles.
"""

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from folovllm import LLM, SamplingParams, get_model_and_tokenizer
from folovllm.config import ModelConfig
from folovllm.course import KVBudget, PaddingExplorer, SamplingExplorer, Timeline
from tests.lab_in_browser import LabPage, open_browser, serve_lab
from tests.test_browser import cell_of

ROUNDS = 40
# Notes when a key goes down, and when the picture that it brings can be seen.
_WATCH = """widget => {
    window.waits = []
    let began = 0
    widget.addEventListener("keydown", () => { began = performance.now() }, true)
    new MutationObserver(async () => {
        const started = began
        await widget.querySelector("img").decode()
        window.waits.push(performance.now() - started)
    }).observe(widget.querySelector("img").parentElement, {childList: true, subtree: true, attributes: true})
}"""


def in_python(move: Callable[[int], None]) -> list[float]:
    """Return the milliseconds of each of ``ROUNDS`` moves."""
    waits = []
    for count in range(ROUNDS):
        started = time.perf_counter()
        move(count)
        waits.append(1000 * (time.perf_counter() - started))
    return waits


def in_the_browser() -> list[float]:
    """Return the milliseconds from key to picture, in JupyterLab with a real kernel."""
    with tempfile.TemporaryDirectory() as folder, open_browser() as browser:
        shutil.copytree("notebooks", Path(folder, "notebooks"))
        with serve_lab(Path(folder)) as address:
            lab = LabPage(browser, address, "notebooks/02_sampling.ipynb")
            lab.run_all()
            widget = lab.widget("SamplingExplorer", cell_of("02_sampling", "SamplingExplorer"))
            widget.evaluate(_WATCH)
            slider = widget.get_by_role("slider").first
            for count in range(ROUNDS):
                slider.press("ArrowLeft" if count % 30 < 15 else "ArrowRight")
                lab.wait_until(lambda seen=count: lab.page.evaluate("window.waits.length") > seen, "no new picture")
            waits: list[float] = lab.page.evaluate("window.waits")
            lab.close()
    return waits


def report(name: str, waits: list[float]) -> None:
    """Print a line of the table."""
    p95 = statistics.quantiles(waits, n=20)[-1]
    print(f"{name:34} median {statistics.median(waits):6.1f} ms   95th percentile {p95:6.1f} ms")


def main() -> None:
    """Measure and print."""
    llm = LLM(record_history=True)
    llm.generate(["My cat", "The train"], SamplingParams(n=3, max_tokens=20, ignore_eos=True), use_tqdm=False)
    explorer, compared = SamplingExplorer(llm), SamplingExplorer(llm, temperature=0.5)
    compared.keep_or_forget()
    budget, timeline = KVBudget(llm), Timeline(llm)
    padding = PaddingExplorer(*get_model_and_tokenizer(ModelConfig(), device="cpu"))
    sides = ("left", "right")

    def show(step: int) -> None:
        timeline.step.value = step % 20

    moves: dict[str, Callable[[int], None]] = {
        "SamplingExplorer": lambda count: setattr(explorer.knobs["top_p"], "value", 0.2 + 0.01 * count),
        "SamplingExplorer beside A": lambda count: setattr(compared.knobs["top_p"], "value", 0.2 + 0.01 * count),
        # Every move makes the probability axis another one: the slowest there is.
        "SamplingExplorer, its axis": lambda count: setattr(compared.axis, "value", ("log", "linear")[count % 2]),
        "KVBudget": lambda count: setattr(budget.length, "value", 50 + 7 * count),
        "Timeline": lambda count: show(count + 1),
        "PaddingExplorer": lambda count: setattr(padding.controls["side"], "value", sides[(count + 1) % 2]),
    }
    for name, move in moves.items():
        report(f"{name}, Python", in_python(move))
    report("SamplingExplorer, key to picture", in_the_browser())


if __name__ == "__main__":
    main()
