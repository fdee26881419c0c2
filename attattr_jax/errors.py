"""The one exception for bad input, whatever its source."""


class InputError(ValueError):
    """Something the caller gave cannot be used.

    The message is one line: it names the argument, option, or file and row, and says what would be right. The scripts print it after
    `error: ` and exit with status 2; anything else that escapes is a bug.
    """
