"""Guess the next tokens of a sequence from its own text: speculative decoding without a second model.

Text repeats itself: if its last few tokens occurred before, what followed them then is a good guess
now. (vLLM: the ``ngram`` method, ``v1/spec_decode/ngram_proposer.py``; Saxena 2023, "prompt lookup decoding".)
"""


def propose_draft(token_ids: list[int], num_tokens: int, max_ngram: int) -> list[int]:
    """Return ``num_tokens`` guesses that continue ``token_ids``; none where nothing repeats.

    The longest suffix of at most ``max_ngram`` tokens that occurred before decides; of several
    occurrences the latest. Where what followed it reaches the end of the text, the guesses go on with
    themselves, so that a text that turns in circles is guessed in full.
    """
    if num_tokens <= 0:
        return []
    for size in range(min(max_ngram, len(token_ids) - 1), 0, -1):
        suffix = token_ids[-size:]
        for start in range(len(token_ids) - size - 1, -1, -1):
            if token_ids[start : start + size] == suffix:
                guessed = list(token_ids)
                for i in range(start + size, start + size + num_tokens):
                    guessed.append(guessed[i])
                return guessed[len(token_ids) :]
    return []
