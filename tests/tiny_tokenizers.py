"""Tiny tokenizers of the kinds that models use, trained on the spot on the sentences below."""

import json
from functools import cache

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizer, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

SPECIAL_TOKENS = ["<pad>", "<|im_start|>", "<|im_end|>"]
SENTENCES = [
    "The quick brown fox jumps over the lazy dog, and the dog does not mind.",
    "Once upon a time there was a small engine that learned to read.",
    "def main():\n    print('hello world')\n    return 0\n",
    "你好，世界。从前有一座山，山里有一座庙。",
    "The 😀 emoji, the 🎉 emoji and the 👩‍👩‍👧 family.",
]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _finished(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<|im_start|>", eos_token="<|im_end|>"
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


@cache
def byte_level_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with 320 tokens, as GPT-2, Llama 3 and SmolLM have it: any bytes can be written."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return _finished(tokenizer)


@cache
def metaspace_tokenizer() -> PreTrainedTokenizerFast:
    """BPE over characters with "▁" for a space, and single bytes for what it does not know, as Llama 2 has it.

    Like that one it drops the space at the start of what it decodes.
    """
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=[*SPECIAL_TOKENS, *byte_tokens], show_progress=False)
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Metaspace()
    learner.train_from_iterator(SENTENCES[:3], trainer)
    learned = json.loads(learner.to_str())["model"]
    merges = [tuple(merge) for merge in learned["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab=learned["vocab"], merges=merges, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(SPECIAL_TOKENS)
    return _finished(tokenizer)


@cache
def wordpiece_tokenizer() -> PreTrainedTokenizerFast:
    """WordPiece, as BERT has it: words stand apart, and "##" continues one."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="<pad>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=SPECIAL_TOKENS, show_progress=False)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return _finished(tokenizer)


@cache
def straddling_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE that also has tokens with the end of one character and the beginning of the next."""
    names = bytes_to_unicode()
    learned = json.loads(byte_level_tokenizer().backend_tokenizer.to_str())
    chinese = SENTENCES[3].encode()
    for start in range(1, len(chinese) - 2, 3):
        name = "".join(names[byte] for byte in chinese[start : start + 3])
        learned["model"]["vocab"].setdefault(name, len(learned["model"]["vocab"]))
    return _finished(Tokenizer.from_str(json.dumps(learned)))


@cache
def gemma_tokenizer() -> PreTrainedTokenizerFast:
    """Byte fallback that keeps the space at the start, as Gemma has it."""
    tokenizer = Tokenizer.from_str(metaspace_tokenizer().backend_tokenizer.to_str())
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return _finished(tokenizer)


@cache
def word_end_tokenizer() -> PreTrainedTokenizerFast:
    """BPE that marks the end of a word, as GPT-1 has it: the space comes with the next token."""
    tokenizer = Tokenizer(models.BPE(unk_token="<pad>", end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.BPEDecoder("</w>")
    trainer = trainers.BpeTrainer(
        vocab_size=200, special_tokens=SPECIAL_TOKENS, end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return _finished(tokenizer)


class PythonTokenizer(PreTrainedTokenizer):
    """A slow tokenizer over names in the order of their ids. It raises a KeyError for an id that it does not know."""

    def __init__(self, names: list[str]) -> None:
        self._names = dict(enumerate(names))
        self._ids = {name: i for i, name in self._names.items()}
        super().__init__(pad_token="<pad>", bos_token="<|im_start|>", eos_token="<|im_end|>")

    @property
    def vocab_size(self) -> int:
        return len(self._ids)

    def get_vocab(self) -> dict[str, int]:
        return dict(self._ids)

    def _convert_token_to_id(self, token: str) -> int | None:
        return self._ids.get(token)

    def _convert_id_to_token(self, index: int) -> str:
        return self._names[index]


class PythonMetaspaceTokenizer(PythonTokenizer):
    """The vocabulary of :func:`metaspace_tokenizer`. Both ends of a text are stripped, broken characters marked once.

    byte_name: what the byte tokens are called.
    """

    def __init__(self, byte_name: str) -> None:
        fast = metaspace_tokenizer()
        new_names = {f"<0x{byte:02X}>": byte_name.format(byte) for byte in range(256)}
        self._byte_of = {name: byte for byte, name in enumerate(new_names.values())}
        names = fast.convert_ids_to_tokens(list(range(len(fast))))
        super().__init__([new_names.get(name, name) for name in names])

    def _tokenize(self, text: str, **kwargs) -> list[str]:
        return [self._names[i] for i in metaspace_tokenizer()(text, add_special_tokens=False)["input_ids"]]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        pieces = [
            bytes([self._byte_of[each]]) if each in self._byte_of else each.replace("▁", " ").encode()
            for each in tokens
        ]
        return b"".join(pieces).decode(errors="replace").strip()


@cache
def python_tokenizer() -> PythonTokenizer:
    """A slow tokenizer whose byte tokens are named after their bytes."""
    return PythonMetaspaceTokenizer("<0x{:02X}>")


@cache
def riddle_tokenizer() -> PythonTokenizer:
    """A slow tokenizer whose byte tokens have names that tell nothing."""
    return PythonMetaspaceTokenizer("byte number {}")


class ContinuedTokenizer(PythonTokenizer):
    """A slow tokenizer that marks a word that goes on, as CTRL has it: "hel@@" and "lo" are "hello"."""

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return " ".join(tokens).replace("@@ ", "").strip()


@cache
def continued_tokenizer() -> ContinuedTokenizer:
    """CTRL's kind, with eight tokens."""
    return ContinuedTokenizer([*SPECIAL_TOKENS, "hel@@", "lo", "wor@@", "ld", "o@@", "a", "世@@", "界"])


class TiktokenTokenizer(PythonTokenizer):
    """A slow tokenizer whose tokens are named by their bytes themselves, as Qwen's first one had it."""

    def convert_tokens_to_string(self, tokens: list[str | bytes]) -> str:
        pieces = [each if isinstance(each, bytes) else each.encode() for each in tokens]
        return b"".join(pieces).decode(errors="replace")


@cache
def tiktoken_tokenizer() -> TiktokenTokenizer:
    """All bytes, and a few tokens of several."""
    several = [b"the ", " 你".encode(), "好".encode()[1:] + "世".encode()[:1]]
    return TiktokenTokenizer([*SPECIAL_TOKENS, *(bytes([byte]) for byte in range(256)), *several])
