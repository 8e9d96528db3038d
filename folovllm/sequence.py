"""One sequence: its tokens, its status, its KV blocks, its random numbers."""

import random
from dataclasses import dataclass, field
from enum import StrEnum

from folovllm.outputs import Logprob
from folovllm.sampling_params import SamplingParams


class Status(StrEnum):
    """A string-valued status, so that it prints and compares as its name in lower case."""

    def is_finished(self) -> bool:
        """Say whether this status is an end: nothing is computed any more."""
        return str(self.value).startswith("finished")


class SequenceStatus(Status):
    """Where a sequence is in its life. The allowed moves are ``ALLOWED_TRANSITIONS``."""

    WAITING = "waiting"
    RUNNING = "running"
    SWAPPED = "swapped"
    FINISHED_STOPPED = "finished_stopped"
    FINISHED_LENGTH_CAPPED = "finished_length_capped"
    FINISHED_ABORTED = "finished_aborted"
    FINISHED_IGNORED = "finished_ignored"


_S = SequenceStatus
ALLOWED_TRANSITIONS: dict[SequenceStatus, frozenset[SequenceStatus]] = {
    _S.WAITING: frozenset({_S.RUNNING, _S.FINISHED_ABORTED}),
    # Back to WAITING is preemption by recompute, to SWAPPED preemption by swap.
    _S.RUNNING: frozenset(
        {_S.WAITING, _S.SWAPPED, _S.FINISHED_STOPPED, _S.FINISHED_LENGTH_CAPPED, _S.FINISHED_ABORTED}
    ),
    # SWAPPED to WAITING happens only when a step was interrupted and the host copy is given up.
    _S.SWAPPED: frozenset({_S.RUNNING, _S.WAITING, _S.FINISHED_ABORTED}),
    # A finished sequence can still lose the ranking of best_of.
    _S.FINISHED_STOPPED: frozenset({_S.FINISHED_IGNORED}),
    _S.FINISHED_LENGTH_CAPPED: frozenset({_S.FINISHED_IGNORED}),
    _S.FINISHED_ABORTED: frozenset(),
    _S.FINISHED_IGNORED: frozenset(),
}
"""The one table of moves between statuses; every other move raises."""

_FINISH_REASONS = {_S.FINISHED_STOPPED: "stop", _S.FINISHED_LENGTH_CAPPED: "length", _S.FINISHED_ABORTED: "abort"}


class IllegalTransitionError(RuntimeError):
    """A status change that ``ALLOWED_TRANSITIONS`` does not list, or a token after the end."""


class UniformStream:
    """Uniform numbers in [0, 1), one for each output position, fixed by a seed.

    Position ``i`` of the output always meets number ``i``, however the engine got there (alone or
    in a batch, in one pass or recomputed): a seeded result depends on nothing but its seed.
    """

    def __init__(self, seed: int) -> None:
        self._generator = random.Random(seed)
        self._drawn: list[float] = []

    def __getitem__(self, position: int) -> float:
        while len(self._drawn) <= position:
            self._drawn.append(self._generator.random())
        return self._drawn[position]


@dataclass
class SequenceData:
    """The tokens of one sequence: those given and those generated."""

    prompt_token_ids: list[int]
    output_token_ids: list[int] = field(default_factory=list)

    def add_token_id(self, token_id: int) -> None:
        """Append one generated token."""
        self.output_token_ids.append(token_id)

    def get_len(self) -> int:
        """Count all tokens, given and generated."""
        return len(self.prompt_token_ids) + len(self.output_token_ids)

    def get_prompt_len(self) -> int:
        """Count the given tokens."""
        return len(self.prompt_token_ids)

    def get_output_len(self) -> int:
        """Count the generated tokens."""
        return len(self.output_token_ids)

    def get_token_ids(self) -> list[int]:
        """Return all tokens as a new list, prompt first."""
        return self.prompt_token_ids + self.output_token_ids

    def get_slice(self, start: int, end: int) -> list[int]:
        """Return the tokens of positions ``start`` to ``end - 1`` without building the whole list."""
        prompt_len = len(self.prompt_token_ids)
        if start >= prompt_len:
            return self.output_token_ids[start - prompt_len : end - prompt_len]
        return self.prompt_token_ids[start:end] + self.output_token_ids[: max(0, end - prompt_len)]

    def get_last_token_id(self) -> int:
        """Return the newest token, or the prompt's last one if nothing was generated."""
        return (self.output_token_ids or self.prompt_token_ids)[-1]


class Sequence:
    """One continuation of a prompt, with its status and its KV blocks.

    seq_id: unique in the engine.  request_id: the request it belongs to.
    data: its tokens.  sampling_params: shared by all sequences of the request; never changed.
    seed: of its own random stream; by default the params' seed, else a fresh random one.
    """

    def __init__(
        self,
        seq_id: str,
        request_id: str,
        data: SequenceData,
        sampling_params: SamplingParams,
        seed: int | None = None,
    ) -> None:
        self.seq_id = seq_id
        self.request_id = request_id
        self.data = data
        self.sampling_params = sampling_params
        if seed is None:
            seed = sampling_params.seed if sampling_params.seed is not None else random.getrandbits(62)
        self.seed = seed
        self.uniforms = UniformStream(seed)
        self.block_ids: list[int] = []
        """Its block table: position ``p`` lives in block ``block_ids[p // block_size]``."""
        self.num_computed_tokens = 0
        """How many of its tokens have their keys and values in the blocks."""
        self.block_hashes: list[bytes] = []
        """The chained hashes of its full blocks, as far as they were needed."""
        self.token_logprobs: list[float] = []
        """Log-probability of each output token; filled only when someone asks for it."""
        self.logprobs: list[dict[int, Logprob]] = []
        """What ``SamplingParams.logprobs`` asks for, an entry a token."""
        self.stop_reason: int | str | None = None
        self._status = SequenceStatus.WAITING
        self._num_forks = 0

    @property
    def status(self) -> SequenceStatus:
        """Where it is in its life; changed by :meth:`transition_to` only."""
        return self._status

    def transition_to(self, status: SequenceStatus) -> None:
        """Move to ``status``; :class:`IllegalTransitionError` if the table does not allow it."""
        status = SequenceStatus(status)  # a status's name is welcome too
        if status not in ALLOWED_TRANSITIONS[self._status]:
            allowed = ", ".join(sorted(ALLOWED_TRANSITIONS[self._status])) or "nothing"
            raise IllegalTransitionError(
                f"sequence {self.seq_id} is {self._status} and cannot become {status}; allowed: {allowed}"
            )
        self._status = status

    def is_finished(self) -> bool:
        """Say whether it has ended."""
        return self._status.is_finished()

    @property
    def finish_reason(self) -> str | None:
        """``"stop"``, ``"length"`` or ``"abort"``; None while unfinished or when ranked out."""
        return _FINISH_REASONS.get(self._status)

    def add_token_id(self, token_id: int) -> None:
        """Append one generated token; :class:`IllegalTransitionError` after the end."""
        if self.is_finished():
            raise IllegalTransitionError(f"sequence {self.seq_id} is {self._status}: no token can be added")
        self.data.add_token_id(token_id)

    def truncate_output(self, num_tokens: int) -> None:
        """Drop the output after its first ``num_tokens`` tokens, with all that was recorded of it."""
        for recorded in (self.data.output_token_ids, self.token_logprobs, self.logprobs):
            del recorded[num_tokens:]
        self.stop_reason = None
        self.block_hashes.clear()

    def get_len(self) -> int:
        """Count all its tokens."""
        return self.data.get_len()

    def get_token_ids(self) -> list[int]:
        """Return all its tokens as a new list."""
        return self.data.get_token_ids()

    @property
    def cumulative_logprob(self) -> float:
        """Sum of the log-probabilities of its output tokens (0 when none were recorded)."""
        return sum(self.token_logprobs)

    def fork(self, new_seq_id: str, seed: int | None = None) -> "Sequence":
        """Return a new sequence with the same tokens and status that shares nothing mutable with this one.

        Its random stream is its own: ``seed`` if given, else this sequence's seed plus the number
        of forks so far, so that forks never repeat their parent's draws. It owns no KV blocks
        yet: :meth:`BlockManager.fork` shares the parent's, by reference count.
        """
        self._num_forks += 1
        child = Sequence(
            seq_id=new_seq_id,
            request_id=self.request_id,
            data=SequenceData(list(self.data.prompt_token_ids), list(self.data.output_token_ids)),
            sampling_params=self.sampling_params,
            seed=self.seed + self._num_forks if seed is None else seed,
        )
        child.block_hashes = list(self.block_hashes)
        child.token_logprobs = list(self.token_logprobs)
        child.logprobs = [dict(entry) for entry in self.logprobs]
        child.stop_reason = self.stop_reason
        child._status = self._status
        return child

    def __repr__(self) -> str:
        tokens = f"{self.data.get_prompt_len()} prompt + {self.data.get_output_len()} output tokens"
        return f"Sequence({self.seq_id}, {self._status}, {tokens}, block_ids={self.block_ids})"
