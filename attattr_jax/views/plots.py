"""Figures of explanations, head importance and pruning, as PNG, SVG and PDF.

Signed values are orange above 0, purple below and white at 0. Colours can be told apart by
colour-blind readers (Okabe and Ito, PuOr, viridis), and lines by their markers or dashes as well.
Where the names of all tokens would overlap, the strongest tokens are named.

Text from users is shown as it is: never read as a formula, and what is not printable, or would
reorder its neighbours, as an escape. A character that the font lacks is drawn as a box: name fonts
that have it in `matplotlib.rcParams["font.family"]`.

Shapes: T tokens of one example (no padding), L layers, N heads, S numbers of integration steps.
"""

from __future__ import annotations

import contextlib
import copy
import io
import itertools
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import scipy.optimize
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.markers import CARETDOWN
from matplotlib.textpath import text_to_path

from ..attribution.reductions import strongest_pairs
from ..attribution.tree import THRESHOLD, AttributionTree
from ..errors import InputError
from ..runtime.files import write_file
from ..runtime.text import printable
from .example import Example, single_output

FORMATS = ("png", "svg")  # what is written unless formats are named
UNIT = "change of probability"
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_CONTROL = "#777777"
_MARKERS = "osD^vPX<>*hd"
# Colour and dashes of what is above 0 and below
_SIGNS = {True: ("#b35806", "-"), False: ("#542788", (0, (3, 1.2)))}
_ABOVE_ZERO = ListedColormap(matplotlib.colormaps["PuOr_r"](np.linspace(0.5, 1, 256)), "above zero")
_PALETTES = {"attribution": "PuOr_r", "attention": "BuGn"}
_PLAIN = {"parse_math": False, "usetex": False}  # for every text that may hold what a user wrote
_WIDEST = 11.2  # inches of a drawing, to which labels are added
_PITCH = 9.0  # points from the name of a token to the next, 7 points high
_LONGEST = 14  # characters of a token


@contextlib.contextmanager
def _missing_glyphs_ignored() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", r"Glyph .* missing from|Matplotlib currently does not support", UserWarning
        )
        yield


class _Figure(Figure):
    """A figure that does not warn of characters the font lacks: texts from users may hold any."""

    draw = _missing_glyphs_ignored()(Figure.draw)


def save_figure(figure: Figure, stem: Path, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Write a figure as `stem`.png and so on ("png", "svg", "pdf"); the same figure gives the same
    bytes, and text stays text.
    """
    files = []
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    for extension in formats:
        buffer = io.BytesIO()
        with matplotlib.rc_context(
            {"svg.hashsalt": "attattr-jax", "svg.fonttype": "none", "pdf.fonttype": 42}
        ):
            # A copy is saved: drawing a figure moves its layout a little, and the next time would
            # start from there.
            copy.deepcopy(figure).savefig(
                buffer, format=extension, dpi=200, metadata=undated.get(extension)
            )
        files.append(stem.with_name(f"{stem.name}.{extension}"))
        write_file(files[-1], buffer.getvalue())
    return files


def head_grid(
    importance, mask=None, measure: str = "attribution", layers: Sequence[int] | None = None
) -> Figure:
    """Draw the importance of every head, layer by head, those that are pruned crossed out.

    Args:
      importance: [L, N].
      mask: [L, N], 0 marks a pruned head; without one nothing is crossed out.
      measure: what the colours show.
      layers: the numbers of the rows, by default from 0.
    """
    importance = np.asarray(importance, float)
    num_layers, num_heads = importance.shape
    figure = _Figure(
        figsize=(1.8 + 0.42 * num_heads, 1.5 + 0.36 * num_layers), layout="constrained"
    )
    axes = figure.subplots()
    # A negative importance is a finding (the head hurts): then the colours diverge from white at 0.
    limits = _limits(importance, signed=importance.min() < 0)
    image = axes.imshow(
        importance, aspect="equal", cmap="PuOr_r" if limits["vmin"] else _ABOVE_ZERO, **limits
    )
    title = f"importance of {importance.size} heads"
    if mask is not None:
        pruned = np.argwhere(np.asarray(mask) == 0)
        title = f"{len(pruned)} of {importance.size} heads pruned (×)"
        # Black on white: seen on every colour
        for colour, width in (("white", 2.6), ("black", 1.1)):
            axes.scatter(pruned[:, 1], pruned[:, 0], marker="x", s=52, c=colour, linewidths=width)
    axes.set_xticks(range(num_heads))
    axes.set_yticks(range(num_layers), range(num_layers) if layers is None else layers)
    axes.set_xlabel("head")
    axes.set_ylabel("layer")
    axes.set_title(title, fontsize=10)
    figure.colorbar(image, ax=axes, shrink=0.9).set_label(
        f"importance ({measure})", fontsize=8, **_PLAIN
    )
    return figure


def heat_map(
    matrix,
    tokens: Sequence[str],
    kind: str = "attribution",
    title: str | None = None,
    unit: str | None = None,
    limit: float | None = None,
) -> Figure:
    """Draw a matrix of token pairs.

    Args:
      matrix: [T, T], row attends to column.
      tokens: T texts.
      kind: "attribution", signed, or "attention", from 0 up.
      title, unit: above it, and of the values, by default "change of probability" of attributions
        and "probability" of attention.
      limit: the value of the strongest colour, by default the largest; a smaller one shows more of
        the rest.
    """
    side, margin = _sizes(tokens, 8.6)
    figure = _titled(side + margin + 1.1, side + margin, title)
    _draw_matrix(figure.subplots(), matrix, tokens, side, kind, unit, limit)
    return figure


def attribution_and_attention(example: Example, layer: int, head: int, unit: str = UNIT) -> Figure:
    """Draw the attributions of one head beside its attention.

    Args:
      example: with `attributions` and `attention_probs`.
      layer, head: in the numbering of the model.
      unit: of the attributions.

    Raises:
      InputError: the example has no such head, or its arrays were not kept.
    """
    layers, tokens, attributions = (
        example.row["layers"],
        example.row["tokens"],
        example.attributions,
    )
    if layer not in layers or not 0 <= head < attributions.shape[1]:
        raise InputError(
            f"there is no layer {layer}, head {head}: layers are {layers}, heads 0 to"
            f" {attributions.shape[1] - 1}"
        )
    at = layers.index(layer)
    side, margin = _sizes(tokens, 4.2)
    figure = _titled(2 * (side + 1.2) + margin, side + margin, f"layer {layer}, head {head}")
    left, right = figure.subplots(1, 2, sharey=True)
    _draw_matrix(left, attributions[at, head], tokens, side, "attribution", unit)
    _draw_matrix(
        right, example.attention_probs[at, head], tokens, side, "attention", name_rows=False
    )
    return figure


def arcs(
    matrix,
    tokens: Sequence[str],
    count: int = 10,
    left_out: Sequence[int] | None = None,
    title: str | None = None,
    unit: str = UNIT,
) -> Figure:
    """Draw the strongest token pairs as arcs over the sentence, arrow heads at the tokens that are
    attended to.

    Args:
      matrix: [T, T] attributions, row attends to column. Pairs of exactly 0 are not drawn.
      tokens: T texts.
      count: how many pairs.
      left_out: [T], 1 for tokens whose pairs are left out, such as `special_tokens_mask`.
      title, unit: above them, and of the values.
    """
    pairs = [pair for pair in strongest_pairs(_square(matrix, tokens), count, left_out) if pair[2]]
    width = min(_WIDEST, max(4.2, 0.32 * len(tokens)))
    figure = _titled(width + 0.4, 2.6 + _width(map(_shown, tokens), 8) / 72, title)
    axes = figure.subplots()
    point = len(tokens) / (width * 72)  # in tokens
    largest = max((abs(value) for *_, value in pairs), default=0.0)
    longest = max((abs(i - j) for i, j, _ in pairs), default=0) or 1
    angle = np.linspace(0, np.pi, 90)
    for i, j, value in reversed(pairs):  # the strongest on top
        # An arc leaves right of the middle of a token and arrives left of it: i → j and j → i are
        # two lines.
        beside, bulge = min(2.5 * point, 0.3), 7 * point * (i == j)
        height = 0.2 + 0.8 * (abs(i - j) / longest) ** 0.7 + 0.07 * (i > j)
        x, y = (
            (i + j) / 2 + ((i - j) / 2 + beside) * np.cos(angle) + bulge * np.sin(2 * angle),
            height * np.sin(angle),
        )
        weight = max(0.7, 4 * abs(value) / largest)
        size = 4 + 1.3 * weight
        # A line ends within its arrow head, which stays pointed
        seen = (angle < np.pi / 2) | (y > 0.004 * size)
        colour, dashes = _SIGNS[value > 0]
        axes.plot(x[seen], y[seen], color=colour, linestyle=dashes, linewidth=weight, alpha=0.85)
        axes.plot(x[-1], 0, marker=CARETDOWN, markersize=size, markeredgewidth=0, color=colour)

    positions, all_fit = np.arange(len(tokens)), _PITCH * point <= 1
    strongest = dict.fromkeys(itertools.chain.from_iterable(pair[:2] for pair in pairs))
    named = positions if all_fit else np.sort([*strongest][: int(width * 72 / _PITCH)]).astype(int)
    slots, floor = _spread(named, _PITCH * point, len(tokens)), -0.05 if all_fit else -0.22
    axes.plot(
        positions,
        0 * positions,
        color="#888888",
        linewidth=0.8,
        marker=".",
        markersize=3 if all_fit else 1.5,
    )
    axes.plot(
        [named, slots], [0 * slots, 0 * slots + floor], color="#bbbbbb", linewidth=0.6, zorder=0
    )
    axes.set_xticks(
        slots,
        [_shown(tokens[at]) for at in named],
        rotation=90,
        fontsize=8 if all_fit else 7,
        **_PLAIN,
    )
    axes.tick_params(axis="x", length=0)
    meaning = "tokens" if all_fit else f"{len(tokens)} tokens, those with an arc named"
    axes.set_xlabel(
        f"{meaning}; an arrow goes from the token that attends to the one attended to", fontsize=8
    )
    axes.set(xlim=(-0.5 - 6 * point, len(tokens) - 0.5 + 6 * point), ylim=(floor, 1.15), yticks=[])
    axes.spines[:].set_visible(False)

    for (colour, dashes), label, sign in zip(
        _SIGNS.values(), ("positive", "negative"), (1, -1), strict=True
    ):
        if any(value * sign > 0 for *_, value in pairs):
            axes.plot([], [], color=colour, linestyle=dashes, linewidth=2, label=label)
    axes.plot(
        [],
        [],
        color="black",
        linewidth=4 if pairs else 0,
        label=f"largest: {largest:.2g}" if pairs else "none but 0",
    )
    legend = figure.legend(
        loc="outside lower center",
        ncols=3,
        fontsize=8,
        title=f"attribution ({unit})",
        frameon=False,
    )
    legend.get_title().set(fontsize=8, **_PLAIN)
    return figure


def tree(tree: AttributionTree, unit: str = UNIT) -> Figure:
    """Draw an attribution tree, the root at the top; an edge goes down to the token that is
    attended to.

    Args:
      tree: of one example. A token that the sentence has more than once is shown with its position.
      unit: of the attributions.
    """
    places, children = tree.positions(), tree.nodes[1:]
    texts = {
        at: _shown(tree.tokens[at]) + (f" ({at})" if tree.tokens.count(tree.tokens[at]) > 1 else "")
        for at in places
    }
    edges = {node.token: f"layer {node.layer}\n{node.attribution:+.2g}" for node in children}
    last_column, last_level = (max(place[axis] for place in places.values()) for axis in (0, 1))

    # In points. At no level may a box touch another, or an edge on its way down.
    widths, heights = (
        {at: _width([text], 8) + 9 for at, text in texts.items()},
        dict.fromkeys(places, 16.0),
    )
    edge_width, edge_height = _width(edges.values(), 7) + 4, 17.0
    halves = [
        (level, column, max(widths[at], edge_width) / 2) for at, (column, level) in places.items()
    ]
    halves += [
        (level, places[node.token][0], 2)
        for node in children
        for level in range(places[node.parent][1] + 1, node.level)
    ]
    neighbours = [(a, b) for a, b in itertools.pairwise(sorted(halves)) if a[0] == b[0]]
    across = max(((a[2] + b[2] + 6) / (b[1] - a[1]) for a, b in neighbours), default=1)
    margin = max(half for *_, half in halves)
    upright = across * last_column + 2 * margin > _WIDEST * 72
    if upright:  # text runs downwards, so that columns are as wide as it is high
        across, margin, heights, edge_height = edge_height + 2, edge_height, widths, edge_width
    highest = max(heights.values())
    down = highest + edge_height + 16

    width, height = across * last_column + 2 * margin, down * last_level + highest
    figure = _titled(max(width / 72 + 0.9, 3.4), max(height / 72 + 0.8, 1.8))
    axes = figure.subplots()
    style = {"ha": "center", "va": "center", "rotation": 90 if upright else 0, **_PLAIN}
    frame, ground = (
        {"boxstyle": "round,pad=0.25", "linewidth": 0.8},
        {"facecolor": "white", "edgecolor": "none", "pad": 0.5},
    )
    for node in tree.nodes:
        column, level = places[node.token]
        box = frame | {"facecolor": "#fde6cd" if node.parent is None else "white"}
        axes.text(column, level, texts[node.token], fontsize=8, bbox=box, **style)
        if node.parent is not None:
            above, upper = places[node.parent]
            bend, top = upper + (highest / 2 + 5) / down, level - heights[node.token] / 2 / down
            axes.plot(
                [above, above, column, column],
                [upper, bend, bend, top],
                color="#555555",
                linewidth=1,
            )
            axes.plot(column, top, marker=CARETDOWN, markersize=5, color="#555555")
            middle = level - (highest / 2 + 7 + edge_height / 2) / down
            axes.text(
                column, middle, edges[node.token], fontsize=7, linespacing=1, bbox=ground, **style
            )
    beside, beyond = margin / across, highest / 2 / down
    axes.set(
        xlim=(-beside, last_column + beside),
        ylim=(last_level + beyond, -beyond),
        xticks=[],
        yticks=range(last_level + 1),
    )
    axes.spines[:].set_visible(False)
    axes.set_ylabel("level (0: the root)")
    axes.set_xlabel(
        (
            f"edges: layer, attribution\n({unit})"
            if children
            else f"no edge above τ = {tree.threshold:g}"
        ),
        fontsize=8,
        **_PLAIN,
    )
    return figure


def token_bars(values, tokens: Sequence[str], title: str | None = None, unit: str = UNIT) -> Figure:
    """Draw an attribution per token, such as integrated gradients, as bars.

    Args:
      values: [T].
      tokens: T texts.
      title, unit: above them, and of the values.
    """
    side, margin = _sizes(tokens, 10.4)
    figure = _titled(4 + margin, side + 0.6, title)
    _draw_bars(figure.subplots(), values, tokens, side, unit)
    return figure


def convergence(
    steps: Sequence[int],
    errors,
    layers: Sequence[int],
    method: str | None = None,
    n_steps: int | None = None,
) -> Figure:
    """Draw how far attributions are from complete against the number of integration steps, a line
    per layer.

    Args:
      steps: S numbers of steps.
      errors: [S, L], |convergence delta| / Σ |attributions|. Zeros are drawn below all else, where
        the axis says.
      layers: the numbers of the L layers.
      method: the integration rule.
      n_steps: the number used, marked by a dotted line.
    """
    errors = np.asarray(errors, float)
    floor = (
        10.0 ** (math.ceil(math.log10(errors[errors > 0].min())) - 1)
        if (errors > 0).any()
        else 1e-8
    )
    figure = _titled(7, 4.6, None if method is None else f"integration rule: {method}")
    axes = figure.subplots()
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(layers)))
    for at, (layer, colour) in enumerate(zip(layers, colours, strict=True)):
        turn, marker = divmod(at, len(_MARKERS))  # the second dozen is hollow and dashed
        style = _MARKERS[marker] + ("--" if turn else "-")
        fill = "white" if turn else colour
        axes.plot(
            steps,
            np.maximum(errors[:, at], floor),
            style,
            color=colour,
            markersize=5,
            markerfacecolor=fill,
            label=str(layer),
        )
    if n_steps is not None:
        axes.axvline(n_steps, color="black", linewidth=1, linestyle=":", label=f"{n_steps} steps")
    ticks: list[int] = []
    for step in sorted(steps):  # those that leave room for their numbers
        ticks += [step] if not ticks or step >= 1.3 * ticks[-1] else []
    axes.set(xscale="log", yscale="log", xlabel="integration steps")
    axes.set_xticks([], minor=True)
    axes.set_xticks(ticks, ticks)
    axes.set_ylabel(
        "|convergence delta| / Σ |attributions|"
        + (f"\n(0 is drawn at {floor:g})" if (errors == 0).any() else "")
    )
    axes.grid(alpha=0.25)
    axes.legend(
        title="layer",
        fontsize=8,
        frameon=False,
        loc="center left",
        bbox_to_anchor=(1, 0.5),
        ncols=math.ceil(len(layers) / 12),
    )
    return figure


def comparison(example: Example, unit: str = UNIT) -> Figure:
    """Draw the attributions of tokens (integrated gradients) beside those of token pairs (over all
    layers and heads).

    Args:
      example: with `token_pairs`.
      unit: of the tokens' attributions; those of pairs are shares of the largest.
    """
    row, tokens = example.row, example.row["tokens"]
    output = single_output(row)
    if output is None:
        lines = [
            f"predicted: {row['predicted']}",
            f"probability: {row['probabilities'][row['predicted']]:.3f}",
        ]
    else:
        lines = [f"output = {output:.3f}"]
    if row["target"] != row["predicted"]:
        lines.append(f"explained: {row['target']}")
    side, margin = _sizes(tokens, 7.6)
    figure = _titled(side + 3.4 + margin, side + margin, *lines)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[2.1, side + 1])
    _draw_bars(left, row["token_attributions"], tokens, side, unit)
    left.locator_params(axis="x", nbins=4)
    _draw_matrix(
        right,
        example.token_pair_attributions,
        tokens,
        side,
        "attribution",
        "share of the largest",
        limit=1.0,
        name_rows=False,
    )
    right.set_aspect("auto")  # its rows are level with the bars
    return figure


def example_figures(
    example: Example,
    threshold: float = THRESHOLD,
    penalty: float = 0.0,
    objective: str = "prob",
) -> Iterator[tuple[str, Figure]]:
    """Yield (name, figure) of every figure there is of one example, made when it is asked for.

    Args:
      example: with all its arrays.
      threshold, penalty: τ and λ of the tree, which is drawn where all layers were attributed.
      objective: what was explained, for the units.

    Raises:
      InputError: the arrays were not kept.
    """
    example = example.loaded()
    row, unit = (
        example.row,
        {"prob": UNIT, "logit": "change of the logit", "log_prob": "change of the log-probability"}[
            objective
        ],
    )
    tokens, total = row["tokens"], example.array("token_pairs")
    title = example.sum_name
    strongest = row["heads"][0] if row["heads"] else {"layer": row["layers"][0], "head": 0}
    yield (
        "head_grid",
        head_grid(
            example.array("head_importance"),
            measure=f"largest attribution,\n{unit}",
            layers=row["layers"],
        ),
    )
    yield "head", attribution_and_attention(example, strongest["layer"], strongest["head"], unit)
    yield "token_pairs", heat_map(total, tokens, title=title, unit=unit)
    yield "arcs", arcs(total, tokens, title=title, unit=unit)
    if row["token_attributions"] is not None:
        yield "tokens", token_bars(row["token_attributions"], tokens, "integrated gradients", unit)
        yield "comparison", comparison(example, unit)
    if example.has_all_layers:
        yield "tree", tree(example.tree(threshold, penalty), unit)


def accuracy_curves(
    curves: Sequence[dict[str, Any]], num_examples: int, removable_loss: float
) -> Figure:
    """Draw accuracy against the share of heads removed, a line for each measure; several seeds are
    a mean in a band of their range.

    Args:
      curves: `measure`, `points` of `fraction` and `accuracy`, and perhaps `keep_per_layer`, the
        point of the best heads of every layer.
      num_examples: that accuracy is measured on.
      removable_loss: draws the line below which accuracy has fallen by more than this.
    """
    figure = _titled(7.0, 4.4)
    axes = figure.subplots()
    measures = list(dict.fromkeys(curve["measure"] for curve in curves))
    coloured = iter(zip(_COLOURS, _MARKERS, strict=False))
    for measure in measures:
        members = [curve for curve in curves if curve["measure"] == measure]
        colour, marker = (
            (_CONTROL, ".") if measure == "random" else next(coloured, (_COLOURS[0], "x"))
        )
        shares = [100 * point["fraction"] for point in members[0]["points"]]
        accuracies = np.asarray(
            [[100 * point["accuracy"] for point in curve["points"]] for curve in members]
        )
        label = (
            measure if len(members) == 1 else f"{measure}, mean and range of {len(members)} seeds"
        )
        axes.plot(
            shares,
            accuracies.mean(axis=0),
            color=colour,
            marker=marker,
            markersize=5,
            linewidth=1.6,
            label=label,
        )
        if len(members) > 1:
            axes.fill_between(
                shares,
                accuracies.min(axis=0),
                accuracies.max(axis=0),
                color=colour,
                alpha=0.25,
                linewidth=0,
            )
        chosen = [curve["keep_per_layer"] for curve in members if "keep_per_layer" in curve]
        if chosen:
            average = np.mean([100 * point["accuracy"] for point in chosen])
            axes.plot(
                100 * chosen[0]["fraction"],
                average,
                "*",
                color=colour,
                markersize=13,
                markeredgecolor="black",
                markeredgewidth=0.6,
            )
    best = [curve["keep_per_layer"] for curve in curves if "keep_per_layer" in curve]
    if best:
        label = f"top {best[0]['per_layer']} heads of every layer"
        axes.plot(
            [],
            [],
            "*",
            color="white",
            markersize=13,
            markeredgecolor="black",
            markeredgewidth=0.6,
            label=label,
        )
    floor = 100 * (curves[0]["points"][0]["accuracy"] - removable_loss)
    axes.axhline(
        floor,
        color="black",
        linewidth=0.8,
        linestyle=":",
        label=f"{100 * removable_loss:g} point below none removed",
    )
    axes.set_xlabel("attention heads removed (%)")
    axes.set_ylabel(f"accuracy on {num_examples} examples (%)")
    axes.set_xlim(-2, 102)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, frameon=False)
    return figure


def _square(matrix, tokens: Sequence[str]) -> np.ndarray:
    matrix = np.asarray(matrix, float)
    if matrix.shape != (len(tokens), len(tokens)):
        raise InputError(
            f"a matrix of {len(tokens)} tokens must be [{len(tokens)}, {len(tokens)}], not"
            f" {list(matrix.shape)}"
        )
    return matrix


def _shown(text: str, longest: int = _LONGEST) -> str:
    """Return text as a label: no longer than this, with escapes for what is not printable (so for
    what reorders its neighbours).
    """
    text = printable(text)
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _width(texts: Iterable[str], size: float) -> float:
    """Return the width of the widest line in points."""
    font, lines = (
        FontProperties(size=size),
        itertools.chain.from_iterable(text.split("\n") for text in texts),
    )
    with _missing_glyphs_ignored():
        return max(
            (text_to_path.get_text_width_height_descent(line, font, False)[0] for line in lines),
            default=0.0,
        )


def _sizes(tokens: Sequence[str], most: float) -> tuple[float, float]:
    """Return the inches along which to place tokens, and those that their names and the title of
    their axis take.
    """
    return min(most, max(2.4, 0.19 * len(tokens))), _width(map(_shown, tokens), 8) / 72 + 0.5


def _titled(width: float, height: float, *lines: str | None) -> Figure:
    """Return a figure of so many inches, to which the lines of a title are added."""
    lines = [_shown(line, int(width * 12)) for line in lines if line]
    figure = _Figure(figsize=(width, height + 0.2 * len(lines)), layout="compressed")
    if lines:
        figure.suptitle("\n".join(lines), fontsize=10, **_PLAIN)
    return figure


def _limits(values, signed: bool, limit: float | None = None) -> dict[str, float]:
    limit = limit or float(np.abs(values).max()) or 1.0
    return {"vmin": -limit if signed else 0.0, "vmax": limit}


def _label_tokens(
    axis, tokens: Sequence[str], inches: float, meaning: str, strength: np.ndarray
) -> None:
    """Name the tokens along an axis of this length, or the strongest that do not overlap."""
    gap = math.ceil(_PITCH * len(tokens) / (inches * 72))
    named: list[int] = []
    for at in np.argsort(-strength, kind="stable"):
        if all(abs(at - other) >= gap for other in named):
            named.append(int(at))
    size, rotation = 8 if inches * 72 >= 11 * len(tokens) else 7, 90 if axis.axis_name == "x" else 0
    named.sort()
    axis.set_ticks(
        named, [_shown(tokens[at]) for at in named], fontsize=size, rotation=rotation, **_PLAIN
    )
    axis.set_label_text(
        meaning if gap == 1 else f"{meaning}: {len(tokens)} tokens, the strongest named"
    )


def _draw_matrix(
    axes,
    matrix,
    tokens,
    side: float,
    kind: str,
    unit=None,
    limit: float | None = None,
    name_rows: bool = True,
) -> None:
    matrix, signed = _square(matrix, tokens), kind == "attribution"
    image = axes.imshow(
        matrix, interpolation="nearest", cmap=_PALETTES[kind], **_limits(matrix, signed, limit)
    )
    _label_tokens(axes.xaxis, tokens, side, "to (attended to)", np.abs(matrix).max(axis=0))
    axes.set_ylabel("from (attends)")
    if name_rows:
        _label_tokens(axes.yaxis, tokens, side, "from (attends)", np.abs(matrix).max(axis=1))
    # By more than rounding
    is_cut = limit is not None and np.abs(matrix).max() > limit * (1 + 1e-6)
    ends = "neither" if not is_cut else "both" if signed else "max"
    bar = axes.figure.colorbar(
        image, ax=axes, fraction=0.2 / side, aspect=5 * side, shrink=0.95, pad=0.02, extend=ends
    )
    bar.set_label(f"{kind} ({unit or (UNIT if signed else 'probability')})", **_PLAIN)


def _draw_bars(axes, values, tokens, side: float, unit: str) -> None:
    values = np.asarray(values, float)
    axes.barh(
        range(len(tokens)), values, height=0.8, color=[_SIGNS[value > 0][0] for value in values]
    )
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_ylim(len(tokens) - 0.5, -0.5)
    _label_tokens(axes.yaxis, tokens, side, "token", np.abs(values))
    axes.set_xlabel(f"attribution\n({unit})", **_PLAIN)
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)


def _spread(places: np.ndarray, gap: float, num_tokens: int) -> np.ndarray:
    """Return the places closest to these that are at least `gap` apart, in order and within the
    axis.
    """
    if not places.size:
        return places
    steps = gap * np.arange(places.size)
    moved = scipy.optimize.isotonic_regression(
        places - steps
    ).x  # least squares: places - steps must not fall
    return np.clip(moved, -0.5, num_tokens - 0.5 - steps[-1]) + steps
