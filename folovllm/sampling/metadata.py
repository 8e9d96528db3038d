"""What the rows of a batch ask of the sampler, collected into tensors. (vLLM: ``v1/sample/metadata.py``.)"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from folovllm.sampling.logits_processors import Allowed, Biases, Penalties, banned_by_bad_words, find_places
from folovllm.sampling.structured_outputs import Grammar
from folovllm.sampling_params import SamplingParams, SamplingType, takes_prompt
from folovllm.transfer import send_together

T = TypeVar("T")


def wide_dtype(device: torch.device) -> torch.dtype:
    """Return the dtype to add probabilities in: float32 loses the unlikely ones, but MPS has nothing wider."""
    return torch.float32 if device.type == "mps" else torch.float64


@dataclass(frozen=True)
class SamplingRow:
    """What the sampler must know about one row of logits.

    uniform: the number in [0, 1) that decides its draw.  eos_token_ids: masked before ``min_tokens``.
    bad_words_token_ids: ``params.bad_words`` as tokens.  grammar: what ``params.structured_outputs`` allows.
    """

    params: SamplingParams
    prompt_token_ids: Sequence[int]
    output_token_ids: Sequence[int]
    uniform: float
    eos_token_ids: frozenset[int] = frozenset()
    bad_words_token_ids: Sequence[Sequence[int]] = ()
    grammar: Grammar | None = None

    def banned_token_ids(self) -> list[int]:
        """Return the tokens that may not come next."""
        banned = banned_by_bad_words(self.bad_words_token_ids, self.output_token_ids)
        if len(self.output_token_ids) < self.params.min_tokens:
            banned += [*self.eos_token_ids, *self.params.stop_token_ids]
        return banned

    def logits_processors(self) -> list[partial[Tensor]]:
        """Return its functions with their token ids filled in: copies, as the lists themselves are the engine's."""
        output = self.output_token_ids
        return [
            partial(each, list(self.prompt_token_ids), list(output))
            if takes_prompt(each)
            else partial(each, list(output))
            for each in self.params.logits_processors or ()
        ]

    def has_penalties(self) -> bool:
        """Say whether any of the three penalties is on."""
        params = self.params
        return params.repetition_penalty != 1 or params.frequency_penalty != 0 or params.presence_penalty != 0


@dataclass(frozen=True)
class SamplingMetadata:
    """A batch's wishes, a row each. None stands for a stage that nobody asked for; it is not run.

    random_rows: the rows that are drawn, [num_random]; None for all. The tensors after it have an
    entry for each of these, and so has ``params``, for strategies that have no tensor here.
    num_logprobs: most log-probabilities that any row wants beside its own token's; None if no row wants any.
    """

    masks: list[Tensor | None] | None
    allowed: Allowed | None
    banned: Tensor | None
    biases: Biases | None
    processors: list[list[partial[Tensor]]] | None
    penalties: Penalties | None
    random_rows: Tensor | None
    temperature: Tensor | None
    top_k: Tensor | None
    top_p: Tensor | None
    min_p: Tensor | None
    uniforms: Tensor
    params: list[SamplingParams]
    num_logprobs: int | None

    @property
    def all_greedy(self) -> bool:
        """Say whether no row is drawn."""
        return len(self.uniforms) == 0

    @property
    def adjusts_logits(self) -> bool:
        """Say whether a row asks for something about single tokens, before temperature and filters."""
        stages = (self.masks, self.allowed, self.banned, self.biases, self.processors, self.penalties)
        return any(stage is not None for stage in stages)

    @classmethod
    def build(cls, rows: Sequence[SamplingRow], vocab_size: int, device: torch.device) -> "SamplingMetadata":
        """Collect the rows' parameters, and send them to a device."""
        return send_together(cls.collect(rows, vocab_size, wide_dtype(device)), device)

    @classmethod
    def collect(cls, rows: Sequence[SamplingRow], vocab_size: int, wide: torch.dtype) -> "SamplingMetadata":
        """Collect the rows' parameters on the host.  wide: as :func:`wide_dtype` says of the device they are for."""
        every = [row.params for row in rows]
        drawn = [i for i, params in enumerate(every) if params.sampling_type != SamplingType.GREEDY]

        def column(name: str, off: float, dtype: torch.dtype) -> Tensor | None:
            values = [getattr(every[i], name) for i in drawn]
            return None if all(value == off for value in values) else torch.tensor(values, dtype=dtype, device="cpu")

        masks = [
            None if row.grammar is None else row.grammar.next_tokens(row.output_token_ids, vocab_size) for row in rows
        ]
        allowed = _unless_unused([params.allowed_token_ids for params in every])
        banned = _unless_unused([row.banned_token_ids() for row in rows])
        biases = _unless_unused([params.logit_bias or {} for params in every])
        wanted = [params.logprobs or 0 for params in every if params.needs_logprobs]
        return cls(
            masks=None if all(mask is None for mask in masks) else masks,
            allowed=None if allowed is None else Allowed.of(allowed, vocab_size),
            banned=None if banned is None else find_places(banned, vocab_size),
            biases=None if biases is None else Biases.of(biases, vocab_size),
            processors=_unless_unused([row.logits_processors() for row in rows]),
            penalties=cls._find_penalties(rows, vocab_size),
            random_rows=None if len(drawn) == len(rows) else torch.tensor(drawn, dtype=torch.long, device="cpu"),
            temperature=column("temperature", 1.0, torch.float32),
            top_k=column("top_k", 0, torch.long),
            top_p=column("top_p", 1.0, wide),
            min_p=column("min_p", 0.0, torch.float32),
            uniforms=torch.tensor([rows[i].uniform for i in drawn], dtype=wide, device="cpu"),
            params=[every[i] for i in drawn],
            num_logprobs=max(vocab_size if count == -1 else count for count in wanted) if wanted else None,
        )

    @staticmethod
    def _find_penalties(rows: Sequence[SamplingRow], vocab_size: int) -> Penalties | None:
        asking = [row.has_penalties() for row in rows]
        if not any(asking):
            return None

        def column(name: str) -> Tensor:
            return torch.tensor([getattr(row.params, name) for row in rows], dtype=torch.float32, device="cpu")

        # What a row's penalties do not look at is left out.
        return Penalties.of(
            [row.prompt_token_ids if row.params.repetition_penalty != 1 else () for row in rows],
            [row.output_token_ids if asks else () for row, asks in zip(rows, asking, strict=True)],
            vocab_size,
            column("repetition_penalty"),
            column("frequency_penalty"),
            column("presence_penalty"),
        )


def _unless_unused(values: list[T]) -> list[T] | None:
    return values if any(values) else None
