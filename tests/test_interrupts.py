"""An interrupt may come at any line of a step: no block is lost, and every request ends as if it had not come."""

import linecache
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

import pytest

import folovllm
from folovllm import LLM, BeamSearchParams, RequestOutput, SamplingParams
from folovllm.engine import llm_engine
from folovllm.engine.block_manager import BlockManager, BlockPool
from folovllm.engine.detokenizer import Detokenizer
from folovllm.engine.llm_engine import LLMEngine
from folovllm.engine.output_processor import OutputProcessor
from folovllm.engine.scheduler import Scheduler
from folovllm.models.kv_cache import KVCache
from folovllm.models.runner import ModelRunner
from folovllm.request import Request, SequenceStatus
from folovllm.sampling.sampler import Sampler
from folovllm.sequence import Sequence
from tests.engine_checks import assert_at_rest
from tests.tiny_models import tiny_llm, tiny_model

PACKAGE = str(Path(folovllm.__file__).parent)
MODEL = tiny_model(num_hidden_layers=1, hidden_size=32, intermediate_size=48)
LETTERS = [chr(code) for code in range(ord("a"), ord("z") + 1)]


def prompt(length: int, first: int = 10) -> dict[str, list[int]]:
    return {"prompt_token_ids": [first + (7 * i) % 200 for i in range(length)]}


# A pool so small that requests are preempted both ways, and ends of all kinds, at different steps.
REQUESTS = {
    "greedy": (prompt(9), SamplingParams(temperature=0, max_tokens=7, ignore_eos=True, prompt_logprobs=1)),
    "three": (prompt(5, 30), SamplingParams(seed=7, n=3, max_tokens=9, stop_token_ids=list(range(100, 160)))),
    "ranked": (prompt(6, 50), SamplingParams(seed=11, n=1, best_of=2, max_tokens=6, logprobs=1)),
    "string": (prompt(3, 70), SamplingParams(seed=3, n=2, max_tokens=9, stop=LETTERS)),
    "beams": (prompt(4, 90), BeamSearchParams(beam_width=2, max_tokens=4)),
    "alone": (prompt(5, 110), SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)),
}
SETTINGS = {
    "block_size": 2,
    "num_gpu_blocks_override": 20,
    "swap_space": 0.001,
    "max_num_seqs": 8,
    "max_num_batched_tokens": 12,
    "num_speculative_tokens": 2,
    "record_history": True,
}


def summary(output: RequestOutput) -> list[tuple[object, ...]]:
    judged = [sorted(entry) for entry in (output.prompt_logprobs or [])[1:]]
    return [(c.token_ids, c.text, c.finish_reason, c.stop_reason, judged) for c in output.outputs]


def run_engine(
    engine: LLMEngine, around_step: AbstractContextManager[object] | None = None
) -> tuple[dict[str, list[tuple[object, ...]]], int]:
    """Step to the end, also after interrupts; return each request's result and the number of interrupts."""
    around_step = around_step or nullcontext()
    results: dict[str, list[tuple[object, ...]]] = {}
    num_interrupts = 0
    for _ in range(200):
        if not engine.has_unfinished_requests():
            break
        try:
            with around_step:
                outputs = engine.step()
        except KeyboardInterrupt:
            num_interrupts += 1
            continue
        for output in outputs:
            if output.finished:
                assert output.request_id not in results, "reported twice"
                results[output.request_id] = summary(output)
    assert_at_rest(engine)
    return results, num_interrupts


def start_requests(engine: LLMEngine) -> None:
    engine.reset_prefix_cache()
    for request_id, (given, params) in REQUESTS.items():
        engine.add_request(request_id, given, params)


@pytest.fixture(scope="module")
def expected() -> dict[str, list[tuple[object, ...]]]:
    """What every request gives when it is alone and has all the room it wants."""
    results = {}
    for request_id, (given, params) in REQUESTS.items():
        engine = tiny_llm(MODEL, swap_space=0.001).llm_engine
        engine.add_request(request_id, given, params)
        results |= run_engine(engine)[0]
    return results


@pytest.fixture(scope="module")
def llm() -> LLM:
    return tiny_llm(MODEL, **SETTINGS)


def test_the_requests_end_in_every_way_and_are_preempted_in_every_way(llm, expected):
    start_requests(llm.llm_engine)
    llm.llm_engine.history.clear()
    assert run_engine(llm.llm_engine) == (expected, 0)
    preempted = {record.preempted for step in llm.llm_engine.history.steps for record in step.sequences}
    assert preempted == {None, SequenceStatus.WAITING, SequenceStatus.SWAPPED}
    ends = {(reason, type(what)) for result in expected.values() for _, _, reason, what, _ in result}
    assert ends == {("length", type(None)), ("stop", int), ("stop", str)}


# -- every line ------------------------------------------------------------------------------------------

Place = tuple[str, int]


class LineTracer:
    """Sees every line of the package that runs in a step, and calls ``on_line`` with its place.

    Left out is the lock around a step: an interrupt between acquiring it and ``try`` leaves it locked,
    and one after the return loses what was returned.
    """

    def __init__(self, on_line: Callable[[Place], None]) -> None:
        self.on_line = on_line
        self.num_steps = 0

    def __enter__(self) -> None:
        self.num_steps += 1
        sys.settrace(self._on_call)

    def __exit__(self, *error: object) -> None:
        sys.settrace(None)

    def _on_call(self, frame, event, arg):
        code = frame.f_code
        return self._on_event if code.co_filename.startswith(PACKAGE) and code.co_name != "_exclusively" else None

    def _on_event(self, frame, event, arg):
        place = (frame.f_code.co_filename, frame.f_lineno)
        if event == "line" and "with self._exclusively()" not in linecache.getline(*place):
            self.on_line(place)
        return self._on_event


def test_an_interrupt_at_any_line_of_a_step_changes_no_result(llm, expected):
    untried: set[Place] = set()
    start_requests(llm.llm_engine)
    run_engine(llm.llm_engine, LineTracer(untried.add))
    assert len(untried) > 500
    first_step = num_idle_runs = 0
    interrupted: list[Place] = []

    def interrupt(place: Place) -> None:
        # Several lines a run, three steps apart, so that all of them take seconds.
        if place in untried and tracer.num_steps >= first_step + 3 * len(interrupted):
            untried.remove(place)
            interrupted.append(place)
            sys.settrace(None)
            raise KeyboardInterrupt

    while untried:
        interrupted.clear()
        tracer = LineTracer(interrupt)
        start_requests(llm.llm_engine)
        results, num_interrupts = run_engine(llm.llm_engine, tracer)
        assert results == expected, interrupted
        assert num_interrupts == len(interrupted)
        if len(interrupted) < 3:  # what is left comes only later in a run
            first_step = (first_step + 1) % 20
        num_idle_runs = 0 if interrupted else num_idle_runs + 1
        assert num_idle_runs < 20, f"never reached again: {untried}"


# -- every stage -----------------------------------------------------------------------------------------

STAGES = [
    (Scheduler, "schedule"),
    (Scheduler, "_preempt"),
    (Scheduler, "mark_computed"),
    (Scheduler, "free_finished"),
    (BlockPool, "allocate"),
    (BlockPool, "share"),
    (BlockPool, "release"),
    (BlockManager, "append_slots"),
    (BlockManager, "swap_out"),
    (BlockManager, "swap_in"),
    (BlockManager, "fork"),
    (ModelRunner, "execute"),
    (KVCache, "copy_blocks"),
    (KVCache, "swap_out"),
    (KVCache, "swap_in"),
    (llm_engine, "draw_tokens"),
    (Sampler, "__call__"),
    (OutputProcessor, "append"),
    (OutputProcessor, "record_prompt_logprobs"),
    (OutputProcessor, "make_output"),
    (OutputProcessor, "remove_request"),
    (Sequence, "add_token_id"),
    (Sequence, "transition_to"),
    (Detokenizer, "update"),
    (Request, "ignore_leftovers"),
]


class Bomb:
    """Stands in for a function and raises ``error`` at its ``call``-th call, before or after it has done its work."""

    def __init__(
        self, function: Callable[..., object], error: type[BaseException], call: int, done: bool = False
    ) -> None:
        self.function, self.error, self.call, self.done = function, error, call, done
        self.calls = 0

    def __get__(self, instance: object, owner: type) -> Callable[..., object]:
        return partial(self, instance)

    def __call__(self, *args: object, **kwargs: object) -> object:
        self.calls += 1
        if self.calls != self.call:
            return self.function(*args, **kwargs)
        if self.done:
            self.function(*args, **kwargs)
        raise self.error("boom")


GIVEN = {name: each for name, each in REQUESTS.items() if isinstance(each[1], SamplingParams)}


def generate(llm: LLM) -> dict[str, list[tuple[object, ...]]]:
    llm.llm_engine.reset_prefix_cache()
    prompts, params = zip(*GIVEN.values(), strict=True)
    outputs = llm.generate(prompts, params, use_tqdm=False)
    return dict(zip(GIVEN, map(summary, outputs), strict=True))


@pytest.fixture(scope="module")
def num_calls(llm) -> dict[tuple[object, str], int]:
    """How often a stage is called while ``generate`` runs undisturbed."""
    bombs = {(owner, name): Bomb(getattr(owner, name), KeyboardInterrupt, call=0) for owner, name in STAGES}
    with pytest.MonkeyPatch.context() as patch:
        for (owner, name), bomb in bombs.items():
            patch.setattr(owner, name, bomb)
        generate(llm)
    return {stage: bomb.calls for stage, bomb in bombs.items()}


@pytest.mark.parametrize(("where", "error"), [(0.0, KeyboardInterrupt), (0.5, RuntimeError), (1.0, KeyboardInterrupt)])
@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("owner", "name"), STAGES, ids=lambda value: getattr(value, "__name__", value))
def test_an_error_at_any_stage_ends_generate_and_leaves_the_engine_usable(
    llm, expected, num_calls, monkeypatch, owner, name, done, where, error
):
    call = 1 + int(where * (num_calls[owner, name] - 1))
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, Bomb(getattr(owner, name), error, call, done))
        # Rows that cannot be drawn are drawn again, so what fails only once is nobody's end.
        is_retried = owner is Sampler and error is RuntimeError
        with nullcontext() if is_retried else pytest.raises(error, match="boom"):
            generate(llm)
    assert_at_rest(llm)
    assert generate(llm) == {request_id: expected[request_id] for request_id in GIVEN}
    assert_at_rest(llm)


# -- around the steps ----------------------------------------------------------------------------------------


def step_for_ever(engine: LLMEngine) -> None:
    while True:
        engine.step()


def test_what_ended_in_an_interrupted_step_is_reported_by_the_next_one(llm, expected, monkeypatch):
    engine = llm.llm_engine
    engine.add_request("alone", *REQUESTS["alone"])
    bomb = Bomb(OutputProcessor.remove_request, KeyboardInterrupt, call=1, done=True)
    with monkeypatch.context() as patch:
        patch.setattr(OutputProcessor, "remove_request", bomb)
        with pytest.raises(KeyboardInterrupt):
            step_for_ever(engine)
    assert engine.has_unfinished_requests()
    (output,) = engine.step()
    assert output.finished
    assert summary(output) == expected["alone"]
    assert_at_rest(llm)


def test_a_step_without_requests_does_nothing(llm):
    assert llm.llm_engine.step() == []
    assert_at_rest(llm)


@pytest.mark.parametrize("owner", [OutputProcessor, Scheduler], ids=lambda owner: owner.__name__)
def test_an_interrupt_while_requests_are_added_leaves_none_behind(llm, expected, monkeypatch, owner):
    name = "track" if owner is OutputProcessor else "add_request"
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, Bomb(getattr(owner, name), KeyboardInterrupt, call=3, done=True))
        with pytest.raises(KeyboardInterrupt):
            generate(llm)
    assert_at_rest(llm)
    assert generate(llm) == {request_id: expected[request_id] for request_id in GIVEN}


def test_an_aborted_request_has_no_stop_reason_of_an_interrupted_step(llm, monkeypatch):
    engine = llm.llm_engine
    engine.add_request("string", *REQUESTS["string"])

    def fail_at_the_end(self: Sequence, status: SequenceStatus) -> None:
        if status == SequenceStatus.FINISHED_STOPPED:
            raise KeyboardInterrupt
        transition_to(self, status)

    transition_to = Sequence.transition_to
    with monkeypatch.context() as patch:
        patch.setattr(Sequence, "transition_to", fail_at_the_end)
        with pytest.raises(KeyboardInterrupt):
            step_for_ever(engine)
    output = engine.abort_request("string")
    assert {(each.finish_reason, each.stop_reason) for each in output.outputs} == {("abort", None)}
    assert_at_rest(llm)
