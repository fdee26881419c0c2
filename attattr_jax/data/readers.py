"""Tables from files: .tsv, .csv, .jsonl and .parquet, with their columns and rows as written."""

from __future__ import annotations

import csv
import dataclasses
import json
import logging
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import InputError, root_cause
from ..runtime.text import shortened

SUFFIXES = (".tsv", ".csv", ".jsonl", ".parquet")
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
_TRUTH = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False}
_LONGEST_COLUMN_NAME = 4  # words; what is longer is a sentence


@dataclasses.dataclass(frozen=True)
class Columns:
    """What a file's columns are, where they are not found by themselves."""

    text: str | None = None
    text_pair: str | None = None
    label: str | None = None
    names: tuple[str, ...] | None = None  # of the columns of a .tsv or .csv file without a header
    skip_bad_rows: bool = False  # leave out rows with another number of fields than the header
    # Text, text_pair and label of the data a model was trained on: taken where a file has them.
    remembered: tuple[str | None, str | None, str | None] = (None, None, None)

    def known_in(self, names: Sequence[str]) -> Columns:
        """Return the columns with those remembered ones that are among the names of a file."""
        given = {"text": self.text, "text_pair": self.text_pair, "label": self.label}
        taken = {
            field: name
            for (field, value), name in zip(given.items(), self.remembered, strict=True)
            if value is None and name in names and name not in given.values()
        }
        return dataclasses.replace(self, **taken)


class Table(NamedTuple):
    """What was read of a file or from the Hub."""

    source: str  # as errors name it
    columns: dict[str, Sequence[Any]]  # their values by name
    # Where each example stands: its line, as an editor counts; None: counted from 1
    rows: Sequence[int] | None
    class_names: dict[str, list[str]] | None = (
        None  # of the columns that are class indices with names
    )
    num_skipped: int = 0  # bad rows that were left out


def undecodable(path: Path) -> str:
    """Return which row of a file is not UTF-8, in words.

    The position in the exception counts from the start of some buffer.
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


def load_parquet(path: Path) -> Table:
    """Read a .parquet file.

    Raises:
      InputError: it cannot be read.
    """
    import datasets

    try:
        # A cache of its own, read into memory: the shared one tells changed files by their time
        # alone.
        with quiet_datasets(), tempfile.TemporaryDirectory() as cache:
            table = datasets.Dataset.from_parquet(
                str(path.resolve()), cache_dir=cache, keep_in_memory=True
            )
    except Exception as error:  # pyarrow and datasets each raise their own
        raise InputError(f"{path} cannot be read: {shortened(root_cause(error))}") from None
    return table_of(table, str(path))


def table_of(table: Any, source: str) -> Table:
    """Return a `datasets.Dataset` as a `Table`; its columns are read when they are asked for."""
    # Of a ClassLabel, and of a list of them.
    features = {
        name: getattr(feature, "feature", feature) for name, feature in table.features.items()
    }
    names = {
        name: feature.names for name, feature in features.items() if getattr(feature, "names", None)
    }
    return Table(source, {name: table[name] for name in table.column_names}, None, names)


def read_json_lines(file: Any, path: Path) -> Table:
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
    return Table(
        str(path), {name: [fields.get(name) for fields in objects] for name in names}, rows
    )


def read_delimited(file: Any, path: Path, columns: Columns) -> Table:
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
    return Table(str(path), dict(zip(header, values, strict=True)), rows, num_skipped=num_skipped)


def _is_example(header: Sequence[str], values: Sequence[Sequence[str]], columns: Columns) -> bool:
    """Return whether the first line of a file without a header is an example.

    One of its fields may still have been given as a column's name.
    """
    named = [name for name in (columns.text, columns.text_pair, columns.label) if name in header]
    if any(name in values[header.index(name)] for name in named):  # a label, that others have too
        return True
    is_sentence = any(len(name.split()) > _LONGEST_COLUMN_NAME for name in named)
    return is_sentence and (len(header) == 1 or any(name.isdecimal() for name in header))


def _published_columns(first_line: Sequence[str]) -> list[str] | None:
    """Return the columns of a file that is published without a header.

    None where the first line is a header.
    """
    for names, patterns in _HEADERLESS:
        if len(names) == len(first_line) and all(map(re.fullmatch, patterns, first_line)):
            return list(names)
    return None


def label_columns(name: str | None) -> list[str]:
    """Return the columns that --label_column names, separated by commas."""
    return [] if name is None else [part.strip() for part in name.split(",")]


def label_values(table: Table, name: str, max_examples: int | None) -> list[Any]:
    """Return the labels of a table's column.

    Of several columns, "toxic,insult", each of 0 and 1: the list of those that are 1; None where
    all are empty.

    Raises:
      InputError: another value; names the row.
    """
    if name in table.columns:
        return list(table.columns[name][:max_examples])
    columns = label_columns(name)
    labels = []
    for index, values in enumerate(
        zip(*(table.columns[column][:max_examples] for column in columns), strict=True)
    ):
        held = [_TRUTH.get(str(value).strip().lower()) for value in values]
        if all(value in (None, "") for value in values):
            labels.append(None)
            continue
        if None in held:
            at = held.index(None)
            row = index + 1 if table.rows is None else table.rows[index]
            raise InputError(
                f"{table.source}, row {row}: {columns[at]!r} is {values[at]!r:.80}, not 0 or 1"
            )
        labels.append([column for column, value in zip(columns, held, strict=True) if value])
    return labels


def find_columns(
    names: Sequence[str], source: str, columns: Columns
) -> tuple[str, str | None, str | None]:
    """Return the names of the columns of text, second text and label; None where there is none.

    Raises:
      InputError: one that was named is not there, or none holds the text.
    """
    for option, name in (
        ("text", columns.text),
        ("text_pair", columns.text_pair),
        ("label", columns.label),
    ):
        known = option == "label" and set(label_columns(name)) <= set(names)
        if name is not None and name not in names and not known:
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
    columns = columns.known_in(names)
    by_lower = {name.lower(): name for name in reversed(names)}

    def find_ignoring_case(name: str) -> str | None:
        return name if name in names else by_lower.get(name.lower())

    label = columns.label or next(filter(None, map(find_ignoring_case, _LABEL_COLUMNS)), None)
    if columns.text is not None:
        return columns.text, columns.text_pair, label
    for first, second in _PAIR_COLUMNS:
        names_found = find_ignoring_case(first), columns.text_pair or find_ignoring_case(second)
        if None not in names_found:
            return *names_found, label
    text = next(filter(None, map(find_ignoring_case, _TEXT_COLUMNS)), None)
    if text is None:
        raise InputError(
            f"{source} has none of the usual text columns, only {shortened(', '.join(names))}: "
            f"name one with --text_column; if these are no names, {_NAME_THEM}"
        )
    return text, columns.text_pair, label


_NAME_THEM = "name the columns with --column_names, as in --column_names id,label,sentence"


class quiet_datasets:
    """Keep the progress bars and warnings of `datasets` off the terminal.

    The scripts print their own.
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
