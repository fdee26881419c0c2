"""Head pruning: which examples to score and to evaluate on, in what order heads go, accuracy
curves, physically smaller models.

Shapes: L layers, N heads, M masks. A mask is [L, N], 1 keeps a head; an order is [L·N], the numbers
layer·N + head of all heads, the first to remove first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from ..data.splits import Split
from ..errors import InputError
from ..models.classifier import Classifier
from ..models.head_masks import select_heads, static_mask
from .masks import num_to_prune, rank_absent_last

CURVE_FRACTIONS = tuple(tenth / 10 for tenth in range(11))
REMOVABLE_LOSS = 0.01  # of accuracy: "removable within one point"


def disjoint(scoring: Split, evaluated: Split, num_scoring: int, seed: int) -> tuple[Split, Split]:
    """Return the examples to score on, drawn at random, and those to evaluate on, without any text
    that is scored on.

    Raises:
      InputError: nothing would be left to evaluate on.
    """
    drawn = np.random.default_rng(seed).permutation(len(scoring))[:num_scoring]
    scored = scoring.select(np.sort(drawn))
    return scored, without(evaluated, scored.example_hashes())


def without(evaluated: Split, hashes: Sequence[str]) -> Split:
    """Return the split without the examples that have one of these hashes (`Split.example_hashes`).

    Raises:
      InputError: none is left.
    """
    known = set(hashes)
    left = [index for index, digest in enumerate(evaluated.example_hashes()) if digest not in known]
    if not left:
        raise InputError(
            f"every example of {evaluated.source} was scored on: score on fewer, or evaluate on"
            " more or others (--eval_split)"
        )
    return evaluated.select(left)


def removal_order(
    importance,
    present: np.ndarray,
    score_again: Callable[[np.ndarray], np.ndarray] | None = None,
    heads_per_round: int | None = None,
    num_heads: int | None = None,
) -> np.ndarray:
    """Return the order in which heads go, [L·N]: those that are not there, then the least
    important; of equals, the lower number.

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
        ranked = np.argsort(rank_absent_last(importance, mask).ravel(), kind="stable")[
            mask.size - mask.sum() :
        ]
        is_last = score_again is None or len(order) + heads_per_round >= (
            mask.size if num_heads is None else num_heads
        )
        gone = ranked if is_last else ranked[:heads_per_round]
        order += gone.tolist()
        mask.ravel()[gone] = 0
        if not is_last:
            importance = score_again(mask)
    return np.asarray(order)


def masks_along(order: np.ndarray, counts: Sequence[int], present: np.ndarray) -> np.ndarray:
    """Return the masks int32 [M, L, N] without the first `counts` [M] heads of an order."""
    masks = np.repeat(present[None], len(counts), axis=0)
    for mask, count in zip(masks, counts, strict=True):
        mask.ravel()[order[:count]] = 0
    return masks


def curve_masks(order: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Return the masks [M, L, N] of the points of a curve: `CURVE_FRACTIONS` of all heads
    removed.
    """
    return masks_along(
        order, [num_to_prune(fraction, present.size) for fraction in CURVE_FRACTIONS], present
    )


def curve_record(
    measure: str, seed: int | None, masks: np.ndarray, found: Sequence[dict[str, float]]
) -> dict[str, Any]:
    """Return a curve as `pruning.json` has it.

    Args:
      measure, seed: what ranked the heads.
      masks: [M, L, N], from `curve_masks`.
      found: the metrics under each.

    Returns:
      `measure`, `seed`, `points` of `fraction`, `num_pruned` and the metrics, `area_under_curve`:
        the mean accuracy over the fractions by
      the trapezoidal rule, `removable_within_1_point`: the heads gone at the last point before
      accuracy is more than 0.01 below the first point's.
    """
    points = [
        {"fraction": fraction, "num_pruned": int((mask == 0).sum()), **values}
        for fraction, mask, values in zip(CURVE_FRACTIONS, masks, found, strict=True)
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
    """Return the index of the last of `accuracies` before the first that is below `floor`; −1 if
    that is the first of all.
    """
    below = np.flatnonzero(np.asarray(accuracies) < floor - 1e-9)
    return int(below[0]) - 1 if below.size else len(accuracies) - 1


def remove_heads(classifier: Classifier, mask) -> Classifier:
    """Return the physically smaller model without the heads whose mask is 0: same logits as under
    the mask.

    Their rows of query, key and value and their columns of the attention output are cut out; a
    layer without any head left still adds that output's bias. `config.kept_heads` keeps account, in
    the numbering of the whole model.

    Looks at values: `mask` cannot be traced.

    Args:
      classifier: the model, some of whose heads may be gone already.
      mask: 0/1 [L, N].

    Raises:
      InputError: the mask is not [L, N], or has other values.
    """
    mask = static_mask("mask", mask, classifier.config)
    if not np.isin(mask, (0, 1)).all():
        raise InputError("mask must be of 0 and 1: a head is removed or kept")
    params, smaller = select_heads(
        jax.tree.map(np.asarray, classifier.params), classifier.config, mask
    )
    return dataclasses.replace(classifier, params=params, config=smaller)
