"""The predictions of every notebook."""

from folovllm.course.predictions import (
    config,
    data_flow,
    loading,
    numbers,
    patterns,
    sampling,
    sequences,
    start,
)
from folovllm.course.predictions.prediction import Prediction

CHAPTERS = {
    "00_start_here": start.PREDICTIONS,
    "01_config": config.PREDICTIONS,
    "02_sampling": sampling.PREDICTIONS,
    "03_sequences": sequences.PREDICTIONS,
    "04_loading": loading.PREDICTIONS,
    "04b_numbers": numbers.PREDICTIONS,
    "05_data_flow": data_flow.PREDICTIONS,
    "06_patterns_and_next": patterns.PREDICTIONS,
}


def find_prediction(name: str) -> Prediction:
    """Return the prediction of that name."""
    known = {each.name: each for predictions in CHAPTERS.values() for each in predictions}
    if name not in known:
        raise ValueError(f"name must be one of {', '.join(known)}, got {name!r}")
    return known[name]
