"""A folder of explanations while it is written.

Several processes write it, part by part; it is resumed where it stopped, and put together at the
end. Each process writes parts: the arrays of some examples, `shard-PPPP-NNNNN.safetensors`, their
rows, `parts/rows-PPPP-NNNNN.jsonl`, and then a line in its manifest, `parts/manifest-PPPP.jsonl`:
which examples are in the two files, and the files' sizes and SHA-256. What no line names does not
count, so a process may be killed at any moment. When every example is there, `assemble` puts the
rows in order into `examples.jsonl` and lists all files in `manifest.json`.

Only `ExplanationWriter` is for all processes of a run; everything else is for one of them, while
the others wait.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from ..errors import InputError
from ..runtime.files import Journal, json_digest, replacing, write_file, write_json
from .explanation import SAVED_ARRAYS, Explanation
from .manifest import MANIFEST_FILE, PARTS, Part, damage_of, entry_of, place, read_manifest
from .stored import EXAMPLES_FILE

SHARD_BYTES = 64 * 2**20
PART_ROWS = 1024
PART_SECONDS = 60  # of work that a killed process loses at most


class ExplanationWriter:
    """Writes the explanations of one process into a folder as they come, part by part."""

    def __init__(self, folder: Path, save: str = "full", process: int = 0):
        self.folder, self._names, self._process = Path(folder), SAVED_ARRAYS[save], process
        self._parts = self.folder / PARTS
        self._parts.mkdir(parents=True, exist_ok=True)
        self._manifest = Journal(self._parts / f"manifest-{process:04d}.jsonl")
        there = [
            *self._parts.glob(f"rows-{process:04d}-*"),
            *self.folder.glob(f"shard-{process:04d}-*"),
        ]
        self._number = 1 + max((int(file.stem.split("-")[2]) for file in there), default=-1)
        self._clear()

    def _clear(self) -> None:
        self._rows: list[dict[str, Any]] = []
        self._arrays: dict[str, np.ndarray] = {}
        self._num_bytes, self._since = 0, time.monotonic()

    def add(self, explained: Explanation) -> None:
        """Take one explanation; it is on disk after the part is full, or after `flush`."""
        row = dict(explained.row, arrays=None)
        arrays = {
            name: explained.array(name) for name in self._names if name in explained.array_names
        }
        if arrays:
            prefix = f"{row['index']}/"
            row["arrays"] = {
                "file": self._name("shard", "safetensors"),
                "prefix": prefix,
                "names": sorted(arrays),
            }
            self._arrays |= {prefix + name: values for name, values in arrays.items()}
        self._rows.append(row)
        self._num_bytes += sum(values.nbytes for values in arrays.values())
        is_full = self._num_bytes >= SHARD_BYTES or len(self._rows) >= PART_ROWS
        if is_full or time.monotonic() - self._since > PART_SECONDS:
            self.flush()

    def _name(self, kind: str, suffix: str) -> str:
        return f"{kind}-{self._process:04d}-{self._number:05d}.{suffix}"

    def flush(self) -> None:
        """Write what has been taken so far."""
        if not self._rows:
            return
        arrays = None
        if self._arrays:
            shard = self.folder / self._name("shard", "safetensors")
            write_file(shard, safetensors.numpy.save(self._arrays))
            arrays = entry_of(shard)
        rows = self._parts / self._name("rows", "jsonl")
        write_file(
            rows,
            "".join(
                json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in self._rows
            ),
        )
        self._manifest.put(
            rows.name,
            dataclasses.asdict(Part([row["index"] for row in self._rows], entry_of(rows), arrays)),
        )
        self._number += 1
        self._clear()


def listed(folder: Path, num_examples: int) -> Iterator[tuple[str, Part | ValueError]]:
    """Yield (position, part or error) of every line of the manifests of an unfinished run."""
    seen = set()
    for manifest in sorted((folder / PARTS).glob("manifest*.jsonl")):
        journal = Journal(manifest, is_written=False)
        for number in journal.damaged:
            yield f"{manifest}, line {number}", ValueError("damaged, or cut short")
        # Twice, where a process was killed while it made a new list
        for name in [name for name in journal.known if name not in seen]:
            try:
                yield f"{manifest}, {name}", Part.parse(journal.get(name), num_examples)
            except ValueError as error:
                yield f"{manifest}, {name}", error
        seen |= journal.known.keys()


def done(folder: Path, num_examples: int) -> set[int]:
    """Return the examples that need not be computed any more."""
    if (folder / MANIFEST_FILE).is_file():
        return set(range(num_examples))
    return {
        index
        for _, part in listed(folder, num_examples)
        if isinstance(part, Part)
        for index in part.indices
    }


def reopen(folder: Path, num_examples: int) -> list[str]:
    """Make a folder ready to go on: of what there is, only what is whole is left and listed.

    Returns:
      What was damaged and has to be computed again, a line each.
    """
    damage = []
    if (folder / MANIFEST_FILE).is_file():
        shutil.rmtree(folder / PARTS, ignore_errors=True)  # what `assemble` had not deleted yet
        damage = _take_apart(folder, num_examples)
        if not damage:
            return []
    kept: list[Part] = []
    seen: set[int] = set()
    for where, part in listed(folder, num_examples):
        if isinstance(part, ValueError):
            damage.append(f"{where}: {part}")
            continue
        reason = damage_of(folder, part.rows) or damage_of(folder, part.arrays)
        if reason is None and seen & set(part.indices):
            reason = f"{where}: example {min(seen & set(part.indices))} is there already"
        if reason is None:
            kept.append(part)
            seen |= set(part.indices)
        else:
            damage.append(reason)
    parts = folder / PARTS
    parts.mkdir(parents=True, exist_ok=True)
    write_file(
        parts / "manifest.jsonl",
        "".join(Journal.line(part.rows["file"], dataclasses.asdict(part)) for part in kept),
    )
    named = {
        entry["file"] for part in kept for entry in (part.rows, part.arrays) if entry is not None
    }
    for file in [*parts.iterdir(), *folder.glob("shard-*")]:
        if file.name != "manifest.jsonl" and file.name not in named:
            file.unlink()
    return damage


def _take_apart(folder: Path, num_examples: int) -> list[str]:
    """Turn an assembled folder in which something is damaged into parts again.

    Returns what is damaged.
    """
    manifest = folder / MANIFEST_FILE
    damage, kept, parts = [], [], []
    try:
        rows_entry, parts = read_manifest(folder, num_examples)
    except ValueError as error:
        damage = [str(error)]
    if not damage and (reason := damage_of(folder, rows_entry)):
        damage, parts = [reason], []
    for part in parts:
        reason = damage_of(folder, part.arrays)
        damage += [reason] if reason else []
        kept += [] if reason else [part]
    if damage:
        (folder / PARTS).mkdir(exist_ok=True)
        lines = (folder / EXAMPLES_FILE).read_bytes().splitlines(keepends=True) if kept else []
        journal = Journal(folder / PARTS / "manifest.jsonl")
        for number, part in enumerate(kept):
            rows = folder / PARTS / f"rows-0000-{number:05d}.jsonl"
            write_file(rows, b"".join(lines[index] for index in part.indices))
            journal.put(
                rows.name, dataclasses.asdict(dataclasses.replace(part, rows=entry_of(rows)))
            )
        manifest.unlink()
    return damage


def assemble(folder: Path, num_examples: int) -> None:
    """Put the rows of all parts in order, and list the files in the manifest.

    Every example must be there exactly once.

    Raises:
      InputError: one is missing or there twice, or a file is damaged.
    """
    if (folder / MANIFEST_FILE).is_file():
        return
    parts = []
    places: dict[int, tuple[Path, int, int]] = {}  # of each example's row: file, start and length
    for where, part in listed(folder, num_examples):
        reason = (
            str(part)
            if isinstance(part, ValueError)
            else damage_of(folder, part.rows) or damage_of(folder, part.arrays)
        )
        if reason:
            raise InputError(f"{where}: {reason}: --resume computes its examples again")
        parts.append(part)
        start = 0
        file = place(folder, part.rows["file"])
        lines = file.read_bytes().split(b"\n")[:-1]
        if len(lines) != len(part.indices):
            raise InputError(
                f"{file} has {len(lines)} rows, not {len(part.indices)}: delete it, and --resume"
                " computes them again"
            )
        for index, line in zip(part.indices, lines, strict=True):
            if index in places:
                raise InputError(
                    f"{where}: example {index} is there twice: --resume computes it again"
                )
            places[index] = (file, start, len(line) + 1)
            start += len(line) + 1
    missing = [index for index in range(num_examples) if index not in places]
    if missing:
        first = ", ".join(map(str, missing[:10])) + (", …" if len(missing) > 10 else "")
        raise InputError(
            f"{folder}: {len(missing)} examples are missing ({first}): --resume computes them"
        )
    with replacing(folder / EXAMPLES_FILE) as ordered:
        for index in range(num_examples):
            ordered.write(_read_piece(*places[index]))
    _finish_manifest(folder, num_examples, parts)
    shutil.rmtree(folder / PARTS)


def _read_piece(file: Path, start: int, length: int) -> bytes:
    with open(file, "rb") as source:
        source.seek(start)
        return source.read(length)


def _finish_manifest(folder: Path, num_examples: int, parts: Sequence[Part]) -> None:
    content = {
        "num_examples": num_examples,
        "rows": entry_of(folder / EXAMPLES_FILE),
        "parts": [{"indices": part.indices, "arrays": part.arrays} for part in parts],
    }
    write_json(folder / MANIFEST_FILE, content | {"sha256": json_digest(content)})
