"""Adaptive bisection of a path: what the host keeps, and which panel is cut next.

Every panel has Lobatto nodes of its own and is integrated with product weights (`product`). The
ends of a panel are ends of its halves too, so that cutting one adds 2 · 8 − 3 nodes.

Shapes: B examples, T tokens.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ...models.types import AnyArray
from . import interpolation
from .product import ProductTables, product_tables

PANEL_NODES = 8
PART_FACTOR = 2.0  # the errors of all panels are added, as if none had the other sign
FIRST_EVALUATIONS = 2 * PANEL_NODES - 1  # of two panels
MORE_EVALUATIONS = 2 * PANEL_NODES - 3  # of a panel that is cut in two


@functools.cache
def panel_tables() -> ProductTables:
    """Return the tables of a panel of length 1."""
    return product_tables(panel_nodes(), 1.0)


def panel_nodes() -> np.ndarray:
    """Return the nodes of a panel of length 1."""
    return interpolation.lobatto_nodes(PANEL_NODES)


class Panel(NamedTuple):
    """A piece of the path of an example; with a leading axis, of several."""

    ends: AnyArray  # α, [2]
    smooth: AnyArray  # z at both ends, [2]
    of_tokens: AnyArray  # the attributions of z there, [2, T]
    integral: AnyArray  # the attributions of F on the panel, [T]
    part: AnyArray  # the largest difference between partial integrals and F
    change: AnyArray  # Σ over tokens of what leaving out a node changes


class Bisection:
    """The panels of every example of a batch."""

    def __init__(self, halves: Sequence[Panel], is_example: Any, rounding: Any):
        """Start from two panels of each example [B, ...]; rows that are none (padding) are done."""
        self.is_example, self.rounding = is_example, rounding
        self.rows = [[row_of(half, row) for half in halves] for row in range(len(is_example))]

    def n_steps(self, row: int) -> int:
        """Return how many nodes have been evaluated for an example."""
        return FIRST_EVALUATIONS + (len(self.rows[row]) - 2) * MORE_EVALUATIONS

    def attributions(self, row: int) -> np.ndarray:
        """Return the integral over all panels, float64 [T]."""
        return np.stack([panel.integral for panel in self.rows[row]]).astype(np.float64).sum(axis=0)

    def errors(self, row: int) -> np.ndarray:
        """Return the estimated error of each panel of an example, relative to the whole."""
        magnitude = np.abs(self.attributions(row)).sum()
        part = np.asarray([panel.part for panel in self.rows[row]], np.float64)
        change = np.asarray([panel.change for panel in self.rows[row]], np.float64)
        part = np.where(part <= self.rounding[row], 0, part)
        if magnitude == 0:
            return np.where(part > 0, np.inf, 0)
        return np.maximum(PART_FACTOR * part, 0.1 * change) / magnitude

    def estimate(self, row: int) -> float:
        """Return the estimate of Σ|error| / Σ|attributions| of an example."""
        return float(self.errors(row).sum()) if self.is_example[row] else 0.0

    def to_cut(self, tolerance: float, max_steps: int) -> list[tuple[int, int]]:
        """Return (row, panel) of the worst panel of every example that is not good enough."""
        return [
            (row, int(np.argmax(self.errors(row))))
            for row in range(len(self.rows))
            if self.estimate(row) > tolerance and self.n_steps(row) + MORE_EVALUATIONS <= max_steps
        ]

    def replace(self, row: int, panel: int, halves: Sequence[Panel]) -> None:
        """Put two halves in the place of a panel."""
        self.rows[row][panel : panel + 1] = halves


def row_of(panels: Panel, row: int) -> Panel:
    """Return the panel of one example."""
    return Panel(*(values[row] for values in panels))


def stacked(panels: Sequence[Panel]) -> Panel:
    """Return panels of several examples as arrays with a leading axis."""
    return Panel(*map(np.stack, zip(*panels, strict=True)))
