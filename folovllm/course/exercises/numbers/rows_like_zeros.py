"""Rows that have something in common with zeros: inputs of ``rms_norm`` and ``q8_0``."""

from random import Random


def like_zeros(random: Random, row: list[float], largest: float) -> list[float]:
    """Return a row or one made of it that has something in common with zeros: its sum, its spread, some numbers."""
    holed = [each * random.choice([0, 1]) for each in row]
    holed[random.randrange(len(row))] = largest
    alternating = [largest, -largest] * (len(row) // 2) + [0.0] * (len(row) % 2)
    alike = [largest * random.choice([-1, 1])] * len(row)
    return random.choice(
        [row, row, holed, [abs(each) for each in holed], [-abs(each) for each in holed], alternating, alike]
    )
