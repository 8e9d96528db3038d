"""The bundled model gives a random text the same tokens and the same bits, alone and under every pressure at once."""

import pytest

from folovllm import LLM, RequestOutput, SamplingParams

pytestmark = pytest.mark.bundled

PROMPTS = ["Once upon a time", "The three laws of", "def main():\n    ", "从前有一座山，"]
NUM_TOKENS = 120


def wild(seed: int, **settings: object) -> SamplingParams:
    """Return parameters under which a near-tie anywhere would send the text another way: 120 tokens at T 2."""
    length = {"max_tokens": NUM_TOKENS, "min_tokens": NUM_TOKENS}
    return SamplingParams(temperature=2.0, seed=seed, logprobs=2, **length, **settings)


def result_of(output: RequestOutput) -> object:
    return [(each.token_ids, each.cumulative_logprob, each.logprobs) for each in output.outputs]


@pytest.fixture(scope="module")
def alone(bundled_model_path):
    llm = LLM(device="cpu", enable_prefix_caching=False)
    assert llm.is_batch_invariant
    outputs = [llm.generate(prompt, wild(seed), use_tqdm=False)[0] for seed, prompt in enumerate(PROMPTS)]
    return [result_of(output) for output in outputs]


@pytest.mark.parametrize(
    "settings",
    [
        {"max_num_batched_tokens": 24, "max_num_seqs": 24, "block_size": 5},
        {"num_gpu_blocks_override": 60, "num_speculative_tokens": 3, "max_num_seqs": 12, "max_model_len": 512},
    ],
    ids=["chunks", "starved-with-drafts"],
)
def test_a_text_at_temperature_2_is_the_same_in_a_crowd(alone, settings):
    llm = LLM(device="cpu", record_history=True, **settings)
    crowd = [f"{prompt} {i}" for i, prompt in enumerate(PROMPTS * 2)]
    others = SamplingParams(temperature=1, seed=9, n=2, max_tokens=60, ignore_eos=True)
    params = [*(wild(seed) for seed in range(len(PROMPTS))), *[others] * len(crowd)]
    outputs = llm.generate([*PROMPTS, *crowd], params, use_tqdm=False)
    assert [result_of(output) for output in outputs[: len(PROMPTS)]] == alone
    steps = llm.llm_engine.history.steps
    preempted = any(sequence.preempted for step in steps for sequence in step.sequences)
    assert preempted == ("num_gpu_blocks_override" in settings)
