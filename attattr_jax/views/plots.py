"""Figures of explanations, head importance and pruning.

`drawing` has what they share, colours among it; `token_graphs` has arcs and trees.

Shapes: T tokens of one example (no padding), L layers, N heads, S numbers of integration steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from ..attribution.summaries.tree import THRESHOLD
from ..errors import InputError
from .drawing import (
    ABOVE_ZERO,
    COLOURS,
    CONTROL_COLOUR,
    MARKERS,
    PLAIN,
    UNIT,
    QuietFigure,
    colour_limits,
    draw_bars,
    draw_matrix,
    titled_figure,
    token_axis_sizes,
)
from .example import Example, explained_class, prediction_of, single_output
from .token_graphs import arcs, tree


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
    figure = QuietFigure(
        figsize=(1.8 + 0.42 * num_heads, 1.5 + 0.36 * num_layers), layout="constrained"
    )
    axes = figure.subplots()
    # A negative importance is a finding (the head hurts): then the colours diverge from white at 0.
    limits = colour_limits(importance, signed=importance.min() < 0)
    image = axes.imshow(
        importance, aspect="equal", cmap="PuOr_r" if limits["vmin"] else ABOVE_ZERO, **limits
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
        f"importance ({measure})", fontsize=8, **PLAIN
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
    side, margin = token_axis_sizes(tokens, 8.6)
    figure = titled_figure(side + margin + 1.1, side + margin, title)
    draw_matrix(figure.subplots(), matrix, tokens, side, kind, unit, limit)
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
    position = layers.index(layer)
    side, margin = token_axis_sizes(tokens, 4.2)
    figure = titled_figure(2 * (side + 1.2) + margin, side + margin, f"layer {layer}, head {head}")
    left, right = figure.subplots(1, 2, sharey=True)
    draw_matrix(left, attributions[position, head], tokens, side, "attribution", unit)
    draw_matrix(
        right, example.attention_probs[position, head], tokens, side, "attention", name_rows=False
    )
    return figure


def token_bars(values, tokens: Sequence[str], title: str | None = None, unit: str = UNIT) -> Figure:
    """Draw an attribution per token, such as integrated gradients, as bars.

    Args:
      values: [T].
      tokens: T texts.
      title, unit: above them, and of the values.
    """
    side, margin = token_axis_sizes(tokens, 10.4)
    figure = titled_figure(4 + margin, side + 0.6, title)
    draw_bars(figure.subplots(), values, tokens, side, unit)
    return figure


def convergence(
    steps: Sequence[int],
    errors,
    layers: Sequence[int],
    method: str | None = None,
    n_steps: int | None = None,
) -> Figure:
    """Draw how far attributions are from complete, by the number of integration steps.

    There is a line for each layer.

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
    figure = titled_figure(7, 4.6, None if method is None else f"integration rule: {method}")
    axes = figure.subplots()
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(layers)))
    for number, (layer, colour) in enumerate(zip(layers, colours, strict=True)):
        turn, marker = divmod(number, len(MARKERS))  # the second dozen is hollow and dashed
        style = MARKERS[marker] + ("--" if turn else "-")
        fill = "white" if turn else colour
        axes.plot(
            steps,
            np.maximum(errors[:, number], floor),
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
    """Draw the attributions of tokens (integrated gradients) beside those of token pairs.

    The latter are over all layers and heads.

    Args:
      example: with `token_pairs`.
      unit: of the tokens' attributions; those of pairs are shares of the largest.
    """
    row, tokens = example.row, example.row["tokens"]
    output = single_output(row)
    says = f"predicted: {prediction_of(row)}" if output is None else f"output = {output:.3f}"
    lines = [says]
    if explained_class(row) != row["predicted"]:
        lines.append(f"explained: {explained_class(row)}")
    side, margin = token_axis_sizes(tokens, 7.6)
    figure = titled_figure(side + 3.4 + margin, side + margin, *lines)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[2.1, side + 1])
    draw_bars(left, row["token_attributions"], tokens, side, unit)
    left.locator_params(axis="x", nbins=4)
    draw_matrix(
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
    """Draw accuracy against the share of heads removed, a line for each measure.

    Several seeds are a mean in a band of their range.

    Args:
      curves: `measure`, `points` of `fraction` and `accuracy`, and perhaps `keep_per_layer`, the
        point of the best heads of every layer.
      num_examples: that accuracy is measured on.
      removable_loss: draws the line below which accuracy has fallen by more than this.
    """
    figure = titled_figure(7.0, 4.4)
    axes = figure.subplots()
    by_measure: dict[str, list[dict[str, Any]]] = {}
    for curve in curves:
        by_measure.setdefault(curve["measure"], []).append(curve)
    coloured = iter(zip(COLOURS, MARKERS, strict=False))
    for measure, members in by_measure.items():
        colour, marker = CONTROL_COLOUR, "."
        if measure != "random":
            colour, marker = next(coloured, (COLOURS[0], "x"))
        _draw_curve(axes, measure, members, colour, marker)
    best = [curve["keep_per_layer"] for curve in curves if "keep_per_layer" in curve]
    if best:
        label = f"top {best[0]['per_layer']} heads of every layer"
        axes.plot([], [], "*", color="white", label=label, **_STAR)
    floor = 100 * (curves[0]["points"][0]["accuracy"] - removable_loss)
    label = f"{100 * removable_loss:g} point below none removed"
    axes.axhline(floor, color="black", linewidth=0.8, linestyle=":", label=label)
    axes.set_xlabel("attention heads removed (%)")
    axes.set_ylabel(f"accuracy on {num_examples} examples (%)")
    axes.set_xlim(-2, 102)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, frameon=False)
    return figure


_STAR = {"markersize": 13, "markeredgecolor": "black", "markeredgewidth": 0.6}


def _draw_curve(
    axes, measure: str, members: Sequence[dict[str, Any]], colour: str, marker: str
) -> None:
    """Draw the curves of one measure: mean, range, and the best heads of every layer."""
    shares = [100 * point["fraction"] for point in members[0]["points"]]
    accuracies = np.asarray(
        [[100 * point["accuracy"] for point in curve["points"]] for curve in members]
    )
    label = measure if len(members) == 1 else f"{measure}, mean and range of {len(members)} seeds"
    line = {"color": colour, "marker": marker, "markersize": 5, "linewidth": 1.6}
    axes.plot(shares, accuracies.mean(axis=0), label=label, **line)
    if len(members) > 1:
        lowest, highest = accuracies.min(axis=0), accuracies.max(axis=0)
        axes.fill_between(shares, lowest, highest, color=colour, alpha=0.25, linewidth=0)
    chosen = [curve["keep_per_layer"] for curve in members if "keep_per_layer" in curve]
    if chosen:
        average = np.mean([100 * point["accuracy"] for point in chosen])
        axes.plot(100 * chosen[0]["fraction"], average, "*", color=colour, **_STAR)
