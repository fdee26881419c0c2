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

A new measure is a function here, a line of `_MEASURES`, and its name in `measures`.

The loss is the cross-entropy of the gold class. Every measure can be computed under a head mask,
which is traced: ranking the remaining heads again needs no compilation. Heads that are masked or
were removed have importance 0.

Shapes: B examples, T tokens (padded), L layers, N heads, Q query rows (T; 1 in the last layer where
only the first row is needed).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..attribution import formula
from ..attribution.attention import attribute_attention
from ..attribution.memory import bytes_per_step, default_batch_size, memory_budget, rows_per_device
from ..attribution.objectives import objective_of
from ..attribution.summaries.reductions import max_over_real
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


class HeadScores(NamedTuple):
    """What scoring gives."""

    importance: np.ndarray  # float64 [L, N]: ranks the heads
    details: dict[str, np.ndarray]  # what else the measure knows of each head, [L, N] each


def score_heads(
    measure: str,
    classifier: Classifier,
    encoded: Encoded | None,
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
      measure: one of `measures.MEASURES`.
      classifier: the model.
      encoded: the scoring examples, with labels; not needed for "random".
      mesh: the devices of this process; of several processes, each does its share of the batches.
      head_mask: 0/1 [L, N]: score the model under this mask.
      n_steps, method: for "attribution", as for `attribute_attention`.
      seed: for "random".
      on_batch: called with the number of examples done, after each batch.
      params: the classifier's parameters on the mesh, if they are there already.

    Returns:
      `HeadScores`. Details: "taylor" has `unnormalised`, the sums before the division; "ablation"
      has `accuracy_loss`, the share of examples that are right with the head less those that are
      right without it.
    """
    config = classifier.config
    present = present_heads(config)
    mask = (present if head_mask is None else present * np.asarray(head_mask)).astype(np.float32)
    if measure == "random":
        return HeadScores(random_importance(*mask.shape, seed) * (mask != 0), {})
    assert encoded is not None
    definition = _MEASURES[measure]
    params = sharding.replicate(classifier.params, mesh) if params is None else params
    traced = sharding.replicate(jnp.asarray(mask), mesh)
    options = {"n_steps": n_steps, "method": method} if definition.integrates else {}

    sums = {name: np.zeros(mask.shape) for name in ("importance", *definition.details)}
    rows = _rows_of_one_pass
    if definition.has_many_passes:
        rows = functools.partial(default_batch_size, config)
    for batch in inference_batches(encoded, config, rows, mesh):
        inputs, labels = sharding.shard_rows((model_inputs(batch.inputs), batch.labels), mesh)
        is_example = batch.weights > 0
        scores = definition.compute(params, inputs, labels, traced, config, **options)
        for name, values in scores.items():
            of_examples = np.asarray(values, np.float64)[is_example]
            sums[name] += of_examples.sum(axis=0) * (mask != 0)
        on_batch(int(is_example.sum()))
    return definition.finish(sharding.sum_over_processes(sums, mesh), len(encoded))


def _rows_of_one_pass(num_tokens: int) -> int:
    """Return how many examples of a padded length to compute at once in one or two passes."""
    return max(1, min(32, 4096 // num_tokens))


def _attribution(params, inputs, labels, mask, config, n_steps, method) -> dict[str, Array]:
    """Return each head's largest attribution for the gold class, [B, L, N]."""
    result = attribute_attention(
        params, inputs, config, labels, n_steps, method, head_mask=mask, reduce="head_max"
    )
    return {"importance": result.attributions}


@functools.partial(jax.jit, static_argnames=("config",))
def _attention(params, inputs, labels, mask, config: EncoderConfig) -> dict[str, Array]:
    """Return each head's largest probability, [B, L, N]."""
    _, probs, _ = apply_encoder(params, config, inputs, head_mask=mask)
    token_mask = inputs["attention_mask"] != 0
    maxima = [
        spread_heads(max_over_real(used, token_mask), config, layer)
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
    token_mask = inputs["attention_mask"] != 0

    def loss(factors: list[Array]) -> Array:
        masked = [of_heads * mask[layer][None, None, :] for layer, of_heads in enumerate(factors)]
        logits, _, _ = apply_encoder(params, config, inputs, head_mask=masked, only_read_rows=True)
        return -jnp.sum(objective_of(logits, labels, "log_prob"))

    layers = range(config.num_hidden_layers)
    queries = [config.num_queries(layer) or num_tokens for layer in layers]
    ones = [
        jnp.ones((num_rows, count, config.num_attention_heads), mask.dtype) for count in queries
    ]
    gradients = jax.grad(loss)(ones)
    sums = [
        jnp.sum(jnp.where(token_mask[:, : of_rows.shape[1], None], jnp.abs(of_rows), 0), axis=1)
        for of_rows in gradients
    ]
    return {"importance": jnp.stack(sums, axis=1)}


def _ablation(params, inputs, labels, mask, config: EncoderConfig) -> dict[str, Array]:
    """Return `_ablation_of` with as many heads at once as memory allows."""
    num_rows, num_tokens = rows_per_device(inputs), inputs["input_ids"].shape[1]
    per_head = bytes_per_step(config, range(config.num_hidden_layers), num_rows, num_tokens)
    heads_at_once = max(1, memory_budget() // per_head)
    return _ablation_of(params, inputs, labels, mask, config, heads_at_once)


@functools.partial(jax.jit, static_argnames=("config", "heads_at_once"))
def _ablation_of(
    params, inputs, labels, mask, config: EncoderConfig, heads_at_once: int
) -> dict[str, Array]:
    """Return the increase of the loss and the loss of accuracy without each head, [B, L, N].

    Every head of every layer is masked in one program: masking a head of a layer changes nothing
    below, so a model without head n of layer l enters the growing batch of `classify_branches` at
    layer l. The vmap runs over n, for all layers at once.
    """
    layers = tuple(range(config.num_hidden_layers))
    clean = formula.clean_pass(params, inputs, labels, mask, config, "log_prob", layers)
    token_masks = [clean.token_mask] * len(layers)

    def output_without(head: Array, layer: int) -> Array:
        """Return what the attention of a layer adds without this head, [B, Q, D]."""
        others = (jnp.arange(config.num_attention_heads) != head)[None, :].astype(mask.dtype)
        return formula.attention_output(
            formula.layer_params_of(params, config, layer),
            config,
            config.layer_kind(layer),
            clean.hidden[layer],
            clean.probs[layer][:, :, : clean.mixed[layer].shape[1]],
            mask_row(mask * others, config, layer),
        ).astype(clean.hidden[layer].dtype)

    def logits_without(head: Array) -> Array:
        mixed = [output_without(head, layer) for layer in layers]
        branches = layers, clean.hidden, mixed, token_masks, mask
        return apply_encoder(params, config, *branches, method="classify_branches")

    heads = jnp.arange(config.num_attention_heads)
    logits = jax.lax.map(logits_without, heads, batch_size=heads_at_once)  # [N, L, B, C]
    log_prob = functools.partial(objective_of, target=labels, objective="log_prob")
    increase = clean.score[None, None] - jax.vmap(jax.vmap(log_prob))(logits)
    is_right = (clean.logits.argmax(-1) == labels)[None, None].astype(increase.dtype)
    is_right_without = (logits.argmax(-1) == labels[None, None]).astype(increase.dtype)
    return {
        "importance": increase.transpose(2, 1, 0),
        "accuracy_loss": (is_right - is_right_without).transpose(2, 1, 0),
    }


def _means(sums: dict[str, np.ndarray], num_examples: int) -> HeadScores:
    """Return the means over the examples."""
    means = {name: values / num_examples for name, values in sums.items()}
    return HeadScores(means.pop("importance"), means)


def _normalised_by_layer(sums: dict[str, np.ndarray], num_examples: int) -> HeadScores:
    """Return the sums, those of each layer divided by their L2 norm over heads."""
    importance = sums["importance"]
    norms = np.linalg.norm(importance, axis=1, keepdims=True)
    return HeadScores(importance / np.where(norms == 0, 1, norms), {"unnormalised": importance})


@dataclasses.dataclass(frozen=True)
class _Measure:
    """How a measure is computed."""

    # (params, inputs, labels, mask, config) -> importance and details of each example, [B, L, N].
    compute: Callable[..., dict[str, Array]]
    finish: Callable[[dict[str, np.ndarray], int], HeadScores] = _means  # sums over the examples ->
    details: tuple[str, ...] = ()
    has_many_passes: bool = False  # for each example: fewer of them at once
    integrates: bool = False  # `compute` also takes n_steps and method


# Beside "random", which needs no examples.
_MEASURES = {
    "attribution": _Measure(_attribution, has_many_passes=True, integrates=True),
    "taylor": _Measure(_taylor, finish=_normalised_by_layer),
    "attention": _Measure(_attention),
    "ablation": _Measure(_ablation, details=("accuracy_loss",), has_many_passes=True),
}


def head_importance(attributions: jax.Array, attention_mask: jax.Array) -> jax.Array:
    """Return each head's importance I_h = E_x[max(Attr_h)] (paper, equation 4).

    That is the mean over examples of the signed maximum.

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
    token_mask = jnp.asarray(attention_mask) != 0
    is_example = jnp.any(token_mask, axis=1)
    maxima = jnp.where(
        is_example[:, None, None], max_over_real(jnp.asarray(attributions), token_mask), 0
    )
    return jnp.sum(maxima, axis=0) / jnp.sum(is_example).astype(maxima.dtype)
