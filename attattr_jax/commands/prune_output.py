"""What `prune.py` prints, and its tables as files."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..pruning.curves import CURVE_FRACTIONS
from ..pruning.measures import MEASURES
from . import cli


def curves_csv(curves: Sequence[dict[str, Any]]) -> str:
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


def print_pruning(options: Any, result: dict[str, Any]) -> None:
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


def print_curves(curves: list[dict[str, Any]]) -> None:
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


def print_sizes(sizes: dict[str, Any]) -> None:
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
