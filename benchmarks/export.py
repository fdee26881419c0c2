"""A model with and without half of its heads, as ONNX in onnxruntime and here: logits and speed.

    python benchmarks/export.py --checkpoint runs/demo --output benchmarks/results/export.json

In an environment with jax2onnx and onnxruntime (docs/pruning.md). Rounds take turns; medians.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
import onnxruntime

import attattr_jax as aa
from attattr_jax.models.inference import predict_logits

sys.path.append(str(Path(__file__).parent.parent / "examples"))
from export_onnx import INPUTS, export_onnx

NUM_TOKENS, ROUNDS = 24, 15


def main() -> None:
    """Export, compare, measure, and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    full = aa.load_classifier(options.checkpoint)
    mask = np.ones((full.config.num_hidden_layers, full.config.num_attention_heads))
    mask[:, ::2] = 0
    result: dict = {"num_tokens": NUM_TOKENS}
    calls, random = {}, np.random.default_rng(0)
    for name, classifier in (("full", full), ("half", aa.remove_heads(full, mask))):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "model.onnx"
            start = time.perf_counter()
            export_onnx(classifier, file, NUM_TOKENS)
            seconds = time.perf_counter() - start
            session = onnxruntime.InferenceSession(file)
            result[name] = {"export_seconds": seconds, "bytes": file.stat().st_size}
        params = jax.device_put(classifier.params)
        for rows in (1, 32):
            ids = random.integers(1000, 20000, (rows, NUM_TOKENS)).astype(np.int32)
            batch = dict(zip(INPUTS, (ids, np.ones_like(ids), np.zeros_like(ids)), strict=True))
            calls[name, rows, "onnxruntime"] = lambda s=session, b=batch: s.run(None, b)[0]
            calls[name, rows, "here"] = lambda p=params, b=batch, c=classifier.config: np.asarray(
                predict_logits(p, b, c)
            )
            difference = calls[name, rows, "here"]() - calls[name, rows, "onnxruntime"]()
            result[name][f"largest_difference_of_{rows}"] = float(np.abs(difference).max())
    times: dict = {key: [] for key in calls}
    for _ in range(ROUNDS):
        for key, call in calls.items():
            start = time.perf_counter()
            call()
            times[key].append(1e3 * (time.perf_counter() - start))
    for (name, rows, where), values in times.items():
        result[name].setdefault(f"milliseconds_of_{rows}", {})[where] = statistics.median(values)
    print(json.dumps(result, indent=2))
    if options.output:
        options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
