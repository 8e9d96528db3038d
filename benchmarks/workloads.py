"""What is measured: prompts, how many tokens each is to give, and how they are chosen.

Everything is fixed by a seed, and EOS is masked or ignored until the end, so that every engine does the same work.
"""

import random
from dataclasses import dataclass, replace

VOCAB_SIZE = 49_000
"""Prompts are random token ids below this: text would make no difference to the time."""


@dataclass(frozen=True)
class Workload:
    """Prompts (token ids), the output length of each, and how many completions of each are drawn.

    num_completions 1 is greedy; more are drawn at temperature 0.8 and top-p 0.9.
    """

    title: str
    prompts: list[list[int]]
    max_tokens: list[int]
    num_completions: int = 1

    @property
    def num_output_tokens(self) -> int:
        """Count the tokens that an engine has to generate."""
        return sum(self.max_tokens) * self.num_completions

    def shortened(self, factor: int) -> "Workload":
        """Return it with outputs a ``factor`` shorter (rounded up), and a title that says so."""
        max_tokens = [-(-count // factor) for count in self.max_tokens]
        return replace(self, title=f"{self.title}, outputs / {factor}", max_tokens=max_tokens)


def _tokens(rng: random.Random, count: int) -> list[int]:
    return [rng.randrange(100, VOCAB_SIZE) for _ in range(count)]


def make_workloads() -> dict[str, Workload]:
    """Return the workloads by name."""
    rng = random.Random(2026)
    prefix = _tokens(rng, 512)
    return {
        "W1": Workload("one prompt of 20 tokens, 128 out", [_tokens(rng, 20)], [128]),
        "B16": Workload("16 prompts of 20 tokens, 64 out", [_tokens(rng, 20) for _ in range(16)], [64] * 16),
        "W2": Workload(
            "32 prompts of 8-256 tokens, 8-128 out",
            [_tokens(rng, rng.randint(8, 256)) for _ in range(32)],
            [rng.randint(8, 128) for _ in range(32)],
        ),
        "W3": Workload(
            "16 prompts with a common 512-token prefix, 32 out",
            [prefix + _tokens(rng, 16) for _ in range(16)],
            [32] * 16,
        ),
        "W4": Workload("8 completions of one 256-token prompt, 64 out", [_tokens(rng, 256)], [64], num_completions=8),
    }


WARM_UP = Workload("warm-up", [[1, 2, 3]], [4])
FIRST_TOKEN = Workload("one token", [[504, 2105, 314]], [1])
