"""Tiny tokenizers of the three kinds that models use, trained on the spot on the sentences below."""

import json
from functools import cache

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

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
