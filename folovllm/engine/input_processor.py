"""From what a user passes to a :class:`Request`: tokenize, check against the model, set the limits.

Everything that can be wrong with a request is found here, before it enters the engine.
(vLLM: ``v1/engine/input_processor.py``.)
"""

import random
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NotRequired, TypedDict

from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from folovllm.config import EngineConfig
from folovllm.engine.block_manager import BlockManager
from folovllm.models.probe import UnsupportedModelError
from folovllm.request import BeamState, Request
from folovllm.sampling.structured_outputs import Grammar, GrammarCompiler
from folovllm.sampling_params import BeamSearchParams, SamplingParams, SamplingType
from folovllm.validation import items, plain

TokenIds = Sequence[int] | NDArray[Any] | Tensor
"""A prompt's tokens: a list, tuple, range or other sequence of ints, or an array or tensor of one dimension."""


class TextPrompt(TypedDict):
    """A prompt as text."""

    prompt: str


class TokensPrompt(TypedDict):
    """A prompt that is tokenized already; ``prompt``, its text, is only passed on."""

    prompt_token_ids: TokenIds
    prompt: NotRequired[str]


Prompt = str | TokenIds | TextPrompt | TokensPrompt


def list_prompts(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """Return one prompt or several as a list. A list of ints is one prompt (vLLM's rule), a list of such lists several.

    So an array or tensor of one dimension is one prompt too, and one of two dimensions is a prompt a row.
    """
    if isinstance(prompts, str | Mapping):
        return [prompts]
    each = items(prompts)
    if each is None:
        raise ValueError(f"prompts must be a prompt or a list of prompts, got {prompts!r}")
    return [each] if each and _are_ints(each) else each


def _are_ints(values: Sequence[object]) -> bool:
    return all(isinstance(plain(value), int) for value in values)


class InputProcessor:
    """Makes requests for one engine.

    vocab_size: tokens that the model can read.  num_logits: tokens that it can write; some models read a few more.
    """

    def __init__(
        self,
        config: EngineConfig,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        eos_token_ids: set[int | None],
    ) -> None:
        assert config.model_config.max_model_len is not None, "the input processor takes a resolved config"
        self.config = config
        self.max_model_len = config.model_config.max_model_len
        self.tokenizer = tokenizer
        self.vocab_size = _num_rows(model.get_input_embeddings(), model)
        self.num_logits = _num_rows(model.get_output_embeddings(), model)  # type: ignore[no-untyped-call]
        if self.num_logits > self.vocab_size:
            raise UnsupportedModelError(
                f"this model has logits for {self.num_logits} tokens but embeddings for {self.vocab_size}: "
                "it could write tokens that it cannot read"
            )
        # Some configs write -1 for "none", and some name a token of another vocabulary.
        self.eos_token_ids = frozenset(i for i in eos_token_ids if i is not None and 0 <= i < self.num_logits)
        self._seeds = random.Random(config.model_config.seed)

    def make_request(
        self,
        request_id: str,
        prompt: Prompt,
        params: SamplingParams | BeamSearchParams,
        block_manager: BlockManager,
    ) -> Request:
        """Return the request, or raise a ValueError that names what is wrong with it."""
        beam = params if isinstance(params, BeamSearchParams) else None
        if beam is not None:
            params = SamplingParams(n=beam.beam_width, max_tokens=beam.max_tokens, ignore_eos=beam.ignore_eos)
        if not isinstance(params, SamplingParams):
            raise ValueError(f"sampling_params must be a SamplingParams, got {params!r}")
        text, token_ids = self._tokenize(prompt)
        self._check_length(token_ids)
        params.check_vocabulary(self.num_logits, self.config.model_config.max_logprobs)
        self._check_judged(params, token_ids)
        room = self.max_model_len - len(token_ids)
        max_tokens = room if params.max_tokens is None else min(params.max_tokens, room)
        field = "best_of" if beam is None else "beam_width"
        self._check_capacity(len(token_ids), max_tokens, params.num_sequences, field, block_manager)
        bad_words_token_ids = self._tokenize_bad_words(params.bad_words)
        self._check_choice(params, bad_words_token_ids)
        grammar = self._compile_grammar(params)
        # Only random requests draw a seed, so that a greedy or refused one in between changes nothing.
        draws = beam is None and params.sampling_type == SamplingType.RANDOM
        seed = self._seeds.getrandbits(62) if draws else None
        request = Request(request_id, text, token_ids, params.clone(), seed=seed)
        request.max_tokens = max_tokens
        request.eos_token_ids = self.eos_token_ids
        request.bad_words_token_ids = bad_words_token_ids
        request.grammar = grammar
        if beam is not None:
            request.beam_state = BeamState(beam)
            del request.sequences[1:]  # the others are forked when the prompt has been read
        return request

    def _tokenize(self, prompt: Prompt) -> tuple[str | None, list[int]]:
        if isinstance(prompt, str):
            return str.__str__(prompt), self.tokenize_prompt(prompt)
        if isinstance(prompt, Mapping) and set(prompt) <= {"prompt", "prompt_token_ids"}:
            text, token_ids = prompt.get("prompt"), prompt.get("prompt_token_ids")
            if token_ids is not None and isinstance(text, str | None):
                return text if text is None else str.__str__(text), self._check_token_ids(token_ids)
            if token_ids is None and isinstance(text, str):
                return self._tokenize(text)
        bare = items(prompt)
        if bare is not None and _are_ints(bare):
            return None, self._check_token_ids(bare)
        raise ValueError(
            "prompt must be a string, a list of token ids, {'prompt': str} or {'prompt_token_ids': list of int}, "
            f"got {prompt!r}"
        )

    def tokenize_prompt(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Return a prompt's tokens; a ValueError for those that only the tokenizer knows, and the model cannot read."""
        token_ids = self._tokenize_text(text, add_special_tokens)
        for token_id in token_ids:
            if token_id >= self.vocab_size:
                raise ValueError(
                    f"prompt must be made of the model's tokens, ids 0 to {self.vocab_size - 1}, but its "
                    f"{self.tokenizer.convert_ids_to_tokens(token_id)!r} is the tokenizer's id {token_id}"
                )
        return token_ids

    def _tokenize_text(self, text: str, add_special_tokens: bool) -> list[int]:
        """Return a text's tokens; a ValueError for half a surrogate pair, which no tokenizer can read."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"prompt and bad_words must be text that UTF-8 can write, got {text!r}: {error}") from None
        # Not verbose: of a long text the tokenizer would warn, and the engine refuses it.
        encoded = self.tokenizer(str.__str__(text), add_special_tokens=add_special_tokens, verbose=False)
        return list(encoded["input_ids"])

    def _tokenize_bad_words(self, bad_words: list[str]) -> list[list[int]]:
        """Return every bad word's tokens, as it looks at the start of a text and after a space."""
        found: list[list[int]] = []
        for word in bad_words:
            for form in (word, " " + word.lstrip()):
                token_ids = self._tokenize_text(form, add_special_tokens=False)
                if token_ids and token_ids not in found:
                    found.append(token_ids)
        return found

    @cached_property
    def _grammar_compiler(self) -> GrammarCompiler:
        return GrammarCompiler(self.tokenizer)

    def _compile_grammar(self, params: SamplingParams) -> Grammar | None:
        if params.structured_outputs is None:
            return None
        ends = {*(() if params.ignore_eos else self.eos_token_ids), *params.stop_token_ids}
        return self._grammar_compiler.compile(params.structured_outputs, self.eos_token_ids, ends)

    def _check_token_ids(self, token_ids: object) -> list[int]:
        listed = items(token_ids)
        if listed is None:
            raise ValueError(f"prompt_token_ids must be a list of ints, got {token_ids!r}")
        checked = [plain(token_id) for token_id in listed]
        for token_id in checked:
            if not isinstance(token_id, int) or isinstance(token_id, bool) or not 0 <= token_id < self.vocab_size:
                raise ValueError(f"prompt_token_ids must be ints from 0 to {self.vocab_size - 1}, got {token_id!r}")
        return [int(token_id) for token_id in checked]

    def _check_judged(self, params: SamplingParams, token_ids: list[int]) -> None:
        """Refuse log-probabilities of prompt tokens that have none; the first token is not judged."""
        if params.prompt_logprobs is None or self.num_logits == self.vocab_size:
            return
        for token_id in token_ids[1:]:
            if token_id >= self.num_logits:
                raise ValueError(
                    f"prompt_logprobs must be None for a prompt with tokens that this model reads but never writes: "
                    f"it has {self.num_logits} logits, got token {token_id}"
                )

    def _check_length(self, token_ids: list[int]) -> None:
        if not token_ids:
            raise ValueError("prompt must hold at least one token, got an empty one")
        if len(token_ids) >= self.max_model_len:
            raise ValueError(
                f"prompt has {len(token_ids)} tokens; it must be shorter than max_model_len={self.max_model_len} "
                "(it is not cut for you)"
            )

    def _check_choice(self, params: SamplingParams, bad_words_token_ids: list[list[int]]) -> None:
        """Refuse what would leave no token to choose from, and so stop everybody's step."""
        if params.allowed_token_ids is None:
            return
        banned = {ids[0] for ids in bad_words_token_ids if len(ids) == 1}
        if params.min_tokens:
            banned |= {*self.eos_token_ids, *params.stop_token_ids}
        if not set(params.allowed_token_ids) - banned:
            raise ValueError(
                "allowed_token_ids must leave a token that bad_words and min_tokens do not forbid, "
                f"got {params.allowed_token_ids}"
            )

    def _check_capacity(
        self, prompt_len: int, max_tokens: int, num_seqs: int, field: str, block_manager: BlockManager
    ) -> None:
        """Refuse what could never run. field: what asks for ``num_seqs`` sequences."""
        max_num_seqs = self.config.scheduler_config.max_num_seqs
        if num_seqs > max_num_seqs:
            raise ValueError(
                f"{field}={num_seqs} sequences must run together, but max_num_seqs={max_num_seqs}; "
                f"lower {field} or raise max_num_seqs"
            )
        needed = block_manager.max_blocks_needed(prompt_len, prompt_len + max_tokens, num_seqs)
        there_are = block_manager.gpu.num_blocks
        if needed > there_are:
            raise ValueError(
                f"the prompt ({prompt_len} tokens) with max_tokens={max_tokens} and {field}={num_seqs} can need "
                f"{needed} KV blocks of {block_manager.block_size} tokens, but there are {there_are}; "
                f"lower max_tokens or {field}, or give the cache more memory"
            )


def _num_rows(embeddings: Any, model: PreTrainedModel) -> int:
    """Return how many tokens an embedding, or the linear layer that gives the logits, has a row for."""
    weight = getattr(embeddings, "weight", None)
    size: int = model.config.get_text_config().vocab_size if weight is None else weight.shape[0]
    return size
