"""A widget: generated text, each token coloured by how probable it was, with what else might have come."""

import html
import math

import ipywidgets

from folovllm.course.widgets.widget import CourseWidget, slider_with_box, wide
from folovllm.engine.detokenizer import decode_token
from folovllm.llm import LLM
from folovllm.outputs import CompletionOutput
from folovllm.sampling_params import SamplingParams

NUM_ALTERNATIVES = 4
_STYLE = """<style>
.folovllm-token { position: relative; white-space: pre-wrap; border-bottom: 3px solid; cursor: help }
.folovllm-token > span { display: none; position: absolute; left: 0; top: 1.6em; z-index: 9; padding: 4px 8px;
  white-space: pre; background: white; color: black; border: 1px solid #555; font-family: monospace }
.folovllm-token:hover > span, .folovllm-token:focus > span { display: block }
</style>"""
# From unlikely to likely; the words below the text say the same as the colours.
_BANDS = ((0.1, "#F3C5A5", "#D55E00", "below 10 %"), (0.5, "#FBE8B8", "#B07800", "10 to 50 %"))
_SURE = ("#CFE6F5", "#0072B2", "50 % and more")


class TokenColours(CourseWidget):
    """Generates text, and colours every token by its probability under the model.

    A token that is pointed at, or focused by keyboard, shows the likeliest alternatives.

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
        self.prompt = ipywidgets.Text(value=prompt, description="prompt", continuous_update=False, layout=wide())
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
            self.status.value = f'<b role="status">{html.escape(f"The engine refused this: {error}")}</b>'
            return
        [self.completion] = output.outputs
        self.status.value = f'<b role="status">{html.escape(self.sentence())}</b>'
        self.text.value = f"{_STYLE}<p>{html.escape(self.prompt.value)}{self._spans()}</p>{_legend()}"

    def sentence(self) -> str:
        """Count the tokens of each colour."""
        probabilities = probabilities_of(self.completion)
        below = sum(each < 0.1 for each in probabilities)
        sure = sum(each >= 0.5 for each in probabilities)
        return f"{len(probabilities)} tokens: {sure} had 50 % and more, {below} less than 10 %"

    def summary(self) -> str:
        """Return the text and the counts."""
        return f"TokenColours: {self.prompt.value!r}\n{self.completion.text!r}\n{self.sentence()}"

    def _spans(self) -> str:
        assert self.completion.logprobs is not None, "log-probabilities were asked for"
        tokenizer, spans = self.llm.get_tokenizer(), []
        for token, entry in zip(self.completion.token_ids, self.completion.logprobs, strict=True):
            probability = math.exp(entry[token].logprob)
            colour, edge, _ = next((look[1:] for look in _BANDS if probability < look[0]), _SURE)
            others = sorted(entry.items(), key=lambda pair: -pair[1].logprob)
            table = "\n".join(f"{math.exp(each.logprob):6.1%} {decode_token(tokenizer, i)!r}" for i, each in others)
            name = html.escape(decode_token(tokenizer, token))
            look = f"background: {colour}; border-color: {edge}"
            spoken = [
                f"{math.exp(each.logprob):.0%} {decode_token(tokenizer, i)!r}" for i, each in others if i != token
            ]
            told = f"{decode_token(tokenizer, token)!r}, {probability:.0%}; else {', '.join(spoken)}"
            # A bare span may not carry a name: without the role screen readers pass over it.
            spans.append(
                f'<span class="folovllm-token" tabindex="0" role="group" aria-label="{html.escape(told)}" '
                f'style="{look}">{name}<span aria-hidden="true">{html.escape(table)}</span></span>'
            )
        return "".join(spans)


def probabilities_of(completion: CompletionOutput) -> list[float]:
    """Return how probable each token of a completion was; ``ValueError`` if nobody asked for log-probabilities."""
    if completion.logprobs is None:
        raise ValueError("this completion has no log-probabilities: generate it with logprobs=0 or more")
    return [math.exp(entry[i].logprob) for i, entry in zip(completion.token_ids, completion.logprobs, strict=True)]


def _legend() -> str:
    looks = [look[1:] for look in _BANDS] + [_SURE]
    parts = "".join(
        f'<span style="background: {colour}; border-bottom: 3px solid {edge}; margin-right: 1em">{words}</span>'
        for colour, edge, words in looks
    )
    return f"<p>{parts}point at a token, or move to it with Tab</p>"
