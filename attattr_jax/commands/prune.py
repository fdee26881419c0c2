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
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from ..data.batches import bucket_length
from ..models.classifier import Classifier, save_classifier
from ..pruning import costs
from ..pruning.curves import REMOVABLE_LOSS, last_above, masks_along
from ..pruning.experiment import Experiment, Ranking
from ..pruning.masks import (
    keep_top_heads,
    listed_heads,
    num_to_prune,
    prune_lowest_heads,
    remove_listed_heads,
)
from ..pruning.measures import MEASURES
from ..pruning.removal import remove_heads
from ..runtime import sharding
from ..runtime.files import Journal, write_file, write_json
from ..views.plots import accuracy_curves, head_grid, save_figure
from . import cli
from .cli import option, require
from .prune_inputs import FROM_FILE, JOURNAL, Inputs, prepare
from .prune_output import curves_csv, print_curves, print_pruning, print_sizes


@dataclasses.dataclass(frozen=True)
class Options(cli.CommonOptions):
    """Options of `prune.py`."""

    checkpoint: str = option(
        "runs/sst2", "an output of train.py, any Hugging Face BERT classifier folder, or a Hub id"
    )
    dataset: str | None = option(
        None, "a data set, named as for train.py (default: the one the checkpoint was trained on)"
    )
    importance: str = option(
        "attribution", f"{', '.join(MEASURES)}, or a head_importance.json of the same model"
    )
    protocol: Literal["disjoint", "reference"] = option(
        "disjoint",
        "disjoint: no example is both scored and evaluated; reference: as the paper's code, scored"
        " on the first examples of --eval_split, by 20 left Riemann steps, evaluated on all of it",
    )
    scoring_split: str = option("train", "the split that heads are scored on, for the gold class")
    num_scoring_examples: int = option(200, "how many of its examples, drawn with --seed")
    eval_split: str = option(
        "validation", "the split that accuracy is measured on; scored examples are left out"
    )
    max_eval_examples: int | None = option(None, "the first so many only")
    n_steps: str = option(
        "20",
        "integration steps of the attribution (Gauss-Legendre), or auto: as many as a tolerance of"
        " 1e-3 needs",
    )
    keep_per_layer: int | None = option(None, "keep so many heads of every layer (default: 3)")
    prune_fraction: float | None = option(
        None, "instead: prune this fraction of all heads, the least important of all layers"
    )
    prune_heads: str | None = option(
        None, "instead: prune the heads listed as layer:heads, as in 0:1,2;3:4"
    )
    min_accuracy: float | None = option(
        None,
        "instead: prune, the least important first, as long as accuracy stays at least this (0"
        " to 1)",
    )
    iterations: int = option(
        1,
        "with --prune_fraction, --min_accuracy or --curve: prune in so many equal rounds, and score"
        " the heads left anew after each",
    )
    curve: bool = option(
        False, "accuracy with 0, 10, ... 100 % of all heads removed, as table and plot"
    )
    curve_importances: str = option(
        "random",
        "what else to show beside --importance: measures separated by commas, all, or none",
    )
    curve_seeds: int = option(5, "how many random orders to show, from --seed on")
    save_pruned: str | None = option(
        None,
        "a folder for the physically smaller model; its size and speed are compared with the full"
        " one's",
    )
    output_dir: str | None = option(None, "where to write (default: <checkpoint>/pruning)")

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
            cli.named("--keep_per_layer", lambda: keep_top_heads(present, per_layer))
        else:
            fraction = self.prune_fraction or 0.0
            cli.named("--prune_fraction", lambda: prune_lowest_heads(present, fraction))

    def listed_mask(self, present: np.ndarray) -> np.ndarray:
        """Return the mask [L, N] without the heads that --prune_heads names."""
        return present * cli.named(
            "--prune_heads", lambda: remove_listed_heads(self.prune_heads, *present.shape)
        )

    def num_to_remove(self, present: np.ndarray) -> int:
        """Return how many heads are removed at most, removed ones included."""
        if self.prune_fraction is None:
            return present.size
        return num_to_prune(self.prune_fraction, present.size)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script with these arguments, by default the process's; returns the exit status."""
    return cli.script(_prune, Options, __doc__, argv)


def _prune(options: Options) -> None:
    """Rank the heads, choose a mask, measure the model under it, and write what came out."""
    n_steps = cli.checked_n_steps(options.n_steps, "gausslegendre")
    options = dataclasses.replace(options, n_steps=n_steps)
    inputs = prepare(options)
    folder = inputs.folder
    if inputs.is_finished:
        folder.print_finished()
        return
    experiment = _start(options, inputs)
    rankings = [_rank(options, experiment, inputs, *measure) for measure in inputs.wanted]
    mask = _chosen_mask(options, experiment, rankings[0])
    masks = np.stack([experiment.present, mask])
    curves = []
    if options.curve:
        tops = None
        if options.keeps_top_heads:
            tops = [_chosen_mask(options, experiment, ranking) for ranking in rankings]
        curves = experiment.curves(rankings, tops, other_masks=masks)
    before, after = experiment.metrics(masks)
    result = _result(options, inputs, rankings, mask, before, after, curves)
    # In every process: what the folder of the smaller model says is agreed on.
    smaller = _start_saving(inputs, mask)
    if not sharding.is_main():
        return

    write_json(folder.path / "pruning.json", result)
    _write_rankings(options, inputs, rankings, mask)
    if curves:
        write_file(folder.path / "curve.csv", curves_csv(curves))
        figure = accuracy_curves(curves, len(inputs.evaluated), REMOVABLE_LOSS)
        save_figure(figure, folder.path / "curve")
    if smaller is not None and inputs.save_folder is not None:
        save_classifier(smaller, inputs.save_folder.path)
        inputs.save_folder.finish(results={"accuracy": after["accuracy"]})
        result["size"] = _sizes(inputs, smaller)
        write_json(folder.path / "pruning.json", result)
    metrics = {key: value for key, value in result.items() if key.endswith(("_before", "_after"))}
    folder.finish(results=metrics)
    (folder.path / JOURNAL).unlink(missing_ok=True)
    print_pruning(options, result)
    if curves:
        print_curves(curves)
    if inputs.save_folder is not None:
        print_sizes(result["size"])
        print(f"smaller model: {inputs.save_folder.path}")
    print(f"pruning: {folder.path}")


def _start(options: Options, inputs: Inputs) -> Experiment:
    """Return the experiment, whose journal is in the output folder, which is begun."""
    experiment = Experiment(
        inputs.classifier,
        inputs.scored_encoded,
        inputs.evaluated_encoded,
        () if inputs.scored is None else inputs.scored.example_hashes(),
        inputs.task,
        options.n_steps,
        "riemann_left" if options.protocol == "reference" else "gausslegendre",
        options.shard_params,
        progress=cli.progress,
    )
    if options.min_accuracy is not None:  # before anything is written
        full = experiment.metrics(experiment.present[None])[0]["accuracy"]
        reason = f"{options.min_accuracy} is more than the model has as it is, {full:.4f}"
        require(full >= options.min_accuracy, f"--min_accuracy {reason}: give less")
    inputs.folder.start(options, inputs.facts, inputs.may_change)
    journal = Journal(inputs.folder.path / JOURNAL, sharding.is_main())
    journal.known = experiment.journal.known | sharding.from_main(journal.known)
    return dataclasses.replace(experiment, journal=journal)


def _rank(
    options: Options, experiment: Experiment, inputs: Inputs, measure: str, seed: int | None
) -> Ranking:
    """Return the heads as a measure, or the given file, ranks them."""
    present = experiment.present
    target = options.num_to_remove(present)
    num_heads = present.size if options.curve else target
    if measure == FROM_FILE:
        return experiment.rank_by_record(inputs.given or {}, num_heads)
    heads_per_round = None
    if options.iterations > 1:
        to_remove = target - int((present == 0).sum())
        heads_per_round = max(1, math.ceil(to_remove / options.iterations))
    return experiment.rank(measure, seed, heads_per_round, num_heads)


def _chosen_mask(options: Options, experiment: Experiment, ranking: Ranking) -> np.ndarray:
    """Return the mask [L, N] that the options' rule makes of a ranking."""
    present = experiment.present
    if options.prune_heads is not None:
        return options.listed_mask(present)
    if options.keeps_top_heads:
        per_layer = options.heads_per_layer(present)
        return keep_top_heads(ranking.record["importance"], per_layer, present)
    if options.min_accuracy is None:
        return masks_along(ranking.order, [options.num_to_remove(present)], present)[0]
    masks = masks_along(ranking.order, range(present.size + 1), present)
    accuracies = [metrics["accuracy"] for metrics in experiment.metrics(masks)]
    return masks[last_above(accuracies, options.min_accuracy)]


def _result(
    options: Options,
    inputs: Inputs,
    rankings: Sequence[Ranking],
    mask: np.ndarray,
    before: dict[str, float],
    after: dict[str, float],
    curves: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """Return the contents of `pruning.json` (docs/files.md), without the sizes."""
    chosen = rankings[0]
    result = {
        "measure": chosen.measure,
        "protocol": options.protocol,
        "kept_heads": listed_heads(mask, 1),
        "pruned_heads": listed_heads(mask, 0),
        **{f"{name}_before": value for name, value in before.items()},
        **{f"{name}_after": value for name, value in after.items()},
        "num_scoring_examples": len(chosen.record["examples"]),
        "num_eval_examples": len(inputs.evaluated),
        "scoring_source": None if inputs.scored is None else inputs.scored.source,
        "eval_source": inputs.evaluated.source,
        "seed": options.seed,
        "iterations": options.iterations,
        "model": inputs.facts["model_fingerprint"],
        "scoring_seconds": {ranking.measure: ranking.seconds for ranking in reversed(rankings)},
    }
    if options.prune_heads is None:
        num_heads = mask.shape[1]
        result["removal_order"] = [list(divmod(int(head), num_heads)) for head in chosen.order]
    if options.min_accuracy is not None:
        result["min_accuracy"] = options.min_accuracy
        result["num_pruned_chosen_on"] = "the evaluated examples"
    if curves:
        result |= {"curve": curves[0]["points"], "curves": list(curves)}
    return result


def _start_saving(inputs: Inputs, mask: np.ndarray) -> Classifier | None:
    """Return the smaller model, whose folder is begun; None where none is to be saved."""
    if inputs.save_folder is None:
        return None
    smaller = remove_heads(inputs.classifier, mask)
    facts = inputs.facts | {"model_fingerprint": smaller.fingerprint()}
    inputs.save_folder.start(inputs.saved_options, facts, inputs.may_change)
    return smaller


def _write_rankings(
    options: Options, inputs: Inputs, rankings: Sequence[Ranking], mask: np.ndarray
) -> None:
    """Write the importance by each measure, and the picture of the one that was pruned by."""
    if options.prune_heads is not None:
        return
    chosen, path = rankings[0], inputs.folder.path
    for ranking in reversed(rankings):  # of several random ones, the first is kept
        suffix = "" if ranking.measure == chosen.measure else f"_{ranking.measure}"
        write_json(path / f"head_importance{suffix}.json", ranking.record)
    grid = head_grid(chosen.record["importance"], mask, chosen.measure)
    save_figure(grid, path / "heads")


def _sizes(inputs: Inputs, smaller: Classifier) -> dict[str, Any]:
    """Return what the model costs before and after, measured in turns."""
    median = int(np.median(inputs.evaluated_encoded.lengths))
    num_tokens = bucket_length(median, inputs.classifier.config.max_length)
    classifiers = {"before": inputs.classifier, "after": smaller}
    with cli.progress(1, "comparison", "measuring latency") as bar:
        times = costs.latencies(classifiers, num_tokens)
        bar.update(1)
    return {
        "num_tokens": num_tokens,
        **{
            name: costs.static_costs(classifier, num_tokens) | {"latency_ms": times[name]}
            for name, classifier in classifiers.items()
        },
    }
