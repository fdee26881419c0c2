"""Labelled text: where it comes from, how it is checked, and how it becomes batches.

Everything is read by `datasets`. A `Split` is the checked result; every complaint names the file and the row.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import glob
import hashlib
import json
import logging
import os
import re
import sys
import tempfile
from collections.abc import Callable, Container, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from . import sharding
from .config import BertConfig
from .errors import InputError, root_cause
from .files import json_digest, user_path
from .pretrained import Classifier
from .tokens import shortened

REVIEWS = "reviews"

# GLUE tasks: the configurations of this Hub repository.
_GLUE_REPOSITORY = "nyu-mll/glue"
GLUE_TASKS = ("sst2", "rte", "mnli", "mrpc", "qnli", "cola")

# File stems and Hub names that stand for a split, the first found counts.
_SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "dev", "valid", "val", "validation_matched", "dev_matched"),
    "validation_mismatched": ("validation_mismatched", "dev_mismatched"),
    "test": ("test",),
}
_FORMATS = {".tsv": "csv", ".csv": "csv", ".jsonl": "json", ".parquet": "parquet"}

_PAIR_COLUMNS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
    ("question1", "question2"),
    ("#1 String", "#2 String"),
    ("text", "text_pair"),
)
_TEXT_COLUMNS = ("sentence", "text", "review", "content", "comment")
_LABEL_COLUMNS = ("label", "labels", "gold_label", "Quality", "sentiment")

# Batches are padded to the next of these, and each length is compiled once.
BUCKETS = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)


@dataclasses.dataclass(frozen=True)
class Split:
    """The checked examples of one split."""

    name: str  # "train", "validation", …
    source: str  # the file, or the Hub id and split, as errors name it
    texts: list[str]
    text_pairs: list[str] | None
    raw_labels: list[int] | list[str] | None  # class indices, or class names; None without labels
    label_names: list[str] | None = None  # the names of class indices, where the data says them
    rows: Sequence[int] | None = None  # where each example stands: its line, as an editor counts, or its number from 1

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

    def example_hashes(self) -> list[str]:
        """Return 16 hexadecimal digits for each example's text or texts, whatever its label: to tell the same example elsewhere."""
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
    """Column names that override what is found by itself."""

    text: str | None = None
    text_pair: str | None = None
    label: str | None = None


def dataset_name(dataset: str) -> str:
    """Return the short name of a data set, which `runs/<name>` goes by."""
    path = Path(absolute_name(dataset))
    return re.sub(r"[^\w.-]", "-", path.stem if path.suffix.lower() in _FORMATS else path.name) or "dataset"


def task_name(dataset: str) -> str:
    """Return the name as GLUE tasks are written here: a folder `CoLA` or `SST-2` is the task too."""
    return re.sub(r"[^a-z0-9]", "", dataset_name(dataset).lower())


def absolute_name(dataset: str) -> str:
    """Return the data set's name in a form that holds from any working directory."""
    path = user_path(dataset)
    return str(path.resolve()) if dataset != REVIEWS and path.exists() else dataset


def evaluation_splits(dataset: str) -> dict[str, str]:
    """Return the splits to evaluate on, by the name that their metrics begin with: `eval`, and for MNLI `eval_mismatched` too."""
    folder = user_path(dataset)
    second = dataset == "mnli" or (folder.is_dir() and _find_in(folder, "validation_mismatched") is not None)
    return {"eval": "validation"} | ({"eval_mismatched": "validation_mismatched"} if second else {})


def load_split(dataset: str, split: str, columns: Columns | None = None, max_examples: int | None = None) -> Split:
    """Load one split.

    Args:
      dataset: a name of `GLUE_TASKS` (from the Hub), `reviews`, a path to a folder or a .tsv, .csv, .jsonl or .parquet file, or any
        other id of `datasets`.
      split: "train", "validation" or "test" (dev and the like are understood). A single file is whatever split is asked for.
      columns: names that override the usual ones.
      max_examples: take the first so many.

    Raises:
      InputError: not found, not reachable, empty, unreadable, no such column, an empty text or a bad label; names file and row.
    """
    if dataset == REVIEWS:
        shipped = load_split(str(Path(__file__).parent / "reviews"), split, columns, max_examples)
        return dataclasses.replace(shipped, source=f"{REVIEWS}/{Path(shipped.source).name}")
    columns = columns or Columns()
    path = user_path(dataset)
    if os.path.exists(path):  # Path.exists raises where a name is too long
        table, source, rows = _load_file(_find_file(path, split))
    elif dataset in GLUE_TASKS or (re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", dataset) and path.suffix.lower() not in _FORMATS):
        table, source, rows = _load_from_hub(dataset, split)
    else:
        raise InputError(f"{shortened(dataset)}: no such file or folder")
    return _check(table, split, source, rows, columns, max_examples)


def load_lines(file: str, max_examples: int | None = None) -> Split:
    """Load a file with one text on each line, without labels.

    Raises:
      InputError: the file is missing or empty, or a line is; names the row.
    """
    import datasets

    path = user_path(file)
    if not path.exists() or path.is_dir():
        raise InputError(f"{file}: {'is a folder, not a file' if path.is_dir() else 'no such file'}")
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip().split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not UTF-8 text: {error}") from None
    if lines == [""]:
        raise InputError(f"{file} is empty")
    table = datasets.Dataset.from_dict({"text": [line.rstrip("\r") for line in lines]})
    return _check(table, path.stem, str(path), range(1, len(lines) + 1), Columns(text="text"), max_examples)


def _find_in(folder: Path, split: str) -> Path | None:
    """Return the folder's file for a split."""
    wanted = {f"{stem}{suffix}": None for stem in _SPLIT_NAMES.get(split, (split,)) for suffix in _FORMATS}
    present = {file.name.lower(): file for file in folder.iterdir() if file.is_file()}
    return next((present[name] for name in wanted if name in present), None)


def _find_file(path: Path, split: str) -> Path:
    if path.is_dir():
        found = _find_in(path, split)
        if found is None:
            names = [f"{stem}.tsv" for stem in _SPLIT_NAMES.get(split, (split,))[:2]]
            raise InputError(f"{path} has no {split} file: name one {' or '.join(names)} (or {', '.join(list(_FORMATS)[1:])})")
        return found
    if path.suffix.lower() not in _FORMATS:
        raise InputError(f"{path} is not a folder or a {', '.join(_FORMATS)} file")
    return path


def _load_file(path: Path):
    """Return (table, source, row number of each example)."""
    import datasets

    if not path.stat().st_size:
        raise InputError(f"{path} is empty")
    kind, options, rows = _FORMATS[path.suffix.lower()], {}, None
    if kind == "json":
        rows = _scan_json_lines(path)
    if kind == "csv":
        # GLUE's .tsv has quotation marks that are just text.
        is_tsv = path.suffix.lower() == ".tsv"
        dialect = {"sep": "\t", "quoting": csv.QUOTE_NONE} if is_tsv else {"sep": ",", "quoting": csv.QUOTE_MINIMAL}
        header, rows = _scan_delimited(path, **dialect)
        # "NA" and "null" are sentences, not missing values. Every column is read as text: no row can change the type of a column.
        features = datasets.Features({name: datasets.Value("string") for name in header})
        options = {**dialect, "keep_default_na": False, "encoding": "utf-8-sig", "features": features, "names": header, "header": 0}
    try:
        # A cache of its own, read into memory: the shared one tells changed files by their time alone.
        with _quiet_datasets(), tempfile.TemporaryDirectory() as cache:
            files = glob.escape(str(path.resolve()))
            table = datasets.load_dataset(kind, data_files=files, split="train", cache_dir=cache, keep_in_memory=True, **options)
    except Exception as error:  # pandas, pyarrow and datasets each raise their own
        reason = root_cause(error)
        raise InputError(f"{path} has no examples" if "no data" in reason else f"{path} cannot be read: {shortened(reason)}") from None
    if rows is not None and len(rows) != len(table):
        raise InputError(f"{path} cannot be read: {len(rows)} rows were counted, {len(table)} read; are quotation marks closed?")
    return table, str(path), rows


def _scan_json_lines(path: Path) -> list[int]:
    """Return the line of each example, having checked that each is an object."""
    rows = []
    try:
        with open(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    rows.append(number)
                    if not isinstance(json.loads(line), dict):
                        raise InputError(f"{path}, row {number}: not a JSON object with named fields")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: {error}") from None
    except RecursionError:
        raise InputError(f"{path}, row {number}: nested too deeply") from None
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}, row {number}: not JSON: {shortened(str(error))}") from None
    return rows


def _scan_delimited(path: Path, sep: str, quoting: int) -> tuple[list[str], list[int]]:
    """Return the column names and the line of each example, having checked that every row has as many fields as the header."""
    rows = []
    limit = csv.field_size_limit(sys.maxsize)  # long texts are cut later, with a warning
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=sep, quoting=quoting, strict=True)
            header = [name or f"column {number}" for number, name in enumerate(next(reader, []), 1)]
            start = reader.line_num + 1
            for fields in reader:
                if fields and len(fields) != len(header):
                    what = f"{len(fields)} fields, the header has {len(header)} ({shortened(', '.join(header))})"
                    raise InputError(f"{path}, row {start}: {what}, separated by {'tabs' if sep == chr(9) else 'commas'}")
                if fields:  # empty lines are skipped by the reader of the examples too
                    rows.append(start)
                start = reader.line_num + 1
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is not UTF-8 text in rows and columns: {error}") from None
    finally:
        csv.field_size_limit(limit)
    if len(set(header)) < len(header):
        raise InputError(f"{path}: two columns have the same name ({shortened(', '.join(header))})")
    return header, rows


def _load_from_hub(dataset: str, split: str):
    import datasets

    where = (_GLUE_REPOSITORY, dataset) if dataset in GLUE_TASKS else (dataset,)
    offline = f"use {REVIEWS}, which is shipped, or a folder with train.tsv and dev.tsv"
    try:
        with _quiet_datasets():
            tables = datasets.load_dataset(*where)
    except Exception as error:  # whatever the network layer raises: the remedy is the same
        reason = f"{type(error).__name__}: {root_cause(error)}"
        raise InputError(f"{dataset} is no file or folder here and cannot be had from the Hub ({reason}): {offline}") from None
    names = [name for name in (split, *_SPLIT_NAMES.get(split, ())) if name in tables]
    if not names:
        raise InputError(f"{dataset} has no split {split!r}; it has {', '.join(tables)}")
    return tables[names[0]], f"{dataset} ({names[0]})", None


class _quiet_datasets:
    """Keep the progress bars and complaints of `datasets` off the terminal: ours say what is going on."""

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


def _check(table, split: str, source: str, rows: Sequence[int] | None, columns: Columns, max_examples: int | None) -> Split:
    """Return the examples of a `datasets` table as a `Split`, or raise an InputError that names the row."""
    if not len(table):
        raise InputError(f"{source} has no examples")
    text, text_pair, label = _find_columns(table.column_names, source, columns)
    label_names = getattr(table.features[label], "names", None) if label else None
    if max_examples is not None:
        table = table.select(range(min(max_examples, len(table))))
    texts = list(table[text])
    found = Split(split, source, texts, list(table[text_pair]) if text_pair else None, None, label_names, rows)
    for column, values in ((text, texts), (text_pair, found.text_pairs or [])):
        for index, value in enumerate(values):
            if value is not None and not isinstance(value, str):
                raise InputError(f"{found.row(index)}: {column!r} is {value!r:.80}, not text; name the text's column with --text_column")
            if not value or not value.strip():
                raise InputError(f"{found.row(index)}: {column!r} is empty; give a text or delete the row")
    return dataclasses.replace(found, raw_labels=_parse_labels(list(table[label]), found) if label else None)


def _find_columns(names: Sequence[str], source: str, columns: Columns) -> tuple[str, str | None, str | None]:
    for option, name in (("text", columns.text), ("text_pair", columns.text_pair), ("label", columns.label)):
        if name is not None and name not in names:
            raise InputError(f"{source} has no column {name!r} (--{option}_column); it has {shortened(', '.join(names))}")
    given = [name for name in (columns.text, columns.text_pair, columns.label) if name is not None]
    if len(set(given)) < len(given):
        raise InputError(f"--text_column, --text_pair_column and --label_column must differ, not be {', '.join(given)}")
    label = columns.label or next((name for name in _LABEL_COLUMNS if name in names), None)
    if columns.text is not None:
        return columns.text, columns.text_pair, label
    for first, second in _PAIR_COLUMNS:
        if first in names and (columns.text_pair or second) in names:
            return first, columns.text_pair or second, label
    text = next((name for name in _TEXT_COLUMNS if name in names), None)
    if text is None:
        raise InputError(f"{source} has none of the usual text columns, only {shortened(', '.join(names))}: name one with --text_column")
    return text, columns.text_pair, label


def _parse_labels(values: list[Any], split: Split) -> list[int] | list[str] | None:
    """Return class indices if every label is an integer, else class names; None if all are −1, GLUE's mark of a hidden label."""
    parsed = [_as_class_index(value) for value in values]
    if all(value == -1 for value in parsed):
        return None
    for index, (value, number) in enumerate(zip(values, parsed, strict=True)):
        if number is None and (not isinstance(value, str) or not value.strip()):
            raise InputError(f"{split.row(index)}: the label is {value!r:.80}; use a class index or a class name")
        if isinstance(value, str) and number is None and re.fullmatch(r"\s*[+-]?[0-9]*\.[0-9]+\s*", value):
            raise InputError(f"{split.row(index)}: label {value!r:.80} is a number but no class index; regression is not supported")
        if (number is None) != (parsed[0] is None):
            raise InputError(
                f"{split.row(index)}: label {value!r:.80} beside {values[0]!r:.80}: use class indices or class names, not both"
            )
        if number is not None and number < 0:
            raise InputError(f"{split.row(index)}: label {number} is negative; class indices start at 0")
    return [value.strip() for value in values] if parsed[0] is None else parsed


def _as_class_index(value: Any) -> int | None:
    """Return an integer label, also one written as text, as a whole float or as a truth value."""
    if isinstance(value, str):
        return int(float(value)) if re.fullmatch(r"\s*[+-]?[0-9]{1,9}(\.0*)?\s*", value) else None
    return int(value) if isinstance(value, (bool, int, float)) and value == value // 1 and abs(value) < 1e9 else None


def label_names(train: Split, model_names: dict[int, str] | None = None) -> dict[int, str]:
    """Return the class names of a training split: index -> name.

    A model that knows all the names keeps its numbering. Otherwise class names are numbered in sorted order, and class indices take
    their names from the data set, from a model with as many classes, or are called LABEL_0, …

    Raises:
      InputError: the split has no labels, or only one class.
    """
    if train.raw_labels is None:
        raise InputError(f"{train.source} has no labels: name their column with --label_column")
    found = sorted(set(train.raw_labels))
    if len(found) < 2:
        raise InputError(f"{train.source}: every label is {found[0]!r:.80}; a classifier needs at least two classes")
    names = train.label_names if train.label_names else (found if isinstance(found[0], str) else None)
    if names is not None:
        return model_names if model_names and set(names) <= set(model_names.values()) else dict(enumerate(names))
    count = found[-1] + 1
    if count > len(train):
        index = train.raw_labels.index(found[-1])
        raise InputError(f"{train.row(index)}: class index {found[-1]} is larger than the number of examples")
    if model_names and len(model_names) == count:
        return model_names
    return {index: f"LABEL_{index}" for index in range(count)}


def class_indices(split: Split, id2label: dict[int, str]) -> np.ndarray:
    """Return the labels as the model's class indices, int32 [examples].

    Names are matched by name. So are class indices whose names the data set says, if the model has the same names (upper and lower
    case alike); other class indices are taken as they are.

    Raises:
      InputError: the split has no labels, or one that the model does not know; names file and row.
    """
    if split.raw_labels is None:
        raise InputError(f"{split.source} has no labels: name their column with --label_column")
    by_name = {name: index for index, name in id2label.items()}
    by_index = {index: index for index in id2label}
    folded = {name.lower(): index for name, index in by_name.items()}
    if split.label_names and {name.lower() for name in split.label_names} == set(folded):
        by_index = {index: folded[name.lower()] for index, name in enumerate(split.label_names)}
    indices = []
    for index, label in enumerate(split.raw_labels):
        known = by_name if isinstance(label, str) else by_index
        if label not in known:
            classes = ", ".join(by_name) if isinstance(label, str) else f"0 to {len(id2label) - 1}"
            raise InputError(f"{split.row(index)}: label {label!r:.80} is not one of the model's classes ({classes})")
        indices.append(known[label])
    return np.asarray(indices, np.int32)


@dataclasses.dataclass(frozen=True)
class Batch:
    """Rows of one bucket, padded to its length and, with weight 0, to the full number of rows."""

    inputs: dict[str, np.ndarray]  # input_ids, attention_mask, token_type_ids, special_tokens_mask: int32 [B, T]
    labels: np.ndarray  # int32 [B], 0 where there is none
    weights: np.ndarray  # float32 [B], 1 for an example, 0 for filling
    indices: np.ndarray  # int [B], the example's position in the split, −1 for filling


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A tokenized split."""

    input_ids: list[list[int]]
    token_type_ids: list[list[int]]
    special_tokens_mask: list[list[int]]
    offsets: list[list[tuple[int, int]]]  # characters of each token in its own segment
    word_ids: list[list[int | None]]  # the word of its own segment that each token is a piece of; None for special tokens
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
        return f"{self.num_truncated} of {len(self)} texts longer than {longest} tokens: {self.num_cut_tokens} tokens were cut"

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """The number of tokens of each example."""
        return np.asarray([len(ids) for ids in self.input_ids])

    def fingerprint(self, indices: Sequence[int]) -> str:
        """Return 16 hexadecimal digits that tell a batch of these examples: tokens, segments and labels, in order."""
        labels = [None] * len(indices) if self.labels is None else self.labels[list(indices)].tolist()
        rows = [[self.input_ids[index], self.token_type_ids[index], label] for index, label in zip(indices, labels, strict=True)]
        return json_digest(rows)[:16]

    def batch(self, indices: Sequence[int], num_rows: int, pad_token_id: int, max_length: int) -> Batch:
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
        labels = np.zeros(len(indices), np.int32) if self.labels is None else self.labels[list(indices)]
        return Batch(
            inputs,
            np.pad(labels, (0, filling)),
            np.pad(np.ones(len(indices), np.float32), (0, filling)),
            np.pad(np.asarray(indices), (0, filling), constant_values=-1),
        )


def encode(classifier: Classifier, split: Split, max_length: int, labels: np.ndarray | None = None) -> Encoded:
    """Tokenize a split, truncating to `max_length` tokens; the result counts what was cut.

    Raises:
      InputError: the classifier has no tokenizer, no second segment for pairs, or `max_length` leaves no room for text.
    """
    tokenizer, config = classifier.require_tokenizer(), classifier.config
    if split.text_pairs is not None and config.type_vocab_size < 2:
        raise InputError(f"{classifier.name} has one segment (type_vocab_size 1): it cannot read the pairs of {split.source}")
    room = tokenizer.num_special_tokens_to_add(pair=split.text_pairs is not None)
    if not room < max_length <= config.max_position_embeddings:
        raise InputError(
            f"--max_seq_length must be more than {room} and at most {config.max_position_embeddings}, the model's, not {max_length}"
        )
    options = {"return_token_type_ids": True, "return_special_tokens_mask": True, "return_offsets_mapping": True}
    encoded = tokenizer(split.texts, split.text_pairs, truncation=False, verbose=False, **options)
    too_long = [index for index, ids in enumerate(encoded["input_ids"]) if len(ids) > max_length]
    empty = next((index for index, special in enumerate(encoded["special_tokens_mask"]) if all(special)), None)
    if empty is not None:
        raise InputError(f"{split.row(empty)}: no token is left of {split.texts[empty]!r:.80}; give a text")
    cut_tokens = [max(0, len(ids) - max_length) for ids in encoded["input_ids"]]
    word_ids = [encoded.word_ids(index) for index in range(len(split))]
    if too_long:
        longer = split.select(too_long)
        short = tokenizer(longer.texts, longer.text_pairs, truncation=True, max_length=max_length, **options)
        for row, index in enumerate(too_long):
            word_ids[index] = short.word_ids(row)
            for name in encoded:
                encoded[name][index] = short[name][row]
    return Encoded(
        encoded["input_ids"],
        encoded["token_type_ids"],
        encoded["special_tokens_mask"],
        encoded["offset_mapping"],
        word_ids,
        labels,
        cut_tokens,
    )


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
    """Yield every example once, bucket by bucket, shortest first: each padded length is compiled for one number of rows.

    Of several processes that do not work on each batch together, each gets its share of the batches. Which examples make a batch depends
    on the devices and processes alone, not on what is done already.

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
        planned += [(batch, rows) for batch in batches if not all(int(index) in done for index in batch)]
    for batch, rows in planned if mesh is None else sharding.share_of(planned, mesh):
        yield encoded.batch(batch, rows, config.pad_token_id, limit)


def shuffled_batches(lengths: np.ndarray, batch_size: int, seed: int, epoch: int) -> Iterator[np.ndarray]:
    """Yield the indices of one training epoch: a random order that depends on seed and epoch alone, similar lengths together.

    As `group_by_length` of the Hugging Face trainer: the shuffled examples are sorted within stretches of 50 batches, and the batches
    are then shuffled.
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
