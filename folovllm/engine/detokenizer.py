"""Turn one sequence's tokens into text as they come, and find stop strings in it.

A token is not a piece of text, for two reasons. What it adds depends on what stands before it (some
tokenizers drop a space at the start of what they decode), so it is decoded together with the token
before it. And a character may be spread over several tokens: a token with a part of one adds bytes,
which a UTF-8 decoder keeps until the character is complete.

(vLLM: ``v1/engine/detokenizer.py``. It decodes text only, and waits while that ends in U+FFFD; so it cannot
tell a character to come from bytes that never become one, which random weights write all the time.)
"""

import codecs
import re
from os.path import commonprefix
from typing import Any

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from folovllm.sampling_params import SamplingParams

_MARK = "\ufffd"
"""Stands in a text for bytes that are no character."""
_LONGEST_WINDOW = 32
"""Most tokens that are decoded together; two, as long as every token shows something."""
_BYTE_TOKEN = re.compile("<0x([0-9A-Fa-f]{2})>")
_UNPRINTABLE = [*range(0x21), *range(0x7F, 0xA1), 0xAD]
_BYTE_OF = {chr(byte): byte for byte in range(256)} | {chr(256 + i): byte for i, byte in enumerate(_UNPRINTABLE)}
"""The byte that a letter in a token's name stands for: Latin-1, with letters of GPT-2's for what cannot be printed."""


def _mark_each_byte(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return _MARK * (error.end - error.start), error.end


codecs.register_error("mark_each_byte", _mark_each_byte)


def decode_token(tokenizer: PreTrainedTokenizerBase, token_id: int) -> str:
    """Return one token's text on its own, special or not; nothing for an id that the tokenizer does not know."""
    try:
        return str(tokenizer.decode([token_id], skip_special_tokens=False, clean_up_tokenization_spaces=False))
    except Exception:
        if _knows(tokenizer, token_id):
            raise
        return ""


def _knows(tokenizer: PreTrainedTokenizerBase, token_id: int) -> bool:
    """Say whether the tokenizer has this id: a model's vocabulary is often the larger one.

    Fast tokenizers decode an id that they lack to nothing; those in Python raise whatever their look-up raises.
    """
    return token_id in tokenizer.get_vocab().values()


def token_bytes(tokenizer: PreTrainedTokenizerBase, token_id: int, alone: str) -> bytes | None:
    """Return the bytes that a token stands for, as its name tells them; None for a token that stands for text.

    Byte fallback names a token after its byte, ``<0xE4>``; byte-level BPE writes a letter for each, ``ä½``.
    alone: its text, decoded on its own.
    """
    name: Any = tokenizer.convert_ids_to_tokens(token_id)
    if isinstance(name, bytes):  # tokenizers over tiktoken
        return name
    if byte := _BYTE_TOKEN.fullmatch(name):
        return bytes.fromhex(byte[1])
    in_bytes = bytes(_BYTE_OF.get(letter, 0) for letter in name)
    return in_bytes if _MARK in alone and in_bytes.decode(errors="replace") == alone else None


def _rule_for_broken_bytes(tokenizer: PreTrainedTokenizerBase) -> str:
    """Name the codec's rule that marks part of a character as the tokenizer does: as a whole, or byte by byte."""
    part: Any = tokenizer.convert_tokens_to_ids(["<0xE4>", "<0xBD>"]) if _is_fast(tokenizer) else [None]
    return "mark_each_byte" if None not in part and tokenizer.decode(part) == 2 * _MARK else "replace"


def _is_fast(tokenizer: PreTrainedTokenizerBase) -> bool:
    return isinstance(tokenizer, PreTrainedTokenizerFast)


def find_stop(text: str, stop: list[str], searched: int = 0) -> tuple[int, str] | None:
    """Return where the stop string that is completed first begins, and which it is; None without one.

    Of two that are completed by the same character, the one that comes first in ``stop`` wins.
    searched: characters that are known to hold no complete stop string.
    """
    found: tuple[int, str] | None = None
    for each in stop:
        start = text.find(each, max(0, searched - len(each) + 1))
        if start >= 0 and (found is None or start + len(each) < found[0] + len(found[1])):
            found = (start, each)
    return found


class Detokenizer:
    """Text of one sequence: what ``tokenizer.decode`` shows of prompt and output beyond what it shows of the prompt.

    text: complete characters so far, cut where a stop string ended it. Nothing in it is ever taken back.
    num_tokens: output tokens taken.

    * A character that the prompt begins and the output completes is the output's.
    * Bytes that can no longer become a character are U+FFFD at once, and those at the end when the sequence has
      finished. Byte fallback, decoding all at once, marks the whole characters beside them too; here they stay.
    * An id that the tokenizer does not know adds nothing.
    * With ``skip_special_tokens=False`` and ``spaces_between_special_tokens=False``, the space that a
      tokenizer puts between two special tokens is left out.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompt_token_ids: list[int], params: SamplingParams) -> None:
        self.tokenizer = tokenizer
        self.params = params
        self.text = ""
        self.num_tokens = 0
        self._stopped = False
        longest = max(map(len, params.stop), default=1)
        # A stop string that stays in the text is never taken back, so nothing need wait for it (vLLM's rule).
        self._held_back = 0 if params.include_stop_str_in_output else longest - 1
        if params.detokenize:
            self._added = tokenizer.added_tokens_decoder
            self._utf8 = codecs.getincrementaldecoder("utf-8")(_rule_for_broken_bytes(tokenizer))
            self._window: list[int] = []
            self._shown = self._held = ""
            decoded = [token_id for token_id in prompt_token_ids if not self._is_skipped(token_id)]
            for token_id in decoded[-_LONGEST_WINDOW:]:
                self._take(token_id)
            self._begun = self._pending()

    def update(self, token_ids: list[int], stop_terminated: bool = False) -> str | None:
        """Take new tokens; return the stop string that they complete, if any, and take no token after it.

        stop_terminated: the last of them ended the sequence (EOS or a stop token); its text is left
        out unless ``include_stop_str_in_output``.
        """
        assert not self._stopped, "no token follows a stop string"
        for i, token_id in enumerate(token_ids):
            self.num_tokens += 1
            is_end = stop_terminated and i == len(token_ids) - 1
            if not self.params.detokenize or (is_end and not self.params.include_stop_str_in_output):
                continue
            searched = len(self.text)
            new = self._take(token_id)
            beyond = self._beyond_prompt(new)
            self._begun = "" if beyond else self._begun[len(new) :]
            self.text += beyond
            if self.num_tokens > self.params.min_tokens:
                found = find_stop(self.text, self.params.stop, searched)
                if found is not None:
                    start, stop = found
                    self.text = self.text[: start + len(stop) * self.params.include_stop_str_in_output]
                    self._stopped = True
                    return stop
        return None

    def stable_text(self, finished: bool) -> str:
        """Return what may be shown: all of it once finished, else what no later token can take back."""
        if not finished:
            return self.text[: max(0, len(self.text) - self._held_back)]
        if self._stopped or not self.params.detokenize:
            return self.text
        return self.text + self._beyond_prompt(self._pending())

    # -- one token more --------------------------------------------------------------------------------

    def _is_skipped(self, token_id: int) -> bool:
        return self.params.skip_special_tokens and token_id in self._added and self._added[token_id].special

    def _decode(self, token_ids: list[int]) -> str:
        return str(
            self.tokenizer.decode(
                token_ids,
                skip_special_tokens=self.params.skip_special_tokens,
                clean_up_tokenization_spaces=False,
            )
        )

    def _take(self, token_id: int) -> str:
        """Take one token and return the characters that it completes."""
        if self._is_skipped(token_id):
            return ""
        window = [*self._window, token_id]
        try:
            alone, text = self._decode([token_id]), self._decode(window)
        except Exception:
            if _knows(self.tokenizer, token_id):
                raise
            return ""
        new = text[len(self._shown) :]
        is_broken = _MARK in alone + new and not self._held
        if is_broken and (in_bytes := token_bytes(self.tokenizer, token_id, alone)) is not None:
            self._window, self._shown = [token_id], alone
            # A tokenizer that strips the end of a text shows a space only now, with what follows it.
            space = new.removesuffix(alone) if new.endswith(alone) else ""
            return self._end_bytes(space if space.isspace() else "") + self._utf8.decode(in_bytes)
        self._held = "" if self._is_settled(window, text) else new
        if self._held:
            self._window = window
            return ""
        new = self._without_joining_space(new, token_id)
        if new.strip():
            window, text = [token_id], alone
        elif len(window) >= _LONGEST_WINDOW:
            window = window[-4:]
            text = self._decode(window)
        self._window, self._shown = window, text
        return self._end_bytes(new)

    def _beyond_prompt(self, text: str) -> str:
        """Leave out what the prompt shows already of a character, or a word, that it has begun: mostly its mark."""
        return text[len(commonprefix([self._begun, text])) :]  # noqa: RUF071  # letter by letter is what is meant

    def _pending(self) -> str:
        """Return the text of what is held, as it stands."""
        return self._utf8.getstate()[0].decode(errors=self._utf8.errors) + self._held

    def _end_bytes(self, text: str) -> str:
        """Return text with what stands before it: the mark of a character that it leaves incomplete."""
        return self._utf8.decode(b"", final=True) + text if text else ""

    def _is_settled(self, window: list[int], text: str) -> bool:
        """Say whether the next token leaves the window's text alone, as it does with all fast tokenizers.

        CTRL's "hel@@" and "lo" are "hello": see what the newest token does to the text when it comes once more.
        """
        if _is_fast(self.tokenizer) or len(window) >= _LONGEST_WINDOW:
            return True
        return not text.endswith(_MARK) and self._decode([*window, window[-1]]).startswith(text)

    def _without_joining_space(self, new: str, token_id: int) -> str:
        pair = [*self._window[-1:], token_id]
        if self.params.spaces_between_special_tokens or not all(each in self._added for each in pair):
            return new
        content = self._added[token_id].content
        return content if new == " " + content else new
