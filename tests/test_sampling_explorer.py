"""The widget's numbers equal an independent computation, and a moved knob changes words and picture."""

import random

import numpy as np
import pytest
import torch

from folovllm import SamplingParams
from folovllm.course.distribution import ORDERS, make_distribution
from folovllm.course.distribution_picture import NUM_SHOWN
from folovllm.course.widgets.sampling_explorer import SamplingExplorer
from folovllm.sampling.sampler import sample_from_uniform
from tests.explorer_checks import assert_moves_there_and_back
from tests.tiny_models import tiny_llm


def by_numpy(logits: np.ndarray, temperature: float, top_k: int, top_p: float, min_p: float, order: str):
    """Return kept tokens, mass and entropy by plain loops over float64 probabilities."""
    scaled = logits / temperature
    tempered = np.exp(scaled - scaled.max())
    tempered /= tempered.sum()
    kept = np.ones(len(logits), dtype=bool)

    def keep_top_k():
        if 0 < top_k < len(logits):
            threshold = np.sort(scaled)[-top_k]
            kept[scaled < threshold] = False

    def keep_top_p():
        if top_p < 1:
            rest = np.where(kept, tempered, 0.0)
            rest /= rest.sum()
            total = 0.0
            for token in np.argsort(-rest):
                if total >= top_p:
                    kept[token] = False
                total += rest[token]

    def keep_min_p():
        kept[tempered < min_p * tempered[kept].max()] = False

    steps = [keep_top_k, keep_top_p, keep_min_p] if order == "huggingface" else [keep_min_p, keep_top_k, keep_top_p]
    for step in steps:
        step()
    after = np.where(kept, tempered, 0.0)
    after /= after.sum()
    positive = after[after > 0]
    return kept, tempered[kept].sum(), -(positive * np.log2(positive)).sum()


def test_kept_set_mass_and_entropy_equal_numpy_for_500_random_settings():
    rng = random.Random(0)
    noise = np.random.default_rng(0)
    for _ in range(500):
        logits = noise.normal(size=rng.choice([5, 50, 2000])).astype(np.float32) * rng.choice([0.5, 2, 6])
        settings = {
            "temperature": rng.uniform(0.1, 2),
            "top_k": rng.choice([0, 1, 3, 40]),
            "top_p": rng.choice([1.0, rng.uniform(0.1, 0.99)]),
            "min_p": rng.choice([0.0, rng.uniform(0.01, 0.6)]),
        }
        order = rng.choice(["huggingface", "vllm"])
        shape = make_distribution(torch.tensor(logits), SamplingParams(**settings), order)
        kept, mass, entropy = by_numpy(logits.astype(np.float64), **settings, order=order)
        assert ((shape.after > 0) == kept).all()
        assert shape.num_kept == kept.sum()
        assert shape.kept_mass == pytest.approx(mass, abs=1e-5)
        assert shape.entropy == pytest.approx(entropy, abs=1e-4)


def test_greedy_keeps_the_one_likeliest_token():
    shape = make_distribution(torch.tensor([1.0, 3.0, 2.0]), SamplingParams(temperature=0))
    assert (shape.num_kept, shape.entropy, int(shape.after.argmax())) == (1, 0.0, 1)
    assert set(shape.draw([0.0, 0.5, 0.99])) == {1}


@pytest.mark.parametrize("settings", [{}, {"top_k": 40}, {"temperature": 1.5, "top_p": 0.9}, {"min_p": 0.05}])
def test_draws_are_those_of_the_engine_over_the_whole_vocabulary(settings):
    logits = 2 * torch.randn(50_000, generator=torch.Generator().manual_seed(0))
    shape = make_distribution(logits, SamplingParams(**settings))
    uniforms = torch.rand(200, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = sample_from_uniform(shape.filtered_logits.expand(200, -1), uniforms)
    assert shape.draw(uniforms.tolist()).tolist() == expected.tolist()


@pytest.fixture(scope="module")
def explorer():
    return SamplingExplorer(tiny_llm(), "The quick brown")


def test_its_logits_are_the_models(explorer):
    llm = explorer.llm
    output = llm.generate("The quick brown", SamplingParams(temperature=0, max_tokens=1), use_tqdm=False)[0]
    assert int(explorer.logits.argmax()) == output.outputs[0].token_ids[0]


@pytest.mark.parametrize(("knob", "value"), [("temperature", 0.5), ("top_k", 3), ("top_p", 0.5), ("min_p", 0.3)])
def test_a_moved_knob_changes_words_and_picture(explorer, knob, value):
    assert_moves_there_and_back(explorer, explorer.knobs[knob], value, f"{knob}={value:g}")


def test_a_slider_and_its_box_show_the_same_round_number(explorer):
    box = explorer.knobs["top_p"]
    [slider] = [row.children[0] for row in explorer.children[1].children[0].children if row.children[-1] is box]
    slider.value = 0.05 + 45 * 0.01
    assert box.value == 0.5
    box.value = 1.0
    assert slider.value == 1.0


def test_the_order_matters_where_it_does(explorer):
    explorer.knobs["min_p"].value, explorer.knobs["top_p"].value = 0.2, 0.5
    one = explorer.shape.num_kept
    explorer.order.value = "vllm"
    assert explorer.params.min_p == 0.2
    assert explorer.shape.num_kept <= one
    explorer.order.value = "huggingface"
    explorer.knobs["min_p"].value, explorer.knobs["top_p"].value = 0.0, 1.0


def test_a_new_prompt_asks_the_model_again(explorer):
    before = explorer.logits
    explorer.prompt.value = "def main"
    assert not torch.equal(explorer.logits, before)
    explorer.prompt.value = "The quick brown"
    assert torch.equal(explorer.logits, before)


def test_no_old_picture_stays_beside_an_error(explorer):
    explorer.prompt.value = ""
    assert "prompt must hold at least one token" in explorer.status.value
    assert explorer.picture.value == ""
    explorer.knobs["top_k"].value = 3  # nothing to show it on
    explorer.knobs["top_k"].value = 0
    explorer.draw()
    bundle, metadata = explorer._repr_mimebundle_()
    assert "image/png" not in bundle | metadata
    assert "prompt must hold at least one token" in bundle["text/plain"]
    explorer.prompt.value = "The quick brown"
    assert explorer.picture.layout.visibility == "visible"
    assert "tokens kept" in explorer.status.value


def test_a_first_prompt_may_be_wrong_too():
    assert "prompt must hold at least one token" in SamplingExplorer(tiny_llm(), "").summary()


def test_a_long_prompt_is_said_to_be_read(explorer, monkeypatch):
    engine, seen = explorer.llm.llm_engine, []

    def watched(prompt):
        seen.append((explorer.status.value, explorer.picture.layout.visibility))
        return type(engine).compute_logits(engine, prompt)

    monkeypatch.setattr(engine, "compute_logits", watched)
    explorer.prompt.value = "a" * 450
    assert "reading 450 characters ..." in seen[0][0]
    assert seen[0][1] == "hidden"
    explorer.prompt.value = "The quick brown"
    assert "reading" not in seen[1][0]


def test_the_steps_are_those_of_the_engine_one_filter_after_another():
    rng, noise = random.Random(1), np.random.default_rng(1)
    for _ in range(200):
        logits = noise.normal(size=300).astype(np.float32) * 3
        settings = {
            "temperature": rng.uniform(0.3, 2),
            "top_k": rng.choice([0, 5, 40]),
            "top_p": rng.choice([1.0, 0.7]),
            "min_p": rng.choice([0.0, 0.05]),
        }
        order = rng.choice(list(ORDERS))
        shape = make_distribution(torch.tensor(logits), SamplingParams(**settings), order)
        off = {"temperature": settings["temperature"], "top_k": 0, "top_p": 1.0, "min_p": 0.0}
        for step, name in zip(shape.steps, ("temperature", *ORDERS[order]), strict=True):
            off[name] = settings[name]
            kept, mass, _ = by_numpy(logits.astype(np.float64), **off, order=order)
            assert (step.name, step.value) == (name.replace("_", "-"), settings[name])
            assert step.num_left == kept.sum()
            assert step.mass_left == pytest.approx(mass, abs=1e-5)
        assert shape.steps[-1].num_left == shape.num_kept


def test_the_axis_fits_the_longest_bar(explorer):
    picture = explorer._picture
    longest = max(explorer.shape.before.max(), explorer.shape.after.max())
    start, end = picture._bars.get_xlim()
    assert start == 0
    assert longest <= end < 4 * longest
    explorer.axis.value = "log"
    assert picture._bars.get_xscale() == "log"
    assert picture._bars.get_xlim()[0] < explorer.shape.before[picture._head].min()
    explorer.axis.value = "linear"
    explorer.knobs["temperature"].value = 0.0
    assert picture._bars.get_xlim() == (0, 1)
    explorer.knobs["temperature"].value = 1.0
    assert picture._bars.get_xlim() == (start, end)


def test_all_other_tokens_have_what_the_likeliest_have_not(explorer):
    these, others, words = explorer._picture._shares.artists["now"]
    explorer.knobs["temperature"].value = 2.0
    share = explorer.shape.after[explorer._picture._head].sum()
    assert (these.get_width(), others.get_width()) == pytest.approx((share, 1 - share))
    assert f"others: {100 * (1 - share):.1f} %" in words.get_text()
    explorer.knobs["temperature"].value = 1.0


def test_only_filters_that_are_on_have_a_line(explorer):
    lines = explorer._picture._cut_lines
    assert not any(line.get_visible() for line in lines.values())
    explorer.knobs["top_k"].value = 7
    explorer.knobs["top_p"].value = 0.5
    assert {name for name, line in lines.items() if line.get_visible()} == {"top-k", "top-p"}
    assert lines["top-k"].get_xdata()[0] == 7
    # top-p takes half of what top-k left.
    assert lines["top-p"].get_ydata()[0] == pytest.approx(0.5 * explorer.shape.steps[1].mass_left)
    explorer.knobs["top_k"].value, explorer.knobs["top_p"].value = 0, 1.0


def test_draws_are_seen_once_drawn_and_only_on_kept_tokens(explorer):
    picture = explorer._picture
    explorer.knobs["top_k"].value = 3
    assert not picture._drawn_word.get_visible()
    assert len(picture._drawn.get_xdata()) == 0
    explorer.draw()
    first = list(explorer._drawn)
    assert picture._drawn_word.get_visible()
    assert len(picture._drawn.get_xdata()) == 3
    assert len(picture._dropped.get_xdata()) == NUM_SHOWN - 3
    explorer.draw()
    assert list(explorer._drawn) != first
    explorer.knobs["top_k"].value = 0
    assert not picture._drawn_word.get_visible()


def test_two_settings_stand_side_by_side(explorer):
    explorer.knobs["top_k"].value = 3
    explorer.keep_button.click()
    explorer.knobs["top_k"].value = 8
    assert "A (temperature=1, top_k=3" in explorer.summary()
    assert "now: 8 of" in explorer.summary()
    assert explorer._a_shape.num_kept == 3
    explorer.prompt.value = "def main"  # A is a setting: it is applied to the new prompt too
    expected = make_distribution(explorer.logits, SamplingParams(top_k=3))
    assert (explorer._a_shape.after == expected.after).all()
    explorer.prompt.value = "The quick brown"
    explorer.keep_button.click()
    assert "A (" not in explorer.summary()
    explorer.knobs["top_k"].value = 0


def test_draws_come_from_the_kept_tokens(explorer):
    explorer.knobs["top_k"].value = 3
    explorer.draw()
    assert set(explorer._drawn) <= set(np.flatnonzero(explorer.shape.after))
    assert "200 draws gave" in explorer.status.value
    explorer.knobs["top_k"].value = 0
    assert "draws" not in explorer.status.value


def test_without_a_kernel_it_is_a_picture_and_a_sentence(explorer):
    bundle, metadata = explorer._repr_mimebundle_()
    assert bundle["image/png"].startswith(b"\x89PNG")
    assert bundle["text/plain"] == explorer.summary()
    assert metadata["image/png"]["alt"] == explorer.summary()
    assert "tokens kept" in explorer.summary()
    assert f'alt="{explorer.summary().splitlines()[0][:16]}' in explorer.picture.value


def test_an_error_in_a_callback_is_not_swallowed(explorer, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("broken")

    monkeypatch.setattr("folovllm.course.widgets.sampling_explorer.make_distribution", fail)
    with pytest.raises(RuntimeError, match="broken"):
        explorer.knobs["top_p"].value = 0.33
