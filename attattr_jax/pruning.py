"""Head pruning: score the heads on some examples, mask the least important, measure accuracy on other examples."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from . import sharding
from .attribution import attribute_attention
from .bert import model_inputs
from .data import Encoded, inference_batches
from .errors import InputError
from .explanations import default_batch_size
from .pretrained import Classifier


def attribution_importance(
    classifier: Classifier,
    encoded: Encoded,
    mesh: jax.sharding.Mesh,
    n_steps: int = 20,
    method: str = "gausslegendre",
    on_batch: Callable[[int], None] = lambda count: None,
) -> np.ndarray:
    """Return the mean over examples of each head's maximum attribution for the gold class, float64 [L, N] (paper, equation 4).

    Only [B, L, N] leaves the device.

    Args:
      classifier: the model.
      encoded: the scoring examples, with labels.
      mesh: the devices.
      n_steps, method: the integration, as for `attribute_attention`.
      on_batch: called with the number of examples done, after each batch.
    """
    params = sharding.replicate(classifier.params, mesh)
    total = np.zeros((classifier.config.num_hidden_layers, classifier.config.num_attention_heads))
    for batch in inference_batches(encoded, classifier.config, default_batch_size, mesh.size):
        inputs, labels = sharding.shard_rows((model_inputs(batch.inputs), batch.labels), mesh)
        result = attribute_attention(params, inputs, classifier.config, labels, n_steps, method, reduce="head_max")
        is_example = batch.weights > 0
        total += np.asarray(result.attributions, np.float64)[is_example].sum(axis=0)
        on_batch(int(is_example.sum()))
    return total / len(encoded)


def importance_record(measure: str, num_examples: int, target: str, fingerprint: str, importance: np.ndarray) -> dict[str, Any]:
    """Return the contents of `head_importance.json`."""
    return {
        "measure": measure,
        "num_examples": num_examples,
        "target": target,
        "model": fingerprint,
        "importance": np.asarray(importance).tolist(),
    }


def read_importance(file: Path, classifier: Classifier) -> tuple[np.ndarray, str]:
    """Return the importance [L, N] and the measure of a `head_importance.json` of this model.

    Raises:
      InputError: it is damaged, or another model's.
    """
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        importance, model, measure = np.asarray(record["importance"], np.float64), record["model"], str(record["measure"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} is not a head_importance.json: {error!r}") from None
    expected = (classifier.config.num_hidden_layers, classifier.config.num_attention_heads)
    if importance.shape != expected or not np.isfinite(importance).all():
        raise InputError(f"{file}: importance must be finite and {list(expected)}, as this model's heads, not {list(importance.shape)}")
    if model != classifier.fingerprint():
        raise InputError(f"{file} was computed for another model than {classifier.name}: run attribute.py or prune.py on this one")
    return importance, measure


def disjoint_examples(num_scoring: int, scoring_size: int, eval_size: int, same_split: bool, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices to score on, drawn at random, and those to evaluate on: never the same example.

    Args:
      num_scoring: how many to score on.
      scoring_size, eval_size: the sizes of the two splits.
      same_split: whether they are one and the same; what is scored on is then not evaluated on.
      seed: of the draw.

    Raises:
      InputError: nothing would be left to evaluate on.
    """
    drawn = np.sort(np.random.default_rng(seed).permutation(scoring_size)[:num_scoring])
    evaluated = np.setdiff1d(np.arange(eval_size), drawn) if same_split else np.arange(eval_size)
    if not len(evaluated):
        raise InputError(
            f"all {scoring_size} examples would be scored on and none evaluated: lower --num_scoring_examples or use another --eval_split"
        )
    return drawn, evaluated
