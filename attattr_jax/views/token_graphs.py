"""Figures of tokens and what connects them: arcs over the sentence, and attribution trees."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.markers import CARETDOWN, CARETUP

from ..attribution.summaries.reductions import strongest_pairs
from ..attribution.summaries.tree import AttributionTree
from .drawing import (
    PITCH,
    PLAIN,
    SIGNS,
    UNIT,
    WIDEST,
    label_of,
    spread_out,
    square,
    text_width,
    titled_figure,
)

Pairs = list[tuple[int, int, float]]  # (from, to, value)


def arcs(
    matrix,
    tokens: Sequence[str],
    count: int = 10,
    left_out: Sequence[int] | None = None,
    title: str | None = None,
    unit: str = UNIT,
) -> Figure:
    """Draw the strongest token pairs as arcs over the sentence.

    Arrow heads are at the tokens that read: those that attend to the token at the other end.

    Args:
      matrix: [T, T] attributions, row attends to column. Pairs of exactly 0 are not drawn.
      tokens: T texts.
      count: how many pairs.
      left_out: [T], 1 for tokens whose pairs are left out, such as `special_tokens_mask`.
      title, unit: above them, and of the values.
    """
    pairs = [pair for pair in strongest_pairs(square(matrix, tokens), count, left_out) if pair[2]]
    width = min(WIDEST, max(4.2, 0.32 * len(tokens)))
    figure = titled_figure(width + 0.4, 2.6 + text_width(map(label_of, tokens), 8) / 72, title)
    axes = figure.subplots()
    point = len(tokens) / (width * 72)  # in tokens
    _draw_arcs(axes, pairs, point)
    floor = _name_tokens(axes, tokens, pairs, width, point)
    axes.set(xlim=(-0.5 - 6 * point, len(tokens) - 0.5 + 6 * point), ylim=(floor, 1.15), yticks=[])
    axes.spines[:].set_visible(False)
    _draw_legend(figure, axes, pairs, unit)
    return figure


def _draw_arcs(axes, pairs: Pairs, point: float) -> None:
    """Draw an arc for each pair, the strongest on top; `point` is a point's size in tokens."""
    largest = max((abs(value) for *_, value in pairs), default=0.0)
    longest = max((abs(i - j) for i, j, _ in pairs), default=0) or 1
    angle = np.linspace(0, np.pi, 90)
    for j, i, value in reversed(pairs):
        # From i, which is read, to j, which reads. An arc leaves right of the middle of a token and
        # arrives left of it: i → j and j → i are two lines.
        beside, bulge = min(2.5 * point, 0.3), 7 * point * (i == j)
        height = 0.2 + 0.8 * (abs(i - j) / longest) ** 0.7 + 0.07 * (i > j)
        x = (i + j) / 2 + ((i - j) / 2 + beside) * np.cos(angle) + bulge * np.sin(2 * angle)
        y = height * np.sin(angle)
        weight = max(0.7, 4 * abs(value) / largest)
        size = 4 + 1.3 * weight
        # A line ends within its arrow head, which stays pointed.
        seen = (angle < np.pi / 2) | (y > 0.004 * size)
        colour, dashes = SIGNS[value > 0]
        axes.plot(x[seen], y[seen], color=colour, linestyle=dashes, linewidth=weight, alpha=0.85)
        axes.plot(x[-1], 0, marker=CARETDOWN, markersize=size, markeredgewidth=0, color=colour)


def _name_tokens(axes, tokens: Sequence[str], pairs: Pairs, width: float, point: float) -> float:
    """Name all tokens below the arcs, or those with an arc where not all fit.

    Returns:
      the lowest value of the vertical axis.
    """
    positions, all_fit = np.arange(len(tokens)), PITCH * point <= 1
    strongest = dict.fromkeys(itertools.chain.from_iterable(pair[:2] for pair in pairs))
    named = positions if all_fit else np.sort([*strongest][: int(width * 72 / PITCH)]).astype(int)
    slots, floor = spread_out(named, PITCH * point, len(tokens)), -0.05 if all_fit else -0.22
    line = {"color": "#888888", "linewidth": 0.8, "marker": "."}
    axes.plot(positions, 0 * positions, **line, markersize=3 if all_fit else 1.5)
    # From each token to its name.
    links = {"color": "#bbbbbb", "linewidth": 0.6, "zorder": 0}
    axes.plot([named, slots], [0 * slots, 0 * slots + floor], **links)
    labels, size = [label_of(tokens[position]) for position in named], 8 if all_fit else 7
    axes.set_xticks(slots, labels, rotation=90, fontsize=size, **PLAIN)
    axes.tick_params(axis="x", length=0)
    meaning = "tokens" if all_fit else f"{len(tokens)} tokens, those with an arc named"
    axes.set_xlabel(
        f"{meaning}; an arrow points at the token that reads from the one at its other end",
        fontsize=8,
    )
    return floor


def _draw_legend(figure: Figure, axes, pairs: Pairs, unit: str) -> None:
    """Say below the figure what the lines mean."""
    largest = max((abs(value) for *_, value in pairs), default=0.0)
    for (colour, dashes), label, sign in zip(
        SIGNS.values(), ("positive", "negative"), (1, -1), strict=True
    ):
        if any(value * sign > 0 for *_, value in pairs):
            axes.plot([], [], color=colour, linestyle=dashes, linewidth=2, label=label)
    label = f"largest: {largest:.2g}" if pairs else "none but 0"
    axes.plot([], [], color="black", linewidth=4 if pairs else 0, label=label)
    title = f"attribution ({unit})"
    legend = figure.legend(
        loc="outside lower center", ncols=3, fontsize=8, title=title, frameon=False
    )
    legend.get_title().set(fontsize=8, **PLAIN)


class _TreeLayout(NamedTuple):
    """Where the boxes and edges of a tree go, in points unless otherwise said."""

    places: dict[int, tuple[float, int]]  # token -> (column, level)
    texts: dict[int, str]  # token -> text of its box
    edges: dict[int, str]  # token -> text of the edge to it
    heights: dict[int, float]  # of boxes
    edge_height: float  # of the edges' texts
    across: float  # from a column to the next
    down: float  # from a level to the next
    margin: float  # beside the outer columns
    highest: float  # of the boxes
    upright: bool  # whether text runs downwards


def tree(tree: AttributionTree, unit: str = UNIT) -> Figure:
    """Draw an attribution tree, the root at the top.

    A token stands above those that it reads from; arrow heads are at the token that reads.

    Args:
      tree: of one example. A token that the sentence has more than once is shown with its position.
      unit: of the attributions.
    """
    layout = _tree_layout(tree)
    last_column, last_level = (
        max(place[axis] for place in layout.places.values()) for axis in (0, 1)
    )
    width = layout.across * last_column + 2 * layout.margin
    height = layout.down * last_level + layout.highest
    figure = titled_figure(max(width / 72 + 0.9, 3.4), max(height / 72 + 0.8, 1.8))
    axes = figure.subplots()
    _draw_nodes(axes, tree, layout)
    beside, beyond = layout.margin / layout.across, layout.highest / 2 / layout.down
    axes.set(
        xlim=(-beside, last_column + beside),
        ylim=(last_level + beyond, -beyond),
        xticks=[],
        yticks=range(last_level + 1),
    )
    axes.spines[:].set_visible(False)
    axes.set_ylabel("level (0: the root)")
    meaning = f"edges: layer, attribution\n({unit})"
    if not layout.edges:
        meaning = f"no edge above τ = {tree.threshold:g}"
    axes.set_xlabel(meaning, fontsize=8, **PLAIN)
    return figure


def _tree_layout(tree: AttributionTree) -> _TreeLayout:
    """Return a layout in which no box touches another, or an edge on its way down."""
    places, children = tree.positions(), tree.nodes[1:]
    texts = {}
    for position in places:
        is_repeated = tree.tokens.count(tree.tokens[position]) > 1
        suffix = f" ({position})" if is_repeated else ""
        texts[position] = label_of(tree.tokens[position]) + suffix
    edges = {node.token: f"layer {node.layer}\n{node.attribution:+.2g}" for node in children}
    widths = {position: text_width([text], 8) + 9 for position, text in texts.items()}
    heights = dict.fromkeys(places, 16.0)
    edge_width, edge_height = text_width(edges.values(), 7) + 4, 17.0
    # (level, column, half a width) of all that stands or passes at a level.
    halves = [
        (level, column, max(widths[position], edge_width) / 2)
        for position, (column, level) in places.items()
    ]
    halves += [
        (level, places[node.token][0], 2)
        for node in children
        for level in range(places[node.parent][1] + 1, node.level)
    ]
    neighbours = [(a, b) for a, b in itertools.pairwise(sorted(halves)) if a[0] == b[0]]
    across = max(((a[2] + b[2] + 6) / (b[1] - a[1]) for a, b in neighbours), default=1)
    margin = max(half for *_, half in halves)
    last_column = max(column for column, _ in places.values())
    upright = across * last_column + 2 * margin > WIDEST * 72
    if upright:  # text runs downwards, so that columns are as wide as it is high
        across, margin, heights, edge_height = edge_height + 2, edge_height, widths, edge_width
    highest = max(heights.values())
    down = highest + edge_height + 16
    return _TreeLayout(
        places, texts, edges, heights, edge_height, across, down, margin, highest, upright
    )


def _draw_nodes(axes, tree: AttributionTree, layout: _TreeLayout) -> None:
    """Draw the box of each token, and the edge down to it."""
    rotation = 90 if layout.upright else 0
    style: dict[str, Any] = {"ha": "center", "va": "center", "rotation": rotation, **PLAIN}
    frame = {"boxstyle": "round,pad=0.25", "linewidth": 0.8}
    ground = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
    highest, down = layout.highest, layout.down
    for node in tree.nodes:
        column, level = layout.places[node.token]
        box = frame | {"facecolor": "#fde6cd" if node.parent is None else "white"}
        axes.text(column, level, layout.texts[node.token], fontsize=8, bbox=box, **style)
        if node.parent is None:
            continue
        above, upper = layout.places[node.parent]
        bend = upper + (highest / 2 + 5) / down
        top = level - layout.heights[node.token] / 2 / down
        bottom = upper + layout.heights[node.parent] / 2 / down
        path = [above, above, column, column], [bottom, bend, bend, top]
        axes.plot(*path, color="#555555", linewidth=1)
        axes.plot(above, bottom, marker=CARETUP, markersize=5, color="#555555")
        middle = level - (highest / 2 + 7 + layout.edge_height / 2) / down
        text = layout.edges[node.token]
        axes.text(column, middle, text, fontsize=7, linespacing=1, bbox=ground, **style)
