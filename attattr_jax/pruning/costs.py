"""What a model costs: parameters, bytes, floating point operations, and measured time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ..models.classifier import Classifier, file_size
from ..models.config import EncoderConfig
from ..models.inference import complete_batch, predict_logits

BATCH_SIZES = (1, 32)
ROUNDS = 7
ROUND_SECONDS = 0.2  # the least that a round takes, for the clock and the noise


def static_costs(classifier: Classifier, num_tokens: int) -> dict[str, Any]:
    """Return what can be counted.

    Returns: `parameters`; `file_bytes` of its model.safetensors; `flops` of the logits of one
      example of `num_tokens` tokens, as XLA counts them.
    """
    counted = predict_logits.lower(
        classifier.params, _inputs(classifier.config, 1, num_tokens), classifier.config
    ).cost_analysis()
    return {
        "parameters": sum(np.size(leaf) for leaf in jax.tree.leaves(classifier.params)),
        "file_bytes": file_size(classifier),
        "flops": int(counted["flops"]),
    }


def latencies(
    classifiers: Mapping[str, Classifier],
    num_tokens: int,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    rounds: int = ROUNDS,
) -> dict[str, dict[int, float]]:
    """Measure the milliseconds of one batch of logits, compiled, on one device.

    They are the median of rounds in which the models take turns.

    Returns:
      {name: {batch size: milliseconds}}.
    """
    params = {name: jax.device_put(classifier.params) for name, classifier in classifiers.items()}
    milliseconds: dict[str, dict[int, float]] = {name: {} for name in classifiers}
    for batch_size in batch_sizes:
        inputs = jax.device_put(
            _inputs(next(iter(classifiers.values())).config, batch_size, num_tokens)
        )

        def seconds(name, repeats, inputs=inputs):
            start = time.perf_counter()
            for _ in range(repeats):
                predict_logits(params[name], inputs, classifiers[name].config).block_until_ready()
            return (time.perf_counter() - start) / repeats

        for name in classifiers:
            seconds(name, 1)  # compiles
        repeats = max(1, round(ROUND_SECONDS / max(seconds(name, 2) for name in classifiers)))
        taken: dict[str, list[float]] = {name: [] for name in classifiers}
        for _ in range(rounds):
            for name in classifiers:
                taken[name].append(seconds(name, repeats))
        for name, seconds_of in taken.items():
            milliseconds[name][batch_size] = round(1000 * statistics.median(seconds_of), 3)
    return milliseconds


def _inputs(config: EncoderConfig, batch_size: int, num_tokens: int) -> dict[str, np.ndarray]:
    token = 1 if config.pad_token_id == 0 else 0  # any that is not padding
    return complete_batch({"input_ids": np.full((batch_size, num_tokens), token)}, config)
