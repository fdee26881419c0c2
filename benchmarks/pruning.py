"""Measure head pruning: accuracy curves, what they cost, the smaller model, fine-tuning it, and
another task.

    python benchmarks/pruning.py --data path/to/sst2 --runs runs/sst2-minilm \\
        --rte_data path/to/rte --rte_runs runs/rte-minilm \\
        --output benchmarks/results/pruning.json --figures docs

--data and --rte_data are folders with GLUE's train.tsv and dev.tsv. --runs is what
benchmarks/sst2.py trains. A folder that is already there is used, not made again: otherwise this
takes about two hours on two CPU cores. Copies the two figures into --figures.
"""

import argparse
import contextlib
import json
import shutil
import statistics
import time
from pathlib import Path

import jax
import numpy as np
from sst2 import read, read_or_empty, run

import attattr_jax as aa
from attattr_jax.data.batches import Encoded, encode, inference_batches
from attattr_jax.data.labels import class_indices
from attattr_jax.data.splits import load_split
from attattr_jax.models import head_masks
from attattr_jax.pruning import importance_file
from attattr_jax.pruning.curves import curve_masks, removal_order
from attattr_jax.pruning.importance import score_heads
from attattr_jax.pruning.measures import MEASURES
from attattr_jax.runtime import sharding
from attattr_jax.training import evaluation

SEEDS = 5
ROUNDS = 5
RTE_RECIPE = ("--learning_rate", "5e-5", "--num_train_epochs", "4")
METRICS = ("accuracy_before", "accuracy_after", "num_scoring_examples", "num_eval_examples")


def make(folder: Path, script: str, *arguments: object, file: str = "run.json") -> dict:
    """Run a script into a folder unless it did so before; returns the contents of `file`."""
    if not read_or_empty(folder / "run.json").get("finished"):
        run(script, *arguments, "--output_dir", folder, "--overwrite")
    return read(folder / file)


def curve_table(pruned: dict) -> dict:
    """Return accuracy at every fraction: attribution's, and its gaps to the other measures, over
    the seeds of random.
    """
    by_measure: dict[str, list[dict]] = {}
    for curve in pruned["curves"]:
        by_measure.setdefault(curve["measure"], []).append(curve)
    table = []
    for at, point in enumerate(pruned["curve"]):
        accuracy = {
            name: [curve["points"][at]["accuracy"] for curve in curves]
            for name, curves in by_measure.items()
        }
        controls = accuracy.pop("random", None)
        row = {"fraction": point["fraction"], "num_pruned": point["num_pruned"]} | {
            name: values[0] for name, values in accuracy.items()
        }
        if {"attribution", "taylor"} <= row.keys():
            row["attribution_minus_taylor"] = row["attribution"] - row["taylor"]
        if controls:
            row |= {
                "random_by_seed": controls,
                "random_mean": statistics.mean(controls),
                "random_std": statistics.stdev(controls),
                "attribution_minus_random_mean": row["attribution"] - statistics.mean(controls),
            }
        table.append(row)
    summary = {}
    for name, curves in by_measure.items():
        summary[name] = {
            key: [curve[key] for curve in curves]
            for key in ("area_under_curve", "removable_within_1_point")
        }
        summary[name]["top_3_of_every_layer"] = [
            curve["keep_per_layer"]["accuracy"] for curve in curves
        ]
    return {
        "points": table,
        "by_measure": summary,
        **{key: pruned[key] for key in ("num_scoring_examples", "num_eval_examples", "seed")},
    }


def encoded_split(classifier: aa.Classifier, folder: str, split: str) -> Encoded:
    """Return a tokenized split with its labels."""
    loaded = load_split(folder, split)
    return encode(classifier, loaded, 128, class_indices(loaded, classifier.id2label))


def part_of(encoded: Encoded, indices) -> Encoded:
    """Return some of the examples."""
    lists = (
        [values[index] for index in indices]
        for values in (encoded.input_ids, encoded.token_type_ids, encoded.special_tokens_mask)
    )
    return Encoded(*lists, [], [], encoded.labels[indices])


@contextlib.contextmanager
def counted_compilations():
    """Yield a list that gets an entry for every program that XLA compiles."""
    compiled: list[float] = []

    def note(event: str, duration: float, **_) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(duration)

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        yield compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(note)


def seconds(call) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def time_curve(
    classifier: aa.Classifier,
    dev: Encoded,
    pruned: dict,
    folder: Path,
    rounds: int = ROUNDS,
) -> dict:
    """Compare the curves' evaluations with as many plain passes, each round on another part of the
    dev set.
    """
    mesh, config = sharding.data_mesh(), classifier.config
    params = sharding.replicate(classifier.params, mesh)
    present = head_masks.present_heads(config)
    masks = []
    for curve in pruned["curves"]:
        suffix = "" if curve["measure"] == "attribution" else f"_{curve['measure']}"
        scores = read(folder / f"head_importance{suffix}.json")["importance"]
        if curve["measure"] == "random":
            scores = masks.random_importance(*present.shape, curve["seed"])
        masks.append(curve_masks(removal_order(scores, present), present))
    masks = np.concatenate(masks)
    parts = [part_of(dev, np.arange(begin, len(dev), rounds)) for begin in range(rounds)]

    def plain(part):
        for _ in masks:
            evaluation.predict(params, config, part, mesh)

    def curve(part):
        evaluation.predict_masks(params, config, part, mesh, masks)

    # Warm: every padded length, in both programs; the last batch of a length has as many rows as
    # there are examples left.
    compilations = {}
    for name, call in (
        ("plain", lambda part: evaluation.predict(params, config, part, mesh)),
        ("masked", lambda part: evaluation.predict_masks(params, config, part, mesh, masks[:1])),
    ):
        with counted_compilations() as compiled:
            for part in parts:
                call(part)
        compilations[name] = len(compiled)
    shapes = {
        (batch.inputs["input_ids"].shape)
        for part in parts
        for batch in inference_batches(part, config, 32)
    }
    taken: dict[str, list[float]] = {"plain": [], "masked": []}
    with counted_compilations() as compiled:
        for part in parts:
            taken["plain"].append(seconds(lambda part=part: plain(part)))
            taken["masked"].append(seconds(lambda part=part: curve(part)))
    ratios = [masked / plain for masked, plain in zip(taken["masked"], taken["plain"], strict=True)]
    return {
        "passes": len(masks),
        "distinct_masks": len(np.unique(masks, axis=0)),
        "examples": len(dev),
        "rounds": rounds,
        "plain_seconds": sum(taken["plain"]),
        "masked_seconds": sum(taken["masked"]),
        "ratio_median": statistics.median(ratios),
        "ratios": ratios,
        "batch_shapes": len(shapes),
        "compilations_of_the_plain_pass": compilations["plain"],
        "compilations_of_the_masked_pass": compilations["masked"],
        "compilations_for_all_other_masks": len(compiled),
    }


def time_scoring(classifier: aa.Classifier, scored: Encoded, rounds: int = ROUNDS) -> dict:
    """Time every measure, warm, and compare ablation with as many plain passes as there are heads,
    each round on another part.
    """
    mesh, config = sharding.data_mesh(), classifier.config
    params = sharding.replicate(classifier.params, mesh)
    num_heads = config.num_hidden_layers * config.num_attention_heads

    def plain(part):
        for _ in range(num_heads):
            evaluation.predict(params, config, part, mesh)

    calls = {"plain": plain}
    calls |= {
        name: lambda part, name=name: score_heads(name, classifier, part, mesh) for name in MEASURES
    }
    parts = [part_of(scored, np.arange(begin, len(scored), rounds)) for begin in range(rounds)]
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for part in parts:
        evaluation.predict(params, config, part, mesh)
        for name, call in calls.items():
            if name != "plain":
                call(part)  # compiles
        for name, call in calls.items():
            taken[name].append(seconds(lambda call=call, part=part: call(part)))
    ratios = [
        ablation / plain for ablation, plain in zip(taken["ablation"], taken["plain"], strict=True)
    ]
    return {
        "examples": len(scored),
        "rounds": rounds,
        "warm_seconds": {name: sum(each) for name, each in taken.items() if name != "plain"},
        f"seconds of {num_heads} plain passes": sum(taken["plain"]),
        "ablation_by_plain_passes_median": statistics.median(ratios),
        "ablation_by_plain_passes": ratios,
    }


def main() -> None:
    """Run what is missing and write the result file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("--data", "--rte_data"):
        parser.add_argument(name, required=True)
    for name in ("--runs", "--rte_runs", "--output", "--figures"):
        parser.add_argument(name, required=True, type=Path)
    parser.add_argument(
        "--keep_times", action="store_true", help="take times from the --output that is there"
    )
    given = parser.parse_args()
    folder, beside = given.runs, given.runs.parent
    sst2, rte = ("--dataset", given.data), ("--dataset", given.rte_data)

    def prune(name: str, checkpoint: Path, *arguments: object) -> dict:
        return make(
            checkpoint / name,
            "prune.py",
            "--checkpoint",
            checkpoint,
            *arguments,
            file="pruning.json",
        )

    curve_arguments = ("--curve", "--curve_importances", "all", "--curve_seeds", SEEDS)
    pruned = prune("pruning-curve", folder, *sst2, *curve_arguments)
    reference = prune(
        "pruning-reference",
        folder,
        *sst2,
        "--curve",
        "--curve_importances",
        "taylor",
        "--protocol",
        "reference",
    )
    iterative = prune(
        "pruning-iterative",
        folder,
        *sst2,
        "--curve",
        "--curve_importances",
        "none",
        "--iterations",
        5,
    )
    # Taylor's definition divides each layer by its norm, attribution's does not: what if it were
    # the other way round?
    other_way = {}
    for measure, suffix in (("attribution", ""), ("taylor", "_taylor")):
        record = read(folder / "pruning-curve" / f"head_importance{suffix}.json")
        scores = np.asarray(record["importance"])
        swapped = record.get(
            "unnormalised", (scores / np.linalg.norm(scores, axis=1, keepdims=True)).tolist()
        )
        file = folder / f"{measure}-other-way.json"
        file.write_text(json.dumps(record | {"importance": swapped}), encoding="utf-8")
        name, shown = f"pruning-{measure}-other-way", ("--curve", "--curve_importances", "none")
        other_way[measure] = prune(name, folder, *sst2, *shown, "--importance", file)
    smaller = beside / f"{folder.name}-half"
    half = prune("pruning-half", folder, *sst2, "--prune_fraction", 0.5, "--save_pruned", smaller)
    tuned = make(
        beside / f"{folder.name}-half-tuned",
        "train.py",
        "--model",
        smaller,
        *sst2,
        "--num_train_epochs",
        1,
        "--learning_rate",
        "3e-5",
    )
    rte_run = make(given.rte_runs, "train.py", "--model", "minilm-l6", *rte, *RTE_RECIPE)
    rte_pruned = prune(
        "pruning-curve",
        given.rte_runs,
        *rte,
        "--curve",
        "--curve_importances",
        "taylor,random",
        "--curve_seeds",
        3,
    )

    classifier = aa.load_classifier(folder)
    dev = encoded_split(classifier, given.data, "validation")
    train = encoded_split(classifier, given.data, "train")
    scored = part_of(train, np.sort(np.random.default_rng(0).permutation(len(train))[:200]))
    times = (
        {name: read(given.output)[name] for name in ("time of the curve", "time of scoring")}
        if given.keep_times
        else None
    )
    times = times or {
        "time of the curve": time_curve(classifier, dev, pruned, folder / "pruning-curve"),
        "time of scoring": time_scoring(classifier, scored),
    }
    files = [runs / "pruning-curve" / "head_importance.json" for runs in (folder, given.rte_runs)]
    sst2_run = read(folder / "run.json")
    result = {
        "command": (
            f"python benchmarks/pruning.py --data path/to/sst2 --runs runs/{folder.name} --rte_data"
            f" path/to/rte --rte_runs runs/{given.rte_runs.name} --output"
            f" benchmarks/results/{given.output.name} --figures docs"
        ),
        "device": sst2_run["device"],
        "packages": read(folder / "pruning-curve" / "run.json")["packages"],
        "model": {
            name: sst2_run["options"][name]
            for name in ("model", "num_train_epochs", "learning_rate", "seed")
        },
        "curve": curve_table(pruned),
        "curve, protocol of the reference code": curve_table(reference),
        "curve, heads ranked again after every fifth": curve_table(iterative),
        "curve, attribution divided by its norm in each layer": curve_table(
            other_way["attribution"]
        ),
        "curve, taylor not divided": curve_table(other_way["taylor"]),
        **times,
        "half of the heads removed": {
            name: half[name] for name in (*METRICS, "kept_heads", "size")
        },
        "half of the heads removed, fine-tuned one epoch more": {
            "accuracy": tuned["results"]["eval_accuracy"],
            "of the full model": half["accuracy_before"],
            **{
                name: tuned["options"][name]
                for name in ("num_train_epochs", "learning_rate", "seed")
            },
            "wall_seconds": tuned["wall_seconds"],
        },
        "rte": {
            "training": (
                {
                    name: rte_run["options"][name]
                    for name in ("model", "num_train_epochs", "learning_rate", "seed")
                }
                | rte_run["results"]
            ),
            "curve": curve_table(rte_pruned),
        },
        "head importance, sst2 against rte": {
            "command": (
                f"attattr-correlate runs/{folder.name}/pruning-curve/head_importance.json "
                f"runs/{given.rte_runs.name}/pruning-curve/head_importance.json"
            ),
            **{
                measure: importance_file.correlate(
                    *(
                        importance_file.read_importance(file.with_stem(f"head_importance{suffix}"))[
                            "importance"
                        ]
                        for file in files
                    )
                )
                for measure, suffix in (("attribution", ""), ("taylor", "_taylor"))
            },
        },
    }
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for name in ("curve.png", "heads.png"):
        shutil.copy(folder / "pruning-curve" / name, given.figures / f"pruning_{name}")
    print(given.output)


if __name__ == "__main__":
    main()
