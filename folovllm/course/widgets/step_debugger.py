"""A widget: run the engine one step per click, and see on its map what each part did, with real shapes."""

import base64
import functools
import html
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import ipywidgets
from torch import Tensor

from folovllm.course.flow_diagram import PARTS, describe_data_flow, draw_data_flow
from folovllm.course.record import phase_of, recorded
from folovllm.course.run_story import letter_of
from folovllm.course.style import LivePicture, new_figure
from folovllm.course.widgets.card import card, label, names, table
from folovllm.course.widgets.widget import CourseWidget, slider_with_box, spoken, wide
from folovllm.engine.history import SequenceRecord
from folovllm.language import N_, _, counted, current_language, labelled, listed, sentences
from folovllm.llm import LLM
from folovllm.models.runner import ModelRunner
from folovllm.outputs import CompletionOutput, RequestOutput
from folovllm.request import Request
from folovllm.sampling_params import SamplingParams
from folovllm.step import SchedulerOutput

ARRIVALS = ("Once upon a time", "My favourite colour is", "Two and two are")
"""What the users ask who arrive while others are served."""


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


class StepDebugger(CourseWidget):
    """Takes prompts through the engine, step by step and hop by hop.

    llm: whose model is used; the debugger has an engine of its own, so that nobody else steps its requests.
    prompt, max_tokens: of the first request, A.  arrivals: the prompts of those who arrive later, B, C...
    block_size: tokens per KV block; default the engine's.
    ``hops`` holds, for the moment that is shown, a pair (part of the engine, what it did) for each part.
    """

    def __init__(
        self,
        llm: LLM,
        prompt: str = "The capital of France is",
        *,
        max_tokens: int = 8,
        arrivals: Sequence[str] = ARRIVALS,
        block_size: int | None = None,
    ) -> None:
        settings = {} if block_size is None else {"block_size": block_size}
        self.llm = llm.with_settings(record_history=True, **settings)
        self._params = SamplingParams(temperature=0, max_tokens=max_tokens, logprobs=0)
        self._arrivals = tuple(arrivals)
        self.prompt = ipywidgets.Text(value=prompt, description=_("prompt"), continuous_update=False, layout=wide())
        self.buttons = {
            name: ipywidgets.Button(description=_(name), icon=icon, layout=ipywidgets.Layout(width="auto"))
            for name, icon in (
                (N_("Step"), "step-forward"),
                (N_("Next hop"), "map-marker"),
                (N_("A user arrives"), "user-plus"),
                (N_("Begin again"), "refresh"),
            )
        }
        self.buttons["Step"].button_style = "primary"
        actions = (self.step, self.next_hop, self.arrive, self.restart)
        for button, action in zip(self.buttons.values(), actions, strict=True):
            button.on_click(lambda _, action=action: action())
        self._history_row = slider_with_box(_("history"), 0, 0, 0, 1)
        self.history = self._history_row.children[-1]
        self.history.observe(lambda _: self._look_at(self.history.value), "value")
        self.prompt.observe(lambda _: self.restart(), "value")
        self.status, self.picture = ipywidgets.HTML(), ipywidgets.HTML()
        row = ipywidgets.HBox(list(self.buttons.values()), layout=ipywidgets.Layout(flex_flow="row wrap"))
        super().__init__([self.prompt, row, self._history_row, self.status, self.picture])
        _pictures(current_language())
        self.restart()

    # -- what one can do ----------------------------------------------------------------------------

    def restart(self) -> None:
        """Give the first prompt to the engine; nothing is computed yet."""
        for request_id in getattr(self, "_outputs", {}):
            self.llm.llm_engine.abort_request(request_id)
        self._outputs: dict[str, RequestOutput | None] = {}
        self._prompts: dict[str, str] = {}
        self._count = 0
        self.moments: list[Moment] = []
        try:
            hops, cached = self._add(self.prompt.value)
        except ValueError as error:
            self._remember(Moment(_("The engine refused this: {error}").format(error=error)))
            return
        found = (
            _("The prefix cache still holds the first {cached} of its tokens.").format(cached=cached) if cached else ""
        )
        self._remember(Moment(sentences(_("Nothing is computed yet."), found, _("Press Step.")), hops))

    def arrive(self) -> None:
        """Let a user arrive while others are served; the request waits for the next step."""
        if not self._outputs or self._all_ended():
            self.restart()
        if not self._outputs:  # the first prompt is refused
            return
        prompt = self._arrivals[(len(self._outputs) - 1) % len(self._arrivals)]
        hops, _cached = self._add(prompt)
        letter = list(self._outputs)[-1]
        self._remember(
            Moment(
                _("A user arrives: {letter} asks {prompt!r}, and waits for the next step.").format(
                    letter=letter, prompt=prompt
                ),
                hops,
            )
        )

    def step(self) -> None:
        """Show the step after the one that is shown; where there is none yet, run it. After the end, begin again."""
        if self._at < len(self.moments) - 1:
            self.history.value = self._at + 1
        elif self._outputs and self._all_ended():
            self.restart()
        elif self._outputs:  # else the prompt was refused
            self._run_step()

    def next_hop(self) -> None:
        """Light up the next part of the engine; after the last one, the first part of the next step."""
        if self._hop < len(self.moments[self._at].hops) - 1:
            self._hop += 1
            self._draw()
        else:
            self.step()

    # -- what is behind it ----------------------------------------------------------------------------

    def _add(self, prompt: str) -> tuple[list[Hop], int]:
        """Give a prompt to the engine; return what happened, and how many of its tokens the prefix cache holds."""
        engine, letter = self.llm.llm_engine, letter_of(len(self._outputs))
        request = engine.add_request(letter, prompt, self._params)
        self._outputs[letter], self._prompts[letter] = None, prompt
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

    def _run_step(self) -> None:
        engine = self.llm.llm_engine
        with self._watching(engine.model_runner):
            outputs = engine.step()
        self._count += 1
        self._outputs |= {output.request_id: output for output in outputs}
        failed = [output for output in outputs if output.error is not None]
        if failed:
            error = failed[0].error
            told = _("Step {count} failed: {name}: {error}.").format(
                count=self._count, name=type(error).__name__, error=error
            )
            self._remember(Moment(sentences(told, self._ending([output.request_id for output in failed]))))
            return
        records = {record.request_id: record for record in recorded(self.llm)[-1].sequences}
        self._remember(Moment(self._sentence_of(records), self._describe(records)))

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
            share, output = self._shares.get(letter), self._outputs[letter]
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
        if len(self._outputs) == 1:
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
        outputs = {letter: self._outputs[letter] for letter in letters}
        ended = {letter: output for letter, output in outputs.items() if output is not None and output.finished}
        reasons = {letter: out.outputs[0].finish_reason if out.outputs else "error" for letter, out in ended.items()}
        if not reasons:
            return ""
        one = len(self._outputs) == 1
        told = listed(str(reason) if one else f"{letter} {reason}" for letter, reason in reasons.items())
        return sentences(_("Ended: {told}.").format(told=told), _("Press Begin again.") if self._all_ended() else "")

    def _all_ended(self) -> bool:
        return all(output is not None and output.finished for output in self._outputs.values())

    # -- showing ---------------------------------------------------------------------------------------

    @property
    def hops(self) -> list[tuple[str, str]]:
        """What each part did at the moment that is shown; a line per request where there are several."""
        several = len(self._outputs) > 1
        return [
            (
                _(hop.part),
                "\n".join(labelled(letter, what) if letter and several else what for letter, what in hop.lines),
            )
            for hop in self.moments[self._at].hops
        ]

    def _remember(self, moment: Moment) -> None:
        """Add a moment to the history, and show it."""
        self.moments.append(moment)
        last = len(self.moments) - 1
        for control in self._history_row.children:
            control.value = min(control.value, last)
            control.max = last
        self.history.value = last
        self._look_at(last)  # also where the number is the same as before

    def _look_at(self, index: int) -> None:
        if index < len(self.moments):
            self._at, self._hop = index, 0
            self._draw()

    def _draw(self) -> None:
        moment = self.moments[self._at]
        self.status.value = spoken(self._told())
        if not moment.hops:
            self.picture.value = ""
            return
        lit = moment.hops[self._hop].part
        data = base64.b64encode(_pictures(current_language())[lit]).decode()
        image = f'<img alt="{html.escape(describe_data_flow(lit))}" src="data:image/png;base64,{data}">'
        rows = [(html.escape(_(hop.part)), self._cell(hop)) for hop in moment.hops]
        who = (
            names((letter, repr(prompt)) for letter, prompt in self._prompts.items()) if len(self._prompts) > 1 else ""
        )
        self.picture.value = card(who, image, table((), rows, self._hop))

    def _told(self) -> str:
        moment, last = self.moments[self._at], len(self.moments) - 1
        later = counted(last - self._at, "{n} later moment", "{n} later moments")
        past = _("You look back: {later}.").format(later=later) if self._at < last else ""
        here = _("Here: {part}.").format(part=_(moment.hops[self._hop].part)) if moment.hops else ""
        return sentences(moment.sentence, here, past)

    def _cell(self, hop: Hop) -> str:
        several = len(self._outputs) > 1
        lines = []
        for letter, what in hop.lines:
            name = label(letter, list(self._outputs).index(letter)) + " " if letter and several else ""
            lines.append(f"<div>{name}<code>{html.escape(what)}</code></div>")
        return "".join(lines)

    def summary(self) -> str:
        """Say what every part did at the moment that is shown."""
        lines = [
            _("StepDebugger: {value!r}, {sentence}").format(
                value=self.prompt.value, sentence=self.moments[self._at].sentence
            )
        ]
        for part, what in self.hops:
            first, *rest = what.split("\n")
            lines += [f"{part:12} {first}", *(f"{'':12} {line}" for line in rest)]
        return "\n".join(lines)


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


@functools.cache
def _pictures(language: str) -> dict[str, bytes]:
    """Return the map of the engine, lit up at each of its parts, as PNG: drawn once per language, shown often."""
    figure, axes = new_figure(10, 4.8)
    diagram = draw_data_flow(axes)
    live = LivePicture(figure, diagram.moving)
    live.keep_background()
    pictures = {}
    for part in PARTS:
        diagram.light(part)
        pictures[part] = live.redraw()
    return pictures
