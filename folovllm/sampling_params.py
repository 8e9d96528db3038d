"""How one request wants its tokens chosen, and when it wants to stop.

Fields, defaults and limits are vLLM's (``sampling_params.py``), plus ``best_of``, which the notes
teach and vLLM removed in 0.12.
"""

import inspect
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from enum import IntEnum
from typing import Any

from folovllm.structured_outputs_params import StructuredOutputsParams as StructuredOutputsParams
from folovllm.validation import list_of_ints, list_of_strings, plain, real_number, true_or_false, whole_number
from folovllm.vllm_arguments import check_choice_for_vllm, check_form_for_vllm, request_body, sampling_arguments

MIN_TEMPERATURE = 0.01
"""Smaller positive temperatures are raised to this: dividing by them overflows float32."""
MAX_LENGTH_PENALTY = 10.0
"""Keeps ``length ** length_penalty`` within the range of floats, however long a text gets."""
_INT64_MAX = 2**63 - 1

RequestLogitsProcessor = Callable[..., Any]
"""``f(output_token_ids, logits)`` or ``f(prompt_token_ids, output_token_ids, logits)``; returns logits."""


class SamplingType(IntEnum):
    """What a request's parameters amount to."""

    GREEDY = 0
    RANDOM = 1
    RANDOM_SEED = 2


@dataclass(frozen=True)
class SamplingParams:
    """Sampling parameters of one request. Checked when made; immutable afterwards.

    The defaults are the same for every model: what it was asked for is all that decides a result. What a model's
    authors recommend is another thing, :meth:`folovllm.LLM.get_default_sampling_params`.

    n: completions returned, >= 1.
    best_of: completions generated, of which the best ``n`` by cumulative log-probability return;
        None means n, see ``num_sequences`` (vLLM V0; removed from vLLM in 0.12).
    presence_penalty: subtracted once from the logit of every token generated before, in [-2, 2].
    frequency_penalty: the same, times the number of occurrences, in [-2, 2].
    repetition_penalty: > 0; logits of tokens in prompt or output are divided by it if positive,
        multiplied by it if negative. 1 changes nothing.
    temperature: in [0, 2]; logits are divided by it. 0 is greedy, whatever the filters say; (0, 0.01) is raised
        to 0.01.
    top_p: in (0, 1]; keep the smallest set of tokens whose probability reaches it.
    top_k: keep the k likeliest tokens (and ties); 0 or -1 keeps all.
    min_p: in [0, 1]; drop tokens less likely than ``min_p`` times the likeliest one.
    seed: of the request's own random stream; None or -1: the engine draws one.
    stop: string or strings that end the text where they appear.
    stop_token_ids: tokens that end it, beside the model's EOS.
    bad_words: strings that must not be generated.
    ignore_eos: go on after EOS.
    max_tokens: most tokens to generate, >= 1; None: as many as ``max_model_len`` leaves.
    min_tokens: EOS and stop tokens are masked, and stop strings ignored, until so many are out.
    logprobs: return so many of the likeliest tokens' log-probabilities a position, beside the
        chosen one's; True is 1, -1 the whole vocabulary.
    prompt_logprobs: the same for the prompt's tokens.
    detokenize: turn tokens into text; False leaves ``text`` empty.
    skip_special_tokens: leave special tokens out of the text.
    spaces_between_special_tokens: keep the space that a tokenizer puts between special tokens.
    include_stop_str_in_output: keep what stopped the text in it.
    logit_bias: {token id: value added to its logit}, values in [-100, 100] (clipped, as in vLLM).
    allowed_token_ids: only these tokens may be generated.
    logits_processors: functions that change the logits of the next token, [vocab], float32, before penalties and
        temperature (vLLM V0's field; today vLLM takes such functions in an ``AdapterLogitsProcessor``). Each gets a
        copy, which it may change in place, and returns what it makes of it. What other parameters forbid stays
        forbidden. It should depend on its arguments alone: it is called for guesses too, and again after a preemption.
    structured_outputs: the form that the text must have, a :class:`StructuredOutputsParams` or a dict of its fields.
        EOS and stop tokens come only where the text is complete; without any, the output ends there by itself.
    """

    n: int = 1
    best_of: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: list[str] = field(default_factory=list)
    stop_token_ids: list[int] = field(default_factory=list)
    bad_words: list[str] = field(default_factory=list)
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    detokenize: bool = True
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    include_stop_str_in_output: bool = False
    logit_bias: dict[int, float] | None = None
    allowed_token_ids: list[int] | None = None
    logits_processors: list[RequestLogitsProcessor] | None = None
    structured_outputs: StructuredOutputsParams | None = None

    def __post_init__(self) -> None:
        self._check_counts()
        self._check_distribution()
        self._check_stops()
        self._check_tokens()
        self._check_functions_and_forms()
        self._check_combinations()

    def _set(self, name: str, value: Any) -> None:
        """Store a checked value; the only place where a field of this frozen class is written."""
        object.__setattr__(self, name, value)

    def _check_counts(self) -> None:
        self._set("n", whole_number("n", self.n, 1))
        if self.best_of is not None:
            self._set("best_of", whole_number("best_of", self.best_of, 1))
        if self.max_tokens is not None:
            self._set("max_tokens", whole_number("max_tokens", self.max_tokens, 1))
        self._set("min_tokens", whole_number("min_tokens", self.min_tokens, 0))
        if self.seed is not None:
            seed = whole_number("seed", self.seed, -1, _INT64_MAX)
            self._set("seed", None if seed == -1 else seed)
        for name in ("logprobs", "prompt_logprobs"):
            value = plain(getattr(self, name))
            if isinstance(value, bool):  # vLLM: True asks for one, False for none
                self._set(name, 1 if value else None)
            elif value is not None:
                self._set(name, whole_number(name, value, -1))

    def _check_distribution(self) -> None:
        for name in ("presence_penalty", "frequency_penalty"):
            self._set(name, real_number(name, getattr(self, name), -2.0, 2.0))
        self._set("repetition_penalty", real_number("repetition_penalty", self.repetition_penalty, 0.0, above=True))
        temperature = real_number("temperature", self.temperature, 0.0, 2.0)
        if 0 < temperature < MIN_TEMPERATURE:
            warnings.warn(f"temperature={temperature} is raised to {MIN_TEMPERATURE}", UserWarning, stacklevel=4)
            temperature = MIN_TEMPERATURE
        self._set("temperature", temperature)
        self._set("top_p", real_number("top_p", self.top_p, 0.0, 1.0, above=True))
        self._set("top_k", max(0, whole_number("top_k", self.top_k, -1, _INT64_MAX)))
        self._set("min_p", real_number("min_p", self.min_p, 0.0, 1.0))

    def _check_stops(self) -> None:
        stop = [] if self.stop is None else [self.stop] if isinstance(self.stop, str) else self.stop
        self._set("stop", list_of_strings("stop", stop))
        self._set("stop_token_ids", list_of_ints("stop_token_ids", _or_empty(self.stop_token_ids)))
        self._set("bad_words", list_of_strings("bad_words", _or_empty(self.bad_words)))
        for name in (
            "ignore_eos",
            "detokenize",
            "skip_special_tokens",
            "spaces_between_special_tokens",
            "include_stop_str_in_output",
        ):
            self._set(name, true_or_false(name, getattr(self, name)))

    def _check_tokens(self) -> None:
        if self.logit_bias is not None:
            if not isinstance(self.logit_bias, dict):
                raise ValueError(f"logit_bias must be a dict of token id to number, got {self.logit_bias!r}")
            self._set("logit_bias", {
                whole_number("logit_bias key", token_id, 0): max(-100.0, min(100.0, real_number("logit_bias", bias)))
                for token_id, bias in self.logit_bias.items()
            })  # fmt: skip
        if self.allowed_token_ids is not None:
            allowed = list_of_ints("allowed_token_ids", self.allowed_token_ids)
            if not allowed:
                raise ValueError("allowed_token_ids must hold at least one token id, got []; None allows all")
            self._set("allowed_token_ids", allowed)

    def _check_functions_and_forms(self) -> None:
        processors = [] if self.logits_processors is None else self.logits_processors
        if not isinstance(processors, list | tuple):
            raise ValueError(f"logits_processors must be a list of functions, got {processors!r}")
        for each in processors:
            takes_prompt(each)
        self._set("logits_processors", list(processors) or None)
        form = self.structured_outputs
        if isinstance(form, dict):
            try:
                form = StructuredOutputsParams(**form)
            except TypeError as error:
                raise ValueError(f"structured_outputs: {error}; got {form!r}") from None
        if form is not None and not isinstance(form, StructuredOutputsParams):
            raise ValueError(
                f"structured_outputs must be a StructuredOutputsParams or a dict of its fields, got {form!r}"
            )
        self._set("structured_outputs", None if form is None else replace(form))

    def _check_combinations(self) -> None:
        if self.num_sequences < self.n:
            raise ValueError(f"best_of must be at least n={self.n}, got {self.best_of}")
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens must be at most max_tokens={self.max_tokens}, got {self.min_tokens}")
        if self.stop and not self.detokenize:
            raise ValueError(f"stop needs detokenize=True: strings are found in text, got stop={self.stop!r}")
        if self.sampling_type == SamplingType.GREEDY and self.num_sequences > 1:
            raise ValueError(
                f"n and best_of must be 1 when temperature is 0 (greedy copies are all equal), "
                f"got n={self.n}, best_of={self.best_of}"
            )

    # What follows from the fields is no field: dataclasses.replace must find in them what was given and nothing else.

    @property
    def num_sequences(self) -> int:
        """Completions to generate: ``best_of``, or ``n`` where that is open."""
        return self.n if self.best_of is None else self.best_of

    @property
    def sampling_type(self) -> SamplingType:
        """GREEDY, RANDOM, or RANDOM_SEED if it brings its own seed."""
        if self.temperature == 0.0:
            return SamplingType.GREEDY
        return SamplingType.RANDOM if self.seed is None else SamplingType.RANDOM_SEED

    @property
    def needs_logprobs(self) -> bool:
        """Say whether the log-probability of every chosen token is needed: to return it, or to rank by it."""
        return self.logprobs is not None or self.num_sequences > self.n

    def clone(self) -> "SamplingParams":
        """Return an equal copy that shares no list with this one; the functions in ``logits_processors`` are shared."""
        return replace(self)

    def to_vllm(self) -> dict[str, Any]:
        """Return the keyword arguments for vLLM 0.33's class of this name: ``vllm.SamplingParams(**params.to_vllm())``.

        Fields that a subclass adds go to ``extra_args``, which vLLM hands to custom logits processors: without one of
        yours nobody reads them, and a UserWarning says so. A
        ValueError with a way out for ``best_of`` above ``n``, ``logits_processors`` and ``structured_outputs``. A seed
        fixes the result there too, but it is another one.
        """
        check_form_for_vllm(self.structured_outputs)
        return sampling_arguments(*self._for_vllm())

    def to_openai(self, chat: bool = False) -> dict[str, Any]:
        """Return the same as fields of a request to a vLLM server, for ``/v1/completions`` or ``/v1/chat/completions``.

        Everything is written out, since a server fills what is missing with defaults of its own. Fields
        that only vLLM knows stand beside OpenAI's: OpenAI's Python client takes the whole as
        ``extra_body``. A ValueError for ``max_tokens=None`` without ``chat``, where it would mean 16. A
        server refuses more than ``VLLM_MAX_STOP_STRINGS`` (4) stop strings.
        """
        return request_body(sampling_arguments(*self._for_vllm()), chat)

    def _for_vllm(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return copies of the values of this class's fields, and of those that a subclass adds."""
        check_choice_for_vllm(self.n, self.best_of, self.logits_processors)
        values = asdict(self)
        if self.structured_outputs is not None:
            values["structured_outputs"] = self.structured_outputs.to_dict()
        own = {each.name: values.pop(each.name) for each in fields(SamplingParams)}
        return own, values

    def check_vocabulary(self, vocab_size: int, max_logprobs: int) -> None:
        """Raise a ValueError for what only the model can tell: token ids and numbers of log-probabilities."""
        for name in ("stop_token_ids", "allowed_token_ids", "logit_bias"):
            for token_id in getattr(self, name) or ():
                if token_id >= vocab_size:
                    raise ValueError(f"{name} must be token ids below the vocabulary size {vocab_size}, got {token_id}")
        limit = vocab_size if max_logprobs == -1 else max_logprobs
        for name in ("logprobs", "prompt_logprobs"):
            wanted = vocab_size if getattr(self, name) == -1 else getattr(self, name)
            if wanted is not None and wanted > limit:
                raise ValueError(f"{name} must be at most max_logprobs={limit}, got {getattr(self, name)}")


@dataclass(frozen=True)
class BeamSearchParams:
    """Parameters of :meth:`folovllm.LLM.beam_search` (vLLM's, less ``temperature``, which ranks nothing there).

    beam_width: texts kept and returned, >= 1.  max_tokens: most tokens to generate, >= 1.
    ignore_eos: go on after EOS.
    length_penalty: in [-10, 10]; texts are ranked by log-probability / length ** length_penalty, where the
        length is that of the output. Above 0 favours long texts, below 0 short ones.
    """

    beam_width: int
    max_tokens: int
    ignore_eos: bool = False
    length_penalty: float = 1.0

    def __post_init__(self) -> None:
        self._set("beam_width", whole_number("beam_width", self.beam_width, 1))
        self._set("max_tokens", whole_number("max_tokens", self.max_tokens, 1))
        self._set("ignore_eos", true_or_false("ignore_eos", self.ignore_eos))
        limit = MAX_LENGTH_PENALTY
        self._set("length_penalty", real_number("length_penalty", self.length_penalty, -limit, limit))

    def _set(self, name: str, value: Any) -> None:
        """Store a checked value; the only place where a field of this frozen class is written."""
        object.__setattr__(self, name, value)


def takes_prompt(processor: RequestLogitsProcessor) -> bool:
    """Say whether a logits processor takes the prompt's tokens too; a ValueError if it takes neither."""
    try:
        signature = inspect.signature(processor)
        for arguments in (("output", "logits"), ("prompt", "output", "logits")):
            try:
                signature.bind(*arguments)
                return len(arguments) == 3
            except TypeError:
                continue
    except (TypeError, ValueError):  # no function, or one that does not say what it takes
        pass
    raise ValueError(
        "logits_processors must be functions of (output_token_ids, logits) or of (prompt_token_ids, output_token_ids, "
        f"logits), got {processor!r}"
    )


def _or_empty(value: Any) -> Any:
    return [] if value is None else value
