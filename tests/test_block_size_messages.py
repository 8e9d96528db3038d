"""The exercise ``block_size`` takes every natural message that is right, and says what another one lacks."""

import pytest

from folovllm.course.exercises.config import EXERCISES

BLOCK_SIZE = next(each for each in EXERCISES if each.name == "block_size")


def one_step(message):
    """Return a check that refuses what it should.  message: a format, given the value."""

    def check(value):
        if type(value) is not int or value < 1:
            raise ValueError(message.format(value=value))
        return value

    return check


def two_steps(of_type, of_range):
    """Return a check in two steps, each with words of its own."""

    def check(value):
        if type(value) is not int:
            raise ValueError(f"block_size {of_type}, got {value!r}")
        if value < 1:
            raise ValueError(f"block_size {of_range}, got {value!r}")
        return value

    return check


@pytest.mark.parametrize(
    "words",
    [
        "must be an int >= 1",
        "must be an int, at least 1",
        "must be an integer > 0",
        "must be a positive int",
        "must be a whole number, 1 or more",
        "must be an int greater than 0",
        "must be an int greater than or equal to 1",
        "must be a natural number",
        "Must be a Positive Integer",
        "is allowed to be 1, 2, 3, ... (int)",
        "should be int and not 0 or negative",
        "must be an int, neither 0 nor negative",
        "must be an int >= 1 (not bool, not float)",
        "must be an int >= 1, e.g. 8 or 16",
        "must be an int >= 1, such as 16",
        "must be an int >= 1; bool and float are refused",
        "must be an int >= 1, not a bool, float or str",
        "cannot be a float or None: it must be an int >= 1",
        "must be an int >= 1, no maximum",
        "must be an int from 1 up",
        "must be an int not below 1",
        "must be an int, not smaller than 1",
        "must be an int, no less than 1",
        "must be an int over 0",
        "must be an int in [1, inf)",
        "must be an int (1 <= block_size)",
    ],
)
def test_one_message_for_all_is_taken(words):
    assert BLOCK_SIZE.judge(two_steps(words, words)) == (True, "right, on all 120 inputs")


@pytest.mark.parametrize(
    "words",
    [
        "must be >= 1",
        "must be positive",
        "must be 1 or more",
        "must be at least one",
        "must be > 0",
        "must not be zero or negative",
        "must not be less than 1",
        "must not be < 1",
        "is 0 or negative, an int must be >= 1",
        "has a minimum of 1",
        "cannot be below 1",
        "whole number >= 1 expected",
    ],
)
def test_a_check_in_two_steps_is_taken(words):
    assert BLOCK_SIZE.judge(two_steps("must be an int, not a bool", words))[0]
    assert BLOCK_SIZE.judge(two_steps("is not an int", words))[0]


def test_what_is_said_of_the_value_itself_is_taken():
    def check(value):
        if type(value) is not int:
            raise ValueError(f"block_size must be an int, got {value!r} of type {type(value).__name__}")
        if value < 1:
            raise ValueError(f"block_size={value!r} is not an int >= 1")
        return value

    assert BLOCK_SIZE.judge(check)[0]


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        ("{value}", "does not show what was given as `repr()` writes it, '16'"),
        ("'{value}'", "puts quotes around what `repr()` writes, 0;"),
        ('"{value!r}"', "puts quotes around what `repr()` writes, 0;"),
        ("{value!r}0", "does not show what was given as `repr()` writes it, 0;"),
    ],
)
def test_what_is_shown_in_another_way_is_called_so(shown, said):
    assert said in BLOCK_SIZE.judge(one_step("block_size must be an int >= 1, got " + shown))[1]


@pytest.mark.parametrize(
    "words",
    [
        "'block_size={value!r}' must be an int >= 1",
        "block_size must be an int >= 1, got {value!r}.",
        "block_size must be an int >= 1, got...{value!r}!",
        "block_size must be an int >= 1，得到{value!r}。",
        "got `{value!r}` for block_size, an int >= 1 is allowed",
    ],
)
def test_what_is_shown_may_stand_anywhere(words):
    assert BLOCK_SIZE.judge(one_step(words))[0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("must be an int", "0 is an int, so say which ints are allowed"),
        ("must be an int >= 0", "says something false"),
        ("is wrong", "say which ints"),
    ],
)
def test_what_a_message_lacks_is_said(words, said):
    is_right, diagnosis = BLOCK_SIZE.judge(two_steps(words, words))
    assert not is_right
    assert said in diagnosis
