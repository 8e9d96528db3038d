"""Beam search against an exhaustive search, HuggingFace's, and greedy."""

import itertools
import random

import pytest
import torch

from folovllm import BeamSearchParams, SamplingParams
from tests.tiny_models import EOS_TOKEN_ID, VOCAB_SIZE, tiny_llm, tiny_model


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def random_prompts(*lengths: int) -> list[dict[str, list[int]]]:
    rng = random.Random(7)
    return [{"prompt_token_ids": [rng.randrange(3, VOCAB_SIZE) for _ in range(length)]} for length in lengths]


def log_probability(model, prompt_token_ids: list[int], output: list[int]) -> float:
    """Sum over the output's tokens, by one plain HuggingFace forward pass."""
    with torch.inference_mode():
        logits = model(torch.tensor([prompt_token_ids + output])).logits[0].log_softmax(-1)
    start = len(prompt_token_ids) - 1
    return sum(float(logits[start + i, token_id]) for i, token_id in enumerate(output))


@pytest.mark.parametrize("length_penalty", [1.0, 0.0, -1.0, 3.0])
def test_a_beam_as_wide_as_the_tree_is_an_exhaustive_search(length_penalty):
    model = tiny_model(vocab_size=6, bos_token_id=1, pad_token_id=0)
    prompt = [3, 5, 4]
    texts = [
        list(text)
        for length in (1, 2, 3)
        for text in itertools.product(range(6), repeat=length)
        if EOS_TOKEN_ID not in text[:-1] and (length == 3 or text[-1] == EOS_TOKEN_ID)
    ]
    scores = {tuple(t): log_probability(model, prompt, t) / len(t) ** length_penalty for t in texts}
    best = sorted(scores, key=scores.__getitem__, reverse=True)
    llm = tiny_llm(model)
    params = BeamSearchParams(beam_width=6**3, max_tokens=3, length_penalty=length_penalty)
    found = llm.beam_search({"prompt_token_ids": prompt}, params, use_tqdm=False)[0].outputs
    assert [tuple(each.token_ids) for each in found[:20]] == best[:20]
    assert found[0].cumulative_logprob == pytest.approx(scores[best[0]] * len(best[0]) ** length_penalty, abs=1e-4)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"block_size": 4, "max_num_batched_tokens": 8, "max_num_seqs": 4},
        {"block_size": 3, "num_gpu_blocks_override": 36, "swap_space": 0.001},
        {"block_size": 3, "num_gpu_blocks_override": 36, "swap_space": 0},
    ],
    ids=["roomy", "chunked", "swapping", "recomputing"],
)
def test_without_eos_it_equals_huggingface(model, settings):
    """There the rules coincide: all texts have one length, so no rule about finished ones decides."""
    prompts = random_prompts(1, 5, 17, 40)
    llm = tiny_llm(model, record_history=True, **settings)
    found = llm.beam_search(prompts, BeamSearchParams(4, 10, ignore_eos=True), use_tqdm=False)
    gave_way = {seq.preempted for step in llm.llm_engine.history.steps for seq in step.sequences}
    for prompt, output in zip(prompts, found, strict=True):
        ids = torch.tensor([prompt["prompt_token_ids"]])
        expected = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=10, num_beams=4, num_return_sequences=4,
            do_sample=False, eos_token_id=VOCAB_SIZE + 1,
        )  # fmt: skip
        assert [each.token_ids for each in output.outputs] == expected[:, ids.shape[1] :].tolist()
    if "num_gpu_blocks_override" in settings:
        assert ("swapped" if settings["swap_space"] else "waiting") in gave_way
    pool = llm.llm_engine.scheduler.block_manager.gpu
    assert pool.num_free == pool.num_blocks


def test_one_beam_is_greedy_search_and_five_beams_find_likelier_texts(model):
    """Likelier as a rule: a beam can drop the greedy text's beginning and end worse, and one prompt here shows it."""
    llm = tiny_llm(model)
    prompts = random_prompts(*range(1, 31))
    params = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True, logprobs=0)
    greedy = [o.outputs[0] for o in llm.generate(prompts, params, use_tqdm=False)]
    one, five = (
        [o.outputs[0] for o in llm.beam_search(prompts, BeamSearchParams(width, 8, ignore_eos=True), use_tqdm=False)]
        for width in (1, 5)
    )
    assert [each.token_ids for each in one] == [each.token_ids for each in greedy]
    gains = [b.cumulative_logprob - g.cumulative_logprob for b, g in zip(five, greedy, strict=True)]
    assert sum(gain >= -1e-4 for gain in gains) >= 28
    assert sum(gains) / len(gains) > 0.5


def test_a_text_that_reached_eos_says_stop_and_keeps_eos_out_of_its_text():
    model = tiny_model(vocab_size=6, bos_token_id=1, pad_token_id=0)
    llm = tiny_llm(model)
    found = llm.beam_search({"prompt_token_ids": [3, 5]}, BeamSearchParams(40, 3), use_tqdm=False)[0].outputs
    ended = [each for each in found if each.token_ids[-1] == EOS_TOKEN_ID]
    assert ended
    assert all(each.finish_reason == "stop" for each in ended)
    assert all("<|im_end|>" not in each.text for each in ended)
    assert all(each.finish_reason == "length" for each in found if each not in ended)


def test_texts_with_a_common_beginning_share_its_blocks(model):
    llm = tiny_llm(model, record_history=True, block_size=4, enable_prefix_caching=False)
    llm.beam_search(random_prompts(20), BeamSearchParams(3, 6), use_tqdm=False)
    steps = llm.llm_engine.history.steps
    assert steps[0].num_batched_tokens == 20
    assert all(step.num_batched_tokens <= 3 for step in steps[1:])
    assert all(seq.ref_counts[:5] == (3,) * 5 for seq in steps[2].sequences)


def test_drawn_requests_beside_a_beam_search_are_not_disturbed(model):
    llm = tiny_llm(model)
    prompt = random_prompts(9)[0]
    params = SamplingParams(seed=3, max_tokens=12)
    alone = llm.generate(prompt, params, use_tqdm=False)[0].outputs[0].token_ids
    stream = llm.stream(prompt, params)
    next(stream)
    llm.beam_search(random_prompts(5, 8), BeamSearchParams(4, 6), use_tqdm=False)
    *_, last = stream
    assert last.outputs[0].token_ids == alone


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"beam_width": 0, "max_tokens": 3}, "beam_width"),
        ({"beam_width": True, "max_tokens": 3}, "beam_width"),
        ({"beam_width": 2, "max_tokens": 0}, "max_tokens"),
        ({"beam_width": 2, "max_tokens": 3, "length_penalty": float("nan")}, "length_penalty"),
        ({"beam_width": 2, "max_tokens": 3, "ignore_eos": 1}, "ignore_eos"),
    ],
)
def test_wrong_beam_parameters_are_refused_by_name(params, field):
    with pytest.raises(ValueError, match=field):
        BeamSearchParams(**params)


def test_a_beam_that_has_no_seats_is_refused(model):
    with pytest.raises(ValueError, match="max_num_seqs=2"):
        tiny_llm(model, max_num_seqs=2).beam_search(random_prompts(3), BeamSearchParams(3, 2), use_tqdm=False)
