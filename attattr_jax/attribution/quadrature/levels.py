"""How a layer is integrated, as data of the compiled programs.

A `LayerRule` has one level (a fixed rule), or several that each add nodes to those before it
(n_steps="auto").

Shapes: M nodes of all levels, S levels, J nodes at which partial integrals are checked, L layers.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from ...errors import as_index
from . import interpolation
from .product import ProductTables, product_tables
from .rules import quadrature

MOST_CHECKS = 32  # nodes at which a fixed rule's partial integrals are checked
MOST_INTERPOLATED = 128  # nodes; above, a partial integral is a sum of cells


class LayerRule(NamedTuple):
    """Nodes, in the order in which they are evaluated, and how values there are put together."""

    nodes: Any  # α [M]; the first level's ascending
    weights: Any  # of ∂F, [S, M]
    # The error estimate compares Σ partials · dF/dα with F(α) − F(0) at these nodes of each level.
    checks: Any  # int [S, J]
    partials: Any  # [S, J, M]
    product: ProductTables | None = None  # if the first level is integrated so

    def astype(self, dtype: Any) -> LayerRule:
        """Return the rule with its numbers in the precision of a model."""
        return LayerRule(
            self.nodes.astype(dtype),
            self.weights.astype(dtype),
            self.checks,
            self.partials.astype(dtype),
            self.product and self.product.astype(dtype),
        )


def fixed_level(nodes: np.ndarray, weights: np.ndarray) -> LayerRule:
    """Return one level with the nodes and weights [M] of a rule on [0, 1]."""
    order = np.argsort(nodes, kind="stable")
    nodes, weights = nodes[order], weights[order]
    checks = np.unique(np.linspace(0, len(nodes) - 1, min(MOST_CHECKS, len(nodes))).astype(int))
    partials = _partials_of_interpolation(nodes, weights, checks)
    if partials is None:
        # Cells as wide as the weights: what a Riemann sum adds up to a node.
        starts = np.cumsum(weights) - weights
        partials = np.clip(nodes[checks, None] - starts[None, :], 0, np.maximum(weights, 0))
    return LayerRule(nodes, weights[None], checks[None], partials[None])


def _partials_of_interpolation(nodes, weights, checks) -> np.ndarray | None:
    """Return the partial weights [J, M] if the rule integrates a polynomial through its nodes."""
    if len(nodes) > MOST_INTERPOLATED or len(np.unique(nodes)) < len(nodes):
        return None
    # Through many equidistant nodes nothing can be interpolated in float64: the comparisons say so
    with np.errstate(divide="ignore", invalid="ignore"):
        partials = interpolation.partial_weights(nodes, np.append(nodes[checks], 1.0))
    is_interpolation = np.abs(partials[-1] - weights).max() < 1e-8
    return partials[:-1] if is_interpolation and np.abs(partials).sum(axis=1).max() < 2 else None


def named_level(method: str, n_steps: Any) -> LayerRule:
    """Return one level with a rule by its name; errors are those of `quadrature`."""
    count = as_index(n_steps)
    if count is None:
        quadrature(method, n_steps)  # says what it should be
    return _named_level(method, count)


@functools.lru_cache(maxsize=256)
def _named_level(method: str, n_steps: int) -> LayerRule:
    return fixed_level(*quadrature(method, n_steps))


def mapped_level(tau: np.ndarray, k: float) -> LayerRule:
    """Return the rule that interpolates between nodes τ, under the Möbius map of `k`."""
    partials = _mapped_partials(tau, tau, k)
    weights = _mapped_partials(tau, np.ones(1), k)
    checks = np.arange(len(tau))
    return LayerRule(interpolation.mapped(tau, k), weights, checks[None], partials[None])


def _mapped_partials(tau: np.ndarray, ends: np.ndarray, k: float) -> np.ndarray:
    """Return the weights [len(ends), M] of ∂F/∂α at the nodes that integrate from 0 to each end."""
    return interpolation.partial_weights(tau, ends) * interpolation.map_slope(tau, k)


# Nodes lie nearer α = 0, where layers change most; the last layer's more so. Flat optima, measured
# (docs/quadrature.md).
LOWER_MAP, LAST_MAP = 1.6, 2.5
LAST_NODES = 24  # of a last layer of which one row is computed: it costs next to nothing


class Levels(NamedTuple):
    """The rule of n_steps="auto" for a layer."""

    rule: LayerRule
    sizes: tuple[int, ...]  # how many nodes have been evaluated at the end of each level


# Five Lobatto nodes by product integration; four that extend them as Kronrod extended Gauss's; then
# the points of Clenshaw and Curtis.
FIRST_NODES = 5
CHEBYSHEV = (17, 33, 65)
LAST_CHEBYSHEV = (33, 65)


@functools.cache
def adaptive_levels(is_cheap: bool) -> Levels:
    """Return the levels for a layer; `is_cheap`: a last layer of which one row is computed."""
    if is_cheap:
        first, k = interpolation.gauss(LAST_NODES)[0], LAST_MAP
        sets = [first, *map(interpolation.chebyshev_nodes, LAST_CHEBYSHEV)]
    else:
        first, k = interpolation.lobatto_nodes(FIRST_NODES), LOWER_MAP
        extended = np.concatenate([first, kronrod_extension(first)])
        sets = [first, extended, *map(interpolation.chebyshev_nodes, CHEBYSHEV)]
    order = np.zeros(0)
    for nodes in sets:
        known = np.abs(nodes[:, None] - order[None, :]).min(axis=1, initial=1) < 1e-12
        order = np.concatenate([order, nodes[~known]])
    places = [np.abs(order[None, :] - nodes[:, None]).argmin(axis=1) for nodes in sets]
    most, count = max(map(len, sets)), len(order)
    weights, partials = np.zeros((len(sets), count)), np.zeros((len(sets), most, count))
    checks = np.zeros((len(sets), most), int)
    for level, place in enumerate(places):
        tau = order[place]
        weights[level, place] = _mapped_partials(tau, np.ones(1), k)[0]
        checks[level] = np.resize(place, most)
        partials[level][:, place] = np.resize(_mapped_partials(tau, tau, k), (most, len(place)))
    product = None if is_cheap else product_tables(first, k)
    rule = LayerRule(interpolation.mapped(order, k), weights, checks, partials, product)
    return Levels(rule, tuple(int(place.max()) + 1 for place in places))


def kronrod_extension(nodes: np.ndarray) -> np.ndarray:
    """Return one node less than there are on [0, 1], both ends among them, between the nodes.

    With them the rule is exact to the highest degree possible, as in Kronrod's extension of Gauss's
    rules: they are the roots of the polynomial E of degree M − 1 with
    ∫ Π (τ − node) E(τ) τ^i dτ = 0 for i < M − 1.
    """
    count = len(nodes) - 1
    points, weights = np.polynomial.legendre.leggauss(2 * len(nodes))
    product = np.prod(points[:, None] - (2 * nodes - 1)[None, :], axis=1)
    basis = np.polynomial.legendre.legvander(points, count)
    gram = basis[:, :-1].T @ (basis * (weights * product / np.abs(product).max())[:, None])
    # Symmetric nodes leave half of the equations empty.
    lower = np.linalg.lstsq(gram[:, :-1], -gram[:, -1], rcond=None)[0]
    return (np.sort(np.polynomial.legendre.legroots(np.append(lower, 1.0)).real) + 1) / 2


def fast_rule(is_cheap: bool) -> LayerRule:
    """Return the rule of a layer that `method="fast"` uses: the first level of n_steps "auto"."""
    levels = adaptive_levels(is_cheap)
    return first_of(levels.rule, levels.sizes[0])


def first_of(rule: LayerRule, count: int) -> LayerRule:
    """Return the first level of a rule, which has so many nodes."""
    return LayerRule(
        rule.nodes[:count],
        rule.weights[:1, :count],
        rule.checks[:1],
        rule.partials[:1, :, :count],
        rule.product,
    )
