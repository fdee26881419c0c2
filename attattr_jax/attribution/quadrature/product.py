"""Product integration: the function at the end of the model is integrated in closed form.

F = φ(z), and ∂F/∂mix = φ′(z) h with h = ∂z/∂mix. φ is known (a sigmoid, say) and much of what makes
∂F/∂mix rough; h is smooth. So h is interpolated between the nodes, and φ′(z) is not: with ℓ_k the
Lagrange basis of the nodes,

    ∫ φ′(z) h dα ≈ Σ_k w_k h(α_k),        w_k = ∫₀¹ φ′(z̃(τ)) ℓ_k(τ) α′(τ) dτ.

z̃ is the Hermite interpolant of z: at every node z is known from the forward pass, dz/dα = ⟨h, mix⟩
from the backward pass. So weights differ from example to example and from layer to layer; they are
integrals of scalars, computed with many points between the nodes at no cost.

Shapes: B examples, M nodes (both ends among them), P points between neighbours.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ...models.types import AnyArray, Array
from ..objectives import Link
from . import interpolation

POINTS = 16  # P


class ProductTables(NamedTuple):
    """Everything about the nodes that does not depend on the model."""

    density: AnyArray  # weights of the points, with α′(τ), [M − 1, P]
    basis: AnyArray  # ℓ_k, [M − 1, P, M]
    of_values: AnyArray  # the Hermite basis of z at the nodes, [M − 1, P, M]
    of_slopes: AnyArray  # … and of dz/dα
    omitted: AnyArray  # Π (τ − τ_i) over i ≠ k, [M − 1, P, M]
    divided: AnyArray  # coefficients of the divided difference over all nodes, [M]

    def astype(self, dtype: Any) -> ProductTables:
        """Return the tables in the precision of a model."""
        return ProductTables(*(values.astype(dtype) for values in self))


def product_tables(tau: np.ndarray, k: float) -> ProductTables:
    """Return the tables of nodes τ, from 0 to 1 ascending, under the Möbius map of `k`."""
    unit, weights = interpolation.gauss(POINTS)
    widths = np.diff(tau)[:, None]
    points = tau[:-1, None] + widths * unit[None, :]
    flat, shape = points.ravel(), (*points.shape, len(tau))
    of_values, of_slopes = interpolation.hermite_bases(tau, flat)
    return ProductTables(
        density=widths * weights * interpolation.map_slope(points, k),
        basis=interpolation.lagrange_basis(tau, flat).reshape(shape),
        of_values=of_values.reshape(shape),
        of_slopes=(of_slopes * interpolation.map_slope(tau, k)).reshape(shape),
        omitted=interpolation.omitted_products(tau, flat).reshape(shape),
        divided=interpolation.divided_difference(tau),
    )


class ProductWeights(NamedTuple):
    """What the values at the nodes of some examples give."""

    weights: Array  # w_k, [M, B]
    partials: Array  # the integral of dF/dα from 0 to every node but the first, [M − 1, B]
    smallest_omission: Array  # [B], see `product_weights`


def product_weights(tables: ProductTables, link: Link, z: Array, slopes: Array) -> ProductWeights:
    """Return the weights of h at the nodes.

    Leaving out node j changes the integral of h by σ_j times the divided difference of h over all
    nodes, σ_j = ∫ φ′(z̃) Π_{i≠j} (τ − τ_i) α′ dτ. `smallest_omission` is min |σ_j|.

    Args:
      tables: of the nodes.
      link: φ.
      z, slopes: z and dz/dα at the nodes, [M, B] each.
    """
    between = _sum(tables.of_values, z) + _sum(tables.of_slopes, slopes)  # z̃ [M − 1, P, B]
    density = jnp.asarray(tables.density, z.dtype)[..., None] * link.slope(between)
    per_interval = jnp.einsum("jpb,jpm->jmb", density, tables.basis, precision="highest")
    partials = jnp.cumsum(jnp.einsum("jmb,mb->jb", per_interval, slopes, precision="highest"), 0)
    omissions = jnp.einsum("jpb,jpm->mb", density, tables.omitted, precision="highest")
    smallest = jnp.min(jnp.abs(omissions), axis=0)
    return ProductWeights(per_interval.sum(axis=0), partials, smallest)


def _sum(basis: AnyArray, values: Array) -> Array:
    return jnp.einsum("jpm,mb->jpb", basis, values, precision="highest")
