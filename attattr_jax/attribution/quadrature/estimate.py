"""How far an integral may be off, from values that its nodes have anyway.

Every node's forward pass gives F(α_j), every backward pass dF/dα there. What the rule makes of the
slopes between 0 and α_j should be F(α_j) − F(0); the largest difference over the nodes is `part`.
The convergence delta is that difference at α = 1 alone, where errors of both signs have often
cancelled.

`part` sees errors of the integral of one number, dF/dα. A second estimate, m, is about how the
attributions themselves would change with a node less, or have changed from the level before. It is
far too large where the rule is good, so it counts with min(m, max(m / 5, 20 m²)).

docs/quadrature.md derives and measures both.

Shapes: B examples, M nodes, J of them checked.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from ...models.types import Array
from ..objectives import Link

PART_FACTOR = 3.0
ROUNDINGS = 16  # of a float, that add up in z
# … where nothing is attributed: up to 39 were seen in logits that happen to be small.
ROUNDINGS_OF_NOTHING = 64


def largest_part(
    partials: Array, link: Link, smooth: Array, baseline: Array, delta: Array
) -> Array:
    """Return max |Σ partials − (F(α_j) − F(0))| [B], over checked nodes and α = 1.

    Args:
      partials: the rule's integrals of dF/dα from 0 to each checked node, [J, B].
      link: φ.
      smooth: z at these nodes, [J, B].
      baseline: z with no attention, [B].
      delta: that difference at α = 1, [B].
    """
    differences = partials - link.difference(smooth, baseline[None])
    return jnp.maximum(jnp.max(jnp.abs(differences), axis=0), jnp.abs(delta))


def rounding_of(logits: Array, slope: Array, dtype: Any) -> Array:
    """Return how large a part [B] may come from rounding alone.

    The error of a logit is in proportion to the largest of them; F passes on φ′ of it.

    Args:
      logits: [B, C].
      slope: the largest φ′(z) on the path, [B].
      dtype: what the model is computed in.
    """
    largest = jnp.max(jnp.abs(logits), axis=-1)
    return ROUNDINGS * jnp.finfo(dtype).eps * largest * slope


def relative_error(part: Array, change: Array | None, magnitude: Array, rounding: Array) -> Array:
    """Return the estimate of Σ|error| / Σ|attributions|, [B].

    Where `part` is no more than rounding and nothing is attributed, it is 0.

    Args:
      part: as from `largest_part`.
      change: Σ|change| by which the second estimate goes, [B]; None: there is none.
      magnitude: Σ|attributions|, [B].
      rounding: as from `rounding_of`.
    """
    is_zero = magnitude == 0
    rounding = jnp.where(is_zero, rounding * (ROUNDINGS_OF_NOTHING / ROUNDINGS), rounding)
    part = jnp.where(part <= rounding, 0, part)
    scale = jnp.where(is_zero, 1, magnitude)
    estimate = jnp.where(is_zero & (part > 0), jnp.inf, PART_FACTOR * part / scale)
    if change is None:
        return estimate
    return jnp.maximum(estimate, guarded(change / scale))


def guarded(change: Array) -> Array:
    """Return min(m, max(m / 5, 20 m²)) of a relative change m."""
    return jnp.minimum(change, jnp.maximum(0.2 * change, 20 * change**2))
