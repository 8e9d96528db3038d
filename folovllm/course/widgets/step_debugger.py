"""A widget: run the engine one step per click, and see on its map what each part did, with real shapes."""

import base64
import functools
import html
from collections.abc import Sequence

import ipywidgets

from folovllm.course.flow_diagram import PARTS, describe_data_flow, draw_data_flow
from folovllm.course.step_story import Hop, Moment, StepStory
from folovllm.course.style import LivePicture, new_figure
from folovllm.course.widgets.card import card, label, names, table
from folovllm.course.widgets.widget import CourseWidget, slider_with_box, spoken, wide
from folovllm.language import N_, _, counted, current_language, labelled, sentences
from folovllm.llm import LLM
from folovllm.sampling_params import SamplingParams

ARRIVALS = ("Once upon a time", "My favourite colour is", "Two and two are")
"""What the users ask who arrive while others are served."""


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
        self._story = StepStory(self.llm, SamplingParams(temperature=0, max_tokens=max_tokens, logprobs=0))
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
        self._story.forget()
        self.moments: list[Moment] = []
        try:
            hops, cached = self._story.add(self.prompt.value)
        except ValueError as error:
            self._remember(Moment(_("The engine refused this: {error}").format(error=error)))
            return
        found = (
            _("The prefix cache still holds the first {cached} of its tokens.").format(cached=cached) if cached else ""
        )
        self._remember(Moment(sentences(_("Nothing is computed yet."), found, _("Press Step.")), hops))

    def arrive(self) -> None:
        """Let a user arrive while others are served; the request waits for the next step."""
        if not self._story.outputs or self._story.all_ended():
            self.restart()
        if not self._story.outputs:  # the first prompt is refused
            return
        prompt = self._arrivals[(len(self._story.outputs) - 1) % len(self._arrivals)]
        hops, _cached = self._story.add(prompt)
        letter = list(self._story.outputs)[-1]
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
        elif self._story.outputs and self._story.all_ended():
            self.restart()
        elif self._story.outputs:  # else the prompt was refused
            moment = self._story.step()
            if self._story.all_ended():
                moment.sentence = sentences(moment.sentence, _("Press Begin again."))
            self._remember(moment)

    def next_hop(self) -> None:
        """Light up the next part of the engine; after the last one, the first part of the next step."""
        if self._hop < len(self.moments[self._at].hops) - 1:
            self._hop += 1
            self._draw()
        else:
            self.step()

    # -- showing ---------------------------------------------------------------------------------------

    @property
    def hops(self) -> list[tuple[str, str]]:
        """What each part did at the moment that is shown; a line per request where there are several."""
        several = len(self._story.outputs) > 1
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
        prompts = self._story.prompts
        who = names((letter, repr(prompt)) for letter, prompt in prompts.items()) if len(prompts) > 1 else ""
        self.picture.value = card(who, image, table((), rows, self._hop))

    def _told(self) -> str:
        moment, last = self.moments[self._at], len(self.moments) - 1
        later = counted(last - self._at, "{n} later moment", "{n} later moments")
        past = _("You look back: {later}.").format(later=later) if self._at < last else ""
        here = _("Here: {part}.").format(part=_(moment.hops[self._hop].part)) if moment.hops else ""
        return sentences(moment.sentence, here, past)

    def _cell(self, hop: Hop) -> str:
        several = len(self._story.outputs) > 1
        lines = []
        for letter, what in hop.lines:
            name = label(letter, list(self._story.outputs).index(letter)) + " " if letter and several else ""
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
