"""``seconds`` measures one call, and is not disturbed by a slow round."""

import time

from folovllm.course import seconds


def test_seconds_is_the_time_of_one_call():
    assert 0.002 <= seconds(lambda: time.sleep(0.002)) < 0.1
    assert seconds(lambda: None) < 1e-3


def test_seconds_takes_the_best_round():
    waits = iter([0.3, 0.02, 0.3])
    assert 0.02 <= seconds(lambda: time.sleep(next(waits)), rounds=3) < 0.25
