"""Integration rules on [0, 1] as data: nodes and weights in float64.

They are arguments of compiled programs, not constants in them. Shapes: M nodes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...errors import InputError, as_index
from . import interpolation
from .interpolation import gauss

MAX_STEPS = 10_000

DEFAULT_METHOD = "gausslegendre"
ADAPTIVE_METHOD = "adaptive Lobatto rules"  # of n_steps "auto"
FAST_METHOD = "fast"  # a rule for each layer, see `fast_rules`


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


def _gausslobatto(n_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """With both ends; exact for polynomials of degree 2M−3."""
    nodes = interpolation.lobatto_nodes(n_steps)
    return nodes, interpolation.partial_weights(nodes, np.ones(1))[0]


def _gaussradau(n_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """With α = 1, which costs least; exact for polynomials of degree 2M−2."""
    nodes = interpolation.radau_nodes(n_steps)
    return nodes, interpolation.partial_weights(nodes, np.ones(1))[0]


# The name of a rule: (the rule, the fewest steps that it is defined for).
RULES: dict[str, tuple[Callable[[int], tuple[np.ndarray, np.ndarray]], int]] = {
    "riemann_left": (_riemann_left, 1),
    "riemann_right": (_riemann_right, 1),
    "riemann_middle": (_riemann_middle, 1),
    "riemann_trapezoid": (_riemann_trapezoid, 2),
    "gausslegendre": (gauss, 1),
    "gausslobatto": (_gausslobatto, 2),
    "gaussradau": (_gaussradau, 1),
}
METHODS = (*RULES, FAST_METHOD)


def quadrature(method: str, n_steps: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return nodes α and weights, float64 [M] each, that integrate over [0, 1].

    `n_steps` is their number M; the weights sum to 1. `riemann_left`, α = k/M from 0, is the
    published code's rule; `riemann_right`, from 1/M, the paper's equation 3; `riemann_middle`
    (k+½)/M; `riemann_trapezoid` k/(M−1) with half weight at both ends; `gausslegendre` is exact for
    polynomials of degree 2M−1; `gausslobatto`, which has both ends, of 2M−3; `gaussradau`, which
    has α = 1, of 2M−2.

    Raises:
      InputError: an unknown method, or fewer steps than the rule needs (1; with both ends 2).
    """
    if method == FAST_METHOD:
        raise InputError(f"method {method!r} is a rule of its own for each layer, without n_steps")
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


# With n_steps "auto": the nodes of the first level, and the most nodes by default. Attention has at
# most 89, tokens 15 and 13 for every cut.
FEWEST_ADAPTIVE, MAX_ADAPTIVE_STEPS = 5, 128


def check_adaptive(tolerance: Any, max_steps: Any) -> None:
    """Raise an InputError unless n_steps "auto" can keep these bounds."""
    is_number = isinstance(tolerance, (int, float, np.floating)) and not isinstance(tolerance, bool)
    if not (is_number and 0 < tolerance < 1):
        raise InputError(f"tolerance must be a number between 0 and 1, not {tolerance!r}")
    most = as_index(max_steps)
    if most is None or most < FEWEST_ADAPTIVE:
        raise InputError(
            f"max_steps must be an integer of at least {FEWEST_ADAPTIVE}, the nodes of the first"
            f" level, not {max_steps!r}"
        )
