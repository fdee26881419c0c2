"""Attributions made smaller: maxima over tokens, sums over layers, strongest pairs and heads.

Shapes: B examples, T tokens (padded), L layers, N heads.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from ...errors import InputError
from ...models.types import Array


def max_over_real(values: Array, token_mask: Array) -> Array:
    """Return the maximum [B, ...] of `values` [B, ..., T, T] over pairs of real tokens.

    It is 0 without a real token; `token_mask` is bool [B, T].
    """
    pairs = token_mask[:, :, None] & token_mask[:, None, :]
    pairs = jnp.expand_dims(pairs, tuple(range(1, values.ndim - 2)))
    maxima = jnp.max(jnp.where(pairs, values, -jnp.inf), axis=(-2, -1))
    return jnp.where(jnp.any(pairs, axis=(-2, -1)), maxima, 0)


def sum_over_layers(attributions: Array) -> Array:
    """Sum over layers and heads and divide by the largest absolute value.

    This gives one table of token pairs per example.

    Args:
      attributions: [B, L, N, T, T].

    Returns:
      [B, T, T], in −1 … 1; all zeros stay zeros.

    Raises:
      InputError: they have another shape, as with reduce="head_max".
    """
    if np.ndim(attributions) != 5:
        raise InputError(
            f"attributions must be [B, L, N, T, T], not {list(np.shape(attributions))}"
        )
    total = jnp.asarray(attributions).sum(axis=(1, 2))
    largest = jnp.max(jnp.abs(total), axis=(1, 2), keepdims=True)
    return total / jnp.where(largest == 0, jnp.ones_like(largest), largest)


def strongest_pairs(
    matrix: np.ndarray, count: int, left_out: Sequence[int] | None = None
) -> list[tuple[int, int, float]]:
    """Return (from, to, value) of the entries with the largest absolute value, largest first.

    Args:
      matrix: row attends to column.
      count: how many.
      left_out: [T], 1 for tokens whose pairs are left out; they count where there are no others.
    """
    size = np.abs(matrix)
    out = np.zeros(len(matrix), bool) if left_out is None else np.asarray(left_out) != 0
    if not out.all():
        size = np.where(out[:, None] | out[None, :], -1.0, size)
    order = np.argsort(-size.ravel(), kind="stable")[:count]
    positions = [divmod(int(index), matrix.shape[1]) for index in order if size.ravel()[index] >= 0]
    return [(i, j, float(matrix[i, j])) for i, j in positions]


def top_heads(
    values, count: int, layers: Sequence[int] | None = None
) -> list[tuple[int, int, float]]:
    """Return (layer, head, value) of the largest of `values` [L, N], largest first.

    `layers` are the numbers of its rows.
    """
    values = np.asarray(values)
    order = np.argsort(-values.ravel(), kind="stable")[:count]
    rows, heads = np.unravel_index(order, values.shape)
    return [
        (int(row if layers is None else layers[row]), int(head), float(values[row, head]))
        for row, head in zip(rows, heads, strict=True)
    ]
