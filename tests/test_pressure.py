"""Sharing, starving, speculating: what the history of real runs shows."""

import random

import pytest

from folovllm import LLMEngine, SamplingParams, SequenceStatus
from folovllm.llm import make_engine_config
from tests.chi_square import p_value_of_one_law
from tests.engine_checks import assert_at_rest
from tests.tiny_models import VOCAB_SIZE, tiny_llm, tiny_model
from tests.tiny_tokenizers import byte_level_tokenizer

GREEDY = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def random_tokens(length: int, seed: int = 0) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(3, VOCAB_SIZE) for _ in range(length)]


def as_prompt(token_ids: list[int]) -> dict[str, list[int]]:
    return {"prompt_token_ids": token_ids}


def tokens_of(outputs) -> list[list[list[int]]]:
    return [[completion.token_ids for completion in output.outputs] for output in outputs]


def seen_preemptions(llm) -> set[SequenceStatus]:
    return {seq.preempted for step in llm.llm_engine.history.steps for seq in step.sequences if seq.preempted}


def test_a_shared_400_token_prefix_is_computed_once_and_again_after_eviction(model):
    prefix = random_tokens(400)
    first, second = (as_prompt(prefix + random_tokens(10, seed)) for seed in (1, 2))
    llm = tiny_llm(model, num_gpu_blocks_override=40)
    runner = llm.llm_engine.model_runner
    expected = tokens_of(tiny_llm(model, enable_prefix_caching=False).generate([first, second], GREEDY, use_tqdm=False))
    assert tokens_of(llm.generate(first, GREEDY, use_tqdm=False)) == expected[:1]
    computed = {}
    for name in ("shared", "evicted"):
        before = runner.num_tokens_run
        [output] = llm.generate(second, GREEDY, use_tqdm=False)
        computed[name] = (runner.num_tokens_run - before, output.num_cached_tokens)
        assert tokens_of([output]) == expected[1:]
        # Someone else's prompt takes every block that is free.
        llm.generate(as_prompt(random_tokens(480, seed=9)), GREEDY, use_tqdm=False)
        llm.llm_engine.reset_prefix_cache()
    assert computed == {"shared": (10 + 7, 400), "evicted": (410 + 7, 0)}


def test_without_prefix_caching_nothing_is_shared_between_requests(model):
    prompt = as_prompt(random_tokens(100))
    llm = tiny_llm(model, enable_prefix_caching=False)
    outputs = [llm.generate(prompt, GREEDY, use_tqdm=False)[0] for _ in range(2)]
    assert [output.num_cached_tokens for output in outputs] == [0, 0]
    assert llm.llm_engine.model_runner.num_tokens_run == 2 * (100 + 7)


def test_three_of_five_share_one_prompt_and_two_are_ignored(model):
    llm = tiny_llm(model)
    params = SamplingParams(n=3, best_of=5, seed=1, max_tokens=6, temperature=1.0, ignore_eos=True)
    engine = llm.llm_engine
    request = engine.add_request("r", as_prompt(random_tokens(50)), params)
    while engine.has_unfinished_requests():
        [output] = engine.step()
    assert engine.model_runner.num_tokens_run == 50 + 5 * 5
    assert len({tuple(seq.data.output_token_ids) for seq in request.sequences}) == 5
    ranked = sorted(request.sequences, key=lambda seq: -seq.cumulative_logprob)
    assert tokens_of([output]) == [[seq.data.output_token_ids for seq in ranked[:3]]]
    assert [completion.cumulative_logprob for completion in output.outputs] == [
        s.cumulative_logprob for s in ranked[:3]
    ]
    assert [seq.status for seq in ranked[3:]] == [SequenceStatus.FINISHED_IGNORED] * 2


@pytest.mark.parametrize(("swap_space", "status"), [(0.001, "swapped"), (0.0, "waiting")])
def test_a_starved_pool_changes_no_token(model, swap_space, status):
    prompts = [as_prompt(random_tokens(20, seed)) for seed in range(6)]
    params = [SamplingParams(n=3, seed=seed, max_tokens=25) for seed in range(6)]
    calm = tiny_llm(model).generate(prompts, params, use_tqdm=False)
    llm = tiny_llm(model, block_size=4, num_gpu_blocks_override=40, swap_space=swap_space, record_history=True)
    assert tokens_of(llm.generate(prompts, params, use_tqdm=False)) == tokens_of(calm)
    assert seen_preemptions(llm) == {status}
    assert_at_rest(llm)


def test_single_sequences_are_recomputed_and_families_swapped_in_one_run(model):
    prompts = [as_prompt(random_tokens(20, seed)) for seed in range(8)]
    params = [SamplingParams(n=1 + seed % 2 * 2, seed=seed, max_tokens=25) for seed in range(8)]
    llm = tiny_llm(model, block_size=4, num_gpu_blocks_override=34, record_history=True)
    assert tokens_of(llm.generate(prompts, params, use_tqdm=False)) == tokens_of(
        tiny_llm(model).generate(prompts, params, use_tqdm=False)
    )
    assert seen_preemptions(llm) == {SequenceStatus.SWAPPED, SequenceStatus.WAITING}


def test_a_soak_of_64_requests_at_the_smallest_pool_answers_every_one(model):
    rng = random.Random(64)
    config = make_engine_config(
        "tiny", block_size=4, num_gpu_blocks_override=45, swap_space=0.00005, max_num_batched_tokens=32, max_num_seqs=12
    )
    engine = LLMEngine(config, model, byte_level_tokenizer())
    waiting = list(range(64))
    reasons: dict[str, set[str | None]] = {}
    while waiting or engine.has_unfinished_requests():
        for _ in range(rng.randint(0, 3)):
            if waiting:
                i = waiting.pop()
                params = SamplingParams(n=rng.choice([1, 1, 3, 4]), seed=i, max_tokens=rng.randint(1, 25))
                engine.add_request(str(i), as_prompt(random_tokens(rng.randint(1, 40), i)), params)
        outputs = engine.step()
        if rng.random() < 0.05 and (gone := engine.abort_request(str(rng.randrange(64)))) is not None:
            outputs.append(gone)
        for output in outputs:
            if output.finished:
                assert output.request_id not in reasons
                reasons[output.request_id] = {completion.finish_reason for completion in output.outputs}
    assert len(reasons) == 64
    assert set().union(*reasons.values()) <= {"length", "stop", "abort"}
    assert_at_rest(engine)


def test_speculation_takes_fewer_steps_for_the_same_tokens(model):
    """A text that repeats itself is what prompt lookup guesses; here the bias makes it do so."""
    prompt = as_prompt(random_tokens(12))
    bias = {token_id: 8.0 for token_id in (5, 6)}
    params = SamplingParams(temperature=0, max_tokens=120, ignore_eos=True, logit_bias=bias)
    steps, tokens = {}, {}
    for guesses in (0, 4):
        llm = tiny_llm(model, num_speculative_tokens=guesses, record_history=True)
        tokens[guesses] = tokens_of(llm.generate(prompt, params, use_tqdm=False))
        steps[guesses] = len(llm.llm_engine.history.steps)
    assert tokens[4] == tokens[0]
    assert steps[0] == 120
    assert steps[4] < 60


def test_speculation_keeps_the_distribution_of_drawn_tokens(model):
    """The second token after a prompt full of repetitions, drawn 3000 times with guesses and without."""
    prompt = as_prompt([5, 6, 7, 8] * 4)
    counts = {}
    for guesses, first_seed in ((0, 0), (4, 10_000)):
        llm = tiny_llm(model, num_speculative_tokens=guesses, max_num_batched_tokens=4096)
        params = [
            SamplingParams(seed=first_seed + i, max_tokens=3, top_k=4, allowed_token_ids=[5, 6, 7, 8], ignore_eos=True)
            for i in range(3000)
        ]
        outputs = llm.generate([prompt] * 3000, params, use_tqdm=False)
        drawn = [tuple(output.outputs[0].token_ids[1:]) for output in outputs]
        counts[guesses] = [drawn.count((a, b)) for a in (5, 6, 7, 8) for b in (5, 6, 7, 8)]
    often = [i for i in range(16) if counts[0][i] + counts[4][i] >= 10]
    assert len(often) >= 4
    table = [[counts[guesses][i] for i in often] for guesses in (0, 4)]
    assert p_value_of_one_law(table) > 0.001


def test_a_chunked_prompt_is_mixed_with_decoding(model):
    llm = tiny_llm(model, max_num_batched_tokens=16, max_num_seqs=4, record_history=True)
    llm.generate([as_prompt(random_tokens(5)), as_prompt(random_tokens(60, 1))], GREEDY, use_tqdm=False)
    steps = [[seq.num_scheduled_tokens for seq in step.sequences] for step in llm.llm_engine.history.steps]
    assert steps[:5] == [[5, 11], [1, 15], [1, 15], [1, 15], [1, 4]]


# -- the record ----------------------------------------------------------------------------------------------


def test_the_history_is_consistent(model):
    llm = tiny_llm(model, block_size=4, num_gpu_blocks_override=40, record_history=True)
    prompts = [as_prompt(random_tokens(20, seed)) for seed in range(5)]
    llm.generate(prompts, SamplingParams(n=2, seed=0, max_tokens=20), use_tqdm=False)
    history = llm.llm_engine.history
    assert [step.step for step in history.steps] == list(range(len(history.steps)))
    for step in history.steps:
        assert min(step.schedule_ms, step.forward_ms, step.sample_ms, step.postprocess_ms) >= 0
        assert step.num_batched_tokens == sum(seq.num_scheduled_tokens for seq in step.sequences)
        assert 0 <= step.num_cached_blocks <= step.num_free_blocks <= 40
        for seq in step.sequences:
            assert len(seq.block_table) == len(seq.ref_counts)
            assert all(count >= 1 for count in seq.ref_counts)
            assert bool(seq.block_table) or seq.status in ("waiting", "running") or seq.status.is_finished()
    rows = history.to_rows()
    assert len(rows) == sum(len(step.sequences) for step in history.steps)
    assert {"step", "seq_id", "status", "block_table", "forward_ms", "preempted"} <= set(rows[0])
    history.clear()
    assert history.to_rows() == []


def test_without_record_history_there_is_none(model):
    llm = tiny_llm(model)
    llm.generate(as_prompt([5]), GREEDY, use_tqdm=False)
    assert llm.llm_engine.history is None
