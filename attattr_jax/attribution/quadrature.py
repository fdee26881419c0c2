"""Integration rules on [0, 1] as data: nodes and weights in float64, nothing of them is compiled
in.

Shapes: M nodes.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.polynomial import legendre

from ..errors import InputError, as_index

METHODS = ("riemann_left", "riemann_right", "riemann_middle", "riemann_trapezoid", "gausslegendre")
MAX_STEPS = 10_000
DEFAULT_METHOD = "gausslegendre"
ADAPTIVE_METHOD = "nested Gauss-Patterson rules"  # of n_steps "auto"


def quadrature(method: str, n_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Return nodes α and weights, float64 [M] each, that integrate over [0, 1]; the weights sum to
    1.

    `riemann_left`, α = k/M from 0, is the published code's rule; `riemann_right`, from 1/M, the
    paper's equation 3; `riemann_middle` (k+½)/M; `riemann_trapezoid` k/(M−1) with half weight at
    both ends; `gausslegendre` is exact for polynomials of degree 2M−1.

    Raises:
      InputError: an unknown method, or fewer steps than the rule needs (1; the trapezoid 2).
    """
    least = 2 if method == "riemann_trapezoid" else 1
    if method not in METHODS:
        raise InputError(f"method {method!r} is unknown; choose one of {', '.join(METHODS)}")
    given, n_steps = n_steps, as_index(n_steps)
    if n_steps is None or n_steps < least:
        raise InputError(
            f"n_steps must be an integer of at least {least} for {method}, not {given!r}"
        )
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
    nodes, weights = legendre.leggauss(n_steps)
    return (nodes + 1) / 2, weights / 2


def checked_rule(nodes, weights) -> tuple[np.ndarray, np.ndarray]:
    """Return a caller's own nodes and weights, float64 [M] each.

    Raises:
      InputError: they differ in length, a node is not in 0 … 1, or the weights do not sum to 1.
    """
    try:
        nodes, weights = np.asarray(nodes, np.float64), np.asarray(weights, np.float64)
    except (TypeError, ValueError):  # strings, or traced values, which cannot be checked
        raise InputError(
            "the nodes and weights of a rule must be numbers whose values are known"
        ) from None
    if nodes.ndim != 1 or nodes.shape != weights.shape or not 0 < nodes.size <= MAX_STEPS:
        raise InputError(
            f"a rule is nodes [M] and weights [M], not {list(nodes.shape)} and"
            f" {list(weights.shape)}"
        )
    if not ((nodes >= 0) & (nodes <= 1)).all() or not abs(weights.sum() - 1) < 1e-6:
        raise InputError("the nodes of a rule must be in 0 … 1, and its weights must sum to 1")
    return nodes, weights


def check_adaptive_method(method: object) -> None:
    """Raise an InputError if a rule was chosen for n_steps "auto", which has rules of its own."""
    if not (isinstance(method, str) and method == DEFAULT_METHOD):
        raise InputError(
            f"method {method!r:.80} has no effect with n_steps 'auto': leave it out, or give a"
            " number of steps"
        )


class NestedRules(NamedTuple):
    """Rules each of which contains the nodes of the one before it."""

    sizes: tuple[int, ...]  # how many nodes each level has: the first so many of `nodes`
    nodes: np.ndarray  # [M], of all levels, in the order in which they join
    weights: np.ndarray  # [levels, M], 0 for nodes that have not joined


# Half of the seven nodes that nested rules start from; the first five of them (0 and two pairs) are
# a rule of their own. Chosen so that on peaks and steps of many widths and places both are about as
# exact as Gauss rules of 4 and 6 nodes, and every extension below exists.
_FIRST_NODES = (0.65, 0.92, 0.36)


@functools.cache
def nested_rules() -> NestedRules:
    """Return the rules of adaptive integration, of 5, 7, 11, 15, 31 and 63 nodes.

    The seven are extended again and again as Patterson extended Gauss's rules (The Optimum Addition
    of Points to Quadrature Formulae, Mathematics of Computation 22, 1968): the n+1 nodes added to n
    make the rule exact to the highest degree. The rule of 11 has four of the eight nodes that make
    15. All weights are positive.
    """
    seven = np.asarray([0.0, *(sign * node for node in _FIRST_NODES for sign in (-1, 1))])
    eight = _patterson_extension(seven)
    # The outer two pairs come first
    fifteen = np.concatenate([seven, eight[[0, 1, 6, 7]], eight[2:6]])
    order = fifteen
    for _ in range(2):
        order = np.concatenate([order, _patterson_extension(order)])
    sizes = (5, 7, 11, 15, 31, 63)
    weights = np.zeros((len(sizes), len(order)))
    for level, size in enumerate(sizes):
        weights[level, :size] = _interpolatory_weights(order[:size])
    return NestedRules(sizes, (order + 1) / 2, weights / 2)


def _patterson_extension(nodes: Sequence[float]) -> np.ndarray:
    """Return the n+1 nodes on [−1, 1], ascending, that extend n: roots of E with ∫ Π(x − nodes)
    E(x) x^k = 0 for k ≤ n.
    """
    size = len(nodes)
    points, weights = legendre.leggauss(2 * size + 4)
    product = np.prod(points[:, None] - np.asarray(nodes)[None, :], axis=1)
    basis = legendre.legvander(points, size + 1)
    gram = basis[:, :-1].T @ (basis * (weights * product / np.abs(product).max())[:, None])
    # Symmetric nodes leave half of the equations empty
    lower = np.linalg.lstsq(gram[:, :-1], -gram[:, -1], rcond=None)[0]
    return np.sort(legendre.legroots(np.append(lower, 1.0)).real)


def _interpolatory_weights(nodes: np.ndarray) -> np.ndarray:
    """Return the weights on [−1, 1] with which n nodes are exact for polynomials of degree n−1."""
    integrals = np.zeros(len(nodes))
    integrals[0] = 2
    return np.linalg.solve(legendre.legvander(nodes, len(nodes) - 1).T, integrals)
