"""The front door: what ``LLM`` promises about order, batches, seeds, threads, early exits and numbers."""

import itertools
import threading

import pytest
import torch
from tokenizers.processors import TemplateProcessing

import folovllm.progress_bar
from folovllm import LLM, BeamSearchParams, RequestOutput, SamplingParams
from folovllm.request import SequenceStatus
from tests.engine_checks import assert_at_rest
from tests.tiny_models import hf_greedy, tiny_llm, tiny_model
from tests.tiny_tokenizers import byte_level_tokenizer

MODEL = tiny_model()
GREEDY = SamplingParams(temperature=0, max_tokens=6)
TEXTS = ["The quick brown fox", "Once upon", "def main", "你好，世界", "a"]


def make_llm(**settings) -> LLM:
    return tiny_llm(MODEL, **({"swap_space": 0.001, "kv_cache_memory_bytes": 2_000_000} | settings))


@pytest.fixture(scope="module")
def llm() -> LLM:
    return make_llm()


@pytest.fixture(autouse=True)
def leave_nothing_behind(llm):
    llm.llm_engine.reset_prefix_cache()
    yield
    assert_at_rest(llm)


def run(llm: LLM, prompts, params=GREEDY) -> list[RequestOutput]:
    return llm.generate(prompts, params, use_tqdm=False)


def tokens(output: RequestOutput) -> list[list[int]]:
    return [completion.token_ids for completion in output.outputs]


def by_huggingface(text: str, max_tokens: int = 6, model=MODEL) -> list[int]:
    return hf_greedy(model, byte_level_tokenizer()(text)["input_ids"], max_tokens)


# -- prompts and params ------------------------------------------------------------------------------------


def test_results_come_in_the_order_of_the_prompts_whoever_ends_first(llm):
    params = [SamplingParams(temperature=0, max_tokens=n) for n in (9, 1, 5, 3, 7)]
    outputs = run(llm, TEXTS, params)
    assert [output.prompt for output in outputs] == TEXTS
    expected = [by_huggingface(text, each.max_tokens) for text, each in zip(TEXTS, params, strict=True)]
    assert [tokens(output) for output in outputs] == [[each] for each in expected]


def test_one_params_serves_all_prompts(llm):
    assert [tokens(output)[0] for output in run(llm, TEXTS)] == [by_huggingface(text) for text in TEXTS]


def test_a_prompt_may_be_text_a_dict_of_text_or_token_ids_and_come_alone(llm):
    ids = byte_level_tokenizer()(TEXTS[0])["input_ids"]
    forms = [TEXTS[0], {"prompt": TEXTS[0]}, {"prompt_token_ids": ids}, {"prompt_token_ids": ids, "prompt": "named"}]
    outputs = [run(llm, form)[0] for form in forms]
    assert {tuple(tokens(output)[0]) for output in outputs} == {tuple(by_huggingface(TEXTS[0]))}
    assert [output.prompt for output in outputs] == [TEXTS[0], TEXTS[0], None, "named"]
    assert all(output.prompt_token_ids == ids for output in outputs)


def test_no_prompts_give_no_results(llm):
    assert run(llm, []) == []


def test_without_params_sixteen_tokens_are_drawn(llm):
    (output,) = llm.generate({"prompt_token_ids": [5, 6, 7]}, use_tqdm=False)
    assert len(tokens(output)[0]) == 16 or output.outputs[0].finish_reason == "stop"


# -- chat ----------------------------------------------------------------------------------------------------


def test_chat_generates_from_the_rendered_template_without_a_second_bos():
    tokenizer = byte_level_tokenizer()
    llm = make_llm()
    # A tokenizer that puts a BOS before whatever it reads, as Llama's does.
    backend = tokenizer.backend_tokenizer
    kept, backend.post_processor = (
        backend.post_processor,
        TemplateProcessing("<|im_start|> $A", None, [("<|im_start|>", 1)]),
    )
    try:
        assert tokenizer("a")["input_ids"][0] == 1
        messages = [{"role": "user", "content": "hello"}]
        (chatted,) = llm.chat(messages, GREEDY, use_tqdm=False)
        rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(rendered, add_special_tokens=False)["input_ids"]
        (generated,) = run(llm, {"prompt_token_ids": ids})
    finally:
        backend.post_processor = kept
    assert chatted.prompt == rendered
    assert chatted.prompt_token_ids == ids
    assert ids[:2].count(1) == 1
    assert tokens(chatted) == tokens(generated)


def test_chat_answers_a_list_of_conversations_in_order(llm):
    conversations = [[{"role": "user", "content": text}] for text in TEXTS]
    together = llm.chat(conversations, GREEDY, use_tqdm=False)
    alone = [llm.chat(conversation, GREEDY, use_tqdm=False)[0] for conversation in conversations]
    assert [tokens(output) for output in together] == [tokens(output) for output in alone]
    assert all(text in output.prompt for text, output in zip(TEXTS, together, strict=True))


# -- several users of one engine --------------------------------------------------------------------------------


def test_generate_inside_a_stream_loop_disturbs_neither(llm):
    lengths = []
    for output in llm.stream(TEXTS[0], SamplingParams(temperature=0, max_tokens=8)):
        lengths.append(len(tokens(output)[0]))
        assert tokens(run(llm, TEXTS[1])[0]) == [by_huggingface(TEXTS[1])]
    assert tokens(output) == [by_huggingface(TEXTS[0], 8)]
    assert lengths == sorted(lengths)


def test_two_streams_may_be_read_in_turn(llm):
    streams = [llm.stream(text, GREEDY) for text in TEXTS[:2]]
    last = [None, None]
    for pair in itertools.zip_longest(*streams):
        last = [new or old for new, old in zip(pair, last, strict=True)]
    assert [tokens(output)[0] for output in last] == [by_huggingface(text) for text in TEXTS[:2]]


def test_a_stream_that_is_left_early_frees_everything(llm):
    stream = llm.stream(TEXTS[0], SamplingParams(n=3, seed=1, max_tokens=50))
    next(stream)
    assert llm.llm_engine.has_unfinished_requests()
    stream.close()
    assert_at_rest(llm)


def test_a_stream_that_is_never_started_costs_nothing(llm):
    llm.stream(TEXTS[0], GREEDY)
    assert_at_rest(llm)


def test_threads_on_one_llm_all_get_their_own_results(llm):
    results: dict[int, list[RequestOutput]] = {}

    def work(index: int) -> None:
        results[index] = run(llm, TEXTS[index:] + TEXTS[:index])

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(TEXTS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    expected = [by_huggingface(text) for text in TEXTS]
    for index in range(len(TEXTS)):
        assert [tokens(output)[0] for output in results[index]] == expected[index:] + expected[:index]


def test_logits_may_be_asked_for_while_another_thread_generates(llm):
    """As a widget's callback does beside a cell that runs."""
    expected = llm.compute_logits(TEXTS[1])
    asked: list[torch.Tensor] = []
    thread = threading.Thread(target=lambda: asked.extend(llm.compute_logits(TEXTS[1]) for _ in range(30)))
    thread.start()
    outputs = [run(llm, TEXTS[0])[0] for _ in range(5)]
    thread.join(300)
    assert len(asked) == 30
    assert all(logits.equal(expected) for logits in asked)
    assert [tokens(output) for output in outputs] == [[by_huggingface(TEXTS[0])]] * 5


def test_an_error_in_one_thread_leaves_the_others_alone(llm):
    errors: list[ValueError] = []

    def fail() -> None:
        for _ in range(20):
            try:
                run(llm, [TEXTS[1], ""])  # the first one is taken, then given up
            except ValueError as error:
                errors.append(error)

    thread = threading.Thread(target=fail)
    thread.start()
    outputs = [run(llm, TEXTS[0])[0] for _ in range(5)]
    thread.join(300)
    assert len(errors) == 20
    assert [tokens(output) for output in outputs] == [[by_huggingface(TEXTS[0])]] * 5


@pytest.mark.parametrize("use", ["step", "add_request", "abort_request"])
def test_an_engine_in_the_middle_of_a_step_refuses_a_second_thread(llm, monkeypatch, use):
    engine = llm.llm_engine
    calls = {
        "step": engine.step,
        "add_request": lambda: engine.add_request("b", TEXTS[0], GREEDY),
        "abort_request": lambda: engine.abort_request("a"),
    }
    errors: list[BaseException] = []

    def intrude() -> None:
        try:
            calls[use]()
        except RuntimeError as error:
            errors.append(error)

    def execute_while_another_thread_comes(step):
        thread = threading.Thread(target=intrude)
        thread.start()
        thread.join(300)
        return execute(step)

    execute = engine.model_runner.execute
    monkeypatch.setattr(engine.model_runner, "execute", execute_while_another_thread_comes)
    engine.add_request("a", TEXTS[0], SamplingParams(temperature=0, max_tokens=1))
    (output,) = engine.step()
    assert tokens(output) == [by_huggingface(TEXTS[0], 1)]
    assert "middle of a step" in str(errors[0])


def test_two_llms_with_different_models_live_side_by_side(llm):
    gpt2 = tiny_model("gpt2")
    other = tiny_llm(gpt2, swap_space=0.001, block_size=4)
    streams = [llm.stream(TEXTS[0], GREEDY), other.stream(TEXTS[0], GREEDY)]
    *_, last = zip(*streams, strict=True)
    assert tokens(last[0]) == [by_huggingface(TEXTS[0])]
    assert tokens(last[1]) == [by_huggingface(TEXTS[0], model=gpt2)]


# -- the progress bar ---------------------------------------------------------------------------------------------


def test_an_llm_with_other_settings_shares_the_weights_and_nothing_else(llm):
    other = llm.with_settings(block_size=4, max_num_seqs=2, swap_space=0.001)
    assert other.llm_engine.model_runner.model is llm.llm_engine.model_runner.model
    assert other.llm_engine.config.cache_config.block_size == 4
    assert llm.llm_engine.config.cache_config.block_size == 16
    growing = llm.stream("The quick", SamplingParams(temperature=0, max_tokens=8))
    next(growing)
    beside = other.generate("The quick", SamplingParams(temperature=0, max_tokens=8), use_tqdm=False)[0]
    assert [*growing][-1].outputs[0].token_ids == beside.outputs[0].token_ids


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"model": "other"}, "'model' belongs to the loaded model and cannot be 'other'"),
        ({"tokenizer": "other"}, "'tokenizer' belongs to the loaded model"),
        ({"trust_remote_code": True}, "'trust_remote_code' belongs to the loaded model"),
        ({"dtype": "bfloat16"}, "dtype must be 'auto' or the given model's 'float32', got 'bfloat16'"),
        ({"device": "cuda"}, "device must be 'auto' or the given model's 'cpu', got 'cuda'"),
        ({"blocksize": 8}, "no setting 'blocksize'; did you mean 'block_size'"),
    ],
    ids=str,
)
def test_settings_that_belong_to_the_weights_are_refused(llm, setting, message):
    with pytest.raises(ValueError, match=message):
        llm.with_settings(**setting)


def test_the_bar_counts_prompts_and_tokens(llm, monkeypatch):
    bars = []

    class Bar(folovllm.progress_bar.tqdm):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            bars.append(self)

    monkeypatch.setattr(folovllm.progress_bar, "tqdm", Bar)
    llm.generate(TEXTS, GREEDY)
    (bar,) = bars
    assert (bar.total, bar.n, bar.desc) == (5, 5, "Processed prompts")
    assert "input:" in bar.postfix
    assert "output:" in bar.postfix


def test_without_tqdm_nothing_is_printed(llm, capsys):
    run(llm, TEXTS)
    assert capsys.readouterr() == ("", "")


def test_the_bar_goes_to_stderr(llm, capsys):
    llm.generate(TEXTS, GREEDY)
    out, err = capsys.readouterr()
    assert out == ""
    assert "Processed prompts: 100%" in err


# -- seeds ----------------------------------------------------------------------------------------------------


def test_a_seeded_request_gives_the_same_tokens_alone_and_in_any_batch(llm):
    seeded = SamplingParams(seed=5, max_tokens=8, n=2)
    alone = tokens(run(llm, TEXTS[0], seeded)[0])
    for position in range(3):
        params = [SamplingParams(max_tokens=12), GREEDY, SamplingParams(n=3, top_k=5)]
        params[position] = seeded
        prompts = list(TEXTS[1:4])
        prompts[position] = TEXTS[0]
        assert tokens(run(llm, prompts, params)[position]) == alone
    assert alone[0] != alone[1]


def test_child_i_draws_with_seed_plus_i(llm):
    three = tokens(run(llm, TEXTS[0], SamplingParams(seed=40, n=3))[0])
    singles = [tokens(run(llm, TEXTS[0], SamplingParams(seed=40 + i))[0])[0] for i in range(3)]
    assert three == singles


def test_unseeded_requests_differ_from_each_other_and_from_call_to_call(llm):
    outputs = run(llm, [TEXTS[0]] * 4, SamplingParams()) + run(llm, TEXTS[0], SamplingParams())
    assert len({tuple(tokens(output)[0]) for output in outputs}) == 5


def test_a_fresh_engine_with_the_same_seed_repeats_unseeded_requests():
    def draw(seed: int, *between: str) -> list[list[list[int]]]:
        llm = make_llm(seed=seed)
        first = run(llm, TEXTS, SamplingParams(n=2))
        run(llm, list(between))
        return [tokens(output) for output in first + run(llm, TEXTS, SamplingParams())]

    assert draw(3) == draw(3)
    assert draw(3) == draw(3, "a greedy one in between")
    assert draw(3) != draw(4)


# -- n and best_of -------------------------------------------------------------------------------------------------


def test_best_of_returns_the_n_likeliest_and_ignores_the_rest(llm, monkeypatch):
    requests = []
    make_request = llm.llm_engine.input_processor.make_request
    monkeypatch.setattr(
        llm.llm_engine.input_processor,
        "make_request",
        lambda *args: requests.append(make_request(*args)) or requests[-1],
    )
    (every,) = run(llm, TEXTS[0], SamplingParams(n=5, seed=9, logprobs=0, max_tokens=6))
    (best,) = run(llm, TEXTS[0], SamplingParams(n=3, best_of=5, seed=9, max_tokens=6))
    ranked = sorted(every.outputs, key=lambda completion: -completion.cumulative_logprob)
    assert tokens(best) == [completion.token_ids for completion in ranked[:3]]
    assert [completion.index for completion in best.outputs] == [0, 1, 2]
    assert [completion.cumulative_logprob for completion in best.outputs] == pytest.approx(
        [completion.cumulative_logprob for completion in ranked[:3]], abs=1e-4
    )
    assert len(requests[-1].get_seqs(SequenceStatus.FINISHED_IGNORED)) == 2


def test_with_best_of_a_stream_shows_nothing_before_the_end(llm):
    *before, last = llm.stream(TEXTS[0], SamplingParams(n=1, best_of=3, seed=9, max_tokens=6))
    assert all(output.outputs == [] for output in before)
    assert len(last.outputs) == 1


def test_the_prompt_of_n_sequences_is_computed_once(llm):
    before = llm.llm_engine.model_runner.num_tokens_run
    (output,) = run(llm, TEXTS[0], SamplingParams(n=4, seed=1, max_tokens=5, ignore_eos=True))
    assert llm.llm_engine.model_runner.num_tokens_run - before == len(output.prompt_token_ids) + 4 * 4


def test_beams_beside_other_requests_are_those_of_a_search_alone(llm):
    params = BeamSearchParams(beam_width=3, max_tokens=6)
    alone = tokens(llm.beam_search(TEXTS[0], params, use_tqdm=False)[0])
    engine = llm.llm_engine
    # The neighbours come first, so that their rows of logits do too.
    engine.add_request("prompt", TEXTS[1], SamplingParams(temperature=0, max_tokens=3, prompt_logprobs=1))
    engine.add_request("greedy", TEXTS[2], SamplingParams(temperature=0, max_tokens=9))
    engine.add_request("beams", TEXTS[0], params)
    finals = {}
    while engine.has_unfinished_requests():
        finals |= {output.request_id: output for output in engine.step() if output.finished}
    assert tokens(finals["beams"]) == alone
    assert tokens(finals["greedy"]) == [by_huggingface(TEXTS[2], 9)]


# -- log-probabilities ---------------------------------------------------------------------------------------------


def raw_logprobs(token_ids: list[int]) -> torch.Tensor:
    """HuggingFace's own forward pass: row ``i`` judges token ``i + 1``."""
    with torch.inference_mode():
        return MODEL(torch.tensor([token_ids])).logits[0].float().log_softmax(-1)


def assert_entries_match(entries, rows: torch.Tensor, next_ids: list[int], num: int) -> None:
    """Each entry: the judged token first, then the ``num`` likeliest, with value, rank and text."""
    assert len(entries) == len(next_ids)
    for entry, row, token_id in zip(entries, rows, next_ids, strict=True):
        likeliest = row.topk(num).indices.tolist()
        assert list(entry) == list(dict.fromkeys([token_id, *likeliest]))
        for each, logprob in entry.items():
            assert logprob.logprob == pytest.approx(float(row[each]), abs=1e-4)
            assert logprob.rank == int((row > row[each]).sum()) + 1
            assert logprob.decoded_token == byte_level_tokenizer().decode([each])


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 0},
        {"seed": 1},
        {"seed": 2, "temperature": 0.5, "top_k": 3, "repetition_penalty": 1.5},
        {"seed": 3, "logit_bias": {5: 100.0}},
    ],
    ids=["greedy", "random", "filtered", "biased"],
)
@pytest.mark.parametrize("settings", [{}, {"max_num_batched_tokens": 3, "max_num_seqs": 3}], ids=["whole", "chunked"])
def test_logprobs_are_those_of_the_raw_logits(params, settings):
    llm = make_llm(**settings)
    wanted = SamplingParams(logprobs=3, prompt_logprobs=2, max_tokens=6, **params)
    output = run(llm, [TEXTS[1], TEXTS[0], TEXTS[2]], [GREEDY, wanted, GREEDY])[1]
    (completion,) = output.outputs
    start = len(output.prompt_token_ids)
    rows = raw_logprobs(output.prompt_token_ids + completion.token_ids)
    assert output.prompt_logprobs[0] is None
    assert_entries_match(output.prompt_logprobs[1:], rows[: start - 1], output.prompt_token_ids[1:], 2)
    assert_entries_match(completion.logprobs, rows[start - 1 : -1], completion.token_ids, 3)
    chosen = [
        entry[token_id].logprob for entry, token_id in zip(completion.logprobs, completion.token_ids, strict=True)
    ]
    assert completion.cumulative_logprob == pytest.approx(sum(chosen))


def test_logprobs_of_the_whole_vocabulary_sum_to_one():
    llm = make_llm(max_logprobs=-1)
    (output,) = run(llm, TEXTS[0], SamplingParams(temperature=0, logprobs=-1, max_tokens=2))
    for entry in output.outputs[0].logprobs:
        values = torch.tensor([logprob.logprob for logprob in entry.values()])
        assert len(values) == 320
        assert float(values.exp().sum()) == pytest.approx(1, abs=1e-4)


def test_logprobs_that_nobody_asked_for_are_none(llm):
    outputs = run(llm, TEXTS[:2], [GREEDY, SamplingParams(temperature=0, logprobs=2)])
    completion = outputs[0].outputs[0]
    assert (completion.logprobs, completion.cumulative_logprob, outputs[0].prompt_logprobs) == (None, None, None)


# -- what is measured -------------------------------------------------------------------------------------------------


def test_num_cached_tokens_counts_whole_blocks_that_were_known():
    llm = make_llm(block_size=4)
    ids = list(range(10, 31))
    first, again = (run(llm, {"prompt_token_ids": ids})[0] for _ in range(2))
    (longer,) = run(llm, {"prompt_token_ids": [*ids[:10], 99, 98, 97]})
    assert [output.num_cached_tokens for output in (first, again, longer)] == [0, 20, 8]
    assert tokens(first) == tokens(again)
    (known,) = run(make_llm(block_size=4, enable_prefix_caching=False), {"prompt_token_ids": ids})
    assert known.num_cached_tokens == 0
    assert tokens(known) == tokens(first)


def test_times_are_in_order(llm):
    for output in run(llm, TEXTS):
        metrics = output.metrics
        times = [metrics.arrival_time, metrics.first_scheduled_time, metrics.first_token_time, metrics.finished_time]
        assert times == sorted(times)
        assert 0 <= metrics.time_in_queue <= metrics.time_to_first_token <= metrics.total_time


def test_who_waits_for_a_seat_is_scheduled_later():
    llm = make_llm(max_num_seqs=1)
    first, second = run(llm, TEXTS[:2])
    assert second.metrics.first_scheduled_time >= first.metrics.first_token_time
    assert second.metrics.time_in_queue > first.metrics.time_in_queue


def test_after_reset_prefix_cache_a_prompt_is_computed_in_full():
    llm = tiny_llm(MODEL, swap_space=0.001, block_size=4)
    found = []
    for _ in range(2):
        found += [run(llm, TEXTS[0])[0].num_cached_tokens for _ in range(2)]
        llm.reset_prefix_cache()
    assert found[0] == found[2] == 0 < found[1] == found[3]


@pytest.mark.parametrize("part", ["mlp.down_proj", "input_layernorm"])
def test_another_llm_over_changed_weights_uses_them(part):
    model = tiny_model()
    llm = tiny_llm(model, swap_space=0.001, block_size=4)
    run(llm, TEXTS[0])
    with torch.no_grad():
        model.model.layers[0].get_submodule(part).weight *= -3
    [output] = run(llm.with_settings(swap_space=0.001), TEXTS[0])
    assert tokens(output) == [by_huggingface(TEXTS[0], model=model)]
