"""An error in one line, as the capstone's checks tell it."""


def named(error: BaseException) -> str:
    """Return an error's kind and the first line of its message."""
    told = str(error).strip().splitlines()
    return f"{type(error).__name__}: {told[0]}" if told else type(error).__name__
