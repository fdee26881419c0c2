"""What is in a folder of explanations: its files with their sizes and SHA-256.

While a run is not finished, each process has a list of its parts, `parts/manifest-PPPP.jsonl`; of a
finished run `manifest.json` lists everything.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from ..runtime.files import json_digest, read_json, write_file

MANIFEST_FILE = "manifest.json"
EXAMPLES_FILE = "examples.jsonl"
PARTS = "parts"  # the folder of rows while a run is not finished
_FILE_NAME = re.compile(r"(shard-\d{4,}-\d{5,}\.safetensors|rows-\d{4,}-\d{5,}\.jsonl)")


@dataclasses.dataclass(frozen=True)
class Part:
    """One line of a manifest."""

    indices: list[int]  # of the examples
    # File, bytes and sha256; None in `manifest.json`, where all rows are in one file
    rows: dict[str, Any] | None
    arrays: dict[str, Any] | None  # likewise; None where no arrays were to be saved
    # Bytes of each row, and what a `DatasetSummary` says of them; None in `manifest.json`, and in
    # parts of an earlier version
    lengths: list[int] | None = None
    summary: dict[str, Any] | None = None

    @classmethod
    def parse(cls, fields: Any, num_examples: int, has_rows: bool = True) -> Part:
        """Return a part as a manifest describes it; a ValueError if it is none of this run's."""
        if not isinstance(fields, dict) or not isinstance(fields.get("indices"), list):
            raise ValueError("it must have indices")
        indices, rows, arrays = fields["indices"], fields.get("rows"), fields.get("arrays")
        if not _are_whole(indices, 0, num_examples - 1) or len(set(indices)) < len(indices):
            raise ValueError(f"indices must be different numbers from 0 to below {num_examples}")
        for entry in ([rows] if has_rows else []) + ([] if arrays is None else [arrays]):
            _check_entry(entry)
        if not has_rows:
            return cls(indices, None, arrays)
        lengths, summary = fields.get("lengths"), fields.get("summary")
        if lengths is not None and not (
            _are_whole(lengths, 1, rows["bytes"])
            and len(lengths) == len(indices)
            and sum(lengths) == rows["bytes"]
        ):
            raise ValueError(f"lengths must be the {len(indices)} rows', {rows['bytes']} in all")
        return cls(indices, rows, arrays, lengths, summary)


@dataclasses.dataclass(frozen=True)
class Block:
    """Rows of `examples.jsonl` that follow one another."""

    start: int  # where they begin, in bytes
    num_bytes: int
    first: int  # example
    num_examples: int
    sha256: str | None  # None where there is no manifest


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What `manifest.json` says."""

    num_examples: int
    blocks: list[Block]  # in order, without gaps
    parts: list[Part]  # every example is in one of them
    summary: dict[str, Any] | None  # of all examples; None in those of an earlier version

    @property
    def num_bytes(self) -> int:
        """Bytes that all rows have."""
        return sum(block.num_bytes for block in self.blocks)


def _are_whole(values: list, least: int, largest: int) -> bool:
    """Return whether all values are whole numbers of a range; True and False are none."""
    return set(map(type, values)) <= {int} and (
        not values or (min(values) >= least and max(values) <= largest)
    )


def _check_entry(entry: Any) -> None:
    if (
        not isinstance(entry, dict)
        or not isinstance(entry.get("file"), str)
        or not _FILE_NAME.fullmatch(entry["file"])
    ):
        raise ValueError("a file must be named as this program names them")
    if type(entry.get("bytes")) is not int or not isinstance(entry.get("sha256"), str):
        raise ValueError(f"size or SHA-256 of {entry['file']} is missing")


def read_manifest(folder: Path, num_examples: int | None = None) -> Manifest:
    """Return what `manifest.json` says.

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
        if num_examples is None:
            num_examples = fields["num_examples"]
        blocks = blocks_of(fields["rows"], num_examples)
        parts = [Part.parse(part, num_examples, has_rows=False) for part in fields["parts"]]
        if sorted(index for part in parts for index in part.indices) != list(range(num_examples)):
            raise ValueError("it does not list every example once")
        return Manifest(num_examples, blocks, parts, fields.get("summary"))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{folder / MANIFEST_FILE} is damaged ({error!s:.100})") from None


def write_manifest(
    folder: Path,
    rows: dict[str, Any],
    parts: Sequence[Part],
    summary: dict[str, Any],
) -> None:
    """Write `manifest.json`, which makes a run a finished one.

    Args:
      rows: `file` and `blocks`, which `blocks_of` reads.
      summary: of all examples.
    """
    content = {
        "num_examples": sum(len(part.indices) for part in parts),
        "rows": rows,
        "parts": [{"indices": part.indices, "arrays": part.arrays} for part in parts],
        "summary": summary,
    }
    # In one line: there may be millions of indices, which Python's indented writer takes singly
    text = json.dumps(content)
    digest = hashlib.sha256(text.encode()).hexdigest()  # as `json_digest` takes it
    write_file(folder / MANIFEST_FILE, f'{text[:-1]}, "sha256": "{digest}"}}\n')


def blocks_of(rows: Any, num_examples: int) -> list[Block]:
    """Return the blocks that the rows' file of so many examples is described by.

    Earlier versions described the whole file as one.

    Raises:
      ValueError: they are not those of all examples in order.
    """
    if rows["file"] != EXAMPLES_FILE:
        raise ValueError(f"rows must be in {EXAMPLES_FILE}")
    described = rows.get("blocks")
    if described is None:
        described = [dict(rows, num_examples=num_examples)]
    blocks, start, first = [], 0, 0
    for each in described:
        sizes, sha256 = [each["bytes"], each["num_examples"]], each["sha256"]
        if not _are_whole(sizes, 0, 2**62) or not isinstance(sha256, str):
            raise ValueError("size or SHA-256 of rows is missing")
        blocks.append(Block(start, sizes[0], first, sizes[1], sha256))
        start, first = start + sizes[0], first + sizes[1]
    if first != num_examples:
        raise ValueError(f"rows of {first} examples, not of {num_examples}")
    return blocks


def read_lines(file: BinaryIO, block: Block) -> Iterator[bytes]:
    """Yield the rows of a block, one by one.

    Raises:
      ValueError: after the last one, if they are not those that the manifest was written for.
    """
    file.seek(block.start)
    digest, left, count = hashlib.sha256(), block.num_bytes, 0
    while left > 0 and (line := file.readline(left)):
        left, count = left - len(line), count + 1
        digest.update(line)
        yield line
    is_whole = (left, count) == (0, block.num_examples) and digest.hexdigest() == block.sha256
    if block.sha256 is not None and not is_whole:
        raise ValueError("damaged")


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
