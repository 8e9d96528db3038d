"""What happened, step by step: the record that every figure about scheduling is drawn from."""

from dataclasses import asdict, dataclass, field
from typing import Any

from folovllm.engine.block_manager import BlockManager
from folovllm.request import Request, SequenceStatus
from folovllm.step import SchedulerOutput


@dataclass(frozen=True)
class SequenceRecord:
    """One unfinished or just finished sequence at the end of a step.

    num_scheduled_tokens: its tokens in this step, guesses included.  num_draft_tokens: the guesses.
    output_token_ids: all that it has generated so far.
    block_table: block ids (of the host pool while swapped).  ref_counts: holders of each of them.
    preempted: ``waiting`` or ``swapped`` if it gave way in this step, else None.
    """

    request_id: str
    seq_id: str
    status: SequenceStatus
    num_scheduled_tokens: int
    num_draft_tokens: int
    num_computed_tokens: int
    num_prompt_tokens: int
    num_output_tokens: int
    output_token_ids: tuple[int, ...]
    num_cached_tokens: int
    block_table: tuple[int, ...]
    ref_counts: tuple[int, ...]
    preempted: SequenceStatus | None


@dataclass(frozen=True)
class StepRecord:
    """One engine step: its sequences, its blocks, and where its time went (milliseconds)."""

    step: int
    sequences: tuple[SequenceRecord, ...]
    num_batched_tokens: int
    num_free_blocks: int
    num_cached_blocks: int
    blocks_swapped_out: int
    blocks_swapped_in: int
    blocks_copied: int
    schedule_ms: float
    forward_ms: float
    sample_ms: float
    postprocess_ms: float


@dataclass
class History:
    """All steps since the engine started, or since :meth:`clear`."""

    steps: list[StepRecord] = field(default_factory=list)

    def clear(self) -> None:
        """Forget the steps so far."""
        self.steps.clear()

    def to_rows(self) -> list[dict[str, Any]]:
        """Return one flat dict a step and sequence, ready for ``pandas.DataFrame(rows)``."""
        rows = []
        for record in self.steps:
            shared = {name: value for name, value in asdict(record).items() if name != "sequences"}
            rows += [shared | asdict(sequence) for sequence in record.sequences]
        return rows

    def add(
        self, step: SchedulerOutput, requests: list[Request], manager: BlockManager, milliseconds: list[float]
    ) -> None:
        """Record one step from the engine's own state. milliseconds: schedule, forward, sample, postprocess."""
        scheduled = {item.sequence.seq_id: item for item in step.scheduled}
        sequences = []
        for request in requests:
            for seq in request.sequences:
                item = scheduled.get(seq.seq_id)
                pool = manager.cpu if seq.status == SequenceStatus.SWAPPED else manager.gpu
                sequences.append(
                    SequenceRecord(
                        request_id=request.request_id,
                        seq_id=seq.seq_id,
                        status=seq.status,
                        num_scheduled_tokens=len(item.token_ids) if item else 0,
                        num_draft_tokens=item.num_draft_tokens if item else 0,
                        num_computed_tokens=seq.num_computed_tokens,
                        num_prompt_tokens=seq.data.get_prompt_len(),
                        num_output_tokens=seq.data.get_output_len(),
                        output_token_ids=tuple(seq.data.output_token_ids),
                        num_cached_tokens=request.num_cached_tokens or 0,
                        block_table=tuple(seq.block_ids),
                        ref_counts=tuple(pool.ref_counts[block_id] for block_id in seq.block_ids),
                        preempted=step.preempted.get(request.request_id),
                    )
                )
        schedule_ms, forward_ms, sample_ms, postprocess_ms = milliseconds
        self.steps.append(
            StepRecord(
                step=len(self.steps),
                sequences=tuple(sequences),
                num_batched_tokens=step.num_batched_tokens,
                num_free_blocks=manager.gpu.num_free,
                num_cached_blocks=manager.gpu.num_cached,
                blocks_swapped_out=len(step.blocks_to_swap_out),
                blocks_swapped_in=len(step.blocks_to_swap_in),
                blocks_copied=len(step.blocks_to_copy),
                schedule_ms=schedule_ms,
                forward_ms=forward_ms,
                sample_ms=sample_ms,
                postprocess_ms=postprocess_ms,
            )
        )
