"""Predictions and metrics over a whole split."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from . import sharding
from .bert import Array, HeadMask, checked_head_mask, model_inputs, predict_logits
from .config import BertConfig
from .data import Encoded, inference_batches
from .errors import InputError

# The metric that GLUE reports for a task beside accuracy.
TASK_METRICS = {"mrpc": "f1", "cola": "matthews"}


def predict(
    params: Mapping[str, Any],
    config: BertConfig,
    encoded: Encoded,
    mesh: jax.sharding.Mesh,
    head_mask: HeadMask | None = None,
    batch_size: int = 32,
    on_batch: Callable[[int], None] = lambda count: None,
) -> np.ndarray:
    """Return the logits of every example, [examples, C], in order.

    Args:
      params: the parameter tree, on the mesh.
      config: the model's geometry.
      encoded: the tokenized split.
      mesh: the devices over which the rows of a batch are divided.
      head_mask: [L, N] as for `attattr_jax.forward`.
      batch_size: rows at once.
      on_batch: called with the number of examples done, after each batch.

    Raises:
      InputError: a logit is not finite.
    """
    static_mask, traced_mask = checked_head_mask(head_mask, config)
    logits = np.zeros((len(encoded), config.num_labels), np.float32)
    pending: list[tuple[np.ndarray, Array]] = []

    def collect():
        indices, values = pending.pop(0)
        logits[indices] = np.asarray(values)[: len(indices)]
        on_batch(len(indices))

    for batch in inference_batches(encoded, config, batch_size, mesh.size):
        inputs = sharding.shard_rows(model_inputs(batch.inputs), mesh)
        values = predict_logits(params, inputs, config, traced_mask, static_mask=static_mask)
        pending.append((batch.indices[batch.weights > 0], values))
        if len(pending) > 1:  # one batch is computed while the one before it is fetched
            collect()
    while pending:
        collect()
    if not np.isfinite(logits).all():
        raise InputError("the model's outputs are not finite: its weights, or its config.json, are not usable")
    return logits


def metrics(logits: np.ndarray, labels: np.ndarray, task: str | None = None) -> dict[str, float]:
    """Return `accuracy`, `loss` (mean cross-entropy) and the task's own metric.

    Args:
      logits: [examples, C].
      labels: int [examples].
      task: "mrpc" adds `f1`, "cola" `matthews`; both are 0 where they are undefined.
    """
    predictions = logits.argmax(-1)
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    log_probs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    result = {
        "accuracy": float(np.mean(predictions == labels)),
        "loss": float(-np.mean(log_probs[np.arange(len(labels)), labels])),
    }
    hits, misses = np.sum((predictions == 1) & (labels == 1)), np.sum((predictions == 0) & (labels == 1))
    false_alarms, rejections = np.sum((predictions == 1) & (labels == 0)), np.sum((predictions == 0) & (labels == 0))
    if TASK_METRICS.get(task) == "f1":
        result["f1"] = float(2 * hits / max(2 * hits + misses + false_alarms, 1))
    if TASK_METRICS.get(task) == "matthews":
        margins = [hits + misses, hits + false_alarms, rejections + misses, rejections + false_alarms]
        denominator = float(np.sqrt(np.prod(np.asarray(margins, np.float64))))
        result["matthews"] = float(hits * rejections - misses * false_alarms) / denominator if denominator else 0.0
    return result
