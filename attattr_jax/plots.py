"""Figures of explanations, head importance and pruning: the public functions of `views`."""

from .views.drawing import FORMATS, UNIT, save_figure
from .views.plots import (
    accuracy_curves,
    attribution_and_attention,
    comparison,
    convergence,
    example_figures,
    head_grid,
    heat_map,
    token_bars,
)
from .views.token_graphs import arcs, tree

__all__ = [
    "FORMATS",
    "UNIT",
    "accuracy_curves",
    "arcs",
    "attribution_and_attention",
    "comparison",
    "convergence",
    "example_figures",
    "head_grid",
    "heat_map",
    "save_figure",
    "token_bars",
    "tree",
]
