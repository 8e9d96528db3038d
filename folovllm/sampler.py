"""From logits to the next tokens: one pure function a strategy, and the :class:`Sampler` that chains them.

Logits are ``[num_seqs, vocab]``, float32; parameters are tensors ``[num_seqs]``, so that every row can
ask for something else. A dropped token's logit is -inf. (vLLM: ``v1/sample/sampler.py``.)
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from folovllm.config import SamplingOrder
from folovllm.logits_processors import (
    apply_allowed_token_ids,
    apply_bans,
    apply_logit_bias,
    apply_penalties,
)
from folovllm.sampling_metadata import SamplingMetadata as SamplingMetadata
from folovllm.sampling_metadata import SamplingRow as SamplingRow
from folovllm.sampling_metadata import wide_dtype

_USUAL_NUCLEUS = 1024
"""Top-p first looks among so many of the likeliest tokens: finding them costs a tenth of a full sort."""


# -- strategies --------------------------------------------------------------------------------------


def apply_temperature(logits: Tensor, temperature: Tensor) -> Tensor:
    """Divide by the temperature: below 1 sharpens the distribution, above 1 flattens it.

    temperature: [num_seqs], > 0. (0 means greedy and never comes here.)
    """
    return logits / temperature[:, None]


def apply_top_k(logits: Tensor, top_k: Tensor) -> Tensor:
    """Keep the ``top_k`` likeliest tokens, and those as likely as the last of them.

    top_k: [num_seqs], int; 0, or anything from the vocabulary's size on, keeps all.
    Fan et al. 2018, arXiv:1805.04833, section 5.4.
    """
    vocab_size = logits.shape[-1]
    active = (top_k > 0) & (top_k < vocab_size)
    largest = int(torch.where(active, top_k, 0).max())
    if largest == 0:
        return logits
    ranked = logits.topk(largest).values
    smallest_kept = ranked.gather(1, (top_k.clamp(1, largest) - 1)[:, None])
    return logits.masked_fill((logits < smallest_kept) & active[:, None], -math.inf)


def apply_top_p(logits: Tensor, top_p: Tensor) -> Tensor:
    """Keep the smallest set of tokens whose probability reaches ``top_p``.

    top_p: [num_seqs], in (0, 1]; 1 keeps all. The token that crosses ``top_p`` is kept, so at least
    one stays. Of tokens that are equally likely at the border, the sort decides.
    Holtzman et al. 2020, arXiv:1904.09751, section 3.1.
    """
    rows = (top_p < 1).nonzero()[:, 0]
    if len(rows) == 0:
        return logits
    everywhere = len(rows) == len(logits)
    chosen = logits if everywhere else logits[rows]
    filtered = _keep_nucleus(chosen, top_p[rows])
    return filtered if everywhere else logits.index_copy(0, rows, filtered)


def _keep_nucleus(logits: Tensor, top_p: Tensor) -> Tensor:
    """Run top-p on rows that all ask for it; only those whose nucleus is large are sorted whole."""
    weights = (logits - logits.max(dim=-1, keepdim=True).values).exp()
    # The last sum of a scan and not sum(), which splits a lone row over threads and so rounds it differently.
    total = weights.cumsum(dim=-1, dtype=wide_dtype(logits.device))[:, -1:]
    target = top_p.to(total.dtype)[:, None] * total
    if logits.shape[-1] <= _USUAL_NUCLEUS:
        dropped, _ = _outside_nucleus(weights, _ranked_ids(logits), target)
    else:
        dropped, found = _outside_nucleus(weights, logits.topk(_USUAL_NUCLEUS).indices, target)
        large = (~found).nonzero()[:, 0]
        if len(large) > 0:
            dropped[large], _ = _outside_nucleus(weights[large], _ranked_ids(logits[large]), target[large])
    return logits.masked_fill(dropped, -math.inf)


def _outside_nucleus(weights: Tensor, ranked_ids: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the tokens to drop, [num_seqs, vocab], and which rows' ranked tokens reach the target at all."""
    ranked = weights.gather(1, ranked_ids).to(target.dtype)
    reached = ranked.cumsum(dim=-1)
    # A token goes if those ranked before it reach the target without it.
    goes = reached - ranked >= target
    dropped = torch.ones_like(weights, dtype=torch.bool).scatter_(1, ranked_ids, goes)
    return dropped, reached[:, -1] >= target[:, 0]


def _ranked_ids(logits: Tensor) -> Tensor:
    """Return each row's token ids, likeliest first; equal ones in the order of HuggingFace's ascending sort."""
    return logits.sort(dim=-1).indices.flip(1)


def apply_min_p(logits: Tensor, min_p: Tensor) -> Tensor:
    """Drop tokens less likely than ``min_p`` times the likeliest one.

    min_p: [num_seqs], in [0, 1]; 0 keeps all. A ratio of probabilities is a difference of logits, so
    no softmax is needed. Nguyen et al. 2024, arXiv:2407.01082.
    """
    threshold = logits.max(dim=-1, keepdim=True).values + min_p.log()[:, None]
    return logits.masked_fill(logits < threshold, -math.inf)


def sample_from_uniform(logits: Tensor, uniforms: Tensor) -> Tensor:
    """Draw a token from each row's softmax, at the place in [0, 1) that its number points to.

    uniforms: [num_seqs], float64, in [0, 1). Returns token ids, [num_seqs]. The tokens divide [0, 1)
    among them, each as much as its probability: inverse transform sampling. One number and one
    row decide a draw, whatever stands beside them in the batch.
    """
    wide = wide_dtype(logits.device)
    upper = logits.softmax(dim=-1).cumsum(dim=-1, dtype=wide)
    total = upper[:, -1:]
    if not torch.isfinite(total).all():
        raise _no_choice(logits)
    drawn = torch.searchsorted(upper, uniforms.to(wide)[:, None] * total, right=True)
    # Rounding may carry the product up to the total itself, past the last token of any probability.
    last = torch.searchsorted(upper, total.contiguous())
    return torch.minimum(drawn, last)[:, 0]


def choose_greedily(logits: Tensor) -> Tensor:
    """Return each row's likeliest token, [num_seqs]; the first of several equal ones."""
    best, token_ids = logits.max(dim=-1)
    if not torch.isfinite(best).all():
        raise _no_choice(logits)
    return token_ids


def _no_choice(logits: Tensor) -> ValueError:
    if torch.isnan(logits).any() or torch.isposinf(logits).any():
        return ValueError(
            f"logits must be finite or -inf, got NaN or +inf: the model overflowed in {logits.dtype} or before"
        )
    return ValueError("no token is left to choose from: allowed_token_ids, bad_words and min_tokens exclude them all")


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
    logprobs = logits.float().log_softmax(dim=-1)
    own = logprobs.gather(1, token_ids[:, None])
    likeliest = logprobs.topk(min(num_logprobs, logits.shape[-1]), dim=-1)
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


def adjust_logits(logits: Tensor, metadata: SamplingMetadata) -> Tensor:
    """Apply what concerns single tokens: allowed ids, bans, biases, penalties."""
    if metadata.allowed is not None:
        logits = apply_allowed_token_ids(logits, metadata.allowed)
    if metadata.banned is not None:
        logits = apply_bans(logits, metadata.banned)
    if metadata.biases is not None:
        logits = apply_logit_bias(logits, metadata.biases)
    if metadata.penalties is not None:
        wishes = metadata.penalties
        logits = apply_penalties(
            logits,
            wishes.prompt_token_ids,
            wishes.output_token_ids,
            wishes.repetition,
            wishes.frequency,
            wishes.presence,
        )
    return logits


def filter_logits(logits: Tensor, metadata: SamplingMetadata, order: SamplingOrder = "huggingface") -> Tensor:
    """Apply temperature and the filters to the rows that are drawn; its softmax is what they are drawn from.

    order: "huggingface" runs top-k, top-p, min-p; "vllm" runs min-p, top-k, top-p. Each works on what
    the one before left.
    """
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


class Sampler:
    """Chooses the next token of every row.

    A new strategy is a subclass that overrides :meth:`filter`, put in place of ``LLMEngine.sampler``.
    """

    def __init__(self, order: SamplingOrder = "huggingface") -> None:
        self.order = order

    def __call__(self, logits: Tensor, metadata: SamplingMetadata) -> SamplerOutput:
        """Return a token a row. logits: [num_seqs, vocab], any float dtype; they are not changed."""
        raw = logits = logits.float()
        logits = adjust_logits(logits, metadata)
        if metadata.random_rows is None:
            token_ids = self._draw(logits, metadata)
        else:
            token_ids = choose_greedily(logits)
            if not metadata.all_greedy:
                token_ids[metadata.random_rows] = self._draw(logits[metadata.random_rows], metadata)
        logprobs = None
        if metadata.num_logprobs is not None:
            logprobs = compute_logprobs(raw, token_ids, metadata.num_logprobs)
        return SamplerOutput(token_ids, logprobs)

    def filter(self, logits: Tensor, metadata: SamplingMetadata) -> Tensor:
        """Return the logits whose softmax is drawn from.

        logits: [num_random, vocab], float32, a row for each of ``metadata.params``: greedy rows never come here.
        """
        return filter_logits(logits, metadata, self.order)

    def _draw(self, logits: Tensor, metadata: SamplingMetadata) -> Tensor:
        return sample_from_uniform(self.filter(logits, metadata), metadata.uniforms)
