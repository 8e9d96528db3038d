"""The prompt box shows the engine's text, and says how it ended: also when it was refused or interrupted."""

import signal

import pytest

from folovllm import SamplingParams
from folovllm.course.widgets.prompt_box import PromptBox
from tests.tiny_models import tiny_llm


@pytest.fixture(scope="module")
def llm():
    return tiny_llm()


def test_the_text_is_the_engines_and_bold(llm):
    box = PromptBox(llm, "abc", max_tokens=3)
    assert "Press Generate." in box.status.value
    box.button.click()
    [output] = llm.generate("abc", SamplingParams(temperature=0, max_tokens=3), use_tqdm=False)
    assert box.result.outputs[0].text == output.outputs[0].text
    assert "abc<b>" in box.text.value
    assert "Bold: what the model wrote." in box.status.value
    assert box.summary().endswith("3 tokens after a prompt of 3; max_tokens was reached.")


def test_no_colour_is_fixed_that_a_dark_theme_would_swallow(llm):
    box = PromptBox(llm, "abc", max_tokens=1)
    box.run()
    assert "color" not in box.text.value + box.status.value


def test_a_refused_prompt_leaves_no_text(llm):
    box = PromptBox(llm, "abc", max_tokens=1)
    box.run()
    box.prompt.value = ""
    box.run()
    assert box.text.value == ""
    assert "The engine refused this" in box.status.value
    assert "nothing generated" in box.summary()


@pytest.mark.parametrize(("before", "told"), [(0, "Interrupted before the first token."), (2, "Interrupted. 2 tokens")])
def test_it_says_that_it_was_interrupted(llm, monkeypatch, before, told):
    box, stream = PromptBox(llm, "abc", max_tokens=9), llm.stream

    def interrupted(*arguments):
        outputs = stream(*arguments)
        for _ in range(before):
            yield next(outputs)
        outputs.close()
        raise KeyboardInterrupt

    monkeypatch.setattr(llm, "stream", interrupted)
    with pytest.raises(KeyboardInterrupt):
        box.run()
    assert told in box.status.value
    assert not box.button.disabled


def test_after_an_interrupt_the_engine_and_the_box_go_on(llm):
    """A real signal, as the kernel's "Interrupt" sends it, while the third token is shown."""
    box = PromptBox(llm, "abc", max_tokens=9)
    box.button.click()
    whole = box.summary()
    seen = []

    def interrupt_at_the_third(change):
        seen.append(change["new"])
        if len(seen) == 3:
            signal.raise_signal(signal.SIGINT)

    box.status.observe(interrupt_at_the_third, "value")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            box.button.click()
    finally:
        signal.signal(signal.SIGINT, before)
    assert "Interrupted. 3 tokens after a prompt of 3; it was interrupted." in box.status.value
    assert not llm.llm_engine.has_unfinished_requests()
    box.button.click()
    assert box.summary() == whole


def test_an_interrupt_before_the_first_token_leaves_no_text_of_the_run_before(llm, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    box = PromptBox(llm, "abc", max_tokens=3)
    box.run()
    assert box.text.value
    monkeypatch.setattr(llm, "stream", interrupted)
    with pytest.raises(KeyboardInterrupt):
        box.run()
    assert box.text.value == ""
