"""Whether the kernels can run on this machine."""

from functools import cache


@cache
def why_no_kernels() -> str | None:
    """Return why numba cannot be imported here, in a line; None if it can."""
    try:
        import numba  # noqa: F401
    except Exception as error:  # a broken installation raises anything
        return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
    return None
