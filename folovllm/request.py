"""Requests and their sequences: what the engine knows about one prompt and its continuations.

Three layers, as in vLLM V0 (``vllm/sequence.py``): a :class:`Request` owns several
:class:`Sequence`, and each owns one :class:`SequenceData`. (vLLM V1 keeps a single flat
``Request`` and makes ``n`` copies of it.)
"""

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from folovllm.outputs import Logprob, RequestMetrics
from folovllm.sampling_params import BeamSearchParams, SamplingParams
from folovllm.sequence import (
    ALLOWED_TRANSITIONS,
    IllegalTransitionError,
    Sequence,
    SequenceData,
    SequenceStatus,
    Status,
    UniformStream,
)

if TYPE_CHECKING:
    from folovllm.sampling.structured_outputs import Grammar

__all__ = [
    "ALLOWED_TRANSITIONS",
    "BeamState",
    "IllegalTransitionError",
    "Proposal",
    "Request",
    "RequestStatus",
    "Sequence",
    "SequenceData",
    "SequenceStatus",
    "UniformStream",
]


class RequestStatus(Status):
    """Where a request is; always derived from its sequences, never set."""

    WAITING = "waiting"
    RUNNING = "running"
    SWAPPED = "swapped"
    FINISHED_STOPPED = "finished_stopped"
    FINISHED_LENGTH_CAPPED = "finished_length_capped"
    FINISHED_ABORTED = "finished_aborted"


@dataclass(frozen=True)
class Proposal:
    """In beam search: one token that would continue a text, and how likely that is."""

    parent: Sequence
    token_id: int
    token_logprob: float

    @property
    def total(self) -> float:
        """Log-probability of the output that it would make."""
        return self.parent.cumulative_logprob + self.token_logprob


@dataclass
class BeamState:
    """A beam search between two steps.

    proposals: of the live sequences (by seq_id) that were computed since the last choice.
    completed: texts that reached EOS; they hold no blocks.  num_forks: for the sequences' names.
    """

    params: BeamSearchParams
    proposals: dict[str, list[Proposal]] = field(default_factory=dict)
    completed: list[Sequence] = field(default_factory=list)
    num_forks: int = 0

    def score(self, seq: Sequence) -> float:
        """Return log-probability / (generated tokens, EOS included) ** length_penalty."""
        return float(seq.cumulative_logprob / seq.data.get_output_len() ** self.params.length_penalty)


class Request:
    """One prompt and the ``best_of`` sequences that continue it.

    prompt: the text, or None when only token ids were given.  prompt_token_ids: at least one id.
    arrival_time: seconds on the ``time.perf_counter`` clock; default now.
    seed: for params without a seed; default random. Sequence ``i`` draws with seed + i.
    """

    def __init__(
        self,
        request_id: str,
        prompt: str | None,
        prompt_token_ids: list[int],
        sampling_params: SamplingParams,
        arrival_time: float | None = None,
        seed: int | None = None,
    ) -> None:
        if not prompt_token_ids:
            raise ValueError(f"Request.prompt_token_ids must hold at least one token, got {prompt_token_ids!r}")
        self.request_id = request_id
        self.prompt = prompt
        self.prompt_token_ids = list(prompt_token_ids)
        self.sampling_params = sampling_params
        self.metrics = RequestMetrics(arrival_time=time.perf_counter() if arrival_time is None else arrival_time)
        self.max_tokens = sampling_params.max_tokens
        """Most tokens to generate; the engine lowers it to what ``max_model_len`` leaves."""
        self.beam_state: BeamState | None = None
        """Set for beam search, whose sequences are not drawn but chosen."""
        self.eos_token_ids: frozenset[int] = frozenset()
        """Tokens that end a sequence; the engine sets them from the model's generation config."""
        self.bad_words_token_ids: list[list[int]] = []
        """``bad_words`` as tokens; set by the engine, which has the tokenizer."""
        self.grammar: Grammar | None = None
        """What ``structured_outputs`` allows; set by the engine, which has the tokenizer."""
        self.prompt_logprobs: list[dict[int, Logprob] | None] = []
        """An entry a prompt token as they become known; the first token has nothing to judge it by: None."""
        if sampling_params.prompt_logprobs is not None:
            self.prompt_logprobs.append(None)
        self.error: Exception | None = None
        """What went wrong with it and ends it; the requests beside it go on."""
        self.is_counted = False
        """Whether the engine's metrics have its end."""
        self.num_cached_tokens: int | None = None
        """Prompt tokens found in the prefix cache when it first ran; None before."""
        if sampling_params.seed is not None:
            seed = sampling_params.seed
        first = Sequence(f"{request_id}-0", request_id, SequenceData(list(prompt_token_ids)), sampling_params, seed)
        self.sequences = [first]
        self.sequences += [first.fork(f"{request_id}-{i}") for i in range(1, sampling_params.num_sequences)]

    def get_seqs(self, status: SequenceStatus | None = None) -> list[Sequence]:
        """Return its sequences, all of them or those with one status."""
        return [seq for seq in self.sequences if status is None or seq.status == status]

    @property
    def num_seats(self) -> int:
        """Count the running sequences that it may come to have: what ``max_num_seqs`` must leave room for."""
        if self.beam_state is not None:
            return self.beam_state.params.beam_width
        return len(self.get_unfinished_seqs())

    def get_unfinished_seqs(self) -> list[Sequence]:
        """Return the sequences that still run, wait or are swapped."""
        return [seq for seq in self.sequences if not seq.is_finished()]

    def is_finished(self) -> bool:
        """Say whether all its sequences have ended."""
        return all(seq.is_finished() for seq in self.sequences)

    @property
    def status(self) -> RequestStatus:
        """The most active status of its sequences; once all have ended, that of its best one."""
        statuses = [seq.status for seq in self.sequences]
        for active in (SequenceStatus.RUNNING, SequenceStatus.SWAPPED, SequenceStatus.WAITING):
            if active in statuses:
                return RequestStatus(active.value)
        ranked = self.ranked_sequences()
        return RequestStatus(ranked[0].status.value)

    def ranked_sequences(self) -> list[Sequence]:
        """Return the sequences that were not ranked out, in the order in which results are shown.

        With ``best_of > n`` that is by cumulative log-probability, best first; else as created.
        """
        kept = [seq for seq in self.sequences if seq.status != SequenceStatus.FINISHED_IGNORED]
        if self.sampling_params.num_sequences > self.sampling_params.n and self.is_finished():
            kept.sort(key=lambda seq: -seq.cumulative_logprob)
        return kept

    def ignore_leftovers(self) -> None:
        """Once all have ended, keep the best ``n`` and mark the rest FINISHED_IGNORED."""
        assert self.is_finished(), "sequences are ranked only when all have ended"
        ended = [seq for seq in self.ranked_sequences() if seq.status != SequenceStatus.FINISHED_ABORTED]
        for seq in ended[self.sampling_params.n :]:
            seq.transition_to(SequenceStatus.FINISHED_IGNORED)

    def __repr__(self) -> str:
        return (
            f"Request({self.request_id}, {self.status}, {len(self.prompt_token_ids)} prompt tokens, {self.sequences})"
        )
