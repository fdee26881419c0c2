"""Prune attention heads: score them, remove the least important, compare accuracy before and after.

    python prune.py --checkpoint runs/reviews
    python prune.py --checkpoint runs/sst2 --curve --curve_importances all
    python prune.py --checkpoint runs/sst2 --prune_fraction 0.5 --save_pruned runs/sst2-half

Heads are scored on examples that accuracy is not measured on. Writes pruning.json,
head_importance.json, the picture heads.png, with --curve also curve.csv and curve.png, and run.json
into --output_dir. A run that was stopped goes on with --resume.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from ..errors import require
from ..pruning.masks import (
    keep_top_heads,
    num_to_prune,
    prune_lowest_heads,
    remove_listed_heads,
)
from ..pruning.measures import MEASURES
from . import options as common
from .options import DATA, FIRST, PRUNE, SAVE, SHOW, option

_OF_CURVE = ("curve_importances", "curve_seeds")


@dataclasses.dataclass(frozen=True)
class Options(common.CommonOptions):
    """Options of `prune.py`."""

    checkpoint: str = option(
        "runs/sst2", "an output of train.py, any Hugging Face classifier folder, or a Hub id", FIRST
    )
    dataset: str | None = option(
        None,
        "a data set, named as for train.py (default: the one the checkpoint was trained on)",
        FIRST,
    )
    importance: str = option(
        "attribution", f"{', '.join(MEASURES)}, or a head_importance.json of the same model", FIRST
    )
    protocol: Literal["disjoint", "reference"] = option(
        "disjoint",
        "disjoint: no example is both scored and evaluated; reference: as the paper's code, scored"
        " on the first examples of --eval_split, by 20 left Riemann steps, evaluated on all of it",
        PRUNE,
    )
    scoring_split: str = option(
        "train", "the split that heads are scored on, for the gold class", DATA
    )
    num_scoring_examples: int = option(200, "how many of its examples, drawn with --seed", FIRST)
    eval_split: str = option(
        "validation", "the split that accuracy is measured on; scored examples are left out", DATA
    )
    max_eval_examples: int | None = option(None, "evaluate on at most this many examples", DATA)
    n_steps: str = option(
        "20",
        "integration steps of the attribution (Gauss-Legendre), or auto: as many as a tolerance of"
        " 1e-3 needs",
        PRUNE,
    )
    keep_per_layer: int | None = option(
        None, "keep this many heads of every layer (default: 3)", FIRST
    )
    prune_fraction: float | None = option(
        None, "instead: prune this fraction of all heads, the least important of all layers", FIRST
    )
    prune_heads: str | None = option(
        None, "instead: prune the heads listed as layer:heads, as in 0:1,2;3:4", PRUNE
    )
    min_accuracy: float | None = option(
        None,
        "instead: prune, the least important first, as long as accuracy stays at least this (0"
        " to 1)",
        PRUNE,
    )
    iterations: int = option(
        1,
        "with --prune_fraction, --min_accuracy or --curve: prune in this many equal rounds, and"
        " score the remaining heads again after each",
        PRUNE,
    )
    curve: bool = option(
        False, "accuracy with 0, 10, ... 100 % of all heads removed, as table and plot", FIRST
    )
    curve_importances: str = option(
        "random",
        "what else to show beside --importance: measures separated by commas, all, or none",
        SHOW,
    )
    curve_seeds: int = option(5, "how many random orders to show, from --seed on", SHOW)
    save_pruned: str | None = option(
        None,
        "a folder for the physically smaller model; its size and speed are compared with the full"
        " one's",
        FIRST,
    )
    full_size: bool = option(
        False,
        "save the model of --save_pruned at its full size, with zeros for the removed heads: any"
        " version of transformers reads it, and it is no faster",
        SAVE,
    )
    output_dir: str | None = option(None, "where to write (default: <checkpoint>/pruning)", FIRST)

    @property
    def keeps_top_heads(self) -> bool:
        """Whether the best heads of every layer are kept, the rule unless another one is named."""
        others = (self.prune_fraction, self.prune_heads, self.min_accuracy)
        return all(value is None for value in others)

    def heads_per_layer(self, present: np.ndarray) -> int:
        """Return how many heads of every layer that rule keeps."""
        return min(3, present.shape[1]) if self.keep_per_layer is None else self.keep_per_layer

    def check_rule(self, present: np.ndarray) -> None:
        """Check the numbers of the rule against the heads that the model has, [L, N]."""
        if self.prune_heads is not None:
            self.listed_mask(present)
        elif self.keeps_top_heads:
            per_layer = self.heads_per_layer(present)
            common.named("--keep_per_layer", lambda: keep_top_heads(present, per_layer))
        else:
            fraction = self.prune_fraction or 0.0
            common.named("--prune_fraction", lambda: prune_lowest_heads(present, fraction))

    def listed_mask(self, present: np.ndarray) -> np.ndarray:
        """Return the mask [L, N] without the heads that --prune_heads names."""
        return present * common.named(
            "--prune_heads", lambda: remove_listed_heads(self.prune_heads, *present.shape)
        )

    def num_to_remove(self, present: np.ndarray) -> int:
        """Return how many heads are removed at most, removed ones included."""
        if self.prune_fraction is None:
            return present.size
        return num_to_prune(self.prune_fraction, present.size)


def checked(options: Options) -> Options:
    """Return options whose number of steps is parsed, having checked all that needs no model.

    Raises:
      InputError: a value is out of range, or options do not go together; names them.
    """
    n_steps = common.checked_n_steps(options.n_steps, "gausslegendre")
    options = dataclasses.replace(options, n_steps=n_steps)
    rules = [
        name
        for name in ("keep_per_layer", "prune_fraction", "prune_heads", "min_accuracy")
        if getattr(options, name) is not None
    ]
    require(len(rules) <= 1, f"--{' and --'.join(rules)}: give only one of them")
    counts = "num_scoring_examples", "max_eval_examples", "iterations", "curve_seeds"
    common.check_at_least(options, 1, counts)
    floor = options.min_accuracy
    require(floor is None or 0 <= floor <= 1, f"--min_accuracy must be from 0 to 1, not {floor}")
    if options.protocol == "reference":
        require(
            options.n_steps == 20,
            "--protocol reference integrates with 20 steps: leave --n_steps out",
        )
        require(
            options.scoring_split == "train",
            "--protocol reference scores on --eval_split: leave --scoring_split out",
        )
    of_curve = [(name, options.curve, "without --curve") for name in _OF_CURVE]
    saves = ("full_size", options.save_pruned is not None, "without --save_pruned")
    common.check_applies(options, [*of_curve, saves])
    by_hand = options.prune_heads is not None
    require(
        not by_hand or not options.curve,
        "--curve ranks the heads: --prune_heads does not go with it",
    )
    require(
        not by_hand or options.importance == "attribution",
        "--prune_heads names the heads: leave --importance out",
    )
    ranks = options.curve or options.prune_fraction is not None or floor is not None
    require(
        options.iterations == 1 or ranks,
        "--iterations goes with --prune_fraction, --min_accuracy or --curve",
    )
    require(
        options.iterations == 1 or options.importance in MEASURES,
        "--iterations scores anew: --importance must be a measure, not a file",
    )
    return options
