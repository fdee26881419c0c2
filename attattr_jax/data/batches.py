"""Tokenized splits and their batches, padded to a few lengths so that few programs are compiled.

Shapes: B examples, T tokens (padded).
"""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from ..errors import InputError
from ..models.classifier import Classifier
from ..models.config import EncoderConfig
from ..runtime import processes, sharding
from ..runtime.files import json_digest
from .splits import Split

# Batches are padded to the next of these, and each length is compiled once.
BUCKETS = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
# Attribution, of which a token costs much more, also pads to these. Training does not: padding
# changes what is drawn for dropout.
SHORT_BUCKETS = (4, 8, 12)


@dataclasses.dataclass(frozen=True)
class Batch:
    """Rows of one bucket, padded to its length and, with weight 0, to the full number of rows."""

    # Input_ids, attention_mask, token_type_ids, special_tokens_mask: int32 [B, T]
    inputs: dict[str, np.ndarray]
    labels: np.ndarray  # int32 or float32 [B], or int32 [B, C]; 0 where there is none
    weights: np.ndarray  # float32 [B], 1 for an example, 0 for filling
    indices: np.ndarray  # int [B], the example's position in the split, −1 for filling


@dataclasses.dataclass(frozen=True)
class Window:
    """A part of a text that is longer than the model reads."""

    text: int  # which text, by its position in the split
    number: int  # which of its windows, from 0
    count: int  # how many it has


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
    # What `gold.gold_labels` returns, [examples] or [examples, C]; −1 without a gold label
    labels: np.ndarray | None
    cut_tokens: Sequence[int] = ()  # how many were cut off each example
    # Which text of a pair each token is of, 0 or 1, for models without segments; empty: as
    # token_type_ids say.
    text_ids: Sequence[list[int]] = ()
    windows: Sequence[Window] = ()  # of each example, if these are windows of longer texts

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

    def segments_of(self, index: int) -> list[int]:
        """Return for each token of an example which text of a pair it is of, 0 or 1."""
        return self.text_ids[index] if self.text_ids else self.token_type_ids[index]

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """The number of tokens of each example."""
        return np.asarray([len(ids) for ids in self.input_ids])

    def fingerprint(self, indices: Sequence[int]) -> str:
        """Return 16 hexadecimal digits that identify a batch of these examples.

        They depend on tokens, segments and labels, in order.
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
        self,
        indices: Sequence[int],
        num_rows: int,
        pad_token_id: int,
        max_length: int,
        buckets: Sequence[int] = BUCKETS,
    ) -> Batch:
        """Return these examples as a batch of `num_rows` rows."""
        length = bucket_length(max(self.lengths[index] for index in indices), max_length, buckets)

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
            else _without_marks(self.labels[list(indices)])
        )
        return Batch(
            inputs,
            np.pad(labels, [(0, filling)] + [(0, 0)] * (labels.ndim - 1)),
            np.pad(np.ones(len(indices), np.float32), (0, filling)),
            np.pad(np.asarray(indices), (0, filling), constant_values=-1),
        )


def _without_marks(labels: np.ndarray) -> np.ndarray:
    """Return labels with 0 for −1, which marks the absence of a class; numbers stay."""
    return labels if np.issubdtype(labels.dtype, np.floating) else np.maximum(labels, 0)


def encode(
    classifier: Classifier, split: Split, max_length: int, labels: np.ndarray | None = None
) -> Encoded:
    """Tokenize a split, truncating to `max_length` tokens; the result counts what was cut.

    Raises:
      InputError: the classifier has no tokenizer, no second segment for pairs, or `max_length`
        leaves no room for text.
    """
    tokenizer = classifier.require_tokenizer()
    _check_lengths(classifier, split, max_length)
    encoded = _tokenized(tokenizer, split, truncation=False)
    too_long = [index for index, ids in enumerate(encoded["input_ids"]) if len(ids) > max_length]
    _check_not_empty(split, encoded)
    cut_tokens = [max(0, len(ids) - max_length) for ids in encoded["input_ids"]]
    if too_long:
        short = _tokenized(
            tokenizer, split.select(too_long), truncation=True, max_length=max_length
        )
        for row, index in enumerate(too_long):
            for name in encoded:
                encoded[name][index] = short[name][row]
    return _as_encoded(classifier, encoded, labels, cut_tokens)


def encode_windows(
    classifier: Classifier,
    split: Split,
    max_length: int,
    overlap: int,
    labels: np.ndarray | None = None,
) -> tuple[Split, Encoded]:
    """Tokenize a split, with longer texts as windows of `max_length` tokens that overlap.

    Args:
      overlap: tokens that a window shares with the one before it, without special tokens; the
        tokenizers' `stride`.
      Others: as for `encode`.

    Returns:
      a split with an example for each window, in order, and the same tokenized.

    Raises:
      InputError: as `encode`; or these are pairs, the tokenizer knows no windows, or the overlap
        leaves no room for new tokens.
    """
    tokenizer = classifier.require_tokenizer()
    _check_lengths(classifier, split, max_length)
    if split.text_pairs is not None or not tokenizer.is_fast:
        what = "sentence pairs" if split.text_pairs is not None else "a tokenizer in Python"
        raise InputError(f"stride is for single texts and a fast tokenizer, not for {what}")
    room = max_length - tokenizer.num_special_tokens_to_add()
    if not 0 <= overlap < room:
        raise InputError(
            f"stride, the tokens that two windows share, must be from 0 to below {room}, not"
            f" {overlap}"
        )
    encoded = _tokenized(
        tokenizer,
        split,
        truncation=True,
        max_length=max_length,
        stride=overlap,
        return_overflowing_tokens=True,
    )
    of_texts = encoded["overflow_to_sample_mapping"]
    counts = collections.Counter(of_texts)
    numbers: collections.Counter[int] = collections.Counter()
    windows = []
    for text in of_texts:
        windows.append(Window(text, numbers[text], counts[text]))
        numbers[text] += 1
    windowed = split.select(of_texts)
    _check_not_empty(windowed, encoded)
    labels = None if labels is None else labels[of_texts]
    no_cuts = [0] * len(windows)
    return windowed, _as_encoded(classifier, encoded, labels, no_cuts, windows)


def _check_lengths(classifier: Classifier, split: Split, max_length: int) -> None:
    """Raise an InputError unless the model can read such texts, at such a length."""
    tokenizer, config = classifier.require_tokenizer(), classifier.config
    if split.text_pairs is not None and not config.reads_pairs:
        raise InputError(
            f"{classifier.name} has one segment (type_vocab_size 1): it cannot read the pairs of"
            f" {split.source}"
        )
    room = tokenizer.num_special_tokens_to_add(pair=split.text_pairs is not None)
    if not room < max_length <= config.max_length:
        raise InputError(
            f"--max_seq_length must be more than {room} and at most"
            f" {config.max_length}, the model's, not {max_length}"
        )


def _check_not_empty(split: Split, encoded: dict[str, list]) -> None:
    """Raise an InputError for a text of which no token is left; names it."""
    for index, special in enumerate(encoded["special_tokens_mask"]):
        if all(special):
            raise InputError(
                f"{split.row(index)}: no token is left of {split.texts[index]!r:.80}; give a text"
            )


def _as_encoded(
    classifier: Classifier,
    encoded: dict[str, list],
    labels: np.ndarray | None,
    cut_tokens: list[int],
    windows: Sequence[Window] = (),
) -> Encoded:
    """Return what the tokenizer says as `Encoded`."""
    config, text_ids = classifier.config, ()
    if config.num_segments == 1 and config.reads_pairs:  # the model itself has no segments
        text_ids = encoded["text_ids"]
        encoded["token_type_ids"] = [[0] * len(ids) for ids in encoded["input_ids"]]
    return Encoded(
        encoded["input_ids"],
        encoded["token_type_ids"],
        encoded["special_tokens_mask"],
        encoded["offset_mapping"],
        encoded["word_ids"],
        labels,
        cut_tokens,
        text_ids,
        windows,
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
        indices = range(len(encoded["input_ids"]))
        return {
            **encoded,
            "word_ids": [encoded.word_ids(index) for index in indices],
            "text_ids": [_text_ids(encoded.sequence_ids(index)) for index in indices],
        }
    return {
        **encoded,
        "offset_mapping": [[(0, 0)] * len(ids) for ids in encoded["input_ids"]],
        "word_ids": [None] * len(split),
        "text_ids": encoded["token_type_ids"],
    }


def _text_ids(sequence_ids: Sequence[int | None]) -> list[int]:
    """Return which text each token is of; a special token is of the text before it."""
    text_ids, current = [], 0
    for sequence_id in sequence_ids:
        current = current if sequence_id is None else sequence_id
        text_ids.append(current)
    return text_ids


def data_fingerprint(split: Split, encoded: Encoded) -> str:
    """Return a SHA-256 of a split's texts and of its labels as class indices, in order."""
    labels = None if encoded.labels is None else np.asarray(encoded.labels).tolist()
    return json_digest([split.fingerprint(), labels])


def bucket_length(length: int, max_length: int, buckets: Sequence[int] = BUCKETS) -> int:
    """Return the padded length for `length` tokens: the next bucket, at most `max_length`."""
    return min(next((bucket for bucket in buckets if bucket >= length), max_length), max_length)


def inference_batches(
    encoded: Encoded,
    config: EncoderConfig,
    batch_size: int | Callable[[int], int],
    mesh: jax.sharding.Mesh | None = None,
    done: Container[int] = (),
    buckets: Sequence[int] = BUCKETS,
) -> Iterator[Batch]:
    """Yield every example once, bucket by bucket, shortest first.

    Each padded length is compiled for one number of rows. Of several processes that do not work on
    each batch together, each gets its share of the batches. Which examples make a batch depends on
    the devices and processes alone, not on what is done already.

    Args:
      encoded: the tokenized split.
      config: for the padding token and the longest length.
      batch_size: rows at once, or a function that returns the rows per device for a padded length.
      mesh: the devices; the number of rows is rounded up to a multiple of theirs.
      done: examples that need not be computed; batches of nothing else are left out.
      buckets: the padded lengths, ascending.
    """
    limit = config.max_length
    num_devices, num_shares = (1, 1) if mesh is None else (mesh.size, sharding.num_shares(mesh))
    padded = np.asarray([bucket_length(length, limit, buckets) for length in encoded.lengths])
    planned = []
    for bucket in np.unique(padded):
        members = np.flatnonzero(padded == bucket)
        size = batch_size(int(bucket)) * num_devices if callable(batch_size) else batch_size
        rows = -(-min(size, -(-len(members) // num_shares)) // num_devices) * num_devices
        batches = (members[start : start + rows] for start in range(0, len(members), rows))
        planned += [
            (batch, rows) for batch in batches if not all(int(index) in done for index in batch)
        ]
    for batch, rows in planned if mesh is None else sharding.share_of(planned, mesh):
        processes.check_interrupted()
        yield encoded.batch(batch, rows, config.pad_token_id, limit, buckets)


def shuffled_batches(
    lengths: np.ndarray, batch_size: int, seed: int, epoch: int
) -> Iterator[np.ndarray]:
    """Yield the indices of the batches of one training epoch.

    The order is random and depends on seed and epoch alone; similar lengths come together. As
    `group_by_length` of the Hugging Face trainer: the shuffled examples are sorted within stretches
    of 50 batches, and the batches are then shuffled.
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
