"""Turn one sequence's tokens into text as they come, and find stop strings in it.

A token is not a piece of text: a character may be spread over several tokens, and some tokenizers
drop a leading space at the start of what they decode. So the newest tokens are decoded together
with a few before them, and what ends in an incomplete character waits for its rest. (vLLM:
``v1/engine/detokenizer.py``. tokenizers' ``DecodeStream`` does the same for fast tokenizers only, and
raises on invalid bytes, which random weights produce all the time.)
"""

from transformers import PreTrainedTokenizerBase

from folovllm.sampling_params import SamplingParams

_CONTEXT = 6
"""Prompt tokens that the first output tokens are decoded with."""
_INCOMPLETE = "\ufffd"


def decode_token(tokenizer: PreTrainedTokenizerBase, token_id: int) -> str:
    """Return one token's text on its own, special or not."""
    return str(tokenizer.decode([token_id], skip_special_tokens=False, clean_up_tokenization_spaces=False))


class Detokenizer:
    """Text of one sequence.

    text: complete characters so far, cut where a stop string ended it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompt_token_ids: list[int], params: SamplingParams) -> None:
        self.tokenizer = tokenizer
        self.params = params
        self.text = ""
        self.num_tokens = 0
        self._stopped = False
        longest = max(map(len, params.stop), default=1)
        # A stop string that stays in the text is never taken back, so nothing need wait for it.
        self._held_back = 0 if params.include_stop_str_in_output else longest - 1
        self._special = set(tokenizer.added_tokens_decoder) if self._joins_special_tokens() else set()
        # The window: ids from _prefix on are decoded together; up to _read they are shown in full.
        self._ids = prompt_token_ids[-_CONTEXT:]
        self._prefix, self._read = 0, len(self._ids)
        self._shown = self._decode_window(self._read) if params.detokenize else ""
        self._pending = ""

    def _joins_special_tokens(self) -> bool:
        return not self.params.skip_special_tokens and not self.params.spaces_between_special_tokens

    def update(self, token_ids: list[int], stop_terminated: bool = False) -> str | None:
        """Take new tokens; return the stop string that they complete, if any.

        stop_terminated: the last of them ended the sequence (EOS or a stop token); its text is left
        out unless ``include_stop_str_in_output``.
        """
        for i, token_id in enumerate(token_ids):
            self.num_tokens += 1
            if not self.params.detokenize:
                continue
            if stop_terminated and i == len(token_ids) - 1 and not self.params.include_stop_str_in_output:
                break
            searched = len(self.text)
            self._add(token_id)
            if self.num_tokens > self.params.min_tokens:
                stop = self._find_stop(searched)
                if stop is not None:
                    return stop
        return None

    def stable_text(self, finished: bool) -> str:
        """Return what may be shown: all of it once finished, else what no later token can take back."""
        if not finished:
            return self.text[: max(0, len(self.text) - self._held_back)]
        return self.text if self._stopped else self.text + self._pending

    def _decode_window(self, end: int | None = None) -> str:
        return str(
            self.tokenizer.decode(
                self._ids[self._prefix : end],
                skip_special_tokens=self.params.skip_special_tokens,
                clean_up_tokenization_spaces=False,
            )
        )

    def _add(self, token_id: int) -> None:
        """Decode one more token and append the characters that are complete."""
        self._ids.append(token_id)
        window = self._decode_window()
        complete = window.rstrip(_INCOMPLETE)
        if self._special and token_id in self._special and self._ids[-2:-1] and self._ids[-2] in self._special:
            self.text += window[len(self._shown) :].lstrip(" ")
        else:
            self.text += complete[len(self._shown) :]
        self._shown = max(self._shown, complete, key=len)
        self._pending = window[len(self._shown) :]
        if complete == window:
            self._prefix, self._read = self._read, len(self._ids)
            self._shown = self._decode_window()

    def _find_stop(self, searched: int) -> str | None:
        """Cut the text at the stop string that was completed first since ``searched`` characters."""
        found: tuple[int, str] | None = None
        for stop in self.params.stop:
            start = self.text.find(stop, max(0, searched - len(stop) + 1))
            if start >= 0 and (found is None or start + len(stop) < found[0]):
                found = (start + len(stop), stop)
        if found is None:
            return None
        end, stop = found
        self.text = self.text[: end if self.params.include_stop_str_in_output else end - len(stop)]
        self._stopped = True
        return stop
