"""The one exception for bad input, and how to put another library's into one line."""

from __future__ import annotations

import operator
from typing import Any


class InputError(ValueError):
    """Something the caller gave cannot be used.

    The message is one line: it names the argument, option, or file and row, and says what would be
    right. The scripts print it after `error: ` and exit with status 2; anything else that escapes
    is a bug.
    """


def root_cause(error: BaseException) -> str:
    """Return the first line of what a library's exception was raised from.

    The exception's name where that says nothing. A line that ends with a colon goes on with the
    others.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return " ".join(" ".join(lines).split()) if lines[0].endswith(":") else lines[0]


def as_index(value: Any) -> int | None:
    """Return an integer of any kind as Python's; None for anything else, booleans too.

    NumPy's integers count, and JAX scalars whose value is known.
    """
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def require(condition: bool, message: str) -> None:
    """Raise an InputError unless the condition holds."""
    if not condition:
        raise InputError(message)
