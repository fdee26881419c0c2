"""Text from users, made safe to print: control characters are escaped, long text is shortened."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def printable(text: str) -> str:
    """Return text for a terminal or a figure, with control characters as escapes.

    So are characters that would reorder what is shown.
    """
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def shortened(text: str, limit: int = 300) -> str:
    """Return text as `printable` does, in one line and with an end."""
    return printable(text if len(text) <= limit else text[:limit] + "…")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ": did you mean …?" with the most similar of the names that there are, or ""."""
    similar = difflib.get_close_matches(name, list(known), 1)
    return f": did you mean {similar[0]}?" if similar else ""
