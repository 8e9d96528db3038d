"""Try every causal-LM family of transformers: equal to HuggingFace's greedy tokens, or refused in a sentence.

    .venv/bin/python scripts/sweep_families.py [family ...]

One line a family, then the counts. The exit code is 1 if any family gives wrong tokens or dies.
"""

import logging
import sys
from collections import Counter
from pathlib import Path

import transformers

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.small_families import ALL_FAMILIES, try_family

KINDS = ("equal", "refused", "not buildable", "wrong", "dead")


def main(families: list[str]) -> int:
    """Sweep, print, and return the exit code."""
    transformers.logging.set_verbosity(logging.CRITICAL)
    counts: Counter[str] = Counter()
    for family in families or ALL_FAMILIES:
        verdict = try_family(family)
        counts[verdict.kind] += 1
        print(f"{family:28} {verdict.kind:14} {' '.join(verdict.detail.split())}", flush=True)
    print(", ".join(f"{counts[kind]} {kind}" for kind in KINDS), f"of {counts.total()}")
    return int(counts["wrong"] + counts["dead"] > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
