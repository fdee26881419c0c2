"""Figures of head importance and pruning, as PNG and SVG.

Colours can be told apart by colour-blind readers (Okabe and Ito), and lines by their markers as well.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from .files import write_file

FORMATS = ("png", "svg")
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_CONTROL = "#777777"
_MARKERS = "osD^vP"


def save_figure(figure: Figure, stem: Path, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Write a figure as `stem`.png and so on; the same figure gives the same bytes."""
    files = []
    for extension in formats:
        buffer = io.BytesIO()
        with matplotlib.rc_context({"svg.hashsalt": "attattr-jax", "svg.fonttype": "none"}):
            figure.savefig(buffer, format=extension, dpi=150, metadata={"Date": None} if extension == "svg" else None)
        files.append(stem.with_name(f"{stem.name}.{extension}"))
        write_file(files[-1], buffer.getvalue())
    return files


def head_grid(importance, mask, measure: str) -> Figure:
    """Draw the importance of every head, layer by head, those that are pruned crossed out.

    Args:
      importance: [L, N].
      mask: [L, N], 0 marks a pruned head.
      measure: what the colours show.
    """
    importance = np.asarray(importance, float)
    num_layers, num_heads = importance.shape
    figure = Figure(figsize=(1.8 + 0.42 * num_heads, 1.5 + 0.36 * num_layers), layout="constrained")
    axes = figure.subplots()
    has_negative = importance.min() < 0
    largest = float(np.abs(importance).max()) or 1.0
    # A negative importance is a finding (the head hurts): then the colours diverge from white at 0.
    colours = {"cmap": "PuOr_r", "vmin": -largest} if has_negative else {"cmap": "Purples", "vmin": 0.0}
    image = axes.imshow(importance, vmax=largest, aspect="equal", **colours)
    pruned = np.argwhere(np.asarray(mask) == 0)
    for colour, width in (("white", 2.6), ("black", 1.1)):  # black on white: seen on every colour
        axes.scatter(pruned[:, 1], pruned[:, 0], marker="x", s=52, c=colour, linewidths=width)
    axes.set_xticks(range(num_heads))
    axes.set_yticks(range(num_layers))
    axes.set_xlabel("head")
    axes.set_ylabel("layer")
    axes.set_title(f"{len(pruned)} of {importance.size} heads pruned (×)", fontsize=10)
    figure.colorbar(image, ax=axes, label=f"importance ({measure})", shrink=0.9)
    return figure


def accuracy_curves(curves: Sequence[dict[str, Any]], num_examples: int, removable_loss: float) -> Figure:
    """Draw accuracy against the share of heads removed, a line for each measure; several seeds are a mean in a band of their range.

    Args:
      curves: `measure`, `points` of `fraction` and `accuracy`, and perhaps `keep_per_layer`, the point of the best heads of every layer.
      num_examples: that accuracy is measured on.
      removable_loss: draws the line below which accuracy has fallen by more than this.
    """
    figure = Figure(figsize=(7.0, 4.4), layout="constrained")
    axes = figure.subplots()
    measures = list(dict.fromkeys(curve["measure"] for curve in curves))
    coloured = iter(zip(_COLOURS, _MARKERS, strict=True))
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
