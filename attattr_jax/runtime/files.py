"""Paths as users write them, and files that are never seen half written."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import InputError

_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # a quota and a limit on file sizes as well


def is_utf8(text: str) -> bool:
    """Return whether text can be written as UTF-8.

    A file name in bytes of another encoding cannot.
    """
    return not any("\ud800" <= char <= "\udfff" for char in text)


def user_path(name: str | os.PathLike) -> Path:
    """Return a path with `~` expanded.

    That of an unknown user stays as it is, and will not exist.
    """
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


def _open_new(file: Path) -> int:
    """Return the descriptor of a new file, in the place of whatever was there.

    A link there must not lead to another file.
    """
    file.unlink(missing_ok=True)
    return os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)


def _open_without_links(name: str, flags: int) -> int:
    """Open a file, but none that a link leads to; for the `opener` of `open`."""
    return os.open(name, flags | os.O_NOFOLLOW, 0o666)


def is_full_disk(error: BaseException | None) -> bool:
    """Return whether an error says that there is no space.

    Libraries wrap what the system says in types of their own.
    """
    return any(os.strerror(number) in str(error) for number in _FULL_DISK)


def check_new(file: Path) -> None:
    """Raise an InputError where there is a file already."""
    if os.path.lexists(file):
        raise InputError(f"{file} exists: name another file, or give overwrite=True")


@contextlib.contextmanager
def replacing(file: Path) -> Iterator[BinaryIO]:
    """Open a file beside `file`, and move it there at the end.

    A failure leaves what was there before, and nothing else.
    """
    staging = file.with_name(f".{file.name}.part")
    try:
        with open(_open_new(staging), "wb") as written:
            yield written
            written.flush()
            # Else a machine that goes down may leave the name without the contents
            os.fsync(written.fileno())
        os.replace(staging, file)
    except OSError as error:
        if error.filename in (None, str(staging)):  # a full disk does not say whose it was
            error.filename = str(file)
        raise
    finally:
        staging.unlink(missing_ok=True)


def write_file(file: Path, content: bytes | str) -> None:
    """Write a whole file; it is never seen half written."""
    with replacing(file) as written:
        written.write(content if isinstance(content, bytes) else content.encode())


@contextlib.contextmanager
def writing_at(file: Path, start: int) -> Iterator[BinaryIO]:
    """Open a file that others write too, at a place of one's own; what is there is replaced."""
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o666), "wb") as written:
        written.seek(start)
        yield written
        written.flush()
        os.fsync(written.fileno())


def read_json(file: Path) -> Any:
    """Return the contents of a JSON file; a ValueError, whatever is wrong with them."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_run(folder: Path) -> dict[str, Any]:
    """Return the `run.json` of a folder, or {} where there is none that can be read."""
    try:
        record = read_json(user_path(folder) / "run.json")
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) and isinstance(record.get("options"), dict) else {}


def write_json(file: Path, content: Any) -> None:
    """Write a JSON file, indented, as UTF-8; what of a file name is none, as an escape."""
    written = json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n"
    # Only of lone surrogates, whose escapes are JSON's
    write_file(file, written.encode(errors="backslashreplace"))


def json_digest(content: Any) -> str:
    """Return the SHA-256, in hexadecimal digits, of what JSON can hold."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


class Journal:
    """Results of an unfinished run, by name: a line of JSON each.

    A line is on disk when `put` returns. Damaged lines do not count.
    """

    def __init__(self, file: Path | None, is_written: bool = True):
        """Read the lines of a file.

        `is_written`: whether `put` writes, or only remembers, as it does without a file.
        """
        self._file, self._is_written = file, is_written and file is not None
        self.known: dict[str, Any] = {}
        self.damaged: list[int] = []  # numbers of lines, from 1
        lines = file.read_bytes().split(b"\n") if file is not None and file.exists() else []
        for number, line in enumerate(lines, 1):
            try:
                digest, name, value = json.loads(line)
                if digest != self._digest(name, value):
                    raise ValueError("not what was written")
                self.known[name] = value
            except (ValueError, TypeError, RecursionError):
                self.damaged += [number] if line.strip() else []
        # Cut short: the next line must not go on with it
        if lines and lines[-1] and self._is_written:
            with open(file, "ab", opener=_open_without_links) as journal:
                journal.write(b"\n")

    @staticmethod
    def _digest(name: str, value: Any) -> str:
        return json_digest([name, value])[:16]

    @classmethod
    def line(cls, name: str, value: Any) -> str:
        """Return a result as it stands in the file."""
        return json.dumps([cls._digest(name, value), name, value]) + "\n"

    def get(self, name: str) -> Any:
        """Return a result, None where there is none yet."""
        return self.known.get(name)

    def put(self, name: str, value: Any) -> None:
        """Keep a result."""
        self.known[name] = value
        if self._is_written:
            with open(self._file, "a", encoding="utf-8", opener=_open_without_links) as journal:
                journal.write(self.line(name, value))
                journal.flush()
                os.fsync(journal.fileno())
