"""`head_importance.json`, written and read, and the correlation of two of them.

Shapes: L layers, N heads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..attribution.summaries.reductions import top_heads
from ..errors import InputError
from ..runtime.files import read_json
from ..runtime.text import shortened
from .masks import checked_importance

LARGEST_IMPORTANCE = 1e30  # beyond, sums and pictures overflow


def correlate(first, second) -> dict[str, float]:
    """Compare two importances of the same heads, [L, N] each.

    Returns: `pearson` and `spearman` over all heads (NaN if one of them is constant), and
      `shared_top_heads`: how many of the `num_top_heads` (a quarter of all) most important heads of
      one are among those of the other.

    Raises:
      InputError: one is not a finite [L, N], or they differ in shape.
    """
    from scipy import stats

    first, second = checked_importance(first), checked_importance(second)
    if first.shape != second.shape:
        raise InputError(
            f"importances of {list(first.shape)} and {list(second.shape)} heads cannot be compared"
        )
    if min(np.ptp(first), np.ptp(second)) == 0:
        pearson = spearman = float("nan")
    else:
        pearson, spearman = (
            float(f(first.ravel(), second.ravel()).statistic)
            for f in (stats.pearsonr, stats.spearmanr)
        )
    count = max(1, first.size // 4)
    tops = [
        {(layer, head) for layer, head, _ in top_heads(values, count)} for values in (first, second)
    ]
    return {
        "pearson": pearson,
        "spearman": spearman,
        "shared_top_heads": len(tops[0] & tops[1]),
        "num_top_heads": count,
    }


def importance_record(
    measure: str,
    importance,
    model: str,
    target: str | None = None,
    example_hashes: Sequence[str] = (),
    layers: Sequence[int] | None = None,
    details: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the contents of `head_importance.json`.

    Args:
      measure: one of `importance.MEASURES`.
      importance: [L, N], of `layers` if these are not all.
      model: the classifier's fingerprint.
      target: the class explained.
      example_hashes: of the examples scored on, so that accuracy is not measured on them later.
      layers: the layers that were asked for, None if all.
      details: what else the measure knows of each head, [L, N] each.
    """
    record = {
        "measure": measure,
        "num_examples": len(example_hashes),
        "target": target,
        "model": model,
        "importance": np.asarray(importance).tolist(),
        "examples": list(example_hashes),
        **{name: np.asarray(values).tolist() for name, values in (details or {}).items()},
    }
    return record if layers is None else record | {"layers": list(layers)}


def read_importance(
    file: Path, shape: tuple[int, int] | None = None, model: str | None = None
) -> dict[str, Any]:
    """Return the contents of a `head_importance.json`, with `importance` as an array [L, N].

    Args:
      shape, model: what the model's are, if it must be of a certain one.

    Raises:
      InputError: it is damaged, covers only some layers, or is another model's.
    """
    try:
        record = read_json(file)
        found_model, measure, examples = (
            record["model"],
            record["measure"],
            record.get("examples", []),
        )
        importance = np.asarray(record["importance"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{file} is not a head_importance.json: {shortened(repr(error))}"
        ) from None
    if record.get("layers") is not None:
        raise InputError(
            f"{file} covers only layers {record['layers']!r:.80}: run attribute.py without --layers"
        )
    if importance.ndim != 2 or not importance.size or importance.dtype.kind not in "if":
        raise InputError(f"{file}: importance must be L lists of N numbers")
    if shape is not None and importance.shape != shape:
        raise InputError(
            f"{file}: importance must be {list(shape)}, as this model's heads, not"
            f" {list(importance.shape)}"
        )
    if not (np.abs(importance) <= LARGEST_IMPORTANCE).all():
        raise InputError(f"{file}: importance must be finite, and within ±{LARGEST_IMPORTANCE:g}")
    if not isinstance(measure, str) or not measure.isprintable() or len(measure) > 40:
        raise InputError(f"{file}: measure must be a short name, not {measure!r:.80}")
    if not isinstance(examples, list) or not all(isinstance(digest, str) for digest in examples):
        raise InputError(f"{file}: examples must be a list of hashes")
    if model is not None and found_model != model:
        other = (
            "another model (weights, configuration, class names or tokenizer), or by an earlier"
            " version"
        )
        raise InputError(
            f"{file} was computed for {other}: run attribute.py or prune.py on this one"
        )
    return record | {"importance": importance.astype(np.float64), "examples": examples}
