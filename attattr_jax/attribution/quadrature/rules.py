"""Integration rules on [0, 1] as data: nodes and weights in float64.

They are arguments of compiled programs, not constants in them. Shapes: M nodes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.polynomial import legendre

from ..errors import InputError, as_index

MAX_STEPS = 10_000

DEFAULT_METHOD = "gausslegendre"
ADAPTIVE_METHOD = "nested Gauss-Patterson rules"  # of n_steps "auto"
FIRST_LEVEL = 1  # of `nested_rules`: its 5 nodes only give the change of the 7


def _riemann_left(n_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """α = k/M from 0: the rule of the published code."""
    return np.arange(n_steps) / n_steps, np.full(n_steps, 1 / n_steps)


def _riemann_right(n_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """α from 1/M: the paper's equation 3."""
    return (np.arange(n_steps) + 1) / n_steps, np.full(n_steps, 1 / n_steps)


def _riemann_middle(n_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """α = (k+½)/M."""
    return (np.arange(n_steps) + 0.5) / n_steps, np.full(n_steps, 1 / n_steps)


def _riemann_trapezoid(n_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """α = k/(M−1), with half the weight at both ends."""
    weights = np.full(n_steps, 1 / (n_steps - 1))
    weights[[0, -1]] /= 2
    return np.arange(n_steps) / (n_steps - 1), weights


def _gausslegendre(n_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Exact for polynomials of degree 2M−1."""
    nodes, weights = legendre.leggauss(n_steps)
    return (nodes + 1) / 2, weights / 2


# The name of a rule: (the rule, the fewest steps that it is defined for).
RULES: dict[str, tuple[Callable[[int], tuple[np.ndarray, np.ndarray]], int]] = {
    "riemann_left": (_riemann_left, 1),
    "riemann_right": (_riemann_right, 1),
    "riemann_middle": (_riemann_middle, 1),
    "riemann_trapezoid": (_riemann_trapezoid, 2),
    "gausslegendre": (_gausslegendre, 1),
}
METHODS = tuple(RULES)


def quadrature(method: str, n_steps: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return nodes α and weights, float64 [M] each, that integrate over [0, 1].

    `n_steps` is their number M; the weights sum to 1. `riemann_left`, α = k/M from 0, is the
    published code's rule; `riemann_right`, from 1/M, the paper's equation 3; `riemann_middle`
    (k+½)/M; `riemann_trapezoid` k/(M−1) with half weight at both ends; `gausslegendre` is exact for
    polynomials of degree 2M−1.

    Raises:
      InputError: an unknown method, or fewer steps than the rule needs (1; the trapezoid 2).
    """
    if method not in RULES:
        raise InputError(f"method {method!r} is unknown; choose one of {', '.join(METHODS)}")
    rule, least = RULES[method]
    count = as_index(n_steps)
    if count is None or count < least:
        raise InputError(
            f"n_steps must be an integer of at least {least} for {method}, not {n_steps!r}"
        )
    if count > MAX_STEPS:
        raise InputError(f"n_steps must be at most {MAX_STEPS}, not {count}")
    return rule(count)


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

    sizes: tuple[int, ...]  # how many of `nodes`, from the first on, each level has
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


def levels_within(max_steps: int) -> tuple[int, ...]:
    """Return the numbers of nodes of the levels that `max_steps` allows.

    The first of them only gives the first change.
    """
    return tuple(size for size in nested_rules().sizes if size <= max_steps)


def checked_levels(tolerance: Any, max_steps: Any) -> tuple[int, ...]:
    """Return the numbers of nodes of the levels to try.

    Raises:
      InputError: the tolerance is not between 0 and 1, or no level has so few nodes.
    """
    is_number = isinstance(tolerance, (int, float, np.floating)) and not isinstance(tolerance, bool)
    if not (is_number and 0 < tolerance < 1):
        raise InputError(f"tolerance must be a number between 0 and 1, not {tolerance!r}")
    most = as_index(max_steps)
    sizes = () if most is None else levels_within(most)
    if len(sizes) <= FIRST_LEVEL:
        raise InputError(
            "max_steps must be an integer of at least 7, the nodes of the first level, not"
            f" {max_steps!r}"
        )
    return sizes


def _patterson_extension(nodes: np.ndarray) -> np.ndarray:
    """Return the n+1 nodes on [−1, 1], ascending, that extend n nodes.

    They are the roots of E with ∫ Π(x − nodes) E(x) x^k = 0 for k ≤ n.
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
