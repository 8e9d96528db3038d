"""What chapter ``sequences`` asks before it shows."""

from folovllm.course.predictions.prediction import Prediction

PREDICTIONS: list[Prediction] = []
