"""A widget: see how temperature, top-k, top-p and min-p reshape a real next-token distribution."""

import html
import random
from collections.abc import Sequence
from dataclasses import dataclass

import ipywidgets
import numpy as np
from numpy.typing import NDArray

from folovllm.config import SamplingOrder
from folovllm.course.distribution import Distribution, make_distribution
from folovllm.course.distribution_picture import NUM_DRAWS, NUM_SHOWN, DistributionPicture
from folovllm.course.token_text import token_label
from folovllm.course.widgets.widget import PictureWidget, choice, slider_with_box, wide
from folovllm.engine.detokenizer import decode_token
from folovllm.language import _, clauses
from folovllm.llm import LLM
from folovllm.sampling_params import SamplingParams

_LONG_PROMPT = 400
"""Characters from which on the model takes long enough that the widget says that it reads."""


@dataclass(frozen=True)
class Setting:
    """How the knobs stand."""

    params: SamplingParams
    order: SamplingOrder

    def __str__(self) -> str:
        params = self.params
        knobs = {"temperature": params.temperature, "top_k": params.top_k, "top_p": params.top_p, "min_p": params.min_p}
        return ", ".join(f"{name}={value:g}" for name, value in knobs.items()) + f", order={self.order}"


class SamplingExplorer(PictureWidget):
    """Type a prompt, turn the knobs, and see which tokens can come next.

    The logits are the model's; the filters are the functions that the engine runs.
    "Keep as A" keeps how the knobs stand, and shows it beside what they are moved to.
    """

    def __init__(
        self,
        llm: LLM,
        prompt: str = "The best thing about summer is",
        *,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
    ) -> None:
        self.llm = llm
        self.prompt = ipywidgets.Text(value=prompt, description=_("prompt"), continuous_update=False, layout=wide())
        rows = {
            "temperature": slider_with_box("temperature", float(temperature), 0.0, 2.0, 0.05),
            "top_k": slider_with_box("top-k", top_k, 0, 100, 1),
            "top_p": slider_with_box("top-p", float(top_p), 0.05, 1.0, 0.01),
            "min_p": slider_with_box("min-p", float(min_p), 0.0, 1.0, 0.01),
        }
        self.knobs = {name: row.children[-1] for name, row in rows.items()}
        self.order = choice(_("order"), ["huggingface", "vllm"])
        self.axis = choice(_("axis"), [(_("linear"), "linear"), (_("logarithmic"), "log")])
        self.draw_button = ipywidgets.Button(description=_("Draw {num_draws}").format(num_draws=NUM_DRAWS))
        self.keep_button = ipywidgets.Button()
        self.note = ipywidgets.HTML()
        self.a: Setting | None = None
        self._a_shape: Distribution | None = None
        self._drawn: NDArray[np.int64] | None = None
        self._num_draws = 0
        for control in (*self.knobs.values(), self.order):
            control.observe(lambda _: self.refresh(), "value")
        self.axis.observe(lambda _: self._show(), "value")
        self.prompt.observe(lambda _: self.read_prompt(), "value")
        self.draw_button.on_click(lambda _: self.draw())
        self.keep_button.on_click(lambda _: self.keep_or_forget())
        buttons = ipywidgets.HBox([self.draw_button, self.keep_button], layout=ipywidgets.Layout(flex_flow="row wrap"))
        columns = (
            ipywidgets.VBox(list(rows.values())),
            ipywidgets.VBox([self.order, self.axis, buttons], layout=ipywidgets.Layout(margin="0 0 0 1em")),
        )
        controls = ipywidgets.HBox(columns, layout=ipywidgets.Layout(flex_flow="row wrap"))
        super().__init__([self.prompt, controls], below=[self.note])
        self.read_prompt()

    @property
    def params(self) -> SamplingParams:
        """The sampling parameters that the knobs stand for."""
        return SamplingParams(**{name: knob.value for name, knob in self.knobs.items()})

    @property
    def setting(self) -> Setting:
        """How the knobs stand, the order included."""
        return Setting(self.params, self.order.value)

    def read_prompt(self) -> None:
        """Run the model on the prompt, and show what may come next."""
        prompt, self._problem = self.prompt.value, ""
        if len(prompt) > _LONG_PROMPT:
            self.hide(_("reading {num_prompt:,} characters ...").format(num_prompt=len(prompt)))
        try:
            logits = self.llm.compute_logits(prompt).cpu()
        except ValueError as error:
            self._problem, self.note.value = _("The engine refused this: {error}").format(error=error), ""
            self.refuse(self._problem)
        else:
            if self.comm is None:  # its cell was run again meanwhile
                return
            self.logits = logits
        self._begin()

    def refresh(self) -> None:
        """Recompute the distribution from the knobs and redraw."""
        if self._problem:
            return
        self.shape = make_distribution(self.logits, self.params, self.order.value)
        self._drawn = None
        self._show()

    def draw(self) -> None:
        """Draw ``NUM_DRAWS`` tokens, others at each press, and show how often each of the likeliest came."""
        if self._problem:
            return
        numbers = random.Random(self._num_draws)
        self._num_draws += 1
        self._drawn = self.shape.draw([numbers.random() for _ in range(NUM_DRAWS)])
        self._show()

    def keep_or_forget(self) -> None:
        """Keep how the knobs stand as A, or, where there is an A, forget it."""
        self.a = self.setting if self.a is None else None
        self._begin()

    def summary(self) -> str:
        """Say what the widget shows."""
        lines = [_("SamplingExplorer: {value!r}, {setting}").format(value=self.prompt.value, setting=self.setting)]
        if self._problem:
            return "\n".join([*lines, self._problem])
        lines.append(" -> ".join(f"{step.name}: {step.num_left}" for step in self.shape.steps) + _(" tokens left"))
        return "\n".join([*lines, *self._sentences()])

    def _begin(self) -> None:
        """Draw anew what belongs to the prompt and to A."""
        self.keep_button.description = _("Keep as A") if self.a is None else _("Forget A")
        if self._problem:
            return
        self._a_shape = None if self.a is None else make_distribution(self.logits, self.a.params, self.a.order)
        self._picture = DistributionPicture(has_a=self.a is not None)
        before = self.logits.double().softmax(-1).numpy()
        head = np.argsort(-before, kind="stable")[:NUM_SHOWN]
        tokenizer = self.llm.get_tokenizer()
        labels = [token_label(tokenizer, int(token)) for token in head]
        texts = [decode_token(tokenizer, int(token)) for token in head]
        self._picture.begin(before, labels, self._a_shape)
        self.note.value = _explain(labels, texts)
        self.refresh()

    def _sentences(self) -> list[str]:
        now = self.shape.sentence()
        if self._drawn is not None:
            now += _("; {num_draws} draws gave {num_unique} different tokens").format(
                num_draws=NUM_DRAWS, num_unique=len(np.unique(self._drawn))
            )
        return (
            [now]
            if self._a_shape is None
            else [
                _("A ({setting}): {told}").format(setting=self.a, told=self._a_shape.sentence()),
                _("now: {now}").format(now=now),
            ]
        )

    def _show(self) -> None:
        if not self._problem:
            png = self._picture.update(self.shape, self._drawn, self.axis.value == "log")
            self.show("\n".join(self._sentences()), png)


def _explain(labels: Sequence[str], texts: Sequence[str]) -> str:
    """Return, for the page, whose fonts are the browser's, what the codes in a picture's labels stand for."""
    pairs = list(zip(labels, texts, strict=True))
    coded = [_("{label} is {text}").format(label=label, text=text) for label, text in pairs if "<U+" in label]
    if any(label.startswith("<") and "\ufffd" in text for label, text in pairs):
        coded.append(_("two letters or digits, as in <e4 b8>: a byte; such a token is a part of a character"))
    return html.escape(clauses(coded))
