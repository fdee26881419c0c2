"""The manifest of a folder of explanations: its files with their sizes and SHA-256."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from pathlib import Path
from typing import Any

from ..runtime.files import json_digest, read_json

MANIFEST_FILE = "manifest.json"
PARTS = "parts"  # the folder of rows while a run is not finished
_FILE_NAME = re.compile(
    r"(shard-\d{4,}-\d{5,}\.safetensors|rows-\d{4,}-\d{5,}\.jsonl|examples\.jsonl)"
)


@dataclasses.dataclass(frozen=True)
class Part:
    """One line of a manifest."""

    indices: list[int]  # of the examples
    # File, bytes and sha256; None in `manifest.json`, where all rows are in one file
    rows: dict[str, Any] | None
    arrays: dict[str, Any] | None  # likewise; None where no arrays were to be saved

    @classmethod
    def parse(cls, fields: Any, num_examples: int, has_rows: bool = True) -> Part:
        """Return a part as a manifest describes it; a ValueError if it is none of this run's."""
        if not isinstance(fields, dict) or not isinstance(fields.get("indices"), list):
            raise ValueError("it must have indices")
        indices, rows, arrays = fields["indices"], fields.get("rows"), fields.get("arrays")
        if not all(type(index) is int and 0 <= index < num_examples for index in indices) or len(
            set(indices)
        ) < len(indices):
            raise ValueError(f"indices must be different numbers from 0 to below {num_examples}")
        for entry in ([rows] if has_rows else []) + ([] if arrays is None else [arrays]):
            _check_entry(entry)
        return cls(indices, rows if has_rows else None, arrays)


def _check_entry(entry: Any) -> None:
    if (
        not isinstance(entry, dict)
        or not isinstance(entry.get("file"), str)
        or not _FILE_NAME.fullmatch(entry["file"])
    ):
        raise ValueError("a file must be named as this program names them")
    if type(entry.get("bytes")) is not int or not isinstance(entry.get("sha256"), str):
        raise ValueError(f"size or SHA-256 of {entry['file']} is missing")


def read_manifest(
    folder: Path, num_examples: int | None = None
) -> tuple[dict[str, Any], list[Part]]:
    """Return what `manifest.json` says: the entry of the rows' file, and the parts.

    Args:
      folder: a finished run's.
      num_examples: how many there must be, by default as many as it says.

    Raises:
      ValueError: it is damaged, or does not list every example once.
    """
    try:
        fields = read_json(folder / MANIFEST_FILE)
        if fields.pop("sha256") != json_digest(fields):
            raise ValueError("not what was written")
        _check_entry(fields["rows"])
        if num_examples is None:
            num_examples = fields["num_examples"]
        parts = [Part.parse(part, num_examples, has_rows=False) for part in fields["parts"]]
        if sorted(index for part in parts for index in part.indices) != list(range(num_examples)):
            raise ValueError("it does not list every example once")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{folder / MANIFEST_FILE} is damaged ({error!s:.100})") from None
    return fields["rows"], parts


def place(folder: Path, name: str) -> Path:
    """Return where a file of this name is."""
    return folder / PARTS / name if name.startswith("rows-") else folder / name


def entry_of(file: Path) -> dict[str, Any]:
    """Return a file as a manifest describes it."""
    with open(file, "rb") as content:
        return {
            "file": file.name,
            "bytes": file.stat().st_size,
            "sha256": hashlib.file_digest(content, "sha256").hexdigest(),
        }


def damage_of(folder: Path, entry: dict[str, Any] | None, is_read: bool = True) -> str | None:
    """Return what is wrong with a file that a manifest describes.

    Args:
      folder: the run's.
      entry: the file; None is never damaged.
      is_read: compare its SHA-256 too, not its size alone.
    """
    if entry is None:
        return None
    file = place(folder, entry["file"])
    if not file.is_file():
        return f"{file} is missing"
    if file.stat().st_size != entry["bytes"]:
        return f"{file} has {file.stat().st_size} bytes, not {entry['bytes']}"
    return f"{file} is damaged" if is_read and entry_of(file) != entry else None
