"""How much to compute at once, from the memory of the device.

Shapes: B examples, T tokens (padded), L layers, N heads.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from jax.core import Tracer

from ..models.config import EncoderConfig
from ..models.types import Batch

# What a backward pass may keep of the steps that are computed at once. On a CPU, chunks that fill
# the cache are not slower than larger ones; an accelerator wants as many as fit beside the model.
CPU_MEMORY_BYTES = 128 * 2**20
ACCELERATOR_MEMORY_SHARE = 0.25
ACCELERATOR_ROWS = 64


def memory_budget() -> int:
    """Return how many bytes the steps computed at once may keep on a device."""
    device = jax.local_devices()[0]
    stats = None if device.platform == "cpu" else device.memory_stats()
    return int(ACCELERATOR_MEMORY_SHARE * stats["bytes_limit"]) if stats else CPU_MEMORY_BYTES


def bytes_per_step(
    config: EncoderConfig, layers: Sequence[int], batch_size: int, num_tokens: int
) -> int:
    """Estimate what the backward pass of one node of all `layers` keeps, together."""
    last = config.num_hidden_layers - 1
    per_token = (
        9 * config.hidden_size
        + config.intermediate_size
        + 3 * config.num_attention_heads * num_tokens
    )
    itemsize = 2 if config.dtype in ("bfloat16", "float16") else 4
    layers_above = sum(last - layer for layer in layers) + 1
    return itemsize * batch_size * num_tokens * layers_above * per_token


def layer_groups(
    config: EncoderConfig,
    layers: Sequence[int],
    batch_size: int,
    num_tokens: int,
    steps_at_once: int | None,
):
    """Divide the layers (ascending) into groups that are integrated together, as memory allows.

    Returns:
      (layers, steps at once) of each group; a group has a layer and a step at least.
    """
    budget = memory_budget()
    groups: list[list[int]] = []
    for layer in reversed(layers):
        extended = [layer, *groups[-1]] if groups else [layer]
        if (
            groups
            and bytes_per_step(config, extended, batch_size, num_tokens) * (steps_at_once or 1)
            <= budget
        ):
            groups[-1] = extended
        else:
            groups.append([layer])
    return tuple(
        (
            tuple(group),
            steps_at_once
            or max(1, budget // bytes_per_step(config, group, batch_size, num_tokens)),
        )
        for group in groups
    )


def default_batch_size(config: EncoderConfig, num_tokens: int) -> int:
    """Return how many examples of a padded length to attribute at once on a device.

    On a CPU 16 of up to 12 tokens and 8 of up to 32, fewer if longer: larger batches are not faster
    (benchmarks/short_texts.py). On an accelerator as many as memory allows, up to 64.
    """
    rows = 16 if num_tokens <= 12 else max(1, min(8, 256 // num_tokens))
    if jax.default_backend() == "cpu":
        return rows
    per_row = bytes_per_step(config, range(config.num_hidden_layers), 1, num_tokens)
    return max(rows, min(ACCELERATOR_ROWS, memory_budget() // per_row))


def token_steps_at_once(config: EncoderConfig, batch_size: int, num_tokens: int) -> int:
    """Return how many steps of a path on the word embeddings to compute at once.

    Each step passes all layers once.
    """
    per_step = config.num_hidden_layers * bytes_per_step(
        config, [config.num_hidden_layers - 1], batch_size, num_tokens
    )
    return max(1, memory_budget() // per_step)


def rows_per_device(batch: Batch) -> int:
    """Return how many examples of a batch stand on one device."""
    input_ids = batch["input_ids"]
    if isinstance(input_ids, jax.Array) and not isinstance(input_ids, Tracer):
        return input_ids.sharding.shard_shape(input_ids.shape)[0]
    return np.shape(input_ids)[0]
