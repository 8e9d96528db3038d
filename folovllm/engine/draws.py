"""Which sequence draws from which row of a step's logits, and which guesses hold."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from folovllm.request import Request, Sequence
from folovllm.sampling.metadata import SamplingMetadata, SamplingRow, wide_dtype
from folovllm.sampling.sampler import LogprobsTensors, NoTokenLeftError, Sampler, SamplerOutput, check_tokens
from folovllm.step import SchedulerOutput
from folovllm.transfer import receive_together, send_together


@dataclass(frozen=True)
class DrawnToken:
    """One token that the sampler chose, with its row of the step's log-probabilities (if anyone asked)."""

    token_id: int
    logprobs: LogprobsTensors | None
    row: int


@dataclass
class Draw:
    """One sequence's turn in a step: it draws from the logits rows ``first_row``, ``first_row + 1``, ...

    draft: the guesses that the rows after the first rest on.  tokens: what was drawn, as far as it counts.
    no_token_left: nothing may follow them.
    """

    request: Request
    sequence: Sequence
    first_row: int
    draft: list[int]
    tokens: list[DrawnToken] = field(default_factory=list)
    no_token_left: bool = False

    def rows(self) -> Iterator[SamplingRow]:
        """Return what the sampler must know, once for each position."""
        seq = self.sequence
        output = seq.data.output_token_ids
        for i in range(len(self.draft) + 1):
            yield SamplingRow(
                params=seq.sampling_params,
                prompt_token_ids=seq.data.prompt_token_ids,
                output_token_ids=output + self.draft[:i] if i else output,
                uniform=seq.uniforms[len(output) + i],
                eos_token_ids=self.request.eos_token_ids,
                bad_words_token_ids=self.request.bad_words_token_ids,
                grammar=self.request.grammar,
            )

    def accept(self, token_ids: list[int], logprobs: LogprobsTensors | None, offset: int) -> None:
        """Keep the drawn tokens up to the first that differs from its guess.

        Each token was drawn from the model's own distribution at its position, with the number that
        belongs to that position; a guess only let the model compute ahead. So the kept tokens
        are exactly those of one token a step. This is rejection sampling for a draft that is certain
        of its guess g: g is kept with probability p(g), else the token comes from the rest of p
        (Leviathan et al. 2023, arXiv:2211.17192).
        """
        for row, guess in enumerate([*self.draft, None], start=offset):
            self.tokens.append(DrawnToken(token_ids[row], logprobs, row))
            if token_ids[row] != guess:
                return


def plan_draws(step: SchedulerOutput) -> list[Draw]:
    """Return the turns of a step: every sequence that reached its end, and those that start from the same logits."""
    draws: list[Draw] = []
    for item, _, sampled in step.rows():
        if sampled and item.request.beam_state is None:
            draws.append(Draw(item.request, item.sequence, sampled.start, item.draft))
            draws += [Draw(item.request, seq, sampled.start, []) for seq in item.followers]
    return draws


@dataclass(frozen=True)
class SamplerInput:
    """What the sampler must know in a step.

    metadata: of the drawn rows.  index: which rows of the step's logits they are; None: all of them, in order.
    """

    vocab_size: int
    metadata: SamplingMetadata
    index: Tensor | None


def prepare_draws(step: SchedulerOutput, vocab_size: int | None, device: torch.device) -> None:
    """Work out, before there are logits, what the sampler must know, and leave it on the host as ``step.luggage``.

    Nothing is left for a CPU, to which nothing travels, where nothing is drawn or the size of the vocabulary is not
    known yet, nor where something is wrong with a request: :func:`draw_tokens` will find out with which.
    """
    if device.type == "cpu" or vocab_size is None:
        return
    if draws := plan_draws(step):
        with suppress(Exception):
            num_rows = sum(len(item.logits_positions) for item in step.scheduled)
            step.luggage = _collect(draws, num_rows, vocab_size, device)


def _collect(draws: list[Draw], num_rows: int, vocab_size: int, device: torch.device) -> SamplerInput:
    rows = [row for draw in draws for row in draw.rows()]
    index = [draw.first_row + i for draw in draws for i in range(len(draw.draft) + 1)]
    metadata = SamplingMetadata.collect(rows, vocab_size, wide_dtype(device))
    return SamplerInput(
        vocab_size, metadata, None if index == list(range(num_rows)) else torch.tensor(index, device="cpu")
    )


def draw_tokens(step: SchedulerOutput, logits: Tensor, sampler: Sampler) -> list[Draw]:
    """Draw the next tokens of a step; logits: ``[num_rows, vocab]`` as the model runner returns them.

    What goes wrong with one request is kept there, as ``request.error``, and the others draw as if it were not. An
    exception comes out only where rows cannot be drawn together that can be drawn alone.
    """
    draws = plan_draws(step)
    if draws:
        try:
            _draw_together(draws, logits, sampler, step.luggage)
        except Exception:
            _draw_one_by_one(draws, logits, sampler)
            if not any(draw.no_token_left or draw.request.error for draw in draws):
                # Was it a row behind a guess that does not hold, which nobody needs?
                _draw_together([replace(draw, draft=[], tokens=[]) for draw in draws], logits, sampler)
    return draws


def _draw_together(draws: list[Draw], logits: Tensor, sampler: Sampler, prepared: SamplerInput | None = None) -> None:
    if prepared is None or prepared.vocab_size != logits.shape[-1]:
        prepared = send_together(_collect(draws, len(logits), logits.shape[-1], logits.device), logits.device)
    if prepared.index is not None:
        logits = logits[prepared.index]
    sampled = _sample(logits, prepared.metadata, sampler)
    token_ids = sampled.token_ids.tolist()
    offset = 0
    for draw in draws:
        draw.accept(token_ids, sampled.logprobs, offset)
        offset += len(draw.draft) + 1


def _sample(logits: Tensor, metadata: SamplingMetadata, sampler: Sampler) -> SamplerOutput:
    """Return what the sampler chooses, on the host: where a step waits for the card, and nowhere else."""
    sampled = sampler(logits, metadata)
    if sampled.token_ids.device.type != "cpu":
        sampled = receive_together(sampled)
        check_tokens(sampled.token_ids)
    return sampled


def _draw_one_by_one(draws: list[Draw], logits: Tensor, sampler: Sampler) -> None:
    """Draw the same tokens row by row, to find out whose row cannot be drawn."""
    for draw in draws:
        draw.tokens.clear()
        if draw.request.error is not None:
            continue
        try:
            for i, (row, guess) in enumerate(zip(draw.rows(), [*draw.draft, None], strict=True)):
                own = logits[draw.first_row + i][None]
                sampled = _sample(own, SamplingMetadata.build([row], own.shape[-1], own.device), sampler)
                [token_id] = sampled.token_ids.tolist()
                draw.tokens.append(DrawnToken(token_id, sampled.logprobs, 0))
                if token_id != guess:
                    break
        except NoTokenLeftError:
            draw.no_token_left = True
        except Exception as error:
            draw.request.error = error
