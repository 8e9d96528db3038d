"""Outputs: what they say when little is known, and the times that follow from others."""

import dataclasses

import pytest

from folovllm import CompletionOutput, Logprob, RequestMetrics, RequestOutput


@pytest.mark.parametrize(
    ("finish_reason", "finished"), [(None, False), ("stop", True), ("length", True), ("abort", True)]
)
def test_a_completion_is_finished_once_it_has_a_reason(finish_reason, finished):
    assert CompletionOutput(0, "", [], finish_reason=finish_reason).finished() is finished


def test_a_completion_says_nothing_of_what_nobody_asked_for():
    completion = CompletionOutput(index=1, text="a", token_ids=[5])
    assert completion.cumulative_logprob is completion.logprobs is None
    assert completion.finish_reason is completion.stop_reason is None


def test_the_fields_are_vllms_and_in_its_order():
    def names(kind: type) -> list[str]:
        return [field.name for field in dataclasses.fields(kind)]

    assert names(Logprob) == ["logprob", "rank", "decoded_token"]
    assert names(CompletionOutput) == [
        "index", "text", "token_ids", "cumulative_logprob", "logprobs", "finish_reason", "stop_reason",
    ]  # fmt: skip
    assert names(RequestOutput) == [
        "request_id", "prompt", "prompt_token_ids", "prompt_logprobs", "outputs", "finished", "metrics",
        "num_cached_tokens", "error",
    ]  # fmt: skip


def test_a_log_probability_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Logprob(-0.5).logprob = 0.0


# Arrival at 10; the others differ so that no two differences are equal.
TIMES = {"first_scheduled_time": 10.5, "first_token_time": 12.0, "finished_time": 17.0}
DERIVED = {"time_in_queue": 0.5, "time_to_first_token": 2.0, "total_time": 7.0}


@pytest.mark.parametrize("known", range(4))
def test_a_time_is_known_from_its_event_on(known):
    metrics = RequestMetrics(10.0, **dict(list(TIMES.items())[:known]))
    so_far = {name: value if i < known else None for i, (name, value) in enumerate(DERIVED.items())}
    assert {name: getattr(metrics, name) for name in DERIVED} == so_far


def test_an_event_at_time_zero_is_known():
    metrics = RequestMetrics(-1.0, first_scheduled_time=0.0, first_token_time=0.0, finished_time=0.0)
    assert metrics.time_in_queue == metrics.time_to_first_token == metrics.total_time == 1.0


def test_outputs_that_say_the_same_are_equal():
    def output(text: str) -> RequestOutput:
        completion = CompletionOutput(0, text, [5], -0.5, [{5: Logprob(-0.5, 1, text)}], "stop", "end")
        return RequestOutput("id", "prompt", [1, 2], [None, {2: Logprob(-1.0)}], [completion], finished=True)

    assert output("a") == output("a")
    assert output("a") != output("b")


def test_print_shows_what_a_learner_looks_for():
    shown = str(RequestOutput("id", "why?", [1, 2], None, [CompletionOutput(0, "because", [5, 6])], finished=False))
    for part in ("request_id='id'", "prompt='why?'", "text='because'", "token_ids=[5, 6]", "finished=False"):
        assert part in shown
