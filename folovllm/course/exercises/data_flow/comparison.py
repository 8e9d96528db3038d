"""``compare_with_engine``: a learner's loop on a real model, beside the engine's own texts."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from folovllm.course.exercises.exercise import NOT_ATTEMPTED
from folovllm.course.exercises.outcome import Answer, kind_of, show
from folovllm.course.exercises.time_limit import TimeIsUp, call_in_time
from folovllm.language import _
from folovllm.llm import LLM
from folovllm.sampling.sampler import apply_temperature, choose_greedily, sample_from_uniform
from folovllm.sampling_params import SamplingParams
from folovllm.sequence import UniformStream


@dataclass(eq=False)
class EngineSampler:
    """The engine's choice for one request as an object: logits [num_seqs, vocab] -> token ids [num_seqs].

    temperature: 0 for the likeliest token.  uniforms: the numbers of the request's draws.  num_drawn: used so far.
    """

    temperature: float
    uniforms: UniformStream
    num_drawn: int = 0

    def __call__(self, logits: Tensor) -> Tensor:
        """Return a token for each row; every row that is drawn takes the next number."""
        if self.temperature == 0:
            return choose_greedily(logits)
        uniforms = [self.uniforms[self.num_drawn + i] for i in range(len(logits))]
        self.num_drawn += len(logits)
        warmed = apply_temperature(logits.float(), torch.full((len(logits),), self.temperature))
        return sample_from_uniform(warmed, torch.tensor(uniforms, dtype=torch.float64))


COMPARED = (
    ("The capital of France is", 0.0),
    ("<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\n", 0.0),
    ("The capital of France is", 1.0),
)
"""Prompts and temperatures for a loop on the real model. One prompt holds an EOS, and ends with one soon."""
_SEED = 4
_SECONDS = 60.0
"""A loop on the real model may take so long; a right one takes a few."""


def compare_with_engine(llm: LLM, model: PreTrainedModel, answer: Answer) -> None:
    """Run a learner's loop on a real model, and print its texts and whether ``LLM.generate`` gives the same tokens.

    model: the one that ``llm`` runs, loaded once more and on the CPU, so that no part of the engine takes part.
    """
    tokenizer = llm.get_tokenizer()
    for text, temperature in COMPARED:
        params = SamplingParams(temperature=temperature, seed=_SEED, max_tokens=16)
        [expected] = llm.generate(text, params, use_tqdm=False)
        engines = expected.outputs[0].token_ids
        try:
            with torch.inference_mode():
                sampler = EngineSampler(temperature, UniformStream(_SEED))
                given = call_in_time(_SECONDS, answer, tokenizer, model, sampler, text, 16)
        except NotImplementedError:
            print(_("your loop on the real model: {not_attempted}").format(not_attempted=_(NOT_ATTEMPTED)))
            return
        except TimeIsUp as error:
            print(_("{text!r}: your loop {stopped}").format(text=text, stopped=error))
            return
        except (Exception, SystemExit) as error:
            print(
                _("{text!r}: your loop raises {name}: {error}").format(
                    text=text, name=type(error).__name__, error=error
                )
            )
            continue
        if problem := _no_ids(given, len(tokenizer)):
            print(_("{text!r}: your loop returns {problem}").format(text=text, problem=problem))
            continue
        written = tokenizer.decode(given)
        print(
            _("temperature {temperature:g}, {text!r}\n    your loop: {written!r}").format(
                temperature=temperature, text=text, written=written
            )
        )
        print(
            _("    {num_tokens} tokens of the engine; yours are the same: {same}").format(
                num_tokens=len(engines), same=given == engines
            )
            + _why_they_differ(given, engines, tokenizer.eos_token_id)
        )


def _no_ids(given: Any, vocab_size: int) -> str:
    """Say what a loop returned in place of a list of token ids; "" if it is one."""
    if not isinstance(given, list):
        return _("{kind}; right: a list of token ids").format(kind=kind_of(given))
    wrong = [each for each in given if type(each) is not int or not 0 <= each < vocab_size]
    return _("a list with {value}, which is no token id").format(value=show(wrong[0])) if wrong else ""


def _why_they_differ(given: list[int], engines: list[int], eos: int) -> str:
    """Say which of the two likely mistakes with EOS has been made; "" if neither."""
    if given == engines or given != engines[: len(given)]:
        return ""
    if given == engines[:-1] and engines[-1] == eos:
        return _(" (you leave the end-of-sequence token out; it belongs to the list)")
    return _(" (you end early; only a generated end-of-sequence token or `max_tokens` ends the loop)")
