"""A widget: run the engine one step a click, and see what each part of it did, with real shapes."""

import html
from collections.abc import Iterator
from contextlib import contextmanager

import ipywidgets
from torch import Tensor

from folovllm.course.record import phase_of, recorded
from folovllm.course.widgets.widget import CourseWidget, wide
from folovllm.engine.history import SequenceRecord
from folovllm.llm import LLM
from folovllm.models.runner import ModelRunner
from folovllm.outputs import RequestOutput
from folovllm.sampling_params import SamplingParams
from folovllm.step import SchedulerOutput

_REQUEST_ID = "debugged"


class StepDebugger(CourseWidget):
    """Takes one prompt through the engine, step by step.

    llm: whose model is used; the debugger has an engine of its own, so that nobody else steps its request.
    prompt, max_tokens: of the request.
    ``hops`` holds, for the newest step, a pair (part of the engine, what it did) for each part.
    """

    def __init__(self, llm: LLM, prompt: str = "The capital of France is", *, max_tokens: int = 8) -> None:
        self.llm = llm.with_settings(record_history=True)
        self._params = SamplingParams(temperature=0, max_tokens=max_tokens, logprobs=0)
        self._shapes: tuple[list[int], list[int]] = ([], [])
        self.prompt = ipywidgets.Text(value=prompt, description="prompt", continuous_update=False, layout=wide())
        self.button = ipywidgets.Button(description="Step", button_style="primary", icon="step-forward")
        self.button.on_click(lambda _: self.step())
        self.prompt.observe(lambda _: self.restart(), "value")
        self.status = ipywidgets.HTML()
        self.table = ipywidgets.HTML()
        super().__init__([self.prompt, self.button, self.status, self.table])
        self.restart()

    def restart(self) -> None:
        """Give the prompt to the engine; nothing is computed yet."""
        engine = self.llm.llm_engine
        engine.abort_request(_REQUEST_ID)
        self._output: RequestOutput | None = None
        self._count = 0
        self.hops: list[tuple[str, str]] = []
        try:
            request = engine.add_request(_REQUEST_ID, self.prompt.value, self._params)
        except ValueError as error:
            self._say(f"The engine refused this: {error}")
            return
        ids = request.prompt_token_ids
        self.hops = [("tokenizer", f"{len(ids)} token ids: {ids}"), ("request", f"1 sequence, {request.status}")]
        self._say("Nothing is computed yet. Press Step.")

    def step(self) -> None:
        """Run one engine step and show it; after the end, begin again."""
        engine = self.llm.llm_engine
        if self._output is not None and self._output.finished:
            self.restart()
            return
        with self._watching(engine.model_runner):
            outputs = engine.step()
        if not outputs:  # there is no request: its prompt was refused
            return
        [self._output] = outputs
        self._count += 1
        if self._output.error is not None:
            self._say(f"Step {self._count} failed: {type(self._output.error).__name__}: {self._output.error}.")
            return
        [record] = recorded(self.llm)[-1].sequences
        self.hops = self._describe(record, self._output)
        self._say(f"Step {self._count}: {phase_of(record)}.")

    def summary(self) -> str:
        """Say what every part did in the newest step."""
        lines = [f"StepDebugger: {self.prompt.value!r}, {self._sentence}"]
        return "\n".join(lines + [f"{part:12} {what}" for part, what in self.hops])

    @contextmanager
    def _watching(self, runner: ModelRunner) -> Iterator[None]:
        """Note how many token ids go into the model and what shape comes out, whoever's forward pass runs."""
        execute = runner.execute

        def watched(step: SchedulerOutput) -> Tensor:
            logits = execute(step)
            self._shapes = [sum(len(item.token_ids) for item in step.scheduled)], list(logits.shape)
            return logits

        runner.execute = watched  # type: ignore[method-assign]
        try:
            yield
        finally:
            del runner.execute  # the method is back

    def _describe(self, record: SequenceRecord, output: RequestOutput) -> list[tuple[str, str]]:
        [completion] = output.outputs
        assert completion.logprobs, "the request asks for the log-probabilities of its tokens"
        entry = completion.logprobs[-1][completion.token_ids[-1]]
        first, count = record.num_computed_tokens - record.num_scheduled_tokens, record.num_scheduled_tokens
        places = f"position {first}" if count == 1 else f"positions {first} to {first + count - 1}"
        return [
            ("scheduler", f"{count} token{'s' if count > 1 else ''}, {places}"),
            ("KV blocks", f"{list(record.block_table)}, {record.num_computed_tokens} tokens are in them now"),
            ("model", f"token_ids {self._shapes[0]} -> logits {self._shapes[1]}"),
            ("sampler", f"token {completion.token_ids[-1]}, {entry.decoded_token!r}"),
            ("sequence", f"{record.status}, {record.num_output_tokens} output tokens"),
            ("detokenizer", f"{completion.text!r}"),
        ]

    def _say(self, sentence: str) -> None:
        if self._output is not None and self._output.finished:
            ending = self._output.outputs[0].finish_reason if self._output.outputs else "error"
            sentence += f" Ended: {ending}. Press Step to begin again."
        self._sentence = sentence
        self.status.value = f'<b role="status">{html.escape(sentence)}</b>'
        rows = "".join(
            f'<tr><th style="text-align: left; padding-right: 1em">{part}</th>'
            f'<td style="text-align: left"><code>{html.escape(what)}</code></td></tr>'
            for part, what in self.hops
        )
        self.table.value = f"<table>{rows}</table>"
