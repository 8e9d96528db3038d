"""From logits to the next tokens: one pure function a strategy, and the :class:`Sampler` that chains them.

Logits are ``[num_seqs, vocab]``, float32; parameters are tensors ``[num_seqs]``, so that every row can
ask for something else. A dropped token's logit is -inf. (vLLM: ``v1/worker/gpu/sample/sampler.py``.)
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from folovllm.config import SamplingOrder
from folovllm.kernels.available import has_kernels
from folovllm.sampling import compiled_rows
from folovllm.sampling.logits_processors import (
    apply_allowed_token_ids,
    apply_bans,
    apply_logit_bias,
    apply_masks,
    apply_penalties,
    apply_request_processors,
    call_users,
    check_result,
)
from folovllm.sampling.metadata import SamplingMetadata as SamplingMetadata
from folovllm.sampling.metadata import SamplingRow as SamplingRow
from folovllm.sampling.metadata import wide_dtype
from folovllm.sampling_params import SamplingParams

# -- strategies --------------------------------------------------------------------------------------


def apply_temperature(logits: Tensor, temperature: Tensor) -> Tensor:
    """Divide by the temperature: below 1 sharpens the distribution, above 1 flattens it.

    temperature: [num_seqs], > 0. (0 means greedy and never comes here.)
    """
    if has_kernels(logits):
        return compiled_rows.filter_rows(logits, temperature=temperature)
    return logits / temperature[:, None]


def apply_top_k(logits: Tensor, top_k: Tensor) -> Tensor:
    """Keep the ``top_k`` likeliest tokens, and those as likely as the last of them.

    top_k: [num_seqs], int; 0, or anything from the vocabulary's size on, keeps all.
    Fan et al. 2018, arXiv:1805.04833, section 5.4.
    """
    if has_kernels(logits):
        return compiled_rows.filter_rows(logits, top_k=top_k)
    ranked = logits.sort(dim=-1, descending=True).values
    last_kept = ranked.gather(1, top_k[:, None].clamp(1, logits.shape[-1]) - 1)
    return logits.masked_fill((logits < last_kept) & (top_k > 0)[:, None], -math.inf)


def apply_top_p(logits: Tensor, top_p: Tensor) -> Tensor:
    """Keep the smallest set of tokens whose probability reaches ``top_p``.

    top_p: [num_seqs], in (0, 1]; 1 keeps all. The token that crosses ``top_p`` is kept, so at least
    one stays. Of tokens that are equally likely at the border, the last in the vocabulary stay, as in HuggingFace.
    Holtzman et al. 2020, arXiv:1904.09751, section 3.1.
    """
    if has_kernels(logits):
        return compiled_rows.filter_rows(logits, top_p=top_p)
    # A stable sort keeps equal tokens as they stand: turned round, the last of them comes first.
    ranked, token_ids = (each.flip(-1) for each in logits.sort(dim=-1, stable=True))
    reached = (ranked - ranked[:, :1]).to(wide_dtype(logits.device)).exp().cumsum(dim=-1)
    is_beyond = (reached >= top_p[:, None] * reached[:, -1:]) & (top_p < 1)[:, None]
    is_dropped = is_beyond.roll(1, dims=-1)
    is_dropped[:, 0] = False
    return logits.masked_fill(is_dropped.scatter(1, token_ids, is_dropped), -math.inf)


def apply_min_p(logits: Tensor, min_p: Tensor) -> Tensor:
    """Drop tokens less likely than ``min_p`` times the likeliest one.

    min_p: [num_seqs], in [0, 1]; 0 keeps all. A ratio of probabilities is a difference of logits, so
    no softmax is needed. Nguyen et al. 2024, arXiv:2407.01082.
    """
    if has_kernels(logits):
        return compiled_rows.filter_rows(logits, min_p=min_p)
    threshold = logits.amax(dim=-1, keepdim=True) + min_p.log()[:, None]
    return logits.masked_fill(logits < threshold, -math.inf)


def sample_from_uniform(logits: Tensor, uniforms: Tensor) -> Tensor:
    """Draw a token from each row's softmax, at the place in [0, 1) that its number points to.

    uniforms: [num_seqs], float64, in [0, 1). Returns token ids, [num_seqs]. The tokens divide [0, 1)
    among them, each as much as its probability: inverse transform sampling. One number and one
    row decide a draw, whatever stands beside them in the batch.
    """
    if has_kernels(logits):
        token_ids = compiled_rows.sample_rows(logits, uniforms)
    else:
        wide = wide_dtype(logits.device)
        best = logits.amax(dim=-1, keepdim=True)
        upper = (logits - best).exp().cumsum(dim=-1, dtype=wide)
        total = upper[:, -1:]
        drawn = torch.searchsorted(upper, uniforms.to(wide)[:, None] * total, right=True)
        # Rounding may carry the product up to the total itself, past the last token of any probability.
        last = torch.searchsorted(upper, total.contiguous())
        token_ids = _unless_none(torch.minimum(drawn, last), best)[:, 0]
    return _checked(token_ids, logits)


def choose_greedily(logits: Tensor) -> Tensor:
    """Return each row's likeliest token, [num_seqs]; the first of several equal ones."""
    if has_kernels(logits):
        token_ids = compiled_rows.choose_rows(logits)
    else:
        best, token_ids = logits.max(dim=-1)
        token_ids = _unless_none(token_ids, best)
    return _checked(token_ids, logits)


class NoTokenLeftError(ValueError):
    """A row has no token to choose from: what its request asks for excludes them all."""


_NONE_LEFT, _NOT_FINITE = -1, -2
"""What stands for a token where there is none."""


def _unless_none(token_ids: Tensor, best: Tensor) -> Tensor:
    """Return the tokens, or what stands for one where a row has none.  best: each row's largest logit."""
    none = torch.where(best == -math.inf, _NONE_LEFT, _NOT_FINITE)
    return torch.where(best.abs() < math.inf, token_ids, none)


def _checked(token_ids: Tensor, logits: Tensor) -> Tensor:
    """Raise where there is no token. To look costs a card's host a wait: there it does so once it has the tokens."""
    if logits.device.type == "cpu" and (token_ids < 0).any():
        raise no_choice_error(logits)
    return token_ids


def check_tokens(token_ids: Tensor) -> None:
    """Raise, as the sampler does on a CPU, where tokens that came from a card are none."""
    if (token_ids == _NOT_FINITE).any():
        raise _not_finite_error(torch.float32)
    if (token_ids < 0).any():
        raise _none_left_error()


def no_choice_error(logits: Tensor) -> ValueError:
    """Return what to raise where a row of logits has no finite maximum."""
    if torch.isnan(logits).any() or torch.isposinf(logits).any():
        return _not_finite_error(logits.dtype)
    return _none_left_error()


def _not_finite_error(dtype: torch.dtype) -> ValueError:
    return ValueError(
        f"logits must be finite or -inf, got NaN or +inf: the model overflowed in {dtype} or before, "
        "or a logits processor or strategy of your own made them"
    )


def _none_left_error() -> NoTokenLeftError:
    return NoTokenLeftError("no token is left to choose from: what the request asks for excludes them all")


# -- log-probabilities -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class LogprobsTensors:
    """Log-probabilities of some tokens of each row.

    token_ids, logprobs: [num_seqs, 1 + k], the row's own token first, then the k likeliest.
    ranks: [num_seqs], how many tokens are at least as likely as the own one, itself included: 1 is
        the best, and two equally good ones are both second (vLLM's rule).
    """

    token_ids: Tensor
    logprobs: Tensor
    ranks: Tensor


def compute_logprobs(logits: Tensor, token_ids: Tensor, num_logprobs: int) -> LogprobsTensors:
    """Judge one token a row under the logits as they are.

    token_ids: [num_seqs].  num_logprobs: how many of the likeliest tokens to add.
    """
    logits, num_logprobs = logits.float(), min(num_logprobs, logits.shape[-1])
    if has_kernels(logits):
        return LogprobsTensors(*compiled_rows.judge_rows(logits, token_ids, num_logprobs))
    logprobs = logits.log_softmax(dim=-1)
    own = logprobs.gather(1, token_ids[:, None])
    likeliest = logprobs.topk(num_logprobs, dim=-1)
    return LogprobsTensors(
        token_ids=torch.cat([token_ids[:, None], likeliest.indices], dim=1),
        logprobs=torch.cat([own, likeliest.values], dim=1),
        ranks=(logprobs >= own).sum(dim=-1),
    )


# -- the chain -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SamplerOutput:
    """The next tokens, [num_seqs], and their log-probabilities if any row asked."""

    token_ids: Tensor
    logprobs: LogprobsTensors | None


def adjust_logits(logits: Tensor, metadata: SamplingMetadata) -> None:
    """Apply, in place, what concerns single tokens: forms of text, allowed ids, bans, biases, functions, penalties."""
    if metadata.masks is not None:
        apply_masks(logits, metadata.masks)
    if metadata.allowed is not None:
        apply_allowed_token_ids(logits, metadata.allowed)
    if metadata.banned is not None:
        apply_bans(logits, metadata.banned)
    if metadata.biases is not None:
        apply_logit_bias(logits, metadata.biases)
    if metadata.processors is not None:
        apply_request_processors(logits, metadata.processors)
    if metadata.penalties is not None:
        apply_penalties(logits, metadata.penalties)


def filter_logits(logits: Tensor, metadata: SamplingMetadata, order: SamplingOrder = "huggingface") -> Tensor:
    """Apply temperature and the filters to the rows that are drawn; its softmax is what they are drawn from.

    order: "huggingface" runs top-k, top-p, min-p; "vllm" runs min-p, top-k, top-p. Each works on what
    the one before left.
    """
    if has_kernels(logits):
        return compiled_rows.filter_rows(logits, **_wishes(metadata, order))
    if metadata.temperature is not None:
        logits = apply_temperature(logits, metadata.temperature)
    if metadata.min_p is not None and order == "vllm":
        logits = apply_min_p(logits, metadata.min_p)
    if metadata.top_k is not None:
        logits = apply_top_k(logits, metadata.top_k)
    if metadata.top_p is not None:
        logits = apply_top_p(logits, metadata.top_p)
    if metadata.min_p is not None and order == "huggingface":
        logits = apply_min_p(logits, metadata.min_p)
    return logits


def _wishes(metadata: SamplingMetadata, order: SamplingOrder) -> dict[str, Any]:
    names = ("temperature", "top_k", "top_p", "min_p")
    return {name: getattr(metadata, name) for name in names} | {"min_p_first": order == "vllm"}


class Sampler:
    """Chooses the next token of every row.

    A strategy of one's own is a subclass that overrides :meth:`refine`, put in place of ``LLMEngine.sampler``.
    """

    _room: Tensor | None = None

    def __init__(self, order: SamplingOrder = "huggingface") -> None:
        self.order = order

    def __call__(self, logits: Tensor, metadata: SamplingMetadata) -> SamplerOutput:
        """Return a token a row. logits: [num_seqs, vocab], any float dtype; they are not changed."""
        raw = logits = logits.detach().float()
        if metadata.adjusts_logits:
            logits = self._copy(logits)
            adjust_logits(logits, metadata)
        if metadata.random_rows is None:
            token_ids = self._draw(logits, metadata)
        else:
            token_ids = choose_greedily(logits)
            if not metadata.all_greedy:
                token_ids[metadata.random_rows] = self._draw(logits, metadata)
        logprobs = None
        if metadata.num_logprobs is not None:
            logprobs = compute_logprobs(raw, token_ids, metadata.num_logprobs)
        return SamplerOutput(token_ids, logprobs)

    def refine(self, logits: Tensor, params: list[SamplingParams]) -> Tensor:
        """Return what is drawn from, given what the filters left: the place for a further strategy; here nothing.

        logits: [num_rows, vocab], float32, rows that are drawn (never greedy ones).  params: theirs. A token that a
        filter dropped is -inf. The logits may be changed in place: they are a copy. A ValueError if what is returned
        has another shape, dtype or device.
        """
        return logits

    def _copy(self, logits: Tensor) -> Tensor:
        """Return a copy, in memory that is kept: the system hands out new memory page by page, which takes longer."""
        room = self._room
        if room is None or len(room) < len(logits) or room[0].shape != logits[0].shape or room.device != logits.device:
            with torch.inference_mode(mode=False):  # else it could not be changed outside of this mode
                room = self._room = torch.empty_like(logits)
        copy = room[: len(logits)]
        if logits.device.type == "cpu":  # one thread copies before PyTorch has woken several
            np.copyto(copy.numpy(), logits.numpy())
        else:
            copy.copy_(logits)
        return copy

    def _draw(self, logits: Tensor, metadata: SamplingMetadata) -> Tensor:
        """Return a token for each row that is drawn, [num_random]."""
        refines = getattr(self.refine, "__func__", None) is not Sampler.refine
        if has_kernels(logits) and not refines:
            wishes = _wishes(metadata, self.order)
            token_ids = compiled_rows.sample_rows(logits, metadata.uniforms, metadata.random_rows, **wishes)
            if (token_ids >= 0).all():
                return token_ids
        chosen = logits if metadata.random_rows is None else logits[metadata.random_rows]
        filtered = filter_logits(chosen, metadata, self.order)
        if refines:
            filtered = check_result(
                "Sampler.refine",
                call_users("Sampler.refine", self.refine, filtered.clone(), metadata.params),
                filtered,
            )
        return sample_from_uniform(filtered, metadata.uniforms)
