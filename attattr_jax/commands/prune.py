"""`prune.py`: heads ranked, the least important removed, accuracy before and after."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..data.batches import bucket_length
from ..data.splits import dataset_name
from ..errors import require
from ..models.classifier import Classifier, save_classifier
from ..models.hub import CardFacts
from ..pruning import costs
from ..pruning.curves import REMOVABLE_LOSS, last_above, masks_along
from ..pruning.experiment import Experiment, Ranking
from ..pruning.masks import (
    keep_top_heads,
    listed_heads,
)
from ..pruning.removal import fill_heads, remove_heads
from ..runtime import sharding
from ..runtime.files import Journal, write_file, write_json
from ..runtime.progress import progress
from ..views.drawing import save_figure
from ..views.plots import accuracy_curves, head_grid
from . import cli, prune_options
from .printing import curves_csv, print_curves, print_pruning, print_sizes
from .prune_inputs import FROM_FILE, JOURNAL, Inputs, prepare
from .prune_options import Options


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script with these arguments, by default the process's; returns the exit status."""
    return cli.script(_prune, Options, prune_options.__doc__, argv)


def _prune(options: Options) -> None:
    """Rank the heads, choose a mask, measure the model under it, and write what came out."""
    options = prune_options.checked(options)
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
        metrics = {name: result[name] for name in ("accuracy_before", "accuracy_after")}
        command = cli.command_of("prune.py", inputs.options)
        facts = CardFacts(dataset_name(str(inputs.facts["dataset_path"])), metrics, command)
        save_classifier(smaller, inputs.save_folder.path, facts)
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
        if not options.full_size:
            cli.say(
                "the smaller model loads here and with transformers 4; transformers 5 does not read"
                " `pruned_heads`: --full_size saves one that it reads"
            )
        kind = "full-size model with zeros" if options.full_size else "smaller model"
        print(f"{kind}: {inputs.save_folder.path}")
    print(f"pruning: {folder.path}")


def _start(options: Options, inputs: Inputs) -> Experiment:
    """Return the experiment, whose journal is in the output folder, which is begun."""
    experiment = Experiment(
        inputs.classifier,
        inputs.scored_encoded,
        inputs.evaluated_encoded,
        example_hashes=() if inputs.scored is None else inputs.scored.example_hashes(),
        task=inputs.task,
        n_steps=options.n_steps,
        method="riemann_left" if options.protocol == "reference" else "gausslegendre",
        shard_params=options.shard_params,
        progress=progress,
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
    if inputs.options.full_size:
        smaller = fill_heads(smaller)
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
    with progress(1, "comparison", "measuring latency") as bar:
        times = costs.latencies(classifiers, num_tokens)
        bar.update(1)
    return {
        "num_tokens": num_tokens,
        **{
            name: costs.static_costs(classifier, num_tokens) | {"latency_ms": times[name]}
            for name, classifier in classifiers.items()
        },
    }
