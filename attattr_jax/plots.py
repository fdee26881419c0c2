"""Figures of explanations, head importance and pruning, as PNG, SVG and PDF.

Signed values are orange above 0, purple below and white at 0. Colours can be told apart by colour-blind readers (Okabe and Ito,
ColorBrewer's PuOr, cividis), and lines by their markers or dashes as well.

Text from users is shown as it is: never read as a formula, and what is not printable, or would reorder its neighbours, as an escape. A
character that the font lacks is drawn as a box: name fonts that have it in `matplotlib.rcParams["font.family"]`.

Shapes: T tokens of one example (no padding), L layers, N heads, S numbers of integration steps.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import math
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
import scipy.optimize
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.markers import CARETDOWN
from matplotlib.textpath import text_to_path

from .errors import InputError
from .files import write_file
from .tokens import strongest_pairs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

    from .results import Explanation
    from .tree import AttributionTree

FORMATS = ("png", "svg")  # written unless others are asked for; "pdf" is one more
UNIT = "change of probability"

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_CONTROL = "#777777"
_MARKERS = "osD^vPX<>*hd"
_POSITIVE, _NEGATIVE = "#b35806", "#542788"
_ABOVE_ZERO = ListedColormap(matplotlib.colormaps["PuOr_r"](np.linspace(0.5, 1, 256)), "above zero")
_PLAIN = {"parse_math": False, "usetex": False}  # of every text that may hold what a user wrote

_INCH = 72  # points
_WIDEST = 11.2  # inches of a drawing, to which labels are added
_SIDE = 8.6  # the largest matrix, in inches
_PITCH = 9.5  # points from one label to the next, of 7 points each
_LONGEST = 14  # characters of a token


class _Figure(Figure):
    """A figure that says nothing of characters the font lacks: texts from users may hold any."""

    def draw(self, renderer):
        with _missing_glyphs_ignored():
            super().draw(renderer)

    def get_tightbbox(self, *args, **kwargs):
        with _missing_glyphs_ignored():
            return super().get_tightbbox(*args, **kwargs)


@contextlib.contextmanager
def _missing_glyphs_ignored() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph .* missing from|Matplotlib currently does not support", UserWarning)
        yield


def save_figure(figure: Figure, stem: Path, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Write a figure as `stem`.png and so on ("png", "svg", "pdf"); the same figure gives the same bytes, and text stays text."""
    files = []
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    for extension in formats:
        buffer = io.BytesIO()
        with matplotlib.rc_context({"svg.hashsalt": "attattr-jax", "svg.fonttype": "none", "pdf.fonttype": 42}):
            figure.savefig(buffer, format=extension, dpi=300, metadata=undated.get(extension))
        files.append(stem.with_name(f"{stem.name}.{extension}"))
        write_file(files[-1], buffer.getvalue())
    return files


def head_grid(importance, mask=None, measure: str = "attribution", layers: Sequence[int] | None = None) -> Figure:
    """Draw the importance of every head, layer by head, those that are pruned crossed out.

    Args:
      importance: [L, N].
      mask: [L, N], 0 marks a pruned head; without one nothing is crossed out.
      measure: what the colours show.
      layers: the L rows' numbers, by default from 0.
    """
    importance = np.asarray(importance, float)
    num_layers, num_heads = importance.shape
    figure = _Figure(figsize=(1.8 + 0.42 * num_heads, 1.5 + 0.36 * num_layers), layout="constrained")
    axes = figure.subplots()
    # A negative importance is a finding (the head hurts): then the colours diverge from white at 0.
    image = axes.imshow(importance, aspect="equal", **_palette(importance, _ABOVE_ZERO if importance.min() >= 0 else None))
    if mask is None:
        title = f"importance of {importance.size} heads"
    else:
        pruned = np.argwhere(np.asarray(mask) == 0)
        title = f"{len(pruned)} of {importance.size} heads pruned (×)"
        for colour, width in (("white", 2.6), ("black", 1.1)):  # black on white: seen on every colour
            axes.scatter(pruned[:, 1], pruned[:, 0], marker="x", s=52, c=colour, linewidths=width)
    axes.set_xticks(range(num_heads))
    axes.set_yticks(range(num_layers), range(num_layers) if layers is None else layers)
    axes.set_xlabel("head")
    axes.set_ylabel("layer")
    axes.set_title(title, fontsize=10)
    figure.colorbar(image, ax=axes, shrink=0.9).set_label(f"importance ({measure})", **_PLAIN)
    return figure


def heat_map(matrix, tokens: Sequence[str], kind: str = "attribution", title: str | None = None, unit: str | None = None) -> Figure:
    """Draw a matrix of token pairs.

    Args:
      matrix: [T, T], row attends to column.
      tokens: T texts.
      kind: "attribution", signed, or "attention", from 0 up.
      title: above it.
      unit: of the values, by default "change of probability" of attributions and "probability" of attention.
    """
    matrix, side = _pairs(matrix, tokens), _side(tokens, _SIDE)
    margin = _margin(tokens)
    figure = _titled(side + margin + 1.1, side + margin, title)
    _draw_matrix(figure.subplots(), matrix, tokens, side, kind, unit)
    return figure


def attribution_and_attention(example: Explanation, layer: int, head: int, unit: str = UNIT) -> Figure:
    """Draw what one head attends to beside what of that matters.

    Args:
      example: with `attributions` and `attention_probs`.
      layer, head: in the numbering of the model.
      unit: of the attributions.

    Raises:
      InputError: the example has no such head, or its arrays were not kept.
    """
    layers, tokens, attributions = example.row["layers"], example.row["tokens"], example.attributions
    if layer not in layers or not 0 <= head < attributions.shape[1]:
        raise InputError(f"there is no head {head} in layer {layer}: layers are {layers}, heads 0 to {attributions.shape[1] - 1}")
    at, side = layers.index(layer), _side(tokens, 4.2)
    margin = _margin(tokens)
    figure = _titled(2 * (side + 1.1) + margin, side + margin, f"layer {layer}, head {head}")
    left, right = figure.subplots(1, 2, sharey=True)
    _draw_matrix(left, attributions[at, head], tokens, side, "attribution", unit)
    _draw_matrix(right, example.attention_probs[at, head], tokens, side, "attention")
    return figure


def arcs(
    matrix, tokens: Sequence[str], count: int = 10, left_out: Sequence[int] | None = None, title: str | None = None, unit: str = UNIT
) -> Figure:
    """Draw the strongest token pairs as arcs over the sentence, arrow heads at the tokens that are attended to.

    Args:
      matrix: [T, T] attributions, row attends to column. Pairs of exactly 0 are not drawn.
      tokens: T texts. Where not all can be named, those with an arc are.
      count: how many pairs.
      left_out: [T], 1 for tokens whose pairs are left out, such as `special_tokens_mask`.
      title: above them.
      unit: of the values.
    """
    pairs = [pair for pair in strongest_pairs(_pairs(matrix, tokens), count, left_out) if pair[2]]
    width = min(_WIDEST, max(4.2, 0.32 * len(tokens)))
    figure = _titled(width + 0.4, 2.6 + _width(map(_shown, tokens), 8) / _INCH, title)
    axes = figure.subplots()
    point = len(tokens) / (width * _INCH)  # in units of the axis
    largest = max((abs(value) for *_, value in pairs), default=1.0)
    longest = max((abs(i - j) for i, j, _ in pairs), default=1) or 1
    angle = np.linspace(0, np.pi, 60)
    for i, j, value in reversed(pairs):  # the strongest on top
        # An arc leaves right of the middle of a token and arrives left of it: i → j and j → i are two lines.
        start, end = i + 2.5 * point, j - 2.5 * point
        height = 0.2 + 0.8 * (abs(i - j) / longest) ** 0.7 + 0.07 * (i > j) if i != j else 0.16
        if i == j:
            start, end = i + 5 * point, i - 5 * point
        weight = max(0.7, 4 * abs(value) / largest)
        line = {"color": _POSITIVE if value > 0 else _NEGATIVE, "linestyle": "-" if value > 0 else (0, (3, 1.2)), "linewidth": weight}
        x, y = (start + end) / 2 + (start - end) / 2 * np.cos(angle), height * np.sin(angle)
        axes.plot(x, y, marker=CARETDOWN, markevery=[-1], markersize=4 + 1.3 * weight, markeredgewidth=0, alpha=0.85, **line)

    named, step = range(len(tokens)), math.ceil(_PITCH * point)
    if step > 1:
        ends = dict.fromkeys(itertools.chain.from_iterable(pair[:2] for pair in pairs))
        named = np.sort(list(ends)[: int(width * _INCH / _PITCH)])
    slots = _spread(np.asarray(named, float), _PITCH * point, -0.5, len(tokens) - 0.5)
    floor = -0.22 if step > 1 else -0.05
    axes.plot(range(len(tokens)), np.zeros(len(tokens)), color="#888888", linewidth=0.8, marker=".", markersize=3 if step == 1 else 1.5)
    axes.plot([named, slots], [np.zeros(len(slots)), np.full(len(slots), floor)], color="#bbbbbb", linewidth=0.6, zorder=0)
    axes.set_xticks(slots, [_shown(tokens[at]) for at in named], rotation=90, fontsize=8 if step == 1 else 7, **_PLAIN)
    axes.tick_params(axis="x", length=0)
    names = "tokens" if step == 1 else f"the {len(tokens)} tokens, those with an arc named"
    axes.set_xlabel(f"{names}; an arrow goes from the token that attends to the one attended to", fontsize=8, wrap=True)
    axes.set(xlim=(-0.5 - 6 * point, len(tokens) - 0.5 + 6 * point), ylim=(floor, 1.15), yticks=[])
    axes.spines[:].set_visible(False)
    keys = [Line2D([], [], color=_POSITIVE, linewidth=2, label="positive")] if any(value > 0 for *_, value in pairs) else []
    if any(value < 0 for *_, value in pairs):
        keys.append(Line2D([], [], color=_NEGATIVE, linewidth=2, linestyle=(0, (3, 1.2)), label="negative"))
    keys.append(Line2D([], [], color="black", linewidth=4 if pairs else 0, label=f"{largest:.2g}" if pairs else "none but 0"))
    legend = figure.legend(handles=keys, loc="outside lower center", ncols=3, fontsize=8, title=f"attribution ({unit})", frameon=False)
    legend.get_title().set(fontsize=8, **_PLAIN)
    return figure


def tree(tree: AttributionTree, unit: str = UNIT) -> Figure:
    """Draw an attribution tree, the root at the top; an edge goes down to the token that is attended to.

    Args:
      tree: of one example. A token that the sentence has more than once is shown with its position.
      unit: of the attributions.
    """
    places, repeats = tree.positions(), Counter(tree.tokens)
    texts = {at: _shown(tree.tokens[at]) + (f" ({at})" if repeats[tree.tokens[at]] > 1 else "") for at in places}
    num_columns, num_levels = 1 + max(column for column, _ in places.values()), 1 + max(level for _, level in places.values())
    line_break, edge_height = ("\n", 18) if num_levels <= 15 else ("  ", 9)  # points; deep trees are narrow
    edges = {node.token: f"layer {node.layer}{line_break}{node.attribution:+.2g}" for node in tree.nodes[1:]}
    edge_width, box_height = _width(edges.values(), 7) + 4, 16
    box_widths = {at: _width([text], 8) + 9 for at, text in texts.items()}

    # Points from one column to the next: at no level may a box touch another, or an edge on its way down.
    halves = [(level, column, max(box_widths[at], edge_width) / 2) for at, (column, level) in places.items()]
    halves += [(level, places[node.token][0], 2) for node in tree.nodes[1:] for level in range(places[node.parent][1] + 1, node.level)]
    neighbours = [(a, b) for a, b in itertools.pairwise(sorted(halves)) if a[0] == b[0]]
    across = max(((a[2] + b[2] + 6) / (b[1] - a[1]) for a, b in neighbours), default=0)
    margin = max(half for *_, half in halves)
    upright = across * (num_columns - 1) + 2 * margin > _WIDEST * _INCH
    if upright:  # the text stands on its side, so that columns are as wide as a text is high
        across, margin, edge_height, box_heights = edge_height + 5, edge_height, edge_width, box_widths
    else:
        box_heights = dict.fromkeys(places, box_height)
    highest = max(box_heights.values())
    down = highest + edge_height + 20

    width, height = across * (num_columns - 1) + 2 * margin, down * (num_levels - 1) + highest
    figure = _titled(max(width / _INCH + 0.9, 3.4), height / _INCH + 0.8)
    axes = figure.subplots()
    text_style = {"ha": "center", "va": "center", "rotation": 90 if upright else 0, **_PLAIN}
    for node in tree.nodes:
        column, level = places[node.token]
        fill = "white"
        if node.parent is None:
            fill = "#fde6cd"
        else:
            above, upper = places[node.parent]
            bend, top = upper + (highest / 2 + 6) / down, level - box_heights[node.token] / 2 / down
            axes.plot([above, above, column, column], [upper, bend, bend, top], color="#555555", linewidth=1, zorder=1)
            axes.plot(column, top, marker=CARETDOWN, markersize=5, color="#555555", zorder=2)
            middle = level - (highest / 2 + 8 + edge_height / 2) / down
            ground = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
            axes.text(column, middle, edges[node.token], fontsize=7, linespacing=1, bbox=ground, **text_style)
        frame = {"boxstyle": "round,pad=0.25", "facecolor": fill, "edgecolor": "black", "linewidth": 0.8}
        axes.text(column, level, texts[node.token], fontsize=8, bbox=frame, **text_style)
    beside, beyond = margin / (across or 1), highest / 2 / down
    axes.set(xlim=(-beside, num_columns - 1 + beside), ylim=(num_levels - 1 + beyond, -beyond), xticks=[], yticks=range(num_levels))
    axes.spines[:].set_visible(False)
    axes.set_ylabel("level (0: the root)")
    axes.set_xlabel(f"edges: layer, attribution\n({unit})", fontsize=8, **_PLAIN)
    return figure


def token_bars(values, tokens: Sequence[str], title: str | None = None, unit: str = UNIT) -> Figure:
    """Draw an attribution per token, such as integrated gradients, as bars.

    Args:
      values: [T].
      tokens: T texts.
      title: above them.
      unit: of the values.
    """
    side = _side(tokens, 10.2)
    figure = _titled(4.2 + _margin(tokens), side + 0.6, title)
    _draw_bars(figure.subplots(), values, tokens, side, unit)
    return figure


def convergence(steps: Sequence[int], errors, layers: Sequence[int], method: str | None = None, n_steps: int | None = None) -> Figure:
    """Draw how far attributions are from complete against the number of integration steps, a line per layer.

    Args:
      steps: S numbers of steps.
      errors: [S, L], |convergence delta| / Σ |attributions|. Exact zeros are drawn a decade below the rest, which the axis says.
      layers: the L layers' numbers.
      method: the integration rule.
      n_steps: the number used, marked by a dotted line.
    """
    errors = np.asarray(errors, float)
    above = errors[errors > 0]
    floor = 10.0 ** (math.ceil(math.log10(above.min())) - 1) if above.size else 1e-8
    figure = _titled(7, 4.6, None if method is None else f"integration rule: {method}")
    axes = figure.subplots()
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(layers)))
    for at, (layer, colour) in enumerate(zip(layers, colours, strict=True)):
        turn, marker = divmod(at, len(_MARKERS))
        style = {"linestyle": "-", "markerfacecolor": colour} if turn % 2 == 0 else {"linestyle": "--", "markerfacecolor": "white"}
        axes.plot(steps, np.maximum(errors[:, at], floor), color=colour, marker=_MARKERS[marker], markersize=5, label=str(layer), **style)
    if n_steps is not None:
        axes.axvline(n_steps, color="black", linewidth=1, linestyle=":", label=f"{n_steps} steps")
    axes.set(xscale="log", yscale="log")
    ticks = sorted(set(steps))[:1]
    for step in sorted(set(steps)):  # those that leave room for their numbers
        ticks += [step] if step >= 1.3 * ticks[-1] else []
    axes.set_xticks(ticks, ticks)
    axes.set_xticks([], minor=True)
    axes.set_xlabel("integration steps")
    axes.set_ylabel("|convergence delta| / Σ |attributions|" + (f"\n(0 is drawn at {floor:g})" if (errors == 0).any() else ""))
    axes.grid(alpha=0.25)
    axes.legend(title="layer", fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5), ncols=math.ceil(len(layers) / 12))
    return figure


def comparison(example: Explanation, unit: str = UNIT) -> Figure:
    """Draw attributions of tokens (integrated gradients) beside those of token pairs (over all layers and heads) of one example.

    Args:
      example: with `token_pairs`.
      unit: of the tokens' attributions; those of pairs are shares of the largest.
    """
    tokens, predicted = example.row["tokens"], example.row["predicted"]
    lines = [f"predicted: {predicted}", f"probability: {example.row['probabilities'][predicted]:.3f}"]
    if example.row["target"] != predicted:
        lines.append(f"explained: {example.row['target']}")
    side, margin = _side(tokens, 7.4), _margin(tokens)
    figure = _titled(side + 3.4 + margin, side + margin, *lines)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[2.3, side + 0.9])
    _draw_bars(left, example.row["token_attributions"], tokens, side, unit)
    _draw_matrix(right, example.token_pair_attributions, tokens, side, "attribution", "share of the largest", limit=1.0)
    right.set_aspect("auto")  # so that its rows are level with the bars
    return figure


def accuracy_curves(curves: Sequence[dict[str, Any]], num_examples: int, removable_loss: float) -> Figure:
    """Draw accuracy against the share of heads removed, a line for each measure; several seeds are a mean in a band of their range.

    Args:
      curves: `measure`, `points` of `fraction` and `accuracy`, and perhaps `keep_per_layer`, the point of the best heads of every layer.
      num_examples: that accuracy is measured on.
      removable_loss: draws the line below which accuracy has fallen by more than this.
    """
    figure = _Figure(figsize=(7.0, 4.4), layout="constrained")
    axes = figure.subplots()
    measures = list(dict.fromkeys(curve["measure"] for curve in curves))
    coloured = iter(zip(_COLOURS, _MARKERS, strict=False))
    for measure in measures:
        members = [curve for curve in curves if curve["measure"] == measure]
        colour, marker = (_CONTROL, ".") if measure == "random" else next(coloured, (_COLOURS[0], "x"))
        shares = [100 * point["fraction"] for point in members[0]["points"]]
        accuracies = np.asarray([[100 * point["accuracy"] for point in curve["points"]] for curve in members])
        label = measure if len(members) == 1 else f"{measure}, mean and range of {len(members)} seeds"
        axes.plot(shares, accuracies.mean(axis=0), color=colour, marker=marker, markersize=5, linewidth=1.6, label=label)
        if len(members) > 1:
            axes.fill_between(shares, accuracies.min(axis=0), accuracies.max(axis=0), color=colour, alpha=0.25, linewidth=0)
        chosen = [curve["keep_per_layer"] for curve in members if "keep_per_layer" in curve]
        if chosen:
            average = np.mean([100 * point["accuracy"] for point in chosen])
            axes.plot(100 * chosen[0]["fraction"], average, "*", color=colour, markersize=13, markeredgecolor="black", markeredgewidth=0.6)
    best = [curve["keep_per_layer"] for curve in curves if "keep_per_layer" in curve]
    if best:
        label = f"top {best[0]['per_layer']} heads of every layer"
        axes.plot([], [], "*", color="white", markersize=13, markeredgecolor="black", markeredgewidth=0.6, label=label)
    floor = 100 * (curves[0]["points"][0]["accuracy"] - removable_loss)
    axes.axhline(floor, color="black", linewidth=0.8, linestyle=":", label=f"{100 * removable_loss:g} point below none removed")
    axes.set_xlabel("attention heads removed (%)")
    axes.set_ylabel(f"accuracy on {num_examples} examples (%)")
    axes.set_xlim(-2, 102)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, frameon=False)
    return figure


def _pairs(matrix, tokens: Sequence[str]) -> np.ndarray:
    matrix = np.asarray(matrix, float)
    if matrix.shape != (len(tokens), len(tokens)):
        raise InputError(f"a matrix of {len(tokens)} tokens must be [{len(tokens)}, {len(tokens)}], not {list(matrix.shape)}")
    return matrix


def _shown(text: str, longest: int = _LONGEST) -> str:
    """Return text as a label: short, and with escapes for what is not printable, which includes what reorders its neighbours."""
    text = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _width(texts: Iterable[str], size: float) -> float:
    """Return the width of the widest line in points."""
    font, lines = FontProperties(size=size), itertools.chain.from_iterable(text.split("\n") for text in texts)
    with _missing_glyphs_ignored():
        return max((text_to_path.get_text_width_height_descent(line, font, False)[0] for line in lines), default=0.0)


def _side(tokens: Sequence[str], most: float) -> float:
    """Return the inches along which to place tokens."""
    return min(most, max(2.4, 0.19 * len(tokens)))


def _margin(tokens: Sequence[str]) -> float:
    """Return the inches that the tokens' names and the title of their axis take."""
    return _width(map(_shown, tokens), 8) / _INCH + 0.5


def _titled(width: float, height: float, *lines: str | None) -> Figure:
    """Return a figure of so many inches, to which a title's lines, each no longer than fits, are added."""
    fits = int(width * _INCH / 6)
    lines = [_shown(line, fits) for line in lines if line]
    figure = _Figure(figsize=(width, height + 0.2 * len(lines)), layout="constrained")
    if lines:
        figure.suptitle("\n".join(lines), fontsize=10, **_PLAIN)
    return figure


def _palette(values, sequential=None, limit: float | None = None) -> dict[str, Any]:
    """Return colours for an image: white at 0, diverging unless a palette for values from 0 up is given."""
    limit = limit or float(np.abs(values).max()) or 1.0
    return {"cmap": sequential or "PuOr_r", "vmin": 0.0 if sequential else -limit, "vmax": limit}


def _label_tokens(axis: Axis, tokens: Sequence[str], inches: float, meaning: str) -> None:
    """Name the tokens along an axis of this length, or as many as fit."""
    step = math.ceil(_PITCH * len(tokens) / (inches * _INCH))
    size, rotation = 8 if inches * _INCH >= 11 * len(tokens) else 7, 90 if axis.axis_name == "x" else 0
    axis.set_ticks(range(0, len(tokens), step), [_shown(token) for token in tokens[::step]], fontsize=size, rotation=rotation, **_PLAIN)
    axis.set_label_text(meaning if step == 1 else f"{meaning}: one token in {step} is named")


def _draw_matrix(axes: Axes, matrix, tokens, side: float, kind: str, unit: str | None = None, limit: float | None = None) -> None:
    palette = _palette(matrix, {"attribution": None, "attention": "BuGn"}[kind], limit)
    image = axes.imshow(matrix, interpolation="nearest", **palette)
    _label_tokens(axes.xaxis, tokens, side, "to (attended to)")
    _label_tokens(axes.yaxis, tokens, side, "from (attends)")
    unit = unit or {"attribution": UNIT, "attention": "probability"}[kind]
    axes.figure.colorbar(image, ax=axes, shrink=0.9, aspect=25).set_label(f"{kind} ({unit})", **_PLAIN)


def _draw_bars(axes: Axes, values, tokens, side: float, unit: str) -> None:
    values = np.asarray(values, float)
    axes.barh(range(len(tokens)), values, height=0.8, color=np.where(values > 0, _POSITIVE, _NEGATIVE))
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_ylim(len(tokens) - 0.5, -0.5)
    _label_tokens(axes.yaxis, tokens, side, "token")
    axes.set_xlabel(f"attribution\n({unit})", **_PLAIN)
    axes.locator_params(axis="x", nbins=4)
    axes.grid(axis="x", alpha=0.25)


def _spread(places: np.ndarray, gap: float, lowest: float, highest: float) -> np.ndarray:
    """Return the places closest to these, in order, that are at least `gap` apart and within bounds."""
    if not len(places):
        return places
    steps = gap * np.arange(len(places))
    moved = scipy.optimize.isotonic_regression(places - steps).x  # least squares, for places - steps may not fall
    return np.clip(moved, lowest, highest - steps[-1]) + steps
