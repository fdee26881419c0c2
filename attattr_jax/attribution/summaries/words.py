"""Words made of word pieces: which pieces belong together, and what a word gets from them.

Attributions add up, so the attribution of a word is the sum over its pieces, and completeness still
holds. Attention is a distribution over the tokens attended to: it is summed over the pieces of the
word attended to and averaged over the pieces that attend (Clark et al., What Does BERT Look at?,
2019, section 4.1).

Shapes: T word pieces, W words.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def word_groups(row: Mapping[str, Any]) -> list[list[int]]:
    """Return the positions of each word's pieces, in order; a special token is a word of its own.

    Args:
      row: of `examples.jsonl`. One without `word_ids` is grouped by the `##` that WordPiece puts
        before what continues a word.
    """
    word_ids = row.get("word_ids")
    segments = row.get("token_type_ids") or [0] * len(row["tokens"])
    groups: list[list[int]] = []
    for position, token in enumerate(row["tokens"]):
        if word_ids is None:
            continues = position > 0 and token.startswith("##") and len(token) > 2
        else:
            # Words are counted from 0 in each segment.
            continues = (
                position > 0
                and word_ids[position] is not None
                and (word_ids[position], segments[position])
                == (word_ids[position - 1], segments[position - 1])
            )
        if continues:
            groups[-1].append(position)
        else:
            groups.append([position])
    return groups


def word_labels(row: Mapping[str, Any], groups: Sequence[Sequence[int]]) -> list[str]:
    """Return each word as the text has it, case and accents included.

    Special tokens are given by their names.
    """
    labels = []
    for group in groups:
        first, last = group[0], group[-1]
        text = (
            row["text_pair"]
            if row["token_type_ids"][first] and row.get("text_pair") is not None
            else row["text"]
        )
        start, end = row["offsets"][first][0], row["offsets"][last][1]
        # Tokenizers drop accents, vowel signs and joiners that are characters of their own: up to
        # the next token they are the word's.
        following = row["offsets"][last + 1][0] if last + 1 < len(row["offsets"]) else 0
        limit = min(following if following >= end else len(text), len(text))
        while start < end < limit and _continues_word(text[end]):
            end += 1
        # A piece that begins a word may have the space before it, as SentencePiece's "▁film".
        written = "" if row["special_tokens_mask"][first] else text[start:end].strip()
        labels.append(
            written or "".join(row["tokens"][position].removeprefix("##") for position in group)
        )
    return labels


def _continues_word(char: str) -> bool:
    """Return whether a character belongs to the one before it.

    So do marks, joiners, and the letters of a flag's tag.
    """
    return (
        unicodedata.category(char)[0] == "M"
        or char in "\u200c\u200d"
        or "\U000e0020" <= char <= "\U000e007f"
    )


def sum_over_pieces(values, groups: Sequence[Sequence[int]], axes: Sequence[int]) -> np.ndarray:
    """Sum along each of `axes`, of length T, over the pieces of every word: length W."""
    values = np.asarray(values)
    starts = [group[0] for group in groups]
    for axis in axes:
        values = np.add.reduceat(values, starts, axis=axis)
    return values


def attention_between_words(probs, groups: Sequence[Sequence[int]]) -> np.ndarray:
    """Return [..., W, W] of attention probabilities [..., T, T]; the sums of rows are kept."""
    sizes = np.asarray([len(group) for group in groups])
    return sum_over_pieces(probs, groups, axes=(-2, -1)) / sizes[:, None]
