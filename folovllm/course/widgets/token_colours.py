"""A widget: generated text, each token coloured by how probable it was, with what else might have come."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

import ipywidgets
from transformers import PreTrainedTokenizerBase

from folovllm.course.token_text import text_or_bytes
from folovllm.course.widgets.widget import CourseWidget, slider_with_box, spoken, wide
from folovllm.engine.detokenizer import Detokenizer, decode_token
from folovllm.language import N_, _, counted, labelled, listed
from folovllm.llm import LLM
from folovllm.outputs import CompletionOutput
from folovllm.sampling_params import SamplingParams

NUM_ALTERNATIVES = 4
# What is told of a token stands in a place of its own under the text, so it covers nothing.
_STYLE = """<style>
.folovllm-tokens { position: relative; padding-bottom: 9.5em; line-height: 1.9; max-width: 54em }
.folovllm-token { white-space: pre-wrap; color: #1a1a1a; padding-bottom: 1px; cursor: help }
.folovllm-token:hover, .folovllm-token:focus { outline: 2px solid #1a1a1a; outline-offset: -2px }
.folovllm-token > span, .folovllm-hint { position: absolute; left: 0; right: 0; bottom: 0; height: 9em;
  box-sizing: border-box; padding: 6px 12px; border: 1px solid #777; line-height: 1.4; overflow: auto }
.folovllm-token > span { display: none; white-space: pre; background: white; color: #1a1a1a; font-family: monospace }
.folovllm-token:hover > span, .folovllm-token:focus > span { display: block; z-index: 2 }
.folovllm-token:hover > span { z-index: 3 }
</style>"""
_HINT = N_("Point at a token, or move to it with Tab: here stands what else might have come.")


@dataclass(frozen=True)
class Band:
    """How the tokens of some probabilities look.

    below: they are less probable than that.  line: of the line under them, so that the colour is not all.
    """

    below: float
    colour: str
    edge: str
    line: str
    name: str
    words: str


BANDS = (
    Band(0.1, "#F3C5A5", "#B34700", "dotted", N_("red"), N_("below 10 %")),
    Band(0.5, "#FBE8B8", "#8F6000", "dashed", N_("yellow"), N_("10 to 50 %")),
    Band(math.inf, "#CFE6F5", "#0072B2", "solid", N_("blue"), N_("50 % and more")),
)
"""From unlikely to likely."""


class TokenColours(CourseWidget):
    """Generates text, and colours every token by its probability under the model.

    A token that is pointed at, or focused by keyboard, shows the likeliest alternatives under the text.
    A character of several tokens is one piece, with the colour of each of its tokens.

    llm, prompt: what to generate from.  temperature: 0 is greedy.  max_tokens: most tokens.  seed: of the draws.
    """

    def __init__(
        self,
        llm: LLM,
        prompt: str = "Once upon a time",
        *,
        temperature: float = 0.0,
        max_tokens: int = 30,
        seed: int = 0,
    ) -> None:
        self.llm = llm
        self._max_tokens, self._seed = max_tokens, seed
        self.completion: CompletionOutput | None = None
        self.prompt = ipywidgets.Text(value=prompt, description=_("prompt"), continuous_update=False, layout=wide())
        row = slider_with_box("temperature", float(temperature), 0.0, 2.0, 0.1)
        self.temperature = row.children[-1]
        self.status, self.text = ipywidgets.HTML(), ipywidgets.HTML()
        for control in (self.prompt, self.temperature):
            control.observe(lambda _: self.generate(), "value")
        super().__init__([self.prompt, row, self.status, self.text])
        self.generate()

    def generate(self) -> None:
        """Generate from the controls and show the result."""
        params = SamplingParams(
            temperature=self.temperature.value,
            max_tokens=self._max_tokens,
            seed=self._seed,
            logprobs=NUM_ALTERNATIVES,
        )
        try:
            [output] = self.llm.generate(self.prompt.value, params, use_tqdm=False)
        except ValueError as error:
            self.completion, self.text.value = None, ""
            self._problem = _("The engine refused this: {error}").format(error=error)
        else:
            [self.completion] = output.outputs
            prompt = f'<span style="white-space: pre-wrap">{html.escape(self.prompt.value)}</span>'
            self.text.value = (
                f'{_STYLE}<div class="folovllm-tokens">{prompt}{self._pieces(output.prompt_token_ids)}{_legend()}</div>'
            )
        self.status.value = spoken(self.sentence())

    def sentence(self) -> str:
        """Count the tokens of each colour, or say why there are none."""
        if self.completion is None:
            return self._problem
        bands = [band_of(each) for each in probabilities_of(self.completion)]
        counts = (
            _("{count} {colour} ({words})").format(count=bands.count(band), colour=_(band.name), words=_(band.words))
            for band in reversed(BANDS)
        )
        return labelled(counted(len(bands), "{n} token", "{n} tokens"), listed(counts))

    def summary(self) -> str:
        """Return the text and the counts."""
        text = "" if self.completion is None else f"{self.completion.text!r}\n"
        return _("TokenColours: {value!r}\n{text}{sentence}").format(
            value=self.prompt.value, text=text, sentence=self.sentence()
        )

    def _pieces(self, prompt_token_ids: list[int]) -> str:
        assert self.completion is not None, "something was generated"
        pieces, start = [], 0
        for text, count in pieces_of(self.llm.get_tokenizer(), prompt_token_ids, self.completion.token_ids):
            pieces.append(self._piece(text, start, start + count))
            start += count
        return "".join(pieces)

    def _piece(self, text: str, start: int, end: int) -> str:
        """Return the HTML of the tokens from ``start`` to before ``end``, which are read together."""
        assert self.completion is not None, "something was generated"
        probabilities = probabilities_of(self.completion)[start:end]
        count = end - start
        several = _("{text!r} is {count} tokens, one per line:").format(text=text, count=count)
        shown, told = [several if count > 1 else repr(text)], []
        for place, probability in zip(range(start, end), probabilities, strict=True):
            own, others = self._alternatives(place)
            lines = [f"{p:6.1%} {name}" for name, p in others]
            shown += lines if count == 1 else ["  ".join(lines)]
            spoken_others = listed(f"{p:.0%} {name}" for name, p in others if name != own)
            told.append(
                _("{own}, {probability:.0%}; else {spoken_others}").format(
                    own=own, probability=probability, spoken_others=spoken_others
                )
            )
        spoken_name = html.escape(_("; then ").join(told))
        # A bare span may not carry a name: without the role screen readers pass over it.
        return (
            f'<span class="folovllm-token" tabindex="0" role="group" aria-label="{spoken_name}" '
            f'style="{_look(probabilities)}">{html.escape(text)}'
            f'<span aria-hidden="true">{html.escape(chr(10).join(shown))}</span></span>'
        )

    def _alternatives(self, place: int) -> tuple[str, list[tuple[str, float]]]:
        """Return the token at a place, and all that is known of what might stand there, likeliest first."""
        assert self.completion is not None, "something was generated"
        assert self.completion.logprobs is not None, "log-probabilities were asked for"
        tokenizer, entry = self.llm.get_tokenizer(), self.completion.logprobs[place]
        likeliest = sorted(entry.items(), key=lambda pair: -pair[1].logprob)
        named = [(repr(text_or_bytes(tokenizer, i)), math.exp(each.logprob)) for i, each in likeliest]
        return repr(text_or_bytes(tokenizer, self.completion.token_ids[place])), named


def pieces_of(
    tokenizer: PreTrainedTokenizerBase, prompt_token_ids: list[int], token_ids: Sequence[int]
) -> list[tuple[str, int]]:
    """Return what can be read of generated tokens: a text and how many tokens it took, again and again.

    Mostly a token is a piece. A character that is spread over several tokens is one piece with all of them.
    """
    detokenizer = Detokenizer(tokenizer, prompt_token_ids, SamplingParams())
    pieces, count = [], 0
    for token_id in token_ids:
        shown = len(detokenizer.text)
        detokenizer.update([token_id])
        count += 1
        text, alone = detokenizer.text[shown:], decode_token(tokenizer, token_id)
        if text or "\ufffd" not in alone:
            pieces.append((text or alone, count))
            count = 0
    if count:  # the text ended within a character
        pieces.append((detokenizer.stable_text(finished=True)[len(detokenizer.text) :], count))
    return pieces


def probabilities_of(completion: CompletionOutput) -> list[float]:
    """Return how probable each token of a completion was; ``ValueError`` if nobody asked for log-probabilities."""
    if completion.logprobs is None:
        raise ValueError("this completion has no log-probabilities: generate it with logprobs=0 or more")
    return [math.exp(entry[i].logprob) for i, entry in zip(completion.token_ids, completion.logprobs, strict=True)]


def band_of(probability: float) -> Band:
    """Return how a token of that probability looks."""
    return next(band for band in BANDS if probability < band.below)


def _look(probabilities: Sequence[float]) -> str:
    """Return the style of a piece: the colour of its token, or of each of its tokens from left to right."""
    bands = [band_of(each) for each in probabilities]
    ends = [
        f"{band.colour} {100 * i / len(bands):.0f}% {100 * (i + 1) / len(bands):.0f}%" for i, band in enumerate(bands)
    ]
    worst = min(bands, key=lambda band: band.below)
    edge = f"border-bottom: 3px {worst.line} {worst.edge}"
    if len(bands) == 1:
        return f"background: {worst.colour}; {edge}"
    return f"background: linear-gradient(90deg, {', '.join(ends)}); {edge}"


def _legend() -> str:
    parts = "".join(
        f'<span style="background: {band.colour}; color: #1a1a1a; border-bottom: 3px {band.line} {band.edge}; '
        f'padding: 0 4px; margin-right: 1em">{labelled(_(band.name), _(band.words))}</span>'
        for band in reversed(BANDS)
    )
    return f'<p>{parts}</p><div class="folovllm-hint">{_(_HINT)}</div>'
