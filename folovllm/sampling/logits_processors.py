"""What a request changes about single tokens' logits, before temperature and filters.

Every function takes logits ``[num_seqs, vocab]`` and changes only the tokens concerned, in place: the sampler hands in
a copy. Which tokens these are is worked out on the host (``find_places``, ``Allowed.of``, ...), from one Python value a
row; rows with nothing to do (``None`` or empty) stay as they are. Places count over all rows: they are indices of
``logits.view(-1)``. Ids that have no logit are passed over: a tokenizer may know more tokens than its model, and a
model may read tokens that it never writes.
(vLLM: ``v1/sample/logits_processor/``, ``v1/sample/ops/penalties.py``.)
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor


def find_places(token_ids: Sequence[Iterable[int]], vocab_size: int) -> Tensor:
    """Return the places of each row's tokens, int64."""
    # An id outside its row would be another row's token.
    return torch.tensor(
        [row * vocab_size + each for row, ids in enumerate(token_ids) for each in ids if 0 <= each < vocab_size],
        dtype=torch.long,
        device="cpu",
    )


@dataclass(frozen=True)
class Allowed:
    """rows: those that may choose among some tokens only.  places: of these tokens."""

    rows: Tensor
    places: Tensor

    @classmethod
    def of(cls, allowed: Sequence[Sequence[int] | None], vocab_size: int) -> "Allowed":
        """Find them; None allows all."""
        rows = [row for row, ids in enumerate(allowed) if ids is not None]
        return cls(
            torch.tensor(rows, dtype=torch.long, device="cpu"), find_places([ids or () for ids in allowed], vocab_size)
        )


def apply_allowed_token_ids(logits: Tensor, allowed: Allowed) -> None:
    """Mask all but the allowed tokens."""
    kept = logits.view(-1)[allowed.places]
    logits.index_fill_(0, allowed.rows, -math.inf)
    logits.view(-1)[allowed.places] = kept


def apply_bans(logits: Tensor, places: Tensor) -> None:
    """Mask banned tokens (bad words, and EOS before ``min_tokens``)."""
    logits.view(-1).index_fill_(0, places, -math.inf)


@dataclass(frozen=True)
class Biases:
    """places: of tokens with a bias.  values: what is added there, float32."""

    places: Tensor
    values: Tensor

    @classmethod
    def of(cls, biases: Sequence[Mapping[int, float]], vocab_size: int) -> "Biases":
        """Find them."""
        values = [value for bias in biases for token_id, value in bias.items() if 0 <= token_id < vocab_size]
        return cls(find_places(biases, vocab_size), torch.tensor(values, dtype=torch.float32, device="cpu"))


def apply_logit_bias(logits: Tensor, biases: Biases) -> None:
    """Add each row's biases to its tokens' logits."""
    logits.view(-1)[biases.places] += biases.values


def apply_masks(logits: Tensor, masks: Sequence[Tensor | None]) -> None:
    """Mask all tokens but those for which a row's mask, bool [vocab], is True; None allows all."""
    for row, mask in zip(logits, masks, strict=True):
        if mask is not None:
            row.masked_fill_(~mask.to(logits.device), -math.inf)


def apply_request_processors(logits: Tensor, processors: Sequence[Sequence[partial[Tensor]]]) -> None:
    """Let each row's functions change its logits, [vocab], one after the other; what is -inf stays so.

    A ValueError if one returns anything else than logits of the same shape, dtype and device.
    """
    for row, functions in zip(logits, processors, strict=True):
        for function in functions:
            # The function may change what it gets, now or later: the row itself never leaves.
            name = f"logits_processors: {function.func!r}"
            checked = check_result(name, call_users(name, function, row.clone()), row)
            row.copy_(checked.masked_fill(torch.isneginf(row), -math.inf))


def call_users(name: str, function: Callable[..., object], *arguments: object) -> object:
    """Call a user's function; what it raises is an error of its request's, also where it would end a loop or a program.

    An interrupt may come at any moment, here too, and goes its own way.
    """
    try:
        return function(*arguments)
    except (StopIteration, StopAsyncIteration) as error:
        raise RuntimeError(f"{name} raised {error!r}") from error
    except (Exception, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise RuntimeError(f"{name} raised {error!r}") from error


def check_result(name: str, result: object, given: Tensor) -> Tensor:
    """Return what a user's function made of the logits that it was given; a ValueError if it is no such logits."""
    if not isinstance(result, Tensor):
        raise ValueError(f"{name} must return logits, got {result!r}")
    wanted, got = ((tuple(each.shape), each.dtype, each.device, each.layout) for each in (given, result))
    if got != wanted:
        raise ValueError(f"{name} must return logits of shape, dtype, device and layout {wanted}, got {got}")
    return result.detach()


@dataclass(frozen=True)
class Penalties:
    """What the three penalties come to.

    seen: places of tokens that occurred in prompt or output.  divisors: for each, the repetition penalty.
    said: places of those in the output.  amounts: for each, what is subtracted.
    """

    seen: Tensor
    divisors: Tensor
    said: Tensor
    amounts: Tensor

    @classmethod
    def of(
        cls,
        prompt_token_ids: Sequence[Sequence[int]],
        output_token_ids: Sequence[Sequence[int]],
        vocab_size: int,
        repetition: Tensor,
        frequency: Tensor,
        presence: Tensor,
    ) -> "Penalties":
        """Find the tokens that occurred.

        repetition ([num_seqs], > 0, 1 is off): logits of tokens in prompt or output are divided by it where
        positive and multiplied by it where negative. Keskar et al. 2019, arXiv:1909.05858, section 4.1.
        frequency, presence ([num_seqs], 0 is off): subtracted for each, or once for any, occurrence in
        the output (OpenAI's definition).
        """
        every = find_places(output_token_ids, vocab_size)
        said, counts = every.unique(return_counts=True)  # type: ignore[no-untyped-call]
        seen = torch.cat([find_places(prompt_token_ids, vocab_size), said]).unique()  # type: ignore[no-untyped-call]
        row = said // vocab_size
        # Within these bounds no logit becomes infinite, however odd the penalty.
        divisors = repetition[seen // vocab_size].clamp(1e-30, 1e30)
        return cls(seen, divisors, said, frequency[row] * counts + presence[row])


def apply_penalties(logits: Tensor, penalties: Penalties) -> None:
    """Make tokens that occurred less likely (or more, with values on the other side)."""
    flat, seen = logits.view(-1), penalties.seen
    values = flat[seen]
    flat[seen] = torch.where(values > 0, values / penalties.divisors, values * penalties.divisors)
    flat[penalties.said] -= penalties.amounts


def banned_by_bad_words(bad_words_token_ids: Sequence[Sequence[int]], output_token_ids: Sequence[int]) -> list[int]:
    """Return the tokens that would complete a bad word now: its last one, if the output ends with the others."""
    banned = []
    for *prefix, last in bad_words_token_ids:
        if not prefix or list(output_token_ids[-len(prefix) :]) == prefix:
            banned.append(last)
    return banned
