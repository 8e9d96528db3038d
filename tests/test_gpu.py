"""The engine on a card: on a pretended one everywhere (what it shows: ``pretended_device.py``), and on a real one.

``make test-gpu`` runs what is marked ``gpu``: on CUDA, or on MPS.
"""

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from folovllm import LLM, BeamSearchParams, RequestOutput, SamplingParams
from folovllm.models import attention, flat_batch, memory, runner
from folovllm.models.runner import TransformersForward
from folovllm.models.torch_decoder import TorchDecoder
from folovllm.outputs import NO_TOKEN_LEFT
from folovllm.request import SequenceStatus
from folovllm.sampling import sampler
from tests.engine_checks import assert_at_rest
from tests.pretended_device import PretendedCard
from tests.tiny_models import hf_greedy, tiny_llm, tiny_model

PROMPTS = [{"prompt_token_ids": list(range(3, 3 + length))} for length in (1, 7, 40, 100)]
GREEDY = SamplingParams(temperature=0, max_tokens=24)
DTYPES = ["float32", "bfloat16", "float16"]


def tokens(outputs: list[RequestOutput]) -> list[list[list[int]]]:
    assert [each.error for each in outputs] == [None] * len(outputs)
    return [[each.token_ids for each in output.outputs] for output in outputs]


def generate(llm: LLM, params) -> list[list[list[int]]]:
    found = tokens(llm.generate(PROMPTS, params, use_tqdm=False))
    assert_at_rest(llm)
    return found


# tokens and bits


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "gemma3-window", "qwen3-moe"])
def test_greedy_tokens_are_huggingfaces_on_the_cpu(device, family):
    expected = [hf_greedy(tiny_model(family), each["prompt_token_ids"], GREEDY.max_tokens) for each in PROMPTS]
    llm = tiny_llm(
        tiny_model(family).to(device), num_gpu_blocks_override=100, max_num_batched_tokens=64, max_num_seqs=8
    )
    assert generate(llm, GREEDY) == [[each] for each in expected]


# A pool so small that some are preempted; speculation; and all that a request can ask of the sampler.
WORK = [
    (PROMPTS[2], SamplingParams(temperature=0, max_tokens=9, ignore_eos=True, prompt_logprobs=1)),
    (PROMPTS[1], SamplingParams(seed=7, n=3, max_tokens=9, top_p=0.9, logprobs=3)),
    (PROMPTS[1], SamplingParams(seed=3, n=1, best_of=2, max_tokens=9, top_k=20, min_p=0.02, presence_penalty=0.4)),
    (PROMPTS[0], SamplingParams(seed=5, max_tokens=7, repetition_penalty=1.2, logit_bias={5: 2.0}, logprobs=0)),
    (PROMPTS[0], SamplingParams(temperature=0, max_tokens=6, min_tokens=5, allowed_token_ids=[*range(90, 200)])),
    (PROMPTS[1], SamplingParams(seed=9, max_tokens=6, logits_processors=[lambda ids, row: row.roll(1)])),
]
SMALL = {"block_size": 4, "num_gpu_blocks_override": 22, "max_num_seqs": 8, "max_num_batched_tokens": 12}
SMALL |= {"num_speculative_tokens": 2, "record_history": True}


def work(model, **settings) -> tuple[list[object], LLM]:
    """Return all that the requests give, logprobs to the last bit."""
    llm = tiny_llm(model, **(SMALL | settings))
    prompts, params = zip(*WORK, strict=True)
    outputs = llm.generate(list(prompts), list(params), use_tqdm=False)
    [beams] = llm.beam_search([PROMPTS[1]], BeamSearchParams(beam_width=3, max_tokens=6), use_tqdm=False)
    found = [
        [(each.token_ids, each.cumulative_logprob, each.logprobs) for each in output.outputs] for output in outputs
    ]
    assert_at_rest(llm)
    assert tokens(outputs)
    return [
        found,
        outputs[0].prompt_logprobs,
        [(each.token_ids, each.cumulative_logprob) for each in beams.outputs],
    ], llm


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("forward", [TransformersForward, TorchDecoder])
def test_a_pretended_card_changes_no_bit_of_what_pytorch_computes_on_a_cpu(forward, dtype, monkeypatch):
    for module in (sampler, attention, flat_batch):
        monkeypatch.setattr(module, "has_kernels", lambda tensor: False)
    monkeypatch.setattr(runner, "_choose_forward", lambda model, model_impl: forward)
    expected, _ = work(tiny_model().to(getattr(torch, dtype)))
    with PretendedCard():  # recorded steps are filled up, and with more rows PyTorch adds up in another order
        found, llm = work(tiny_model().to("cuda", getattr(torch, dtype)), enforce_eager=True)
    assert found == expected
    steps = llm.llm_engine.history.steps
    preempted = {sequence.preempted for step in steps for sequence in step.sequences}
    assert {SequenceStatus.WAITING, SequenceStatus.SWAPPED} <= preempted


def test_pressure_chunks_and_guesses_change_no_token(device):
    model = tiny_model().to(device)
    params = [SamplingParams(n=3, seed=seed, max_tokens=20) for seed in range(4)]
    calm = generate(tiny_llm(model, num_gpu_blocks_override=500), params)
    starved = tiny_llm(model, block_size=4, num_gpu_blocks_override=45, record_history=True)
    assert generate(starved, params) == calm
    assert any(step.blocks_swapped_out for step in starved.llm_engine.history.steps)
    chunked = tiny_llm(
        model, num_gpu_blocks_override=500, max_num_batched_tokens=16, max_num_seqs=16, num_speculative_tokens=3
    )
    assert generate(chunked, params) == calm


def test_beams_are_those_of_the_cpu(device):
    params = BeamSearchParams(beam_width=4, max_tokens=8)

    def search(model) -> list[list[list[int]]]:
        found = tiny_llm(model, num_gpu_blocks_override=100).beam_search(PROMPTS, params, use_tqdm=False)
        return [[text.token_ids for text in each.outputs] for each in found]

    assert search(tiny_model().to(device)) == search(tiny_model())


def test_logprobs_are_close_to_the_cpus(device):
    params = SamplingParams(temperature=0, max_tokens=5, logprobs=4, prompt_logprobs=2)
    on_card = tiny_llm(tiny_model().to(device), num_gpu_blocks_override=100).generate(PROMPTS, params, use_tqdm=False)
    on_cpu = tiny_llm(tiny_model(), num_gpu_blocks_override=100).generate(PROMPTS, params, use_tqdm=False)
    for ours, theirs in zip(on_card, on_cpu, strict=True):
        entries = zip(
            [*ours.prompt_logprobs[1:], *ours.outputs[0].logprobs],
            [*theirs.prompt_logprobs[1:], *theirs.outputs[0].logprobs],
            strict=True,
        )
        for mine, its in entries:
            assert {token_id: (each.rank, each.decoded_token) for token_id, each in mine.items()} == {
                token_id: (each.rank, each.decoded_token) for token_id, each in its.items()
            }
            for token_id, each in mine.items():
                assert each.logprob == pytest.approx(its[token_id].logprob, abs=1e-3)


# what goes wrong


def test_a_request_without_a_token_left_ends_and_the_others_go_on(device):
    llm = tiny_llm(tiny_model().to(device), num_gpu_blocks_override=100)
    lost = SamplingParams(seed=1, max_tokens=4, logits_processors=[lambda ids, row: torch.full_like(row, -math.inf)])
    first, second = llm.generate(PROMPTS[:2], [GREEDY, lost], use_tqdm=False)
    assert first.outputs[0].token_ids == hf_greedy(tiny_model(), PROMPTS[0]["prompt_token_ids"], 24)
    assert second.outputs[0].stop_reason == NO_TOKEN_LEFT


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_request_whose_logits_are_not_finite_fails_by_name(device, temperature):
    llm = tiny_llm(tiny_model().to(device), num_gpu_blocks_override=100)

    def spoil(token_ids: list[int], row: Tensor) -> Tensor:
        return row.index_fill(0, torch.zeros(1, dtype=torch.long, device=row.device), math.nan)

    spoiled = SamplingParams(temperature=temperature, max_tokens=4, logits_processors=[spoil])
    for request_id, params in (("good", GREEDY), ("bad", spoiled)):
        llm.llm_engine.add_request(request_id, PROMPTS[0], params)
    ended = {}
    while llm.llm_engine.has_unfinished_requests():
        ended |= {each.request_id: each for each in llm.llm_engine.step() if each.finished}
    assert ended["good"].outputs[0].token_ids == hf_greedy(tiny_model(), PROMPTS[0]["prompt_token_ids"], 24)
    assert "NaN" in str(ended["bad"].error)


@pytest.mark.parametrize("place", ["execute", "_draw"])
def test_an_interrupted_step_changes_no_token(device, place, monkeypatch):
    model = tiny_model().to(device)
    params = [SamplingParams(n=2, seed=seed, max_tokens=6) for seed in range(4)]
    calm = generate(tiny_llm(model, num_gpu_blocks_override=100), params)
    llm = tiny_llm(model, num_gpu_blocks_override=100)
    engine, results, turns = llm.llm_engine, {}, iter(range(1000))
    owner = engine.model_runner if place == "execute" else engine.sampler
    right: Callable[..., object] = getattr(owner, place)

    def interrupted(*args: object) -> object:
        found = right(*args)
        if next(turns) % 3 == 1:
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(owner, place, interrupted)
    for i, (prompt, each) in enumerate(zip(PROMPTS, params, strict=True)):
        engine.add_request(str(i), prompt, each)
    while engine.has_unfinished_requests():
        try:
            results |= {each.request_id: each for each in engine.step() if each.finished}
        except KeyboardInterrupt:
            continue
    assert tokens([results[str(i)] for i in range(4)]) == calm
    assert_at_rest(llm)


# memory and defaults


@pytest.mark.parametrize("share", [0.3, 0.5])
@pytest.mark.parametrize("kind", ["pretended", pytest.param("real", marks=pytest.mark.gpu)])
def test_the_kv_cache_takes_what_gpu_memory_utilization_allows(kind, share, request):
    if kind == "pretended":
        request.getfixturevalue("small_card")
    elif not torch.cuda.is_available():
        pytest.skip("MPS shares the machine's memory: gpu_memory_utilization is for CUDA")
    total = torch.cuda.mem_get_info()[1]
    llm = tiny_llm(tiny_model().to("cuda"), gpu_memory_utilization=share)
    taken = torch.cuda.memory_reserved()
    assert 0.8 * share * total < taken <= share * total
    assert llm.llm_engine.config.cache_config.num_gpu_blocks > 10
    del llm
    torch.cuda.empty_cache()


@pytest.mark.parametrize("kind", ["pretended", pytest.param("real", marks=pytest.mark.gpu)])
def test_left_open_the_kv_cache_leaves_room_for_further_engines(kind, request):
    """A notebook makes several engines over one model, and other notebooks may be open."""
    if kind == "pretended":
        request.getfixturevalue("small_card")
    elif not torch.cuda.is_available():
        pytest.skip("MPS shares the machine's memory")
    engines = [tiny_llm(tiny_model().to("cuda"))]
    for _ in range(4):
        free = torch.cuda.mem_get_info()[0]
        engines.append(engines[-1].with_settings())
        taken = engines[-1].llm_engine.model_runner.kv_cache.data.nbytes
        assert 0.2 * free < taken <= 0.26 * free


@pytest.fixture
def small_card() -> Iterator[PretendedCard]:
    with PretendedCard(memory=2**30) as card:
        yield card


def test_what_other_programs_hold_is_left_alone(small_card):
    others = torch.zeros(240 * 2**20, dtype=torch.uint8, device="cuda")
    with_others = tiny_llm(tiny_model().to("cuda"), gpu_memory_utilization=0.9).llm_engine.config.cache_config
    del others
    alone = tiny_llm(tiny_model().to("cuda"), gpu_memory_utilization=0.9).llm_engine.config.cache_config
    block_bytes = memory.bytes_per_block(alone, tiny_llm(tiny_model()).llm_engine.attention_spec, torch.float32)
    assert (alone.num_gpu_blocks - with_others.num_gpu_blocks) * block_bytes == pytest.approx(240 * 2**20, rel=0.05)


@pytest.mark.parametrize("asked", [{"kv_cache_memory_bytes": 2**40}, {"num_gpu_blocks_override": 10**9}])
def test_more_memory_than_the_card_has_is_refused_by_name(small_card, asked):
    with pytest.raises(ValueError, match=rf"{next(iter(asked))}.*more than there is.*of the card"):
        tiny_llm(tiny_model().to("cuda"), **asked)


def test_auto_takes_the_card_and_a_16_bit_dtype(device, bundled_model_path):
    llm = LLM(num_gpu_blocks_override=64)
    engine = llm.llm_engine
    assert engine.config.device.startswith(device)
    assert engine.config.model_config.dtype in ("bfloat16", "float16")
    assert engine.model_runner.kv_cache.data.device.type == device
    [output] = llm.generate("The capital of France is", SamplingParams(temperature=0, max_tokens=4), use_tqdm=False)
    assert "Paris" in output.outputs[0].text


def test_a_card_without_bfloat16_gets_float16(bundled_model_path):
    with PretendedCard(capability=(7, 5)):
        assert LLM(num_gpu_blocks_override=64).llm_engine.config.model_config.dtype == "float16"


def test_a_card_that_is_not_there_is_named(small_card):
    with pytest.raises(ValueError, match=r"cuda:3.*CUDA devices: 1"):
        LLM(device="cuda:3")
