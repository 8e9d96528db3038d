"""The exercises of chapter 04, with their solutions and the mistakes that they catch."""

import warnings

import torch
from torch import Tensor

from folovllm.course.exercises.exercise import Exercise, Mistake
from folovllm.course.gguf_file import quantize_and_back
from folovllm.models.defaults import resolve_dtype, resolve_max_model_len

LengthLimits = dict[str, int]


def position_ids_solution(mask: Tensor) -> Tensor:
    """Return the positions of left-padded tokens; padding gets 0."""
    return (mask.cumsum(dim=1) - 1).clamp(min=0)


def auto_dtype_solution(checkpoint: str, device: str, has_bfloat16: bool) -> str:
    """Return the dtype that "auto" stands for."""
    capability = (8, 0) if has_bfloat16 else (7, 5)
    return resolve_dtype("auto", checkpoint, "llama", device, capability if device == "cuda" else None)


def max_length_solution(config: LengthLimits, tokenizer_limit: int) -> int:
    """Return how many tokens prompt and output may have together."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # 2048 for a model without a limit comes with one
        return resolve_max_model_len(config, tokenizer_limit)


def q8_0_solution(weights: Tensor) -> Tensor:
    """Return what a Q8_0 block gives back."""
    return quantize_and_back(weights, "Q8_0")


def _columns(mask: Tensor) -> Tensor:
    return torch.arange(mask.shape[1]).expand(mask.shape)


def _from_one(mask: Tensor) -> Tensor:
    return mask.cumsum(dim=1) * mask


def _minus_one_at_padding(mask: Tensor) -> Tensor:
    return mask.cumsum(dim=1) - 1


def _backwards(mask: Tensor) -> Tensor:
    return _columns(mask).flip(1) * mask


def _notes_dtype(checkpoint: str, device: str, has_bfloat16: bool) -> str:
    return "float16" if device == "cuda" else "float32"


def _always_the_checkpoint(checkpoint: str, device: str, has_bfloat16: bool) -> str:
    return checkpoint


def _any_card_has_bfloat16(checkpoint: str, device: str, has_bfloat16: bool) -> str:
    return auto_dtype_solution(checkpoint, device, True)


def _float32_stays_wide(checkpoint: str, device: str, has_bfloat16: bool) -> str:
    kept = checkpoint == "float32" and device == "cuda"
    return "float32" if kept else auto_dtype_solution(checkpoint, device, has_bfloat16)


_LENGTH_KEYS = ("max_position_embeddings", "n_positions", "seq_length")


def _notes_max_length(config: LengthLimits, tokenizer_limit: int) -> int:
    return config.get("max_position_embeddings", 2048)


def _without_tokenizer(config: LengthLimits, tokenizer_limit: int) -> int:
    return min([config[key] for key in _LENGTH_KEYS if key in config], default=2048)


def _largest(config: LengthLimits, tokenizer_limit: int) -> int:
    return max([config[key] for key in _LENGTH_KEYS if key in config] + [tokenizer_limit])


def _believes_the_tokenizer(config: LengthLimits, tokenizer_limit: int) -> int:
    return min([config[key] for key in _LENGTH_KEYS if key in config] + [tokenizer_limit])


def _never_above_the_default(config: LengthLimits, tokenizer_limit: int) -> int:
    return min(2048, _believes_the_tokenizer(config, tokenizer_limit))


def _signed_maximum(weights: Tensor) -> Tensor:
    scale = weights.max() / 127
    return (weights / scale).round() * scale.half().float()


def _truncated(weights: Tensor) -> Tensor:
    scale = weights.abs().max() / 127
    return (weights / scale).trunc() * scale.half().float()


def _whole_numbers(weights: Tensor) -> Tensor:
    return (weights / (weights.abs().max() / 127)).round()


def _scale_kept_in_float32(weights: Tensor) -> Tensor:
    scale = weights.abs().max() / 127
    return (weights / scale).round() * scale


def _four_bits(weights: Tensor) -> Tensor:
    scale = weights.abs().max() / 7
    return (weights / scale).round() * scale.half().float()


_MASKS = [
    torch.tensor([[0, 0, 1, 1, 1], [0, 1, 1, 1, 1]]),  # the notes' picture
    torch.tensor([[1, 1, 1]]),
    torch.tensor([[0, 0, 0, 1], [1, 1, 1, 1], [0, 0, 1, 1]]),
]
_NO_LIMIT = 10**30
_LIMITS: list[tuple[LengthLimits, int]] = [
    ({"max_position_embeddings": 8192}, 8192),
    ({"max_position_embeddings": 32768}, 4096),
    ({"n_positions": 1024}, _NO_LIMIT),
    ({"max_position_embeddings": 4096, "seq_length": 2048}, _NO_LIMIT),
    ({"max_position_embeddings": 40960}, _NO_LIMIT),
    ({}, 512),
    ({}, _NO_LIMIT),
]
_BLOCKS = [
    torch.linspace(-1.0, 0.83, 32).roll(5),
    torch.cos(torch.arange(32.0)) * 0.071 - 0.02,
    torch.tensor([0.013, -0.021, 0.008, 0.017] * 7 + [0.003, -1.7, 0.011, -0.006]),  # one outlier, below zero
]
_DTYPE_CASES = [
    (checkpoint, device, has_bfloat16)
    for checkpoint in ("float16", "bfloat16", "float32")
    for device, has_bfloat16 in (("cpu", True), ("cuda", True), ("cuda", False), ("mps", False))
]

EXERCISES = [
    Exercise(
        name="position_ids",
        task="the positions of left-padded tokens",
        solution=position_ids_solution,
        cases=[(mask,) for mask in _MASKS],
        mistakes=[
            Mistake(
                _columns,
                "you count columns: for the mask [0 0 1 1 1] the first real token gets position 2; it is the first of "
                "its text, so it must get 0",
            ),
            Mistake(_from_one, "you start at 1; the first position is 0, and so every token is one place too far"),
            Mistake(
                _minus_one_at_padding,
                "padding before the text gets -1; no table of positions has such a row (on a GPU that ends the "
                "program), so give it 0",
            ),
            Mistake(_backwards, "you count from the end; the first real token has position 0, the last the largest"),
        ],
        hints=(
            "How many real tokens are there up to a column?",
            "`cumsum` along the row counts them. The first must get 0, and padding must not fall below it.",
        ),
        code="return (mask.cumsum(dim=1) - 1).clamp(min=0)",
    ),
    Exercise(
        name="auto_dtype",
        task="which dtype does 'auto' stand for?",
        solution=auto_dtype_solution,
        cases=_DTYPE_CASES,
        mistakes=[
            Mistake(
                _notes_dtype,
                "you do not look at the checkpoint: a model stored in bfloat16 may hold values that float16 cannot; "
                "and 'mps' takes float16",
            ),
            Mistake(
                _always_the_checkpoint,
                "you always take the checkpoint's dtype: the CPU computes in float32 here, float32 weights take twice "
                "the room on a GPU for nothing, and an old card has no bfloat16",
            ),
            Mistake(
                _any_card_has_bfloat16,
                "you take bfloat16 on every card; one without it (below compute capability 8.0) must take float16",
            ),
            Mistake(
                _float32_stays_wide,
                "you keep a float32 checkpoint in float32 on CUDA; the rule halves it to the card's 16-bit dtype",
            ),
        ],
        hints=(
            "Three devices, three rules; the checkpoint matters for one of them.",
            "CPU: float32. MPS: float16. CUDA: bfloat16, unless the checkpoint is float16 or the card cannot do it.",
        ),
        code=(
            'wide = has_bfloat16 and checkpoint != "float16"\n'
            'on_gpu = "bfloat16" if device == "cuda" and wide else "float16"\n'
            'return "float32" if device == "cpu" else on_gpu'
        ),
    ),
    Exercise(
        name="max_length",
        task="how many tokens may prompt and output have together?",
        solution=max_length_solution,
        cases=list(_LIMITS),
        mistakes=[
            Mistake(
                _notes_max_length,
                "you look at one key only: GPT-2 calls it n_positions (1024, you say 2048), another key or the "
                "tokenizer may be stricter",
            ),
            Mistake(
                _without_tokenizer, "you leave out the tokenizer: its limit of 4096 is stricter than the config's 32768"
            ),
            Mistake(_largest, "you take the largest; every limit must hold, so the smallest counts"),
            Mistake(
                _believes_the_tokenizer,
                "you believe the tokenizer: 10**30 means that it knows no limit; where nothing is known, take 2048",
            ),
            Mistake(
                _never_above_the_default,
                "you never go above 2048; that is only for models that name no limit, the others may be longer",
            ),
        ],
        hints=(
            "Every limit must hold. Which of them are limits at all?",
            "Collect what the three keys say, and the tokenizer's if it is below 10**9; take the smallest.",
        ),
        code=(
            'keys = ("max_position_embeddings", "n_positions", "seq_length")\n'
            "known = [config[key] for key in keys if key in config]\n"
            "known += [tokenizer_limit] if tokenizer_limit < 10**9 else []\n"
            "return min(known, default=2048)"
        ),
    ),
    Exercise(
        name="q8_0",
        task="what does a Q8_0 block give back?",
        solution=q8_0_solution,
        cases=[(block,) for block in _BLOCKS],
        mistakes=[
            Mistake(
                _signed_maximum,
                "you scale by the largest value; the largest *magnitude* decides, or values far below zero do not fit "
                "into -127 ... 127",
            ),
            Mistake(_truncated, "you cut the fraction off; rounding to the nearest halves the error"),
            Mistake(
                _whole_numbers, "you return the whole numbers; multiply by the scale to get back to the size of weights"
            ),
            Mistake(
                _scale_kept_in_float32,
                "almost: the scale itself is stored in float16, so what comes back is multiplied by the rounded one",
            ),
            Mistake(_four_bits, "you divide by 7, which is for 4 bits; 8 bits with a sign reach 127"),
        ],
        hints=(
            "The largest magnitude becomes 127.",
            "Scale, round, scale back. What is stored of the scale is a float16.",
        ),
        code="scale = weights.abs().max() / 127\nreturn (weights / scale).round() * scale.half().float()",
    ),
]
