"""In what order heads are removed, and the accuracy along that order.

Shapes: L layers, N heads, M masks. A mask is [L, N], 1 keeps a head; an order is [L·N], the numbers
layer·N + head of all heads, the first to remove first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .masks import num_to_prune, rank_absent_last

CURVE_FRACTIONS = tuple(tenth / 10 for tenth in range(11))
REMOVABLE_LOSS = 0.01  # of accuracy: "removable within one point"


def removal_order(
    importance,
    present: np.ndarray,
    score_again: Callable[[np.ndarray], np.ndarray] | None = None,
    heads_per_round: int | None = None,
    num_heads: int | None = None,
) -> np.ndarray:
    """Return the order in which heads are removed, [L·N].

    First come heads that the model does not have, then the least important; of equals, the lower
    number.

    Args:
      importance: [L, N].
      present: [L, N], the heads that the model has.
      score_again: mask -> importance [L, N] of the model under it: iterative pruning.
      heads_per_round: how many heads go before those that are left are ranked again.
      num_heads: how many heads are to be removed at most: no more rounds than that needs.
    """
    mask = np.asarray(present).copy()
    order = np.flatnonzero(mask.ravel() == 0).tolist()
    while mask.any():
        ranked = np.argsort(rank_absent_last(importance, mask).ravel(), kind="stable")
        ranked = ranked[mask.size - mask.sum() :]  # without those that are removed already
        wanted = mask.size if num_heads is None else num_heads
        if score_again is None or heads_per_round is None or len(order) + heads_per_round >= wanted:
            order += ranked.tolist()
            break
        removed = ranked[:heads_per_round]
        order += removed.tolist()
        mask.ravel()[removed] = 0
        importance = score_again(mask)
    return np.asarray(order)


def masks_along(order: np.ndarray, counts: Sequence[int], present: np.ndarray) -> np.ndarray:
    """Return the masks int32 [M, L, N] without the first `counts` [M] heads of an order."""
    masks = np.repeat(present[None], len(counts), axis=0)
    for mask, count in zip(masks, counts, strict=True):
        mask.ravel()[order[:count]] = 0
    return masks


def curve_masks(order: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Return the masks [M, L, N] of the points of a curve.

    At each, one of `CURVE_FRACTIONS` of all heads is removed.
    """
    return masks_along(
        order, [num_to_prune(fraction, present.size) for fraction in CURVE_FRACTIONS], present
    )


def curve_record(
    measure: str, seed: int | None, masks: np.ndarray, metrics: Sequence[dict[str, float]]
) -> dict[str, Any]:
    """Return a curve as `pruning.json` has it.

    Args:
      measure, seed: what ranked the heads.
      masks: [M, L, N], from `curve_masks`.
      metrics: those under each.

    Returns:
      `measure`, `seed`, `points` of `fraction`, `num_pruned` and the metrics, `area_under_curve`:
        the mean accuracy over the fractions by
      the trapezoidal rule, `removable_within_1_point`: the heads gone at the last point before
      accuracy is more than 0.01 below the first point's.
    """
    points = [
        {"fraction": fraction, "num_pruned": int((mask == 0).sum()), **values}
        for fraction, mask, values in zip(CURVE_FRACTIONS, masks, metrics, strict=True)
    ]
    accuracies = [point["accuracy"] for point in points]
    return {
        "measure": measure,
        "seed": seed,
        "area_under_curve": float(np.trapezoid(accuracies, CURVE_FRACTIONS)),
        "removable_within_1_point": points[last_above(accuracies, accuracies[0] - REMOVABLE_LOSS)][
            "num_pruned"
        ],
        "points": points,
    }


def last_above(accuracies: Sequence[float], floor: float) -> int:
    """Return the index of the last of `accuracies` before the first that is below `floor`.

    −1 if the first of all is below it.
    """
    below = np.flatnonzero(np.asarray(accuracies) < floor - 1e-9)
    return int(below[0]) - 1 if below.size else len(accuracies) - 1
