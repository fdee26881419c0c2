"""What the scripts print of results: tables, explanations, summaries, prunings."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..attribution.options import AttributionOptions
from ..attribution.summaries.reductions import top_heads
from ..explanations.explanation import Explanation
from ..explanations.summary import DatasetSummary
from ..pruning.curves import CURVE_FRACTIONS
from ..pruning.measures import MEASURES
from ..runtime.text import printable
from ..views.example import explained_class, gold_of, single_output, window_of
from ..views.sentence import ROUGH_LAYER, more_steps, roughness_of, share


def print_table(rows: Sequence[Sequence[str]], indent: str = "  ") -> None:
    """Print rows in columns: the first aligned left, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print(indent + "  ".join(cells).rstrip())


def print_explanation(example: Explanation) -> None:
    """Print one explanation for a person: a sentence first, then the numbers."""
    row = example.row
    texts = [row["text"]] if row["text_pair"] is None else [row["text"], row["text_pair"]]
    print(f"[{row['index']}] " + " | ".join(_shortened(text) for text in texts))
    print(f"  {printable(example.summary())}")
    if single_output(row) is None:
        label = gold_of(row)
        gold = "" if label is None else f", label {printable(label)}"
        print(f"  explained: {printable(explained_class(row))}, F = {row['score']:.3f}{gold}")
    window = window_of(row)
    if window is not None:
        print(f"  {printable(window)}")
    if row.get("num_cut_tokens"):
        print(f"  longer than the model reads: {row['num_cut_tokens']} tokens were cut off")
    _print_tokens(row)
    _print_pairs(row)
    strongest = "  ".join(
        f"{head['layer']}.{head['head']} {head['importance']:.3f}" for head in row["heads"][:5]
    )
    if strongest:
        print(f"  most important heads (layer.head, largest attribution): {strongest}")
    for phrase in roughness_of(example, in_script=True):
        print(f"  {phrase}")
    print()


def _print_tokens(row: Mapping[str, Any]) -> None:
    if row["token_attributions"] is None:
        return
    values = zip(row["tokens"], row["token_attributions"], row["special_tokens_mask"], strict=True)
    shown = [f"{printable(token)} {value:+.3f}" for token, value, out in values if not out]
    more = "  …" if len(shown) > 40 else ""
    print("  tokens (integrated gradients): " + "  ".join(shown[:40]) + more)


def _print_pairs(row: Mapping[str, Any]) -> None:
    marked = [
        f"{printable(token)}*" if out else printable(token)
        for token, out in zip(row["tokens"], row["special_tokens_mask"], strict=True)
    ]
    rows = [
        [
            (
                f"{marked[pair['from']]} ({pair['from']}) reads from {marked[pair['to']]}"
                f" ({pair['to']})"
            ),
            f"{pair['attribution']:+.3f}",
        ]
        for pair in row["token_pairs"]
    ]
    if rows:
        print("  strongest token pairs (sum over layers and heads; the largest of all pairs is 1):")
        print_table(rows, "    ")


def print_roughness(summary: DatasetSummary, options: AttributionOptions) -> None:
    """Warn in one line if a layer of a text is integrated too roughly; names the layers."""
    if not summary.num_rough:
        return
    converged = False if options.n_steps == "auto" else None
    remedy = more_steps("n_steps", options.path == "layer", converged, in_script=True)
    error, index, layer = summary.worst
    counts = {layer: count for layer, count in summary.rough_layers.items() if layer is not None}
    layers = ", ".join(f"{layer} ({counts[layer]})" for layer in sorted(counts))
    in_layers = f", in layers {layers}" if layers else ""
    where = f"text {index}" + ("" if layer is None else f", layer {layer}")
    print(
        f"warning: rough: {summary.num_rough} of {summary.num_examples} texts have an estimated"
        f" error above {ROUGH_LAYER:.0%} of what is attributed{in_layers} (the largest: {where},"
        f" {share(error)}); {remedy}",
        file=sys.stderr,
    )


def print_steps(summary: DatasetSummary, options: AttributionOptions) -> None:
    """Print how many integration steps the layers needed."""
    means = summary.mean_n_steps
    numbers = range(len(means)) if options.layers is None else options.layers
    print(
        "integration steps by layer (mean): "
        + "  ".join(f"{layer}: {mean:.1f}" for layer, mean in zip(numbers, means, strict=True))
    )
    if summary.not_converged:
        missed_layers = ", ".join(
            f"[{missed['example']}] layer {missed['layer']}"
            for missed in summary.not_converged[:10]
        )
        more = (
            f" and {summary.num_not_converged - 10} more" if summary.num_not_converged > 10 else ""
        )
        print(
            f"not within --tolerance {options.tolerance:g} with --max_steps {options.max_steps}:"
            f" {missed_layers}{more}"
        )


def _shortened(text: str, limit: int = 300) -> str:
    return printable(text if len(text) <= limit else text[:limit] + "…")


def print_summary(summary: DatasetSummary, layers: Sequence[int] | None) -> None:
    print(
        f"most important heads over {summary.num_examples} texts (layer.head, mean of the largest"
        " attribution):"
    )
    print(
        "  "
        + "  ".join(
            f"{layer}.{head} {value:.4f}"
            for layer, head, value in top_heads(summary.importance, 10, layers)
        )
    )
    print("strongest token pairs of the data set (attribution summed over layers and heads):")
    rows = [
        [
            (
                f"[{pair['example']}] {printable(pair['from_token'])} reads from"
                f" {printable(pair['to_token'])}"
            ),
            f"{pair['attribution']:+.4f}",
        ]
        for pair in summary.token_pairs[:10]
    ]
    if rows:
        print_table(rows)
    print()


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
    print_table(
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
        [f"{fraction:.0%}", *(f"{of_measure[row]:.4f}" for of_measure in accuracies)]
        for row, fraction in enumerate(CURVE_FRACTIONS)
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
    print_table(rows)


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
                *(f"{costs['latency_ms'][batch_size]:.2f}" for costs in (before, after)),
            ]
        )
    print(f"size and speed, for {sizes['num_tokens']} tokens:")
    print_table(rows)
