"""Say in a few lines what `make demo` found, and where to look: `python examples/summary.py
runs/demo`.
"""

import json
import sys
from pathlib import Path

import attattr_jax as aa

folder = Path(sys.argv[1])
run = json.loads((folder / "run.json").read_text())
results = run["results"]
pruned = json.loads((folder / "pruning" / "pruning.json").read_text())
control = json.loads((folder / "pruning-random" / "pruning.json").read_text())
total = sum(map(len, pruned["kept_heads"])) + sum(map(len, pruned["pruned_heads"]))
kept = sum(map(len, pruned["kept_heads"]))

print("=" * 78)
print(
    f"Fine-tuned {run['options']['model']} on {run['options']['dataset']}: validation accuracy"
    f" {results['eval_accuracy']:.3f}"
)
for explanation in aa.load_attributions(folder / "attribution"):
    pair = explanation.token_pairs[0]
    tokens = explanation.tokens
    print(f'"{explanation.text}"')
    print(
        f"    {explanation.predicted} (p = {explanation.probabilities[explanation.predicted]:.2f});"
        f" strongest pair: {tokens[pair['from']]} reads from {tokens[pair['to']]}"
        f" ({pair['attribution']:+.2f})"
    )
print(
    f"Kept 3 heads of every layer, {kept} of {total}: accuracy {pruned['accuracy_before']:.3f}"
    " before,"
)
print(
    f"    {pruned['accuracy_after']:.3f} with those that attribution ranks highest,"
    f" {control['accuracy_after']:.3f} with random ones"
)
size = pruned["size"]
speed = ", ".join(
    f"{size['after']['latency_ms'][batch]:.1f} ms instead of"
    f" {size['before']['latency_ms'][batch]:.1f} for a batch of {batch}"
    for batch in size["before"]["latency_ms"]
)
print(
    f"Without the others: {size['after']['parameters']:,} parameters instead of"
    f" {size['before']['parameters']:,}; {speed}"
)
print("Look at:")
for name, what in (
    ("metrics.jsonl", "losses and accuracies of the training"),
    (
        "attribution/report.html",
        "open it in a browser: tokens, pairs, heads, matrices and trees of every text",
    ),
    ("attribution/figures/", "the same of the first text as pictures"),
    ("attribution/examples.jsonl", "tokens, strongest pairs and heads of every text"),
    (
        "attribution/",
        'every array: attattr_jax.load_attributions("'
        + str(folder / "attribution")
        + '")[0].attributions',
    ),
    ("pruning/heads.png", "how important every head is, and which were pruned"),
    ("pruning/pruning.json", "the same as numbers"),
):
    print(f"    {folder / name}: {what}")
