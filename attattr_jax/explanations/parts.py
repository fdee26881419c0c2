"""A folder of explanations while it is written.

Several processes write it, part by part; it is resumed where it stopped, and put together at the
end. Each process writes parts: the arrays of some examples, `shard-PPPP-NNNNN.safetensors`, their
rows, `parts/rows-PPPP-NNNNN.jsonl`, and then a line in its manifest, `parts/manifest-PPPP.jsonl`:
which examples are in the two files, the files' sizes and SHA-256, and a summary of the examples.
What no line names does not count, so a process may be killed at any moment.

When every example is there, each process writes a share of the rows in order into one file
(`put_in_order`), and one of them merges the summaries and lists all files in `manifest.json`
(`join`). What that one does grows with the number of examples only in the lists of their numbers.

`ExplanationWriter` and `put_in_order` are for all processes of a run; everything else is for one of
them, while the others wait.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from ..errors import InputError
from ..runtime.files import Journal, read_json, write_file, write_json, writing_at
from ..runtime.text import shortened
from .explanation import SAVED_ARRAYS, Explanation
from .manifest import (
    EXAMPLES_FILE,
    MANIFEST_FILE,
    PARTS,
    Manifest,
    Part,
    blocks_of,
    damage_of,
    entry_of,
    place,
    read_lines,
    read_manifest,
    write_manifest,
)
from .rows import check_row
from .summary import DatasetSummary

SHARD_BYTES = 64 * 2**20
PART_ROWS = 1024
PART_SECONDS = 60  # of work that a killed process loses at most
BLOCK_ROWS = 1024  # of `examples.jsonl`, which are verified together
# A process's share of the rows ends at a multiple of this, so that no two machines write the same
# page of a file: a network's file system might write back the whole of it
PAGE_BYTES = 2**16


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
        self._rows: dict[int, bytes] = {}  # lines, by example
        self._summary = DatasetSummary()
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
        self._rows[row["index"]] = _line(row)
        self._summary.add(explained)
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
        part = _write_rows(rows, self._rows, self._summary, arrays)
        self._manifest.put(rows.name, dataclasses.asdict(part))
        self._number += 1
        self._clear()


def _line(row: dict[str, Any]) -> bytes:
    return (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _write_rows(
    file: Path, rows: Mapping[int, bytes], summary: DatasetSummary, arrays: dict[str, Any] | None
) -> Part:
    """Write the rows of a part, lines by example; return how its manifest describes it."""
    # In order, so that those of a block are read at one go
    indices = sorted(rows)
    write_file(file, b"".join(rows[index] for index in indices))
    lengths = [len(rows[index]) for index in indices]
    return Part(indices, entry_of(file), arrays, lengths, summary.to_json())


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
            kept.append(_described(folder, part))
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


def _described(folder: Path, part: Part) -> Part:
    """Return a part with all that `join` needs, which an earlier version did not write."""
    if part.lengths is not None and part.summary is not None:
        with contextlib.suppress(ValueError):
            DatasetSummary.from_json(part.summary)
            return part
    file = place(folder, part.rows["file"])
    lines = file.read_bytes().splitlines(keepends=True)
    if len(lines) != len(part.indices):
        raise InputError(
            f"{file} has {len(lines)} rows, not {len(part.indices)}: delete it, and --resume"
            " computes them again"
        )
    rows = dict(zip(part.indices, lines, strict=True))
    return _write_rows(file, rows, _summary_of(rows.values()), part.arrays)


def _summary_of(lines: Iterable[bytes]) -> DatasetSummary:
    summary = DatasetSummary()
    try:
        for line in lines:
            row = json.loads(line)
            check_row(row)
            summary.add(Explanation(row, {}))
    except (ValueError, RecursionError) as error:
        raise InputError(f"a row is damaged: {shortened(str(error))}") from None
    return summary


def _take_apart(folder: Path, num_examples: int) -> list[str]:
    """Turn a finished folder in which something is damaged into parts again.

    Returns what is damaged.
    """
    try:
        manifest = read_manifest(folder, num_examples)
    except ValueError as error:
        damage, parts, starts = [str(error)], [], {}
    else:
        damage, starts = _sound_rows(folder, manifest)
        reasons = [damage_of(folder, part.arrays) for part in manifest.parts]
        damage += [reason for reason in reasons if reason]
        parts = [part for part, reason in zip(manifest.parts, reasons, strict=True) if not reason]
    if damage:
        (folder / PARTS).mkdir(exist_ok=True)
        journal = Journal(folder / PARTS / "manifest.jsonl")
        for number, part in enumerate(parts):
            rows = _rows_at(
                folder, {index: starts[index] for index in part.indices if index in starts}
            )
            if rows:
                file = folder / PARTS / f"rows-0000-{number:05d}.jsonl"
                part = _write_rows(file, rows, _summary_of(rows.values()), part.arrays)
                journal.put(file.name, dataclasses.asdict(part))
        (folder / MANIFEST_FILE).unlink()
    return damage


def _sound_rows(folder: Path, manifest: Manifest) -> tuple[list[str], dict[int, int]]:
    """Return what is damaged in a finished run's rows, and where the others begin, by example."""
    file = folder / EXAMPLES_FILE
    if not file.is_file():
        return [f"{file} is missing"], {}
    starts: dict[int, int] = {}
    num_lost = 0
    with open(file, "rb") as rows:
        for block in manifest.blocks:
            found, start = {}, block.start
            try:
                for index, line in enumerate(read_lines(rows, block), block.first):
                    found[index], start = start, start + len(line)
            except ValueError:
                num_lost += block.num_examples
            else:
                starts |= found
    damage = [f"{file} is damaged: {num_lost} of its rows"] if num_lost else []
    if not damage and file.stat().st_size != manifest.num_bytes:
        damage = [f"{file} has {file.stat().st_size} bytes, not {manifest.num_bytes}"]
    return damage, starts


def _rows_at(folder: Path, starts: Mapping[int, int]) -> dict[int, bytes]:
    rows = {}
    with open(folder / EXAMPLES_FILE, "rb") as file:
        for index, start in starts.items():
            file.seek(start)
            rows[index] = file.readline()
    return rows


def put_in_order(
    folder: Path, num_examples: int, process: int = 0, num_processes: int = 1
) -> list[Part]:
    """Put this process's share of all rows in order, `parts/examples.jsonl`; verify its parts.

    The share is of the examples, not of those that this process has explained. Every example must
    be there exactly once.

    Returns:
      all parts, [] of a finished run.

    Raises:
      InputError: one is missing or there twice, or a file is damaged.
    """
    if (folder / MANIFEST_FILE).is_file():
        return []
    parts = _complete_parts(folder, num_examples)
    for part in parts[process::num_processes]:
        reason = damage_of(folder, part.rows) or damage_of(folder, part.arrays)
        if reason:
            raise InputError(f"{reason}: --resume computes its examples again")
    table, count = _RowTable(folder, parts), -(-num_examples // BLOCK_ROWS)
    bounds = [count * each // num_processes * BLOCK_ROWS for each in range(num_processes)]
    shares = [
        range(start, min(end, num_examples))
        for start, end in itertools.pairwise([*bounds, num_examples])
    ]
    blocks = []
    with writing_at(folder / PARTS / EXAMPLES_FILE, sum(map(table.size, shares[:process]))) as file:
        for start in shares[process][::BLOCK_ROWS]:
            indices = range(start, min(start + BLOCK_ROWS, shares[process].stop))
            content = table.rows(indices)
            if indices.stop == shares[process].stop < num_examples:  # JSON may end in spaces
                content[-1:] = b" " * _padding(table.size(shares[process], is_padded=False)) + b"\n"
            file.write(content)
            digest = hashlib.sha256(content).hexdigest()
            blocks.append({"bytes": len(content), "num_examples": len(indices), "sha256": digest})
    write_json(folder / PARTS / f"ordered-{process:04d}.json", {"blocks": blocks})
    return parts


def _padding(num_bytes: int) -> int:
    """Return how many bytes are missing to a whole number of pages."""
    return -num_bytes % PAGE_BYTES


def _complete_parts(folder: Path, num_examples: int) -> list[Part]:
    """Return the parts of a run that has every example exactly once."""
    parts = []
    for where, part in listed(folder, num_examples):
        if isinstance(part, ValueError):
            raise InputError(f"{where}: {part}: --resume computes its examples again")
        if part.lengths is None or part.summary is None:
            raise InputError(f"{where}: written by an earlier version: --resume reads it")
        parts.append(part)
    counts = np.bincount(
        [index for part in parts for index in part.indices], minlength=num_examples
    )
    if (counts > 1).any():
        raise InputError(
            f"{folder}: example {counts.argmax()} is there twice: --resume computes it again"
        )
    missing = np.flatnonzero(counts == 0)
    if len(missing):
        first = ", ".join(map(str, missing[:10])) + (", …" if len(missing) > 10 else "")
        raise InputError(
            f"{folder}: {len(missing)} examples are missing ({first}): --resume computes them"
        )
    return parts


class _RowTable:
    """Where the row of every example is."""

    def __init__(self, folder: Path, parts: Sequence[Part]):
        self._files = [place(folder, part.rows["file"]) for part in parts]
        examples = np.concatenate([np.asarray(part.indices, np.int64) for part in parts])
        order = np.empty_like(examples)
        order[examples] = np.arange(len(examples))  # each example's place among all the parts' rows
        lengths = [np.asarray(part.lengths, np.int64) for part in parts]
        self._part = np.repeat(np.arange(len(parts)), list(map(len, lengths)))[order]
        self._start = np.concatenate([np.cumsum(each) - each for each in lengths])[order]
        self._length = np.concatenate(lengths)[order]

    def size(self, share: range, is_padded: bool = True) -> int:
        """Return how many bytes a process's share of the rows has in `examples.jsonl`."""
        num_bytes = int(self._length[share.start : share.stop].sum())
        is_last = share.stop == len(self._length)
        return num_bytes + (_padding(num_bytes) if is_padded and not is_last else 0)

    def rows(self, indices: range) -> bytearray:
        """Return the rows of these examples, in order."""
        chosen = slice(indices.start, indices.stop)
        part, start, length = self._part[chosen], self._start[chosen], self._length[chosen]
        to = np.cumsum(length) - length
        content = bytearray(int(length.sum()))
        for number in np.unique(part):
            of_part = np.flatnonzero(part == number)
            begin = int(start[of_part].min())
            end = int((start + length)[of_part].max())
            with open(self._files[number], "rb") as file:
                file.seek(begin)
                read = file.read(end - begin)
            places = zip(
                start[of_part].tolist(), length[of_part].tolist(), to[of_part].tolist(), strict=True
            )
            for source, size, destination in places:
                source -= begin
                content[destination : destination + size] = read[source : source + size]
        ends_well = all(content[end - 1] == 10 for end in (to + length).tolist())
        if len(content) != length.sum() or not ends_well or content.count(b"\n") != len(indices):
            raise InputError(
                f"{self._files[part[0]].parent}: rows of examples {indices.start} to"
                f" {indices.stop - 1} are not as the manifests say: --overwrite computes them again"
            )
        return content


def join(folder: Path, num_examples: int, parts: Sequence[Part]) -> DatasetSummary:
    """Make a finished run of the rows that all processes have put in order.

    Args:
      parts: as `put_in_order` returned them.

    Returns what is known of all examples together.

    Raises:
      InputError: something is missing or damaged.
    """
    if not (folder / MANIFEST_FILE).is_file():
        summary = DatasetSummary()
        try:
            for part in parts:
                summary.merge(DatasetSummary.from_json(part.summary))
        except ValueError as error:
            raise InputError(f"{folder / PARTS}: {error}: --resume computes it again") from None
        rows = _join_rows(folder, num_examples)
        write_manifest(folder, rows, parts, summary.to_json())
        shutil.rmtree(folder / PARTS)
        return summary
    shutil.rmtree(folder / PARTS, ignore_errors=True)  # which was not deleted yet
    try:
        manifest = read_manifest(folder, num_examples)
        if manifest.summary is not None:
            return DatasetSummary.from_json(manifest.summary)
        with open(folder / EXAMPLES_FILE, "rb") as rows:  # of an earlier version
            return _summary_of(
                line for block in manifest.blocks for line in read_lines(rows, block)
            )
    except ValueError as error:
        raise InputError(f"{folder}: {error}: --resume computes it again") from None


def _join_rows(folder: Path, num_examples: int) -> dict[str, Any]:
    """Take the ordered rows for `examples.jsonl`; return how the manifest describes them."""
    ordered, blocks = folder / PARTS / EXAMPLES_FILE, []
    shares = (folder / PARTS).glob("ordered-*.json")
    try:
        for share in sorted(shares, key=lambda share: int(share.stem.split("-")[1])):
            blocks += read_json(share)["blocks"]
        rows = {"file": EXAMPLES_FILE, "blocks": blocks}
        expected = sum(block.num_bytes for block in blocks_of(rows, num_examples))
        with open(ordered, "rb") as file:  # a network's file system knows its size when opened
            size = os.fstat(file.fileno()).st_size
        if size != expected:
            raise ValueError(f"{ordered} has {size} bytes, not {expected}")
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise InputError(f"{folder / PARTS}: {error}: --resume puts the rows in order") from None
    os.replace(ordered, folder / EXAMPLES_FILE)
    return rows
