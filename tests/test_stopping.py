"""When and why generation ends, and what of it is shown; the model is made to say what the test wants to hear."""

import itertools

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from folovllm import LLM, CompletionOutput, SamplingParams
from folovllm.step import SchedulerOutput
from tests.engine_checks import assert_at_rest
from tests.tiny_models import EOS_TOKEN_ID, VOCAB_SIZE, tiny_llm, tiny_model
from tests.tiny_tokenizers import byte_level_tokenizer

TOKENIZER = byte_level_tokenizer()
EXTRA_EOS_TOKEN_ID = 1
MAX_MODEL_LEN = 100
PROMPT = {"prompt_token_ids": TOKENIZER("The")["input_ids"]}
HELLO = "hello world"
FAMILY = "👩‍👩‍👧"


def ids_of(text: str) -> list[int]:
    """The text in the tokenizer's own tokens."""
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


def byte_ids(text: str) -> list[int]:
    """The text with one token a byte."""
    words = TOKENIZER.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)
    return [TOKENIZER.convert_tokens_to_ids(char) for word, _ in words for char in word]


A, B, C = byte_ids("abc")


class ScriptedLLM:
    """A real LLM whose model is replaced: the token after ``i`` output tokens is ``script[i]``, and ``c`` past its end.

    The likeliest token beside it is ``b``: what comes when the script's token is masked.
    """

    def __init__(self) -> None:
        model = tiny_model(num_hidden_layers=1)
        model.generation_config.eos_token_id = [EOS_TOKEN_ID, EXTRA_EOS_TOKEN_ID]
        self.llm: LLM = tiny_llm(model, max_model_len=MAX_MODEL_LEN, swap_space=0.001)
        self.llm.llm_engine.model_runner.execute = self._execute
        self.script: list[int] = []

    def _execute(self, step: SchedulerOutput) -> torch.Tensor:
        rows = [item.sequence for item in step.scheduled for _ in item.logits_positions]
        logits = torch.zeros(len(rows), VOCAB_SIZE)
        for row, seq in zip(logits, rows, strict=True):
            position = seq.data.get_output_len()
            row[B] = 10.0
            row[self.script[position] if position < len(self.script) else C] = 20.0
        return logits

    def __call__(self, script: list[int], **params) -> CompletionOutput:
        self.script = script
        params = SamplingParams(**({"temperature": 0, "max_tokens": 30} | params))
        (output,) = self.llm.generate(PROMPT, params, use_tqdm=False)
        assert_at_rest(self.llm)
        return output.outputs[0]

    def stream(self, script: list[int], **params) -> list[str]:
        """Return the text after every step."""
        self.script = script
        params = SamplingParams(**({"temperature": 0, "max_tokens": 30} | params))
        return [output.outputs[0].text for output in self.llm.stream(PROMPT, params)]


@pytest.fixture(scope="module")
def says() -> ScriptedLLM:
    return ScriptedLLM()


def end_of(output: CompletionOutput) -> tuple[str, list[int], str | None, int | str | None]:
    return output.text, output.token_ids, output.finish_reason, output.stop_reason


# -- tokens that end -------------------------------------------------------------------------------------


def test_eos_ends_without_a_stop_reason_and_stays_in_the_token_ids_but_not_in_the_text(says):
    assert end_of(says([A, B, EOS_TOKEN_ID, C])) == ("ab", [A, B, EOS_TOKEN_ID], "stop", None)


def test_eos_is_shown_when_stops_are_included_and_special_tokens_kept(says):
    output = says([A, EOS_TOKEN_ID], include_stop_str_in_output=True, skip_special_tokens=False)
    assert end_of(output) == ("a<|im_end|>", [A, EOS_TOKEN_ID], "stop", None)


def test_eos_on_the_last_allowed_token_is_a_stop(says):
    assert end_of(says([A, B, EOS_TOKEN_ID], max_tokens=3)) == ("ab", [A, B, EOS_TOKEN_ID], "stop", None)


def test_eos_as_the_first_token_gives_an_empty_text(says):
    assert end_of(says([EOS_TOKEN_ID])) == ("", [EOS_TOKEN_ID], "stop", None)


def test_an_extra_eos_of_the_generation_config_is_its_own_stop_reason(says):
    assert end_of(says([A, EXTRA_EOS_TOKEN_ID])) == ("a", [A, EXTRA_EOS_TOKEN_ID], "stop", EXTRA_EOS_TOKEN_ID)


def test_a_stop_token_is_its_own_stop_reason_and_not_in_the_text(says):
    assert end_of(says([A, B, C, A], stop_token_ids=[B, C])) == ("a", [A, B], "stop", B)


def test_a_stop_token_is_shown_when_stops_are_included(says):
    output = says([A, B], stop_token_ids=[B], include_stop_str_in_output=True)
    assert end_of(output) == ("ab", [A, B], "stop", B)


def test_a_stop_token_on_the_last_allowed_token_is_a_stop(says):
    assert end_of(says([A, B], stop_token_ids=[B], max_tokens=2)) == ("a", [A, B], "stop", B)


def test_eos_that_is_a_stop_token_too_counts_as_eos(says):
    output = says([A, EOS_TOKEN_ID], stop_token_ids=[EOS_TOKEN_ID])
    assert end_of(output) == ("a", [A, EOS_TOKEN_ID], "stop", None)


@pytest.mark.parametrize("eos", [EOS_TOKEN_ID, EXTRA_EOS_TOKEN_ID])
def test_ignore_eos_goes_on_after_every_eos(says, eos):
    output = says([A, eos, B], ignore_eos=True, max_tokens=4)
    assert end_of(output) == ("abc", [A, eos, B, C], "length", None)


def test_a_stop_token_ends_also_when_eos_is_ignored(says):
    output = says([A, EOS_TOKEN_ID, B], ignore_eos=True, stop_token_ids=[EOS_TOKEN_ID])
    assert end_of(output) == ("a", [A, EOS_TOKEN_ID], "stop", EOS_TOKEN_ID)


# -- length ------------------------------------------------------------------------------------------------


def test_max_tokens_ends_by_length(says):
    assert end_of(says([A, B, C, A], max_tokens=3)) == ("abc", [A, B, C], "length", None)


def test_max_tokens_none_goes_on_to_max_model_len(says):
    output = says([], max_tokens=None)
    room = MAX_MODEL_LEN - len(PROMPT["prompt_token_ids"])
    assert end_of(output) == ("c" * room, [C] * room, "length", None)


def test_max_model_len_ends_what_max_tokens_would_allow(says):
    output = says([], max_tokens=10_000)
    assert (len(output.token_ids), output.finish_reason) == (MAX_MODEL_LEN - len(PROMPT["prompt_token_ids"]), "length")


def test_min_tokens_beyond_max_model_len_ends_by_length(says):
    output = says([], max_tokens=500, min_tokens=400)
    assert (len(output.token_ids), output.finish_reason) == (MAX_MODEL_LEN - len(PROMPT["prompt_token_ids"]), "length")


# -- min_tokens ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eos", [EOS_TOKEN_ID, EXTRA_EOS_TOKEN_ID])
def test_min_tokens_masks_every_eos_until_so_many_are_out(says, eos):
    output = says([eos] * 9, min_tokens=3)
    assert (output.text, output.token_ids) == ("bbb", [B, B, B, eos])


def test_min_tokens_masks_stop_tokens(says):
    assert end_of(says([A, A, A, A], min_tokens=2, stop_token_ids=[A])) == ("bb", [B, B, A], "stop", A)


def test_a_stop_string_is_not_looked_for_before_min_tokens(says):
    output = says([A, B, A, B], min_tokens=2, stop="b")
    assert end_of(output) == ("aba", [A, B, A, B], "stop", "b")


def test_a_stop_string_that_min_tokens_let_pass_is_not_found_later(says):
    output = says([A, B, C, C], min_tokens=3, stop="ab", max_tokens=4)
    assert end_of(output) == ("abcc", [A, B, C, C], "length", None)


# -- stop strings --------------------------------------------------------------------------------------------


def test_a_stop_string_within_one_token_cuts_the_text_there(says):
    (dog,) = ids_of(" dog")
    output = says([A, dog, B], stop="o")
    assert end_of(output) == ("a d", [A, dog], "stop", "o")


def test_a_stop_string_across_tokens_cuts_the_text_where_it_starts(says):
    script = byte_ids(HELLO)
    output = says(script, stop="lo w")
    assert end_of(output) == ("hel", script[:7], "stop", "lo w")


def test_a_stop_string_is_included_if_asked_for_and_nothing_after_it(says):
    (dog,) = ids_of(" dog")
    output = says([A, dog, B], stop="do", include_stop_str_in_output=True)
    assert end_of(output) == ("a do", [A, dog], "stop", "do")


def test_a_stop_string_on_the_last_allowed_token_is_a_stop(says):
    assert end_of(says([A, B, C], stop="c", max_tokens=3)) == ("ab", [A, B, C], "stop", "c")


def test_a_stop_string_as_the_first_thing_leaves_an_empty_text(says):
    assert end_of(says([A, B], stop="ab")) == ("", [A, B], "stop", "ab")


@pytest.mark.parametrize("stop", [["llo", "lo w", "l"], ["l", "lo w", "llo"]])
def test_of_overlapping_stop_strings_the_one_completed_first_wins(says, stop):
    script = byte_ids(HELLO)
    assert end_of(says(script, stop=stop)) == ("he", script[:3], "stop", "l")


def test_of_stop_strings_in_one_token_the_one_completed_first_wins_whatever_the_order(says):
    (dog,) = ids_of(" dog")
    assert end_of(says([dog], stop=["og", "d", "do"])) == (" ", [dog], "stop", "d")


@pytest.mark.parametrize("stop", [["ab", "b"], ["b", "ab"]])
def test_of_stop_strings_completed_together_the_first_given_wins(says, stop):
    output = says([A, B, C], stop=stop)
    assert end_of(output) == ("a" if stop[0] == "b" else "", [A, B], "stop", stop[0])


def test_a_stop_string_that_the_prompt_ends_in_does_not_stop(says):
    output = says([A, B], stop="Thea", max_tokens=2)
    assert end_of(output) == ("ab", [A, B], "length", None)


def test_text_that_begins_like_a_stop_string_is_given_back_in_the_end(says):
    assert end_of(says([A, B], stop="abc", max_tokens=2)) == ("ab", [A, B], "length", None)


@pytest.mark.parametrize("stop", ["🎉", "世", FAMILY])
def test_a_stop_string_of_many_bytes_spread_over_tokens_is_found(says, stop):
    script = byte_ids("你好" + stop + "!")
    assert len(script) == len(("你好" + stop + "!").encode())
    assert end_of(says(script, stop=stop)) == ("你好", script[:-1], "stop", stop)


def test_a_stop_string_of_many_bytes_is_included_if_asked_for(says):
    script = byte_ids("好🎉!")
    output = says(script, stop="🎉", include_stop_str_in_output=True)
    assert end_of(output) == ("好🎉", script[:-1], "stop", "🎉")


def test_a_special_token_is_no_stop_string_because_it_is_not_in_the_text(says):
    output = says([A, EXTRA_EOS_TOKEN_ID, B], ignore_eos=True, stop="<|im_start|>", max_tokens=3)
    assert end_of(output) == ("ab", [A, EXTRA_EOS_TOKEN_ID, B], "length", None)


def test_a_special_token_is_a_stop_string_where_special_tokens_are_shown(says):
    params = {"ignore_eos": True, "stop": "<|im_start|>", "skip_special_tokens": False}
    output = says([A, EXTRA_EOS_TOKEN_ID, B], **params)
    assert end_of(output) == ("a", [A, EXTRA_EOS_TOKEN_ID], "stop", "<|im_start|>")


def test_a_character_that_is_cut_off_by_the_length_is_shown_as_incomplete(says):
    script = byte_ids("a😀")
    output = says(script, max_tokens=3)
    assert end_of(output) == ("a\ufffd", script[:3], "length", None)


def test_without_detokenizing_there_is_no_text(says):
    assert end_of(says([A, EOS_TOKEN_ID], detokenize=False)) == ("", [A, EOS_TOKEN_ID], "stop", None)


# -- streaming -----------------------------------------------------------------------------------------------


def assert_nothing_is_taken_back(texts: list[str]) -> None:
    for shorter, longer in itertools.pairwise(texts):
        assert longer.startswith(shorter)


@pytest.mark.parametrize("encode", [ids_of, byte_ids])
@pytest.mark.parametrize("text", ["The lazy dog does not mind.", "你好，世界。从前有一座山", "😀🎉" + FAMILY, "aé漢😀"])
@pytest.mark.parametrize("stop", [[], ["never there"]])
def test_the_joined_stream_is_the_final_text(says, text, encode, stop):
    script = [*encode(text), EOS_TOKEN_ID]
    texts = says.stream(script, stop=stop, max_tokens=60)
    assert_nothing_is_taken_back(texts)
    assert texts[-1] == text == says(script, stop=stop, max_tokens=60).text
    assert len(texts) == len(script)


def test_a_stream_shows_no_half_character(says):
    texts = says.stream([*byte_ids("a😀好"), EOS_TOKEN_ID])
    assert texts == ["a", "a", "a", "a", "a😀", "a😀", "a😀", "a😀好", "a😀好"]


def test_a_stream_withholds_what_may_become_a_stop_string(says):
    assert says.stream(byte_ids("abcxyz"), stop="xyz") == ["", "", "a", "ab", "abc", "abc"]


def test_a_stream_gives_back_what_did_not_become_a_stop_string(says):
    assert says.stream(byte_ids("abxy"), stop="xyz", max_tokens=4)[-1] == "abxy"


def test_a_stream_that_includes_the_stop_string_need_not_wait_for_it(says):
    texts = says.stream(byte_ids("abxyz"), stop="xyz", include_stop_str_in_output=True)
    assert texts == ["a", "ab", "abx", "abxy", "abxyz"]


PIECES = st.sampled_from([*"abx \n", "é", "漢", "😀", FAMILY, " the", " dog", "emoji", "你好"])


def by_brute_force(script: list[int], stop: list[str], included: bool) -> tuple[str, str | None]:
    """Cut the text at the earliest end of any stop string; of several there, the first given."""
    text = TOKENIZER.decode(script)
    for end in range(len(text) + 1):
        for each in stop:
            if text[:end].endswith(each):
                return text[: end if included else end - len(each)], each
    return text, None


@given(
    pieces=st.lists(PIECES, max_size=5),
    stop=st.lists(st.lists(PIECES, min_size=1, max_size=3).map("".join), max_size=3),
    bytewise=st.lists(st.booleans(), min_size=1, max_size=5),
    included=st.booleans(),
)
@example(pieces=["a", "a", "b"], stop=["ab"], bytewise=[True], included=False)
def test_any_script_streams_to_the_text_that_brute_force_cuts(says, pieces, stop, bytewise, included):
    encoders = itertools.cycle(byte_ids if each else ids_of for each in bytewise)
    script = [token_id for piece, encode in zip(pieces, encoders, strict=False) for token_id in encode(piece)]
    params = {"stop": stop, "include_stop_str_in_output": included, "max_tokens": len(script) + 1}
    texts = says.stream([*script, EOS_TOKEN_ID], **params)
    expected, reason = by_brute_force(script, stop, included)
    assert_nothing_is_taken_back(texts)
    assert texts[-1] == expected
    output = says([*script, EOS_TOKEN_ID], **params)
    assert (output.text, output.stop_reason, output.finish_reason) == (expected, reason, "stop")


@given(script=st.lists(st.integers(0, VOCAB_SIZE - 1), min_size=1, max_size=40), stop=st.lists(PIECES, max_size=2))
def test_no_stream_of_whatever_tokens_takes_anything_back(says, script, stop):
    """Also broken bytes, which random weights produce all the time."""
    params = {"stop": stop, "max_tokens": len(script)}
    texts = says.stream(script, **params)
    assert_nothing_is_taken_back(texts)
    assert texts[-1] == says(script, **params).text
