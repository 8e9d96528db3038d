"""What goes wrong with one request is its own: it ends, its owner is told, and the others' tokens do not change."""

import gc
import math
import threading
from collections.abc import Callable

import pytest
import torch

from folovllm import LLM, BeamSearchParams, CompletionOutput, SamplingParams
from folovllm.engine.detokenizer import Detokenizer
from folovllm.engine.output_processor import OutputProcessor
from folovllm.engine.shared_engine import SharedEngine
from folovllm.models.runner import ModelRunner
from folovllm.outputs import NO_TOKEN_LEFT
from folovllm.sampling.sampler import Sampler
from tests.engine_checks import assert_at_rest
from tests.tiny_models import tiny_llm, tiny_model
from tests.tiny_tokenizers import byte_level_tokenizer

GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
SEEDED = SamplingParams(seed=4, max_tokens=12, ignore_eos=True)
POISON = 300
"""A token whose embedding is NaN: whoever has it in the prompt gets NaN logits."""


def poisoned_model() -> torch.nn.Module:
    model = tiny_model()
    with torch.no_grad():
        model.get_input_embeddings().weight[POISON] = torch.nan
        model.lm_head.weight[POISON] = 0  # nobody else is to draw it
    return model


@pytest.fixture(scope="module")
def llm() -> LLM:
    return tiny_llm(poisoned_model(), block_size=4, num_gpu_blocks_override=400)


def prompt(length: int, first: int = 10) -> dict[str, list[int]]:
    return {"prompt_token_ids": [first + (7 * i) % 200 for i in range(length)]}


def poisoned(length: int = 9, place: int = 4) -> dict[str, list[int]]:
    token_ids = prompt(length, 20)["prompt_token_ids"]
    token_ids[place] = POISON
    return {"prompt_token_ids": token_ids}


def generate(llm: LLM, prompts: object, params: object = GREEDY) -> list[CompletionOutput]:
    return [output.outputs[0] for output in llm.generate(prompts, params, use_tqdm=False)]


class Picky(Sampler):
    """A strategy that fails for requests with top_k 7."""

    def refine(self, logits, params):
        if any(each.top_k == 7 for each in params):
            raise KeyError("a mistake of the learner's")
        return logits


def failing(kind: str, llm: LLM, monkeypatch: pytest.MonkeyPatch) -> tuple[Callable[[], object], type, str]:
    """Return a call that fails because of its own request, and how."""
    if kind == "refine":
        monkeypatch.setattr(llm.llm_engine, "sampler", Picky())
        params = SamplingParams(top_k=7, max_tokens=9)
        return lambda: llm.generate(prompt(6), params, use_tqdm=False), KeyError, "a mistake of the learner's"
    if kind == "nan":
        return lambda: llm.generate(poisoned(), GREEDY, use_tqdm=False), ValueError, "the model overflowed"
    if kind == "nan in beams":
        params = BeamSearchParams(beam_width=2, max_tokens=4)
        return lambda: llm.beam_search(poisoned(), params, use_tqdm=False), ValueError, "the model overflowed"
    if kind == "stream":
        return lambda: [*llm.stream(poisoned(), SEEDED)], ValueError, "the model overflowed"
    owner, name = {
        "detokenizer": (Detokenizer, "update"),
        "logprobs": (OutputProcessor, "record_prompt_logprobs"),
    }[kind]
    function = getattr(owner, name)

    def fail_for_some(self, *args, **kwargs):
        params = self.params if owner is Detokenizer else args[0].sampling_params
        if params.max_tokens == 9:
            raise TypeError("a tokenizer that breaks")
        return function(self, *args, **kwargs)

    monkeypatch.setattr(owner, name, fail_for_some)
    params = SamplingParams(temperature=0, max_tokens=9, prompt_logprobs=1)
    return lambda: llm.generate(prompt(6), params, use_tqdm=False), TypeError, "a tokenizer that breaks"


@pytest.mark.parametrize("kind", ["refine", "nan", "nan in beams", "stream", "detokenizer", "logprobs"])
def test_fifty_rounds_of_errors_in_one_thread_leave_the_other_alone(llm, monkeypatch, kind):
    expected = [generate(llm, prompt(n, first=n), params)[0] for n, params in ((7, GREEDY), (11, SEEDED))]
    fail, error, message = failing(kind, llm, monkeypatch)
    caught: list[Exception] = []
    go_on = threading.Event()

    def fail_often() -> None:
        for _ in range(50):
            try:
                fail()
            except Exception as mistake:
                caught.append(mistake)
        go_on.set()

    thread = threading.Thread(target=fail_often)
    thread.start()
    num_rounds = 0
    while not go_on.is_set() or num_rounds < 5:
        assert generate(llm, [prompt(7, first=7), prompt(11, first=11)], [GREEDY, SEEDED]) == expected
        num_rounds += 1
    thread.join(60)
    assert len(caught) == 50
    assert all(isinstance(each, error) and message in str(each) for each in caught)
    assert_at_rest(llm)


def test_the_error_says_which_prompt_it_was(llm):
    with pytest.raises(ValueError, match="overflowed") as caught:
        llm.generate([prompt(5), poisoned(), prompt(6)], GREEDY, use_tqdm=False)
    assert caught.value.__notes__ == ["This ended the request of prompt 2 of 3."]
    assert_at_rest(llm)


def test_an_engine_without_an_llm_reports_the_error_and_goes_on(llm):
    expected = generate(llm, prompt(7))[0]
    engine = llm.llm_engine
    engine.add_request("bad", poisoned(), GREEDY)
    engine.add_request("good", prompt(7), GREEDY)
    outputs = {}
    while engine.has_unfinished_requests():
        outputs |= {output.request_id: output for output in engine.step() if output.finished}
    assert "overflowed" in str(outputs["bad"].error)
    assert outputs["bad"].outputs == []
    assert outputs["good"].error is None
    assert outputs["good"].outputs == [expected]
    assert_at_rest(llm)


def test_an_interrupt_while_an_error_is_reported_does_not_hide_it(llm, monkeypatch):
    engine = llm.llm_engine
    engine.add_request("bad", poisoned(), GREEDY)

    def interrupt(self, request):
        raise KeyboardInterrupt

    monkeypatch.setattr(OutputProcessor, "make_failed_output", interrupt)
    with pytest.raises(KeyboardInterrupt):
        engine.step()
    monkeypatch.undo()
    [output] = engine.step()
    assert "overflowed" in str(output.error)
    assert_at_rest(llm)


def test_a_block_that_held_nan_gives_nobody_nan():
    llm = tiny_llm(poisoned_model(), block_size=8, num_gpu_blocks_override=6, enable_prefix_caching=False)
    lone = tiny_llm(poisoned_model(), block_size=8, num_gpu_blocks_override=6)
    for _ in range(3):  # so that every block has been a poisoned one's
        with pytest.raises(ValueError, match="overflowed"):
            generate(llm, [poisoned(30, place=2)])
        prompts = [prompt(3), prompt(10, first=40)]
        assert generate(llm, prompts) == [generate(lone, each)[0] for each in prompts]


def test_nan_in_one_of_many_that_share_a_beginning_is_its_own(llm):
    shared = prompt(24)["prompt_token_ids"]
    good = [{"prompt_token_ids": [*shared, last]} for last in (50, 60, 70, 80)]
    bad = {"prompt_token_ids": [*shared, POISON]}
    expected = [generate(llm, each)[0] for each in good]  # from here on the beginning is in the cache
    engine = llm.llm_engine
    for i, each in enumerate([*good[:2], bad, *good[2:]]):
        engine.add_request(str(i), each, GREEDY)
    outputs = {}
    while engine.has_unfinished_requests():
        outputs |= {output.request_id: output for output in engine.step() if output.finished}
    assert "overflowed" in str(outputs.pop("2").error)
    assert [output.outputs[0] for _, output in sorted(outputs.items())] == expected
    assert_at_rest(llm)


# -- errors of the step itself ---------------------------------------------------------------------------------


def test_an_error_of_the_step_ends_those_it_computes_and_no_others(llm, monkeypatch):
    expected = generate(llm, prompt(7))[0]
    execute = ModelRunner.execute

    def run_out_of_memory(self, step):
        if any(len(item.token_ids) > 100 for item in step.scheduled):
            raise MemoryError("out of memory")
        return execute(self, step)

    small = llm.with_settings(
        block_size=4, num_gpu_blocks_override=60, swap_space=0.001, max_num_seqs=2, max_num_batched_tokens=200
    )
    monkeypatch.setattr(ModelRunner, "execute", run_out_of_memory)
    engine = small.llm_engine
    engine.add_request("large", prompt(150), GREEDY)
    engine.add_request("beside", prompt(6, first=90), GREEDY)
    engine.add_request("later", prompt(7), GREEDY)
    outputs = engine.step()
    assert {output.request_id: str(output.error) for output in outputs} == dict.fromkeys(
        ("large", "beside"), "out of memory"
    )
    while engine.has_unfinished_requests():
        [output] = engine.step()
    assert output.outputs == [expected]
    assert_at_rest(small)


def test_an_error_before_anything_is_scheduled_ends_all(llm, monkeypatch):
    def fail(self):
        raise RuntimeError("no schedule")

    engine = llm.llm_engine
    engine.add_request("a", prompt(5), GREEDY)
    engine.add_request("b", prompt(5), GREEDY)
    monkeypatch.setattr(type(engine.scheduler), "schedule", fail)
    assert {output.request_id for output in engine.step() if str(output.error) == "no schedule"} == {"a", "b"}
    monkeypatch.undo()
    assert_at_rest(llm)


class Together(Sampler):
    """A sampler that cannot draw two rows at once, the first ``num_failures`` times."""

    def __init__(self, num_failures: float) -> None:
        super().__init__()
        self.num_failures = num_failures

    def __call__(self, logits, metadata):
        if len(logits) > 1 and self.num_failures > 0:
            self.num_failures -= 1
            raise RuntimeError("two rows are too many")
        return super().__call__(logits, metadata)


def test_a_sampler_that_fails_for_all_together_and_for_none_alone_is_an_error_of_the_step(llm, monkeypatch):
    monkeypatch.setattr(llm.llm_engine, "sampler", Together(num_failures=math.inf))
    with pytest.raises(RuntimeError, match="two rows are too many"):
        generate(llm, [prompt(5), prompt(6)])
    assert_at_rest(llm)


def test_a_sampler_that_fails_once_and_not_again_ends_nobody(llm, monkeypatch):
    expected = [generate(llm, each)[0] for each in (prompt(5), prompt(6))]
    monkeypatch.setattr(llm.llm_engine, "sampler", Together(num_failures=1))
    assert generate(llm, [prompt(5), prompt(6)]) == expected
    assert_at_rest(llm)


def test_owners_of_one_error_get_notes_of_their_own(llm, monkeypatch):
    def run_out_of_memory(self, step):
        raise MemoryError("full")

    monkeypatch.setattr(ModelRunner, "execute", run_out_of_memory)
    other = llm.stream(prompt(9), GREEDY)
    monkeypatch.undo()
    next(other)
    monkeypatch.setattr(ModelRunner, "execute", run_out_of_memory)
    errors = []
    for run in (lambda: generate(llm, [prompt(5), prompt(6)]), lambda: next(other)):
        with pytest.raises(MemoryError) as caught:
            run()
        errors.append(caught.value)
    assert [each.__notes__ for each in errors] == [
        ["This ended the request of prompt 1 of 2."],
        ["This ended the request of prompt 1 of 1."],
    ]
    assert errors[0] is not errors[1]


@pytest.mark.parametrize("error", [SystemExit("mine"), StopIteration(), GeneratorExit(), KeyError("mine")], ids=repr)
def test_whatever_a_users_function_raises_ends_its_request_only(llm, error):
    def fail(output_token_ids, logits):
        if output_token_ids:
            raise error
        return logits

    expected = generate(llm, prompt(6))
    stream = llm.stream(prompt(5), SamplingParams(seed=1, ignore_eos=True, logits_processors=[fail]))
    next(stream)
    assert generate(llm, prompt(6)) == expected
    with pytest.raises((RuntimeError, KeyError)) as caught:
        next(stream)
    assert repr(error) in str(caught.value) or type(caught.value) is type(error)
    assert_at_rest(llm)


# -- nothing left to choose from -----------------------------------------------------------------------------------

TOKENIZER = byte_level_tokenizer()
[Q] = TOKENIZER.encode("q")


@pytest.mark.parametrize(
    "settings",
    [{"temperature": 0}, {"seed": 1}, {"seed": 1, "n": 3}, {"seed": 2, "n": 1, "best_of": 2, "logprobs": 2}],
    ids=str,
)
@pytest.mark.parametrize("num_speculative_tokens", [0, 3])
def test_allowed_and_bad_words_that_meet_end_the_text_and_nothing_else(llm, settings, num_speculative_tokens):
    assert TOKENIZER.encode("qq") == [Q, Q]
    other = llm.with_settings(num_speculative_tokens=num_speculative_tokens, swap_space=0.001, block_size=4)
    expected = generate(other, prompt(7))[0]
    only_q = SamplingParams(allowed_token_ids=[Q], bad_words=["qq"], **settings)
    # The prompt repeats itself, so that there are guesses to be refused.
    met, beside = other.generate(["qqqq", prompt(7)], [only_q, GREEDY], use_tqdm=False)
    assert len(met.outputs) == only_q.n
    for completion in met.outputs:
        assert (completion.text, completion.token_ids) == ("q", [Q])
        assert (completion.finish_reason, completion.stop_reason) == ("stop", NO_TOKEN_LEFT)
    assert beside.outputs == [expected]
    assert_at_rest(other)


def test_guesses_reach_a_dead_end_where_single_steps_reach_it(llm):
    a, b = TOKENIZER.encode("x"), TOKENIZER.encode("y")
    only = SamplingParams(
        temperature=0, allowed_token_ids=a + b, bad_words=["yxyxy", "xx", "yy"], max_tokens=20, ignore_eos=True
    )
    results = []
    for num in (0, 1, 2, 4):
        other = llm.with_settings(num_speculative_tokens=num, swap_space=0.001, block_size=4)
        results.append(generate(other, "yxyxyxyx", only)[0])
    assert results == results[:1] * 4
    assert results[0].stop_reason == NO_TOKEN_LEFT
    assert len(results[0].token_ids) > 2


def test_a_row_behind_a_guess_that_does_not_hold_ends_nobody(llm):
    [a], [b] = TOKENIZER.encode("x"), TOKENIZER.encode("y")
    # After the guess "y" nothing may follow, but "x" is what is drawn.
    only = SamplingParams(
        temperature=0,
        allowed_token_ids=[a, b],
        bad_words=["yx", "yy"],
        logit_bias={a: 50},
        max_tokens=8,
        ignore_eos=True,
    )
    results = []
    for num in (0, 3):
        other = llm.with_settings(num_speculative_tokens=num, swap_space=0.001, block_size=4)
        results.append(generate(other, ["xyxy", "hello"], [only, GREEDY]))
    assert results[0] == results[1]
    assert results[0][0].token_ids == [a] * 8


def test_a_text_without_a_token_has_the_log_probability_of_nothing(llm):
    nothing = SamplingParams(logits_processors=[lambda output, logits: logits - torch.inf], logprobs=1)
    [output] = generate(llm, prompt(5), nothing)
    assert (output.token_ids, output.logprobs, output.cumulative_logprob) == ([], [], 0.0)
    assert output.stop_reason == NO_TOKEN_LEFT


# -- streams that nobody holds any more ------------------------------------------------------------------------------


def test_a_stream_collected_inside_a_step_ends_its_request(llm, monkeypatch):
    class Holder:
        pass

    def abandon() -> None:
        holder = Holder()
        holder.me = holder
        holder.stream = llm.stream(prompt(5), SamplingParams(temperature=0, max_tokens=80, ignore_eos=True))
        next(holder.stream)

    execute = ModelRunner.execute

    def collect_meanwhile(self, step):
        gc.collect()
        return execute(self, step)

    expected = generate(llm, prompt(7))[0]
    gc.collect()
    gc.disable()
    try:
        abandon()
        assert llm.llm_engine.has_unfinished_requests()
        monkeypatch.setattr(ModelRunner, "execute", collect_meanwhile)
        assert generate(llm, prompt(7))[0] == expected
    finally:
        gc.enable()
    assert_at_rest(llm)


def test_a_stream_closed_while_another_thread_computes_ends_after_that_step(llm, monkeypatch):
    execute = ModelRunner.execute
    stream = llm.stream(prompt(5), SamplingParams(temperature=0, max_tokens=80, ignore_eos=True))
    next(stream)

    def close_from_another_thread(self, step):
        thread = threading.Thread(target=stream.close)
        thread.start()
        thread.join(60)
        assert not thread.is_alive(), "closing waits for the step"
        monkeypatch.setattr(ModelRunner, "execute", execute)
        return execute(self, step)

    monkeypatch.setattr(ModelRunner, "execute", close_from_another_thread)
    generate(llm, prompt(7))
    assert_at_rest(llm)


def test_generating_inside_a_step_is_an_error_and_no_deadlock(llm, monkeypatch):
    class Recursive(Sampler):
        def refine(self, logits, params):
            llm.generate(prompt(3), use_tqdm=False)
            return logits

    monkeypatch.setattr(llm.llm_engine, "sampler", Recursive())
    with pytest.raises(RuntimeError, match="in the middle of a step"):
        generate(llm, prompt(5), SEEDED)
    assert_at_rest(llm)


def test_a_stream_collected_while_another_is_ended_disturbs_nobody(llm, monkeypatch):
    class Holder:
        pass

    holder = Holder()
    holder.me = holder
    holder.stream = llm.stream(prompt(5), GREEDY)
    gc.collect()
    gc.disable()
    try:
        next(holder.stream)
        del holder
        abort_request = llm.llm_engine.abort_request

        def abort_and_collect(request_id):
            output = abort_request(request_id)
            gc.collect()
            return output

        monkeypatch.setattr(llm.llm_engine, "abort_request", abort_and_collect)
        stream = llm.stream(prompt(9), GREEDY)
        next(stream)
        stream.close()
    finally:
        gc.enable()
    assert_at_rest(llm)


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_interrupt_while_outputs_are_handed_out_loses_none_of_another_caller(llm, monkeypatch, when):
    expected = generate(llm, prompt(7))[0]
    other = llm.stream(prompt(7), GREEDY)
    shown = [next(other)]
    deliver = SharedEngine._deliver
    calls = 0

    def interrupt(self):
        nonlocal calls
        calls += 1
        if when == "after":
            deliver(self)
        if calls == 2 + 2 * 11:  # in the step that finishes the other one
            raise KeyboardInterrupt
        if when == "before":
            deliver(self)

    monkeypatch.setattr(SharedEngine, "_deliver", interrupt)
    with pytest.raises(KeyboardInterrupt):
        llm.generate(prompt(5), SamplingParams(temperature=0, max_tokens=40, ignore_eos=True), use_tqdm=False)
    monkeypatch.undo()
    shown += other
    assert shown[-1].outputs[0] == expected
    assert_at_rest(llm)
