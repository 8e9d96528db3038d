"""``rms_norm``: the norm of float16 numbers whose squares do not fit in it."""

from random import Random

import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from folovllm.course.exercises.exercise import Exercise, Mistake
from folovllm.course.exercises.numbers.not_float32 import not_float32
from folovllm.course.exercises.numbers.rows_like_zeros import like_zeros

_EPSILON = 1e-5


@torch.inference_mode()
def rms_norm_solution(x: Tensor) -> Tensor:
    """Return what the norm of a Llama layer makes of hidden states, in float32."""
    norm = LlamaRMSNorm(x.shape[-1], eps=_EPSILON)
    normed: Tensor = norm(x.float())
    return normed.clone()


def _squares_in_float16(x: Tensor) -> Tensor:
    return x.float() / (x.square().float().mean(dim=-1, keepdim=True) + _EPSILON).sqrt()


def _never_widened(x: Tensor) -> Tensor:
    return x / (x.square().mean(dim=-1, keepdim=True) + _EPSILON).sqrt()


def _never_widened_rsqrt(x: Tensor) -> Tensor:
    return x * (x.square().mean(dim=-1, keepdim=True) + _EPSILON).rsqrt()


def _all_in_float16(x: Tensor) -> Tensor:
    return _never_widened(x).float()


def _mean_in_float16(x: Tensor) -> Tensor:
    return x.float() / (x.square().mean(dim=-1, keepdim=True).float() + _EPSILON).sqrt()


def _normed(x: Tensor, epsilon: float = _EPSILON, dim: int | None = -1) -> Tensor:
    wide = x.float()
    return wide / (wide.square().mean(dim=dim, keepdim=True) + epsilon).sqrt()


def _rounded_at_the_end(x: Tensor) -> Tensor:
    return _normed(x).half().float()


def _without_epsilon(x: Tensor) -> Tensor:
    return _normed(x, 0.0)


def _over_the_whole_tensor(x: Tensor) -> Tensor:
    return _normed(x, dim=None)


def _down_the_columns(x: Tensor) -> Tensor:
    return _normed(x, dim=0)


def _without_keepdim(x: Tensor) -> Tensor:
    wide = x.float()
    return wide / (wide.square().mean(dim=-1) + _EPSILON).sqrt()


def _sum_of_squares(x: Tensor) -> Tensor:
    wide = x.float()
    return wide / (wide.square().sum(dim=-1, keepdim=True) + _EPSILON).sqrt()


def _layer_norm(x: Tensor) -> Tensor:
    return torch.nn.functional.layer_norm(x.float(), x.shape[-1:], eps=_EPSILON)


def _divided_by_the_spread(x: Tensor, correction: int = 1) -> Tensor:
    """Divide as with x.var(), which warns where a row has one number only."""
    wide = x.float()
    squares = (wide - wide.mean(dim=-1, keepdim=True)).square().sum(dim=-1, keepdim=True)
    return wide / (squares / (x.shape[-1] - correction) + _EPSILON).sqrt()


def _divided_by_the_whole_spread(x: Tensor) -> Tensor:
    return _divided_by_the_spread(x, correction=0)


def _epsilon_outside(x: Tensor) -> Tensor:
    wide = x.float()
    return wide / (wide.square().mean(dim=-1, keepdim=True).sqrt() + _EPSILON)


def _no_root(x: Tensor) -> Tensor:
    wide = x.float()
    return wide / (wide.square().mean(dim=-1, keepdim=True) + _EPSILON)


def _random_states(random: Random) -> tuple[Tensor]:
    """Return hidden states of very different sizes, row by row: huge, tiny, all zero, and nearly so."""
    columns = random.randint(1, 6)
    sizes = [random.choice([0.0, 0.0005, 0.004, 1.0, 300.0, 21834.0]) for _ in range(random.randint(1, 4))]
    rows = [like_zeros(random, [size * random.uniform(-3, 3) for _ in range(columns)], size * 3) for size in sizes]
    return (torch.tensor(rows).half(),)


_NEVER_WIDENED = (
    "you compute in float16: it ends at 65,504, so the square of 300 is already infinite, and the result 0; "
    "`x.float()` widens the row first, and then the result is float32 too"
)
_VARIANCE = "you divide by the spread: the variance takes the mean away first; take the mean of the squares themselves"

EXERCISE = Exercise(
    name="rms_norm",
    task="the norm of float16 numbers whose squares do not fit in it",
    solution=rms_norm_solution,
    cases=[
        (torch.tensor([[300.0, 400.0]]).half(),),  # first, because float16 shows here what it does
        (torch.tensor([[1.0, 2.0, 2.0], [3.0, 0.0, -4.0]]).half(),),
        (torch.tensor([[20000.0, -300.0, 8.0]]).half(),),
        (torch.tensor([[0.0, 0.0], [0.0004, -0.0003]]).half(),),
        (torch.tensor([[1.0, 2.0, 3.0], [400.0, 0.5, -2.0]]).half(),),
        (torch.tensor([[3.0, -3.0], [0.0, 2.0], [-2.0, 0.0], [2.0, 2.0]]).half(),),  # not zeros
        (torch.tensor([[65504.0, 30000.0]]).half(),),
        (torch.linspace(-3, 4, 12 * 2000).reshape(12, 2000).half(),),
        (torch.nn.functional.pad(torch.tensor([[20000.0], [-3.0]]), (0, 199)).half(),),  # results above 10
    ],
    generate=_random_states,
    complaint=not_float32,
    mistakes=[
        Mistake(_rounded_at_the_end, "almost: your result was a float16 in between; it stays float32 to the end"),
        Mistake(_never_widened, _NEVER_WIDENED),
        Mistake(_never_widened_rsqrt, _NEVER_WIDENED + " (rsqrt comes too late to help)"),
        Mistake(
            _squares_in_float16,
            "you square in float16: 20000 squared is 400 million, too much for float16, so it becomes infinite "
            "and the result 0; widen first, then square",
        ),
        Mistake(
            _mean_in_float16,
            "you widen the mean; by then the squares are infinite, so widen before you square",
        ),
        Mistake(
            _all_in_float16,
            "you compute in float16 and widen at the end; by then the squares are infinite, so widen first",
        ),
        Mistake(
            _without_keepdim,
            "your means are [rows], and the division lays them along the columns; `keepdim=True` keeps them "
            "[rows, 1], so that each row is divided by its own",
        ),
        Mistake(
            _without_epsilon,
            "you leave out the 1e-5: a row of zeros gives 0 / 0, which is nan",
        ),
        Mistake(
            _over_the_whole_tensor,
            "you take one mean over all rows; each row is one token and has its own",
        ),
        Mistake(_down_the_columns, "you take the mean down the columns; each row is one token and has its own"),
        Mistake(_sum_of_squares, "you take the sum of the squares; it is their mean"),
        Mistake(_layer_norm, "you take the mean away first; that is LayerNorm, RMSNorm only divides"),
        Mistake(_divided_by_the_spread, _VARIANCE),
        Mistake(_divided_by_the_whole_spread, _VARIANCE + " (in either form of the variance)"),
        Mistake(_epsilon_outside, "you add 1e-5 to the root; it is added to the mean, before the root"),
        Mistake(_no_root, "you divide by the mean of the squares; the root is missing"),
    ],
    hints=(
        "Which of the steps leaves float16's range?",
        "Widen to float32 first. Then divide by the root of (mean of the squares of the row + 1e-5).",
    ),
    code=("wide = x.float()\nmean = wide.square().mean(dim=-1, keepdim=True)\nreturn wide / (mean + 1e-5).sqrt()"),
)
