"""The one solution of chapter 02 that is not made of the engine's functions agrees with them."""

import random

import torch

from folovllm.course.exercises.sampling.top_p import top_p_solution
from folovllm.sampling.sampler import apply_top_p


def test_top_p_in_probabilities_keeps_what_the_engine_keeps():
    rng = random.Random(0)
    for _ in range(200):
        probs = torch.randn(rng.choice([1, 2, 5, 300]), generator=torch.Generator().manual_seed(rng.randrange(999)))
        probs = (rng.choice([0.1, 1, 5]) * probs).softmax(dim=-1)
        p = rng.uniform(0.01, 0.99)
        kept = apply_top_p(probs.log()[None], torch.tensor([p], dtype=torch.float64))[0] > -torch.inf
        assert torch.equal(top_p_solution(probs, p), kept)


def test_of_equal_tokens_at_the_border_both_keep_the_later_ones():
    probs = torch.tensor([0.2, 0.2, 0.2, 0.2, 0.2])
    kept = apply_top_p(probs.log()[None], torch.tensor([0.5], dtype=torch.float64))[0] > -torch.inf
    assert top_p_solution(probs, 0.5).tolist() == kept.tolist() == [False, False, True, True, True]
