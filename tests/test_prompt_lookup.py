"""Guesses from a text's own repetitions."""

import pytest

from folovllm.engine.prompt_lookup import propose_draft


@pytest.mark.parametrize(
    ("tokens", "count", "max_ngram", "draft"),
    [
        ([1, 2, 3, 4, 1, 2], 2, 3, [3, 4]),
        ([1, 2, 3, 9, 2, 3], 3, 3, [9, 2, 3]),
        ([5, 1, 7, 6, 1, 8, 1], 1, 3, [8]),  # of two occurrences the latest
        ([2, 1, 7, 3, 1, 8, 2, 1], 1, 3, [7]),  # but a longer one wins
        ([2, 1, 7, 3, 1, 8, 2, 1], 1, 1, [8]),  # unless only single tokens are looked up
        ([7, 7, 7], 4, 3, [7, 7, 7, 7]),
        ([1, 2, 1, 2], 5, 3, [1, 2, 1, 2, 1]),
        ([1, 2, 3], 4, 3, []),
        ([1], 4, 3, []),
        ([1, 1, 1], 0, 3, []),
        ([1, 1, 1], -2, 3, []),
    ],
)
def test_draft(tokens, count, max_ngram, draft):
    assert propose_draft(tokens, count, max_ngram) == draft
