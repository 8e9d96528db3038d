"""Every knob is live: for each field of the configs and of SamplingParams, a run that it changes.

``test_<Class>_<field>`` shows it; the last test fails when a field has none.
"""

import dataclasses
import random
import sys
from types import SimpleNamespace

import pytest
import torch

from folovllm import (
    LLM,
    CacheConfig,
    EngineConfig,
    ModelConfig,
    SamplingParams,
    SchedulerConfig,
    StructuredOutputsParams,
)
from folovllm.models import memory
from folovllm.models.probe import probe_attention
from folovllm.models.torch_decoder import TorchDecoder
from tests.pretended_device import PretendedCard
from tests.tiny_models import EOS_TOKEN_ID, VOCAB_SIZE, tiny_llm, tiny_model
from tests.tiny_tokenizers import byte_level_tokenizer, wordpiece_tokenizer


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def llm(model):
    return tiny_llm(model, max_logprobs=-1)


@pytest.fixture(scope="module")
def model_folder(model, tmp_path_factory):
    """A tiny model and its tokenizer on disk, stored in bfloat16, with a context of 512."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_model().to(torch.bfloat16).save_pretrained(folder)
    byte_level_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub's cache with two versions of a repository: "v1" has one layer and another tokenizer."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for revision, layers, tokenizer in (("main", 2, byte_level_tokenizer()), ("v1", 1, wordpiece_tokenizer())):
        repository = tmp_path / "models--course--tiny"
        commit = f"{layers:040d}"
        for saved in (tiny_model(num_hidden_layers=layers), tokenizer):
            saved.save_pretrained(repository / "snapshots" / commit)
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / revision).write_text(commit)


def random_prompt(length: int, seed: int = 0) -> dict[str, list[int]]:
    rng = random.Random(seed)
    return {"prompt_token_ids": [rng.randrange(3, VOCAB_SIZE) for _ in range(length)]}


PROMPT = random_prompt(20)


def run(llm: LLM, prompt=PROMPT, **params):
    """Return the first completion of one request."""
    params = {"max_tokens": 12, "ignore_eos": True} | params
    return llm.generate(prompt, SamplingParams(**params), use_tqdm=False)[0].outputs[0]


def steps_of(llm: LLM, prompts, **params) -> list:
    llm.generate(prompts, SamplingParams(temperature=0, max_tokens=8, ignore_eos=True, **params), use_tqdm=False)
    return llm.llm_engine.history.steps


# -- ModelConfig -----------------------------------------------------------------------------------------


def test_ModelConfig_model(model_folder, tmp_path):
    other = tiny_model("gpt2")
    other.save_pretrained(tmp_path)
    byte_level_tokenizer().save_pretrained(tmp_path)
    kinds = [
        LLM(folder, swap_space=0).llm_engine.model_runner.model.config.model_type
        for folder in (model_folder, str(tmp_path))
    ]
    assert kinds == ["llama", "gpt2"]


def test_ModelConfig_tokenizer(model_folder, tmp_path):
    wordpiece_tokenizer().save_pretrained(tmp_path)
    prompts = {
        name: LLM(model_folder, tokenizer=name, swap_space=0).generate("the dog", SamplingParams(max_tokens=1))[0]
        for name in (None, str(tmp_path))
    }
    assert len({tuple(output.prompt_token_ids) for output in prompts.values()}) == 2


def test_ModelConfig_dtype(model_folder):
    for dtype, kind in (("auto", torch.float32), ("bfloat16", torch.bfloat16), ("half", torch.float16)):
        engine = LLM(model_folder, dtype=dtype, device="cpu", swap_space=0).llm_engine
        assert engine.model_runner.model.dtype is engine.model_runner.kv_cache.data.dtype is kind


def test_ModelConfig_max_model_len(model):
    assert len(run(tiny_llm(model, max_model_len=25), max_tokens=None).token_ids) == 5
    with pytest.raises(ValueError, match="max_model_len=20"):
        run(tiny_llm(model, max_model_len=20))


def test_ModelConfig_trust_remote_code(model_folder, tmp_path):
    folder = tmp_path / "custom"
    tiny_model().save_pretrained(folder)
    byte_level_tokenizer().save_pretrained(folder)
    config = (folder / "config.json").read_text().replace('"llama"', '"homemade"')
    code = '"AutoConfig": "homemade.HomemadeConfig", "AutoModelForCausalLM": "homemade.HomemadeModel"'
    (folder / "config.json").write_text(config.replace("{", '{"auto_map": {' + code + "},", 1))
    (folder / "homemade.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class HomemadeConfig(LlamaConfig):\n    model_type = 'homemade'\n"
        "class HomemadeModel(LlamaForCausalLM):\n    config_class = HomemadeConfig\n"
    )
    with pytest.raises(ValueError, match="trust_remote_code"):
        LLM(str(folder), swap_space=0)
    trusting = LLM(str(folder), trust_remote_code=True, swap_space=0)
    assert type(trusting.llm_engine.model_runner.model).__name__ == "HomemadeModel"
    assert len(run(trusting).token_ids) == 12


def test_ModelConfig_seed(model):
    first, again, other = (run(tiny_llm(model, seed=seed)).token_ids for seed in (1, 1, 2))
    assert first == again != other


def test_ModelConfig_max_logprobs(model):
    assert len(run(tiny_llm(model, max_logprobs=30), logprobs=30).logprobs[0]) >= 30
    with pytest.raises(ValueError, match="logprobs must be at most max_logprobs=5"):
        run(tiny_llm(model, max_logprobs=5), logprobs=6)


def test_ModelConfig_model_impl():
    model = tiny_model()
    calls = []
    called = {}
    for model_impl in ("auto", "folovllm", "transformers"):
        calls.clear()
        llm = tiny_llm(model, model_impl=model_impl)
        handle = model.register_forward_hook(lambda *given: calls.append(1))
        run(llm)
        handle.remove()
        called[model_impl] = len(calls)
    assert called == {"auto": 0, "folovllm": 0, "transformers": 12}


def test_ModelConfig_enforce_eager(monkeypatch):
    calls = []
    right = TorchDecoder.__call__
    monkeypatch.setattr(TorchDecoder, "__call__", lambda decoder, batch: calls.append(1) or right(decoder, batch))
    called = {}
    for enforce_eager in (True, False):
        with PretendedCard():
            llm = tiny_llm(tiny_model().to("cuda"), num_gpu_blocks_override=64, enforce_eager=enforce_eager)
            calls.clear()
            run(llm)
        called[enforce_eager] = len(calls)
    assert called == {True: 12, False: 3}  # a prompt, then twice for a recording: to warm up, and to record


def test_ModelConfig_revision(hub):
    kinds = [LLM("course/tiny", revision=name, swap_space=0).llm_engine for name in (None, "main", "v1")]
    assert [engine.attention_spec.num_layers for engine in kinds] == [2, 2, 1]
    with pytest.raises(ValueError, match=r"course/tiny' at revision 'v2'"):
        LLM("course/tiny", revision="v2")


def test_ModelConfig_tokenizer_revision(hub, model_folder):
    sizes = {
        (name, of_the_tokenizer): len(LLM(name, tokenizer="course/tiny", swap_space=0, **given).get_tokenizer())
        for name, of_the_tokenizer, given in (
            ("course/tiny", None, {"revision": "v1"}),
            ("course/tiny", "main", {"revision": "v1", "tokenizer_revision": "main"}),
            (model_folder, "v1", {"tokenizer_revision": "v1"}),
            (model_folder, None, {}),
        )
    }
    assert list(sizes.values()) == [len(wordpiece_tokenizer()), 320] * 2


def test_ModelConfig_hf_overrides(model_folder):
    length = LLM(model_folder, hf_overrides={"max_position_embeddings": 99}, swap_space=0).llm_engine.config
    assert length.model_config.max_model_len == 99


# -- CacheConfig -----------------------------------------------------------------------------------------


def test_CacheConfig_block_size(model):
    tables = {}
    for size in (4, 16):
        steps = steps_of(tiny_llm(model, block_size=size, record_history=True), PROMPT)
        tables[size] = len(steps[0].sequences[0].block_table)
    assert tables == {4: 5, 16: 2}


def fake_card(monkeypatch, total: int, free: int, peak: int) -> None:
    fake = {
        "reset_peak_memory_stats": lambda device: None,
        "memory_allocated": lambda device: 0,
        "max_memory_allocated": lambda device: peak,
        "mem_get_info": lambda device: (free, total),
        "memory_reserved": lambda device: 0,
        "empty_cache": lambda: None,
    }
    for name, function in fake.items():
        monkeypatch.setattr(torch.cuda, name, function)


def test_CacheConfig_gpu_memory_utilization(model, monkeypatch):
    """The arithmetic, on a card that is made up; the real one is in test_gpu.py."""
    spec = probe_attention(model.config)
    fake_card(monkeypatch, total=2**30, free=2**30 - 2**20, peak=2**28)
    on_card = SimpleNamespace(dtype=torch.float32, device=torch.device("cuda"), config=model.config)
    monkeypatch.setattr(memory, "make_cache", lambda *given: SimpleNamespace(data=SimpleNamespace(nbytes=0)))
    runner = SimpleNamespace(profile=lambda num_tokens: None)
    monkeypatch.setattr(memory, "ModelRunner", lambda *given: runner)
    block_bytes = 16 * spec.bytes_per_token(torch.float32)
    for share, runner.records_steps in ((0.5, False), (0.9, False), (0.9, True)):
        sized = memory.size_cache(CacheConfig(gpu_memory_utilization=share), spec, on_card, 2048)
        for_steps = 2**28 * (1 + runner.records_steps)  # what recordings need they keep
        assert sized.num_gpu_blocks == (int(share * 2**30) - for_steps - 2**20) // block_bytes
    with pytest.raises(ValueError, match="gpu_memory_utilization leaves 0 bytes"):
        memory.size_cache(CacheConfig(gpu_memory_utilization=0.1), spec, on_card, 2048)


def test_CacheConfig_swap_space(model):
    preempted = {}
    for swap_space in (0, 0.001):
        llm = tiny_llm(model, block_size=4, num_gpu_blocks_override=30, swap_space=swap_space, record_history=True)
        prompts = [random_prompt(20, seed) for seed in range(4)]
        llm.generate(prompts, SamplingParams(n=3, seed=0, max_tokens=20), use_tqdm=False)
        preempted[swap_space] = {s.preempted for step in llm.llm_engine.history.steps for s in step.sequences}
    assert "swapped" not in preempted[0]
    assert "swapped" in preempted[0.001]


def test_CacheConfig_enable_prefix_caching(model):
    cached = {}
    for on in (True, False):
        llm = tiny_llm(model, enable_prefix_caching=on)
        params = SamplingParams(max_tokens=1)
        cached[on] = [llm.generate(PROMPT, params, use_tqdm=False)[0].num_cached_tokens for _ in range(2)]
    assert cached == {True: [0, 16], False: [0, 0]}


def test_CacheConfig_num_gpu_blocks_override(model):
    engine = tiny_llm(model, num_gpu_blocks_override=7, kv_cache_memory_bytes=2**20).llm_engine
    assert engine.scheduler.block_manager.gpu.num_blocks == engine.model_runner.kv_cache.data.shape[2] == 7
    with pytest.raises(ValueError, match=r"can need 10 KV blocks .* there are 7"):
        run(tiny_llm(model, num_gpu_blocks_override=7), random_prompt(100), max_tokens=60)


def test_CacheConfig_kv_cache_memory_bytes(model):
    spec = probe_attention(model.config)
    block_bytes = 16 * spec.bytes_per_token(torch.float32)
    engine = tiny_llm(model, kv_cache_memory_bytes=10 * block_bytes + 1).llm_engine
    assert engine.config.cache_config.num_gpu_blocks == 10
    assert engine.model_runner.kv_cache.data.nbytes == 10 * block_bytes
    with pytest.raises(ValueError, match="kv_cache_memory_bytes leaves 5 bytes"):
        tiny_llm(model, kv_cache_memory_bytes=5)


# -- SchedulerConfig -------------------------------------------------------------------------------------


def test_SchedulerConfig_max_num_batched_tokens(model):
    llm = tiny_llm(model, max_num_batched_tokens=8, max_num_seqs=4, record_history=True)
    assert [step.num_batched_tokens for step in steps_of(llm, PROMPT)][:3] == [8, 8, 4]


def test_SchedulerConfig_max_num_seqs(model):
    most = {}
    for seats in (2, 5):
        steps = steps_of(tiny_llm(model, max_num_seqs=seats, record_history=True), [PROMPT] * 5)
        most[seats] = max(sum(seq.num_scheduled_tokens > 0 for seq in step.sequences) for step in steps)
    assert most == {2: 2, 5: 5}


def test_SchedulerConfig_enable_chunked_prefill(model):
    settings = {"max_num_batched_tokens": 30, "max_num_seqs": 4, "max_model_len": 30, "record_history": True}
    first_steps = {}
    for on in (True, False):
        steps = steps_of(tiny_llm(model, enable_chunked_prefill=on, **settings), [PROMPT, random_prompt(20, 1)])
        first_steps[on] = [step.num_batched_tokens for step in steps[:2]]
    assert first_steps == {True: [30, 11], False: [20, 21]}


def test_SchedulerConfig_num_speculative_tokens(model):
    drafts = {}
    for guesses in (0, 2):
        llm = tiny_llm(model, num_speculative_tokens=guesses, record_history=True)
        steps = steps_of(llm, {"prompt_token_ids": [5, 6, 7] * 5}, allowed_token_ids=[5, 6, 7])
        drafts[guesses] = max(seq.num_draft_tokens for step in steps for seq in step.sequences)
    assert drafts == {0: 0, 2: 2}


def test_SchedulerConfig_prompt_lookup_max(model):
    """The last two tokens, 6 and 9, were followed by 8; the last one alone most recently by 7."""
    drafts = {}
    for longest in (1, 2):
        engine = tiny_llm(model, num_speculative_tokens=1, prompt_lookup_max=longest).llm_engine
        params = SamplingParams(temperature=0, max_tokens=5, allowed_token_ids=[9])
        engine.add_request("r", {"prompt_token_ids": [6, 9, 8, 5, 9, 7, 6]}, params)
        engine.step()
        drafts[longest] = engine.scheduler.schedule().scheduled[0].draft
    assert drafts == {1: [7], 2: [8]}


# -- EngineConfig ----------------------------------------------------------------------------------------


def test_EngineConfig_model_config(model):
    config = EngineConfig(ModelConfig("tiny", max_model_len=77))
    assert LLM.from_engine_config(config, model, byte_level_tokenizer()).llm_engine.input_processor.max_model_len == 77


def test_EngineConfig_cache_config(model):
    config = EngineConfig(ModelConfig("tiny"), cache_config=CacheConfig(num_gpu_blocks_override=9))
    engine = LLM.from_engine_config(config, model, byte_level_tokenizer()).llm_engine
    assert engine.scheduler.block_manager.gpu.num_blocks == 9


def test_EngineConfig_scheduler_config(model):
    config = EngineConfig(ModelConfig("tiny"), scheduler_config=SchedulerConfig(max_num_seqs=3))
    engine = LLM.from_engine_config(config, model, byte_level_tokenizer()).llm_engine
    assert engine.scheduler.config.max_num_seqs == 3


def test_EngineConfig_device(model_folder):
    llm = LLM(model_folder, device="cpu", swap_space=0)
    assert llm.llm_engine.model_runner.model.device.type == llm.llm_engine.config.device == "cpu"
    with pytest.raises(ValueError, match="device must be one that is there, got 'cuda:99'"):
        LLM(model_folder, device="cuda:99")


def test_EngineConfig_sampling_order(model):
    """Probabilities .4 .2 .15 .1 .08 .07 with min-p .3 and top-p .7: the order decides who can be drawn."""
    probabilities = torch.tensor([0.4, 0.2, 0.15, 0.1, 0.08, 0.07])
    drawn = {}
    for order in ("huggingface", "vllm"):
        llm = tiny_llm(model, sampling_order=order)
        runner = llm.llm_engine.model_runner
        fixed = torch.full((400, VOCAB_SIZE), -torch.inf)
        fixed[:, 10:16] = probabilities.log()
        runner.execute = lambda step, fixed=fixed: fixed[: len(step.scheduled)]
        params = [SamplingParams(min_p=0.3, top_p=0.7, max_tokens=1, seed=seed) for seed in range(200)]
        outputs = llm.generate([{"prompt_token_ids": [5]}] * 200, params, use_tqdm=False)
        drawn[order] = {output.outputs[0].token_ids[0] - 10 for output in outputs}
    assert drawn == {"huggingface": {0, 1, 2}, "vllm": {0, 1}}


def test_EngineConfig_record_history(model):
    assert tiny_llm(model).llm_engine.history is None
    assert len(steps_of(tiny_llm(model, record_history=True), PROMPT)) == 8


# -- SamplingParams --------------------------------------------------------------------------------------


def test_SamplingParams_n(llm):
    params = SamplingParams(n=3, seed=0, max_tokens=4)
    assert len(llm.generate(PROMPT, params, use_tqdm=False)[0].outputs) == 3


def test_SamplingParams_best_of(llm):
    best = llm.generate(PROMPT, SamplingParams(n=1, best_of=6, seed=0, max_tokens=4), use_tqdm=False)[0].outputs
    every = llm.generate(PROMPT, SamplingParams(n=6, seed=0, max_tokens=4, logprobs=0), use_tqdm=False)[0].outputs
    assert best[0].cumulative_logprob == max(each.cumulative_logprob for each in every)


def check_penalty(llm, name, value):
    pushed = run(llm, temperature=0, logit_bias={7: 6.0})
    held = run(llm, temperature=0, logit_bias={7: 6.0}, **{name: value})
    assert held.token_ids.count(7) < pushed.token_ids.count(7)


def test_SamplingParams_presence_penalty(llm):
    check_penalty(llm, "presence_penalty", 2.0)


def test_SamplingParams_frequency_penalty(llm):
    check_penalty(llm, "frequency_penalty", 2.0)


def test_SamplingParams_repetition_penalty(llm):
    check_penalty(llm, "repetition_penalty", 3.0)


def test_SamplingParams_temperature(llm):
    texts = {t: [tuple(run(llm, temperature=t, seed=s).token_ids) for s in range(8)] for t in (0.01, 1.5)}
    assert len(set(texts[0.01])) < len(set(texts[1.5])) == 8
    assert tuple(run(llm, temperature=0).token_ids) == texts[0.01][0]


def filtered(llm, **params) -> int:
    """Return how many different first tokens 200 seeds draw."""
    every = [SamplingParams(seed=seed, max_tokens=1, **params) for seed in range(200)]
    return len({o.outputs[0].token_ids[0] for o in llm.generate([PROMPT] * 200, every, use_tqdm=False)})


def test_SamplingParams_top_p(llm):
    assert filtered(llm, top_p=0.2) < filtered(llm)


def test_SamplingParams_top_k(llm):
    assert filtered(llm, top_k=3) == 3


def test_SamplingParams_min_p(llm):
    assert filtered(llm, min_p=0.5) < filtered(llm)


def test_SamplingParams_seed(llm):
    assert run(llm, seed=1).token_ids == run(llm, seed=1).token_ids != run(llm, seed=2).token_ids


def letters(llm, **params):
    """Return a completion that is made of the letter tokens only."""
    vocab = byte_level_tokenizer().get_vocab()
    return run(llm, temperature=1.0, seed=3, allowed_token_ids=[vocab[c] for c in "abcdefgh"], **params)


def test_SamplingParams_stop(llm):
    text = letters(llm).text
    stopped = letters(llm, stop=text[4:6])
    assert (stopped.text, stopped.stop_reason) == (text[: text.index(text[4:6])], text[4:6])


def test_SamplingParams_include_stop_str_in_output(llm):
    stop = letters(llm).text[4:6]
    assert letters(llm, stop=stop, include_stop_str_in_output=True).text == letters(llm, stop=stop).text + stop


def test_SamplingParams_stop_token_ids(llm):
    stop = run(llm, temperature=0).token_ids[5]
    stopped = run(llm, temperature=0, stop_token_ids=[stop])
    assert (stopped.token_ids[-1], stopped.stop_reason) == (stop, stop)


def test_SamplingParams_bad_words(llm):
    word = letters(llm).text[0]
    assert word not in letters(llm, bad_words=[word]).text


def test_SamplingParams_ignore_eos(llm):
    towards_eos = {"temperature": 0, "logit_bias": {EOS_TOKEN_ID: 100.0}}
    assert run(llm, ignore_eos=False, **towards_eos).token_ids == [EOS_TOKEN_ID]
    assert run(llm, ignore_eos=True, **towards_eos).token_ids == [EOS_TOKEN_ID] * 12


def test_SamplingParams_max_tokens(llm):
    assert [len(run(llm, max_tokens=count).token_ids) for count in (1, 5)] == [1, 5]


def test_SamplingParams_min_tokens(llm):
    towards_eos = {"temperature": 0, "ignore_eos": False, "logit_bias": {EOS_TOKEN_ID: 50.0}}
    assert len(run(llm, min_tokens=4, **towards_eos).token_ids) == 5


def test_SamplingParams_logprobs(llm):
    assert run(llm).logprobs is None
    assert all(len(entry) == 3 for entry in run(llm, temperature=0, logprobs=3).logprobs)
    assert all(len(entry) == VOCAB_SIZE for entry in run(llm, logprobs=-1).logprobs)


def test_SamplingParams_prompt_logprobs(llm):
    params = SamplingParams(max_tokens=1, prompt_logprobs=2)
    first, *others = llm.generate(PROMPT, params, use_tqdm=False)[0].prompt_logprobs
    assert first is None
    assert [next(iter(entry)) for entry in others] == PROMPT["prompt_token_ids"][1:]


def test_SamplingParams_detokenize(llm):
    assert run(llm, seed=0).text != ""
    assert run(llm, seed=0, detokenize=False).text == ""


def test_SamplingParams_skip_special_tokens(llm):
    only_eos = {"allowed_token_ids": [EOS_TOKEN_ID], "max_tokens": 2}
    assert run(llm, **only_eos).text == ""
    assert run(llm, skip_special_tokens=False, **only_eos).text == "<|im_end|><|im_end|>"


def test_SamplingParams_spaces_between_special_tokens(model):
    llm = tiny_llm(model, wordpiece_tokenizer())
    texts = [
        run(
            llm,
            allowed_token_ids=[EOS_TOKEN_ID],
            max_tokens=2,
            skip_special_tokens=False,
            spaces_between_special_tokens=spaces,
        ).text.strip()
        for spaces in (True, False)
    ]
    assert texts == ["<|im_end|> <|im_end|>", "<|im_end|><|im_end|>"]


def test_SamplingParams_logit_bias(llm):
    assert run(llm, temperature=0, logit_bias={9: 100.0}).token_ids == [9] * 12


def test_SamplingParams_allowed_token_ids(llm):
    assert set(run(llm, seed=0, allowed_token_ids=[9, 10]).token_ids) == {9, 10}


def test_SamplingParams_logits_processors(llm):
    def only_nine(output_token_ids, logits):
        return torch.full_like(logits, -torch.inf).index_fill_(0, torch.tensor(9), 0.0)

    assert run(llm, seed=0, logits_processors=[only_nine]).token_ids == [9] * 12


def test_SamplingParams_structured_outputs(llm):
    texts = {
        run(llm, seed=seed, ignore_eos=False, structured_outputs={"choice": ["a", "bc"]}).text for seed in range(9)
    }
    assert texts == {"a", "bc"}


def test_StructuredOutputsParams_json(llm):
    assert run(llm, structured_outputs=StructuredOutputsParams(json={"const": "b"})).text == '"b"'


def test_StructuredOutputsParams_regex(llm):
    assert run(llm, structured_outputs=StructuredOutputsParams(regex="x{3}")).text == "xxx"


def test_StructuredOutputsParams_choice(llm):
    assert run(llm, structured_outputs=StructuredOutputsParams(choice=["one"])).text == "one"


def test_every_field_has_a_test_of_its_own():
    here = {name for name in vars(sys.modules[__name__]) if name.startswith("test_")}
    for kind in (ModelConfig, CacheConfig, SchedulerConfig, EngineConfig, SamplingParams, StructuredOutputsParams):
        for each in dataclasses.fields(kind):
            if each.init:
                assert f"test_{kind.__name__}_{each.name}" in here
