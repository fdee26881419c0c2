"""Explanations read back from a folder that `attribute.py` wrote.

The folder contains `examples.jsonl`, one row per example in order, and `shard-*.safetensors`, whose
tensors are named `<index>/<array>` and are not padded; `parts` writes it. Arrays are read when they
are asked for.
"""

from __future__ import annotations

import bisect
import copy
import functools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import safetensors

from ..errors import InputError, root_cause
from ..runtime.files import read_run, user_path
from ..runtime.text import shortened
from .explanation import Explanation, Explanations
from .manifest import (
    EXAMPLES_FILE,
    MANIFEST_FILE,
    Block,
    Manifest,
    Part,
    damage_of,
    read_lines,
    read_manifest,
)
from .rows import check_array, check_row

_NOT_WRITTEN = "{}: not what attribute.py wrote there, which its --resume computes again"


class StoredExplanation(Explanation):
    """One example of a folder of explanations; its arrays are read when they are asked for."""

    _kept_how, _keep_all = "saved with", "run attribute.py with --save full"

    def __init__(self, folder: Path, row: dict[str, Any], parts: Mapping[str, Part] | None = None):
        """Take a row, and what the manifest says of each file of arrays.

        `parts` is None without a manifest.
        """
        super().__init__(row, {})
        self._folder, self._parts = folder, parts

    @property
    def array_names(self) -> Sequence[str]:
        """The arrays that were saved."""
        where = self.row["arrays"]
        return () if where is None else where["names"]

    def _read(self, name: str) -> np.ndarray:
        where = self.row["arrays"]
        file = self._folder / Path(where["file"]).name
        if reason := self._mistake(file.name, where["prefix"]):
            raise InputError(f"arrays of example {self.row['index']} cannot be read: {reason}")
        try:
            with safetensors.safe_open(file, "numpy") as reader:
                values = reader.get_tensor(where["prefix"] + name)
        except (
            Exception
        ) as error:  # SafetensorError, OSError, and whatever NumPy says of a type it does not have
            raise InputError(f"{file} cannot be read: {root_cause(error):.300}") from None
        check_array(self.row, name, values)
        return values

    def _mistake(self, name: str, prefix: str) -> str | None:
        """Return why these arrays are not the example's as they were written; None if they are."""
        index = self.row["index"]
        if prefix != f"{index}/":
            return f"the row names those of {shortened(prefix, 20)!r}, not of '{index}/'"
        if self._parts is None:
            return None
        part = self._parts.get(name)
        if part is None or index not in part.indices:
            return f"{self._folder / MANIFEST_FILE} does not list them in {shortened(name, 100)}"
        # Its size alone: the file may hold many examples
        return damage_of(self._folder, part.arrays, is_read=False)


class StoredExplanations(Explanations):
    """The examples of a folder written by `attribute.py`, in order.

    A row is read when its example is asked for.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = user_path(folder)
        self._file = self.folder / EXAMPLES_FILE
        if not self._file.is_file():
            if (self.folder / "parts").is_dir():
                raise InputError(
                    f"{self.folder} holds an unfinished run: attribute.py with --resume goes on"
                    " with it"
                )
            raise InputError(
                f"{self.folder} has no {EXAMPLES_FILE}: name a folder written by attribute.py"
            )
        manifest = self._checked_manifest()
        with open(self._file, "rb") as file:
            self._version = _version(file)
            if manifest is None:
                count = sum(1 for _ in file)
        self._parts: dict[str, Part] | None = None
        if manifest is None:
            self._blocks = [Block(0, self._version[1], 0, count, None)]
        else:
            arrays = [part for part in manifest.parts if part.arrays is not None]
            self._parts = {part.arrays["file"]: part for part in arrays}
            self._blocks, count = manifest.blocks, manifest.num_examples
        self._starts: dict[int, np.ndarray] = {}  # of the rows of each block that was verified
        self._rows = range(count)  # of the file: all, or a slice of them

    def _checked_manifest(self) -> Manifest | None:
        """Return what the manifest says, None without one.

        Raises:
          InputError: the rows' file is not as it says.
        """
        file = self.folder / MANIFEST_FILE
        if not file.is_file():  # of an earlier version, or a run that --resume is mending
            return None
        try:
            manifest = read_manifest(self.folder)
            size = self._file.stat().st_size
            if size == manifest.num_bytes:
                return manifest
            reason = f"{self._file} has {size} bytes, not {manifest.num_bytes}"
        except (ValueError, OSError) as error:
            reason = str(error)
        if not file.is_file():  # --resume has begun meanwhile
            return None
        raise InputError(_NOT_WRITTEN.format(reason))

    def _start(self, file: BinaryIO, number: int) -> int:
        """Return where a row begins, having verified the block that it is in."""
        at = bisect.bisect_right(self._blocks, number, key=lambda block: block.first) - 1
        block = self._blocks[at]
        if at not in self._starts:
            try:
                lengths = [len(line) for line in read_lines(file, block)]
            except ValueError:
                raise InputError(_NOT_WRITTEN.format(f"{self._file} is damaged")) from None
            self._starts[at] = block.start + np.cumsum([0, *lengths[:-1]])
        return int(self._starts[at][number - block.first])

    def __len__(self) -> int:
        return len(self._rows)

    def _described(self) -> str:
        return f"{super()._described()} in {self.folder}"

    def __getitem__(self, index):
        if isinstance(index, slice):
            part = copy.copy(self)
            part._rows = self._rows[index]
            return part
        if not -len(self) <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        number = self._rows[index]
        with open(self._file, "rb") as file:
            if _version(file) != self._version:
                raise InputError(f"{self._file} has changed since it was opened: load it again")
            file.seek(self._start(file, number))
            try:
                row = json.loads(file.readline())
                check_row(row)
            except (ValueError, RecursionError) as error:
                reason = shortened(str(error))
                raise InputError(f"{self._file}, row {number + 1} is damaged: {reason}") from None
        return StoredExplanation(self.folder, row, self._parts)

    @functools.cached_property
    def run(self) -> dict[str, Any]:
        """The `run.json` of the folder, {} where there is none that can be read."""
        return read_run(self.folder)


def _version(file: BinaryIO) -> tuple[int, int, int]:
    """Return what changes when a file is replaced or written to."""
    status = os.fstat(file.fileno())
    return status.st_ino, status.st_size, status.st_mtime_ns


def load_attributions(folder: str | os.PathLike) -> StoredExplanations:
    """Open a folder written by `attribute.py`: a sequence of examples.

    Their arrays are read when they are asked for.

    Raises:
      InputError: the folder holds no explanations, or its rows have another size than its manifest
        says. Their contents are verified when they are read, about a thousand at a time.
    """
    return StoredExplanations(folder)
