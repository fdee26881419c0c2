"""Self-attention attribution: the public function.

Hao, Dong, Wei, Xu: Self-Attention Attribution, AAAI 2021.

It checks its arguments, chooses how much to compute at once, and calls `formula` (pure) or, for
n_steps="auto", `adaptive`.

Shapes: B examples, T tokens (padded), L layers, N heads, C classes, M integration steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ..errors import InputError
from ..models.config import EncoderConfig
from ..models.head_masks import split_head_mask
from ..models.inference import complete_batch, forward
from ..models.types import AnyArray, Array, Batch, HeadMask, Params, described
from . import adaptive, integration
from .arguments import (
    checked_layers,
    checked_steps_at_once,
    checked_target,
    divided_target,
    fixed_rules,
    is_adaptive,
    resolved_objective,
)
from .memory import layer_groups, rows_per_device
from .options import check_adaptive_path, check_fast, check_path
from .quadrature.levels import LayerRule
from .quadrature.rules import FAST_METHOD, MAX_ADAPTIVE_STEPS, check_adaptive
from .summaries.reductions import max_over_real


class AttentionAttributions(NamedTuple):
    """Attention attributions of a batch. L counts the layers that were asked for, in that order."""

    # [B, L, N, T, T] (row attends to column), in units of F; or [B, L, N] with reduce="head_max"
    attributions: Array
    attention_probs: Array  # [B, L, N, T, T], or [B, L, N] their maximum over real tokens
    target: Array  # int32 [B], the class explained
    score: Array  # [B], F(A)
    # [B, L], F with that layer's attention at zero; on the joint path [B, 1], with all of them at
    # zero
    baseline_score: Array
    convergence_delta: Array  # [B, L], Σ attributions − (score − baseline_score)
    logits: Array  # [B, C]
    n_steps: AnyArray  # int32 [B, L], how many nodes were evaluated
    # An estimate of Σ|error| / Σ|attributions|, [B, L], on the joint path [B, 1], from the largest
    # difference between what the rule makes of dF/dα up to a node and F there; larger
    # where the attributions change much (docs/quadrature.md).
    error_estimate: AnyArray | None = None
    # With n_steps="auto", else None: whether that is within the tolerance, [B, L].
    converged: AnyArray | None = None
    # What the result is of. For each example, so that every field can be sliced, joined and divided
    # over devices alike.
    layers: AnyArray | None = None  # int32 [B, L], the model's numbers of the layers
    num_hidden_layers: AnyArray | None = None  # int32 [B], of the model
    contrast: Array | None = None  # with objective="contrast": the class compared with, int32 [B]

    def __repr__(self) -> str:
        return described(self)


def attribute_attention(
    params: Params,
    batch: Batch,
    config: EncoderConfig,
    target: str | int | Array = "predicted",
    n_steps: int | str | Sequence[int] = 20,
    method: str | tuple[Any, Any] = "gausslegendre",
    objective: str = "prob",
    layers: Sequence[int] | None = None,
    head_mask: HeadMask | None = None,
    reduce: str | None = None,
    step_batch_size: int | None = None,
    path: str = "layer",
    tolerance: float = 1e-3,
    max_steps: int = MAX_ADAPTIVE_STEPS,
    contrast: str | int | Array = "runner_up",
) -> AttentionAttributions:
    """Attribute the model's output to the attention of every token pair in every head.

    Paper, equations 2 and 3. Pure; jit-compiled when called plainly, safe under `jit`, `vmap` and
    `grad`. Padding never changes a result; its attribution is 0. With n_steps="auto" it looks at
    values, and cannot be traced.

    Args:
      params: the parameter tree.
      batch: `input_ids`, `attention_mask`, `token_type_ids`: int [B, T], as for `forward`.
      config: the model's geometry (static).
      target: "predicted", a class index, or int [B] (pass the labels to explain the gold class). In
        a JAX array, a class that the model does not have gives NaN, as do ids and segments in the
        batch.
      n_steps: M, the number of integration steps, or a list, one number for each of `layers`;
        "auto": for each layer of each example as many as `tolerance` needs, by rules of its own, so
        that no other `method` than the default goes with it.
      method: the rule, see `quadrature`; or its nodes and weights [M] themselves (`n_steps` does
        not count then). "fast": the first level of "auto", five nodes by product integration, in
        the last layer 24 of one row; `n_steps` does not count (docs/quadrature.md). Rules of as
        many nodes share one compiled program.
      objective: F: "prob" the softmax probability of the target (as in the paper), of a multi-label
        model its sigmoid; "log_prob" the logarithm of that; "logit"; or "contrast", the target's
        logit less that of another class: what speaks for the one rather than the other.
      layers: the layers to attribute, by default all.
      head_mask: [L, N] over all the model's layers, as for `forward`.
      reduce: None, or "head_max": keep only each head's maximum over real tokens.
      step_batch_size: how many steps are computed at once: bounds memory, does not change results
        beyond rounding. None: what fits into 128 MiB on a CPU, into a quarter of an accelerator's
        memory.
      path: "layer": the attention of one layer is scaled, for each layer by itself, as in the
        paper. "joint": that of all `layers` at once; cheaper (one backward pass serves every
        layer), but another quantity: complete over all layers together, so that `baseline_score`
        and `convergence_delta` are [B, 1].
      tolerance: with "auto": the largest `error_estimate` of a layer of an example.
      max_steps: with "auto": no level of more nodes is tried; the levels are 5, 9, 23, 39 and 71,
        in a last layer of which one row is computed 24, 57 and 89.
      contrast: with "contrast": the other class: "runner_up", the most probable one but for the
        target, a class index, or int [B].

    Returns:
      `AttentionAttributions`.

    Raises:
      InputError: an argument is out of range or of the wrong shape; a one-output model with a
        probability as objective.
    """
    batch = complete_batch(batch, config)
    objective = resolved_objective(objective, config)
    _check_path_and_reduction(path, reduce)
    layers = checked_layers(layers, config)
    ascending = tuple(sorted(set(layers)))
    num_rows, num_tokens = np.shape(batch["input_ids"])
    steps_at_once = checked_steps_at_once(step_batch_size)
    groups = layer_groups(config, ascending, rows_per_device(batch), num_tokens, steps_at_once)
    classes = checked_target(target, contrast, objective, num_rows, config)
    kept_params, kept_config, traced_mask = split_head_mask(params, config, head_mask)
    inputs = kept_params, batch, classes
    static = {"config": kept_config, "objective": objective, "groups": groups, "reduce": reduce}

    converged = None
    if is_adaptive(n_steps, method, config, (params, batch, classes, traced_mask)):
        check_adaptive(tolerance, max_steps)
        check_adaptive_path(path)
        adaptivity = {"layers": ascending, "tolerance": tolerance, "max_steps": max_steps}
        result, nodes, converged = adaptive.attribute_adaptively(
            *inputs, traced_mask, **adaptivity, **static
        )
    else:
        rules = _ascending_rules(method, n_steps, path, layers, config)
        plans = tuple(integration.plan_of(rule, len(rule.nodes)) for rule in rules)
        arrays = tuple(rule.astype(jnp.result_type(float)) for rule in rules)
        fixed = {"path": path, "plans": plans}
        result = integration.attribute_fixed(*inputs, arrays, traced_mask, **fixed, **static)
        nodes = np.asarray([[plan.num_nodes for plan in plans]] * num_rows, np.int32)
    # The formula knows nothing of the masked heads: their attribution is 0, their attention is not.
    if kept_config != config:
        _, probs = forward(params, batch, config, head_mask=head_mask)
        stacked = jnp.stack([probs[layer] for layer in ascending], axis=1)
        token_mask = jnp.asarray(batch["attention_mask"]) != 0
        probs = max_over_real(stacked, token_mask) if reduce else stacked
        result = result._replace(attention_probs=probs)
    attributions = AttentionAttributions(
        **divided_target(result, objective),
        n_steps=nodes,
        converged=converged,
        layers=np.tile(np.asarray(layers, np.int32), (num_rows, 1)),
        num_hidden_layers=np.full(num_rows, config.num_hidden_layers, np.int32),
    )
    return _in_order(attributions, layers, ascending, path)


def _ascending_rules(method, n_steps, path, layers, config) -> list[LayerRule]:
    """Return the rules of the layers asked for, ascending, without repeats."""
    if isinstance(method, str) and method == FAST_METHOD:
        check_fast(n_steps, path)
    rules = fixed_rules(method, n_steps, layers, config)
    if path == "joint" and len({len(rule.nodes) for rule in rules.values()}) > 1:
        raise InputError("path 'joint' has one number of steps for all layers")
    return [rules[layer] for layer in sorted(rules)]


def _check_path_and_reduction(path: str, reduce: str | None) -> None:
    """Raise an InputError unless there is such a path and such a reduction."""
    if reduce not in (None, "head_max"):
        raise InputError(f"reduce {reduce!r} is unknown; choose None or 'head_max'")
    check_path(path)


def _in_order(
    attributions: AttentionAttributions,
    layers: tuple[int, ...],
    ascending: tuple[int, ...],
    path: str,
) -> AttentionAttributions:
    """Return the attributions of `ascending` layers in the order, and with the repeats, asked for.

    Fields that are of all layers together stay as they are.
    """
    if layers == ascending:
        return attributions
    order = np.asarray([ascending.index(layer) for layer in layers])
    names = ["attributions", "attention_probs", "n_steps", "converged"]
    if path == "layer":
        names += ["baseline_score", "convergence_delta", "error_estimate"]
    fields = {name: getattr(attributions, name) for name in names}
    return attributions._replace(
        **{name: values[:, order] for name, values in fields.items() if values is not None}
    )
