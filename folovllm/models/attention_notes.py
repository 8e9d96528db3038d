"""An attention function and a mask function that compute nothing and take notes of what they are asked for."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_HARMLESS = {
    "dropout", "is_causal", "logits_to_keep", "output_attentions", "output_hidden_states", "output_router_logits",
    "past_key_values", "position_ids", "return_dict", "scaling", "sliding_window", "use_cache",
}  # fmt: skip
_IN_WORDS = {
    "indices": "a choice of the tokens it sees (indices)",
    "position_bias": "a bias of its scores (position_bias)",
    "s_aux": "attention sinks (s_aux)",
    "softcap": "a cap on its scores (softcap)",
}
_FAR = 2**20
"""A position beyond every window."""

_NOT_CAUSAL = "its attention is not causal: a token sees those after it"


class AttentionNotes:
    """What one forward pass over ``num_tokens`` tokens asks of attention.

    num_kv_heads, head_dims: all that keys and values have.
    windows: for each call, how many latest positions a token sees, itself included; None for all before it.
    reasons: what the engine cannot do, each a clause about the model.

    The mask decides what a layer sees, not the keyword ``sliding_window``: some models give the one without the other.
    """

    def __init__(self, num_tokens: int) -> None:
        self._num_tokens = num_tokens
        self.num_kv_heads: set[int] = set()
        self.head_dims: set[int] = set()
        self.windows: list[int | None] = []
        self.reasons: list[str] = []
        # Each with its window, or with what is against it; some models make masks that no layer gets.
        self._masks: list[tuple[Tensor, int | str | None]] = []

    def refuse(self, reason: str) -> None:
        """Note something that the engine cannot do."""
        self.reasons.append(reason)

    def attend(
        self,
        module: torch.nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        """Be the attention function."""
        if {(each.shape[0], each.shape[2]) for each in (query, key, value)} != {(1, self._num_tokens)}:
            self.refuse("its attention sees other keys than one of each token")
        if extras := sorted(name for name, given in kwargs.items() if name not in _HARMLESS and given is not None):
            self.refuse(f"its attention needs {', '.join(_IN_WORDS.get(name, name) for name in extras)}")
        self.num_kv_heads |= {key.shape[1], value.shape[1]}
        self.head_dims |= {key.shape[3], value.shape[3]}
        is_causal = kwargs.get("is_causal")
        self.windows.append(
            self._window(attention_mask, getattr(module, "is_causal", True) if is_causal is None else is_causal)
        )
        return query.new_empty(1, query.shape[2], query.shape[1], value.shape[3]), None

    def _window(self, attention_mask: Tensor | None, is_causal: bool) -> int | None:
        if attention_mask is None:
            if not is_causal:
                self.refuse(_NOT_CAUSAL)
            return None
        for mask, window in self._masks:
            if mask is attention_mask:
                if isinstance(window, str):
                    self.refuse(window)
                    return None
                return window
        self.refuse("its attention has a mask of the model's own making")
        return None

    def make_mask(
        self, *, mask_function: Callable[..., Tensor], q_length: int, kv_length: int, **kwargs: Any
    ) -> Tensor:
        """Be the mask function: ask who sees whom."""
        window: int | str | None
        try:
            with torch.device("cpu"):
                window = find_window(mask_function)
        except ValueError as error:
            size = kwargs.get("local_size")
            is_cut = size is not None and str(error) != _NOT_CAUSAL
            window = f"its attention works on pieces of {size} tokens each" if is_cut else str(error)
        mask = torch.empty(1, 1, q_length, kv_length, dtype=torch.bool, device="meta")
        self._masks.append((mask, window))
        return mask


def find_window(mask_function: Callable[..., Tensor]) -> int | None:
    """Return how many latest positions a token sees, itself included; None for all before it.

    mask_function: transformers': (batch, head, query position, key position), to whether the one sees the other.
    A ValueError where who sees whom is another matter than how far before it a key lies.
    """

    def visible(queries: Tensor, keys: Tensor) -> Tensor:
        zero = torch.zeros(1, 1, dtype=torch.long)
        return mask_function(zero, zero, queries[:, None], keys[None]).expand(len(queries), len(keys))

    try:
        if visible(torch.tensor([3]), torch.tensor([9])).any():
            raise ValueError(_NOT_CAUSAL)
        window = int(visible(torch.tensor([_FAR]), torch.arange(_FAR + 1)).sum())
        near = torch.arange(600)
        queries = torch.cat([near, torch.tensor([window - 1, window, window + 1, 2 * window, 4096, 65537])])
        edges = (queries[-6:, None] - window + torch.arange(-2, 3)).clamp(0).flatten()
        keys = torch.cat([near, queries, edges])
        distance = queries[:, None] - keys[None]
        everything = window > _FAR
        if torch.equal(visible(queries, keys), (distance >= 0) & (everything | (distance < window))):
            return None if everything else window
    except (RuntimeError, NotImplementedError, IndexError) as error:
        # It looks at tensors of the run, which have shapes but no values.
        raise ValueError("its attention has a mask that depends on more than the distance of two tokens") from error
    raise ValueError("its attention has a mask that depends on more than the distance of two tokens")
