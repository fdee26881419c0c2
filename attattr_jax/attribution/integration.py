"""From the rules of the layers to their attributions: the compiled entry of fixed rules, and what
`adaptive` shares with it.

Shapes: B examples, T tokens (padded), L layers, N heads, D hidden size, Q query rows, M nodes (M0
of the first level), S levels.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..models.config import EncoderConfig
from ..models.head_masks import mask_row, spread_heads
from ..models.types import Array
from .formula import (
    CleanPass,
    NodeValues,
    attribution_of,
    clean_pass,
    evaluate_nodes,
    layer_params_of,
    product_sum,
    smooth_of_branches,
)
from .joint import joint_attributions
from .objectives import LINKS
from .quadrature.estimate import largest_part, relative_error, rounding_of
from .quadrature.levels import LayerRule
from .quadrature.product import product_weights
from .summaries.reductions import max_over_real


class LayerPlan(NamedTuple):
    """What a compiled program has to know of a layer's rule (static)."""

    num_nodes: int  # M0, of the first level
    has_start: bool  # the first of them is α = 0, which gives the baseline score too
    has_end: bool  # the last is α = 1, which a backward pass of the unchanged model gives


def plan_of(rule: LayerRule, num_nodes: int) -> LayerPlan:
    """Return the plan of a rule whose first level has `num_nodes` nodes."""
    return LayerPlan(num_nodes, rule.nodes[0] == 0, rule.nodes[num_nodes - 1] == 1)


class Result(NamedTuple):
    """What the compiled entries return: arrays with an axis for each layer asked for, ascending."""

    attributions: Array  # [B, L, N, T, T] or [B, L, N]
    attention_probs: Array  # the same
    target: Array
    score: Array
    baseline_score: Array  # [B, L], or [B, 1] on the joint path
    convergence_delta: Array  # likewise
    error_estimate: Array  # likewise
    logits: Array


class FirstLevel(NamedTuple):
    """What the first level of every layer's rule gives. Lists have an entry for each layer."""

    clean: CleanPass
    values: list[NodeValues]
    baseline: list[Array]  # z without the layer's attention, [B]


def first_level(
    params, batch, target, rules, head_mask, config, objective, layers, plans, groups
) -> FirstLevel:
    """Run the model and evaluate the first level of every layer's rule.

    Args:
      rules, plans: of each of `layers`, which are ascending.
      groups: (layers, steps at once) that are evaluated together.
      Others: as for `clean_pass`.
    """
    ends = tuple(layer for layer, plan in zip(layers, plans, strict=True) if plan.has_end)
    clean = clean_pass(params, batch, target, head_mask, config, objective, layers, ends)
    position = {layer: index for index, layer in enumerate(layers)}
    values: dict[int, NodeValues] = {}

    def branches(some: Sequence[int]):
        picked = [position[layer] for layer in some]
        hidden, mixed = ([of[i] for i in picked] for of in (clean.hidden, clean.mixed))
        return hidden, mixed, [clean.token_mask] * len(picked), [clean.target] * len(picked)

    for group, steps_at_once in groups:
        counts = {layer: plans[position[layer]].num_nodes for layer in group}
        counts = {layer: count - (layer in ends) for layer, count in counts.items()}
        start = 0
        # Layers go together as far as all of them have nodes.
        for stop in sorted(set(counts.values())):
            some = [layer for layer, count in counts.items() if count >= stop]
            rules_of_some = [rules[position[layer]] for layer in some]
            kept = [
                plans[position[layer]].num_nodes if rule.product is not None else 0
                for layer, rule in zip(some, rules_of_some, strict=True)
            ]
            model = params, config, some, *branches(some), head_mask, objective
            found = evaluate_nodes(*model, rules_of_some, kept, steps_at_once, start, stop)
            for layer, new in zip(some, found, strict=True):
                values[layer] = values[layer].plus(new) if layer in values else new
            start = stop
    for layer in ends:
        index = position[layer]
        inputs = rules[index], plans[index], clean, layer, index, objective
        values[layer] = _with_end(values[layer], *inputs)
    # F without the attention of a layer is a node of its own where the rule has no such one.
    others = tuple(layer for layer in layers if not plans[position[layer]].has_start)
    baseline = {layer: values[layer].smooth[0] for layer in layers if layer not in others}
    if others:
        hidden, mixed, token_masks, targets = branches(others)
        smooth_of = smooth_of_branches(
            params, config, others, hidden, token_masks, head_mask, targets, objective
        )
        smooth = smooth_of([jnp.zeros_like(added) for added in mixed])
        baseline |= dict(zip(others, smooth, strict=True))
    dtype = clean.mixed[0].dtype
    return FirstLevel(
        clean,
        [values[layer] for layer in layers],
        [baseline[layer].astype(dtype) for layer in layers],
    )


def _with_end(
    values: NodeValues,
    rule: LayerRule,
    plan: LayerPlan,
    clean: CleanPass,
    layer: int,
    index: int,
    objective: str,
) -> NodeValues:
    """Return the values of a layer with those of α = 1; `index` is its position in the lists."""
    node, added = plan.num_nodes - 1, clean.mixed[index]
    smooth, gradient = clean.smooth.astype(added.dtype), clean.end_gradients[layer]
    gradient = gradient.astype(added.dtype)
    slope = LINKS[objective].slope(smooth)[None]
    factors = jnp.asarray(rule.weights, added.dtype)[:, node, None] * slope
    kept = values.gradients
    return NodeValues(
        values.smooth.at[node].set(smooth),
        values.slopes.at[node].set(product_sum("bqd,bqd->b", gradient, added)),
        values.sums + factors[:, :, None, None] * gradient[None],
        None if kept is None else kept.at[node].set(gradient),
    )


def first_result(
    params,
    config: EncoderConfig,
    layer: int,
    index: int,
    first: FirstLevel,
    rule: LayerRule,
    plan: LayerPlan,
    head_mask: Any,
    objective: str,
) -> tuple[Array, Array, NodeValues]:
    """Integrate a layer by its first level.

    Returns:
      attributions [B, N, T, T], the error estimate [B], and the values with that level's sum.
    """
    link, count, values = LINKS[objective], plan.num_nodes, first.values[index]
    gradients = values.sums[:1]
    weights = None
    if rule.product is not None:
        scalars = values.smooth[:count], values.slopes[:count]
        weights = product_weights(rule.product, link, *scalars)
        product = product_sum("mb,mbqd->bqd", weights.weights, values.gradients)
        divided = product_sum("m,mbqd->bqd", rule.product.divided, values.gradients)
        values = values._replace(sums=values.sums.at[0].set(product), gradients=None)
        gradients = jnp.stack([product, divided])
    clean = first.clean
    layer_inputs = layer_params_of(params, config, layer), config, config.layer_kind(layer)
    inputs = clean.hidden[index], clean.probs[index], clean.token_mask
    of_heads = mask_row(head_mask, config, layer)
    attributions = jax.vmap(
        lambda gradient: attribution_of(*layer_inputs, *inputs, of_heads, gradient)
    )(gradients)
    change = None
    if weights is not None:
        change = weights.smallest_omission * jnp.abs(attributions[1]).sum(axis=(1, 2, 3))
    examples = Examples(clean.logits, clean.smooth, clean.token_mask, first.baseline[index])
    estimate = estimated_error(
        examples, rule, 0, values, attributions[0], change, objective, weights and weights.partials
    )
    return attributions[0], estimate, values


class Examples(NamedTuple):
    """What the error estimate has to know of some examples, beside the nodes."""

    logits: Array  # [B, C]
    smooth: Array  # z, [B]
    token_mask: Array  # bool [B, T]
    baseline: Array  # z without the layer's attention, [B]


def estimated_error(
    examples: Examples,
    rule: LayerRule,
    level: int | Array,
    values: NodeValues,
    attributions: Array,
    change: Array | None,
    objective: str,
    partials: Array | None = None,
) -> Array:
    """Return the error estimate [B] of a level; rows without a real token have 0.

    Args:
      examples: of which the attributions [B, N, T, T] are.
      rule, level: by which they were computed.
      values: of the nodes.
      change: as for `relative_error`.
      objective: F.
      partials: those of product integration, [M0 − 1, B].
    """
    link, dtype = LINKS[objective], values.smooth.dtype
    slopes = link.slope(values.smooth)
    if partials is None:
        matrix = jnp.asarray(rule.partials, dtype)[level]
        partials = product_sum("jm,mb->jb", matrix, slopes * values.slopes)
        smooth = values.smooth[jnp.asarray(rule.checks)[level]]
    else:
        smooth = values.smooth[1 : len(partials) + 1]
    total = attributions.sum(axis=(1, 2, 3))
    delta = total - link.difference(examples.smooth.astype(dtype), examples.baseline)
    part = largest_part(partials, link, smooth, examples.baseline, delta)
    magnitude = jnp.abs(attributions).sum(axis=(1, 2, 3))
    largest_slope = jnp.maximum(link.slope(examples.baseline), jnp.max(slopes, axis=0))
    rounding = rounding_of(examples.logits, largest_slope, dtype)
    error = relative_error(part, change, magnitude, rounding)
    return jnp.where(jnp.any(examples.token_mask, axis=1), error, 0)


@functools.partial(
    jax.jit, static_argnames=("config", "objective", "path", "plans", "groups", "reduce")
)
def attribute_fixed(
    params, batch, target, rules, head_mask, config, objective, path, plans, groups, reduce
) -> Result:
    """Attribute with a rule for each layer.

    Args:
      rules, plans: of each layer, ascending; on the joint path only the first counts.
      path: "layer" or "joint".
      groups: (layers, steps at once) that are evaluated together.
      reduce: None or "head_max".
      Others: as for `first_level`.
    """
    layers = tuple(sorted(layer for group, _ in groups for layer in group))
    inputs = params, batch, target, rules, head_mask, config, objective
    if path == "layer":
        first = first_level(*inputs, layers, plans, groups)
        model = params, config, layers, first, rules, plans, head_mask, objective
        return first_results(*model, reduce)[0]
    clean = clean_pass(params, batch, target, head_mask, config, objective, layers)
    steps_at_once = min(steps for _, steps in groups)
    attributions, baseline, values = joint_attributions(
        params, config, layers, clean, head_mask, objective, rules[0], steps_at_once
    )
    examples = Examples(clean.logits, clean.smooth, clean.token_mask, baseline)
    together = jnp.concatenate(attributions, axis=1)
    error = estimated_error(examples, rules[0], 0, values, together, None, objective)
    return assemble(config, objective, layers, clean, attributions, [baseline], [error], reduce)


def first_results(
    params, config, layers, first: FirstLevel, rules, plans, head_mask, objective, reduce
) -> tuple[Result, list[NodeValues]]:
    """Return the result of the first level, and each layer's values with that level's sum."""
    found = [
        first_result(params, config, layer, index, first, rule, plan, head_mask, objective)
        for index, (layer, rule, plan) in enumerate(zip(layers, rules, plans, strict=True))
    ]
    attributions, errors, values = map(list, zip(*found, strict=True))
    clean, baseline = first.clean, first.baseline
    result = assemble(config, objective, layers, clean, attributions, baseline, errors, reduce)
    return result, values


def assemble(
    config: EncoderConfig,
    objective: str,
    layers: Sequence[int],
    clean: CleanPass,
    attributions: list[Array],
    baseline: list[Array],
    errors: list[Array],
    reduce: str | None,
) -> Result:
    """Stack `layers`.

    Args:
      attributions: [B, N, T, T] of each layer, for the remaining heads.
      baseline, errors: z without attention and the error estimate of each layer, [B]; or of all
        layers together.
      reduce: None or "head_max".
    """
    totals = jnp.stack([values.sum(axis=(1, 2, 3)) for values in attributions], axis=1)
    baseline_score = LINKS[objective].value(jnp.stack(baseline, axis=1))
    if baseline_score.shape[1] != totals.shape[1]:
        totals = totals.sum(axis=1, keepdims=True)

    def stacked(by_layer: list[Array]) -> Array:
        full = [
            output_of(values, clean.token_mask, config, layer, reduce)
            for layer, values in zip(layers, by_layer, strict=True)
        ]
        return jnp.stack(full, axis=1)

    return Result(
        attributions=stacked(attributions),
        attention_probs=stacked(clean.probs),
        target=clean.target,
        score=clean.score,
        baseline_score=baseline_score,
        convergence_delta=totals - (clean.score[:, None] - baseline_score),
        error_estimate=jnp.stack(errors, axis=1),
        logits=clean.logits,
    )


def output_of(values: Array, token_mask: Array, config: EncoderConfig, layer: int, reduce) -> Array:
    """Return what is returned of a layer's [B, N, T, T]: all of the model's heads, or maxima."""
    return spread_heads(max_over_real(values, token_mask) if reduce else values, config, layer)
