"""Which heads to keep: rankings and masks, as pure functions on arrays.

Shapes: L layers, N heads. A mask is [L, N], 1 keeps a head.
"""

from __future__ import annotations

import numbers

import numpy as np

from ..errors import InputError, as_index


def random_importance(num_layers: int, num_heads: int, seed: int) -> np.ndarray:
    """Return a random ranking of the heads, [L, N]: the control that every measure must beat."""
    ranks = np.random.default_rng(seed).permutation(num_layers * num_heads)
    return ranks.reshape(num_layers, num_heads) / ranks.size


def rank_absent_last(importance, present) -> np.ndarray:
    """Return an importance in which removed heads rank below all remaining heads.

    float64 [L, N]; `present` is 0 for a removed head.
    """
    importance = np.asarray(importance, np.float64)
    return np.where(np.asarray(present) != 0, importance, np.nextafter(importance.min(), -np.inf))


def keep_top_heads(importance, per_layer: int = 3, present=None) -> np.ndarray:
    """Return the mask int32 [L, N] that keeps the most important heads of every layer.

    Of equals, the lower number is kept.

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
    """Return the mask int32 [L, N] without the least important heads of all layers.

    int(fraction·L·N) heads are removed; of equals, the lower number.

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
    """Return int(fraction·num_heads) of the exact product: 0.7 of 90 are 63."""
    return int(round(fraction * num_heads, 9))


def listed_integers(text: str) -> list[int]:
    """Return the layers or heads of a list such as 0,4,5.

    A ValueError if one is not written in digits alone.
    """
    parts = [part.strip() for part in text.split(",")]
    # Int() reads 1_0 as 10
    if not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        raise ValueError(text)
    return [int(part) for part in parts]


def remove_listed_heads(listed: str, num_layers: int, num_heads: int) -> np.ndarray:
    """Return the mask int32 [L, N] without the heads written as `0:1,2;3:4`.

    That is heads 1 and 2 of layer 0, and head 4 of layer 3.

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


def _checked_ranking(importance, present) -> tuple[np.ndarray, np.ndarray]:
    """Return an importance in which removed heads rank last, and the mask of the others.

    The mask is int32 [L, N].
    """
    importance = checked_importance(importance)
    present = np.ones(importance.shape, np.int32) if present is None else np.asarray(present)
    if present.shape != importance.shape or not np.isin(present, (0, 1)).all():
        raise InputError(
            f"present must be 0 or 1 for each head, {list(importance.shape)}, as"
            " present_heads(config) gives it"
        )
    return rank_absent_last(importance, present), present.astype(np.int32)


def checked_importance(importance) -> np.ndarray:
    """Return an importance as finite float64 [L, N], or raise an InputError."""
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
