"""The sampler's side of :mod:`folovllm.kernels.sampling`: which logits its loops take, and tensors as their arrays."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor


def filter_rows(logits: Tensor, **wishes: Any) -> Tensor:
    """Return the filtered logits, [num_rows, vocab].  wishes: as in :func:`_filters`, an entry a row."""
    from folovllm.kernels import sampling  # here: importing numba takes .3 s, and a GPU has no use for it

    out = np.empty(logits.shape, np.float32)
    _run(sampling.filter_rows, logits, _filters(len(logits), **wishes), out)
    return torch.from_numpy(out)


def sample_rows(logits: Tensor, uniforms: Tensor, rows: Tensor | None = None, **wishes: Any) -> Tensor:
    """Return a token for each row that is drawn, [num_rows]; -1 where none can be.

    logits: [any, vocab].  rows: which to draw from; None for all.  uniforms, wishes: an entry for each of these.
    """
    from folovllm.kernels import sampling

    token_ids = np.empty(len(uniforms), np.int64)
    chosen = np.arange(len(uniforms)) if rows is None else rows.numpy()
    filters = _filters(len(uniforms), **wishes)
    _run(sampling.sample_rows, logits, chosen, filters, uniforms.double().numpy(), token_ids)
    return torch.from_numpy(token_ids)


def choose_rows(logits: Tensor) -> Tensor:
    """Return each row's likeliest token, [num_rows]; -1 where no logit is finite, or one is NaN or +inf."""
    from folovllm.kernels import sampling

    token_ids = np.empty(len(logits), np.int64)
    _run(sampling.choose_rows, logits, token_ids)
    return torch.from_numpy(token_ids)


def judge_rows(logits: Tensor, token_ids: Tensor, num_logprobs: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the tokens and the likeliest ones, their log-probabilities, and the tokens' ranks.

    token_ids: [num_rows]. Results: [num_rows, 1 + num_logprobs], two of them; [num_rows].
    """
    from folovllm.kernels import sampling

    judged = token_ids[:, None].repeat(1, 1 + num_logprobs)
    values, best, log_totals = (
        torch.from_numpy(np.empty((len(logits), width), np.float32)) for width in (judged.shape[1], 1, 1)
    )
    ranks = torch.empty_like(token_ids)
    columns = (each.numpy() for each in (judged, values, best[:, 0], log_totals[:, 0], ranks))
    _run(sampling.judge_rows, logits, *columns)
    order = values[:, 1:].sort(dim=-1, descending=True, stable=True).indices
    for each in (judged, values):
        each[:, 1:] = each[:, 1:].gather(1, order)
    return judged, values - best - log_totals, ranks


def _filters(
    num_rows: int,
    temperature: Tensor | None = None,
    top_k: Tensor | None = None,
    top_p: Tensor | None = None,
    min_p: Tensor | None = None,
    min_p_first: bool = False,
) -> Any:
    """Return what the rows ask for as the loops read it; None leaves a filter out."""
    from folovllm.kernels.sampling import Filters

    def column(values: Tensor | None, off: float, dtype: type) -> Any:
        return np.full(num_rows, off, dtype) if values is None else values.numpy().astype(dtype)

    return Filters(
        temperature=column(temperature, 1, np.float32),
        top_k=column(top_k, 0, np.int64),
        top_p=column(top_p, 1, np.float64),
        log_min_p=column(None if min_p is None else min_p.log(), -np.inf, np.float32),
        min_p_first=min_p_first,
    )


def _run(function: Callable[..., None], logits: Tensor, *arguments: Any) -> None:
    from folovllm.kernels.team import THREADS

    num_threads = min(torch.get_num_threads(), len(logits))
    THREADS.run(num_threads, 1, function, logits.detach().contiguous().numpy(), *arguments)
