"""What one step of the engine is to do: the scheduler writes it, the model runner carries it out.

(vLLM: ``v1/core/sched/output.py``.)
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from folovllm.request import Request, Sequence, SequenceStatus

BlockCopy = tuple[int, int]
"""Two block ids: copy the first block's keys and values into the second."""


@dataclass
class ScheduledSequence:
    """The part of one sequence that this step computes: ``token_ids``, from position ``start`` on.

    num_draft_tokens: how many of the last ids are guesses to be verified.
    followers: sequences of the same request that still have no tokens of their own; they wait for
    this one to finish the prompt, then share its blocks and draw from the same logits.
    """

    request: Request
    sequence: Sequence
    start: int
    token_ids: list[int]
    num_draft_tokens: int = 0
    followers: list[Sequence] = field(default_factory=list)

    @property
    def num_known_tokens(self) -> int:
        """Count the tokens that are no guesses."""
        return len(self.token_ids) - self.num_draft_tokens

    @property
    def is_sampled(self) -> bool:
        """Say whether the step reaches the sequence's last token, so that a next one can be drawn."""
        return self.start + self.num_known_tokens == self.sequence.get_len()

    @property
    def draft(self) -> list[int]:
        """The guesses at its end."""
        return self.token_ids[self.num_known_tokens :]

    def without_draft(self) -> "ScheduledSequence":
        """Return the same item without its guesses."""
        return replace(self, token_ids=self.token_ids[: self.num_known_tokens], num_draft_tokens=0)

    @property
    def judged_positions(self) -> range:
        """Positions whose logits ``prompt_logprobs`` wants: those at ``p`` judge the prompt token at ``p + 1``."""
        first = max(self.start, len(self.request.prompt_logprobs) - 1)
        last = min(self.start + len(self.token_ids), self.sequence.data.get_prompt_len() - 1)
        return range(first, last) if self.request.prompt_logprobs else range(0)

    @property
    def logits_positions(self) -> list[int]:
        """Places in ``token_ids`` whose logits are needed: judged prompt tokens, then sampled ones."""
        sampled = range(self.num_known_tokens - 1, len(self.token_ids)) if self.is_sampled else ()
        return [*(p - self.start for p in self.judged_positions), *sampled]


@dataclass
class SchedulerOutput:
    """One step: the sequences to compute, and the block copies to make before.

    The copies are made in this order: swap out, swap in, copy.
    """

    scheduled: list[ScheduledSequence] = field(default_factory=list)
    blocks_to_swap_out: list[BlockCopy] = field(default_factory=list)
    blocks_to_swap_in: list[BlockCopy] = field(default_factory=list)
    blocks_to_copy: list[BlockCopy] = field(default_factory=list)
    preempted: dict[str, SequenceStatus] = field(default_factory=dict)
    """Requests that gave way in this step, with what became of them: WAITING or SWAPPED."""
    luggage: Any = None
    """What else the step needs on the model's device: its tensors go there together with the step's numbers."""
    num_batched_tokens: int = field(default=0, init=False)
    """How many tokens go through the model; kept as a number, because every sequence that is planned asks for it."""

    def __post_init__(self) -> None:
        self.num_batched_tokens = sum(len(item.token_ids) for item in self.scheduled)

    def add(self, items: list[ScheduledSequence]) -> None:
        """Put further sequences into the step."""
        self.scheduled += items
        self.num_batched_tokens += sum(len(item.token_ids) for item in items)

    def rows(self) -> Iterator[tuple[ScheduledSequence, range, range]]:
        """Return for each sequence which rows of the step's logits judge its prompt, and which its next tokens."""
        first = 0
        for item in self.scheduled:
            middle, last = first + len(item.judged_positions), first + len(item.logits_positions)
            yield item, range(first, middle), range(middle, last)
            first = last
