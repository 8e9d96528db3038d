"""``LLM.get_metrics`` agrees with what the outputs and the record of the steps say."""

import pytest

from folovllm import LLM, BeamSearchParams, SamplingParams
from folovllm.engine.metrics import Counter, Gauge
from folovllm.models.runner import ModelRunner
from tests.tiny_models import tiny_llm, tiny_model

MODEL = tiny_model()
GREEDY = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)


def prompt(length: int, first: int = 10) -> dict[str, list[int]]:
    return {"prompt_token_ids": [first + (7 * i) % 200 for i in range(length)]}


def read(llm: LLM) -> dict[str, float]:
    return {".".join([each.name, *each.labels.values()]): each.value for each in llm.get_metrics()}


def test_a_new_engine_has_done_nothing():
    metrics = tiny_llm(MODEL).get_metrics()
    assert {each.value for each in metrics} == {0}
    assert {type(each) for each in metrics} == {Counter, Gauge}


def test_requests_and_tokens_are_those_of_the_outputs():
    llm = tiny_llm(MODEL)
    params = [
        GREEDY,
        SamplingParams(n=2, best_of=3, seed=1, max_tokens=5),
        SamplingParams(seed=3, stop_token_ids=[*range(3, 320)]),
    ]
    outputs = llm.generate([prompt(7), prompt(9, 40), prompt(5, 60)], params, use_tqdm=False)
    beams = llm.beam_search(
        prompt(6, 80), BeamSearchParams(beam_width=3, max_tokens=4, ignore_eos=True), use_tqdm=False
    )
    metrics = read(llm)
    assert metrics["num_requests"] == 4
    assert metrics["prompt_tokens"] == 7 + 9 + 5 + 6
    lengths = [len(each.token_ids) for output in outputs for each in output.outputs]
    assert lengths == [8, 5, 5, 1]  # and a third text of five that was ranked out
    assert [len(each.token_ids) for each in beams[0].outputs] == [4, 4, 4]
    assert metrics["generation_tokens"] == sum(lengths) + 5 + 12
    assert metrics["request_success.length"] == 3
    assert metrics["request_success.stop"] == 1


def test_found_prompt_tokens_are_counted_as_the_outputs_count_them():
    llm = tiny_llm(MODEL, block_size=4)
    outputs = [output for _ in range(3) for output in llm.generate([prompt(21), prompt(9, 50)], GREEDY, use_tqdm=False)]
    metrics = read(llm)
    assert metrics["prefix_cache_queries"] == 3 * (21 + 9)
    assert metrics["prefix_cache_hits"] == sum(output.num_cached_tokens for output in outputs) == 2 * (20 + 8)


def test_preemptions_and_the_queues_are_those_of_the_record():
    llm = tiny_llm(
        MODEL,
        block_size=2,
        num_gpu_blocks_override=20,
        max_num_seqs=8,
        record_history=True,
        enable_prefix_caching=False,
    )
    engine = llm.llm_engine
    for i in range(5):
        engine.add_request(str(i), prompt(5 + i), SamplingParams(seed=i, n=2, max_tokens=8, ignore_eos=True))
    seen = set()
    while engine.has_unfinished_requests():
        engine.step()
        metrics = read(llm)
        queues = [
            len(queue) for queue in (engine.scheduler.running, engine.scheduler.waiting, engine.scheduler.swapped)
        ]
        assert [metrics[f"num_requests_{name}"] for name in ("running", "waiting", "swapped")] == queues
        held = sum(count > 0 for count in engine.scheduler.block_manager.gpu.ref_counts)
        assert metrics["kv_cache_usage_perc"] == pytest.approx(held / 20)
        seen |= {name for name, length in zip("rws", queues, strict=True) if length}
    gave_way = {
        (record.step, each.request_id) for record in engine.history.steps for each in record.sequences if each.preempted
    }
    assert read(llm)["num_preemptions"] == len(gave_way) > 0
    assert seen == {"r", "w", "s"}


def test_drafts_are_those_of_the_record_and_accepted_ones_save_steps():
    llm = tiny_llm(MODEL, num_speculative_tokens=3, record_history=True)
    params = SamplingParams(temperature=0, max_tokens=60, ignore_eos=True)
    [output] = llm.generate(prompt(5), params, use_tqdm=False)
    records = [each for step in llm.llm_engine.history.steps for each in step.sequences]
    metrics = read(llm)
    assert metrics["spec_decode_num_drafts"] == sum(each.num_draft_tokens > 0 for each in records) > 0
    assert metrics["spec_decode_num_draft_tokens"] == sum(each.num_draft_tokens for each in records)
    # Every step gives one token, and one more for each guess that held.
    assert metrics["spec_decode_num_accepted_tokens"] == len(output.outputs[0].token_ids) - len(records) > 0


def test_requests_that_were_given_up_or_failed_are_counted_by_their_end(monkeypatch):
    llm = tiny_llm(MODEL)
    stream = llm.stream(prompt(5), GREEDY)
    next(stream)
    stream.close()
    execute = ModelRunner.execute

    def fail(self, step):
        raise MemoryError("full")

    monkeypatch.setattr(ModelRunner, "execute", fail)
    with pytest.raises(MemoryError):
        llm.generate(prompt(5), GREEDY, use_tqdm=False)
    monkeypatch.setattr(ModelRunner, "execute", execute)
    llm.llm_engine.add_request("waits", prompt(5), GREEDY)
    llm.llm_engine.abort_request("waits")
    metrics = read(llm)
    assert metrics["num_requests"] == 3
    assert metrics["prompt_tokens"] == 15
    assert metrics["generation_tokens"] == 1
    assert {name: value for name, value in metrics.items() if name.startswith("request_")} == {
        "request_success.abort": 2,
        "request_success.error": 1,
    }


def test_an_interrupted_step_is_counted_once(monkeypatch):
    results = []
    for interrupted in (False, True):
        llm = tiny_llm(MODEL)
        engine = llm.llm_engine
        engine.add_request("a", prompt(5), SamplingParams(temperature=0, max_tokens=30, ignore_eos=True))
        append = engine.output_processor.append
        calls = 0

        def interrupt(draw, append=append, interrupted=interrupted):
            nonlocal calls
            calls += 1
            count = append(draw)
            if interrupted and calls % 3 == 0:
                raise KeyboardInterrupt
            return count

        monkeypatch.setattr(engine.output_processor, "append", interrupt)
        while engine.has_unfinished_requests():
            try:
                engine.step()
            except KeyboardInterrupt:
                continue
        results.append(read(llm))
    assert results[0] == results[1]
