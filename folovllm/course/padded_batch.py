"""What padding and dtype do to a batch's logits: real forward passes, on Hugging Face's own API."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel, PreTrainedTokenizerBase

from folovllm.language import N_, _

Side = Literal["left", "right"]
Positions = Literal["columns", "mask"]
SIDE_NAMES: dict[Side, str] = {"left": N_("left"), "right": N_("right")}
SIDES = tuple(SIDE_NAMES)
POSITIONS: tuple[Positions, ...] = ("columns", "mask")
DTYPES = ("float32", "bfloat16", "float16")
PADDING_PROMPTS = (
    "The capital of France is",
    "Once upon a time there was a small",
    "My favourite place in the whole world is the",
)


@dataclass(frozen=True)
class PaddedBatch:
    """Prompts of different lengths as one rectangle; all tensors are [num_prompts, num_columns], int64.

    mask: 1 for real tokens, 0 for padding.  position_ids: what the model is told about places.
    """

    token_ids: Tensor
    mask: Tensor
    position_ids: Tensor

    @property
    def last_real(self) -> Tensor:
        """Columns of the last real tokens: [num_prompts]."""
        return (self.mask * torch.arange(1, self.mask.shape[1] + 1)).argmax(dim=1)


def pad_prompts(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], side: Side = "left", positions: Positions = "mask"
) -> PaddedBatch:
    """Pad prompts with the tokenizer's own padding token.

    positions: "columns" counts columns, as a plain forward pass does that is not told anything; "mask"
    counts real tokens, as ``generate`` does.
    A ValueError if there is no prompt, or one without a token.
    """
    if not prompts or not all(tokenizer(prompt)["input_ids"] for prompt in prompts):
        raise ValueError(f"prompts must be one or more, each with at least one token, got {list(prompts)!r}")
    batch = tokenizer(list(prompts), padding=True, padding_side=side, return_tensors="pt")
    mask = batch["attention_mask"].long()
    columns = torch.arange(mask.shape[1]).expand_as(mask)
    counted = (mask.cumsum(dim=1) - 1).clamp(min=0)
    return PaddedBatch(batch["input_ids"].long(), mask, columns if positions == "columns" else counted)


@dataclass(frozen=True)
class PaddingEffect:
    """How far a padded batch's next-token logits are from those of each prompt alone in float32.

    at_last_column, at_last_token: largest absolute difference, one per prompt; read in the last column, where
    ``generate`` reads, and at the last real token.
    next_tokens, expected_tokens: the id of the likeliest token, one per prompt; in the last column, and of the
    prompt alone in float32.
    same_token: whether the last column has the same likeliest token, one per prompt.
    weight_bytes: of the model's weights in this dtype.
    """

    batch: PaddedBatch
    at_last_column: tuple[float, ...]
    at_last_token: tuple[float, ...]
    next_tokens: tuple[int, ...]
    expected_tokens: tuple[int, ...]
    weight_bytes: int

    @property
    def same_token(self) -> tuple[bool, ...]:
        """Whether the last column has the token that the prompt alone has, one per prompt."""
        return tuple(token == other for token, other in zip(self.next_tokens, self.expected_tokens, strict=True))

    def why(self, row: int, exact: "PaddingEffect", dtype: str) -> str:
        """Say in what the last column's logits of a prompt differ from its logits alone, and why.

        exact: the same way of padding in float32, which tells an error from a dtype's rounding.
        """
        real = self.batch.mask[row].nonzero().flatten()
        start, shifted = int(self.batch.position_ids[row, real[0]]), exact.at_last_column[row] > 10 * ROUNDING
        if int(real[-1]) < self.batch.mask.shape[1] - 1:
            return _("read in a cell of padding, not at its last token")
        if start and shifted:
            return _("its positions begin at {start}, not at 0").format(start=start)
        rounded = _("; {dtype} rounds").format(dtype=dtype) if self.at_last_column[row] > ROUNDING else ""
        if start:
            return _("its positions begin at {start}, but for this model only distances count{rounded}").format(
                start=start, rounded=rounded
            )
        return _("read at its last token, positions from 0: {what}").format(
            what=_("only {dtype} rounds").format(dtype=dtype) if rounded else _("nothing differs")
        )

    def sentence(self) -> str:
        """State the result in one line."""
        mask = self.batch.mask
        return _(
            "{empty} of {cells} cells are padding; weights {megabytes:.0f} MB; next token as "
            "without padding: {same_token} of {num_same_token}; largest error of a logit: "
            "{in_last_column} in the last column, {at_last_token} at the last real token"
        ).format(
            empty=int((mask == 0).sum()),
            cells=mask.numel(),
            megabytes=self.weight_bytes / 1e6,
            same_token=sum(self.same_token),
            num_same_token=len(self.same_token),
            in_last_column=show_error(max(self.at_last_column)),
            at_last_token=show_error(max(self.at_last_token)),
        )


ROUNDING = 0.001
"""Below this an error is float32's rounding, which differs from machine to machine."""


def show_error(error: float) -> str:
    """Return an error as text."""
    return _("less than {smallest}").format(smallest=ROUNDING) if error < ROUNDING else f"{error:.2g}"


Way = tuple[Side, Positions]


def measure_padding(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], dtype: str
) -> dict[Way, PaddingEffect]:
    """Run a batch in a dtype with every way of padding, and compare with each prompt alone in float32.

    The model stays as it is: another dtype is computed by a copy, which is then thrown away.
    """
    exact, runner = _in_dtype(model, "float32"), _in_dtype(model, dtype)
    alone = [_forward(exact, pad_prompts(tokenizer, [prompt]))[0, -1] for prompt in prompts]
    ways: list[Way] = [(side, positions) for side in SIDES for positions in POSITIONS]
    batches = {way: pad_prompts(tokenizer, prompts, *way) for way in ways}
    return {way: _compare(_forward(runner, batch), alone, batch, runner) for way, batch in batches.items()}


def _in_dtype(model: PreTrainedModel, dtype: str) -> PreTrainedModel:
    wanted = getattr(torch, dtype)
    return model if model.dtype == wanted else copy.deepcopy(model).to(wanted)


@torch.inference_mode()
def _forward(model: PreTrainedModel, batch: PaddedBatch) -> Tensor:
    """Return the logits: [num_prompts, num_columns, vocab], float32, on the CPU."""
    inputs = {"input_ids": batch.token_ids, "attention_mask": batch.mask, "position_ids": batch.position_ids}
    logits: Tensor = model(**{name: tensor.to(model.device) for name, tensor in inputs.items()}).logits
    return logits.float().cpu()


def _compare(logits: Tensor, alone: list[Tensor], batch: PaddedBatch, model: PreTrainedModel) -> PaddingEffect:
    last, rows = batch.last_real, range(len(alone))
    return PaddingEffect(
        batch=batch,
        at_last_column=tuple(float((logits[row, -1] - alone[row]).abs().max()) for row in rows),
        at_last_token=tuple(float((logits[row, last[row]] - alone[row]).abs().max()) for row in rows),
        next_tokens=tuple(int(logits[row, -1].argmax()) for row in rows),
        expected_tokens=tuple(int(each.argmax()) for each in alone),
        weight_bytes=sum(weight.nbytes for weight in model.parameters()),
    )


def make_tiny_gpt2(vocab_size: int, num_positions: int = 128) -> PreTrainedModel:
    """Return a two-layer GPT-2 with random weights, the same every time: positions are rows of a learned table.

    Its text means nothing; what padding does to it is what padding does to any model of its kind.
    """
    config = GPT2Config(
        vocab_size=vocab_size,
        n_positions=num_positions,
        n_embd=64,
        n_layer=2,
        n_head=4,
        # Weights this large spread the logits about as far as a trained model's.
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: PreTrainedModel = GPT2LMHeadModel(config)
    return model.eval()  # type: ignore[no-untyped-call, no-any-return]
