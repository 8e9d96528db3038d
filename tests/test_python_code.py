"""What counts as a function that Python can read."""

import pytest

from folovllm.course.python_code import has_function

FUNCTION = "def add(a, b):\n    return a + b\n"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (FUNCTION, True),
        (f"Here it is:\n```python\n{FUNCTION}```\nIt adds.", True),
        (f"```python\n{FUNCTION}", True),  # cut off, or ended by a stop string
        (f"```python\n{FUNCTION}```\nOr, longer:\n```python\ndef add(", True),  # the first block counts
        ("```python\nprint(1 + 2)\n```", False),
        ("def take((-6lex", False),
        (f"```python\n{FUNCTION}    return a b\n```", False),
        ("\0", False),
        ("", False),
    ],
)
def test_an_answer_has_a_function_where_python_reads_one(answer, expected):
    assert has_function(answer) == expected
