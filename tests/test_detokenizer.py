"""Text that comes in pieces equals text decoded at once, and nothing shown is ever taken back."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from folovllm import SamplingParams
from folovllm.engine.detokenizer import Detokenizer, decode_token
from tests.tiny_tokenizers import byte_level_tokenizer, metaspace_tokenizer, wordpiece_tokenizer

TOKENIZERS = {
    "byte-level": byte_level_tokenizer,
    "metaspace": metaspace_tokenizer,
    "wordpiece": wordpiece_tokenizer,
}
TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "你好，世界！从前有一座山。",
    "A family 👩‍👩‍👧, a flag 🇨🇳, and  two  spaces",
    "def main():\n    return 'x'  # done\n",
]
EOS = 2


def detokenizer(tokenizer=None, prompt=(), **params) -> Detokenizer:
    return Detokenizer(tokenizer or byte_level_tokenizer(), list(prompt), SamplingParams(max_tokens=None, **params))


def bytes_as_tokens(text: str) -> list[int]:
    """Write a text with one token a byte."""
    vocab, names = byte_level_tokenizer().get_vocab(), bytes_to_unicode()
    return [vocab[names[byte]] for byte in text.encode()]


def shown_step_by_step(d: Detokenizer, token_ids: list[int]) -> list[str]:
    shown = []
    for token_id in token_ids:
        stopped = d.update([token_id])
        shown.append(d.stable_text(finished=stopped is not None))
        if stopped is not None:
            return shown
    return [*shown, d.stable_text(finished=True)]


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text[:8])
def test_text_in_pieces_equals_the_text_decoded_at_once(kind, text):
    tokenizer = TOKENIZERS[kind]()
    token_ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    for split in range(len(token_ids)):
        prompt, output = token_ids[:split], token_ids[split:]
        d = detokenizer(tokenizer, prompt)
        d.update(output)
        whole = tokenizer.decode(token_ids, skip_special_tokens=True)
        before = tokenizer.decode(prompt, skip_special_tokens=True)
        if before.endswith("\ufffd") and kind == "metaspace":
            continue  # byte fallback shows nothing of a run of bytes that ends inside a character
        before = before.rstrip("\ufffd")
        assert before + d.stable_text(finished=True) == whole


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_random_tokens_in_pieces_equal_what_one_decoding_gives(kind):
    tokenizer = TOKENIZERS[kind]()
    rng = random.Random(0)
    compared = 0
    for _ in range(1500):
        output = [rng.randrange(3, len(tokenizer)) for _ in range(rng.randint(1, 12))]
        d = detokenizer(tokenizer)
        d.update(output)
        whole = tokenizer.decode(output, skip_special_tokens=True)
        if "\ufffd" not in whole:  # how many marks a broken character gets depends on what is decoded with it
            assert d.stable_text(finished=True) == whole
            compared += 1
    assert compared > 20


def test_invalid_bytes_do_not_grow_the_window_without_end():
    d = detokenizer()
    lone = bytes_as_tokens("é")[1]
    for _ in range(500):
        d.update([lone])
        assert len(d._window) < 40
    assert set(d.text) == {"\ufffd"}
    d.update(bytes_as_tokens("ok"))
    assert d.text.endswith("ok")


def test_skipped_special_tokens_do_not_grow_the_window_and_keep_the_next_space():
    tokenizer = metaspace_tokenizer()
    first, second = (tokenizer(word, add_special_tokens=False)["input_ids"] for word in ("the", "dog"))
    d = detokenizer(tokenizer)
    d.update(first)
    for _ in range(100):
        d.update([EOS])
    d.update(second)
    assert d.text == "the dog"
    assert len(d._window) < 20


def test_a_prompt_of_special_tokens_only_leaves_the_first_text_alone():
    tokenizer = metaspace_tokenizer()
    prompt = tokenizer("the", add_special_tokens=False)["input_ids"] + [EOS] * 8
    d = detokenizer(tokenizer, prompt)
    d.update(tokenizer("dog", add_special_tokens=False)["input_ids"])
    assert d.text == " dog"


def test_a_character_begun_in_the_prompt_is_completed_by_the_output():
    ids = bytes_as_tokens("x€y")
    d = detokenizer(prompt=ids[:2])
    d.update(ids[2:])
    assert d.text == "€y"


def test_an_emoji_over_four_tokens_appears_at_once_and_whole():
    d = detokenizer()
    shown = shown_step_by_step(d, bytes_as_tokens("a😀b"))
    assert shown == ["a", "a", "a", "a", "a😀", "a😀b", "a😀b"]


def test_an_incomplete_end_is_shown_when_the_sequence_has_finished():
    d = detokenizer()
    d.update(bytes_as_tokens("a😀")[:-1])
    assert d.stable_text(finished=False) == "a"
    assert d.stable_text(finished=True) == "a\ufffd"


# -- stop strings --------------------------------------------------------------------------------------

STOPS = [
    # text, stop strings, what stops, text left, text left if included
    ("one. two", ["."], ".", "one", "one."),
    ("the end is near", ["end is"], "end is", "the ", "the end is"),
    ("abcdef", ["cde", "bc"], "bc", "a", "abc"),  # bc is complete first, though cde is listed first
    ("abcdef", ["bcd", "cd"], "bcd", "a", "abcd"),  # complete together: the order given decides
    ("abcdef", ["cd", "bcd"], "cd", "ab", "abcd"),
    ("say 😀 now", ["😀"], "😀", "say ", "say 😀"),
    ("从前有一座山，山里", ["，"], "，", "从前有一座山", "从前有一座山，"),
    ("aaab", ["aab"], "aab", "a", "aaab"),
]


@pytest.mark.parametrize("whole_words", [False, True], ids=["a-token-a-byte", "as-tokenized"])
@pytest.mark.parametrize(("text", "stop", "matched", "cut", "included"), STOPS)
def test_stop_strings(text, stop, matched, cut, included, whole_words):
    tokens = byte_level_tokenizer()(text)["input_ids"] if whole_words else bytes_as_tokens(text)
    for include, left in ((False, cut), (True, included)):
        d = detokenizer(stop=stop, include_stop_str_in_output=include)
        assert d.update(tokens) == matched
        assert d.text == d.stable_text(finished=True) == left


def test_a_token_with_two_stop_strings_ends_at_the_first_complete_one():
    d = detokenizer(stop=["dog", "the"])
    [token] = [i for i in range(259, 320) if decode_token(byte_level_tokenizer(), i).strip() == "the"][:1]
    assert d.update([token]) == "the"


def test_several_tokens_at_once_equal_one_at_a_time():
    tokens = bytes_as_tokens("one 😀 two STOP three")
    together, apart = detokenizer(stop=["STOP"]), detokenizer(stop=["STOP"])
    assert together.update(tokens) == "STOP"
    taken = next(i for i, token in enumerate(tokens) if apart.update([token]) is not None) + 1
    assert (together.text, together.num_tokens) == (apart.text, taken)


def test_no_token_is_taken_after_a_stop_string():
    d = detokenizer(stop=["x"])
    d.update(bytes_as_tokens("x"))
    with pytest.raises(AssertionError, match="no token follows"):
        d.update([5])


def test_stop_strings_count_only_once_more_than_min_tokens_are_out():
    d = detokenizer(stop=["b"], min_tokens=3)
    assert d.update(bytes_as_tokens("abab")) == "b"
    assert d.text == "aba"


def test_stop_strings_in_the_prompt_do_not_count():
    prompt = bytes_as_tokens("STO")
    d = detokenizer(prompt=prompt, stop=["STOP"])
    assert d.update(bytes_as_tokens("P on")) is None
    assert d.stable_text(finished=True) == "P on"


def test_the_terminating_token_is_left_out_of_the_text_unless_included():
    tokens = bytes_as_tokens("ab")
    for include, text in ((False, "a"), (True, "ab")):
        d = detokenizer(include_stop_str_in_output=include)
        assert d.update(tokens, stop_terminated=True) is None
        assert d.text == text
        assert d.num_tokens == 2


def test_detokenize_false_leaves_the_text_empty():
    d = detokenizer(detokenize=False)
    d.update(bytes_as_tokens("abc"))
    assert (d.stable_text(finished=True), d.num_tokens) == ("", 3)


def test_spaces_between_special_tokens_can_be_left_out():
    tokens = [EOS, EOS, *wordpiece_tokenizer()("dog", add_special_tokens=False)["input_ids"], EOS]
    shown = {}
    for spaces in (True, False):
        d = detokenizer(wordpiece_tokenizer(), skip_special_tokens=False, spaces_between_special_tokens=spaces)
        d.update(tokens)
        shown[spaces] = d.text
    assert shown[True] == "<|im_end|> <|im_end|> dog <|im_end|>"
    assert shown[False] == "<|im_end|><|im_end|> dog <|im_end|>"


@given(
    kind=st.sampled_from(sorted(TOKENIZERS)),
    seeds=st.lists(st.integers(0, 10**6), max_size=30),
    prompt_length=st.integers(0, 8),
    stop=st.lists(st.text(alphabet="abe 世�t", min_size=1, max_size=4), max_size=3),
    include=st.booleans(),
)
def test_what_is_shown_is_never_taken_back(kind, seeds, prompt_length, stop, include):
    tokenizer = TOKENIZERS[kind]()
    ids = [3 + seed % (len(tokenizer) - 3) for seed in seeds]
    d = detokenizer(tokenizer, ids[:prompt_length], stop=stop, include_stop_str_in_output=include)
    shown = shown_step_by_step(d, ids[prompt_length:])
    for before, after in zip(shown, [*shown[1:], d.stable_text(finished=True)], strict=True):
        assert after.startswith(before)


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text[:8])
def test_the_bundled_tokenizer_shows_what_it_decodes(bundled_model_path, text):
    tokenizer = AutoTokenizer.from_pretrained(bundled_model_path)
    d = detokenizer(tokenizer)
    shown = shown_step_by_step(d, tokenizer(text)["input_ids"])
    assert shown[-1] == text
    assert all(text.startswith(piece) for piece in shown)
