"""Explanations as data frames."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from .example import Example, single_output

if TYPE_CHECKING:
    import pandas as pd

KINDS = ("texts", "tokens", "pairs", "heads")


def data_frame(examples: Iterable[Example], kind: str = "texts") -> pd.DataFrame:
    """Return explanations as a `pandas.DataFrame`.

    Args:
      examples: with what they have of arrays.
      kind: what a row is; see `Explanations.to_pandas`.

    Raises:
      InputError: there is no such kind.
    """
    import pandas as pd

    if kind not in KINDS:
        raise InputError(f"kind must be one of {', '.join(KINDS)}, not {kind!r:.80}")
    rows_of = {"texts": _text_row, "tokens": _tokens, "pairs": _pairs, "heads": _heads}[kind]
    return pd.DataFrame([row for example in examples for row in rows_of(example)])


def _text_row(example: Example) -> Iterator[dict[str, Any]]:
    row, output = example.row, single_output(example.row)
    deltas, errors = example.relative_deltas, example.relative_errors
    says = (
        {"predicted": row["predicted"], "probability": row["probabilities"][row["predicted"]]}
        if output is None
        else {"output": output}
    )
    for name in ("labels", "predicted_labels", "contrast"):
        if row.get(name) is not None:
            says |= {name: row[name]}
    names = ("text", "text_pair", "label")
    yield {
        "example": row["index"],
        **{name: row[name] for name in names},
        **says,
        "target": row["target"],
        "score": row["score"],
        "num_tokens": len(row["tokens"]),
        "largest_relative_delta": max(deltas) if deltas else np.nan,
        "largest_error_estimate": max(errors) if errors else np.nan,
    }


def _tokens(example: Example) -> Iterator[dict[str, Any]]:
    row = example.row
    values = row["token_attributions"]
    for position, token in enumerate(row["tokens"]):
        yield {
            "example": row["index"],
            "position": position,
            "token": token,
            "is_special": row["special_tokens_mask"][position] != 0,
            "attribution": np.nan if values is None else values[position],
        }


def _pairs(example: Example) -> Iterator[dict[str, Any]]:
    row, names = example.row, example.array_names
    attention = None
    if "attention_probs" in names:
        attention = example.attention_probs.mean(axis=(0, 1), dtype=np.float64)
    if "token_pairs" in names:
        total = example.array("token_pairs")
        entries = [(*place, float(value)) for place, value in np.ndenumerate(total)]
    else:
        scale = row["token_pairs_scale"]
        entries = [
            (pair["from"], pair["to"], pair["attribution"] * scale) for pair in row["token_pairs"]
        ]
    for reader, source, value in sorted(entries, key=lambda entry: -abs(entry[2])):
        yield {
            "example": row["index"],
            "from": reader,
            "to": source,
            "from_token": row["tokens"][reader],
            "to_token": row["tokens"][source],
            "attribution": value,
            **({} if attention is None else {"attention": float(attention[reader, source])}),
        }


def _heads(example: Example) -> Iterator[dict[str, Any]]:
    row = example.row
    if "head_importance" in row:
        by_layer = row["head_importance"]
        heads = [
            (layer, head, value)
            for layer, values in zip(row["layers"], by_layer, strict=True)
            for head, value in enumerate(values)
        ]
    else:  # of an earlier version: the largest alone
        heads = [(head["layer"], head["head"], head["importance"]) for head in row["heads"]]
    for layer, head, value in heads:
        yield {"example": row["index"], "layer": layer, "head": head, "importance": value}
