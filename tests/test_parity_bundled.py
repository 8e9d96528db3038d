"""The bundled model through the engine gives the tokens that HuggingFace gives."""

import pytest
import torch

from folovllm import LLM, BeamSearchParams, SamplingParams, get_model_and_tokenizer
from folovllm.config import ModelConfig
from tests.tiny_models import hf_greedy

pytestmark = pytest.mark.bundled

GREEDY = SamplingParams(temperature=0, max_tokens=20)
TEXTS = (
    "The capital of France is",
    "Once upon a time, in a small village by the sea,",
    "def fibonacci(n):\n    ",
    "从前有一座山，山里有一座庙，",
    "Q: What is 17 + 25?\nA:",
    "The 😀 emoji means",
)
LENGTHS = (1, 2, 3, 5, 8, 15, 16, 17, 31, 32, 33, 47, 64, 96, 128, 200, 301, 400)


@pytest.fixture(scope="module")
def reference(bundled_model_path):
    model, tokenizer = get_model_and_tokenizer(ModelConfig(), device="cpu")
    book = tokenizer(" ".join(text for text in TEXTS for _ in range(40)))["input_ids"]
    prompts = [tokenizer(text)["input_ids"] for text in TEXTS]
    prompts += [book[3 * length : 4 * length] for length in LENGTHS]
    return model, prompts, [hf_greedy(model, prompt, GREEDY.max_tokens) for prompt in prompts]


@pytest.fixture(scope="module")
def llm(bundled_model_path):
    return LLM(device="cpu")


def test_there_are_24_prompts_of_1_to_400_tokens(reference):
    _, prompts, _ = reference
    lengths = [len(prompt) for prompt in prompts]
    assert (len(prompts), min(lengths), max(lengths)) == (24, 1, 400)


def test_greedy_tokens_in_one_batch_equal_huggingface(reference, llm):
    _, prompts, expected = reference
    outputs = llm.generate([{"prompt_token_ids": p} for p in prompts], GREEDY, use_tqdm=False)
    assert [output.outputs[0].token_ids for output in outputs] == expected


def test_greedy_tokens_one_by_one_equal_huggingface(reference, llm):
    _, prompts, expected = reference
    outputs = [llm.generate({"prompt_token_ids": p}, GREEDY, use_tqdm=False)[0] for p in prompts]
    assert [output.outputs[0].token_ids for output in outputs] == expected


def test_logits_of_one_batch_are_within_1e_4_of_huggingface(reference):
    model, prompts, _ = reference
    with torch.inference_mode():
        expected = [model(torch.tensor([prompt])).logits[0, -1] for prompt in prompts]
    # Without prefix caching nobody waits for a beginning that another computes: all are in one step.
    engine = LLM(device="cpu", enable_prefix_caching=False).llm_engine
    for i, prompt in enumerate(prompts):
        engine.add_request(str(i), {"prompt_token_ids": prompt}, GREEDY)
    step = engine.scheduler.schedule()
    assert len(step.scheduled) == len(prompts)
    torch.testing.assert_close(engine.model_runner.execute(step), torch.stack(expected), atol=1e-4, rtol=0)


def test_eos_is_the_end_of_the_assistants_turn(llm):
    output = llm.chat([{"role": "user", "content": "Say only: yes"}], GREEDY, use_tqdm=False)[0].outputs[0]
    tokenizer = llm.get_tokenizer()
    assert output.finish_reason == "stop"
    assert output.stop_reason is None
    assert tokenizer.decode(output.token_ids[-1]) == "<|im_end|>"
    assert "<|im_end|>" not in output.text


def test_beam_search_finds_texts_at_least_as_likely_as_greedy_ones(reference, llm):
    prompts = [{"prompt_token_ids": prompt} for prompt in reference[1][:6]]
    params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True, logprobs=0)
    greedy = llm.generate(prompts, params, use_tqdm=False)
    beams = llm.beam_search(prompts, BeamSearchParams(4, 12, ignore_eos=True), use_tqdm=False)
    for wide, narrow in zip(beams, greedy, strict=True):
        assert wide.outputs[0].cumulative_logprob >= narrow.outputs[0].cumulative_logprob - 1e-4


def test_speculation_takes_fewer_steps_on_a_repetitive_text():
    prompt, params = "one two three, one two three, one two", SamplingParams(temperature=0, max_tokens=48)
    steps, texts = {}, {}
    for guesses in (0, 4):
        llm = LLM(device="cpu", num_speculative_tokens=guesses, record_history=True)
        texts[guesses] = llm.generate(prompt, params, use_tqdm=False)[0].outputs[0].text
        steps[guesses] = len(llm.llm_engine.history.steps)
    assert texts[4] == texts[0]
    assert steps[0] == 48
    assert steps[4] <= 36


def test_the_best_three_of_five_share_one_prompt(llm):
    engine = llm.llm_engine
    params = SamplingParams(n=3, best_of=5, seed=0, max_tokens=12, ignore_eos=True)
    before = engine.model_runner.num_tokens_run
    request = engine.add_request("r", "My favourite animal is the one that", params)
    while engine.has_unfinished_requests():
        [output] = engine.step()
    assert engine.model_runner.num_tokens_run - before == len(request.prompt_token_ids) + 5 * 11
    assert len({tuple(seq.data.output_token_ids) for seq in request.sequences}) == 5
    logprobs = [completion.cumulative_logprob for completion in output.outputs]
    assert logprobs == sorted((seq.cumulative_logprob for seq in request.sequences), reverse=True)[:3]
    assert sum(seq.status == "finished_ignored" for seq in request.sequences) == 2
