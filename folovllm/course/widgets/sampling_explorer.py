"""A widget: see how temperature, top-k, top-p and min-p reshape a real next-token distribution."""

import random

import ipywidgets
import numpy as np
from matplotlib.font_manager import findfont, get_font
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from folovllm.course.distribution import Distribution, make_distribution
from folovllm.course.style import BLUE, GREY, ORANGE, LivePicture, new_figure
from folovllm.course.widgets.widget import PictureWidget, choice, slider_with_box, wide
from folovllm.engine.detokenizer import decode_token
from folovllm.llm import LLM
from folovllm.sampling_params import SamplingParams

NUM_SHOWN = 20
"""Likeliest tokens that get a bar; the numbers are of the whole vocabulary."""
NUM_DRAWS = 200


class DistributionPicture(LivePicture):
    """Bars of the likeliest tokens and the cumulative curve. What belongs to the prompt is its background."""

    def __init__(self) -> None:
        figure, (bars, curve) = new_figure(10, 5.4, ncols=2, width_ratios=(3, 2))
        self.bars = bars
        places = np.arange(NUM_SHOWN)
        self._before = bars.barh(places - 0.2, np.zeros(NUM_SHOWN), 0.38, color=GREY, label="model")
        blue = {"color": BLUE, "hatch": "///", "edgecolor": "white"}
        self._after = bars.barh(places + 0.2, np.zeros(NUM_SHOWN), 0.38, label="drawn from", **blue)
        diamonds = {"color": ORANGE, "markersize": 6, "clip_on": False, "in_layout": False}
        [self._drawn] = bars.plot([], [], "D", **diamonds, label=f"{NUM_DRAWS} draws")
        bars.set(xlim=(0, 1), ylim=(NUM_SHOWN - 0.4, -0.6), xlabel="probability")
        bars.xaxis.set_major_formatter(PercentFormatter(1))
        bars.legend(loc="lower right", fontsize=10)
        [self._cumulative] = curve.plot([], [], color=GREY, linewidth=2, label="after temperature")
        # The marker at its end shows the curve where only one token is kept.
        thick = {"color": BLUE, "linewidth": 5, "alpha": 0.7, "marker": "o", "markersize": 9, "markevery": [-1]}
        [self._kept] = curve.plot([], [], **thick, label="kept")
        self._line = curve.axhline(1.0, color=ORANGE, linestyle="--", label="top-p")
        curve.set(xscale="log", ylim=(0, 1.03), xlabel="tokens, likeliest first", title="cumulative probability")
        curve.yaxis.set_major_formatter(PercentFormatter(1))
        curve.legend(loc="lower right", fontsize=10)
        self._curve = curve
        # An exported page shows the picture without the line of text above it: so the picture says it too.
        self._sentence = figure.suptitle(" ", fontsize=12, fontweight="bold")
        moving = [*self._after, self._drawn, self._cumulative, self._kept, self._line, self._sentence]
        super().__init__(figure, moving)

    def begin(self, before: NDArray[np.float64], names: list[str]) -> None:
        """Draw what belongs to a prompt. before: [vocab], the model's probabilities.  names: of the likeliest."""
        self._order = np.argsort(-before, kind="stable")
        head = before[self._order[:NUM_SHOWN]]
        for bar, value in zip(self._before, head, strict=True):
            bar.set_width(value)
        self.bars.set_yticks(np.arange(NUM_SHOWN), names, family="monospace")
        self.bars.set_title(f"the {NUM_SHOWN} likeliest tokens; the others have {1 - head.sum():.1%}")
        self._curve.set_xlim(0.9, len(before))
        self.keep_background()

    def update(self, shape: Distribution, top_p: float, drawn: NDArray[np.int64] | None) -> bytes:
        """Show a distribution over the prompt's background; return the picture as PNG."""
        head = self._order[:NUM_SHOWN]
        for bar, value in zip(self._after, shape.after[head], strict=True):
            bar.set_width(value)
        counts = [] if drawn is None else [(drawn == token).sum() / NUM_DRAWS for token in head]
        self._drawn.set_data(counts, range(len(counts)))
        rising = np.cumsum(shape.tempered[self._order])  # temperature does not change who is likelier
        # A log axis shows a few hundred places; more points would only take time.
        ranks = np.unique(np.geomspace(1, len(rising), 300).astype(int))
        self._cumulative.set_data(ranks, rising[ranks - 1])
        kept = ranks[ranks <= shape.num_kept]
        self._kept.set_data(kept, rising[kept - 1])
        self._line.set_ydata([top_p, top_p])
        self._sentence.set_text(shape.sentence())
        return self.redraw()


class SamplingExplorer(PictureWidget):
    """Type a prompt, turn the knobs, and see which tokens can come next.

    The logits are the model's; the filters are the functions that the engine runs.
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
        self._picture = DistributionPicture()
        self.prompt = ipywidgets.Text(value=prompt, description="prompt", continuous_update=False, layout=wide())
        rows = {
            "temperature": slider_with_box("temperature", float(temperature), 0.0, 2.0, 0.05),
            "top_k": slider_with_box("top-k", top_k, 0, 100, 1),
            "top_p": slider_with_box("top-p", float(top_p), 0.05, 1.0, 0.01),
            "min_p": slider_with_box("min-p", float(min_p), 0.0, 1.0, 0.01),
        }
        self.knobs = {name: row.children[-1] for name, row in rows.items()}
        self.order = choice("order", ["huggingface", "vllm"])
        self.draw_button = ipywidgets.Button(description=f"Draw {NUM_DRAWS}")
        self._drawn: NDArray[np.int64] | None = None
        for control in (*self.knobs.values(), self.order):
            control.observe(lambda _: self.refresh(), "value")
        self.prompt.observe(lambda _: self.read_prompt(), "value")
        self.draw_button.on_click(lambda _: self.draw())
        columns = ipywidgets.VBox(list(rows.values())), ipywidgets.VBox([self.order, self.draw_button])
        controls = ipywidgets.HBox(columns, layout=ipywidgets.Layout(flex_flow="row wrap"))
        super().__init__([self.prompt, controls])
        self.read_prompt()

    @property
    def params(self) -> SamplingParams:
        """The sampling parameters that the knobs stand for."""
        return SamplingParams(**{name: knob.value for name, knob in self.knobs.items()})

    def read_prompt(self) -> None:
        """Run the model on the prompt, and show what may come next."""
        try:
            self.logits = self.llm.compute_logits(self.prompt.value).cpu()
        except ValueError as error:
            self.say(f"The engine refused this: {error}")
            return
        tokenizer = self.llm.get_tokenizer()
        before = self.logits.double().softmax(-1).numpy()
        likeliest = np.argsort(-before, kind="stable")[:NUM_SHOWN]
        self._picture.begin(before, [visible_text(decode_token(tokenizer, int(token))) for token in likeliest])
        self.refresh()

    def refresh(self) -> None:
        """Recompute the distribution from the knobs and redraw."""
        self.shape = make_distribution(self.logits, self.params, self.order.value)
        self._drawn = None
        self._show()

    def draw(self) -> None:
        """Draw ``NUM_DRAWS`` tokens and show how often each of the likeliest came."""
        numbers = random.Random(0)
        self._drawn = self.shape.draw([numbers.random() for _ in range(NUM_DRAWS)])
        self._show()

    def summary(self) -> str:
        """Say what the widget shows."""
        knobs = ", ".join(f"{name}={knob.value:g}" for name, knob in self.knobs.items())
        return f"SamplingExplorer: {self.prompt.value!r}, {knobs}, order={self.order.value}\n{self.shape.sentence()}"

    def _show(self) -> None:
        sentence = self.shape.sentence()
        if self._drawn is not None:
            sentence += f"; {NUM_DRAWS} draws gave {len(np.unique(self._drawn))} different tokens"
        self.show(sentence, self._picture.update(self.shape, self.knobs["top_p"].value, self._drawn))


def visible_text(text: str) -> str:
    """Return a token's text for a label: white space made visible, what the font lacks as a code, not too long."""
    drawable = get_font(findfont("monospace")).get_charmap()
    text = text.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥")
    shown = "".join(char if ord(char) in drawable else f"<{ord(char):x}>" for char in text)
    return shown if len(shown) <= 14 else shown[:13] + "…"
