"""An engine that is taken step by step, and what each of its parts did in each step, with real shapes."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor

from folovllm.course.record import phase_of, recorded
from folovllm.course.run_story import letter_of
from folovllm.engine.history import SequenceRecord
from folovllm.language import _, counted, listed, sentences
from folovllm.llm import LLM
from folovllm.models.runner import ModelRunner
from folovllm.outputs import CompletionOutput, RequestOutput
from folovllm.request import Request
from folovllm.sampling_params import SamplingParams
from folovllm.step import SchedulerOutput


@dataclass
class Hop:
    """What one part of the engine did. lines: (letter of the request, what), "" for all requests together."""

    part: str
    lines: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class Moment:
    """Something to go back to: a step, an arrival, or the beginning."""

    sentence: str
    hops: list[Hop] = field(default_factory=list)


@dataclass
class _Share:
    """One request's part in a step, noted while the step has its blocks: an ended request has given them back."""

    first: int
    count: int
    blocks: list[int]


class StepStory:
    """Runs requests A, B, C... of one kind, and says of each step what every part of the engine did with them.

    llm: it records its history, and nobody else steps its requests.  params: of every request.
    ``prompts`` and ``outputs`` are by the letter of the request; an output is None until its first step.
    """

    def __init__(self, llm: LLM, params: SamplingParams) -> None:
        self.llm = llm
        self._params = params
        self.outputs: dict[str, RequestOutput | None] = {}
        self.prompts: dict[str, str] = {}
        self._count = 0

    def forget(self) -> None:
        """Abort all requests, and count steps from 1 again."""
        for request_id in self.outputs:
            self.llm.llm_engine.abort_request(request_id)
        self.outputs.clear()
        self.prompts.clear()
        self._count = 0

    def add(self, prompt: str) -> tuple[list[Hop], int]:
        """Give a prompt to the engine; return what happened, and how many of its tokens the prefix cache holds."""
        engine, letter = self.llm.llm_engine, letter_of(len(self.outputs))
        request = engine.add_request(letter, prompt, self._params)
        self.outputs[letter], self.prompts[letter] = None, prompt
        ids = request.prompt_token_ids
        cached = self._count_cached(request)
        told = _("1 sequence, {status}").format(status=request.status)
        if cached:
            told += _("; the prefix cache holds its first {cached} tokens").format(cached=cached)
        return [
            Hop("tokenizer", [(letter, _("{num_ids} token ids: {ids}").format(num_ids=len(ids), ids=ids))]),
            Hop("request", [(letter, told)]),
        ], cached

    def _count_cached(self, request: Request) -> int:
        manager = self.llm.llm_engine.scheduler.block_manager
        return len(manager.find_cached_prefix(request.sequences[0])) * manager.block_size

    def step(self) -> Moment:
        """Run one step, and return what happened in it."""
        engine = self.llm.llm_engine
        with self._watching(engine.model_runner):
            outputs = engine.step()
        self._count += 1
        self.outputs |= {output.request_id: output for output in outputs}
        failed = [output for output in outputs if output.error is not None]
        if failed:
            error = failed[0].error
            told = _("Step {count} failed: {name}: {error}.").format(
                count=self._count, name=type(error).__name__, error=error
            )
            return Moment(sentences(told, self._ending([output.request_id for output in failed])))
        records = {record.request_id: record for record in recorded(self.llm)[-1].sequences}
        return Moment(self._sentence_of(records), self._describe(records))

    @contextmanager
    def _watching(self, runner: ModelRunner) -> Iterator[None]:
        """Note what goes into the model and what shape comes out, whoever's forward pass runs."""
        execute = runner.execute

        def watched(step: SchedulerOutput) -> Tensor:
            logits = execute(step)
            self._shapes = [step.num_batched_tokens], list(logits.shape)
            self._shares = {
                item.request.request_id: _Share(item.start, len(item.token_ids), list(item.sequence.block_ids))
                for item in step.scheduled
            }
            return logits

        runner.execute = watched  # type: ignore[method-assign]
        try:
            yield
        finally:
            del runner.execute  # the method is back

    def _describe(self, records: dict[str, SequenceRecord]) -> list[Hop]:
        """Say what each part did in the step that has just run."""
        hops = {name: Hop(name) for name in ("scheduler", "KV blocks", "model", "sampler", "sequence", "detokenizer")}
        hops["output"] = Hop("output")
        (ids,), (rows, vocab_size) = self._shapes
        shapes = {"ids": counted(ids, "{n} id", "{n} ids"), "rows": counted(rows, "{n} row", "{n} rows")}
        computed = _("{ids} -> {rows} of {vocab_size} logits").format(**shapes, vocab_size=vocab_size)
        hops["model"].lines.append(("", computed))
        for letter, record in records.items():
            share, output = self._shares.get(letter), self.outputs[letter]
            if share is None or output is None:
                hops["scheduler"].lines.append(
                    (letter, _("{status}, no token in this step").format(status=record.status))
                )
                continue
            [completion] = output.outputs
            for part, what in _lines_of(share, record, completion).items():
                hops[part].lines.append((letter, what))
        return list(hops.values())

    def _sentence_of(self, records: dict[str, SequenceRecord]) -> str:
        phases = {letter: phase_of(record) for letter, record in records.items() if letter in self._shares}
        if len(self.outputs) == 1:
            told = _("Step {count}: {str}").format(count=self._count, str=listed(phases.values()))
        else:
            each = listed(f"{letter} {phase}" for letter, phase in phases.items())
            told = _("Step {count}: {each}; {tokens} in one pass").format(
                count=self._count, each=each, tokens=counted(self._shapes[0][0], "{n} token", "{n} tokens")
            )
        for letter, share in self._shares.items():
            record = records[letter]
            if phases[letter] == "prefill" and 0 < share.first == record.num_cached_tokens:
                told += _("; {first} tokens of {letter}'s prompt found in the prefix cache").format(
                    first=share.first, letter=letter
                )
        return sentences(_("{told}.").format(told=told), self._ending(phases))

    def _ending(self, letters: Collection[str]) -> str:
        """Say which of these requests have ended, and why."""
        outputs = {letter: self.outputs[letter] for letter in letters}
        ended = {letter: output for letter, output in outputs.items() if output is not None and output.finished}
        reasons = {letter: out.outputs[0].finish_reason if out.outputs else "error" for letter, out in ended.items()}
        if not reasons:
            return ""
        one = len(self.outputs) == 1
        told = listed(str(reason) if one else f"{letter} {reason}" for letter, reason in reasons.items())
        return _("Ended: {told}.").format(told=told)

    def all_ended(self) -> bool:
        """Return whether no request goes on."""
        return all(output is not None and output.finished for output in self.outputs.values())


def _lines_of(share: _Share, record: SequenceRecord, completion: CompletionOutput) -> dict[str, str]:
    """Say of one request what each part did with it in a step."""
    ended, last = record.status.is_finished(), share.first + share.count - 1
    places = (
        _("position {last}").format(last=last)
        if share.count == 1
        else _("positions {first} to {last}").format(first=share.first, last=last)
    )
    scheduled = _("{tokens}, {places}").format(tokens=counted(share.count, "{n} token", "{n} tokens"), places=places)
    if phase_of(record) == "prefill" and 0 < share.first == record.num_cached_tokens:
        scheduled += _("; positions 0 to {first} are found in the prefix cache").format(first=share.first - 1)
    filled = _("{blocks}, {count} tokens are in them now").format(blocks=share.blocks, count=last + 1)
    if ended:
        filled += _("; now they are given back")
    lines = {
        "scheduler": scheduled,
        "KV blocks": filled,
        "sampler": _("nothing to draw yet: the prompt is not read to its end"),
        "sequence": _("{status}, {tokens}").format(
            status=record.status, tokens=counted(record.num_output_tokens, "{n} output token", "{n} output tokens")
        ),
        "detokenizer": repr(completion.text),
        "output": _("finished, finish_reason {finish_reason!r}").format(finish_reason=completion.finish_reason)
        if ended
        else _("not finished"),
    }
    if completion.token_ids:
        assert completion.logprobs, "the request asks for the log-probabilities of its tokens"
        token = completion.token_ids[-1]
        lines["sampler"] = _("token {token}, {decoded_token!r}").format(
            token=token, decoded_token=completion.logprobs[-1][token].decoded_token
        )
    return lines
