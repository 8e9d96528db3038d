"""What the engine gives back. (vLLM: ``outputs.py``, ``logprobs.py``.)"""

from dataclasses import dataclass

NO_TOKEN_LEFT = "no_token_left"
"""``stop_reason`` of a text that ended because nothing could follow, as with allowed and bad words that meet."""


@dataclass(frozen=True)
class Logprob:
    """One token's natural log-probability under the model, before any filter.

    rank: 1 for the likeliest token of the vocabulary, and so on.
    decoded_token: its text on its own.
    """

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass
class CompletionOutput:
    """One continuation of a prompt.

    index: its place among the request's outputs.  text, token_ids: what was generated.
    cumulative_logprob: sum over its tokens; None unless log-probabilities were asked for or
    ``best_of`` needed them.  logprobs: a dict a token, if asked for.
    finish_reason: "stop", "length", "abort", or None while it goes on.
    stop_reason: the stop string or stop token that ended it; ``NO_TOKEN_LEFT`` where what the request asks for
        excluded every token; None for EOS and for all else.
    """

    index: int
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None = None
    logprobs: list[dict[int, Logprob]] | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None

    def finished(self) -> bool:
        """Say whether it has ended."""
        return self.finish_reason is not None


@dataclass
class RequestMetrics:
    """When things happened: seconds on the ``time.perf_counter`` clock; None until then."""

    arrival_time: float
    first_scheduled_time: float | None = None
    first_token_time: float | None = None
    finished_time: float | None = None

    @property
    def time_in_queue(self) -> float | None:
        """Seconds from arrival to the first step."""
        return None if self.first_scheduled_time is None else self.first_scheduled_time - self.arrival_time

    @property
    def time_to_first_token(self) -> float | None:
        """Seconds from arrival to the first token."""
        return None if self.first_token_time is None else self.first_token_time - self.arrival_time

    @property
    def total_time(self) -> float | None:
        """Seconds from arrival to the end."""
        return None if self.finished_time is None else self.finished_time - self.arrival_time


@dataclass
class RequestOutput:
    """The results of one request, so far or in the end.

    prompt: its text (None if only token ids were given).  prompt_logprobs: a dict for each prompt
    token (None for the first), if asked for.  outputs: its completions, ``n`` of them.
    num_cached_tokens: prompt tokens that the prefix cache had already.
    error: what ended it before its time; then it has no outputs. :class:`folovllm.LLM` raises it for its owner.
    """

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    prompt_logprobs: list[dict[int, Logprob] | None] | None
    outputs: list[CompletionOutput]
    finished: bool
    metrics: RequestMetrics | None = None
    num_cached_tokens: int = 0
    error: Exception | None = None
