"""Short texts attributed per second, padded to at least 16 tokens in batches of 8, and as now.

    python benchmarks/short_texts.py --checkpoint runs/demo \\
        --output benchmarks/results/short_texts.json

Texts of one word and of five, the words of the shipped reviews, 20 nodes, without token
attributions. Both ways are compiled first; then rounds alternate, and the medians are reported.
"""

import argparse
import functools
import json
import statistics
import time
from pathlib import Path

import jax
import numpy as np

import attattr_jax as aa
from attattr_jax.attribution.memory import default_batch_size
from attattr_jax.data.batches import SHORT_BUCKETS, encode
from attattr_jax.data.splits import Split, load_split
from attattr_jax.explanations import explain as module
from attattr_jax.explanations.explain import explain
from attattr_jax.runtime import sharding

ROUNDS = 5


def texts_of(num_words, count):
    """Return `count` texts of so many words."""
    words = sorted({word for text in load_split("reviews", "train").texts for word in text.split()})
    random = np.random.default_rng(0)
    return [" ".join(random.choice(words, num_words)) for _ in range(count)]


def seconds(classifier, texts, buckets, batch_size):
    """Return how long attributing takes with these short padded lengths and rows at once."""
    kept, module.SHORT_BUCKETS = module.SHORT_BUCKETS, buckets
    try:
        split = Split("texts", "texts", texts, None, None)
        encoded = encode(classifier, split, classifier.config.max_length)
        options = aa.AttributionOptions(token_level=False)
        start = time.perf_counter()
        for _ in explain(
            classifier, split, encoded, sharding.data_mesh(), options, "summary", batch_size
        ):
            pass
        return time.perf_counter() - start
    finally:
        module.SHORT_BUCKETS = kept


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", default="runs/demo")
    parser.add_argument("--num_texts", type=int, default=48)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    classifier = aa.load_classifier(options.checkpoint)
    now = functools.partial(default_batch_size, classifier.config)
    ways = {"before": ((), 8), "now": (SHORT_BUCKETS, now)}
    rows = []
    for num_words in (1, 5):
        texts = texts_of(num_words, options.num_texts)
        for way in ways.values():
            seconds(classifier, texts, *way)
        times = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, way in ways.items():
                times[name].append(seconds(classifier, texts, *way))
        medians = {name: statistics.median(values) for name, values in times.items()}
        rows.append(
            {
                "words": num_words,
                **{f"{name}_texts_per_second": len(texts) / medians[name] for name in ways},
                "times_as_fast": medians["before"] / medians["now"],
            }
        )
        print(json.dumps(rows[-1]))
    result = {
        "num_texts": options.num_texts,
        "rounds": ROUNDS,
        "device": str(jax.devices()[0]),
        "rows": rows,
    }
    if options.output:
        options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
