"""Whether a model's answer holds a function that Python can read."""

import ast


def has_function(answer: str) -> bool:
    """Read the first fenced block of an answer as Python, or all of it without one; nothing is run."""
    _, fence, fenced = answer.partition("```python")
    code = (fenced if fence else answer).split("```")[0]
    try:
        return any(isinstance(node, ast.FunctionDef) for node in ast.walk(ast.parse(code)))
    except (SyntaxError, ValueError):
        return False
