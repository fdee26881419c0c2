"""Polynomial interpolation on [0, 1] in float64: what every rule here is made of.

Rules are built in τ, where their nodes are those of the textbooks, and mapped to the path's own
parameter by the Möbius map

    α(τ) = τ / (τ + k (1 − τ)),    dα/dτ = k / (τ + k (1 − τ))²,

which for k > 1 moves nodes towards α = 0. k = 1 leaves them.

Shapes: M nodes, P points.
"""

from __future__ import annotations

import numpy as np
from numpy.polynomial import legendre


def mapped(tau: np.ndarray, k: float) -> np.ndarray:
    """Return α(τ)."""
    return tau / (tau + k * (1 - tau))


def map_slope(tau: np.ndarray, k: float) -> np.ndarray:
    """Return dα/dτ."""
    return k / (tau + k * (1 - tau)) ** 2


def gauss(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the nodes and weights of Gauss and Legendre, exact to degree 2M − 1."""
    nodes, weights = legendre.leggauss(count)
    return (nodes + 1) / 2, weights / 2


def lobatto_nodes(count: int) -> np.ndarray:
    """Return M nodes with both ends, ascending; their rule is exact to degree 2M − 3."""
    inner = legendre.legroots(legendre.legder([0] * (count - 1) + [1])).real
    return (np.concatenate([[-1.0], np.sort(inner), [1.0]]) + 1) / 2


def radau_nodes(count: int) -> np.ndarray:
    """Return M nodes with the upper end, ascending; their rule is exact to degree 2M − 2."""
    # The roots of P_M − P_{M−1}.
    roots = legendre.legroots([0] * (count - 1) + [-1, 1]).real
    return (np.append(np.sort(roots)[:-1], 1.0) + 1) / 2


def chebyshev_nodes(count: int) -> np.ndarray:
    """Return M points of Clenshaw and Curtis, ascending: those of M are among those of 2M − 1."""
    return (1 - np.cos(np.pi * np.arange(count) / (count - 1))) / 2


def lagrange_basis(nodes: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return [P, M]: each node's polynomial, 1 there and 0 at the other nodes, at the points."""
    scale = 4  # the reciprocal of the interval's capacity: products of distances stay near 1
    barycentric = 1 / np.prod(scale * _differences(nodes), axis=1)
    distances = points[:, None] - nodes[None, :]
    is_node = distances == 0
    terms = barycentric / np.where(is_node, 1, distances)
    basis = terms / terms.sum(axis=1, keepdims=True)
    return np.where(is_node.any(axis=1, keepdims=True), is_node, basis)


def hermite_bases(nodes: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the bases [P, M] of the values and of the slopes at the nodes.

    Their combination has these values and slopes, and degree 2M − 1.
    """
    basis = lagrange_basis(nodes, points)
    reciprocals = 1 / _differences(nodes)
    np.fill_diagonal(reciprocals, 0)
    distances = points[:, None] - nodes[None, :]
    return (1 - 2 * distances * reciprocals.sum(axis=1)) * basis**2, distances * basis**2


def partial_weights(nodes: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return [len(ends), M]: weights with which values at the nodes integrate from 0 to each end.

    Exact for polynomials of degree M − 1.
    """
    points, weights = gauss(len(nodes) // 2 + 1)
    return np.stack([end * (weights @ lagrange_basis(nodes, end * points)) for end in ends])


def omitted_products(nodes: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return [P, M]: Π (point − node) over all nodes but one."""
    distances = np.repeat((points[:, None] - nodes[None, :])[:, None, :], len(nodes), axis=1)
    distances[:, np.arange(len(nodes)), np.arange(len(nodes))] = 1
    return np.prod(distances, axis=2)


def divided_difference(nodes: np.ndarray) -> np.ndarray:
    """Return the coefficients [M] of the divided difference over all nodes."""
    return 1 / np.prod(_differences(nodes), axis=1)


def _differences(nodes: np.ndarray) -> np.ndarray:
    """Return [M, M], node − other node, with 1 on the diagonal."""
    return nodes[:, None] - nodes[None, :] + np.eye(len(nodes))
