"""What ``generate`` is tried on: a tokenizer, a model and a sampler with which a wrong loop shows."""

import math
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import BatchEncoding
from transformers.modeling_outputs import CausalLMOutput

from folovllm.language import _

_TOY_VOCABULARY = [*"0123456789", " ", *(2 * digit for digit in "0123456789"), "<s>"]


class _Id(int):
    """A number that is equal to others, and none of them (``is``): so are ids above 256, of which Python makes many."""


@dataclass(frozen=True, repr=False)
class ToyTokenizer:
    """Digits are tokens, and so are a blank and two equal digits side by side, but these are never drawn.

    So a text has other ids than those that were drawn for it, as with a real vocabulary: 1 and 1 become 11.
    ``eos_token_id`` can be chosen, so that some runs end early.  has_bos: a token stands before every text, as Llama's.
    """

    eos_token_id: int
    has_bos: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "eos_token_id", _Id(self.eos_token_id))

    def encode(self, text: str, add_special_tokens: bool = True, return_tensors: str | None = None) -> Any:
        """Return the ids of a text, as a list or as a tensor [1, n]."""
        begin = ["<s>"] if self.has_bos and add_special_tokens else []
        pieces = begin + [found[0] for found in re.finditer(r"(\d)\1|.", text)]
        ids = [_TOY_VOCABULARY.index(piece) for piece in pieces]
        return torch.tensor([ids]) if return_tensors else ids

    def decode(self, ids: Any, skip_special_tokens: bool = False) -> str:
        """Return the text of an id or of several."""
        pieces = [_TOY_VOCABULARY[each] for each in torch.as_tensor(ids).reshape(-1).tolist()]
        return "".join(piece for piece in pieces if not (skip_special_tokens and piece == "<s>"))

    def __call__(self, text: str, add_special_tokens: bool = True, return_tensors: str | None = None) -> BatchEncoding:
        """Return what the model takes as its keyword arguments."""
        ids = self.encode(text, add_special_tokens)
        return BatchEncoding({"input_ids": [ids] if return_tensors else ids}, tensor_type=return_tensors)

    def __repr__(self) -> str:
        return f"digits(EOS {self.eos_token_id}{', BOS <s>' if self.has_bos else ''})"


@dataclass(eq=False, repr=False)
class ToyModel:
    """Ten logits a place, which depend on all tokens up to it and on their order, so that a wrong context shows.

    max_tokens: of the run.  A loop that calls the model far more often does not look at it, and need not end.
    begin: another one is another model.
    """

    max_tokens: int
    begin: int = 7
    num_calls: int = 0

    @property
    def device(self) -> torch.device:
        """Where it computes: a learner may ask, as of a real model."""
        return torch.device("cpu")

    def __call__(self, input_ids: Tensor) -> CausalLMOutput:
        """Return logits [1, n, 10] for ids [1, n]."""
        if not isinstance(input_ids, Tensor):
            raise TypeError(f"the model takes a tensor of ids, got a {type(input_ids).__name__}")
        if input_ids.dim() != 2:
            raise ValueError(f"the model takes ids of shape [1, n], got {list(input_ids.shape)}")
        if input_ids.dtype not in (torch.int32, torch.int64):  # as a real one, whose ids need more than 8 or 16 bits
            raise TypeError(f"the model takes ids of int32 or int64, got {input_ids.dtype}")
        self.num_calls += 1
        if self.num_calls > 2 * self.max_tokens + 20:
            raise RuntimeError(
                _("more than 2 * max_tokens + 20 calls of the model; does your loop look at max_tokens?")
            )
        state, states = self.begin, []
        for token in input_ids[0].tolist():
            state = (3 * state + token + 5) % 100 + 1
            states.append(state)
        numbers = torch.outer(torch.tensor(states), torch.arange(1, 11)) % 101  # 101 is prime: no two are equal
        # Tens lie far apart, and units so near that they need all digits of a float32.
        logits = 4096 + (numbers - numbers % 10) + numbers % 10 / 2048
        return CausalLMOutput(logits=logits.reshape(1, len(states), 10))

    def __repr__(self) -> str:
        return "toy model" if self.begin == 7 else "another toy model"


@dataclass(eq=False, repr=False)
class GapSampler:
    """Takes each row's likeliest token of those whose logit lies at least a gap below the best one.

    A gap is a difference of logits: whoever hands over probabilities, which differ by less than 1, is found out, and
    so is whoever chooses by other means. Every row takes the next gap: whoever draws for rows that are not needed
    is found out too.
    """

    gaps: tuple[int, ...]
    num_drawn: int = 0

    def __call__(self, logits: Tensor) -> Tensor:
        """Return a token for each row; every row takes the next gap."""
        if logits.dim() != 2:
            raise ValueError(f"the sampler takes logits of shape [rows, vocabulary], got {list(logits.shape)}")
        return torch.tensor([self._choose(row) for row in logits])

    def _choose(self, row: Tensor) -> int:
        gap = self.gaps[self.num_drawn % len(self.gaps)]
        self.num_drawn += 1
        allowed = row <= row.max() - gap
        return int(row.masked_fill(~allowed, -math.inf).argmax() if allowed.any() else row.argmin())

    def __repr__(self) -> str:
        return f"sampler(gaps {', '.join(map(str, self.gaps))})"
