"""How much each attention head matters to a model, by five measures, from labelled examples.

attribution: the mean over examples of the head's largest attention attribution for the gold class
  (Hao et al., 2021, equation 4).
taylor: Σ over examples and real tokens of |context · ∂loss/∂context|, each layer then divided by
  its L2 norm over heads (Michel, Levy, Neubig: Are Sixteen Heads Really Better than One?, NeurIPS
  2019, section 4.1).
attention: the mean over examples of the head's largest attention probability between real tokens.
ablation: the increase of the mean loss when this head alone is masked (Michel et al., section 3.2,
  with the loss in place of the accuracy).
random: a random rank, the control.

The loss is the cross-entropy of the gold class. Every measure can be computed under a head mask,
which is traced: ranking the remaining heads again needs no compilation. Heads that are masked or
were removed have importance 0.

Shapes: B examples, T tokens (padded), L layers, N heads, Q query rows (T; 1 in the last layer where
only the first row is needed).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..attribution import formula, reductions
from ..attribution.attention import attribute_attention
from ..attribution.memory import bytes_per_step, default_batch_size, memory_budget, rows_per_device
from ..attribution.reductions import max_over_real
from ..data.batches import Encoded, inference_batches
from ..errors import InputError
from ..models.classifier import Classifier
from ..models.config import EncoderConfig
from ..models.families import apply_encoder
from ..models.head_masks import mask_row, present_heads, spread_heads
from ..models.inference import model_inputs
from ..models.types import Array
from ..runtime import sharding
from .masks import random_importance

MEASURES = ("attribution", "taylor", "attention", "ablation", "random")


class HeadScores(NamedTuple):
    """What scoring gives."""

    importance: np.ndarray  # float64 [L, N]: ranks the heads
    details: dict[str, np.ndarray]  # what else the measure knows of each head, [L, N] each


def score_heads(
    measure: str,
    classifier: Classifier,
    encoded: Encoded,
    mesh: jax.sharding.Mesh,
    head_mask: np.ndarray | None = None,
    n_steps: int | str = 20,
    method: str = "gausslegendre",
    seed: int = 0,
    on_batch: Callable[[int], None] = lambda count: None,
    params: Any = None,
) -> HeadScores:
    """Score every head of a model.

    Only [B, L, N] leaves the device.

    Args:
      measure: one of `MEASURES`.
      classifier: the model.
      encoded: the scoring examples, with labels.
      mesh: the devices of this process; of several processes, each does its share of the batches.
      head_mask: 0/1 [L, N]: score the model under this mask.
      n_steps, method: for "attribution", as for `attribute_attention`.
      seed: for "random".
      on_batch: called with the number of examples done, after each batch.
      params: the classifier's parameters on the mesh, if they are there already.

    Returns: `HeadScores`. Details: "taylor" has `unnormalised`, the sums before the division;
      "ablation" has `accuracy_loss`, the share of examples that are right with the head less those
      that are right without it.
    """
    config = classifier.config
    present = present_heads(config)
    mask = (present if head_mask is None else present * np.asarray(head_mask)).astype(np.float32)
    if measure == "random":
        return HeadScores(random_importance(*mask.shape, seed) * (mask != 0), {})
    params = sharding.replicate(classifier.params, mesh) if params is None else params
    traced = sharding.replicate(jnp.asarray(mask), mesh)

    def compute(inputs, labels) -> dict[str, Array]:
        if measure == "attribution":
            found = attribute_attention(
                params, inputs, config, labels, n_steps, method, head_mask=traced, reduce="head_max"
            )
            return {"importance": found.attributions}
        if measure == "ablation":
            num_rows, num_tokens = rows_per_device(inputs), inputs["input_ids"].shape[1]
            per_head = bytes_per_step(config, range(config.num_hidden_layers), num_rows, num_tokens)
            return _ablation(
                params, inputs, labels, traced, config, max(1, memory_budget() // per_head)
            )
        return {"taylor": _taylor, "attention": _attention}[measure](
            params, inputs, labels, traced, config
        )

    total = {
        name: np.zeros(mask.shape)
        for name in ("importance", *(["accuracy_loss"] if measure == "ablation" else []))
    }
    rows = (
        functools.partial(default_batch_size, config)
        if measure in ("attribution", "ablation")
        else _rows_of_one_pass
    )
    for batch in inference_batches(encoded, config, rows, mesh):
        inputs, labels = sharding.shard_rows((model_inputs(batch.inputs), batch.labels), mesh)
        is_example = batch.weights > 0
        for name, values in compute(inputs, labels).items():
            total[name] += np.asarray(values, np.float64)[is_example].sum(axis=0) * (mask != 0)
        on_batch(int(is_example.sum()))
    total = sharding.sum_over_processes(total, mesh)
    if measure == "taylor":
        norms = np.linalg.norm(total["importance"], axis=1, keepdims=True)
        return HeadScores(
            total["importance"] / np.where(norms == 0, 1, norms),
            {"unnormalised": total["importance"]},
        )
    means = {name: values / len(encoded) for name, values in total.items()}
    return HeadScores(means.pop("importance"), means)


def _rows_of_one_pass(num_tokens: int) -> int:
    """Return how many examples of a padded length to pass at once where each needs one pass or
    two.
    """
    return max(1, min(32, 4096 // num_tokens))


@functools.partial(jax.jit, static_argnames=("config",))
def _attention(params, inputs, labels, mask, config: EncoderConfig) -> dict[str, Array]:
    """Return each head's largest probability, [B, L, N]."""
    _, probs, _ = apply_encoder(params, config, inputs, head_mask=mask)
    real = inputs["attention_mask"] != 0
    maxima = [
        spread_heads(reductions.max_over_real(used, real), config, layer)
        for layer, used in enumerate(probs)
    ]
    return {"importance": jnp.stack(maxima, axis=1)}


@functools.partial(jax.jit, static_argnames=("config",))
def _taylor(params, inputs, labels, mask, config: EncoderConfig) -> dict[str, Array]:
    """Return Σ over real tokens of |context · ∂loss/∂context|, [B, L, N].

    A factor g = 1 on the context of every row of every head makes it a gradient of its own:
    ∂loss/∂g = context · ∂loss/∂context.
    """
    num_rows, num_tokens = inputs["input_ids"].shape
    real = inputs["attention_mask"] != 0

    def loss(factors: list[Array]) -> Array:
        masked = [each * mask[layer][None, None, :] for layer, each in enumerate(factors)]
        logits, _, _ = apply_encoder(params, config, inputs, head_mask=masked, only_read_rows=True)
        return -jnp.sum(formula.objective_of(logits, labels, "log_prob"))

    layers = range(config.num_hidden_layers)
    queries = [config.num_queries(layer) or num_tokens for layer in layers]
    ones = [
        jnp.ones((num_rows, count, config.num_attention_heads), mask.dtype) for count in queries
    ]
    gradients = jax.grad(loss)(ones)
    sums = [
        jnp.sum(jnp.where(real[:, : each.shape[1], None], jnp.abs(each), 0), axis=1)
        for each in gradients
    ]
    return {"importance": jnp.stack(sums, axis=1)}


@functools.partial(jax.jit, static_argnames=("config", "heads_at_once"))
def _ablation(
    params, inputs, labels, mask, config: EncoderConfig, heads_at_once: int
) -> dict[str, Array]:
    """Return the rise of the loss and the loss of accuracy without each head, [B, L, N]: every head
    of every layer in one program.

    To mask a head of a layer changes nothing below: a model without head n of layer l enters the
    growing batch of `classify_branches` at layer l. The vmap runs over n, for all layers at once.
    """
    layers = tuple(range(config.num_hidden_layers))
    clean = formula.clean_pass(params, inputs, labels, mask, config, "log_prob", layers)
    token_masks = [clean.token_mask] * len(layers)

    def logits_without(head: Array) -> Array:
        left = mask * (jnp.arange(config.num_attention_heads) != head)[None, :].astype(mask.dtype)
        mixed = [
            formula.attention_output(
                formula.layer_params_of(params, config, layer),
                config,
                config.layer_kind(layer),
                hidden,
                probs[:, :, : added.shape[1]],
                mask_row(left, config, layer),
            )
            for layer, hidden, probs, added in zip(
                layers, clean.hidden, clean.probs, clean.mixed, strict=True
            )
        ]
        mixed = [
            added.astype(hidden.dtype) for added, hidden in zip(mixed, clean.hidden, strict=True)
        ]
        branches = layers, clean.hidden, mixed, token_masks, mask
        return apply_encoder(params, config, *branches, method="classify_branches")

    # [N, L, B, C]
    logits = jax.lax.map(
        logits_without, jnp.arange(config.num_attention_heads), batch_size=heads_at_once
    )
    log_probs = jax.vmap(jax.vmap(lambda each: formula.objective_of(each, labels, "log_prob")))(
        logits
    )
    rise = clean.score[None, None] - log_probs
    is_right = (clean.logits.argmax(-1) == labels)[None, None].astype(rise.dtype)
    accuracy_loss = is_right - (logits.argmax(-1) == labels[None, None]).astype(rise.dtype)
    return {
        "importance": rise.transpose(2, 1, 0),
        "accuracy_loss": accuracy_loss.transpose(2, 1, 0),
    }


def head_importance(attributions: jax.Array, attention_mask: jax.Array) -> jax.Array:
    """Return each head's importance I_h = E_x[max(Attr_h)] (paper, equation 4): the mean over
    examples of the signed maximum.

    Args:
      attributions: [B, L, N, T, T].
      attention_mask: [B, T]; the maximum skips padding, which would otherwise give an all-negative
        head 0. Rows that are all padding do not count.

    Returns:
      [L, N], in units of the model's output.

    Raises:
      InputError: the shapes do not fit, or there is no example. (A mask in a JAX array is not
        looked at: without an example the importance is NaN.)
    """
    shape, mask_shape = np.shape(attributions), np.shape(attention_mask)
    if len(shape) != 5 or mask_shape != (shape[0], shape[-1]) or shape[-1] != shape[-2]:
        raise InputError(
            f"attributions must be [B, L, N, T, T] and attention_mask [B, T], not {list(shape)} and"
            f" {list(mask_shape)}"
        )
    if not isinstance(attention_mask, jax.Array) and not np.any(attention_mask):
        raise InputError("attention_mask is 0 everywhere: there is no example to take the mean of")
    real = jnp.asarray(attention_mask) != 0
    is_example = jnp.any(real, axis=1)
    maxima = jnp.where(is_example[:, None, None], max_over_real(jnp.asarray(attributions), real), 0)
    return jnp.sum(maxima, axis=0) / jnp.sum(is_example).astype(maxima.dtype)
