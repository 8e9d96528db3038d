"""Text that comes in pieces equals text decoded at once, and nothing shown is ever taken back."""

import random
from functools import cache, partial
from itertools import pairwise
from os.path import commonprefix

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, ByT5Tokenizer, PerceiverTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from folovllm import SamplingParams
from folovllm.engine.detokenizer import Detokenizer, decode_token
from tests.tiny_tokenizers import (
    SENTENCES,
    byte_level_tokenizer,
    continued_tokenizer,
    gemma_tokenizer,
    metaspace_tokenizer,
    python_tokenizer,
    riddle_tokenizer,
    straddling_tokenizer,
    tiktoken_tokenizer,
    word_end_tokenizer,
    wordpiece_tokenizer,
)

TOKENIZERS = {
    "byte-level": byte_level_tokenizer,
    "straddling": straddling_tokenizer,
    "metaspace": metaspace_tokenizer,
    "gemma": gemma_tokenizer,
    "wordpiece": wordpiece_tokenizer,
    "word-end": word_end_tokenizer,
    "python": python_tokenizer,
    "riddle": riddle_tokenizer,
    "continued": continued_tokenizer,
    "tiktoken": tiktoken_tokenizer,
    "perceiver": cache(PerceiverTokenizer),  # bytes, one a token; a broken character is marked
    "byt5": cache(partial(ByT5Tokenizer, extra_ids=0)),  # the same, but left out
}
FAST = ("byte-level", "straddling", "metaspace", "gemma", "wordpiece", "word-end")
BYTE_FALLBACK = ("metaspace", "gemma")
TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "你好，世界！从前有一座山。",
    "A family 👩‍👩‍👧, a flag 🇨🇳, and  two  spaces",
    "def main():\n    return 'x'  # done\n",
    "a real \ufffd mark\ufffd\ufffd, 你\ufffd好",
    " lead  and        trail  ",
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


def mended(tokenizer, ids: list[int]) -> list[int]:
    """Write U+FFFD, as bytes, for each broken byte: byte fallback, decoding at once, spoils all bytes beside it."""
    byte_of = {tokenizer.convert_tokens_to_ids(f"<0x{byte:02X}>"): byte for byte in range(256)}
    id_of = {byte: i for i, byte in byte_of.items()}
    result, run = [], b""
    for i in [*ids, None]:
        if i in byte_of:
            run += bytes([byte_of[i]])
            continue
        letters = run.decode(errors="surrogateescape")
        whole = "".join("\ufffd" if "\udc80" <= letter <= "\udcff" else letter for letter in letters)
        result += [id_of[byte] for byte in whole.encode()] + [i]
        run = b""
    return result[:-1]


def beyond_prompt(kind: str, prompt: list[int], output: list[int], skip_special_tokens: bool = True) -> str:
    """Decode prompt and output at once, and return what that shows beyond what the prompt alone shows."""
    tokenizer = TOKENIZERS[kind]()
    before, whole = (
        tokenizer.decode(mended(tokenizer, ids) if kind in BYTE_FALLBACK else ids, clean_up_tokenization_spaces=False)
        for ids in (
            [i for i in each if not (skip_special_tokens and i in tokenizer.all_special_ids)]
            for each in (prompt, prompt + output)
        )
    )
    return whole[len(commonprefix([before, whole])) :]  # noqa: RUF071


def text_of(kind: str, prompt: list[int], output: list[int], **params) -> str:
    """Decode token by token, and see that nothing is taken back."""
    d = detokenizer(TOKENIZERS[kind](), prompt, **params)
    shown = shown_step_by_step(d, output)
    assert all(after.startswith(before) for before, after in pairwise(shown))
    return shown[-1]


@pytest.mark.parametrize("kind", [kind for kind in TOKENIZERS if kind not in ("continued", "tiktoken")])
@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text[:8])
def test_wherever_the_prompt_ends_text_in_pieces_equals_the_text_decoded_at_once(kind, text):
    ids = TOKENIZERS[kind]()(text, add_special_tokens=False)["input_ids"]
    for split in range(len(ids) + 1):
        for end in {len(ids), split + (len(ids) - split) // 2}:
            prompt, output = ids[:split], ids[split:end]
            assert text_of(kind, prompt, output) == beyond_prompt(kind, prompt, output)


@given(
    kind=st.sampled_from(sorted(TOKENIZERS)),
    seeds=st.lists(st.one_of(st.integers(0, 10**6), st.integers(0, 250)), max_size=40),
    prompt_length=st.integers(0, 8),
    skip=st.booleans(),
)
@settings(max_examples=500)
def test_random_tokens_in_pieces_equal_what_one_decoding_gives(kind, seeds, prompt_length, skip):
    known = sorted(TOKENIZERS[kind]().get_vocab().values())
    ids = [known[seed % len(known)] for seed in seeds]
    prompt, output = ids[:prompt_length], ids[prompt_length:]
    text = text_of(kind, prompt, output, skip_special_tokens=skip)
    assert text == beyond_prompt(kind, prompt, output, skip)


@pytest.mark.parametrize("kind", ["metaspace", "gemma", "python", "riddle"])
def test_a_chinese_text_that_max_tokens_cut_inside_a_character_goes_on(kind):
    tokenizer = TOKENIZERS[kind]()
    prompt, rest = "从前有一座山", "，山里有一座庙，庙里有。"
    ids = [tokenizer.convert_tokens_to_ids(byte_name(kind, byte)) for byte in (prompt + rest).encode()]
    for cut in range(1, 4):
        begun = len(prompt.encode()) + cut
        assert text_of(kind, ids[:begun], ids[begun:]) == rest[cut == 3 :]


def byte_name(kind: str, byte: int) -> str:
    return f"byte number {byte}" if kind == "riddle" else f"<0x{byte:02X}>"


def test_tokens_that_all_end_inside_the_next_character_show_each_one_once_complete():
    tokenizer = straddling_tokenizer()
    names, text = bytes_to_unicode(), SENTENCES[3]
    letters = "".join(names[byte] for byte in text.encode())
    pieces = [letters[:1], *(letters[i : i + 3] for i in range(1, len(letters) - 2, 3)), *letters[-2:]]
    ids = tokenizer.convert_tokens_to_ids(pieces)
    assert len(ids) == len(text) + 2 > 18
    whole = [text[:i] for i in range(len(text))]
    assert shown_step_by_step(detokenizer(tokenizer), ids) == [*whole, text[:-1], text, text]


@pytest.mark.parametrize(("kind", "cost"), [(kind, 10 if kind in FAST else 100) for kind in TOKENIZERS])
def test_a_token_costs_the_same_however_long_the_text_and_however_broken_its_bytes(kind, cost, monkeypatch):
    decoded = []
    decode = Detokenizer._decode
    monkeypatch.setattr(Detokenizer, "_decode", lambda d, ids: decoded.append(len(ids)) or decode(d, ids))
    known = sorted(TOKENIZERS[kind]().get_vocab().values())
    broken = [i for i in known if decode_token(TOKENIZERS[kind](), i) in ("\ufffd", "")]
    d, rng = detokenizer(TOKENIZERS[kind]()), random.Random(0)
    for pool in (broken, known):
        for _ in range(500 if pool else 0):
            decoded.clear()
            d.update([rng.choice(pool)])
            assert sum(decoded) <= cost


@pytest.mark.parametrize("kind", ["byte-level", "metaspace", "gemma", "python", "perceiver", "tiktoken"])
def test_a_mark_that_the_model_writes_is_shown_with_its_last_byte(kind):
    tokenizer = TOKENIZERS[kind]()
    marks = [id_of_byte(kind, byte) for byte in "\ufffd".encode()] * 2
    assert shown_step_by_step(detokenizer(tokenizer), marks)[2:5] == ["\ufffd"] * 3


def id_of_byte(kind: str, byte: int) -> int:
    names = {"byte-level": bytes_to_unicode()[byte], "perceiver": chr(byte), "tiktoken": bytes([byte])}
    return TOKENIZERS[kind]().get_vocab()[names.get(kind, byte_name(kind, byte))]


@pytest.mark.parametrize("kind", ["byte-level", "metaspace", "gemma", "python", "perceiver", "tiktoken"])
def test_bytes_are_marked_as_soon_as_they_can_be_no_character(kind):
    lead, letter = id_of_byte(kind, 0xE4), id_of_byte(kind, ord("x"))
    assert shown_step_by_step(detokenizer(TOKENIZERS[kind]()), [lead, lead, letter]) == [
        "",
        "\ufffd",
        "\ufffd\ufffdx",
        "\ufffd\ufffdx",
    ]


def test_the_mark_of_an_incomplete_prompt_is_not_shown_again():
    a, b = bytes_as_tokens("€")[:1], bytes_as_tokens("b")
    for output, text in (([], ""), (b, "b"), (a, "\ufffd")):
        d = detokenizer(prompt=a)
        d.update(output)
        assert d.stable_text(finished=True) == text


def test_a_word_that_a_slow_tokenizer_continues_is_shown_once_its_end_is_known():
    vocab = continued_tokenizer().get_vocab()
    ids = [vocab[name] for name in ("hel@@", "lo", "wor@@", "ld", "a", "hel@@")]
    shown = ["", "hello", "hello", "hello world", "hello world a", "hello world a", "hello world a hel@@"]
    assert shown_step_by_step(detokenizer(continued_tokenizer()), ids) == shown
    assert text_of("continued", ids[:1], ids[1:2]) == "lo"


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_an_id_that_the_tokenizer_does_not_know_adds_nothing(kind):
    tokenizer = TOKENIZERS[kind]()
    known = sorted(tokenizer.get_vocab().values())
    unknown = [known[-1] + 1, known[-1] + 10**6]
    ids = [known[10 % len(known)], known[-1]]
    assert [decode_token(tokenizer, i) for i in unknown] == ["", ""]
    for skip in (True, False):
        mixed = [i for each in ids for i in (*unknown, each)] + unknown
        assert text_of(kind, unknown, mixed, skip_special_tokens=skip) == text_of(kind, [], ids)


def test_bytes_on_both_sides_of_an_unknown_id_make_a_character():
    first, *rest = bytes_as_tokens("€")
    d = detokenizer()
    d.update([first, 10**6, *rest])
    assert d.text == "€"


def test_looking_for_byte_tokens_asks_no_slow_tokenizer_for_names_that_it_may_not_know(monkeypatch):
    monkeypatch.setattr(python_tokenizer(), "_convert_token_to_id", lambda token: {}[token])
    assert detokenizer(python_tokenizer()).update([300]) is None


def test_a_tokenizer_that_fails_on_its_own_token_is_not_silenced(monkeypatch):
    tokenizer = python_tokenizer()
    d = detokenizer(tokenizer)
    monkeypatch.setattr(tokenizer, "convert_tokens_to_string", lambda tokens: {}["nothing"])
    with pytest.raises(KeyError, match="nothing"):
        d.update([300])
    with pytest.raises(KeyError, match="nothing"):
        decode_token(tokenizer, 300)


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


def test_a_stop_string_may_begin_with_a_character_that_the_prompt_began():
    tokens = bytes_as_tokens("x你好")
    for include, text in ((False, ""), (True, "你好")):
        d = detokenizer(prompt=tokens[:2], stop=["你好"], include_stop_str_in_output=include)
        assert d.update(tokens[2:]) == "你好"
        assert d.stable_text(finished=True) == text


def test_the_mark_can_be_a_stop_string():
    d = detokenizer(stop=["\ufffd"])
    assert d.update(bytes_as_tokens("a€")[:2]) is None
    assert d.update(bytes_as_tokens("b")) == "\ufffd"
    assert d.stable_text(finished=True) == "a"


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
    cuts=st.lists(st.integers(0, 30), max_size=6),
)
def test_text_does_not_depend_on_how_the_tokens_are_grouped(kind, seeds, cuts):
    known = sorted(TOKENIZERS[kind]().get_vocab().values())
    prompt, *ids = [known[seed % len(known)] for seed in [0, *seeds]]
    grouped = detokenizer(TOKENIZERS[kind](), [prompt])
    for start, end in pairwise([0, *sorted(cuts), 30]):
        grouped.update(ids[start:end])
    assert grouped.stable_text(finished=True) == text_of(kind, [prompt], ids)


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
