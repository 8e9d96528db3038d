"""Structured outputs: every text has the form that was asked for, by ``re``, ``jsonschema`` and a brute force."""

import json
import re
import sys
from collections import Counter
from functools import cache

import jsonschema
import numpy as np
import pytest
import tokenizers
import torch
from tokenizers import decoders, models
from transformers import PreTrainedTokenizerFast

from folovllm import BeamSearchParams, SamplingParams, StructuredOutputsParams
from folovllm.sampling.sampler import Sampler
from folovllm.sampling.structured_outputs import GrammarCompiler
from tests.chi_square import p_value
from tests.engine_checks import assert_at_rest
from tests.tiny_models import EOS_TOKEN_ID, VOCAB_SIZE, tiny_llm, tiny_model
from tests.tiny_tokenizers import SPECIAL_TOKENS, byte_level_tokenizer, metaspace_tokenizer, wordpiece_tokenizer

PADDED_VOCAB_SIZE = 450
TOKENIZERS = {"byte-level": byte_level_tokenizer, "byte-fallback": metaspace_tokenizer}
PROMPT = "The quick brown fox"
CHOICES = ["yes", "no", "yes!", "not", "猫 or 犬"]


@cache
def padded_llm(name: str):
    """A model with more rows in its vocabulary than either tokenizer has tokens."""
    model = tiny_model(num_hidden_layers=1, hidden_size=32, intermediate_size=48, vocab_size=PADDED_VOCAB_SIZE)
    return tiny_llm(model, TOKENIZERS[name]())


def small_model(**settings):
    return tiny_model(num_hidden_layers=1, hidden_size=32, intermediate_size=48, **settings)


@pytest.fixture(scope="module")
def llm():
    return tiny_llm(small_model())


def generate(llm, prompts=PROMPT, count=1, **params):
    """Return the completions of ``count`` requests with seeds 0, 1, ..."""
    form = {name: params.pop(name) for name in ("json", "regex", "choice") if name in params}
    params = {"max_tokens": 80, "structured_outputs": StructuredOutputsParams(**form) if form else None} | params
    each = [SamplingParams(**({"seed": seed} | params)) for seed in range(count)]
    return [c for output in llm.generate([prompts] * count, each, use_tqdm=False) for c in output.outputs]


def tokens_of(completions):
    return [completion.token_ids for completion in completions]


# -- every text has its form -------------------------------------------------------------------------------

REGEXES = [
    r"[a-z]{3}-\d{2}",
    r"(?i)yes|no",
    r"\w{2}\s\S\W[^\w\s]",
    r"[^\d\s]{4}|\d+?x{0,2}",
    r"你好{1,3}[，。]😀?",
    r"^(\x41|\u0042)\.\+[\]\[-]$",
    r".{6}",
    r'"(\\.|[^"\\]){0,4}"',
]
SETTINGS = [
    {"temperature": 0},
    {"temperature": 2},
    {"top_k": 3},
    {"top_p": 0.5, "min_p": 0.1, "temperature": 0.7},
    {"repetition_penalty": 1.5, "frequency_penalty": 1.0, "logit_bias": {70: 50.0, EOS_TOKEN_ID: 100.0, 0: 100.0}},
    {"allowed_token_ids": [*range(3, 300), EOS_TOKEN_ID]},
    {"bad_words": ["a"]},
]


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("regex", REGEXES)
def test_every_finished_text_matches_its_regex(name, regex):
    llm = padded_llm(name)
    finished = 0
    for settings in SETTINGS:
        for completion in generate(llm, count=1 if settings.get("temperature") == 0 else 3, regex=regex, **settings):
            special = {*range(len(SPECIAL_TOKENS)), *range(len(llm.get_tokenizer()), PADDED_VOCAB_SIZE)}
            assert special.isdisjoint(completion.token_ids[:-1])
            if completion.finish_reason == "stop" and completion.stop_reason is None:
                assert completion.token_ids[-1] == EOS_TOKEN_ID
                assert re.fullmatch(regex, completion.text), completion
                finished += 1
    assert finished >= 8


SCHEMAS = [
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 4},
            "age": {"type": "integer", "minimum": 0, "maximum": 99},
        },
        "required": ["name", "age"],
        "additionalProperties": False,
    },
    {"type": "array", "items": {"enum": ["a", 1, None, True]}, "minItems": 1, "maxItems": 3},
    {"type": "string", "pattern": "^[A-Z]{2}\\d$"},
    {"type": "string", "format": "date"},
    {"anyOf": [{"const": {"a": [1, "é"]}}, {"type": "boolean"}]},
    {"$ref": "#/$defs/t", "$defs": {"t": {"type": "array", "items": {"$ref": "#/$defs/t"}, "maxItems": 1}}},
]


@pytest.mark.parametrize("as_text", [False, True])
@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: str(schema)[:30])
def test_every_finished_text_is_json_of_its_schema(llm, schema, as_text):
    # Random weights would write white space for ever.
    blank = {i: -100.0 for i in range(VOCAB_SIZE) if not llm.get_tokenizer().decode([i]).strip(" \n\t\r")}
    given = json.dumps(schema) if as_text else schema
    completions = generate(llm, count=6, json=given, logit_bias=blank)
    finished = [each for each in completions if each.finish_reason == "stop"]
    assert len(finished) >= 4
    for completion in finished:
        jsonschema.validate(json.loads(completion.text), schema)


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("temperature", [0, 1, 2])
def test_every_text_is_one_of_the_choices(name, temperature):
    completions = generate(padded_llm(name), count=20, choice=CHOICES, temperature=temperature)
    assert {completion.text for completion in completions} <= {*CHOICES}
    assert {completion.finish_reason for completion in completions} == {"stop"}
    assert len({completion.text for completion in completions}) > (1 if temperature else 0)


@pytest.mark.parametrize(
    "choice", [["a" * 70], ["<|im_end|>", "<pad>x"], [" a\n", "\x00\x7f\\/"], ["a", "a"], ['"', "é́"]]
)
def test_odd_choices_are_written_out(llm, choice):
    completions = generate(llm, count=4, choice=choice)
    assert {completion.text for completion in completions} <= {*choice}
    assert all(len(c.token_ids) > 1 and c.token_ids[-1] == EOS_TOKEN_ID for c in completions)


@cache
def judge():
    """Return a function that says whether a form's grammar takes a text, byte by byte."""
    compiler = GrammarCompiler(byte_level_tokenizer())
    tokens = {bytes(each): i for i in range(3, 320) if len(each := compiler._tokenizer.decode_bytes([i])) == 1}

    @cache
    def grammar(form):
        return compiler.compile(StructuredOutputsParams(**json.loads(form)), [], [EOS_TOKEN_ID])

    def takes(form, text):
        written = [tokens[bytes([byte])] for byte in text.encode()]
        following = grammar(json.dumps(form)).next_tokens(written, VOCAB_SIZE)
        return following is not None and bool(following[EOS_TOKEN_ID])

    return takes


CLASSES = [
    *(
        r"\d",
        r"\D",
        r"\w",
        r"\W",
        r"\s",
        r"\S",
        ".",
        "(?s).",
        r"[\w.]",
        r"[^\w\s]",
        r"[^\W\d]",
        r"(?a)\w",
        r"(?a)[^\d]",
    ),
    *(
        "(?i)[k-s]",
        "(?i)[^i]",
        "(?i)i",
        "(?i)[^k]",
        "(?i)ß",
        r"(?i)[^\Wµ]",
        r"(?i)\W",
        "[^é]",
        r"[\ud7ff-\ue000]",
        r"[^\s\S]|a",
    ),
]


@pytest.mark.parametrize("regex", CLASSES)
def test_the_classes_of_a_regex_are_those_of_python(regex):
    """Every character on either side of a border in Python's class, and many others."""
    characters = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
    inside = [bool(found) for found in map(re.compile(regex).fullmatch, characters)]
    borders = [i + j for i in range(1, len(inside)) if inside[i - 1] != inside[i] for j in (-1, 0)]
    for i in {*borders, *range(0, 0x250), *range(0x250, len(inside), 4001)}:
        assert judge()({"regex": regex}, characters[i]) == inside[i], (regex, characters[i])


@pytest.mark.parametrize(
    ("regex", "texts"),
    [
        ("x{1, 2}", ["x", "xx", "x{1, 2}"]),
        ("a{ 2}|{}|{a}{,2}", ["aa", "a{ 2}", "{}", "{a", "{a}}", "{a"]),
        ("(?x) a b # c", ["ab", "a b", " a b # c"]),
        ("(?x: [ a] b)c d", [" bc d", "abc d", "abcd"]),
        ("(?i:ab)c(?-i:d)", ["ABcd", "ABCd", "abcD"]),
        ("a$|^b|(?s:.)", ["a", "a\n", "\n", "b"]),
        (r"\Aa*?b??c{2,}\Z", ["cc", "aabccc", "abc", "cc\n"]),
        (r"[a\]\-b-][]x][^]x]", ["]]a", "-xb", "ax]", "b]x"]),
        (r"(?P<n>a|ab|)(?#no)\101\x42\N{DIGIT ONE}", ["AB1", "aAB1", "abAB1", "nAB1"]),
    ],
)
def test_a_regex_means_what_it_means_to_python(regex, texts):
    taken = [judge()({"regex": regex}, text) for text in texts]
    assert taken == [bool(re.fullmatch(regex, text)) for text in texts]
    assert True in taken
    pattern = {"type": "string", "pattern": regex}
    for text in [*texts, *(f"-{text}\n" for text in texts)]:
        assert judge()({"json": pattern}, json.dumps(text, ensure_ascii=False)) == bool(re.search(regex, text)), text


KEYED = [
    {"properties": {"a": {"type": "integer"}}, "required": ["a"]},
    {"properties": {"a": False}},
    {"properties": {"é": {"type": "integer"}}, "additionalProperties": True},
    {"patternProperties": {"^a": {"type": "integer"}}, "required": ["b", "ab"]},
    {"patternProperties": {r"^\d": {"type": "integer"}, "^[a-é]": {"type": "string"}}, "additionalProperties": False},
    {"patternProperties": {"a$": {"type": "integer"}}, "properties": {"b": {"const": 1}}},
    {"properties": {"pattern": {"pattern": "^a{1, 2}"}, "const": {"pattern": r"^\d$"}}},
    {"properties": {"a": {"type": "integer"}}, "required": ["b"]},
    {"properties": {"a": {"type": "integer"}}, "required": ["b"], "anyOf": [{"required": ["a"]}, {"minProperties": 1}]},
    {"required": ["a"], "minProperties": 1, "maxProperties": 2},
    {"enum": [{"pattern": "("}, {"a": 1}], "default": {"pattern": "["}},
    {"allOf": [{"properties": {"a": {"type": "integer"}}}, {"additionalProperties": {"type": "integer"}}]},
]


@pytest.mark.parametrize("schema", KEYED, ids=str)
def test_no_spelling_of_a_key_breaks_its_schema(schema):
    schema = {"type": "object"} | schema
    keys = [
        "a",
        "\\u0061",
        "é",
        "\\u00e9",
        "ab",
        "b",
        "\\u0061b",
        "\\u0062",
        "a\\n",
        "٣",
        "pattern",
        "const",
        "+",
        "p\\u0061ttern",
    ]
    pairs = [f'"{key}":{value}' for key in keys for value in (1, '"x"', '"a"', '"٣"', '"("', '"a{1, 2}"')]
    texts = [
        "{}",
        *(f"{{{pair}}}" for pair in pairs),
        *(f"{{{one},{two}}}" for one in pairs[::3] for two in pairs[::3]),
    ]
    taken = [text for text in texts if judge()({"json": schema}, text)]
    for text in taken:
        jsonschema.validate(json.loads(text), schema)
    assert taken


def test_numpy_values_in_a_schema_are_read_as_pythons_own():
    schema = {"enum": np.array([1, 2]), "minimum": np.int64(2), "x": [np.bool_(True), np.float32(0.5), torch.tensor(3)]}
    assert StructuredOutputsParams(json=schema).json == {"enum": [1, 2], "minimum": 2, "x": [True, 0.5, 3]}


# -- the right distribution ----------------------------------------------------------------------------------


def spell_all(llm, choices):
    """Return every choice's probability: over all its spellings, the product of each token's among those allowed."""
    tokenizer, engine = llm.get_tokenizer(), llm.llm_engine
    texts = {i: tokenizer.decode([i]) for i in range(3, VOCAB_SIZE)}
    prompt = tokenizer(PROMPT)["input_ids"]
    found = Counter()

    def follow(path, text, probability):
        allowed = [i for i, each in texts.items() if each and any(c.startswith(text + each) for c in choices)]
        allowed += [EOS_TOKEN_ID] * (text in choices)
        logits = engine.compute_logits({"prompt_token_ids": prompt + path})[allowed]
        for token_id, share in zip(allowed, logits.double().softmax(dim=-1).tolist(), strict=True):
            if token_id == EOS_TOKEN_ID:
                found[text] += probability * share
            else:
                follow([*path, token_id], text + texts[token_id], probability * share)

    follow([], "", 1.0)
    return found


def test_choices_come_as_often_as_the_product_of_their_tokens_probabilities(llm):
    choices = ["the", "that", "then"]
    expected = spell_all(llm, choices)
    assert sum(expected.values()) == pytest.approx(1)
    seen = Counter(completion.text for completion in generate(llm, count=600, choice=choices))
    shares = [600 * expected[each] for each in choices]
    assert min(shares) > 5
    assert p_value([seen[each] for each in choices], shares) > 0.001


def test_greedy_takes_the_best_allowed_token_each_time(llm):
    tokenizer, engine = llm.get_tokenizer(), llm.llm_engine
    choices = ["hello world", "the small engine", "learned to read", "return 0"]
    text, path, prompt = "", [], tokenizer(PROMPT)["input_ids"]
    while not path or path[-1] != EOS_TOKEN_ID:
        allowed = [i for i in range(3, VOCAB_SIZE) if any(c.startswith(text + tokenizer.decode([i])) for c in choices)]
        allowed = [*allowed, EOS_TOKEN_ID] if text in choices else allowed
        logits = engine.compute_logits({"prompt_token_ids": prompt + path})
        path.append(max(allowed, key=lambda i: logits[i].item()))
        text += tokenizer.decode([path[-1]], skip_special_tokens=True)
    [greedy] = generate(llm, choice=choices, temperature=0)
    assert (greedy.token_ids, greedy.text) == (path, text)
    assert generate(llm, choice=choices, top_k=1)[0].token_ids == path


def test_log_probabilities_stay_those_of_the_model(llm):
    [completion] = generate(llm, choice=["yes"], logprobs=0)
    prompt = llm.get_tokenizer()(PROMPT)["input_ids"]
    for i, (token_id, entry) in enumerate(zip(completion.token_ids, completion.logprobs, strict=True)):
        logits = llm.compute_logits({"prompt_token_ids": prompt + completion.token_ids[:i]})
        assert entry[token_id].logprob == pytest.approx(logits.log_softmax(dim=-1)[token_id].item(), abs=1e-4)


# -- however it came about -----------------------------------------------------------------------------------

MIXED = [
    {"regex": r"(the dog |a fox ){4,6}"},
    {"json": SCHEMAS[0]},
    {"choice": CHOICES, "ignore_eos": True},
    {"regex": r"[ab]{30,}", "n": 2, "best_of": 3},
    {"regex": "(hello world ){5}", "temperature": 0},
    {},
]


def make_params(seed, regex=None, json=None, choice=None, **params):
    form = {name: value for name, value in (("regex", regex), ("json", json), ("choice", choice)) if value}
    return SamplingParams(**({"seed": seed, "max_tokens": 40, "structured_outputs": form or None} | params))


PARAMS = [make_params(5 * i, **each) for i, each in enumerate(MIXED)]


def results(outputs):
    return [[(c.token_ids, c.text, c.finish_reason, c.stop_reason) for c in output.outputs] for output in outputs]


@cache
def alone():
    llm = tiny_llm(small_model(), enable_prefix_caching=False)
    return [results(llm.generate(PROMPT, params, use_tqdm=False))[0] for params in PARAMS]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_speculative_tokens": 4},
        {"block_size": 4, "num_gpu_blocks_override": 45, "swap_space": 0, "num_speculative_tokens": 2},
        {"block_size": 4, "num_gpu_blocks_override": 45, "swap_space": 0.001},
    ],
    ids=str,
)
def test_batches_drafts_and_preemptions_change_no_token(settings):
    llm = tiny_llm(small_model(), record_history=True, **settings)
    assert results(llm.generate([PROMPT] * len(PARAMS), PARAMS, use_tqdm=False)) == alone()
    records = [record for step in llm.llm_engine.history.steps for record in step.sequences]
    assert any(record.num_draft_tokens for record in records) == ("num_speculative_tokens" in settings)
    assert any(record.preempted for record in records) == ("block_size" in settings)
    assert_at_rest(llm)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_interrupted_step_changes_no_token(monkeypatch, moment):
    llm = tiny_llm(small_model(), num_speculative_tokens=3)
    engine, append, calls = llm.llm_engine, llm.llm_engine.output_processor.append, []

    def interrupted(*given):
        calls.append(given)
        if moment == "after":
            append(*given)
        if len(calls) % 7 == 3:
            raise KeyboardInterrupt
        return append(*given) if moment == "before" else 1

    monkeypatch.setattr(engine.output_processor, "append", interrupted)
    for i, params in enumerate(PARAMS):
        engine.add_request(str(i), PROMPT, params)
    finished = {}
    while engine.has_unfinished_requests():
        if len(calls) > 30:
            monkeypatch.undo()
        try:
            finished |= {output.request_id: output for output in engine.step() if output.finished}
        except KeyboardInterrupt:
            continue
    assert results(finished[str(i)] for i in range(len(PARAMS))) == alone()


# -- ends ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eos", [{"ignore_eos": True}, {"min_tokens": 70}], ids=str)
def test_a_complete_text_ends_by_itself_where_eos_may_not_come(llm, eos):
    for completion in generate(llm, count=8, choice=CHOICES, **eos):
        assert completion.text in CHOICES
        assert EOS_TOKEN_ID not in completion.token_ids
        assert (completion.finish_reason, completion.stop_reason) == ("stop", "no_token_left")
    assert_at_rest(llm)


def test_a_complete_text_ends_by_itself_in_a_model_without_eos():
    """Its tokenizer has none either: the first token of its vocabulary is text, and only the padding is special."""
    bare = tokenizers.Tokenizer(models.BPE(vocab={"!": 0, "a": 1, "b": 2, "ab": 3, "<pad>": 4}, merges=[("a", "b")]))
    bare.decoder = decoders.ByteLevel()
    llm = tiny_llm(
        small_model(vocab_size=8, eos_token_id=None), PreTrainedTokenizerFast(tokenizer_object=bare, pad_token="<pad>")
    )
    assert llm.llm_engine.input_processor.eos_token_ids == frozenset()
    prompt = {"prompt_token_ids": [1]}
    completions = generate(llm, prompt, count=20, regex="a(b|ab?)", temperature=2, ignore_eos=True)
    assert {completion.text for completion in completions} == {"ab", "aab"}
    assert {completion.text for completion in generate(llm, prompt, count=9, regex="!a!")} == {"!a!"}


def test_a_text_that_may_go_on_is_ended_by_max_tokens(llm):
    [completion] = generate(llm, regex="a+", ignore_eos=True, max_tokens=9)
    assert (completion.text, completion.finish_reason) == ("a" * 9, "length")


def test_min_tokens_keeps_eos_back(llm):
    completions = generate(llm, count=5, regex="[ab]+", min_tokens=20, logit_bias={EOS_TOKEN_ID: 100.0})
    assert [len(completion.token_ids) for completion in completions] == [21] * 5
    assert all(re.fullmatch("[ab]+", completion.text) for completion in completions)


def test_stop_tokens_end_a_complete_text_and_no_other(llm):
    stop = byte_level_tokenizer().convert_tokens_to_ids("<|im_start|>")
    bias = {stop: 100.0}
    [completion] = generate(llm, regex="[ab]{5,}", stop_token_ids=[stop], logit_bias=bias)
    assert (len(completion.text), completion.token_ids[-1], completion.stop_reason) == (5, stop, stop)
    [completion] = generate(llm, choice=["abc"], stop_token_ids=[EOS_TOKEN_ID], ignore_eos=True)
    assert (completion.text, completion.stop_reason) == ("abc", EOS_TOKEN_ID)


def test_a_stop_token_that_is_text_is_refused(llm):
    stop = byte_level_tokenizer().encode("a")[0]
    with pytest.raises(ValueError, match=rf"stop_token_ids must hold no token that is text.*got \[{stop}\]"):
        generate(llm, choice=["bca"], stop_token_ids=[stop, EOS_TOKEN_ID])
    assert_at_rest(llm)


def test_stop_strings_cut_the_text(llm):
    [completion] = generate(llm, choice=["one two three"], stop=["two"])
    assert (completion.text, completion.stop_reason) == ("one ", "two")


def test_streams_grow_to_the_whole_text(llm):
    *_, last = llm.stream(PROMPT, SamplingParams(structured_outputs={"choice": ["猫 or 犬"]}, ignore_eos=True))
    assert last.outputs[0].text == "猫 or 犬"


# -- what users' own code cannot break ---------------------------------------------------------------------------


def test_a_logits_processor_cannot_bring_back_what_the_form_forbids(llm):
    def flatten(output_token_ids, logits):
        return torch.zeros_like(logits)

    completions = generate(llm, count=10, choice=CHOICES, logits_processors=[flatten])
    assert {completion.text for completion in completions} <= {*CHOICES}


def test_a_strategy_of_ones_own_sees_only_what_the_form_allows():
    class Flat(Sampler):
        def refine(self, logits, params):
            return logits.clamp_(max=0).mul_(0).nan_to_num_(nan=-torch.inf)

    llm = tiny_llm(small_model())
    llm.llm_engine.sampler = Flat()
    assert {completion.text for completion in generate(llm, count=20, choice=CHOICES)} <= {*CHOICES}


# -- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({}, r"must set exactly one of json, regex, choice, got"),
        ({"regex": "a", "choice": ["a"]}, "must set exactly one"),
        ({"choice": []}, r"choice must hold at least one string, got \[\]"),
        ({"choice": [""]}, r"choice\[0\] must be a non-empty string, got ''"),
        ({"choice": "yes"}, "choice must be a list of strings, got 'yes'"),
        ({"choice": ["a", 5]}, r"choice\[1\] must be a non-empty string, got 5"),
        ({"choice": ["\ud800"]}, "choice must be text that UTF-8 can write"),
        ({"regex": ""}, "regex must be a non-empty string, got ''"),
        ({"regex": 5}, "regex must be a non-empty string, got 5"),
        ({"regex": "[a"}, "regex must be a regular expression: unterminated"),
        ({"regex": "a**"}, "regex must be a regular expression: multiple repeat"),
        ({"regex": "a{2}+"}, "regex must not have possessive repeats"),
        ({"regex": "(?>a)"}, "regex must not have atomic groups"),
        ({"regex": "[[:alpha:]]"}, "regex must be a regular expression: Possible nested set at position 1; got"),
        ({"regex": "[a-z&&b]"}, "regex must be a regular expression: Possible set intersection"),
        ({"regex": r"(a)\1"}, "regex must not have backreferences"),
        ({"regex": r"a(?=b)b"}, "regex must not have look-around"),
        ({"regex": r"\bab\b"}, "regex must not have look-around"),
        ({"regex": "(?m)^a$"}, r"regex must not have look-around .* with \(\?m\)"),
        ({"json": {"pattern": "a(?=b)"}}, r"json must not have look-around .* got 'a\(\?=b\)'"),
        ({"json": {"items": [{"anyOf": [{"pattern": "[[a]"}]}]}}, "json must be a regular expression: Possible nested"),
        ({"json": {"$defs": {"const": {"patternProperties": {"[": {}}}}}}, "json must be a regular expression: unterm"),
        (
            {"json": {"properties": {}, "additionalProperties": {"type": "null"}}},
            "both properties and a schema as addi",
        ),
        ({"json": {"$ref": "#/foo/%63onst"}}, r"must not have a \$ref into const"),
        (
            {"json": {"patternProperties": {"b": {}}, "properties": {"ab": {}}}},
            r"properties that match .* got \['ab'\]",
        ),
        ({"json": {"items": {"required": True}}}, "must have a list as required, got"),
        ({"json": {"patternProperties": {"^a": {}, "^[a]": {}}}}, "must not write the same patternProperties in two"),
        ({"json": {"minProperties": 2, "required": ["a", "a"]}}, "must not ask for more minProperties than"),
        ({"json": {"x-guidance": {"lenient": True}}}, "must not have x-guidance"),
        ({"regex": "\udfff"}, "regex must be text"),
        ({"json": "{"}, "json must be JSON: Expecting"),
        ({"json": "true"}, "json must be a JSON object, got 'true'"),
        ({"json": [1]}, "json must be a JSON schema as a dict or as text"),
        ({"json": {"a": object()}}, "json must be JSON: Object of type object"),
        ({"json": {"a": float("nan")}}, "json must be JSON"),
        ({"grammar": "x"}, "unexpected keyword argument 'grammar'"),
    ],
)
def test_a_wrong_form_is_refused_when_it_is_made(form, message):
    with pytest.raises(ValueError, match=f"^structured_outputs.*{message}"):
        SamplingParams(structured_outputs=form)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"regex": "a^b"}, "regex is not supported"),
        ({"regex": r"[^\s\S]"}, "regex must allow a text that the tokens can write"),
        ({"regex": r"x{0}"}, "regex must allow a text"),
        ({"json": {"type": "strnig"}}, "json is not supported: .*Invalid type: strnig"),
        ({"json": {"not": {}}}, 'json is not supported: .*Unimplemented keys: ."not".'),
        ({"json": {"type": "integer", "minimum": 3, "maximum": 1}}, "json is not supported: .*Unsatisfiable"),
        ({"json": {"$ref": "#/nowhere"}}, "json is not supported: .*nowhere"),
    ],
    ids=str,
)
def test_what_cannot_be_followed_is_refused_at_the_door(llm, form, message):
    params = SamplingParams(structured_outputs=form)
    with pytest.raises(ValueError, match=f"(?s)^structured_outputs.{message}.*got "):
        llm.generate([PROMPT, "b"], [SamplingParams(), params], use_tqdm=False)
    assert_at_rest(llm)


def test_a_tokenizer_whose_text_is_not_its_bytes_is_refused():
    llm = tiny_llm(small_model(), wordpiece_tokenizer())
    with pytest.raises(ValueError, match=r"^structured_outputs does not work with this model's tokenizer: .*WordPiece"):
        generate(llm, "the dog", choice=["a"])
    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizers.Tokenizer(models.BPE(vocab={"a": 0}, merges=[])))
    with pytest.raises(ValueError, match="it has no special token"):
        GrammarCompiler(bare)


def test_without_the_library_the_refusal_says_what_to_install(monkeypatch):
    llm = tiny_llm(small_model())
    monkeypatch.setitem(sys.modules, "llguidance.hf", None)
    with pytest.raises(ValueError, match=r"needs the package llguidance: pip install 'folovllm\[structured\]'"):
        generate(llm, choice=["a"])
    assert len(generate(llm, max_tokens=2)) == 1


def test_the_tokenizer_is_read_once_an_engine(llm):
    generate(llm, choice=["a"])
    compiler = llm.llm_engine.input_processor._grammar_compiler
    generate(llm, choice=["b"])
    assert llm.llm_engine.input_processor._grammar_compiler is compiler


def test_beam_search_takes_no_form():
    with pytest.raises(TypeError, match="structured_outputs"):
        BeamSearchParams(beam_width=2, max_tokens=3, structured_outputs={"choice": ["a"]})


# -- the real model --------------------------------------------------------------------------------------------------


@pytest.mark.bundled
def test_the_bundled_model_answers_in_the_form_that_was_asked_for(bundled_model_path):
    from folovllm import LLM

    llm = LLM(str(bundled_model_path), num_gpu_blocks_override=64)
    question = [{"role": "user", "content": "Is Paris in France? Answer as JSON with the keys answer and city."}]
    schema = {
        "type": "object",
        "properties": {"answer": {"enum": ["yes", "no"]}, "city": {"type": "string", "maxLength": 20}},
        "required": ["answer", "city"],
        "additionalProperties": False,
    }
    forms = [{"json": schema}, {"choice": ["yes", "no"]}, {"regex": r"(Yes|No), [a-z ]{5,30}\."}]
    params = [SamplingParams(temperature=0, max_tokens=60, structured_outputs=form) for form in forms]
    texts = [output.outputs[0].text for output in llm.chat([question] * 3, params, use_tqdm=False)]
    jsonschema.validate(json.loads(texts[0]), schema)
    assert texts[1] in ("yes", "no")
    assert re.fullmatch(forms[2]["regex"], texts[2])
