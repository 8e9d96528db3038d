"""What a request changes about single tokens' logits, before temperature and filters.

Every function takes logits ``[num_seqs, vocab]`` and one Python value a row, and changes only the tokens
concerned, in place: the sampler hands in a copy. Rows with nothing to do (``None`` or empty) stay as they are.
Ids that have no logit are passed over: a tokenizer may know more tokens than its model, and a model may
read tokens that it never writes.
(vLLM: ``v1/sample/logits_processor/``, ``v1/sample/ops/penalties.py``.)
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor


def _flat_index(logits: Tensor, token_ids: Sequence[Iterable[int]]) -> Tensor:
    """Return the places of each row's tokens in ``logits.view(-1)``."""
    size = logits.shape[-1]
    # An id outside its row would be another row's token.
    places = [row * size + token_id for row, ids in enumerate(token_ids) for token_id in ids if 0 <= token_id < size]
    return torch.tensor(places, dtype=torch.long, device=logits.device)


def apply_allowed_token_ids(logits: Tensor, allowed: Sequence[Sequence[int] | None]) -> None:
    """Mask all but the allowed tokens; None allows all."""
    places = _flat_index(logits, [ids or () for ids in allowed])
    kept = logits.view(-1)[places]
    logits[[row for row, ids in enumerate(allowed) if ids is not None]] = -math.inf
    logits.view(-1)[places] = kept


def apply_bans(logits: Tensor, banned: Sequence[Iterable[int]]) -> None:
    """Mask each row's banned tokens (bad words, and EOS before ``min_tokens``)."""
    logits.view(-1)[_flat_index(logits, banned)] = -math.inf


def apply_logit_bias(logits: Tensor, biases: Sequence[Mapping[int, float]]) -> None:
    """Add each row's biases to its tokens' logits."""
    values = [value for bias in biases for token_id, value in bias.items() if 0 <= token_id < logits.shape[-1]]
    logits.view(-1)[_flat_index(logits, biases)] += torch.tensor(values, dtype=logits.dtype, device=logits.device)


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


def apply_penalties(
    logits: Tensor,
    prompt_token_ids: Sequence[Sequence[int]],
    output_token_ids: Sequence[Sequence[int]],
    repetition: Tensor,
    frequency: Tensor,
    presence: Tensor,
) -> None:
    """Make tokens that occurred less likely (or more, with values on the other side).

    repetition ([num_seqs], > 0, 1 is off): logits of tokens in prompt or output are divided by it where
    positive and multiplied by it where negative. Keskar et al. 2019, arXiv:1909.05858, section 4.1.
    frequency, presence ([num_seqs], 0 is off): subtracted for each, or once for any, occurrence in
    the output (OpenAI's definition).
    """
    vocab_size, flat = logits.shape[-1], logits.view(-1)
    said, counts = _flat_index(logits, output_token_ids).unique(return_counts=True)  # type: ignore[no-untyped-call]
    seen = torch.cat([_flat_index(logits, prompt_token_ids), said]).unique()  # type: ignore[no-untyped-call]
    # Within these bounds no logit becomes infinite, however odd the penalty.
    strength = repetition[seen // vocab_size].clamp(1e-30, 1e30)
    flat[seen] = torch.where(flat[seen] > 0, flat[seen] / strength, flat[seen] * strength)
    row = said // vocab_size
    flat[said] -= frequency[row] * counts + presence[row]


def banned_by_bad_words(bad_words_token_ids: Sequence[Sequence[int]], output_token_ids: Sequence[int]) -> list[int]:
    """Return the tokens that would complete a bad word now: its last one, if the output ends with the others."""
    banned = []
    for *prefix, last in bad_words_token_ids:
        if not prefix or list(output_token_ids[-len(prefix) :]) == prefix:
            banned.append(last)
    return banned
