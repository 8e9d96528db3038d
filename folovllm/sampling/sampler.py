"""From logits to the next tokens: one pure function a strategy, and the :class:`Sampler` that chains them.

Logits are ``[num_seqs, vocab]``, float32; parameters are tensors ``[num_seqs]``, so that every row can
ask for something else. A dropped token's logit is -inf. (vLLM: ``v1/sample/sampler.py``.)
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from folovllm.config import SamplingOrder
from folovllm.sampling.filtered_rows import FilteredRows, lay_out, pick_rows
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
from folovllm.sampling.nucleus import find_nuclei, weigh
from folovllm.sampling.ranking import find_candidates, is_small, largest_values
from folovllm.sampling_params import SamplingParams

_LOGITS_AT_ONCE = 16 * 49_152
"""Whole rows are filtered so many logits at a time on a CPU: larger temporary tensors leave its cache and, being
returned to the system after each use, cost more in page faults than in arithmetic."""


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
    deepest = int(torch.where(active, top_k, 0).max())
    if deepest == 0:
        return logits
    smallest_kept = largest_values(logits, deepest).gather(1, (top_k.clamp(1, deepest) - 1)[:, None])
    return torch.where((logits < smallest_kept) & active[:, None], -math.inf, logits)


def apply_top_p(logits: Tensor, top_p: Tensor) -> Tensor:
    """Keep the smallest set of tokens whose probability reaches ``top_p``.

    top_p: [num_seqs], in (0, 1]; 1 keeps all. The token that crosses ``top_p`` is kept, so at least
    one stays. Of tokens that are equally likely at the border, the last in the vocabulary stay, as in HuggingFace.
    Holtzman et al. 2020, arXiv:1904.09751, section 3.1.
    """
    return lay_out(find_nuclei(logits, top_p), logits)


def apply_min_p(logits: Tensor, min_p: Tensor) -> Tensor:
    """Drop tokens less likely than ``min_p`` times the likeliest one.

    min_p: [num_seqs], in [0, 1]; 0 keeps all. A ratio of probabilities is a difference of logits, so
    no softmax is needed. Nguyen et al. 2024, arXiv:2407.01082.
    """
    threshold = logits.amax(dim=-1, keepdim=True) + min_p.log()[:, None]
    return torch.where(logits < threshold, -math.inf, logits)


def sample_from_uniform(logits: Tensor, uniforms: Tensor) -> Tensor:
    """Draw a token from each row's softmax, at the place in [0, 1) that its number points to.

    uniforms: [num_seqs], float64, in [0, 1). Returns token ids, [num_seqs]. The tokens divide [0, 1)
    among them, each as much as its probability: inverse transform sampling. One number and one
    row decide a draw, whatever stands beside them in the batch.
    """
    wide = wide_dtype(logits.device)
    # A dropped token adds an exact zero: the draw is the same among all tokens and among those that are left.
    upper = weigh(logits, logits.amax(dim=-1, keepdim=True)).cumsum(dim=-1, dtype=wide)
    total = upper[:, -1:]
    if not torch.isfinite(total).all():
        raise no_choice_error(logits)
    drawn = torch.searchsorted(upper, uniforms.to(wide)[:, None] * total, right=True)
    # Rounding may carry the product up to the total itself, past the last token of any probability.
    last = torch.searchsorted(upper, total.contiguous())
    return torch.minimum(drawn, last)[:, 0]


def choose_greedily(logits: Tensor) -> Tensor:
    """Return each row's likeliest token, [num_seqs]; the first of several equal ones."""
    best, token_ids = logits.max(dim=-1)
    if not torch.isfinite(best).all():
        raise no_choice_error(logits)
    return token_ids


class NoTokenLeftError(ValueError):
    """A row has no token to choose from: what its request asks for excludes them all."""


def no_choice_error(logits: Tensor) -> ValueError:
    """Return what to raise where a row of logits has no finite maximum."""
    if torch.isnan(logits).any() or torch.isposinf(logits).any():
        return ValueError(
            f"logits must be finite or -inf, got NaN or +inf: the model overflowed in {logits.dtype} or before, "
            "or a logits processor or strategy of your own made them"
        )
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
    """Apply what concerns single tokens: forms of the text, allowed ids, bans, biases, own functions, penalties."""
    if metadata.masks is not None:
        logits = apply_masks(logits, metadata.masks)
    if metadata.allowed is not None:
        logits = apply_allowed_token_ids(logits, metadata.allowed)
    if metadata.banned is not None:
        logits = apply_bans(logits, metadata.banned)
    if metadata.biases is not None:
        logits = apply_logit_bias(logits, metadata.biases)
    if metadata.processors is not None:
        logits = apply_request_processors(logits, metadata.processors)
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
    return lay_out(filter_in_parts(logits, metadata, order), logits)


def filter_in_parts(logits: Tensor, metadata: SamplingMetadata, order: SamplingOrder) -> Iterator[FilteredRows]:
    """Do the work of :func:`filter_logits` on rows grouped by what they ask; each row is in one part.

    Rows with a small top-k go through the same filters with their few likeliest tokens alone. The others
    start whole, some at a time; a top-p leaves few tokens of most.
    """

    def temper(rows: Tensor) -> Tensor:
        chosen = pick_rows(logits, rows)
        return chosen if metadata.temperature is None else apply_temperature(chosen, metadata.temperature[rows])

    whole = torch.arange(len(logits), device=logits.device)
    asking = whole[:0] if metadata.top_k is None else whole[is_small(metadata.top_k, logits.shape[-1])]
    if metadata.top_k is not None and len(asking) > 0:
        tempered = temper(asking)
        decided, token_ids = find_candidates(tempered, metadata.top_k[asking])
        rows = asking[decided]
        if len(rows) > 0:
            candidates = FilteredRows(rows, token_ids, tempered[decided[:, None], token_ids])
            yield from _apply_filters(candidates, metadata, order)
            whole = whole[torch.isin(whole, rows, invert=True)]
    at_once = max(1, _LOGITS_AT_ONCE // logits.shape[-1] if logits.device.type == "cpu" else len(logits))
    for first in range(0, len(whole), at_once):
        rows = whole[first : first + at_once]
        yield from _apply_filters(FilteredRows(rows, None, temper(rows)), metadata, order)


def _apply_filters(given: FilteredRows, metadata: SamplingMetadata, order: SamplingOrder) -> Iterator[FilteredRows]:
    rows, logits = given.rows, given.logits
    if metadata.min_p is not None and order == "vllm":
        logits = apply_min_p(logits, metadata.min_p[rows])
    if metadata.top_k is not None:
        logits = apply_top_k(logits, metadata.top_k[rows])
    if metadata.top_p is None:
        parts: Iterable[FilteredRows] = [replace(given, logits=logits)]
    else:
        parts = map(given.part, find_nuclei(logits, metadata.top_p[rows]))
    for part in parts:
        if metadata.min_p is not None and order == "huggingface":
            part = replace(part, logits=apply_min_p(part.logits, metadata.min_p[part.rows]))
        yield part


class Sampler:
    """Chooses the next token of every row.

    A strategy of one's own is a subclass that overrides :meth:`refine`, put in place of ``LLMEngine.sampler``.
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

    def refine(self, logits: Tensor, params: list[SamplingParams]) -> Tensor:
        """Return what is drawn from, given what the filters left: the place for a further strategy; here nothing.

        logits: [num_rows, width], float32, rows that are drawn (never greedy ones).  params: theirs. Tokens that a
        filter dropped are -inf or have no column at all, so a column's number is no token id. It may be changed
        in place: it is a copy. A ValueError if what is returned has another shape, dtype or device.
        """
        return logits

    def _draw(self, logits: Tensor, metadata: SamplingMetadata) -> Tensor:
        """Draw from what :func:`filter_logits` would return, without laying it out over the vocabulary."""
        token_ids = torch.empty(len(logits), dtype=torch.long, device=logits.device)
        refines = getattr(self.refine, "__func__", None) is not Sampler.refine
        for part in filter_in_parts(logits, metadata, self.order):
            refined = part.logits
            if refines:
                params = [metadata.params[row] for row in part.rows.tolist()]
                refined = check_result(
                    "Sampler.refine", call_users("Sampler.refine", self.refine, refined.clone(), params), refined
                )
            drawn = sample_from_uniform(refined, metadata.uniforms[part.rows])
            if part.token_ids is not None:
                drawn = part.token_ids.gather(1, drawn[:, None])[:, 0]
            token_ids[part.rows] = drawn
        return token_ids
