"""Which tokens keep a text within a form: a mask over the vocabulary, for any output so far.

The library llguidance knows which bytes may follow and which tokens spell them. Nothing is remembered between
steps: a mask is a function of the output's tokens, so guesses, preemption and interrupts need no care. To read
1,000 tokens again takes it a millisecond. (vLLM: ``v1/structured_output/``, where llguidance is one of the backends.)
"""

import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from folovllm.json_schema import writable
from folovllm.rust_regex import to_rust
from folovllm.structured_outputs_params import StructuredOutputsParams

if TYPE_CHECKING:
    from llguidance import LLMatcher

_PROBE = 'A text , with "marks" . It \'s 你好 😀\n  and a second line.'


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
        added = tokenizer.added_tokens_decoder
        special = {token_id for token_id, token in added.items() if token.special}
        self._special_token_ids = frozenset(special.union(tokenizer.all_special_ids))
        try:
            if not self._special_token_ids:
                raise ValueError("it has no special token, such as one for the end of a text")
            # The library wants a token for the end. Which one, is decided here; any will do that is no text.
            end = min(self._special_token_ids)
            self._tokenizer = llguidance.hf.from_tokenizer(tokenizer, eos_token=end)  # type: ignore[arg-type]
            token_ids = tokenizer(_PROBE, add_special_tokens=False)["input_ids"]
            spelled = self._tokenizer.decode_bytes(token_ids).decode()
            decoded = str(tokenizer.decode(token_ids, clean_up_tokenization_spaces=False))
            if spelled.strip() != decoded.strip():
                raise ValueError(f"its tokens spell {spelled!r} and it decodes them as {decoded!r}")
        except ValueError as error:
            raise ValueError(f"structured_outputs does not work with this model's tokenizer: {error}") from error

    def compile(self, params: StructuredOutputsParams, eos_token_ids: Iterable[int], ends: Iterable[int]) -> "Grammar":
        """Return a request's grammar; a ValueError for a form that the library does not take, or that allows no text.

        eos_token_ids: tokens that are no text.  ends: those that may end the output; a ValueError if one of them is
        text, for it would end an incomplete one.
        """
        from llguidance import LLMatcher, LLParserLimits

        not_text = self._special_token_ids.union(eos_token_ids)
        if text_ends := [each for each in ends if each not in not_text and each < self._tokenizer.vocab_size]:
            raise ValueError(
                f"stop_token_ids must hold no token that is text where structured_outputs is set, got {text_ends}"
            )
        [(name, value)] = params.to_dict().items()
        if name == "json":
            source = LLMatcher.grammar_from_json_schema(writable(params.schema()))
        else:
            regex = to_rust(value) if name == "regex" else "|".join(map(re.escape, value))
            source = LLMatcher.grammar_from_regex(regex)
        matcher = LLMatcher(self._tokenizer, source, log_level=0, limits=LLParserLimits(verbose_errors=False))
        grammar = Grammar(matcher, self._tokenizer.vocab_size, not_text, ends)
        try:
            has_text = grammar.has_text()
        except ValueError as error:
            said = textwrap.shorten(str(error), 300, placeholder=" ...")
            raise ValueError(f"structured_outputs.{name} is not supported: {said}; got {value!r}") from error
        if not has_text:
            raise ValueError(f"structured_outputs.{name} must allow a text that the tokens can write, got {value!r}")
        return grammar


class Grammar:
    """The form of one request's text.

    matcher: at the text's beginning; it says what may follow, and its copies read tokens.
    vocab_size: the tokenizer's.  not_text: tokens that no text may hold.  ends: tokens that may
    follow a complete one.
    """

    def __init__(self, matcher: "LLMatcher", vocab_size: int, not_text: frozenset[int], ends: Iterable[int]) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._not_text = not_text
        self._ends = list(ends)

    def has_text(self) -> bool:
        """Say whether any text can begin."""
        _check(self._matcher)
        return bool(self._text_tokens(self._matcher.deep_copy()).any())

    def next_tokens(self, output_token_ids: Sequence[int], vocab_size: int) -> Tensor | None:
        """Return which tokens of the model may follow, bool [vocab_size].

        None for a position that no output reaches, after a guess that the grammar refuses. All False once the text
        is complete and there is no token to say so.
        """
        matcher = self._read(output_token_ids)
        if matcher is None:
            return None
        text = self._text_tokens(matcher)[:vocab_size]
        mask = torch.zeros(vocab_size, dtype=torch.bool)
        mask[: len(text)] = torch.from_numpy(text)
        if matcher.is_accepting():
            mask[[token_id for token_id in self._ends if token_id < vocab_size]] = True
        return mask

    def _read(self, output_token_ids: Sequence[int]) -> "LLMatcher | None":
        """Return a matcher that stands after these tokens; None if they do not begin a text of this form."""
        if not self._not_text.isdisjoint(output_token_ids):
            return None
        matcher = self._matcher.deep_copy()
        num_read = matcher.try_consume_tokens(list(output_token_ids))
        _check(matcher)
        return matcher if num_read == len(output_token_ids) else None

    def _text_tokens(self, matcher: "LLMatcher") -> "np.ndarray[Any, np.dtype[np.bool_]]":
        """Return which tokens of the tokenizer may follow as text, [vocab]."""
        bits = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
        _check(matcher)
        mask = np.unpackbits(bits, count=self._vocab_size, bitorder="little").astype(np.bool_)
        mask[[token_id for token_id in self._not_text if token_id < self._vocab_size]] = False
        return mask


def _check(matcher: "LLMatcher") -> None:
    """Raise a ValueError if the library gave up: at a mistake in the form, or at a limit."""
    error = matcher.get_error().removesuffix("\n<non-verbose/>")
    # To the library it is an error too that no token can follow; here it is an answer.
    if error and not error.startswith("NoExtension"):
        raise ValueError(error)
