"""Attribution trees: how information flows between tokens, from the lowest layers to the root.

Hao, Dong, Wei, Xu: Self-Attention Attribution, AAAI 2021, section 5.1 and algorithm 1. The paper
asks for the tree with the largest

    Σ_l Σ_{(i,j) ∈ E_l} Attr_l(i, j) − λ Σ_l |E_l|,  E_l ⊂ {(i, j): Attr_l(i, j) / max Attr_l > τ},

and builds one greedily, from the top layer down, with τ = 0.4. What it leaves open is as in its
published code: layers are visited from the last but one to the first, pairs by row and column, and
an edge is taken if its head is in the tree and its tail is not yet. λ is 0 there; here an edge
whose attribution is not above λ, which could only lower the objective, is not taken.

Shapes: T tokens (no padding), L layers (all of the model's, from the first up), N heads.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...errors import InputError
from ...runtime.text import printable

THRESHOLD = 0.4  # τ of the paper's experiments


@dataclasses.dataclass(frozen=True)
class TreeOptions:
    """How a tree is built: τ and λ.

    Raises:
      InputError: one is out of range.
    """

    threshold: float = THRESHOLD  # τ, in 0 … 1
    penalty: float = 0.0  # λ, in units of the model's output

    def __post_init__(self):
        if not 0 <= self.threshold <= 1:
            raise InputError(f"threshold must be from 0 to 1, not {self.threshold}")
        if not 0 <= self.penalty < float("inf"):
            raise InputError(f"penalty must be 0 or more, not {self.penalty}")

    def keywords(self) -> dict[str, float]:
        """Return the keywords of the views: `tree_threshold` and `tree_penalty`."""
        return {"tree_threshold": self.threshold, "tree_penalty": self.penalty}


@dataclasses.dataclass(frozen=True)
class TreeNode:
    """A token in the tree, and the edge by which it joined."""

    token: int  # position
    level: int  # 0 for the root, the larger the lower
    parent: int | None = None  # position of the token that attends to this one; the root has none
    layer: int | None = None  # of that attention
    attribution: float | None = None  # of that edge, in units of the model's output
    proportion: float | None = None  # the same divided by the layer's largest


@dataclasses.dataclass(frozen=True)
class AttributionTree:
    """A tree of tokens: edges go from a token to those it drew information from.

    `str` draws it as text.
    """

    nodes: tuple[TreeNode, ...]  # in the order in which they joined, the root first
    tokens: tuple[str, ...]  # of the whole sentence
    threshold: float
    penalty: float

    @property
    def root(self) -> int:
        """The position of the token at the top."""
        return self.nodes[0].token

    @property
    def edges(self) -> list[tuple[int, int, int]]:
        """(parent, child, layer) of every edge, in the order in which they joined."""
        return [
            (node.parent, node.token, node.layer)
            for node in self.nodes
            if node.parent is not None and node.layer is not None
        ]

    @property
    def objective(self) -> float:
        """Σ attribution − λ · number of edges."""
        return sum(
            node.attribution - self.penalty for node in self.nodes if node.attribution is not None
        )

    @functools.cached_property
    def _children(self) -> dict[int, list[TreeNode]]:
        children: dict[int, list[TreeNode]] = {node.token: [] for node in self.nodes}
        for node in sorted(self.nodes, key=lambda node: node.token):
            if node.parent is not None:
                children[node.parent].append(node)
        return children

    def children(self, token: int) -> list[TreeNode]:
        """Return the nodes below a token, in the order of the sentence."""
        return self._children[token]

    def positions(self) -> dict[int, tuple[float, int]]:
        """Return where to draw each token: (column, level).

        Edges do not cross; a parent stands above the middle of its children.
        """
        columns: dict[int, float] = {}
        next_column = 0
        for token in self._bottom_up():
            below = [columns[child.token] for child in self.children(token)]
            columns[token] = (below[0] + below[-1]) / 2 if below else next_column
            next_column += not below
        return {node.token: (columns[node.token], node.level) for node in self.nodes}

    def _bottom_up(self) -> list[int]:
        """Return the tokens, children before their parent, subtrees from left to right."""
        order, stack = [], [self.root]
        while stack:  # not recursive: a chain may have as many levels as the sentence has tokens
            token = stack.pop()
            order.append(token)
            stack += [child.token for child in self.children(token)]
        return order[::-1]

    def to_dict(self) -> dict[str, Any]:
        """Return the tree as what JSON can hold."""
        return {
            "root": self.root,
            "threshold": self.threshold,
            "penalty": self.penalty,
            "objective": self.objective,
            "nodes": [
                dataclasses.asdict(node) | {"text": self.tokens[node.token]} for node in self.nodes
            ],
        }

    def to_json(self) -> str:
        """Return `to_dict` as JSON, without a character beyond ASCII."""
        return json.dumps(self.to_dict(), indent=2)

    def to_dot(self) -> str:
        """Return the tree in Graphviz' language: `dot -Tpdf` draws it."""
        lines = [
            "digraph attribution_tree {",
            '  node [shape=box, style=rounded, fontname="sans-serif"];',
            "  edge [fontsize=10];",
        ]
        lines += [
            f"  {node.token} [label={_quoted(self.tokens[node.token])}];" for node in self.nodes
        ]
        lines += [
            f'  {node.parent} -> {node.token} [label="layer'
            f' {node.layer}\\n{node.attribution:+.3g}"];'
            for node in self.nodes[1:]
        ]
        for level in range(1, 1 + max(node.level for node in self.nodes)):
            same = "; ".join(str(node.token) for node in self.nodes if node.level == level)
            lines += [f"  {{ rank=same; {same}; }}"] if same else []
        return "\n".join([*lines, "}", ""])

    def __str__(self) -> str:
        lines, stack = [], [(self.nodes[0], "", "")]
        while stack:
            node, lead, indent = stack.pop()
            edge = "" if node.parent is None else f"  layer {node.layer}  {node.attribution:+.3g}"
            lines.append(f"{lead}{printable(self.tokens[node.token])} ({node.token}){edge}")
            below = self.children(node.token)
            for number, child in reversed(list(enumerate(below))):
                last = number == len(below) - 1
                stack.append(
                    (
                        child,
                        indent + ("└─ " if last else "├─ "),
                        indent + ("   " if last else "│  "),
                    )
                )
        return "\n".join(lines)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(char if char.isprintable() else " " for char in escaped) + '"'


def attribution_tree(
    attributions,
    tokens: Sequence[str] | None = None,
    threshold: float = THRESHOLD,
    penalty: float = 0.0,
) -> AttributionTree:
    """Build the attribution tree of one example.

    Paper, algorithm 1, by the rules of the published code. E_l is the attribution of layer l summed
    over heads; P_l is E_l divided by its largest value outside the [CLS] row, in absolute terms.
    The root is the token (not the first, [CLS]) with the largest sum of positive attributions to
    other tokens, over all layers. In layer L−2 the root takes every token with P > τ. In the layers
    below, pair by pair in the order of rows and columns, a token of the tree other than [CLS] takes
    every token with P > τ that is not in the tree. A child stands one level below its parent,
    except where the parent already has children from a layer above: then it stands at the lowest
    level so far.

    Args:
      attributions: [L, N, T, T] or, summed over heads, [L, T, T]: row attends to column, of all
        layers from the first to the last, without padding.
      tokens: their names, by default their positions.
      threshold: τ, in 0 … 1. Larger: a smaller tree.
      penalty: λ, in units of the model's output: edges of no larger attribution are not taken.

    Returns:
      `AttributionTree`: every token in it has one parent, but for the root.

    Raises:
      InputError: shapes, values or options are not as said.
    """
    try:
        values = np.asarray(attributions, np.float64)
    except (TypeError, ValueError):
        raise InputError(
            f"attributions must be numbers, not {type(attributions).__name__}: an Explanation has"
            " .tree()"
        ) from None
    if values.ndim == 4:
        values = values.sum(axis=1)
    if values.ndim != 3 or values.shape[1] != values.shape[2] or not values.size:
        raise InputError(
            "attributions of one example must be [L, N, T, T] or [L, T, T], not"
            f" {list(np.shape(attributions))}"
        )
    if not np.isfinite(values).all():
        raise InputError("attributions have values that are not finite")
    num_layers, num_tokens, _ = values.shape
    tokens = tuple(map(str, range(num_tokens) if tokens is None else tokens))
    if len(tokens) != num_tokens:
        raise InputError(f"{len(tokens)} tokens for attributions of {num_tokens}")
    TreeOptions(threshold, penalty)  # checks them

    # On the joint scale of the whole sentence. [CLS], the first row, is where
    # the classifier reads.
    total = values.sum(axis=0)
    off_diagonal = np.where(np.eye(num_tokens, dtype=bool), 0, np.maximum(total, 0))
    root = 1 + int(off_diagonal[1:].sum(axis=1).argmax()) if num_tokens > 1 else 0

    nodes = {root: TreeNode(root, 0)}
    first_layer_of: dict[int, int] = {}  # the layer from which a token took its first children
    for layer in range(num_layers - 2, -1, -1):
        largest = abs(values[layer, 1:].max(initial=-np.inf)) if num_tokens > 1 else 0
        if largest == 0:
            continue
        proportions = values[layer] / largest
        for parent, child in np.argwhere(
            (proportions > threshold) & (values[layer] > penalty)
        ).tolist():
            may_take = (
                parent == root if layer == num_layers - 2 else parent != 0 and parent in nodes
            )
            if not may_take or child in nodes:
                continue
            is_first = first_layer_of.setdefault(parent, layer) == layer
            level = (
                nodes[parent].level + 1 if is_first else max(node.level for node in nodes.values())
            )
            attribution, proportion = (
                float(values[layer, parent, child]),
                float(proportions[parent, child]),
            )
            nodes[child] = TreeNode(child, level, parent, layer, attribution, proportion)
    return AttributionTree(tuple(nodes.values()), tokens, float(threshold), float(penalty))
