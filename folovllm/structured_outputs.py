"""Which tokens keep a text within a form: a mask over the vocabulary, for any output so far.

The library llguidance knows which bytes may follow and which tokens spell them. Nothing is remembered between
steps: a mask is a function of the output's tokens, so guesses, preemption and interrupts need no care. To read
1,000 tokens again takes it a millisecond. (vLLM: ``v1/structured_output/``, where llguidance is one of the backends.)
"""

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from folovllm.structured_outputs_params import StructuredOutputsParams

if TYPE_CHECKING:
    from llguidance import LLMatcher

_PROBE = 'A text , with "marks" . It \'s 你好 😀\n  and a second line.'
_LETTERS_AND_SPACES = {
    "w": r"[\p{L}\p{N}_]",
    "W": r"[^\p{L}\p{N}_]",
    "s": r"[\s\x1c-\x1f]",
    "S": r"[^\s\x1c-\x1f]",
}
"""Classes that Python's ``re`` draws in another way than the library, in the library's words."""


class GrammarCompiler:
    """Makes the grammars of one engine's requests; holds what the library must know of the tokenizer.

    A ValueError if the library is missing, or if the tokenizer's text is not its tokens' bytes one after the other.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        try:
            import llguidance.hf
        except ImportError as error:
            raise ValueError(
                "structured_outputs needs the package llguidance: pip install 'folovllm[structured]'"
            ) from error
        try:
            self._tokenizer = llguidance.hf.from_tokenizer(tokenizer)  # type: ignore[arg-type]
            token_ids = tokenizer(_PROBE, add_special_tokens=False)["input_ids"]
            spelled = self._tokenizer.decode_bytes(token_ids).decode()
            decoded = str(tokenizer.decode(token_ids, clean_up_tokenization_spaces=False))
            if spelled.strip() != decoded.strip():
                raise ValueError(f"its tokens spell {spelled!r} and it decodes them as {decoded!r}")
        except ValueError as error:
            raise ValueError(f"structured_outputs does not work with this model's tokenizer: {error}") from error
        added = tokenizer.added_tokens_decoder
        special = {token_id for token_id, token in added.items() if token.special}
        self._special_token_ids = frozenset(special.union(tokenizer.all_special_ids))

    def compile(
        self, params: StructuredOutputsParams, eos_token_ids: Iterable[int], ends: Iterable[int], min_tokens: int
    ) -> "Grammar":
        """Return a request's grammar; a ValueError for a form that the library does not take, or that allows no text.

        eos_token_ids: tokens that are no text.  ends: those that may end the output.
        min_tokens: so many tokens come before the first of ``ends``.
        """
        from llguidance import LLMatcher

        [(name, value)] = params.to_dict().items()
        if name == "json":
            source = LLMatcher.grammar_from_json_schema(params.schema())
        else:
            regex = _in_rust(value) if name == "regex" else "|".join(map(re.escape, value))
            source = LLMatcher.grammar_from_regex(regex)
        matcher = LLMatcher(self._tokenizer, source, log_level=0)
        not_text = self._special_token_ids.union(eos_token_ids)
        grammar = Grammar(matcher, self._tokenizer.vocab_size, not_text, ends, min_tokens)
        try:
            has_text = grammar.has_text()
        except ValueError as error:
            raise ValueError(f"structured_outputs.{name} is not supported: {error}; got {value!r}") from error
        if not has_text:
            raise ValueError(f"structured_outputs.{name} must allow a text that the tokens can write, got {value!r}")
        return grammar


class Grammar:
    """The form of one request's text.

    matcher: reads tokens and says what may follow.  vocab_size: the tokenizer's.  The rest as in
    :meth:`GrammarCompiler.compile`; ``not_text`` are the tokens that no text may hold.
    """

    def __init__(
        self, matcher: "LLMatcher", vocab_size: int, not_text: frozenset[int], ends: Iterable[int], min_tokens: int
    ) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._not_text = not_text
        self._ends = list(ends)
        self._min_tokens = min_tokens

    def has_text(self) -> bool:
        """Say whether any text can begin."""
        return self._read([]) and bool(self._text_tokens().any())

    def is_over(self, output_token_ids: Sequence[int]) -> bool:
        """Say whether the text is complete, nothing may follow, and there is no token to say so: the output ends."""
        return not self._can_end(output_token_ids) and self._read(output_token_ids) and self._matcher.is_stopped()

    def next_tokens(self, output_token_ids: Sequence[int], vocab_size: int) -> Tensor | None:
        """Return which tokens of the model may follow, bool [vocab_size].

        None for a position that no output reaches: after a guess that the grammar refuses, and after the end.
        """
        if self.is_over(output_token_ids) or not self._read(output_token_ids):
            return None
        text = self._text_tokens()[:vocab_size]
        mask = torch.zeros(vocab_size, dtype=torch.bool)
        mask[: len(text)] = torch.from_numpy(text)
        if self._matcher.is_accepting():
            mask[[token_id for token_id in self._ends if token_id < vocab_size]] = True
        return mask

    def _can_end(self, output_token_ids: Sequence[int]) -> bool:
        return bool(self._ends) and len(output_token_ids) >= self._min_tokens

    def _read(self, output_token_ids: Sequence[int]) -> bool:
        """Put the matcher after these tokens; False if they do not begin a text of this form."""
        self._matcher.reset()
        if not self._not_text.isdisjoint(output_token_ids):
            return False
        num_read = self._matcher.try_consume_tokens(list(output_token_ids))
        self._raise_error()
        return num_read == len(output_token_ids)

    def _text_tokens(self) -> "np.ndarray[Any, np.dtype[np.bool_]]":
        """Return which tokens of the tokenizer may follow as text where the matcher is, [vocab]."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        self._raise_error()
        mask = np.unpackbits(bits, count=self._vocab_size, bitorder="little").astype(np.bool_)
        mask[[token_id for token_id in self._not_text if token_id < self._vocab_size]] = False
        return mask

    def _raise_error(self) -> None:
        if self._matcher.is_error():
            raise ValueError(f"structured_outputs: {self._matcher.get_error()}")


def _in_rust(regex: str) -> str:
    """Return a regular expression of Python's with the same meaning to the library, which is written in Rust."""
    return re.sub(r"\\(.)", lambda found: _LETTERS_AND_SPACES.get(found[1], found[0]), regex, flags=re.DOTALL)
