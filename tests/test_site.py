"""The book as a reader has it: built once, opened as files in a headless Chromium, every explorer against the engine.

While it is built, watchers note what the engine says at every point that is recorded; the pages must say the same.
"""

import functools
import gzip
import http.server
import itertools
import random
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import pytest
from book import budget_recording, prompt_recording, sampling_recording
from book.editions import editions
from book.recordings import RECORDERS, Recordings
from playwright.sync_api import Browser, Locator, Page

from folovllm import LLM, RequestOutput, SamplingParams, language
from folovllm.course import PromptBox
from folovllm.course.distribution import Distribution, make_distribution
from folovllm.course.predictions.all_predictions import CHAPTERS
from folovllm.course.widgets.prompt_box import ending_of
from folovllm.course.widgets.sampling_explorer import Setting
from folovllm.language import current_language, speaking
from tests.contrast import hard_to_read
from tests.lab_in_browser import open_browser

pytestmark = pytest.mark.site
WIDTHS = (1280, 800, 360)
THEMES = ("light", "dark")
LANGUAGES = {each.language: f"{each.site}/" if each.site else "" for each in editions()}
"""Where each language lies."""
LOOKED_AT = ["index", "run", "search", *CHAPTERS, "api/index", "api/folovllm.sampling_params", "api/folovllm.llm"]
LOOKED_AT += [f"{top}{name}" for top in LANGUAGES.values() if top for name in ("index", "run", "02_sampling")]
HOSTS = {"github.com", "colab.research.google.com", "mybinder.org"}
SCREENSHOTS = Path("build/screenshots/site")
MOST_BYTES = 300_000
"""Of a recording, compressed as servers do it."""


@dataclass
class Built:
    """The site, and what the engine said while it was built."""

    folder: Path
    sampling: dict[tuple[str, Any], list[str]] = field(default_factory=dict)
    bars: dict[tuple[str, Any], list[float]] = field(default_factory=dict)
    prompts: dict[Any, RequestOutput] = field(default_factory=dict)
    frames: dict[tuple[str, str], dict[tuple[Any, ...], str]] = field(default_factory=dict)

    def pages(self) -> list[Path]:
        return sorted(path for path in self.folder.rglob("*.html") if "_static" not in path.parts)

    def url(self, page: str) -> str:
        return (self.folder / f"{page}.html").as_uri()


@pytest.fixture(scope="module")
def built(tmp_path_factory, bundled_model_path) -> Built:
    import build_site  # brings Sphinx: no other test needs it

    site = Built(tmp_path_factory.mktemp("book") / "blanks, 中文 & #1, 100%" / "site")

    def watch_sampling(prompt: str, point: Any, shape: Distribution) -> None:
        if current_language() == "en":
            site.sampling[prompt, point] = said_of(shape)
            site.bars[prompt, point] = sorted(shape.after, reverse=True)[:5]

    def watch_frames(name: str):
        def watch(setting: tuple[Any, ...], says: str) -> None:
            site.frames.setdefault((current_language(), name), {})[setting] = says

        return watch

    watchers = {name: watch_frames(name) for name in RECORDERS}
    watchers |= {"SamplingExplorer": watch_sampling, "PromptBox": site.prompts.__setitem__}
    with speaking(None):
        build_site.build(site.folder, Recordings(watchers))
    return site


def said_of(shape: Distribution) -> list[str]:
    return [*(f"{step.name}: {step.num_left}" for step in shape.steps), shape.sentence()]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as opened:
        yield opened


class Reader:
    """A tab. problems: errors of its console, and what it asked of other hosts."""

    def __init__(self, browser: Browser) -> None:
        self.page: Page = browser.new_page(viewport={"width": WIDTHS[0], "height": 1000})
        self.problems: list[str] = []
        self.page.on("console", lambda message: self.problems.append(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", lambda request: self._note(request.url))

    def _note(self, url: str) -> None:
        if urlparse(url).scheme not in ("file", "data"):
            self.problems.append(f"asked for {url}")

    def open(self, url: str) -> None:
        self.page.goto(url)
        self.page.wait_for_function("[...document.querySelectorAll('.explorer')].every(e => e.querySelector('.says'))")


@pytest.fixture
def reader(browser) -> Iterator[Reader]:
    opened = Reader(browser)
    yield opened
    opened.page.close()
    assert opened.problems == []


# -- the pages ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOOKED_AT)
def test_a_page_can_be_read_wide_and_narrow_in_light_and_dark(built, reader, name):
    reader.open(built.url(name))
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    for theme in THEMES:
        reader.page.evaluate("theme => { document.documentElement.dataset.theme = theme }", theme)
        for width in WIDTHS:
            reader.page.set_viewport_size({"width": width, "height": 1000})
            assert reader.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{width} px: scrolls"
            shot = f"{name.replace('/', '-')}-{theme}-{width}.png"
            reader.page.screenshot(path=SCREENSHOTS / shot, full_page=name == "index")
        reader.page.set_viewport_size({"width": WIDTHS[0], "height": 1000})
        beside = reader.page.locator(".bd-sidebar-secondary *").evaluate_all(
            "all => all.map(each => each.getBoundingClientRect().right)"
        )
        assert max(beside, default=0) <= WIDTHS[0], "cut off beside the text"
        assert hard_to_read(reader.page.locator("main")) == [], theme


def test_every_picture_has_words_and_every_control_a_name(built, reader):
    for name in LOOKED_AT:
        reader.open(built.url(name))
        assert reader.page.locator("img:not([alt]), img[alt='']").count() == 0, name
        nameless = reader.page.evaluate(
            "[...document.querySelectorAll('.explorer :is(input, select)')].filter(e => !e.labels.length).length"
        )
        assert nameless == 0, name


TOO_NARROW = """() => [...document.querySelectorAll(".pst-scrollable-table-container :is(th, td)")]
    .filter(cell => cell.clientWidth < 4 * parseFloat(getComputedStyle(cell).fontSize) && cell.clientHeight > 99)
    .map(cell => cell.innerText)"""


@pytest.mark.parametrize("top", LANGUAGES.values())
def test_on_a_phone_tables_and_explorers_keep_their_words_apart(built, reader, top):
    reader.page.set_viewport_size({"width": 360, "height": 1000})
    reader.open(built.url(f"{top}02_sampling"))
    assert reader.page.evaluate(TOO_NARROW) == []
    boxes = reader.page.locator(".explorer .strip li").all_inner_texts()
    assert len(boxes) == 5
    assert not [words for words in boxes if re.search(r"token(s)?\d|token熵", words)]


def test_a_chinese_page_speaks_chinese(built, reader):
    for top in LANGUAGES.values():
        if not top:
            continue
        for name in CHAPTERS:
            reader.open(built.url(top + name))
            folded = reader.page.locator("details.hide > summary").all_inner_texts()
            told = reader.page.locator(".explorer [aria-label]").evaluate_all("all => all.map(each => each.ariaLabel)")
            asked = reader.page.locator("input[type=search]").first.get_attribute("placeholder")
            assert [words for words in (*folded, *told, asked) if not re.search("[\u4e00-\u9fff]", words)] == [], name


def test_without_a_script_an_explorer_shows_what_the_notebook_keeps_and_says_so(built, browser):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    for name in ("00_start_here", "02_sampling"):
        page.goto(built.url(name))
        explorer = page.locator(".explorer")
        assert explorer.locator("img, pre").first.is_visible()
        assert "Without JavaScript" in explorer.inner_text()
    context.close()


def test_a_served_page_asks_for_nothing_that_is_not_there(built, browser):
    answer = functools.partial(http.server.SimpleHTTPRequestHandler, directory=built.folder.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page, asked = browser.new_page(), []
        page.on("response", lambda response: asked.append((response.status, response.url)))
        page.goto(f"http://127.0.0.1:{server.server_port}/site/search.html?q=entropy")
        page.locator("#search-results .context", has_text="entropy").first.wait_for()  # of the pages' own text
        page.goto(f"http://127.0.0.1:{server.server_port}/site/02_sampling.html")
        page.locator(".explorer .says").wait_for()
        page.close()
        server.shutdown()
    assert len(asked) > 20
    assert [(status, url) for status, url in asked if status >= 400] == []


def places_of(path: Path) -> tuple[set[str], set[str]]:
    """Return what a page can be entered at, and all addresses on it."""
    ids, addresses = set(), set()

    class Parser(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            for name, value in attrs:
                if name == "id":
                    ids.add(value)
                elif name in ("href", "src", "data-source"):
                    addresses.add(value)

    Parser().feed(path.read_text(encoding="utf-8"))
    return ids, addresses


def test_links_lead_somewhere_and_to_known_hosts(built):
    found_in = {path: places_of(path) for path in built.pages()}
    anchors = {path: ids for path, (ids, addresses) in found_in.items()}
    broken = []
    for path, (_, addresses) in found_in.items():
        for address in addresses:
            parts = urlparse(address)
            if parts.scheme == "data" or (parts.scheme == "https" and parts.netloc in HOSTS):
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            found = not parts.scheme and not address.startswith("/") and target.is_file()
            if found and target in anchors and parts.fragment:
                found = unquote(parts.fragment) in anchors[target]
            if not found:
                broken.append(f"{path.relative_to(built.folder)}: {address}")
    assert broken == []


def test_a_chapter_leads_to_its_code_and_back(built):
    for name in CHAPTERS:
        text = (built.folder / f"{name}.html").read_text(encoding="utf-8")
        bar = re.search(r'<div class="chapter-bar">.*?</div>', text)[0]
        modules = re.findall(r'href="(api/[^"]+)"', bar)
        assert modules, name
        for module in modules:
            page = (built.folder / module).read_text(encoding="utf-8")
            back = re.search(r'<p class="explained-in">.*?</p>', page, re.S)[0]
            assert f'href="../{name}.html"' in back, (name, module)


def test_a_page_leads_to_itself_in_the_other_languages(built, reader):
    for top in LANGUAGES.values():
        for name in ("index", "03_sequences"):
            reader.page.goto(built.url(top + name))
            led = reader.page.locator("a.language-switch").evaluate_all("links => links.map(link => link.href)")
            assert sorted(set(led)) == sorted(built.url(other + name) for other in LANGUAGES.values() if other != top)


def test_a_search_finds_the_chapter(built, reader):
    reader.page.goto(f"{built.url('search')}?q=entropy")
    reader.page.locator("#search-results a", has_text="02 · Sampling").first.wait_for()
    for top in LANGUAGES.values():
        if top:
            reader.page.goto(f"{built.url(f'{top}search')}?q=采样")
            reader.page.locator("#search-results a", has_text="02 ·").first.wait_for()


def test_recordings_are_small(built):
    sizes = {path.name: len(gzip.compress(path.read_bytes())) for path in built.folder.rglob("recordings/*.js")}
    assert len(sizes) >= 4
    assert {name: size for name, size in sizes.items() if size > MOST_BYTES} == {}


# -- predictions ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CHAPTERS)
def test_predictions_are_answered_by_keyboard_and_outputs_stay_folded(built, reader, name):
    reader.open(built.url(name))
    asked = reader.page.locator(".prediction")
    assert asked.count() == len(CHAPTERS[name])
    for place, prediction in enumerate(CHAPTERS[name]):
        question = asked.nth(place)
        assert prediction.question in question.inner_text()
        assert not any(question.get_by_text(prediction.answer_to(each)).is_visible() for each in prediction.choices)
        for choice in question.locator("summary").all():
            choice.press("Enter")
            opened = question.locator("details[open]")
            assert opened.count() == 1
            assert opened.locator("p").inner_text() == prediction.answer_to(choice.inner_text())
    folded = reader.page.locator("details.hide")
    assert folded.count() >= len(CHAPTERS[name])
    assert not any(each.evaluate("e => e.open") for each in folded.all())


# -- the sampling explorer -------------------------------------------------------------------------------------


@pytest.fixture
def sampling(built, reader) -> Locator:
    reader.open(built.url("02_sampling"))
    return reader.page.locator(".explorer[data-player=sampling]")


SAY_AT_ALL = """(root, prompt) => {
    const {knobs} = explorers.recordings[root.dataset.recording]
    const names = ["order", "temperature", "top_k", "top_p", "min_p"]
    const all = names.reduce((points, name) => points.flatMap(
        point => knobs[name].map((_, place) => ({...point, [name]: place}))), [{}])
    return all.map(point => root.sayAt(prompt, point))
}"""


def test_the_page_says_what_the_engine_said_at_every_point(built, sampling):
    prompts = sampling.locator("select option").all_text_contents()
    assert {prompt for prompt, _ in built.sampling} == set(prompts)
    for place, prompt in enumerate(prompts):
        told = sampling.evaluate(SAY_AT_ALL, place)
        every = list(sampling_recording.points())
        assert len(told) == len(every) > 3000
        for point, (setting, *said) in zip(every, told, strict=True):
            assert setting == str(as_setting(point))
            expected = built.sampling[prompt, sampling_recording.plain(point)]
            if point == sampling_recording.plain(point):
                assert said == expected, (prompt, point)
            assert said[-1] == expected[-1], (prompt, point)


def as_setting(point: Any) -> Setting:
    order, temperature, top_k, top_p, min_p = point
    return Setting(SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p), order)


def test_points_that_are_told_alike_are_alike_to_the_engine(bundled_model_path):
    logits = LLM().compute_logits(sampling_recording.PROMPTS[0])
    others = [point for point in sampling_recording.points() if point != sampling_recording.plain(point)]
    for point in random.Random(0).sample(others, 100):
        one, other = (
            make_distribution(logits, setting.params, setting.order)
            for setting in map(as_setting, (point, sampling_recording.plain(point)))
        )
        assert (one.after == other.after).all(), point


def test_keys_move_the_knobs_and_words_and_bars_are_the_engines(built, sampling):
    prompts = sampling.locator("select option").all_text_contents()
    order, prompt = "huggingface", prompts[0]
    at = {"temperature": 0.8, "top_k": 40, "top_p": 0.9, "min_p": 0}
    keys = random.Random(1)
    knobs = sampling_recording.KNOBS
    for _ in range(60):
        what = keys.choice([*knobs, "order", "prompt"])
        if what == "prompt":
            place = (prompts.index(prompt) + 1) % len(prompts)
            sampling.get_by_label("prompt").select_option(index=place)
            prompt = prompts[place]
        elif what == "order":
            sampling.get_by_label(order).press("ArrowRight")
            order = "vllm" if order == "huggingface" else "huggingface"
        else:
            slider = sampling.get_by_label(what.replace("_", "-"))
            key, step = keys.choice([("ArrowRight", 1), ("ArrowLeft", -1)])
            slider.press(key)
            place = knobs[what].index(at[what]) + step
            at[what] = knobs[what][min(max(place, 0), len(knobs[what]) - 1)]
            assert slider.get_attribute("aria-valuetext") == f"{at[what]:g}"
        point = sampling_recording.plain((order, *at.values()))
        assert sampling.get_by_role("status").inner_text() == built.sampling[prompt, point][-1]
        bars = sampling.get_by_role("img").first.get_attribute("aria-label")
        shown = re.findall(r"now ([\d.]+ %|dropped)", bars)
        expected = [f"{100 * share:.1f} %" if share else "dropped" for share in built.bars[prompt, point]]
        assert shown[: len(expected)] == expected


def test_two_settings_stand_side_by_side_and_draws_are_told(sampling):
    status = sampling.get_by_role("status")
    first = status.inner_text()
    sampling.get_by_role("button", name="Keep as A").press("Enter")
    sampling.get_by_label("temperature").press("End")
    kept, now = status.inner_text().splitlines()
    assert kept == f"A (temperature=0.8, top_k=40, top_p=0.9, min_p=0, order=huggingface): {first}"
    sampling.get_by_role("button", name="Draw 200").press("Enter")
    assert re.fullmatch(rf"{re.escape(now)}; 200 draws gave \d+ different tokens", status.inner_text().splitlines()[1])
    assert sampling.locator("path.drawn").count() > 0
    sampling.get_by_role("button", name="Forget A").press("Enter")
    assert "A (" not in status.inner_text()


# -- the prompt box ----------------------------------------------------------------------------------------------


@pytest.fixture(params=LANGUAGES)
def prompt_box(built, reader, request) -> Iterator[Locator]:
    reader.open(built.url(f"{LANGUAGES[request.param]}00_start_here"))
    with speaking(request.param):
        yield reader.page.locator(".explorer[data-player=prompt]")


def test_the_page_has_the_text_that_the_engine_wrote_at_every_point(built, prompt_box):
    prompts = prompt_box.locator("select option").all_text_contents()
    assert {point[0] for point in built.prompts} == set(prompts)
    axes = (prompts, *prompt_recording.KNOBS.values())
    for places in itertools.product(*(range(len(stops)) for stops in axes)):
        point = tuple(stops[place] for stops, place in zip(axes, places, strict=True))
        result = built.prompts[prompt_recording.plain(point)]
        expected = [result.outputs[0].text, f"{ending_of(result)} {language._('Bold: what the model wrote.')}"]
        assert prompt_box.evaluate("(root, places) => root.sayAt(places)", places) == expected


def test_the_notebooks_own_box_writes_the_recorded_texts(built):
    box = PromptBox(LLM(), max_tokens=30)
    greedy = next(point for point in built.prompts if point[1] == 0)
    for point in [(*greedy[:2], 2, greedy[3]), *random.Random(0).sample(list(built.prompts), 6)]:
        for control, value in zip((box.prompt, box.temperature, box.seed, box.chat), point, strict=True):
            control.value = value
        box.run()
        recorded = built.prompts[prompt_recording.plain(point)]
        assert box.result.outputs[0].text == recorded.outputs[0].text, point
        assert ending_of(box.result) == ending_of(recorded)


def test_keys_choose_a_setting_and_its_text_grows_until_it_is_whole(prompt_box):
    generate = prompt_box.get_by_role("button", name=language._("Generate"))
    status, written = prompt_box.get_by_role("status"), prompt_box.locator(".written b")
    prompt_box.get_by_label("temperature").press("ArrowRight")
    prompt_box.get_by_label(language._("use the chat template")).press("Space")
    assert status.inner_text() == language._("Press Generate.")
    assert written.count() == 0
    text, ending = prompt_box.evaluate("root => root.sayAt([0, 1, 0, 1])")
    generate.press("Enter")
    seen = prompt_box.evaluate(
        """root => new Promise(done => {
            const seen = [], watch = new MutationObserver(() => {
                seen.push(root.querySelector(".written b").textContent)
                if (!root.querySelector(".says [aria-hidden]")) done(seen)
            })
            watch.observe(root, {childList: true, subtree: true})
        })"""
    )
    assert len(set(seen)) > 20
    assert all(later.startswith(before) for before, later in itertools.pairwise(seen))
    assert seen[-1] == text
    assert status.inner_text() == ending


# -- explorers of frames -----------------------------------------------------------------------------------------

FRAMES = {
    "Timeline": "03_sequences",
    "PaddingExplorer": "04_loading",
    "NumberBits": "04b_numbers",
    "TokenColours": "05_data_flow",
}


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", FRAMES)
def test_every_frame_says_what_the_widget_said(built, reader, name, language):
    reader.open(built.url(LANGUAGES[language] + FRAMES[name]))
    told = built.frames[language, name]
    explorer = reader.page.locator(".explorer[data-player=frames]").last
    shown = explorer.evaluate("root => explorers.recordings[root.dataset.recording].frames.map(frame => frame.says)")
    assert shown == list(told.values())
    before = explorer.get_by_role("status").inner_text()
    control = explorer.locator("input[type=range], input:checked").first
    control.press("End" if control.get_attribute("type") == "range" else "ArrowRight")
    after = explorer.get_by_role("status").inner_text()
    assert after in told.values()
    assert after != before


def test_the_budget_says_what_the_engine_said_at_every_point(built, reader):
    reader.open(built.url("01_config"))
    told = built.frames["en", "KVBudget"]
    assert list(told) == list(budget_recording.points())
    explorer = reader.page.locator(".explorer[data-player=budget]")
    says = explorer.evaluate("root => explorers.recordings[root.dataset.recording].points.map(([says]) => says)")
    assert says == list(told.values())
    status = explorer.get_by_role("status")
    assert status.inner_text() == told[256, 200, 16, "float32"]
    explorer.get_by_label("block_size").press("ArrowRight")
    assert status.inner_text() == told[256, 200, 32, "float32"]
    explorer.get_by_label("float32").press("ArrowRight")
    explorer.get_by_label("memory (MiB)").press("Home")
    explorer.get_by_label("sequence length").press("End")
    assert status.inner_text() == told[16, 8192, 32, "bfloat16"]
    sequences = re.search(r"room for ([\d,]+) sequence", status.inner_text())[1]
    picture = explorer.get_by_role("img", name="sequences that fit")
    assert picture.get_attribute("aria-label").endswith(f"8192: {sequences}")


def test_a_run_is_walked_through_hop_by_hop(built, reader):
    reader.open(built.url("05_data_flow"))
    told = built.frames["en", "StepDebugger"]
    explorer = reader.page.locator(".explorer[data-player=steps]")
    status = explorer.get_by_role("status")
    explorer.get_by_role("button", name="Begin again").press("Enter")
    for says in told.values():
        assert status.inner_text() == says
        explorer.get_by_role("button", name="Next hop").press("Enter")
    explorer.get_by_label("history").press("End")
    explorer.get_by_label("history").press("ArrowLeft")
    last = max(moment for moment, _ in told)
    assert status.inner_text() == told[last - 1, 0]
    explorer.get_by_role("button", name="Step").press("Enter")
    assert status.inner_text() == told[last, 0]
