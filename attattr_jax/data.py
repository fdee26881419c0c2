"""Labelled text: where it comes from, how it is checked, and how it becomes batches.

.tsv and .csv are read by `csv`, .jsonl by `json`, .parquet and the Hub by `datasets`. A `Split` is
the checked result; every complaint names the file and the row. What its labels mean is decided in
`labels`.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import hashlib
import json
import logging
import os
import re
import sys
import tempfile
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from . import processes, sharding
from .config import BertConfig
from .errors import InputError, root_cause
from .files import is_utf8, json_digest, user_path
from .labels import Label, has_gold, parse_labels
from .pretrained import Classifier
from .tokens import shortened

REVIEWS = "reviews"

# GLUE tasks: the configurations of this Hub repository.
_GLUE_REPOSITORY = "nyu-mll/glue"
GLUE_TASKS = ("sst2", "rte", "mnli", "mrpc", "qnli", "cola", "qqp", "wnli", "stsb")

# File stems and Hub names that stand for a split, the first found counts.
_SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "dev", "valid", "val", "validation_matched", "dev_matched"),
    "validation_mismatched": ("validation_mismatched", "dev_mismatched"),
    "test": ("test", "test_matched"),
}
_SUFFIXES = (".tsv", ".csv", ".jsonl", ".parquet")

_PAIR_COLUMNS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
    ("question1", "question2"),
    ("#1 String", "#2 String"),
    ("text", "text_pair"),
)
_TEXT_COLUMNS = ("sentence", "text", "review", "content", "comment")
_LABEL_COLUMNS = ("label", "labels", "gold_label", "Quality", "is_duplicate", "sentiment")

# Files that are published without a header: their columns, and what each field of the first line
# must look like.
_HEADERLESS = (
    (("source", "label", "mark", "sentence"), (r"\S+", r"[01]", r"\*?", r".+")),  # CoLA
    (("premise", "hypothesis", "label"), (r".+", r".+", r"entails|neutral")),  # SciTail
)
_LONGEST_COLUMN_NAME = 4  # words; what is longer is a sentence

# Batches are padded to the next of these, and each length is compiled once.
BUCKETS = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)


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
        """Return the split without the examples that have no gold label, for a model with these
        classes.
        """
        are_gold = has_gold(self, id2label)
        if self.raw_labels is None or all(are_gold):
            return self
        return self.select(np.flatnonzero(are_gold).tolist())

    def example_hashes(self) -> list[str]:
        """Return 16 hexadecimal digits for each example's text or texts, whatever its label: to
        tell the same example elsewhere.
        """
        pairs = self.text_pairs or [None] * len(self)
        return [json_digest(row)[:16] for row in zip(self.texts, pairs, strict=True)]

    def fingerprint(self) -> str:
        """Return a SHA-256 of texts and labels, in order."""
        labels = self.raw_labels or [None] * len(self)
        digest = hashlib.sha256()
        for row in zip(self.example_hashes(), labels, strict=True):
            digest.update(json.dumps(row).encode())
        return digest.hexdigest()


@dataclasses.dataclass(frozen=True)
class Columns:
    """What a file's columns are, where they are not found by themselves."""

    text: str | None = None
    text_pair: str | None = None
    label: str | None = None
    names: tuple[str, ...] | None = None  # of the columns of a .tsv or .csv file without a header
    skip_bad_rows: bool = False  # leave out rows with another number of fields than the header


def dataset_name(dataset: str) -> str:
    """Return the short name of a data set, which `runs/<name>` goes by."""
    path = Path(absolute_name(dataset))
    return (
        re.sub(r"[^\w.-]", "-", path.stem if path.suffix.lower() in _SUFFIXES else path.name)
        or "dataset"
    )


def task_name(dataset: str) -> str:
    """Return the name as GLUE tasks are written here: a folder `CoLA` or `SST-2` is the task
    too.
    """
    return re.sub(r"[^a-z0-9]", "", dataset_name(dataset).lower())


def absolute_name(dataset: str) -> str:
    """Return the data set's name in a form that holds from any working directory."""
    return (
        str(user_path(dataset).resolve()) if dataset != REVIEWS and _is_here(dataset) else dataset
    )


def _is_here(dataset: str) -> bool:
    """Return whether a data set is a file or folder here; one without data that has a task's name
    is none (a run's output, say).
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
    dataset: str, split: str, columns: Columns | None = None, max_examples: int | None = None
) -> Split:
    """Load one split.

    Args:
      dataset: a name of `GLUE_TASKS` (from the Hub), `reviews`, a path to a folder or a .tsv, .csv,
        .jsonl or .parquet file, or any other id of `datasets`.
      split: "train", "validation" or "test" (dev and the like are understood). A single file is
        whatever split is asked for.
      columns: names that override the usual ones.
      max_examples: take the first so many.

    Raises:
      InputError: not found, not reachable, empty, unreadable, no such column, an empty text or a
        bad label; names file and row.
    """
    columns = columns or Columns()
    if dataset == REVIEWS:
        _check_applies(columns, REVIEWS)
        shipped = load_split(str(Path(__file__).parent / "reviews"), split, columns, max_examples)
        return dataclasses.replace(shipped, source=f"{REVIEWS}/{Path(shipped.source).name}")
    path = user_path(dataset)
    if _is_here(dataset):
        table = _load_file(_find_file(path, split), columns)
    elif dataset in GLUE_TASKS or (
        re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", dataset) and path.suffix.lower() not in _SUFFIXES
    ):
        _check_applies(columns, dataset)
        table = _load_from_hub(dataset, split)
    else:
        raise InputError(f"{shortened(dataset)}: no such file or folder")
    return _check(table, split, columns, max_examples)


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
        raise InputError(_undecodable(path)) from None
    if lines == [""]:
        raise InputError(f"{file} is empty")
    table = _Table(
        str(path), {"text": [line.rstrip("\r") for line in lines]}, range(1, len(lines) + 1)
    )
    return _check(table, path.stem, Columns(text="text"), max_examples)


def _check_applies(columns: Columns, source: Any) -> None:
    """Raise an InputError if something was said about columns that has no effect on what is no .tsv
    or .csv file of the user's.
    """
    for option, value in (
        ("column_names", columns.names),
        ("skip_bad_rows", columns.skip_bad_rows),
    ):
        if value:
            raise InputError(f"--{option} is for .tsv and .csv files, not for {source}")


class _Table(NamedTuple):
    """What was read of a file or from the Hub."""

    source: str  # as errors name it
    columns: dict[str, Sequence[Any]]  # their values by name
    # Where each example stands: its line, as an editor counts; None: counted from 1
    rows: Sequence[int] | None
    class_names: dict[str, list[str]] | None = (
        None  # of the columns that are class indices with names
    )
    num_skipped: int = 0  # bad rows that were left out


def _split_names(split: str) -> list[str]:
    """Return the names that a split goes by, the given one first."""
    others = next((names for key, names in _SPLIT_NAMES.items() if split in (key, *names)), ())
    return list(dict.fromkeys([split, *others]))


def _find_in(folder: Path, split: str) -> Path | None:
    """Return the folder's file for a split."""
    wanted = {f"{stem}{suffix}": None for stem in _split_names(split) for suffix in _SUFFIXES}
    present = {file.name.lower(): file for file in folder.iterdir() if file.is_file()}
    return next((present[name] for name in wanted if name in present), None)


def _find_file(path: Path, split: str) -> Path:
    if path.is_dir():
        found = _find_in(path, split)
        if found is None:
            names = [f"{stem}.tsv" for stem in _split_names(split)[:2]]
            raise InputError(
                f"{path} has no {split} file: name one {' or '.join(names)} (or"
                f" {', '.join(_SUFFIXES[1:])})"
            )
        return found
    if path.suffix.lower() not in _SUFFIXES:
        raise InputError(f"{path} is not a folder or a {', '.join(_SUFFIXES)} file")
    return path


def _load_file(path: Path, columns: Columns) -> _Table:
    kind = path.suffix.lower()
    if not path.stat().st_size:
        raise InputError(f"{path} is empty")
    if kind not in (".tsv", ".csv"):
        _check_applies(columns, path)
    if kind == ".parquet":
        return _load_parquet(path)
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            return (
                _read_json_lines(file, path)
                if kind == ".jsonl"
                else _read_delimited(file, path, columns)
            )
    except UnicodeDecodeError:
        raise InputError(_undecodable(path)) from None


def _undecodable(path: Path) -> str:
    """Return, for a file that is not UTF-8, which row is not: what is raised counts from some
    buffer's start.
    """
    with open(path, "rb") as file:
        for row, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return (
                    f"{path} is not UTF-8 text: row {row}: {error.reason}"
                    f" {line[error.start : error.end]!r}"
                )
    return f"{path} is not UTF-8 text"


def _load_parquet(path: Path) -> _Table:
    import datasets

    try:
        # A cache of its own, read into memory: the shared one tells changed files by their time
        # alone.
        with _quiet_datasets(), tempfile.TemporaryDirectory() as cache:
            table = datasets.Dataset.from_parquet(
                str(path.resolve()), cache_dir=cache, keep_in_memory=True
            )
    except Exception as error:  # pyarrow and datasets each raise their own
        raise InputError(f"{path} cannot be read: {shortened(root_cause(error))}") from None
    return _table_of(table, str(path))


def _table_of(table: Any, source: str) -> _Table:
    """Return a `datasets.Dataset` as a `_Table`; its columns are read when they are asked for."""
    names = {
        name: feature.names
        for name, feature in table.features.items()
        if getattr(feature, "names", None)
    }
    return _Table(source, {name: table[name] for name in table.column_names}, None, names)


def _read_json_lines(file: Any, path: Path) -> _Table:
    """Read an object from each line; values stay what JSON says that they are."""
    objects, rows = [], []
    try:
        for number, line in enumerate(file, 1):
            if line.strip():
                rows.append(number)
                objects.append(json.loads(line))
                if not isinstance(objects[-1], dict):
                    raise InputError(f"{path}, row {number}: not a JSON object with named fields")
    except RecursionError:
        raise InputError(f"{path}, row {number}: nested too deeply") from None
    except UnicodeDecodeError:
        raise
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}, row {number}: not JSON: {shortened(str(error))}") from None
    names = dict.fromkeys(name for fields in objects for name in fields)
    return _Table(
        str(path), {name: [fields.get(name) for fields in objects] for name in names}, rows
    )


def _read_delimited(file: Any, path: Path, columns: Columns) -> _Table:
    """Read a .tsv or .csv file as text; every row must have as many fields as the header."""
    # GLUE's .tsv has quotation marks that are just text.
    is_tsv = path.suffix.lower() == ".tsv"
    dialect = (
        {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if is_tsv else {"quoting": csv.QUOTE_MINIMAL}
    )
    values: list[list[str]] = []  # of each column
    rows, num_skipped, start = [], 0, 1
    header = None if columns.names is None else list(columns.names)
    limit = csv.field_size_limit(sys.maxsize)  # long texts are cut later, with a warning
    try:
        reader = csv.reader(file, strict=True, **dialect)
        for fields in reader:
            row, start = start, reader.line_num + 1
            if header is None:
                if not fields:  # a blank line above the header
                    continue
                header = _published_columns(fields)
                if header is None:
                    header = [
                        name.strip() or f"column {number}" for number, name in enumerate(fields, 1)
                    ]
                    continue
            if not fields and len(header) == 1:
                fields = [""]  # an empty line is an empty text, but at the end of the file
            if len(fields) == len(header):
                values = values or [[] for _ in header]
                for column, value in zip(values, fields, strict=True):
                    column.append(value)
                rows.append(row)
            elif fields and columns.skip_bad_rows:
                num_skipped += 1
            elif fields:
                where = "--column_names" if columns.names else "the header"
                what = (
                    f"{len(fields)} fields, {where} has {len(header)}"
                    f" ({shortened(', '.join(header))})"
                )
                hint = "--skip_bad_rows leaves such rows out"
                raise InputError(
                    f"{path}, row {row}: {what}, separated by {'tabs' if is_tsv else 'commas'};"
                    f" {hint}"
                )
    except csv.Error as error:
        reason = "a quotation mark is not closed" if "unexpected end" in str(error) else str(error)
        raise InputError(f"{path}, row {start}: not rows and columns: {reason}") from None
    finally:
        csv.field_size_limit(limit)
    while len(values) == 1 and values[0] and not values[0][-1]:
        values[0].pop()
        rows.pop()
    header = header or []
    if len(set(header)) < len(header):
        raise InputError(f"{path}: two columns have the same name ({shortened(', '.join(header))})")
    values = values or [[] for _ in header]
    if columns.names is None and _is_example(header, values, columns):
        raise InputError(f"{path} has no header, its first line is an example: {_NAME_THEM}")
    return _Table(str(path), dict(zip(header, values, strict=True)), rows, num_skipped=num_skipped)


def _is_example(header: Sequence[str], values: Sequence[Sequence[str]], columns: Columns) -> bool:
    """Return whether the first line of a file is an example, although one of its fields was given
    as a column's name.
    """
    named = [name for name in (columns.text, columns.text_pair, columns.label) if name in header]
    if any(name in values[header.index(name)] for name in named):  # a label, that others have too
        return True
    is_sentence = any(len(name.split()) > _LONGEST_COLUMN_NAME for name in named)
    return is_sentence and (len(header) == 1 or any(name.isdecimal() for name in header))


def _published_columns(first_line: Sequence[str]) -> list[str] | None:
    """Return the columns of a file that is published without a header, None where the first line is
    one.
    """
    for names, patterns in _HEADERLESS:
        if len(names) == len(first_line) and all(map(re.fullmatch, patterns, first_line)):
            return list(names)
    return None


def _load_from_hub(dataset: str, split: str) -> _Table:
    import datasets

    where = (_GLUE_REPOSITORY, dataset) if dataset in GLUE_TASKS else (dataset,)
    offline = f"use {REVIEWS}, which is shipped, or a folder with train.tsv and dev.tsv"
    try:
        with _quiet_datasets():
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
    return _table_of(tables[names[0]], f"{dataset} ({names[0]})")


class _quiet_datasets:
    """Keep the progress bars and complaints of `datasets` off the terminal: ours say what is going
    on.
    """

    def __enter__(self):
        import datasets

        self._was_on = datasets.utils.are_progress_bars_disabled() is False
        self._verbosity = datasets.logging.get_verbosity()
        datasets.disable_progress_bars()
        datasets.logging.set_verbosity(logging.CRITICAL)

    def __exit__(self, *_):
        import datasets

        datasets.logging.set_verbosity(self._verbosity)
        if self._was_on:
            datasets.enable_progress_bars()


def _check(table: _Table, split: str, columns: Columns, max_examples: int | None) -> Split:
    """Return the examples of a table as a `Split`, or raise an InputError that names the row."""
    source, rows = table.source, table.rows
    text, text_pair, label = _find_columns(list(table.columns), source, columns)

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
        (table.class_names or {}).get(label),
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
        found, raw_labels=None if label is None else parse_labels(values_of(label))
    )


def _find_columns(
    names: Sequence[str], source: str, columns: Columns
) -> tuple[str, str | None, str | None]:
    for option, name in (
        ("text", columns.text),
        ("text_pair", columns.text_pair),
        ("label", columns.label),
    ):
        if name is not None and name not in names:
            raise InputError(
                f"{source} has no column {name!r} (--{option}_column); it has"
                f" {shortened(', '.join(names))}"
            )
    given = [name for name in (columns.text, columns.text_pair, columns.label) if name is not None]
    if len(set(given)) < len(given):
        raise InputError(
            "--text_column, --text_pair_column and --label_column must differ, not be"
            f" {', '.join(given)}"
        )
    by_lower = {name.lower(): name for name in reversed(names)}

    def find_ignoring_case(name: str) -> str | None:
        return name if name in names else by_lower.get(name.lower())

    label = columns.label or next(filter(None, map(find_ignoring_case, _LABEL_COLUMNS)), None)
    if columns.text is not None:
        return columns.text, columns.text_pair, label
    for first, second in _PAIR_COLUMNS:
        found = find_ignoring_case(first), columns.text_pair or find_ignoring_case(second)
        if None not in found:
            return *found, label
    text = next(filter(None, map(find_ignoring_case, _TEXT_COLUMNS)), None)
    if text is None:
        raise InputError(
            f"{source} has none of the usual text columns, only {shortened(', '.join(names))}: "
            f"name one with --text_column; if these are no names, {_NAME_THEM}"
        )
    return text, columns.text_pair, label


_NAME_THEM = "name the columns with --column_names, as in --column_names id,label,sentence"


@dataclasses.dataclass(frozen=True)
class Batch:
    """Rows of one bucket, padded to its length and, with weight 0, to the full number of rows."""

    # Input_ids, attention_mask, token_type_ids, special_tokens_mask: int32 [B, T]
    inputs: dict[str, np.ndarray]
    labels: np.ndarray  # int32 [B], 0 where there is none
    weights: np.ndarray  # float32 [B], 1 for an example, 0 for filling
    indices: np.ndarray  # int [B], the example's position in the split, −1 for filling


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A tokenized split."""

    input_ids: list[list[int]]
    token_type_ids: list[list[int]]
    special_tokens_mask: list[list[int]]
    # Characters of each token in its own segment; (0, 0) where the tokenizer does not say them
    offsets: list[list[tuple[int, int]]]
    # The word of its own segment that each token is a piece of, None for special tokens; None where
    # the tokenizer does not say them.
    word_ids: list[list[int | None] | None]
    # Class indices, int32 [examples]; −1 where an example has no gold label
    labels: np.ndarray | None
    cut_tokens: Sequence[int] = ()  # how many were cut off each example

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def num_truncated(self) -> int:
        """How many examples were too long."""
        return sum(count > 0 for count in self.cut_tokens)

    @property
    def num_cut_tokens(self) -> int:
        """How many tokens were cut off them."""
        return sum(self.cut_tokens)

    @property
    def truncation(self) -> str | None:
        """What to say of texts that were cut; None where none was."""
        if not self.num_truncated:
            return None
        longest = int(self.lengths.max())
        return (
            f"{self.num_truncated} of {len(self)} texts longer than {longest} tokens:"
            f" {self.num_cut_tokens} tokens were cut"
        )

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """The number of tokens of each example."""
        return np.asarray([len(ids) for ids in self.input_ids])

    def fingerprint(self, indices: Sequence[int]) -> str:
        """Return 16 hexadecimal digits that tell a batch of these examples: tokens, segments and
        labels, in order.
        """
        labels = (
            [None] * len(indices) if self.labels is None else self.labels[list(indices)].tolist()
        )
        rows = [
            [self.input_ids[index], self.token_type_ids[index], label]
            for index, label in zip(indices, labels, strict=True)
        ]
        return json_digest(rows)[:16]

    def batch(
        self, indices: Sequence[int], num_rows: int, pad_token_id: int, max_length: int
    ) -> Batch:
        """Return these examples as a batch of `num_rows` rows."""
        length = bucket_length(max(self.lengths[index] for index in indices), max_length)

        def padded(rows, fill):
            array = np.full((num_rows, length), fill, np.int32)
            for row, index in enumerate(indices):
                array[row, : len(rows[index])] = rows[index]
            return array

        input_ids = padded(self.input_ids, pad_token_id)
        attention_mask = np.zeros_like(input_ids)
        for row, index in enumerate(indices):
            attention_mask[row, : self.lengths[index]] = 1
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": padded(self.token_type_ids, 0),
            "special_tokens_mask": padded(self.special_tokens_mask, 1),
        }
        filling = num_rows - len(indices)
        labels = (
            np.zeros(len(indices), np.int32)
            if self.labels is None
            else np.maximum(self.labels[list(indices)], 0)
        )
        return Batch(
            inputs,
            np.pad(labels, (0, filling)),
            np.pad(np.ones(len(indices), np.float32), (0, filling)),
            np.pad(np.asarray(indices), (0, filling), constant_values=-1),
        )


def encode(
    classifier: Classifier, split: Split, max_length: int, labels: np.ndarray | None = None
) -> Encoded:
    """Tokenize a split, truncating to `max_length` tokens; the result counts what was cut.

    Raises:
      InputError: the classifier has no tokenizer, no second segment for pairs, or `max_length`
        leaves no room for text.
    """
    tokenizer, config = classifier.require_tokenizer(), classifier.config
    if split.text_pairs is not None and config.type_vocab_size < 2:
        raise InputError(
            f"{classifier.name} has one segment (type_vocab_size 1): it cannot read the pairs of"
            f" {split.source}"
        )
    room = tokenizer.num_special_tokens_to_add(pair=split.text_pairs is not None)
    if not room < max_length <= config.max_position_embeddings:
        raise InputError(
            f"--max_seq_length must be more than {room} and at most"
            f" {config.max_position_embeddings}, the model's, not {max_length}"
        )
    encoded = _tokenized(tokenizer, split, truncation=False)
    too_long = [index for index, ids in enumerate(encoded["input_ids"]) if len(ids) > max_length]
    empty = next(
        (index for index, special in enumerate(encoded["special_tokens_mask"]) if all(special)),
        None,
    )
    if empty is not None:
        raise InputError(
            f"{split.row(empty)}: no token is left of {split.texts[empty]!r:.80}; give a text"
        )
    cut_tokens = [max(0, len(ids) - max_length) for ids in encoded["input_ids"]]
    if too_long:
        short = _tokenized(
            tokenizer, split.select(too_long), truncation=True, max_length=max_length
        )
        for row, index in enumerate(too_long):
            for name in encoded:
                encoded[name][index] = short[name][row]
    return Encoded(
        encoded["input_ids"],
        encoded["token_type_ids"],
        encoded["special_tokens_mask"],
        encoded["offset_mapping"],
        encoded["word_ids"],
        labels,
        cut_tokens,
    )


def _tokenized(tokenizer: Any, split: Split, **options: Any) -> dict[str, list]:
    """Return the tokenizer's lists by name, an entry for each example, and its `word_ids`.

    A tokenizer in Python (`is_fast` is False, as BertJapaneseTokenizer) knows neither
    `offset_mapping` nor `word_ids`.
    """
    from transformers.utils import logging as transformers_logging

    wanted = {
        "return_token_type_ids": True,
        "return_special_tokens_mask": True,
        "return_offsets_mapping": tokenizer.is_fast,
    }
    verbosity = transformers_logging.get_verbosity()
    # Else a Python tokenizer warns at each pair that it truncates
    transformers_logging.set_verbosity_error()
    try:
        encoded = tokenizer(split.texts, split.text_pairs, verbose=False, **wanted, **options)
    finally:
        transformers_logging.set_verbosity(verbosity)
    if tokenizer.is_fast:
        return {**encoded, "word_ids": [encoded.word_ids(index) for index in range(len(split))]}
    return {
        **encoded,
        "offset_mapping": [[(0, 0)] * len(ids) for ids in encoded["input_ids"]],
        "word_ids": [None] * len(split),
    }


def fingerprint(split: Split, encoded: Encoded) -> str:
    """Return a SHA-256 of a split's texts and of its labels as the model's class indices, in
    order.
    """
    labels = None if encoded.labels is None else np.asarray(encoded.labels).tolist()
    return json_digest([split.fingerprint(), labels])


def bucket_length(length: int, max_length: int) -> int:
    """Return the padded length for `length` tokens: the next bucket, at most `max_length`."""
    return min(next((bucket for bucket in BUCKETS if bucket >= length), max_length), max_length)


def inference_batches(
    encoded: Encoded,
    config: BertConfig,
    batch_size: int | Callable[[int], int],
    mesh: jax.sharding.Mesh | None = None,
    done: Container[int] = (),
) -> Iterator[Batch]:
    """Yield every example once, bucket by bucket, shortest first: each padded length is compiled
    for one number of rows.

    Of several processes that do not work on each batch together, each gets its share of the
    batches. Which examples make a batch depends on the devices and processes alone, not on what is
    done already.

    Args:
      encoded: the tokenized split.
      config: for the padding token and the longest length.
      batch_size: rows at once, or a function that returns the rows per device for a padded length.
      mesh: the devices; the number of rows is rounded up to a multiple of theirs.
      done: examples that need not be computed; batches of nothing else are left out.
    """
    limit = config.max_position_embeddings
    num_devices, num_shares = (1, 1) if mesh is None else (mesh.size, sharding.num_shares(mesh))
    buckets = np.asarray([bucket_length(length, limit) for length in encoded.lengths])
    planned = []
    for bucket in np.unique(buckets):
        members = np.flatnonzero(buckets == bucket)
        size = batch_size(int(bucket)) * num_devices if callable(batch_size) else batch_size
        rows = -(-min(size, -(-len(members) // num_shares)) // num_devices) * num_devices
        batches = (members[start : start + rows] for start in range(0, len(members), rows))
        planned += [
            (batch, rows) for batch in batches if not all(int(index) in done for index in batch)
        ]
    for batch, rows in planned if mesh is None else sharding.share_of(planned, mesh):
        processes.check_interrupted()
        yield encoded.batch(batch, rows, config.pad_token_id, limit)


def shuffled_batches(
    lengths: np.ndarray, batch_size: int, seed: int, epoch: int
) -> Iterator[np.ndarray]:
    """Yield the indices of one training epoch: a random order that depends on seed and epoch alone,
    similar lengths together.

    As `group_by_length` of the Hugging Face trainer: the shuffled examples are sorted within
    stretches of 50 batches, and the batches are then shuffled.
    """
    random = np.random.default_rng((seed, epoch))
    order = random.permutation(len(lengths))
    stretch = 50 * batch_size
    order = np.concatenate(
        [
            part[np.argsort(lengths[part], kind="stable")]
            for part in (order[start : start + stretch] for start in range(0, len(order), stretch))
        ]
    )
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    for index in random.permutation(len(batches)):
        yield batches[index]
