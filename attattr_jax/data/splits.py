"""The examples of a split: found by name (a file, a folder, `reviews`, a Hub id) and checked."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, root_cause
from ..runtime.files import is_utf8, json_digest, user_path
from ..runtime.text import shortened
from .labels import Label, has_gold, parse_labels
from .readers import (
    SUFFIXES,
    Columns,
    Table,
    find_columns,
    label_values,
    load_parquet,
    quiet_datasets,
    read_delimited,
    read_json_lines,
    table_of,
    undecodable,
)

REVIEWS = "reviews"
# GLUE tasks: the configurations of this Hub repository.
_GLUE_REPOSITORY = "nyu-mll/glue"
HELD_OUT = 0.1  # of a single file, for evaluation
GLUE_TASKS = ("sst2", "rte", "mnli", "mrpc", "qnli", "cola", "qqp", "wnli", "stsb")
# File stems and Hub names that stand for a split, the first found counts.
_SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "dev", "valid", "val", "validation_matched", "dev_matched"),
    "validation_mismatched": ("validation_mismatched", "dev_mismatched"),
    "test": ("test", "test_matched"),
}


@dataclasses.dataclass(frozen=True)
class Split:
    """The checked examples of one split."""

    name: str  # "train", "validation", …
    source: str  # the file, or the Hub id and split, as errors name it
    texts: list[str]
    text_pairs: list[str] | None
    raw_labels: list[Label] | None  # as `labels.parse_labels` returns them; None without labels
    label_names: list[str] | None = None  # the names of class indices, where the data says them
    rows: Sequence[int] | None = (
        None  # where each example stands: its line, as an editor counts, or its number from 1
    )
    num_skipped: int = 0  # bad rows that were left out when it was read

    def __len__(self) -> int:
        return len(self.texts)

    def row(self, index: int) -> str:
        """Return how to point a person to an example."""
        return f"{self.source}, row {index + 1 if self.rows is None else self.rows[index]}"

    def select(self, indices: Sequence[int]) -> Split:
        """Return the split with only these examples."""

        def pick(values):
            return None if values is None else [values[index] for index in indices]

        return dataclasses.replace(
            self,
            texts=pick(self.texts),
            text_pairs=pick(self.text_pairs),
            raw_labels=pick(self.raw_labels),
            rows=pick(self.rows or range(1, len(self) + 1)),
        )

    def with_gold_labels(self, id2label: Mapping[int, str]) -> Split:
        """Return the split without the examples that have no gold label.

        `id2label` are the classes of the model.
        """
        are_gold = has_gold(self, id2label)
        if self.raw_labels is None or all(are_gold):
            return self
        return self.select(np.flatnonzero(are_gold).tolist())

    def example_hashes(self) -> list[str]:
        """Return 16 hexadecimal digits for each example's text or texts.

        They do not depend on the label: the same example is recognised in another file.
        """
        return list(self._example_hashes)

    @functools.cached_property
    def _example_hashes(self) -> list[str]:
        pairs = self.text_pairs or [None] * len(self)
        return [json_digest(row)[:16] for row in zip(self.texts, pairs, strict=True)]

    def fingerprint(self) -> str:
        """Return a SHA-256 of texts and labels, in order."""
        labels = self.raw_labels or [None] * len(self)
        digest = hashlib.sha256()
        for row in zip(self.example_hashes(), labels, strict=True):
            digest.update(json.dumps(row).encode())
        return digest.hexdigest()


def dataset_name(dataset: str) -> str:
    """Return the short name of a data set, which `runs/<name>` goes by."""
    path = Path(absolute_name(dataset))
    return (
        re.sub(r"[^\w.-]", "-", path.stem if path.suffix.lower() in SUFFIXES else path.name)
        or "dataset"
    )


def task_name(dataset: str) -> str:
    """Return the name as GLUE tasks are written here.

    A folder `CoLA` or `SST-2` is that task too.
    """
    return re.sub(r"[^a-z0-9]", "", dataset_name(dataset).lower())


def absolute_name(dataset: str) -> str:
    """Return the data set's name in a form that holds from any working directory."""
    return (
        str(user_path(dataset).resolve()) if dataset != REVIEWS and _is_here(dataset) else dataset
    )


def _is_here(dataset: str) -> bool:
    """Return whether a data set is a file or folder here.

    A folder without data that has a task's name is none: it may be a run's output.
    """
    path = user_path(dataset)
    if dataset in GLUE_TASKS and os.path.isdir(path):
        return any(_find_in(path, split) for split in _SPLIT_NAMES)
    return os.path.exists(path)  # Path.exists raises where a name is too long


def evaluation_splits(dataset: str) -> dict[str, str]:
    """Return the splits to evaluate on, by the name that their metrics begin with.

    These are `eval`, and for MNLI `eval_mismatched` too.
    """
    path, is_here = user_path(dataset), dataset != REVIEWS and _is_here(dataset)
    has_second = dataset == "mnli" and not is_here
    if is_here and path.is_dir():
        has_second = _find_in(path, "validation_mismatched") is not None
    return {"eval": "validation"} | (
        {"eval_mismatched": "validation_mismatched"} if has_second else {}
    )


def load_split(
    dataset: str,
    split: str,
    columns: Columns | None = None,
    max_examples: int | None = None,
    hold_out_seed: int | None = None,
) -> Split:
    """Load one split.

    Args:
      dataset: a name of `GLUE_TASKS` (from the Hub), `reviews`, a path to a folder or a .tsv, .csv,
        .jsonl or .parquet file, or any other id of `datasets`.
      split: "train", "validation" or "test" (dev and the like are understood). A single file is
        whatever split is asked for, or is divided by `hold_out_seed`.
      columns: names that override the usual ones.
      max_examples: take at most this many, the first ones.
      hold_out_seed: of a single file, "train" is what is left when a tenth, drawn with this seed,
        is held out for every other split.

    Raises:
      InputError: not found, not reachable, empty, unreadable, no such column, an empty text or a
        bad label; names file and row.
    """
    columns = columns or Columns()
    if hold_out_seed is not None and is_single_file(dataset):
        whole = load_split(dataset, split, columns)
        part = _part_of_file(whole, split, hold_out_seed)
        return part.select(range(min(len(part), max_examples or len(part))))
    if dataset == REVIEWS:
        _check_applies(columns, REVIEWS)
        shipped = load_split(str(Path(__file__).parent / "reviews"), split, columns, max_examples)
        return dataclasses.replace(shipped, source=f"{REVIEWS}/{Path(shipped.source).name}")
    path = user_path(dataset)
    if _is_here(dataset):
        table = _load_file(_find_file(path, split), columns)
    elif dataset in GLUE_TASKS or (
        re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", dataset) and path.suffix.lower() not in SUFFIXES
    ):
        _check_applies(columns, dataset)
        table = _load_from_hub(dataset, split)
    else:
        raise InputError(f"{shortened(dataset)}: no such file or folder")
    return _check(table, split, columns, max_examples)


def is_single_file(dataset: str) -> bool:
    """Return whether a data set is one file, which has no splits."""
    return dataset != REVIEWS and user_path(dataset).is_file()


def _part_of_file(whole: Split, split: str, seed: int) -> Split:
    """Return the examples of a file that are held out, or for "train" the others."""
    num_held_out = round(len(whole) * HELD_OUT)
    if not 0 < num_held_out < len(whole):
        raise InputError(
            f"{whole.source} has {len(whole)} examples, too few to hold some out for evaluation:"
            " give a folder with train.tsv and dev.tsv"
        )
    held_out = np.zeros(len(whole), bool)
    held_out[np.random.default_rng(seed).permutation(len(whole))[:num_held_out]] = True
    is_training = split in _SPLIT_NAMES["train"]
    part = whole.select(np.flatnonzero(~held_out if is_training else held_out).tolist())
    what = "the others" if is_training else "held out"
    return dataclasses.replace(part, source=f"{whole.source} ({what})")


def load_lines(file: str, max_examples: int | None = None) -> Split:
    """Load a file with one text on each line, without labels.

    Raises:
      InputError: the file is missing or empty, or a line is; names the row.
    """
    path = user_path(file)
    # Path's own raise where a name is too long; a pipe is read too
    if os.path.isdir(path) or not os.path.exists(path):
        raise InputError(
            f"{file}: {'is a folder, not a file' if os.path.isdir(path) else 'no such file'}"
        )
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip().split("\n")
    except UnicodeDecodeError:
        raise InputError(undecodable(path)) from None
    if lines == [""]:
        raise InputError(f"{file} is empty")
    table = Table(
        str(path), {"text": [line.rstrip("\r") for line in lines]}, range(1, len(lines) + 1)
    )
    return _check(table, path.stem, Columns(text="text"), max_examples)


def _check_applies(columns: Columns, source: Any) -> None:
    """Raise an InputError if an option about columns has no effect on this source.

    They are for .tsv and .csv files of the user.
    """
    for option, value in (
        ("column_names", columns.names),
        ("skip_bad_rows", columns.skip_bad_rows),
    ):
        if value:
            raise InputError(f"--{option} is for .tsv and .csv files, not for {source}")


def _split_names(split: str) -> list[str]:
    """Return the names that a split goes by, the given one first."""
    others = next((names for key, names in _SPLIT_NAMES.items() if split in (key, *names)), ())
    return list(dict.fromkeys([split, *others]))


def _find_in(folder: Path, split: str) -> Path | None:
    """Return the folder's file for a split."""
    wanted = {f"{stem}{suffix}": None for stem in _split_names(split) for suffix in SUFFIXES}
    present = {file.name.lower(): file for file in folder.iterdir() if file.is_file()}
    return next((present[name] for name in wanted if name in present), None)


def _find_file(path: Path, split: str) -> Path:
    if path.is_dir():
        found_file = _find_in(path, split)
        if found_file is None:
            names = [f"{stem}.tsv" for stem in _split_names(split)[:2]]
            raise InputError(
                f"{path} has no {split} file: name one {' or '.join(names)} (or"
                f" {', '.join(SUFFIXES[1:])})"
            )
        return found_file
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path} is not a folder or a {', '.join(SUFFIXES)} file")
    return path


def _load_file(path: Path, columns: Columns) -> Table:
    kind = path.suffix.lower()
    if not path.stat().st_size:
        raise InputError(f"{path} is empty")
    if kind not in (".tsv", ".csv"):
        _check_applies(columns, path)
    if kind == ".parquet":
        return load_parquet(path)
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            return (
                read_json_lines(file, path)
                if kind == ".jsonl"
                else read_delimited(file, path, columns)
            )
    except UnicodeDecodeError:
        raise InputError(undecodable(path)) from None


def _load_from_hub(dataset: str, split: str) -> Table:

    import datasets

    where = (_GLUE_REPOSITORY, dataset) if dataset in GLUE_TASKS else (dataset,)
    offline = f"use {REVIEWS}, which is shipped, or a folder with train.tsv and dev.tsv"
    try:
        with quiet_datasets():
            tables = datasets.load_dataset(*where)
    except Exception as error:  # whatever the network layer raises: the remedy is the same
        reason = f"{type(error).__name__}: {root_cause(error)}"
        raise InputError(
            f"{dataset} is no file or folder here and cannot be had from the Hub ({reason}):"
            f" {offline}"
        ) from None
    names = [name for name in _split_names(split) if name in tables]
    if not names:
        raise InputError(f"{dataset} has no split {split!r}; it has {', '.join(tables)}")
    return table_of(tables[names[0]], f"{dataset} ({names[0]})")


def _check(table: Table, split: str, columns: Columns, max_examples: int | None) -> Split:
    """Return the examples of a table as a `Split`, or raise an InputError that names the row."""
    source, rows = table.source, table.rows
    text, text_pair, label = find_columns(list(table.columns), source, columns)

    def values_of(name: str | None) -> list[Any] | None:
        return None if name is None else list(table.columns[name][:max_examples])

    texts = values_of(text)
    if not texts:
        skipped = (
            f" with as many fields as the header ({table.num_skipped} skipped)"
            if table.num_skipped
            else ""
        )
        raise InputError(f"{source} has no examples{skipped}")
    found = Split(
        split,
        source,
        texts,
        values_of(text_pair),
        None,
        (table.class_names or {}).get(label or ""),
        rows,
        table.num_skipped,
    )
    for column, values in ((text, texts), (text_pair, found.text_pairs or [])):
        for index, value in enumerate(values):
            if value is not None and not isinstance(value, str):
                raise InputError(
                    f"{found.row(index)}: {column!r} is {value!r:.80}, not text; name the text's"
                    " column with --text_column"
                )
            if not value or not value.strip():
                raise InputError(
                    f"{found.row(index)}: {column!r} is empty; give a text or delete the row"
                )
            if not is_utf8(value):  # an escape in JSON may be half of a character
                raise InputError(
                    f"{found.row(index)}: {column!r} has a lone surrogate, which is no character"
                )
    return dataclasses.replace(
        found,
        raw_labels=(
            None if label is None else parse_labels(label_values(table, label, max_examples))
        ),
    )
