"""Prune attention heads: score them, mask the least important, compare accuracy before and after.

    python prune.py --checkpoint runs/reviews
    python prune.py --checkpoint runs/sst2 --importance random --seed 1 --keep_per_layer 3
    python prune.py --checkpoint runs/sst2 --prune_fraction 0.5

Heads are scored on examples that accuracy is not measured on. Writes pruning.json, head_importance.json and run.json into --output_dir.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import cli, data, evaluation, heads, pretrained, pruning, sharding
from ..cli import option, require
from ..files import user_path, write_json


@dataclasses.dataclass(frozen=True)
class Options(cli.CommonOptions):
    """Options of `prune.py`."""

    checkpoint: str = option("runs/sst2", "an output of train.py, any Hugging Face BERT classifier folder, or a Hub id")
    dataset: str | None = option(None, "a data set, named as for train.py (default: the one the checkpoint was trained on)")
    importance: str = option("attribution", "attribution, random, or a head_importance.json of the same model")
    scoring_split: str = option("train", "the split that heads are scored on, for the gold class")
    num_scoring_examples: int = option(200, "how many of its examples, drawn with --seed")
    eval_split: str = option("validation", "the split that accuracy is measured on; scored examples are left out")
    max_eval_examples: int | None = option(None, "the first so many only")
    n_steps: str = option("20", "integration steps of the attribution (Gauss-Legendre), or auto: as many as a tolerance of 1e-3 needs")
    keep_per_layer: int | None = option(None, "keep so many heads of every layer (default: 3)")
    prune_fraction: float | None = option(None, "instead: prune this fraction of all heads, the least important of all layers")
    prune_heads: str | None = option(None, "instead: prune the heads listed as layer:heads, as in 0:1,2;3:4")
    output_dir: str | None = option(None, "where to write (default: <checkpoint>/pruning)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script with these arguments, by default the process's; returns the exit status."""
    return cli.run(lambda: _prune(cli.parse(Options, __doc__, argv)))


def _prune(options: Options) -> None:
    options = dataclasses.replace(options, n_steps=cli.checked_n_steps(options.n_steps, "gausslegendre"))
    _check_ranges(options)
    folder = cli.OutputFolder(
        options.output_dir or pretrained.beside(options.checkpoint, "pruning"),
        "prune",
        ("pruning.json", "head_importance.json"),
        options.overwrite,
    )
    classifier = pretrained.load_classifier(options.checkpoint)
    fingerprint = classifier.fingerprint()
    make_mask = _rule(options, classifier)
    record = _given_importance(options, classifier, fingerprint)

    trained = _TrainedOn.read(options)
    evaluated = data.load_split(trained.dataset, options.eval_split, trained.columns, options.max_eval_examples)
    scored = None
    if record is None:
        scoring = data.load_split(trained.dataset, options.scoring_split, trained.columns)
        scored, evaluated = pruning.disjoint(scoring, evaluated, options.num_scoring_examples, options.seed)
    else:
        evaluated = pruning.without(evaluated, record["examples"])
    scored_encoded = None if scored is None else _encode(classifier, scored, trained.max_seq_length)
    evaluated_encoded = _encode(classifier, evaluated, trained.max_seq_length)

    splits = {split.name: split.fingerprint() for split in (scored, evaluated) if split is not None}
    facts = {"dataset_path": data.absolute_name(trained.dataset), "model_fingerprint": fingerprint, "data_fingerprints": splits}
    folder.start(options, facts)
    mesh = sharding.data_mesh()
    if scored_encoded is not None:
        with cli.progress(len(scored), "examples", "scoring heads") as bar:
            importance = pruning.attribution_importance(classifier, scored_encoded, mesh, options.n_steps, on_batch=bar.update)
        record = heads.importance_record("attribution", importance, fingerprint, "gold", scored.example_hashes())
    num_scoring = len(record["examples"])
    mask = make_mask(record["importance"])

    params = sharding.replicate(classifier.params, mesh)
    task = data.task_name(trained.dataset)
    found = {}
    with cli.progress(2 * len(evaluated), "examples", "evaluating") as bar:
        for name, head_mask in (("before", None), ("after", mask)):
            logits = evaluation.predict(params, classifier.config, evaluated_encoded, mesh, head_mask, on_batch=bar.update)
            scores = evaluation.metrics(logits, evaluated_encoded.labels, task)
            found |= {f"{key}_{name}": value for key, value in scores.items()}

    if options.prune_heads is None:
        write_json(folder.path / "head_importance.json", record | {"importance": np.asarray(record["importance"]).tolist()})
    write_json(
        folder.path / "pruning.json",
        {
            "measure": record["measure"],
            "kept_heads": heads.listed_heads(mask, 1),
            "pruned_heads": heads.listed_heads(mask, 0),
            **found,
            "num_scoring_examples": num_scoring,
            "num_eval_examples": len(evaluated),
            "seed": options.seed,
            "model": fingerprint,
        },
    )
    folder.finish(results=found)

    print(f"importance: {record['measure']}" + (f", from {num_scoring} examples of {scored.source}" if scored else ""))
    print("kept heads:")
    for layer, kept in enumerate(heads.listed_heads(mask, 1)):
        print(f"  layer {layer}: " + (", ".join(map(str, kept)) or "none"))
    print(f"{int((mask == 0).sum())} of {mask.size} heads pruned; {len(evaluated)} examples of {evaluated.source}:")
    names = [key.removesuffix("_before") for key in found if key.endswith("_before")]
    cli.print_table(
        [["", "before", "after"]] + [[name, f"{found[f'{name}_before']:.4f}", f"{found[f'{name}_after']:.4f}"] for name in names]
    )
    print(f"pruning: {folder.path}")


def _check_ranges(options: Options) -> None:
    rules = [name for name in ("keep_per_layer", "prune_fraction", "prune_heads") if getattr(options, name) is not None]
    require(len(rules) <= 1, f"--{' and --'.join(rules)}: give only one of them")
    require(options.num_scoring_examples >= 1, f"--num_scoring_examples must be at least 1, not {options.num_scoring_examples}")
    require(
        options.max_eval_examples is None or options.max_eval_examples >= 1,
        f"--max_eval_examples must be at least 1, not {options.max_eval_examples}",
    )


@dataclasses.dataclass(frozen=True)
class _TrainedOn:
    """What the heads are scored and evaluated on: as `--dataset` says, or as the checkpoint was trained."""

    dataset: str
    columns: data.Columns
    max_seq_length: int | None

    @classmethod
    def read(cls, options: Options) -> _TrainedOn:
        run = cli.read_run(Path(options.checkpoint))
        before = run.get("options", {})
        if options.dataset is not None:
            return cls(options.dataset, options.columns, before.get("max_seq_length"))
        require("dataset_path" in run, f"{options.checkpoint} does not say what it was trained on: name a data set with --dataset")
        names = ("text_column", "text_pair_column", "label_column")
        columns = data.Columns(*(getattr(options, name) or before.get(name) for name in names))
        return cls(run["dataset_path"], columns, before.get("max_seq_length"))


def _rule(options: Options, classifier: pretrained.Classifier):
    """Return importance -> mask, having checked its numbers against the model."""
    shape = _shape(classifier)
    if options.prune_heads is not None:
        mask = cli.named("--prune_heads", lambda: heads.remove_listed_heads(options.prune_heads, *shape))
        return lambda importance: mask
    if options.prune_fraction is not None:
        cli.named("--prune_fraction", lambda: heads.prune_lowest_heads(np.zeros(shape), options.prune_fraction))
        return lambda importance: heads.prune_lowest_heads(importance, options.prune_fraction)
    per_layer = min(3, shape[1]) if options.keep_per_layer is None else options.keep_per_layer
    cli.named("--keep_per_layer", lambda: heads.keep_top_heads(np.zeros(shape), per_layer))
    return lambda importance: heads.keep_top_heads(importance, per_layer)


def _shape(classifier: pretrained.Classifier) -> tuple[int, int]:
    return classifier.config.num_hidden_layers, classifier.config.num_attention_heads


def _given_importance(options: Options, classifier: pretrained.Classifier, fingerprint: str) -> dict[str, Any] | None:
    """Return the contents of `head_importance.json` if nothing has to be computed for it, else None."""
    if options.prune_heads is not None:
        return heads.importance_record("by hand", np.zeros(_shape(classifier)), fingerprint)
    if options.importance == "attribution":
        return None
    if options.importance == "random":
        return heads.importance_record("random", heads.random_importance(*_shape(classifier), options.seed), fingerprint)
    file = user_path(options.importance)
    require(file.is_file(), f"--importance {options.importance!r} is not attribution, random, or an existing head_importance.json")
    return cli.named("--importance", lambda: heads.read_importance(file, _shape(classifier), fingerprint))


def _encode(classifier: pretrained.Classifier, split: data.Split, max_seq_length: int | None) -> data.Encoded:
    """Tokenize as in training, so that the accuracy before pruning is the one that training reported."""
    limit = classifier.config.max_position_embeddings
    labels = data.class_indices(split, classifier.id2label)
    encoded = data.encode(classifier, split, min(max_seq_length or limit, limit), labels)
    cli.warn_truncated(encoded, split.source)
    return encoded
