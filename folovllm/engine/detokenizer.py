"""Turn one sequence's tokens into text as they come, and find stop strings in it.

A token is not a piece of text: a character may be spread over several tokens, and some tokenizers
drop a leading space at the start of what they decode. So the newest tokens are decoded together
with a few before them, and what ends in an incomplete character waits for its rest. (vLLM:
``v1/engine/detokenizer.py``. tokenizers' ``DecodeStream`` does the same for fast tokenizers only, and
raises on invalid bytes, which random weights produce all the time.)
"""

from transformers import PreTrainedTokenizerBase

from folovllm.sampling_params import SamplingParams

_INCOMPLETE = "\ufffd"
_CONTEXT = 6
"""Tokens before the newest ones that are decoded with them, where the window starts anew."""
_PATIENCE = 16
"""Tokens that may wait for a character to be completed; it takes four bytes at most, so these never will."""


def decode_token(tokenizer: PreTrainedTokenizerBase, token_id: int) -> str:
    """Return one token's text on its own, special or not."""
    return str(tokenizer.decode([token_id], skip_special_tokens=False, clean_up_tokenization_spaces=False))


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
    """Text of one sequence.

    text: complete characters so far, cut where a stop string ended it.
    num_tokens: output tokens taken.

    With ``skip_special_tokens=False`` and ``spaces_between_special_tokens=False``, the space that a
    tokenizer puts between two special tokens is left out.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompt_token_ids: list[int], params: SamplingParams) -> None:
        self.tokenizer = tokenizer
        self.params = params
        self.text = ""
        self.num_tokens = 0
        self._stopped = False
        self._pending = ""
        longest = max(map(len, params.stop), default=1)
        # A stop string that stays in the text is never taken back, so nothing need wait for it (vLLM's rule).
        self._held_back = 0 if params.include_stop_str_in_output else longest - 1
        if params.detokenize:
            self._added = tokenizer.added_tokens_decoder
            self._restart_window([token_id for token_id in prompt_token_ids if not self._is_skipped(token_id)])

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
            self._add(token_id)
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
        return self.text if self._stopped else self.text + self._pending

    # -- the window: the tokens that are decoded together -----------------------------------------------

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

    def _restart_window(self, token_ids: list[int]) -> None:
        """Keep only the end of ``token_ids``, all of it shown, as context; begin it between two characters."""
        start = max(0, len(token_ids) - _CONTEXT)
        self._shown = self._decode(token_ids[start:])
        while self._shown.startswith(_INCOMPLETE) and start > 0 and len(token_ids) - start < 2 * _CONTEXT:
            start -= 1
            self._shown = self._decode(token_ids[start:])
        self._window = token_ids[start:]
        self._num_context = len(self._window)

    def _add(self, token_id: int) -> None:
        """Decode one more token and append the characters that are complete."""
        if self._is_skipped(token_id):
            return
        self._window.append(token_id)
        window = self._decode(self._window)
        gives_up = len(self._window) - self._num_context > _PATIENCE
        complete = window if gives_up else window.rstrip(_INCOMPLETE)
        # The context may have ended inside a character that is complete only now.
        shown = self._shown if window.startswith(self._shown) else self._shown.rstrip(_INCOMPLETE)
        new = complete[len(shown) :]
        self.text += self._without_joining_space(new)
        self._pending = window[max(len(shown), len(complete)) :]
        if gives_up or (new and not self._pending):
            self._restart_window(self._window)
        elif new:
            self._shown = complete

    def _without_joining_space(self, new: str) -> str:
        if self.params.spaces_between_special_tokens or not all(i in self._added for i in self._window[-2:]):
            return new
        content = self._added[self._window[-1]].content
        return content if new == " " + content else new
