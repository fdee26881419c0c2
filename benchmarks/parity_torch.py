"""Check that `transformers`' PyTorch model loads what this project saves and gives the same logits.

pip install "attattr-jax[bench]"
python benchmarks/parity_torch.py --checkpoint runs/demo --dataset reviews \\
    --output benchmarks/results/parity_torch.json

A model with heads removed (`prune.py --save_pruned`) is for transformers 4: version 5 cannot load
it. With `transformers>=4.50,<5` and `datasets<4.5` installed over the above:

python benchmarks/parity_torch.py --checkpoint runs/sst2-uneven --dataset reviews \\
    --output benchmarks/results/parity_torch_pruned.json
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
import transformers

import attattr_jax as aa
from attattr_jax.data.splits import load_split


def main() -> None:
    """Compare logits on a validation split and write the result file; fails if they differ by more
    than 1e-4.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--max_examples", type=int, default=128)
    parser.add_argument("--output", required=True, type=Path)
    given = parser.parse_args()

    split = load_split(given.dataset, "validation", max_examples=given.max_examples)
    ours = aa.load_classifier(given.checkpoint)
    theirs, report = transformers.BertForSequenceClassification.from_pretrained(
        given.checkpoint, output_loading_info=True
    )
    theirs.eval()
    batch = ours.tokenize(split.texts, split.text_pairs)
    logits, _ = aa.forward(ours.params, batch, ours.config)
    tokenizer = transformers.AutoTokenizer.from_pretrained(given.checkpoint)
    inputs = tokenizer(
        split.texts, split.text_pairs, padding=True, truncation=True, return_tensors="pt"
    )
    with torch.no_grad():
        expected = theirs(**inputs).logits.numpy()
    difference = float(np.abs(np.asarray(logits) - expected).max())
    result = {
        "examples": len(split),
        "max_abs_difference": difference,
        "max_abs_logit": float(np.abs(expected).max()),
        "missing_keys": sorted(report["missing_keys"]),
        "unexpected_keys": sorted(report["unexpected_keys"]),
        "id2label": theirs.config.id2label,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result))
    assert difference <= 1e-4 and not result["missing_keys"] and not result["unexpected_keys"]


if __name__ == "__main__":
    main()
