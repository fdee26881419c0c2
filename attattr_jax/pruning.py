"""Head pruning: score the heads on some examples, mask the least important, measure accuracy on other examples."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import jax
import numpy as np

from . import engine, sharding
from .attribution import attribute_attention
from .bert import model_inputs
from .data import Encoded, Split, inference_batches
from .errors import InputError
from .pretrained import Classifier


def attribution_importance(
    classifier: Classifier,
    encoded: Encoded,
    mesh: jax.sharding.Mesh,
    n_steps: int | str = 20,
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
    config = classifier.config
    params = sharding.replicate(classifier.params, mesh)
    total = np.zeros((config.num_hidden_layers, config.num_attention_heads))
    for batch in inference_batches(encoded, config, functools.partial(engine.default_batch_size, config), mesh.size):
        inputs, labels = sharding.shard_rows((model_inputs(batch.inputs), batch.labels), mesh)
        result = attribute_attention(params, inputs, config, labels, n_steps, method, reduce="head_max")
        is_example = batch.weights > 0
        total += np.asarray(result.attributions, np.float64)[is_example].sum(axis=0)
        on_batch(int(is_example.sum()))
    return total / len(encoded)


def disjoint(scoring: Split, evaluated: Split, num_scoring: int, seed: int) -> tuple[Split, Split]:
    """Return the examples to score on, drawn at random, and those to evaluate on, without any text that is scored on.

    Raises:
      InputError: nothing would be left to evaluate on.
    """
    drawn = np.random.default_rng(seed).permutation(len(scoring))[:num_scoring]
    scored = scoring.select(np.sort(drawn))
    return scored, without(evaluated, scored.example_hashes())


def without(evaluated: Split, hashes: Sequence[str]) -> Split:
    """Return the split without the examples that have one of these hashes (`Split.example_hashes`).

    Raises:
      InputError: none is left.
    """
    known = set(hashes)
    left = [index for index, digest in enumerate(evaluated.example_hashes()) if digest not in known]
    if not left:
        raise InputError(f"every example of {evaluated.source} was scored on: score on fewer, or evaluate on more or others (--eval_split)")
    return evaluated.select(left)
