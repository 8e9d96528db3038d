"""A prompt box: type, press the button, watch the engine's text arrive token by token."""

import html
import time

import ipywidgets

from folovllm.course.widgets.widget import CourseWidget, slider_with_box, spoken, wide
from folovllm.language import N_, _, counted
from folovllm.llm import LLM
from folovllm.outputs import RequestOutput
from folovllm.sampling_params import SamplingParams

_PAGE = '<div style="white-space: pre-wrap; line-height: 1.5; max-width: 50em; font-size: 14px">{}</div>'
_KEY = N_("Bold: what the model wrote.")
_ENDINGS = {
    "length": N_("max_tokens was reached"),
    "stop": N_("the model said that it was done"),
    "abort": N_("it was interrupted"),
}


class PromptBox(CourseWidget):
    """Streams one prompt's text from an :class:`LLM`.

    prompt: the text to begin with.  temperature: 0 is greedy.  max_tokens: most tokens to generate.
    chat: put the prompt into the model's chat template.  seed: of the random draws.
    """

    def __init__(
        self,
        llm: LLM,
        prompt: str = "The best way to learn how something works is",
        *,
        temperature: float = 0.0,
        max_tokens: int = 40,
        chat: bool = False,
        seed: int = 0,
    ) -> None:
        self.llm = llm
        self.result: RequestOutput | None = None
        self.prompt = ipywidgets.Textarea(value=prompt, description=_("prompt"), rows=3, layout=wide())
        self._temperature = slider_with_box("temperature", float(temperature), 0.0, 2.0, 0.1)
        self._max_tokens = slider_with_box("max_tokens", max_tokens, 1, 200, 1)
        self._seed = slider_with_box("seed", seed, 0, 100, 1)
        self.temperature, self.max_tokens, self.seed = (
            row.children[-1] for row in (self._temperature, self._max_tokens, self._seed)
        )
        self.chat = ipywidgets.Checkbox(value=chat, description=_("use the chat template"), indent=False)
        self.button = ipywidgets.Button(description=_("Generate"), button_style="primary", icon="play")
        self.button.on_click(lambda _: self.run())
        self.text = ipywidgets.HTML()
        self.status = ipywidgets.HTML(value=spoken(_("Press Generate.")))
        controls = [self._temperature, self._max_tokens, self._seed, self.chat, self.button]
        super().__init__([self.prompt, *controls, self.text, self.status])

    def run(self) -> None:
        """Generate with the controls as they stand; the text grows as tokens come."""
        params = SamplingParams(
            temperature=self.temperature.value, max_tokens=self.max_tokens.value, seed=self.seed.value
        )
        self.result = None
        self.button.disabled = True
        started = time.perf_counter()
        try:
            prompt = self.prompt.value
            message = {"role": "user", "content": prompt}
            for output in self.llm.stream(self.llm.chat_prompt([message]) if self.chat.value else prompt, params):
                self.result = output
                self._show(prompt, output)
        except ValueError as error:
            self.result, self.text.value = None, ""
            self._say(_("The engine refused this: {error}").format(error=error))
        except KeyboardInterrupt:
            if self.result is None:
                self.text.value = ""  # it would be the text of the run before
            self._say(
                _("Interrupted. {ending}").format(ending=self._ending())
                if self.result
                else _("Interrupted before the first token.")
            )
            raise
        else:
            self._say(f"{self._ending()} {self._speed(time.perf_counter() - started)} {_(_KEY)}")
        finally:
            self.button.disabled = False

    def summary(self) -> str:
        """Return the prompt, the text, and how it ended."""
        if self.result is None:
            return _("PromptBox: nothing generated yet for {prompt!r}").format(prompt=self.prompt.value)
        text = self.result.outputs[0].text
        told = _("prompt: {prompt}\ntext:   {text}\n{ending}")
        return told.format(prompt=self.prompt.value, text=text, ending=self._ending())

    def _show(self, prompt: str, output: RequestOutput) -> None:
        text = html.escape(output.outputs[0].text)
        self.text.value = _PAGE.format(f"{html.escape(prompt)}<b>{text}</b>")
        # Not read out: a screen reader would say it for each token.
        written = counted(len(output.outputs[0].token_ids), "{n} token", "{n} tokens")
        self.status.value = f"{written} ... {_(_KEY)}"

    def _say(self, sentence: str) -> None:
        self.status.value = spoken(sentence)

    def _ending(self) -> str:
        assert self.result is not None, "something was generated"
        return ending_of(self.result)

    def _speed(self, seconds: float) -> str:
        assert self.result is not None, "something was generated"
        return _("{speed:.1f} tokens/s.").format(speed=len(self.result.outputs[0].token_ids) / seconds)


def ending_of(result: RequestOutput) -> str:
    """Say how many tokens a result has, and why there are no more."""
    completion = result.outputs[0]
    reason = _(_ENDINGS[completion.finish_reason or "abort"])
    written = counted(len(completion.token_ids), "{n} token", "{n} tokens")
    read = len(result.prompt_token_ids)
    return _("{written} after a prompt of {read}; {reason}.").format(written=written, read=read, reason=reason)
