"""Integration rules on [0, 1] as data: nodes and weights in float64, nothing of them is compiled in.

Shapes: M nodes.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.polynomial import legendre

from .errors import InputError

METHODS = ("riemann_left", "riemann_right", "riemann_middle", "riemann_trapezoid", "gausslegendre")

MAX_STEPS = 10_000


def quadrature(method: str, n_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Return nodes α and weights, float64 [M] each, that integrate over [0, 1]; the weights sum to 1.

    `riemann_left`, α = k/M from 0, is the published code's rule; `riemann_right`, from 1/M, the paper's equation 3;
    `riemann_middle` (k+½)/M; `riemann_trapezoid` k/(M−1) with half weight at both ends; `gausslegendre` is exact for polynomials of
    degree 2M−1.

    Raises:
      InputError: an unknown method, or fewer steps than the rule needs (1; the trapezoid 2).
    """
    least = 2 if method == "riemann_trapezoid" else 1
    if method not in METHODS:
        raise InputError(f"method {method!r} is unknown; choose one of {', '.join(METHODS)}")
    if isinstance(n_steps, bool) or not isinstance(n_steps, (int, np.integer)) or n_steps < least:
        raise InputError(f"n_steps must be an integer of at least {least} for {method}, not {n_steps!r}")
    if n_steps > MAX_STEPS:
        raise InputError(f"n_steps must be at most {MAX_STEPS}, not {n_steps}")
    steps = np.arange(n_steps)
    weights = np.full(n_steps, 1 / n_steps)
    if method == "riemann_left":
        return steps / n_steps, weights
    if method == "riemann_right":
        return (steps + 1) / n_steps, weights
    if method == "riemann_middle":
        return (steps + 0.5) / n_steps, weights
    if method == "riemann_trapezoid":
        weights = np.full(n_steps, 1 / (n_steps - 1))
        weights[[0, -1]] /= 2
        return steps / (n_steps - 1), weights
    nodes, weights = legendre.leggauss(int(n_steps))
    return (nodes + 1) / 2, weights / 2


class NestedRules(NamedTuple):
    """Rules each of which contains the nodes of the one before it."""

    sizes: tuple[int, ...]  # how many nodes each level has: the first so many of `nodes`
    nodes: np.ndarray  # [M], of all levels, in the order in which they join
    weights: np.ndarray  # [levels, M], 0 for nodes that have not joined


@functools.cache
def nested_rules() -> NestedRules:
    """Return the rules of adaptive integration, of 5, 9, 11, 23 and 47 nodes.

    Gauss's two-point rule is extended three and four times as Patterson did (The Optimum Addition of Points to Quadrature Formulae,
    Mathematics of Computation 22, 1968): the n+1 nodes added to n make the rule exact to the highest degree. The rule of 9 is that of
    11 without its outermost pair: few integrands of a Transformer need more, and none of the 9 is wasted where they do. All weights
    are positive.
    """
    groups = [legendre.leggauss(2)[0]]
    for _ in range(4):
        groups.append(_patterson_extension(np.concatenate(groups)))
    inner, outermost = groups[2][1:-1], groups[2][[0, -1]]
    order = np.concatenate([*groups[:2], inner, outermost, *groups[3:]])
    sizes = (5, 9, 11, 23, 47)
    weights = np.zeros((len(sizes), len(order)))
    for level, size in enumerate(sizes):
        weights[level, :size] = _interpolatory_weights(order[:size])
    return NestedRules(sizes, (order + 1) / 2, weights / 2)


def _patterson_extension(nodes: Sequence[float]) -> np.ndarray:
    """Return the n+1 nodes on [−1, 1], ascending, that extend n: roots of E with ∫ Π(x − nodes) E(x) x^k = 0 for k ≤ n."""
    size = len(nodes)
    points, weights = legendre.leggauss(2 * size + 4)
    product = np.prod(points[:, None] - np.asarray(nodes)[None, :], axis=1)
    basis = legendre.legvander(points, size + 1)
    gram = basis[:, :-1].T @ (basis * (weights * product / np.abs(product).max())[:, None])
    lower = np.linalg.lstsq(gram[:, :-1], -gram[:, -1], rcond=None)[0]  # symmetric nodes leave half of the equations empty
    return np.sort(legendre.legroots(np.append(lower, 1.0)).real)


def _interpolatory_weights(nodes: np.ndarray) -> np.ndarray:
    """Return the weights on [−1, 1] with which n nodes are exact for polynomials of degree n−1."""
    integrals = np.zeros(len(nodes))
    integrals[0] = 2
    return np.linalg.solve(legendre.legvander(nodes, len(nodes) - 1).T, integrals)
