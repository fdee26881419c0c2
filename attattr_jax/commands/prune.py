"""Prune attention heads: score them, remove the least important, compare accuracy before and after.

    python prune.py --checkpoint runs/reviews
    python prune.py --checkpoint runs/sst2 --curve --curve_importances all
    python prune.py --checkpoint runs/sst2 --prune_fraction 0.5 --save_pruned runs/sst2-half

Heads are scored on examples that accuracy is not measured on. Writes pruning.json,
head_importance.json, the picture heads.png, with --curve also curve.csv and curve.png, and run.json
into --output_dir. A run that was stopped goes on with --resume.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..data import readers
from ..data.batches import Encoded, bucket_length, data_fingerprint, encode
from ..data.labels import class_indices
from ..data.splits import Split, absolute_name, task_name
from ..errors import require
from ..models import head_masks
from ..models.classifier import Classifier, holds, load_classifier, save_classifier
from ..pruning import costs, importance_file
from ..pruning.curves import (
    CURVE_FRACTIONS,
    REMOVABLE_LOSS,
    curve_masks,
    curve_record,
    disjoint,
    last_above,
    masks_along,
    removal_order,
    remove_heads,
    without,
)
from ..pruning.importance import MEASURES, HeadScores, score_heads
from ..pruning.masks import (
    keep_top_heads,
    listed_heads,
    num_to_prune,
    prune_lowest_heads,
    remove_listed_heads,
)
from ..runtime import output, sharding
from ..runtime.files import Journal, json_digest, read_run, user_path, write_file, write_json
from ..runtime.output import OutputFolder
from ..training import evaluation
from ..views.plots import accuracy_curves, head_grid, save_figure
from . import cli
from .cli import option

MASKS_PER_LINE = 16  # evaluated between two writes: what a killed run loses
JOURNAL = "progress.jsonl"  # scores and metrics of a run that is not finished
FROM_FILE = "file"  # stands for the measure of a head_importance.json
MODEL_FILES = (
    "config.json",
    "model.safetensors",
    "tokenizer*.json",
    "vocab.txt",
    "special_tokens_map.json",
)


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


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script with these arguments, by default the process's; returns the exit status."""
    return cli.script(_prune, Options, __doc__, argv)


@dataclasses.dataclass(frozen=True)
class _Ranking:
    """The heads as one measure ranks them, with one seed where that is random."""

    record: dict[str, Any]  # the contents of its head_importance.json
    seed: int | None
    order: np.ndarray  # in which the heads go
    seconds: float  # that it took

    @property
    def measure(self) -> str:
        return self.record["measure"]


def _named(kind: str, mask: np.ndarray) -> str:
    """Return the name in the journal of what was found out about a mask [L, N]."""
    return f"{kind} {np.ascontiguousarray(mask, np.int8).tobytes().hex()}"


class _Metrics:
    """Metrics on the evaluated examples under head masks; a mask is evaluated once, however often
    it is asked for.
    """

    def __init__(
        self,
        params,
        classifier: Classifier,
        encoded: Encoded,
        mesh,
        task: str | None,
    ):
        self.params, self.encoded, self.mesh, self.task = params, encoded, mesh, task
        self.config, self.id2label = classifier.config, classifier.id2label
        self.journal = Journal(None)  # in memory until there may be written

    def __call__(self, masks: np.ndarray) -> list[dict[str, float]]:
        """Return the metrics under each of `masks` [M, L, N]."""
        names = [_named("metrics", mask) for mask in masks]
        new = {
            name: mask
            for name, mask in zip(names, masks, strict=True)
            if self.journal.get(name) is None
        }
        if new:
            with cli.progress(
                len(self.encoded) * len(new), "examples", f"evaluating {len(new)} masks"
            ) as bar:
                for start in range(0, len(new), MASKS_PER_LINE):
                    self._evaluate(dict(list(new.items())[start : start + MASKS_PER_LINE]), bar)
        return [self.journal.get(name) for name in names]

    def _evaluate(self, masks: dict[str, np.ndarray], bar: Any) -> None:
        def on_batch(count: int) -> None:
            bar.update(count * len(masks) * sharding.num_shares(self.mesh))

        given = np.stack(list(masks.values())).astype(np.float32)
        logits = evaluation.predict_masks(
            self.params, self.config, self.encoded, self.mesh, given, on_batch=on_batch
        )
        for name, each in zip(masks, logits, strict=True):
            self.journal.put(
                name, evaluation.metrics(each, self.encoded.labels, self.task, self.id2label)
            )


def _prune(options: Options) -> None:
    options = dataclasses.replace(
        options, n_steps=cli.checked_n_steps(options.n_steps, "gausslegendre")
    )
    _check_options(options)
    files = ("pruning.json", "head_importance*.json", "curve.*", "heads.*", JOURNAL)
    path = options.output_dir or output.default_output_dir(options.checkpoint, "pruning")
    folder = OutputFolder(path, "prune", files, options.overwrite, options.resume)
    save_folder = _save_folder(options, folder)
    classifier = load_classifier(options.checkpoint)
    classifier.require_classes()
    present = head_masks.present_heads(classifier.config)
    fingerprint = classifier.fingerprint()
    cut = _rule(options, present)
    given = _given_importance(options, present.shape, fingerprint)
    wanted = _wanted(options, given)

    trained = _TrainedOn.read(options)
    scored, evaluated = _examples(options, trained, wanted, given, classifier.id2label)
    scored_encoded = None if scored is None else _encode(classifier, scored, trained.max_seq_length)
    evaluated_encoded = _encode(classifier, evaluated, trained.max_seq_length)
    cli.say_assumptions([evaluated] if scored is None else [evaluated, scored], classifier.id2label)
    task = task_name(trained.dataset)
    roles = {"scoring": (scored, scored_encoded), "evaluation": (evaluated, evaluated_encoded)}
    facts = {
        "dataset_path": absolute_name(trained.dataset),
        "model_fingerprint": fingerprint,
        "data_fingerprints": {
            role: data_fingerprint(*pair) for role, pair in roles.items() if pair[0] is not None
        },
        "importance_fingerprint": None if given is None else json_digest(given),
        "max_seq_length": trained.max_seq_length,
        "task_metric": evaluation.TASK_METRICS.get(task),
    }
    # The fingerprints tell whether model and data are the same, however they are written. Of the
    # data set's name only the metric counts.
    may_change = (
        "checkpoint",
        "dataset",
        "dataset_path",
        *(["importance"] if given is not None else []),
    )
    # The smaller model's folder also says what the next run takes over: the columns that the model
    # was trained with.
    saved_options = dataclasses.replace(options, **trained.column_options)
    is_there = (folder.path / "pruning.json").exists()
    if (
        folder.is_finished(options, facts, may_change)
        and is_there
        and _is_saved(save_folder, saved_options, facts, may_change)
    ):
        folder.print_finished()
        return

    mesh = sharding.data_mesh()
    params = sharding.place_params(classifier.params, mesh, options.shard_params)
    metrics = _Metrics(params, classifier, evaluated_encoded, mesh, task)

    if options.min_accuracy is not None:  # before anything is written
        full = metrics(present[None])[0]["accuracy"]
        reason = f"{options.min_accuracy} is more than the model has as it is, {full:.4f}"
        require(full >= options.min_accuracy, f"--min_accuracy {reason}: give less")
    folder.start(options, facts, may_change)
    journal = Journal(folder.path / JOURNAL, sharding.is_main())
    journal.known = metrics.journal.known | sharding.from_main(journal.known)
    metrics.journal = journal

    def score(measure: str, seed: int | None, mask: np.ndarray) -> HeadScores:
        method = "riemann_left" if options.protocol == "reference" else "gausslegendre"
        name = _named(f"scores {measure} {seed}", mask)
        if known := journal.get(name):
            return HeadScores(
                np.asarray(known["importance"]),
                {key: np.asarray(each) for key, each in known["details"].items()},
            )
        with cli.progress(len(scored or ()), "examples", f"scoring heads by {measure}") as bar:
            on_batch = lambda count: bar.update(count * sharding.num_shares(mesh))  # noqa: E731
            found = score_heads(
                measure,
                classifier,
                scored_encoded,
                mesh,
                mask,
                options.n_steps,
                method,
                seed or 0,
                on_batch,
                params,
            )
        journal.put(
            name,
            {
                "importance": found.importance.tolist(),
                "details": {key: each.tolist() for key, each in found.details.items()},
            },
        )
        return found

    def record_of(measure: str, found: HeadScores) -> dict[str, Any]:
        from_examples = (None, ()) if measure == "random" else ("gold", scored.example_hashes())
        return importance_file.importance_record(
            measure, found.importance, fingerprint, *from_examples, details=found.details
        )

    rankings = [
        _rank(options, present, measure, seed, score, given if measure == FROM_FILE else record_of)
        for measure, seed in wanted
    ]
    chosen = rankings[0]
    if options.min_accuracy is None:
        mask = cut(chosen)
    else:
        masks = masks_along(chosen.order, range(present.size + 1), present)
        mask = masks[
            last_above([found["accuracy"] for found in metrics(masks)], options.min_accuracy)
        ]
    masks = np.stack([present, mask])
    curves = []
    if options.curve:
        tops = [cut(ranking) for ranking in rankings] if _keeps_tops(options) else None
        curves = _curves(
            rankings, present, tops, lambda more: metrics(np.concatenate([masks, more]))[2:]
        )
    before, after = metrics(masks)

    result = {
        "measure": chosen.measure,
        "protocol": options.protocol,
        "kept_heads": listed_heads(mask, 1),
        "pruned_heads": listed_heads(mask, 0),
        **{f"{name}_before": value for name, value in before.items()},
        **{f"{name}_after": value for name, value in after.items()},
        "num_scoring_examples": len(chosen.record["examples"]),
        "num_eval_examples": len(evaluated),
        "scoring_source": None if scored is None else scored.source,
        "eval_source": evaluated.source,
        "seed": options.seed,
        "iterations": options.iterations,
        "model": fingerprint,
        "scoring_seconds": {ranking.measure: ranking.seconds for ranking in reversed(rankings)},
    }
    if options.prune_heads is None:
        result["removal_order"] = [
            list(divmod(int(head), present.shape[1])) for head in chosen.order
        ]
    if options.min_accuracy is not None:
        result |= {
            "min_accuracy": options.min_accuracy,
            "num_pruned_chosen_on": "the evaluated examples",
        }
    if options.curve:
        result |= {"curve": curves[0]["points"], "curves": curves}
    smaller = None
    if save_folder is not None:
        smaller = remove_heads(classifier, mask)
        save_folder.start(
            saved_options, facts | {"model_fingerprint": smaller.fingerprint()}, may_change
        )
    if not sharding.is_main():
        return

    write_json(folder.path / "pruning.json", result)
    if options.prune_heads is None:
        for ranking in reversed(rankings):  # of several random ones, the first is kept
            suffix = "" if ranking.measure == chosen.measure else f"_{ranking.measure}"
            write_json(folder.path / f"head_importance{suffix}.json", ranking.record)
        grid = head_grid(chosen.record["importance"], mask, chosen.measure)
        save_figure(grid, folder.path / "heads")
    if options.curve:
        write_file(folder.path / "curve.csv", _as_csv(curves))
        save_figure(
            accuracy_curves(curves, len(evaluated), REMOVABLE_LOSS),
            folder.path / "curve",
        )
    if save_folder is not None:
        save_classifier(smaller, save_folder.path)
        save_folder.finish(results={"accuracy": after["accuracy"]})
        num_tokens = bucket_length(
            int(np.median(evaluated_encoded.lengths)), classifier.config.max_length
        )
        result["size"] = _sizes({"before": classifier, "after": smaller}, num_tokens)
        write_json(folder.path / "pruning.json", result)
    folder.finish(
        results={
            name: value for name, value in result.items() if name.endswith(("_before", "_after"))
        }
    )
    (folder.path / JOURNAL).unlink(missing_ok=True)
    _print_pruning(options, result)
    if curves:
        _print_curves(curves)
    if save_folder is not None:
        _print_sizes(result["size"])
        print(f"smaller model: {save_folder.path}")
    print(f"pruning: {folder.path}")


def _rank(
    options: Options, present: np.ndarray, measure: str, seed: int | None, score, record
) -> _Ranking:
    """Rank the heads by one measure.

    Args:
      score: (measure, seed, mask) -> HeadScores.
      record: (measure, HeadScores) -> the contents of a head_importance.json; or these themselves,
        if nothing is to be scored.
    """
    start = time.perf_counter()
    again = None
    if callable(record):
        record = record(measure, score(measure, seed, present))
        if options.iterations > 1 and measure != "random":
            again = lambda mask: score(measure, seed, mask).importance  # noqa: E731
    order = removal_order(record["importance"], present, again, *_rounds(options, present))
    return _Ranking(record, seed, order, round(time.perf_counter() - start, 3))


def _curves(
    rankings: Sequence[_Ranking], present: np.ndarray, tops: Sequence[np.ndarray] | None, metrics
) -> list[dict[str, Any]]:
    """Return the curve of each ranking, with the point of its `tops`, the mask [L, N] of the best
    heads of every layer.

    `metrics`, masks [M, L, N] -> metrics, is called once for everything, so that all masks are
    evaluated together.
    """
    masks = np.stack([curve_masks(ranking.order, present) for ranking in rankings])
    every = masks.reshape(-1, *present.shape)
    found = metrics(every if tops is None else np.concatenate([every, tops]))
    num_points = masks.shape[1]
    curves = []
    for at, ranking in enumerate(rankings):
        curves.append(
            curve_record(
                ranking.measure,
                ranking.seed,
                masks[at],
                found[at * num_points : (at + 1) * num_points],
            )
        )
        if tops is not None:
            num_pruned = int((tops[at] == 0).sum())
            point = {
                "fraction": num_pruned / present.size,
                "num_pruned": num_pruned,
                **found[len(every) + at],
            }
            curves[-1]["keep_per_layer"] = {"per_layer": int(tops[at].sum(axis=1).max()), **point}
    return curves


def _sizes(classifiers: dict[str, Classifier], num_tokens: int) -> dict[str, Any]:
    """Return what the models cost, measured one after the other in turns."""
    with cli.progress(1, "comparison", "measuring latency") as bar:
        times = costs.latencies(classifiers, num_tokens)
        bar.update(1)
    return {
        "num_tokens": num_tokens,
        **{
            name: costs.static_costs(each, num_tokens) | {"latency_ms": times[name]}
            for name, each in classifiers.items()
        },
    }


def _as_csv(curves: Sequence[dict[str, Any]]) -> str:
    """Return the points of all curves as one tidy table."""
    table = io.StringIO()
    rows = [
        {"measure": curve["measure"], "seed": curve["seed"], **point}
        for curve in curves
        for point in curve["points"]
    ]
    writer = csv.DictWriter(table, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return table.getvalue()


def _print_pruning(options: Options, result: dict[str, Any]) -> None:
    num_scoring, source = result["num_scoring_examples"], result["scoring_source"]
    source = f" of {source}" if source and options.importance in MEASURES else ""
    print(
        f"importance: {result['measure']}"
        + (f", from {num_scoring} examples{source}" if num_scoring else "")
    )
    print("kept heads:")
    for layer, kept in enumerate(result["kept_heads"]):
        print(f"  layer {layer}: " + (", ".join(map(str, kept)) or "none"))
    num_pruned, num_kept = (sum(map(len, result[name])) for name in ("pruned_heads", "kept_heads"))
    print(
        f"{num_pruned} of {num_pruned + num_kept} heads pruned; {result['num_eval_examples']}"
        f" examples of {result['eval_source']}:"
    )
    names = [key.removesuffix("_before") for key in result if key.endswith("_before")]
    cli.print_table(
        [["", "before", "after"]]
        + [
            [name, f"{result[f'{name}_before']:.4f}", f"{result[f'{name}_after']:.4f}"]
            for name in names
        ]
    )
    if options.protocol == "reference" and source:
        print("these examples were scored on as well (--protocol reference)")
    if options.min_accuracy is not None:
        print(
            "how many heads go was chosen on these examples: for an unbiased accuracy, evaluate the"
            " pruned model on others"
        )


def _print_curves(curves: list[dict[str, Any]]) -> None:
    by_measure: dict[str, list[dict[str, Any]]] = {}
    for curve in curves:
        by_measure.setdefault(curve["measure"], []).append(curve)
    accuracies = [
        np.mean([[point["accuracy"] for point in curve["points"]] for curve in members], axis=0)
        for members in by_measure.values()
    ]
    rows = [["", *by_measure]]
    rows += [
        [f"{fraction:.0%}", *(f"{each[at]:.4f}" for each in accuracies)]
        for at, fraction in enumerate(CURVE_FRACTIONS)
    ]
    for name, label, spec in (
        ("area_under_curve", "area under the curve", ".4f"),
        ("removable_within_1_point", "heads removable within 1 point", "g"),
    ):
        rows.append(
            [
                label,
                *(
                    format(np.mean([curve[name] for curve in members]), spec)
                    for members in by_measure.values()
                ),
            ]
        )
    print("accuracy by share of heads removed (random: the mean over its seeds):")
    cli.print_table(rows)


def _print_sizes(sizes: dict[str, Any]) -> None:
    before, after = sizes["before"], sizes["after"]
    rows = [["", "before", "after"]]
    for name, label in (
        ("parameters", "parameters"),
        ("file_bytes", "model.safetensors, bytes"),
        ("flops", "flops per example"),
    ):
        rows.append([label, f"{before[name]:,}", f"{after[name]:,}"])
    for batch_size in before["latency_ms"]:
        rows.append(
            [
                f"ms for a batch of {batch_size}",
                *(f"{each['latency_ms'][batch_size]:.2f}" for each in (before, after)),
            ]
        )
    print(f"size and speed, for {sizes['num_tokens']} tokens:")
    cli.print_table(rows)


def _check_options(options: Options) -> None:
    rules = [
        name
        for name in ("keep_per_layer", "prune_fraction", "prune_heads", "min_accuracy")
        if getattr(options, name) is not None
    ]
    require(len(rules) <= 1, f"--{' and --'.join(rules)}: give only one of them")
    for name in ("num_scoring_examples", "max_eval_examples", "iterations", "curve_seeds"):
        value = getattr(options, name)
        require(value is None or value >= 1, f"--{name} must be at least 1, not {value}")
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
    cli.check_applies(
        options,
        [(name, options.curve, "without --curve") for name in ("curve_importances", "curve_seeds")],
    )
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


def _save_folder(options: Options, folder: OutputFolder) -> OutputFolder | None:
    if options.save_pruned is None:
        return None
    path = user_path(options.save_pruned)
    for name, other in (
        ("--output_dir", folder.path),
        ("--checkpoint", user_path(options.checkpoint)),
    ):
        require(
            path.resolve() != other.resolve(),
            f"--save_pruned {path} is the folder of {name}: choose another",
        )
    # What the run that is resumed was allowed to overwrite may still be there.
    overwrite = options.overwrite or (
        folder.resume and bool(folder.previous["options"].get("overwrite"))
    )
    return OutputFolder(
        path,
        "save_pruned",
        MODEL_FILES,
        overwrite,
        options.resume and not overwrite,
        option_name="--save_pruned",
    )


def _is_saved(
    folder: OutputFolder | None, options: Options, facts: dict[str, Any], may_change: Sequence[str]
) -> bool:
    """Return whether there is nothing left to save: of a finished run, what `--save_pruned` names
    holds its smaller model.
    """
    if folder is None:
        return True
    if not folder.previous.get("finished"):
        return False
    # Which follows from all others
    folder.check(options, facts, (*may_change, "model_fingerprint"))
    return holds(folder.path, folder.previous.get("model_fingerprint"))


@dataclasses.dataclass(frozen=True)
class _TrainedOn:
    """What the heads are scored and evaluated on: as `--dataset` says, or as the checkpoint was
    trained.
    """

    dataset: str
    column_options: dict[str, Any]  # those of `cli.CommonOptions` that say what the columns are
    columns: readers.Columns
    max_seq_length: int | None

    @classmethod
    def read(cls, options: Options) -> _TrainedOn:
        run = read_run(Path(options.checkpoint))
        before = run.get("options", {})
        max_seq_length = before.get("max_seq_length", run.get("max_seq_length"))
        texts = (
            run.get("dataset_path"),
            *(before.get(name) for name in cli.COLUMN_OPTIONS if name != "skip_bad_rows"),
        )
        are_right = all(value is None or isinstance(value, str) for value in texts)
        are_right &= type(before.get("skip_bad_rows", False)) is bool
        are_right &= max_seq_length is None or (type(max_seq_length) is int and max_seq_length > 2)
        require(
            are_right,
            f"{options.checkpoint}: its run.json is damaged: delete it, and name a data set with"
            " --dataset",
        )
        if options.dataset is None:
            require(
                "dataset_path" in run,
                f"{options.checkpoint} does not say what it was trained on: name a data set with"
                " --dataset",
            )
            taken_over = {
                name: before[name]
                for name in cli.COLUMN_OPTIONS
                if name in before and not getattr(options, name)
            }
            options = dataclasses.replace(options, dataset=run["dataset_path"], **taken_over)
        column_options = {name: getattr(options, name) for name in cli.COLUMN_OPTIONS}
        return cls(options.dataset, column_options, options.columns, max_seq_length)


def _wanted(options: Options, given: dict[str, Any] | None) -> list[tuple[str, int | None]]:
    """Return the (measure, seed) to rank the heads by, the one to prune by first."""
    listed = tuple(part.strip() for part in options.curve_importances.split(","))
    others = {("all",): MEASURES, ("none",): ()}.get(listed, listed)
    unknown = [name for name in others if name not in MEASURES]
    known = f"some of {', '.join(MEASURES)}, separated by commas, all, or none"
    require(
        not unknown,
        f"--curve_importances: {', '.join(map(repr, unknown))} is unknown; give {known}",
    )
    if not options.curve:
        others = ()
    # A file stands for its measure; random orders stay beside one, as the control
    if given is not None:
        others = [
            measure for measure in others if measure == "random" or measure != given["measure"]
        ]
    first = options.importance if given is None else FROM_FILE
    seeds = range(options.seed, options.seed + (options.curve_seeds if options.curve else 1))
    return [
        (measure, seed)
        for measure in dict.fromkeys([first, *others])
        for seed in (seeds if measure == "random" else [None])
    ]


def _examples(
    options: Options, trained: _TrainedOn, wanted, given, id2label: dict[int, str]
) -> tuple[Split | None, Split]:
    """Return the examples to score on, None where no measure needs any, and those to evaluate
    on.
    """

    def load(split: str, max_examples: int | None = None) -> Split:
        return cli.with_gold_labels(
            cli.load_split(trained.dataset, split, trained.columns, max_examples), id2label
        )

    evaluated = load(options.eval_split, options.max_eval_examples)
    needs_examples = any(measure in MEASURES and measure != "random" for measure, _ in wanted)
    if options.protocol == "reference":
        return (
            evaluated.select(range(min(options.num_scoring_examples, len(evaluated))))
            if needs_examples
            else None
        ), evaluated
    if given is not None:
        evaluated = without(evaluated, given["examples"])
    if not needs_examples:
        return None, evaluated
    return disjoint(
        load(options.scoring_split), evaluated, options.num_scoring_examples, options.seed
    )


def _rounds(options: Options, present: np.ndarray) -> tuple[int, int]:
    """Return how many heads go before the others are scored anew, and how many have to be
    ranked.
    """
    target = (
        present.size
        if options.prune_fraction is None
        else num_to_prune(options.prune_fraction, present.size)
    )
    to_go = target - int((present == 0).sum())
    return max(1, math.ceil(to_go / options.iterations)), present.size if options.curve else target


def _keeps_tops(options: Options) -> bool:
    return (
        options.prune_fraction is None
        and options.prune_heads is None
        and options.min_accuracy is None
    )


def _per_layer(options: Options, present: np.ndarray) -> int:
    return min(3, present.shape[1]) if options.keep_per_layer is None else options.keep_per_layer


def _rule(options: Options, present: np.ndarray) -> Callable[[_Ranking], np.ndarray]:
    """Return ranking -> mask [L, N], having checked the options' numbers against the model."""
    if options.prune_heads is not None:
        mask = (
            cli.named(
                "--prune_heads",
                lambda: remove_listed_heads(options.prune_heads, *present.shape),
            )
            * present
        )
        return lambda ranking: mask
    if _keeps_tops(options):
        per_layer = _per_layer(options, present)
        cli.named("--keep_per_layer", lambda: keep_top_heads(present, per_layer))
        return lambda ranking: keep_top_heads(ranking.record["importance"], per_layer, present)
    fraction = 0.0 if options.prune_fraction is None else options.prune_fraction
    cli.named("--prune_fraction", lambda: prune_lowest_heads(present, fraction))
    return lambda ranking: masks_along(
        ranking.order, [num_to_prune(fraction, present.size)], present
    )[0]


def _given_importance(
    options: Options, shape: tuple[int, int], fingerprint: str
) -> dict[str, Any] | None:
    """Return the contents of the `head_importance.json` that `--importance` names, None where it
    names a measure.
    """
    if options.prune_heads is not None:
        return importance_file.importance_record("by hand", np.zeros(shape), fingerprint)
    if options.importance in MEASURES:
        return None
    file = user_path(options.importance)
    known = ", ".join(MEASURES)
    require(
        file.is_file(),
        f"--importance {options.importance!r} is none of {known}, nor an existing"
        " head_importance.json",
    )
    record = cli.named(
        "--importance", lambda: importance_file.read_importance(file, shape, fingerprint)
    )
    return record | {"importance": record["importance"].tolist()}


def _encode(classifier: Classifier, split: Split, max_seq_length: int | None) -> Encoded:
    """Tokenize as in training, so that the accuracy before pruning is the one that training
    reported.
    """
    limit = classifier.config.max_length
    labels = class_indices(split, classifier.id2label)
    encoded = encode(classifier, split, min(max_seq_length or limit, limit), labels)
    cli.warn_truncated(encoded, split.source)
    return encoded
