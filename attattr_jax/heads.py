"""Which heads matter, and which to keep: importance and masks, as pure functions on arrays.

Shapes: B examples, T tokens (padded), L layers, N heads. A mask is [L, N], 1 keeps a head.
"""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .config import BertConfig
from .engine import max_over_real
from .errors import InputError, as_index
from .files import read_json
from .tokens import shortened

LARGEST_IMPORTANCE = 1e30  # beyond, sums and pictures overflow


def head_importance(attributions: jax.Array, attention_mask: jax.Array) -> jax.Array:
    """Return each head's importance I_h = E_x[max(Attr_h)] (paper, equation 4): the mean over
    examples of the signed maximum.

    Args:
      attributions: [B, L, N, T, T].
      attention_mask: [B, T]; the maximum skips padding, which would otherwise give an all-negative
        head 0. Rows that are all padding do not count.

    Returns:
      [L, N], in units of the model's output.

    Raises:
      InputError: the shapes do not fit, or there is no example. (A mask in a JAX array is not
        looked at: without an example the importance is NaN.)
    """
    shape, mask_shape = np.shape(attributions), np.shape(attention_mask)
    if len(shape) != 5 or mask_shape != (shape[0], shape[-1]) or shape[-1] != shape[-2]:
        raise InputError(
            f"attributions must be [B, L, N, T, T] and attention_mask [B, T], not {list(shape)} and"
            f" {list(mask_shape)}"
        )
    if not isinstance(attention_mask, jax.Array) and not np.any(attention_mask):
        raise InputError("attention_mask is 0 everywhere: there is no example to take the mean of")
    real = jnp.asarray(attention_mask) != 0
    is_example = jnp.any(real, axis=1)
    maxima = jnp.where(is_example[:, None, None], max_over_real(jnp.asarray(attributions), real), 0)
    return jnp.sum(maxima, axis=0) / jnp.sum(is_example).astype(maxima.dtype)


def present_heads(config: BertConfig) -> np.ndarray:
    """Return the mask int32 [L, N] of the heads that a model has."""
    mask = np.zeros((config.num_hidden_layers, config.num_attention_heads), np.int32)
    for layer, row in enumerate(mask):
        row[list(config.heads_of(layer))] = 1
    return mask


def random_importance(num_layers: int, num_heads: int, seed: int) -> np.ndarray:
    """Return a random ranking of the heads, [L, N]: the control that every measure must beat."""
    ranks = np.random.default_rng(seed).permutation(num_layers * num_heads)
    return ranks.reshape(num_layers, num_heads) / ranks.size


def rank_absent_last(importance, present) -> np.ndarray:
    """Return an importance float64 [L, N] in which the heads that a model lacks (`present` 0) rank
    below all that it has.
    """
    importance = np.asarray(importance, np.float64)
    return np.where(np.asarray(present) != 0, importance, np.nextafter(importance.min(), -np.inf))


def keep_top_heads(importance, per_layer: int = 3, present=None) -> np.ndarray:
    """Return the mask int32 [L, N] that keeps the most important heads of every layer; of equals,
    the lower number.

    Args:
      importance: [L, N].
      per_layer: how many heads to keep; a layer that has fewer keeps those.
      present: 0/1 [L, N], the heads that the model has, as `present_heads(config)` says; None: all.
        Heads that were removed before have attribution 0, which may be the largest of their layer:
        without `present` they may be kept, and heads of the model go instead.

    Raises:
      InputError: `importance` is not a finite [L, N], `present` not 0/1 [L, N], or `per_layer` not
        an integer from 0 to N.
    """
    importance, present = _checked_ranking(importance, present)
    num_heads = importance.shape[1]
    count = as_index(per_layer)
    if count not in range(num_heads + 1):
        raise InputError(
            f"heads to keep per layer must be 0 to {num_heads}, the number of heads, not"
            f" {per_layer!r:.80} (per_layer)"
        )
    mask = np.zeros(importance.shape, np.int32)
    order = np.argsort(-importance, axis=1, kind="stable")
    np.put_along_axis(mask, order[:, :count], 1, axis=1)
    return mask * present


def prune_lowest_heads(importance, fraction: float, present=None) -> np.ndarray:
    """Return the mask int32 [L, N] without the int(fraction·L·N) least important heads of all
    layers; of equals, the lower number goes.

    Args:
      importance: [L, N].
      fraction: of all L·N heads. Heads that were removed before count as the first to go.
      present: as for `keep_top_heads`.

    Raises:
      InputError: `importance` is not a finite [L, N], `present` not 0/1 [L, N], or `fraction` not a
        number from 0 to 1.
    """
    importance, present = _checked_ranking(importance, present)
    is_number = isinstance(fraction, numbers.Real) and not isinstance(fraction, bool)
    if not (is_number and 0 <= fraction <= 1):
        raise InputError(
            f"the fraction of heads to prune must be from 0 to 1, not {fraction!r:.80}"
        )
    mask = np.ones(importance.size, np.int32)
    mask[
        np.argsort(importance.ravel(), kind="stable")[: num_to_prune(fraction, importance.size)]
    ] = 0
    return mask.reshape(importance.shape) * present


def num_to_prune(fraction: float, num_heads: int) -> int:
    """Return int(fraction·num_heads), as the product is and not as it is rounded: 0.7 of 90 are
    63.
    """
    return int(round(fraction * num_heads, 9))


def listed_integers(text: str) -> list[int]:
    """Return the layers or heads of a list such as 0,4,5; a ValueError if one is not written in
    digits alone.
    """
    parts = [part.strip() for part in text.split(",")]
    # Int() reads 1_0 as 10
    if not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        raise ValueError(text)
    return [int(part) for part in parts]


def remove_listed_heads(listed: str, num_layers: int, num_heads: int) -> np.ndarray:
    """Return the mask int32 [L, N] without the heads written as `0:1,2;3:4`: heads 1 and 2 of layer
    0, head 4 of layer 3.

    Raises:
      InputError: it cannot be read, or a layer or head does not exist.
    """
    mask = np.ones((num_layers, num_heads), np.int32)
    for part in listed.split(";"):
        layer, _, heads = part.partition(":")
        try:
            (layer,), heads = listed_integers(layer), listed_integers(heads)
        except ValueError:
            raise InputError(
                f"{part!r} is not of the form layer:head,head as in 0:1,2;3:4"
            ) from None
        if layer not in range(num_layers):
            raise InputError(
                f"layer {layer} does not exist: the model has layers 0 to {num_layers - 1}"
            )
        for head in heads:
            if head not in range(num_heads):
                raise InputError(
                    f"head {head} of layer {layer} does not exist: the model has heads 0 to"
                    f" {num_heads - 1}"
                )
            mask[layer, head] = 0
    return mask


def listed_heads(mask: np.ndarray, keep: int) -> list[list[int]]:
    """Return the heads whose mask is `keep`, a list for each layer."""
    return [[int(head) for head in np.flatnonzero(row == keep)] for row in mask]


def top_heads(
    values, count: int, layers: Sequence[int] | None = None
) -> list[tuple[int, int, float]]:
    """Return (layer, head, value) of the largest of `values` [L, N], largest first; `layers` are
    the numbers of its rows.
    """
    values = np.asarray(values)
    order = np.argsort(-values.ravel(), kind="stable")[:count]
    rows, heads = np.unravel_index(order, values.shape)
    return [
        (int(row if layers is None else layers[row]), int(head), float(values[row, head]))
        for row, head in zip(rows, heads, strict=True)
    ]


def correlate(first, second) -> dict[str, float]:
    """Compare two importances of the same heads, [L, N] each.

    Returns: `pearson` and `spearman` over all heads (NaN if one of them is constant), and
      `shared_top_heads`: how many of the `num_top_heads` (a quarter of all) most important heads of
      one are among those of the other.

    Raises:
      InputError: one is not a finite [L, N], or they differ in shape.
    """
    from scipy import stats  # half a second that only this needs

    first, second = _checked_importance(first), _checked_importance(second)
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


def _checked_ranking(importance, present) -> tuple[np.ndarray, np.ndarray]:
    """Return an importance in which absent heads rank last, and the mask int32 [L, N] of those that
    are there.
    """
    importance = _checked_importance(importance)
    present = np.ones(importance.shape, np.int32) if present is None else np.asarray(present)
    if present.shape != importance.shape or not np.isin(present, (0, 1)).all():
        raise InputError(
            f"present must be 0 or 1 for each head, {list(importance.shape)}, as"
            " present_heads(config) gives it"
        )
    return rank_absent_last(importance, present), present.astype(np.int32)


def _checked_importance(importance) -> np.ndarray:
    try:
        array = np.asarray(importance, np.float64)
    except (TypeError, ValueError):  # rows of different lengths, or no numbers
        array = np.zeros(0)
    if array.ndim != 2 or not array.size:
        raise InputError(
            f"importance must be [L, N], numbers, not of shape {list(np.shape(array))}"
        )
    if not np.isfinite(array).all():
        raise InputError("importance has values that are not finite")
    return array


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
