"""Predictions and metrics over a whole split."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from ..data.batches import Encoded, inference_batches
from ..data.gold import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from ..errors import InputError
from ..models.config import EncoderConfig
from ..models.head_masks import split_head_mask
from ..models.inference import model_inputs, predict_logits, predict_logits_of_masks
from ..models.types import Array, HeadMask
from ..runtime import sharding

# What epochs are compared by.
MAIN_METRICS = {REGRESSION: "pearson", SINGLE_LABEL: "accuracy", MULTI_LABEL: "micro_f1"}
# The metric that GLUE reports for a task beside accuracy.
TASK_METRICS = {"mrpc": "f1", "qqp": "f1", "cola": "matthews"}
# The class that F1 is of, by its name; without names it is class 1.
POSITIVE_CLASSES = ("equivalent", "duplicate")
MASKS_AT_ONCE = 8  # head masks that an accelerator evaluates together


def predict(
    params: Mapping[str, Any],
    config: EncoderConfig,
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
      mesh: the devices over which the rows of a batch are divided: of this process, which then does
        its share of the batches, or of all.
      head_mask: [L, N] as for `attattr_jax.forward`.
      batch_size: rows at once.
      on_batch: called with the number of examples done, after each batch.

    Raises:
      InputError: a logit is not finite.
    """
    params, config, traced_mask = split_head_mask(params, config, head_mask)

    def compute(inputs):
        return [predict_logits(params, inputs, config, traced_mask)[None]]

    return _over_batches(compute, 1, config, encoded, mesh, batch_size, on_batch)[0]


def predict_masks(
    params: Mapping[str, Any],
    config: EncoderConfig,
    encoded: Encoded,
    mesh: jax.sharding.Mesh,
    head_masks: np.ndarray,
    batch_size: int = 32,
    on_batch: Callable[[int], None] = lambda count: None,
) -> np.ndarray:
    """Return the logits of every example under each of many head masks.

    They are [masks, examples, C]; one compiled program serves all masks.

    Args:
      head_masks: [masks, L, N]; those that occur again are computed once.
      Others: as for `predict`; `on_batch` counts an example once, not once for each mask.

    Raises:
      InputError: a logit is not finite.
    """
    distinct, where = np.unique(np.asarray(head_masks, np.float32), axis=0, return_inverse=True)
    # A CPU is busy with one; the program has a fixed number, so that it serves every number of
    # masks.
    at_once = 1 if mesh.devices.flat[0].platform == "cpu" else MASKS_AT_ONCE
    padded = np.pad(distinct, ((0, -len(distinct) % at_once), (0, 0), (0, 0)))
    groups = [
        sharding.replicate(padded[start : start + at_once], mesh)
        for start in range(0, len(padded), at_once)
    ]

    def compute(inputs):
        return [predict_logits_of_masks(params, inputs, config, masks) for masks in groups]

    return _over_batches(compute, len(distinct), config, encoded, mesh, batch_size, on_batch)[
        where.ravel()
    ]


def _over_batches(
    compute: Callable[[Any], list[Array]],
    num_masks: int,
    config: EncoderConfig,
    encoded: Encoded,
    mesh,
    batch_size: int,
    on_batch,
) -> np.ndarray:
    """Return logits [masks, examples, C], in order.

    `compute` returns a batch's, in parts [masks, B, C] that follow one another.
    """
    logits = np.zeros((num_masks, len(encoded), config.num_labels), np.float32)
    pending: list[tuple[np.ndarray, list[Array]]] = []

    def collect():
        indices, parts = pending.pop(0)
        values = np.concatenate(sharding.fetch(parts))
        logits[:, indices] = values[:num_masks, : len(indices)]
        on_batch(len(indices))

    for batch in inference_batches(encoded, config, batch_size, mesh):
        inputs = sharding.shard_rows(model_inputs(batch.inputs), mesh)
        pending.append((batch.indices[batch.weights > 0], compute(inputs)))
        if len(pending) > 1:  # one batch is computed while the one before it is fetched
            collect()
    while pending:
        collect()
    logits = sharding.sum_over_processes(logits, mesh)  # what the others computed is 0 here
    if not np.isfinite(logits).all():
        raise InputError(
            "the model's outputs are not finite: its weights, or its config.json, are not usable"
        )
    return logits


def metrics(
    logits: np.ndarray,
    labels: np.ndarray,
    task: str | None = None,
    id2label: Mapping[int, str] | None = None,
    problem_type: str = SINGLE_LABEL,
) -> dict[str, float]:
    """Return the metrics of a split, and `loss`, the mean of what training minimises.

    Of one class an example `accuracy` and the task's own metric; of lists of classes `micro_f1`,
    `macro_f1` and `accuracy`, of examples whose list is right; of numbers `pearson` and `spearman`.

    Args:
      logits: [examples, C].
      labels: as `gold.gold_labels` returns them, all gold.
      task: "mrpc" and "qqp" add `f1`, "cola" `matthews`, for two classes; both are 0 where they are
        undefined.
      id2label: the class names. F1 is of the class "equivalent" (MRPC) or "duplicate" (QQP),
        whatever its index; without such a name it is of class 1.
      problem_type: the kind of outputs.
    """
    if problem_type == MULTI_LABEL:
        return _multi_label_metrics(logits, labels)
    if problem_type == REGRESSION:
        return _regression_metrics(logits[:, 0], labels)
    predictions = logits.argmax(-1)
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    log_probs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    result = {
        "accuracy": float(np.mean(predictions == labels)),
        "loss": float(-np.mean(log_probs[np.arange(len(labels)), labels])),
    }
    if task not in TASK_METRICS or logits.shape[-1] != 2:
        return result
    positive = next(
        (index for index, name in (id2label or {}).items() if name.casefold() in POSITIVE_CLASSES),
        1,
    )
    predicted, gold = predictions == positive, labels == positive
    hits, misses = np.sum(predicted & gold), np.sum(~predicted & gold)
    false_alarms, rejections = np.sum(predicted & ~gold), np.sum(~predicted & ~gold)
    if TASK_METRICS[task] == "f1":
        result["f1"] = float(2 * hits / max(2 * hits + misses + false_alarms, 1))
    else:
        margins = [
            hits + misses,
            hits + false_alarms,
            rejections + misses,
            rejections + false_alarms,
        ]
        denominator = float(np.sqrt(np.prod(np.asarray(margins, np.float64))))
        result["matthews"] = (
            float(hits * rejections - misses * false_alarms) / denominator if denominator else 0.0
        )
    return result


def _multi_label_metrics(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return the metrics of outputs that hold where their logit is above 0; labels 0/1 [·, C].

    F1 of a label that is neither predicted nor gold is 0, as scikit-learn has it.
    """
    logits, gold = logits.astype(np.float64), labels == 1
    predicted = logits > 0
    hits = (predicted & gold).sum(axis=0)
    sizes = predicted.sum(axis=0) + gold.sum(axis=0)
    losses = np.logaddexp(0, logits) - logits * gold
    return {
        "micro_f1": float(2 * hits.sum() / max(sizes.sum(), 1)),
        "macro_f1": float(np.mean(2 * hits / np.maximum(sizes, 1))),
        "accuracy": float(np.mean((predicted == gold).all(axis=1))),
        "loss": float(losses.mean()),
    }


def _regression_metrics(outputs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return the metrics of numbers; correlations are 0 where either side is constant."""
    import scipy.stats  # slow to import

    outputs, labels = outputs.astype(np.float64), labels.astype(np.float64)
    result = {"loss": float(np.mean((outputs - labels) ** 2))}
    is_constant = len(labels) < 2 or min(np.ptp(outputs), np.ptp(labels)) == 0
    for name, correlation in (
        ("pearson", scipy.stats.pearsonr),
        ("spearman", scipy.stats.spearmanr),
    ):
        result[name] = 0.0 if is_constant else float(correlation(outputs, labels).statistic)
    return result
