"""Labelled text: where it comes from, how it is checked, and how it becomes batches.

Everything is read by `datasets`. A `Split` is the checked result; every complaint names the file and the row.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .config import BertConfig
from .errors import InputError
from .pretrained import Classifier

REVIEWS = "reviews"

# GLUE tasks: configuration of the Hub's `nyu-mll/glue`, and evaluation splits where there is not just one.
_GLUE_REPOSITORY = "nyu-mll/glue"
GLUE_TASKS = ("sst2", "rte", "mnli", "mrpc", "qnli", "cola")
_MNLI_EVALUATION = ("validation_matched", "validation_mismatched")

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
_LABEL_COLUMNS = ("label", "labels", "gold_label", "Quality", "sentiment", "class", "target")

# Batches are padded to the next of these, and each length is compiled once.
BUCKETS = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)


@dataclasses.dataclass(frozen=True)
class Split:
    """The checked examples of one split."""

    name: str  # "train", "validation", …
    source: str  # the file, or the Hub id and split, as errors name it
    texts: list[str]
    text_pairs: list[str] | None
    raw_labels: list[int] | list[str] | None  # class indices, or class names; None without a label column
    label_names: list[str] | None = None  # the names of class indices, where the data says them
    first_row: int = 1  # the row number of the first example, as an editor counts

    def __len__(self) -> int:
        return len(self.texts)

    def row(self, index: int) -> str:
        """Return how to point a person to an example."""
        return f"{self.source}, row {index + self.first_row}"

    def select(self, indices: Sequence[int]) -> Split:
        """Return the split with only these examples; rows are then counted anew."""

        def pick(values):
            return None if values is None else [values[index] for index in indices]

        return dataclasses.replace(self, texts=pick(self.texts), text_pairs=pick(self.text_pairs), raw_labels=pick(self.raw_labels))

    def fingerprint(self) -> str:
        """Return a SHA-256 of texts and labels, in order."""
        rows = zip(self.texts, self.text_pairs or self.texts, self.raw_labels or self.texts, strict=True)
        digest = hashlib.sha256()
        for row in rows:
            digest.update(json.dumps(row).encode())
        return digest.hexdigest()


@dataclasses.dataclass(frozen=True)
class Columns:
    """Column names that override what is found by itself."""

    text: str | None = None
    text_pair: str | None = None
    label: str | None = None


def dataset_name(dataset: str) -> str:
    """Return the short name of a data set: what `runs/<name>` and the choice of a metric go by."""
    return re.sub(r"[^\w.-]", "-", Path(dataset).stem if _is_file(dataset) else Path(dataset).name) or "dataset"


def absolute_name(dataset: str) -> str:
    """Return the data set's name in a form that holds from any working directory."""
    path = Path(dataset).expanduser()
    return str(path.resolve()) if dataset != REVIEWS and path.exists() else dataset


def evaluation_splits(dataset: str) -> tuple[str, ...]:
    """Return the names of the splits to evaluate on: one, and two for MNLI."""
    return _MNLI_EVALUATION if dataset == "mnli" else ("validation",)


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
        dataset = str(Path(__file__).parent / "reviews")
    columns = columns or Columns()
    if Path(dataset).expanduser().exists():
        table, source, first_row = _load_file(_find_file(Path(dataset).expanduser(), split))
    elif dataset in GLUE_TASKS or (re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", dataset) and Path(dataset).suffix not in _FORMATS):
        table, source, first_row = _load_from_hub(dataset, split)
    else:
        raise InputError(f"{dataset}: no such file or folder")
    return _check(table, split, source, first_row, columns, max_examples)


def load_lines(file: str, max_examples: int | None = None) -> Split:
    """Load a file with one text on each line, without labels.

    Raises:
      InputError: the file is missing or empty, or a line is; names the row.
    """
    import datasets

    path = Path(file).expanduser()
    if not path.is_file() or not path.stat().st_size:
        raise InputError(f"{file}: {'is empty' if path.is_file() else 'no such file'}")
    try:
        with _quiet_datasets():
            table = datasets.load_dataset("text", data_files=str(path.resolve()), split="train")
    except Exception as error:
        raise InputError(f"{file} cannot be read: {_root_cause(error)}") from None
    return _check(table, path.stem, str(path), 1, Columns(text="text"), max_examples)


def _is_file(dataset: str) -> bool:
    return Path(dataset).suffix in _FORMATS


def _find_file(path: Path, split: str) -> Path:
    if path.is_file():
        if path.suffix not in _FORMATS:
            raise InputError(f"{path}: use a {', '.join(_FORMATS)} file")
        return path
    candidates = [f"{stem}{suffix}" for stem in _SPLIT_NAMES.get(split, (split,)) for suffix in _FORMATS]
    for name in candidates:
        if (path / name).is_file():
            return path / name
    raise InputError(f"{path} has no {split} file: name one {', '.join(candidates[:3])} or the like")


def _load_file(path: Path):
    """Return (table, source, row number of the first example)."""
    import datasets

    if not path.stat().st_size:
        raise InputError(f"{path} is empty")
    kind, options = _FORMATS[path.suffix], {}
    if kind == "csv":
        separator = "\t" if path.suffix == ".tsv" else ","
        # GLUE's .tsv has quotation marks that are just text.
        quoting = csv.QUOTE_NONE if separator == "\t" else csv.QUOTE_MINIMAL
        try:
            with open(path, encoding="utf-8-sig", newline="") as file:
                header = next(csv.reader(file, delimiter=separator, quoting=quoting))
        except (UnicodeDecodeError, StopIteration, csv.Error) as error:
            raise InputError(f"{path} is not a UTF-8 text file with a header line: {error}") from None
        # "NA" and "null" are sentences, not missing values. Every column is read as text: no row can change the type of a column.
        features = datasets.Features({name: datasets.Value("string") for name in header})
        options = {"sep": separator, "quoting": quoting, "keep_default_na": False, "encoding": "utf-8-sig", "features": features}
    try:
        with _quiet_datasets():
            table = datasets.load_dataset(kind, data_files=str(path.resolve()), split="train", **options)
    except Exception as error:  # pandas, pyarrow and datasets each raise their own
        reason = _root_cause(error)
        raise InputError(f"{path} has no examples" if "no data" in reason else f"{path} cannot be read: {reason}") from None
    return table, str(path), 2 if kind == "csv" else 1


def _load_from_hub(dataset: str, split: str):
    import datasets

    is_task = dataset in GLUE_TASKS
    where = (_GLUE_REPOSITORY, dataset) if is_task else (dataset,)
    offline = f"use {REVIEWS}, which is shipped, or a folder with train.tsv and dev.tsv"
    try:
        with _quiet_datasets():
            tables = datasets.load_dataset(*where)
    except Exception as error:  # whatever the network layer raises: the remedy is the same
        reason = f"{type(error).__name__}: {_root_cause(error)}"
        raise InputError(f"{dataset} is no file or folder here and cannot be had from the Hub ({reason}): {offline}") from None
    names = [name for name in (split, *_SPLIT_NAMES.get(split, ())) if name in tables]
    if not names:
        raise InputError(f"{dataset} has no split {split!r}; it has {', '.join(tables)}")
    return tables[names[0]], f"{dataset} ({names[0]})", 1


class _quiet_datasets:
    """Keep the progress bars of `datasets` off the terminal: ours say what is going on."""

    def __enter__(self):
        import datasets

        self._was_on = datasets.utils.are_progress_bars_disabled() is False
        datasets.disable_progress_bars()

    def __exit__(self, *_):
        import datasets

        if self._was_on:
            datasets.enable_progress_bars()


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _check(table, split: str, source: str, first_row: int, columns: Columns, max_examples: int | None) -> Split:
    """Return the examples of a `datasets` table as a `Split`, or raise an InputError that names the row."""
    if not len(table):
        raise InputError(f"{source} has no examples")
    text, text_pair, label = _find_columns(table.column_names, source, columns)
    features = table.features
    if max_examples is not None:
        table = table.select(range(min(max_examples, len(table))))

    def texts_of(column):
        values = list(table[column])
        for index, value in enumerate(values):
            if not isinstance(value, str) or not value.strip():
                what = "is empty" if value is None or value == "" or isinstance(value, str) else f"is {value!r}, not text"
                raise InputError(f"{source}, row {index + first_row}: {column!r} {what}")
        return values

    labels, label_names = None, None
    if label is not None:
        labels = _parse_labels(list(table[label]), source, first_row)
        label_names = getattr(features[label], "names", None)
    return Split(split, source, texts_of(text), texts_of(text_pair) if text_pair else None, labels, label_names, first_row)


def _find_columns(names: Sequence[str], source: str, columns: Columns) -> tuple[str, str | None, str | None]:
    for option, name in (("text", columns.text), ("text_pair", columns.text_pair), ("label", columns.label)):
        if name is not None and name not in names:
            raise InputError(f"{source} has no column {name!r} (--{option}_column); it has {', '.join(names)}")
    label = columns.label or next((name for name in _LABEL_COLUMNS if name in names), None)
    if columns.text is not None:
        return columns.text, columns.text_pair, label
    for first, second in _PAIR_COLUMNS:
        if first in names and (columns.text_pair or second) in names:
            return first, columns.text_pair or second, label
    text = next((name for name in _TEXT_COLUMNS if name in names), None)
    if text is None:
        raise InputError(f"{source} has none of the usual text columns, only {', '.join(names)}: name one with --text_column")
    return text, columns.text_pair, label


def _parse_labels(values: list[Any], source: str, first_row: int) -> list[int] | list[str]:
    """Return class indices if every label parses as an integer, else class names."""
    parsed = [_as_class_index(value) for value in values]
    for index, value in enumerate(values):
        if value is None or value == "" or isinstance(value, float):
            raise InputError(f"{source}, row {index + first_row}: the label is {value!r}; use a class index or a class name")
        if (parsed[index] is None) != (parsed[0] is None):
            first, this = (repr(values[0]), repr(value))
            raise InputError(f"{source}, row {index + first_row}: label {this} beside {first}: use class indices or class names, not both")
        if parsed[index] is not None and parsed[index] < 0:
            raise InputError(f"{source}, row {index + first_row}: label {value} is negative; class indices start at 0")
    return [str(value) for value in values] if parsed[0] is None else parsed


def _as_class_index(value: Any) -> int | None:
    if isinstance(value, bool):
        return int(value)
    try:
        return int(value)
    except (TypeError, ValueError):
        return None


def label_names(train: Split, model_names: dict[int, str] | None = None) -> dict[int, str]:
    """Return the class names of a training split: index -> name.

    Class names are numbered as the model numbers them, if it knows them all, else in sorted order. Class indices take their names from
    the data set, the model, or are called LABEL_0, …

    Raises:
      InputError: the split has no labels, or only one class.
    """
    if train.raw_labels is None:
        raise InputError(f"{train.source} has no label column: name one with --label_column")
    found = sorted(set(train.raw_labels))
    if len(found) < 2:
        raise InputError(f"{train.source}: every label is {found[0]!r}; a classifier needs at least two classes")
    if isinstance(found[0], str):
        if model_names and set(found) <= set(model_names.values()):
            return model_names
        return dict(enumerate(found))
    count = found[-1] + 1
    if count > len(train):
        index = train.raw_labels.index(found[-1])
        raise InputError(f"{train.row(index)}: class index {found[-1]} is larger than the number of examples")
    if train.label_names:
        return dict(enumerate(train.label_names))
    if model_names and len(model_names) == count:
        return model_names
    return {index: f"LABEL_{index}" for index in range(count)}


def class_indices(split: Split, id2label: dict[int, str]) -> np.ndarray:
    """Return the labels as class indices, int32 [examples].

    Raises:
      InputError: the split has no labels, or one that the model does not know; names file and row.
    """
    if split.raw_labels is None:
        raise InputError(f"{split.source} has no label column: name one with --label_column")
    label2id = {name: index for index, name in id2label.items()}
    indices = []
    for index, label in enumerate(split.raw_labels):
        known = label in label2id if isinstance(label, str) else label in id2label
        if not known:
            classes = ", ".join(label2id) if isinstance(label, str) else f"0 to {len(id2label) - 1}"
            raise InputError(f"{split.row(index)}: label {label!r} is not one of the model's classes ({classes})")
        indices.append(label2id[label] if isinstance(label, str) else label)
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
    labels: np.ndarray | None

    def __len__(self) -> int:
        return len(self.input_ids)

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """The number of tokens of each example."""
        return np.asarray([len(ids) for ids in self.input_ids])

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
    """Tokenize a split, truncating to `max_length` tokens, with one warning on stderr that counts what was cut.

    Raises:
      InputError: the classifier has no tokenizer, or `max_length` leaves no room for text.
    """
    tokenizer = classifier.require_tokenizer()
    room = tokenizer.num_special_tokens_to_add(pair=split.text_pairs is not None)
    if not room < max_length <= classifier.config.max_position_embeddings:
        raise InputError(
            f"max_seq_length {max_length} must be more than {room} and at most the model's {classifier.config.max_position_embeddings}"
        )
    options = {"return_token_type_ids": True, "return_special_tokens_mask": True, "return_offsets_mapping": True}
    encoded = tokenizer(split.texts, split.text_pairs, truncation=False, verbose=False, **options)
    too_long = [index for index, ids in enumerate(encoded["input_ids"]) if len(ids) > max_length]
    if too_long:
        cut = sum(len(encoded["input_ids"][index]) - max_length for index in too_long)
        print(
            f"warning: {len(too_long)} of {len(split)} texts longer than {max_length} tokens; {cut} tokens were cut",
            file=sys.stderr,
        )
        texts = [split.texts[index] for index in too_long]
        pairs = None if split.text_pairs is None else [split.text_pairs[index] for index in too_long]
        short = tokenizer(texts, pairs, truncation=True, max_length=max_length, **options)
        for row, index in enumerate(too_long):
            for name in encoded:
                encoded[name][index] = short[name][row]
    return Encoded(
        encoded["input_ids"],
        encoded["token_type_ids"],
        encoded["special_tokens_mask"],
        encoded["offset_mapping"],
        labels,
    )


def bucket_length(length: int, max_length: int) -> int:
    """Return the padded length for `length` tokens: the next bucket, at most `max_length`."""
    return min(next((bucket for bucket in BUCKETS if bucket >= length), max_length), max_length)


def inference_batches(
    encoded: Encoded, config: BertConfig, batch_size: int | Callable[[int], int], multiple_of: int = 1
) -> Iterator[Batch]:
    """Yield every example once, bucket by bucket, shortest first: each padded length is compiled for one number of rows.

    Args:
      encoded: the tokenized split.
      config: for the padding token and the longest length.
      batch_size: rows at once, or a function that returns them for a padded length.
      multiple_of: the number of rows is rounded up to a multiple of this, the number of devices.
    """
    limit = config.max_position_embeddings
    buckets = np.asarray([bucket_length(length, limit) for length in encoded.lengths])
    for bucket in np.unique(buckets):
        members = np.flatnonzero(buckets == bucket)
        size = batch_size(int(bucket)) if callable(batch_size) else batch_size
        rows = -(-min(size, len(members)) // multiple_of) * multiple_of
        for start in range(0, len(members), rows):
            yield encoded.batch(members[start : start + rows], rows, config.pad_token_id, limit)


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
