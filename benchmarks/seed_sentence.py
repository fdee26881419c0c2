"""Explain the README's sentence and five sentences with a turn by a model of SST-2, and draw them.

    python benchmarks/seed_sentence.py --checkpoint runs/sst2-minilm --runs runs/report \\
        --output benchmarks/results/seed_sentence.json --images docs

Numbers and picture of docs/comparison.md; the pictures of trees. --runs keeps what attribute.py
writes: a folder that is already there is used, not made again.
"""

import argparse
import json
import shutil
from pathlib import Path

from pruning import make

import attattr_jax as aa

SEED_SENTENCE = "This paper introduces a new interpretation method."
TREE_SENTENCES = (  # each with a turn; their trees are of the logit, since probabilities are near 1
    "stunning visuals, but no story worth telling",
    "not a dull moment in this warm, clever film",
    "the plot is nonsense and I would watch it again tonight",
    "the acting is wooden, yet the story moved me to tears",
    "it is not good, it is brilliant",
)


def main() -> None:
    """Run what is missing, and write the result file and the pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--runs", required=True, type=lambda name: Path(name).resolve())
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--images", required=True, type=Path)
    options = parser.parse_args()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    common = ("--checkpoint", options.checkpoint, "--token_n_steps", "auto", "--figures", "png")
    seed, trees = (options.runs / name for name in ("seed-sentence", "trees"))
    make(seed, "attribute.py", *common, "--text", SEED_SENTENCE)
    texts = [part for sentence in TREE_SENTENCES for part in ("--text", sentence)]
    make(trees, "attribute.py", *common, "--objective", "logit", *texts)

    result = {}
    shutil.copy(seed / "figures" / "00000" / "comparison.png", options.images / "comparison.png")
    (one,) = aa.load_attributions(seed)
    result["seed_sentence"] = {
        name: one.row[name]
        for name in (
            *(
                "text",
                "tokens",
                "predicted",
                "probabilities",
                "score",
                "baseline_scores",
                "absolute_attribution_sums",
            ),
            *("token_attributions", "token_convergence_delta", "token_n_steps"),
        )
    } | {"token_pairs": one.token_pairs, "relative_deltas": one.relative_deltas}
    result["trees"] = []
    for number, example in enumerate(aa.load_attributions(trees)):
        shutil.copy(
            trees / "figures" / f"{number:05d}" / "tree.png",
            options.images / f"tree_{number + 1}.png",
        )
        result["trees"].append(
            {"text": example.text, "predicted": example.predicted, **example.tree().to_dict()}
        )
    options.output.write_text(
        json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
