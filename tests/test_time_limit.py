"""A learner's loop that never ends is stopped, in whatever thread, and what runs afterwards is left alone."""

import contextlib
import subprocess
import sys
import threading
import time

import pytest
import torch

from folovllm.course.exercises import exercise
from folovllm.course.exercises.checks import find_exercise
from folovllm.course.exercises.patterns import tests_check
from folovllm.course.exercises.patterns.tests_check import check_tests
from folovllm.course.exercises.time_limit import TimeIsUp, call_in_time

SOON = 0.2
STOPPED = "was stopped because it took too long (an endless loop, or too much work for a long input?)"


def endless(*given):
    while True:
        pass


def catches_errors(*given):
    while True:
        try:
            given[0] + 1
        except Exception:
            continue


def catches_everything(*given):
    while True:
        try:
            given[0] + 1
        except:  # noqa: E722
            continue


LOOPS = pytest.mark.parametrize("loop", [endless, catches_errors, catches_everything])


def called_in_time(loop):
    with pytest.raises(TimeIsUp):
        call_in_time(SOON, loop, "a text")


@LOOPS
def test_a_loop_that_never_ends_is_stopped(loop):
    called_in_time(loop)


@LOOPS
def test_it_is_stopped_in_another_thread_too(loop):
    thread = threading.Thread(target=called_in_time, args=(loop,))
    thread.start()
    thread.join(30)
    assert not thread.is_alive()


def test_what_ends_in_time_returns_its_value_or_raises_its_error_and_nothing_rings_later():
    assert call_in_time(SOON, lambda x: 2 * x, 3) == 6
    with pytest.raises(ZeroDivisionError):
        call_in_time(SOON, lambda: 1 / 0)
    until = time.monotonic() + 2 * SOON
    while time.monotonic() < until:
        pass


@pytest.mark.parametrize("seconds", [0, 0.0001, 0.001])
def test_an_alarm_that_rings_at_the_end_is_not_heard_later(seconds):
    for _ in range(200):
        with contextlib.suppress(TimeIsUp):
            assert call_in_time(seconds, lambda x: 2 * x, 3) == 6


@pytest.mark.parametrize("seconds", [0, 10])
def test_code_can_be_traced_afterwards(seconds):
    # Python 3.11 keeps a flag up for an exception that was taken back, and then no traced function gets on.
    program = f"""
import contextlib, sys
from folovllm.course.exercises.time_limit import TimeIsUp, call_in_time
for _ in range(50):
    with contextlib.suppress(TimeIsUp):
        call_in_time({seconds}, sum, range(1000))
sys.settrace(lambda *event: None)
(lambda: 0)()
"""
    subprocess.run([sys.executable, "-c", program], timeout=60, check=True)


def test_no_alarm_is_left_ringing():
    before = set(threading.enumerate())
    called_in_time(endless)
    for alarm in set(threading.enumerate()) - before:
        alarm.join(30)
        assert not alarm.is_alive()


def test_the_judge_says_so_and_shows_the_input(monkeypatch, capsys):
    monkeypatch.setattr(exercise, "SECONDS", SOON)
    right, verdict = find_exercise("shown").judge(lambda data, stop: endless() if stop else data.decode())
    assert not right
    assert verdict.startswith("not yet: for data=b'one EN', stop=['END']\n")
    assert f"your function {STOPPED}; right: it returns 'one '" in verdict
    print("still printed")
    assert capsys.readouterr().out == "still printed\n"


def test_a_loop_that_empties_its_argument_first_is_told_of_the_loop(monkeypatch):
    def answer(running, waiting, budget, seats):
        while not waiting.clear():
            pass

    monkeypatch.setattr(exercise, "SECONDS", SOON)
    assert STOPPED in find_exercise("share").judge(answer)[1]


def test_tests_of_a_learner_are_stopped_too(monkeypatch, capsys):
    def tests(strategy):
        while strategy(torch.zeros(1, 2), torch.zeros(1)).isfinite().all():
            pass

    monkeypatch.setattr(tests_check, "SECONDS", SOON)
    check_tests(tests)
    assert f"they reject a strategy that is right, with TimeIsUp: {STOPPED} in line " in capsys.readouterr().out
