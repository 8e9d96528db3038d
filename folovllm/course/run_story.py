"""What happened in a recorded run, ready to be shown: who did what, who holds which block, who had to give way."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from folovllm.course.record import phase_of, recorded
from folovllm.engine.history import SequenceRecord, StepRecord
from folovllm.language import _, counted, ngettext, sentences
from folovllm.llm import LLM
from folovllm.request import SequenceStatus

TINTS = ("#CFE6F5", "#FBDFA6", "#BFE8D9", "#F2CDE1", "#F4F0A0", "#F8C9AE")
"""A background for each request in turn, on which black is read well."""
EDGES = ("#0072B2", "#9A6700", "#00724F", "#A0457A", "#6B6500", "#B34700")
"""The same six in dark, for edges and text on white."""


@dataclass(frozen=True)
class Block:
    """One KV block at the end of a step. owners: labels of those that hold it; none: it is free.

    origin: what is new about it: "new", "copy of 1", "found" (in the prefix cache) or "from host 3" (its content).
    """

    number: int
    owners: tuple[str, ...] = ()
    origin: str = ""


def letter_of(index: int) -> str:
    """Return the letter of request ``index``, counted from 0: A to Z, then AA, BB..."""
    return chr(65 + index % 26) * (1 + index // 26)


class RunStory:
    """A recorded run, step by step. Requests are called A, B, C in the order in which they appear.

    names: what to call them beside that, such as the names of users; one each, or none.
    """

    def __init__(self, llm: LLM, names: Sequence[str] = ()) -> None:
        self.steps: list[StepRecord] = list(recorded(llm))
        self._tokenizer = llm.get_tokenizer()
        config = llm.llm_engine.config
        self.block_size, self.num_blocks = config.cache_config.block_size, config.cache_config.num_gpu_blocks
        self._budget = config.scheduler_config.max_num_batched_tokens
        everybody = [seq for step in self.steps for seq in step.sequences]
        requests = list(dict.fromkeys(seq.request_id for seq in everybody))
        if names and len(names) != len(requests):
            raise ValueError(f"names: this run has {len(requests)} requests, and there are {len(names)} names")
        self._index_of = {request_id: i for i, request_id in enumerate(requests)}
        told = names or [_("request {request_id}").format(request_id=request_id) for request_id in requests]
        self.names = {letter_of(i): name for i, name in enumerate(told)}
        self.seq_ids = sorted(dict.fromkeys(seq.seq_id for seq in everybody), key=self._place_of)
        self._records = [{seq.seq_id: seq for seq in step.sequences} for step in self.steps]
        self._last: dict[str, int] = {seq.seq_id: i for i, step in enumerate(self.steps) for seq in step.sequences}
        self.device_ids = sorted({block for seq in everybody if on_device(seq) for block in seq.block_table})
        self.host_ids = sorted({block for seq in everybody if not on_device(seq) for block in seq.block_table})

    def _place_of(self, seq_id: str) -> tuple[int, int]:
        request_id, number = seq_id.rsplit("-", 1)
        return self._index_of[request_id], int(number)

    def color_index(self, label: str) -> int:
        """Return which of the colours a sequence (or request) has, by its label."""
        letter = label.rstrip("0123456789")
        return list(self.names).index(letter) % len(TINTS)

    def label(self, seq_id: str) -> str:
        """Return a sequence's short name: its request's letter and its number there, such as "B0"."""
        index, number = self._place_of(seq_id)
        return f"{letter_of(index)}{number}"

    # -- who did what ------------------------------------------------------------------------------

    def at(self, step: int, seq_id: str) -> SequenceRecord | None:
        """Return a sequence's record of a step; None before it came and after it ended."""
        return self._records[step].get(seq_id) if step >= 0 else None

    def activity(self, step: int, seq_id: str) -> str | None:
        """Return what a sequence did in a step, in a word or two: a key of the legend; None if it is not there."""
        record, before = self.at(step, seq_id), self.at(step - 1, seq_id)
        if record is None or (before is not None and before.status.is_finished()):
            return None
        phase = phase_of(record)
        if phase is not None:
            if phase == "decode":
                return "gets a token"
            return "reads again" if record.num_output_tokens > 1 else "reads its prompt"
        if record.num_output_tokens > (before.num_output_tokens if before else 0):
            return "shares a prompt"
        if record.status.is_finished():
            return None
        return "stands still" if record.status == SequenceStatus.RUNNING else str(record.status)

    def held_by(self, step: int, seq_id: str) -> int:
        """Return how many blocks a sequence holds at the end of a step, shared ones and those on the host too."""
        record = self.at(step, seq_id)
        return len(record.block_table) if record is not None else 0

    def in_words(self, step: int, seq_id: str) -> str:
        """Say what a sequence did in a step, and why."""
        record = self.at(step, seq_id)
        if record is None:
            return _("has ended") if self._last[seq_id] < step else _("has not come yet")
        did = self.activity(step, seq_id)
        if record.status == SequenceStatus.SWAPPED:
            how = _("gives way: its blocks move") if record.preempted else _("swapped: its blocks moved")
            return _("{how} to host memory; to come back it needs {needed_to_return}").format(
                how=how, needed_to_return=self._needed_to_return(step, record)
            )
        if record.status == SequenceStatus.WAITING:
            if record.preempted:
                return _("gives way: waits, and is computed again later")
            # The scheduler lets nobody in meanwhile, or newcomers could take the place of those for ever.
            return (
                _("waits: somebody is swapped")
                if self._anybody(step, SequenceStatus.SWAPPED)
                else _("waits for its turn")
            )
        said = {
            "reads its prompt": self._reading(record),
            "reads again": self._reading(record),
            "gets a token": _("{coming_back}gets token {num_output_tokens}").format(
                coming_back=self._coming_back(step, record), num_output_tokens=record.num_output_tokens
            ),
            "shares a prompt": _("shares the prompt, gets token {num_output_tokens}").format(
                num_output_tokens=record.num_output_tokens
            ),
            "stands still": _("stands still in this step"),
            None: _("has ended"),
        }[did]
        return _("{said}, and ends").format(said=said) if record.status.is_finished() and did is not None else said

    def _coming_back(self, step: int, record: SequenceRecord) -> str:
        before = self.at(step - 1, record.seq_id)
        if before is None or before.status == SequenceStatus.RUNNING:
            return ""
        if before.status == SequenceStatus.SWAPPED:
            return _("is back from host memory, ")
        return _("is back: {num_computed_tokens} tokens are in the cache, ").format(
            num_computed_tokens=record.num_computed_tokens - record.num_scheduled_tokens
        )

    @staticmethod
    def _reading(record: SequenceRecord) -> str:
        known = record.num_prompt_tokens + record.num_output_tokens - 1
        if record.num_computed_tokens < record.num_prompt_tokens and not record.status.is_finished():
            return _("reads its prompt: {num_computed_tokens} of {num_prompt_tokens} tokens so far").format(
                num_computed_tokens=record.num_computed_tokens, num_prompt_tokens=record.num_prompt_tokens
            )
        count, found = record.num_scheduled_tokens, known - record.num_scheduled_tokens
        # Whoever gave way had computed all but its newest token.
        read = (
            _tokens(count)
            if record.num_output_tokens == 1
            else _("{tokens} again, then its newest").format(tokens=_tokens(count - 1))
        )
        cached = _(", {found} more are in the cache").format(found=found) if found > 0 else ""
        return _("reads {read}{cached}, gets token {num_output_tokens}").format(
            read=read, cached=cached, num_output_tokens=record.num_output_tokens
        )

    def words(self, step: int, seq_id: str) -> tuple[str, str]:
        """Return a sequence's text so far: what it had before the step, and what the step added."""
        if step > self._last[seq_id]:
            return "".join(self.words(self._last[seq_id], seq_id)), ""
        record, before = self.at(step, seq_id), self.at(step - 1, seq_id)
        if record is None:
            return "", ""
        old = self._decode(before.output_token_ids if before else ())
        whole = self._decode(record.output_token_ids)
        return (old, whole[len(old) :]) if whole.startswith(old) else ("", whole)

    def _decode(self, token_ids: tuple[int, ...]) -> str:
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=True)).rstrip("\ufffd")

    # -- who holds which block -----------------------------------------------------------------------

    def device_blocks(self, step: int) -> list[Block]:
        """Return the device's blocks at the end of a step: all that the run ever uses."""
        return self._blocks(step, self.device_ids, host=False)

    def host_blocks(self, step: int) -> list[Block]:
        """Return the host's blocks at the end of a step: all that the run ever uses."""
        return self._blocks(step, self.host_ids, host=True)

    def _blocks(self, step: int, numbers: Iterable[int], *, host: bool) -> list[Block]:
        owners: dict[int, list[str]] = {}
        origins: dict[int, str] = {}
        for seq_id in self.seq_ids:
            record = self.at(step, seq_id)
            if record is None or on_device(record) == host:
                continue
            for place, number in enumerate(record.block_table):
                owners.setdefault(number, []).append(self.label(seq_id))
                origins[number] = origins.get(number) or self._origin(step, record, place)
        return [Block(each, tuple(owners.get(each, ())), origins.get(each, "")) for each in numbers]

    def _origin(self, step: int, record: SequenceRecord, place: int) -> str:
        before, number = self.at(step - 1, record.seq_id), record.block_table[place]
        earlier = before.block_table if before is not None else ()
        if before is not None and on_device(before) != on_device(record) and place < len(earlier):
            moved = _("from device {number}") if on_device(before) else _("from host {number}")
            return moved.format(number=earlier[place])
        start = record.num_computed_tokens - record.num_scheduled_tokens
        if not earlier and record.num_scheduled_tokens and place < start // self.block_size:
            return _("found")
        held = {block for each in self._records[step - 1].values() for block in each.block_table} if step else set()
        if place < len(earlier):
            return (
                _("copy of {earlier}").format(earlier=earlier[place])
                if earlier[place] != number and number not in held
                else ""
            )
        return _("new") if record.num_scheduled_tokens else ""

    def count(self, step: int) -> tuple[int, int, int]:
        """Return how many of the device's blocks are held, shared, and free at the end of a step."""
        held = [block for block in self.device_blocks(step) if block.owners]
        return len(held), sum(len(block.owners) > 1 for block in held), self.steps[step].num_free_blocks

    def needed_next(self, step: int) -> int:
        """Count the free blocks that those who run after a step need for their next tokens."""
        needed, writers, holders = 0, Counter[int](), dict[int, int]()
        for record in self._records[step].values():
            if record.status != SequenceStatus.RUNNING or not record.block_table:
                continue
            rest = record.num_prompt_tokens + record.num_output_tokens - record.num_computed_tokens
            tokens = record.num_computed_tokens + min(rest, self._budget or rest)
            needed += -(-tokens // self.block_size) - len(record.block_table)
            if record.num_computed_tokens % self.block_size:
                writers[record.block_table[-1]] += 1
                holders[record.block_table[-1]] = record.ref_counts[-1]
        # Of r holders of a block that all write into it, r - 1 need a copy.
        return needed + sum(min(count, holders[block] - 1) for block, count in writers.items())

    def _needed_to_return(self, step: int, record: SequenceRecord) -> str:
        """Say how many free blocks a swapped request needs. Beside others the scheduler asks for one more per text.

        Else it might have to move again at once.
        """
        family = [each for each in self._records[step].values() if each.request_id == record.request_id]
        living = [each for each in family if not each.status.is_finished()]
        own = len({block for each in living for block in each.block_table})
        if not self._anybody(step, SequenceStatus.RUNNING):
            alone = ngettext(
                "{own} free block (its own; nobody runs beside it)",
                "{own} free blocks (its own; nobody runs beside it)",
                own,
            )
            return alone.format(own=own)
        return _("{needed} free blocks (its own {own}, and 1 per text, as others run)").format(
            needed=own + len(living), own=own
        )

    def _anybody(self, step: int, status: SequenceStatus) -> bool:
        return any(record.status == status for record in self._records[step].values())

    # -- in sentences ----------------------------------------------------------------------------------

    def gave_way(self, step: int) -> dict[str, SequenceStatus]:
        """Return the letters of the requests that gave way in a step, with what became of them."""
        found = {letter_of(self._index_of[seq.request_id]): seq.preempted for seq in self.steps[step].sequences}
        return {letter: status for letter, status in found.items() if status is not None}

    def shortage(self, step: int) -> str:
        """Say why somebody gave way in a step; "" if nobody did."""
        losers = self.gave_way(step)
        if not losers or step == 0:
            return ""
        needed, free = self.needed_next(step - 1), self.steps[step - 1].num_free_blocks
        moved = {SequenceStatus.SWAPPED: _("moves to host memory"), SequenceStatus.WAITING: _("gives its blocks back")}
        told = _(" and ").join(f"{letter} {moved[status]}" for letter, status in losers.items())
        return _("This step needed {new_blocks} and {were_free}: {told}.").format(
            new_blocks=_new_blocks(needed), were_free=counted(free, "{n} was free", "{n} were free"), told=told
        )

    def sentence(self, step: int) -> str:
        """Say in one line how a step ended."""
        held, shared, free = self.count(step)
        needed = self.needed_next(step)
        said = _(
            "Step {step}: {tokens} through the model. {blocks} held, {shared} of them shared, {free} free; "
            "the next tokens need {new_blocks}."
        ).format(
            step=step,
            tokens=_tokens(self.steps[step].num_batched_tokens),
            blocks=counted(held, "{n} block", "{n} blocks"),
            shared=shared,
            free=free,
            new_blocks=_new_blocks(needed),
        )
        return sentences(said, self.shortage(step))


def on_device(record: SequenceRecord) -> bool:
    """Say whether a sequence's blocks are the device's."""
    return record.status != SequenceStatus.SWAPPED


def _tokens(count: int) -> str:
    return counted(count, "{n} token", "{n} tokens")


def _new_blocks(count: int) -> str:
    return counted(count, "{n} new block", "{n} new blocks")
