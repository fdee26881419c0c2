"""Explanations read back from a folder that `attribute.py` wrote.

The folder contains `examples.jsonl`, one row per example in order, and `shard-*.safetensors`, whose
tensors are named `<index>/<array>` and are not padded; `parts` writes it. Arrays are read when they
are asked for.
"""

from __future__ import annotations

import copy
import functools
import hashlib
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
from .manifest import MANIFEST_FILE, Part, damage_of, read_manifest
from .rows import check_array, check_row

EXAMPLES_FILE = "examples.jsonl"


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
        # One pass over the file: where its rows begin, and whether they are what was written.
        self._starts, digest = [0], hashlib.sha256()
        with open(self._file, "rb") as file:
            self._version = _version(file)
            for line in file:
                self._starts.append(self._starts[-1] + len(line))
                digest.update(line)
        self._parts = self._checked_parts(digest.hexdigest())
        self._rows = range(len(self._starts) - 1)  # of the file: all, or a slice of them

    def _checked_parts(self, sha256: str) -> dict[str, Part] | None:
        """Return what the manifest says of each file of arrays; None without a manifest.

        Args:
          sha256: of the rows' file.

        Raises:
          InputError: the rows are not as the manifest says.
        """
        manifest = self.folder / MANIFEST_FILE
        if not manifest.is_file():  # of an earlier version, or a run that --resume is mending
            return None
        try:
            rows, parts = read_manifest(self.folder)
            reason = damage_of(self.folder, rows, is_read=False)
            if reason is None and (rows["file"], rows["sha256"]) != (EXAMPLES_FILE, sha256):
                reason = f"{self._file} is damaged"
        except (ValueError, OSError) as error:
            reason = str(error)
        else:
            if reason is None:
                return {part.arrays["file"]: part for part in parts if part.arrays is not None}
        if not manifest.is_file():  # --resume has begun meanwhile
            return None
        raise InputError(
            f"{reason}: not what attribute.py wrote there, which its --resume computes again"
        )

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
            file.seek(self._starts[number])
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
      InputError: the folder holds no explanations, or rows that are not those its manifest was
        written for.
    """
    return StoredExplanations(folder)
