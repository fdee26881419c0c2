"""Attribution to attention: path integrals of the model's gradient.

Hao, Dong, Wei, Xu: Self-Attention Attribution, AAAI 2021. For one layer with attention
probabilities A = (A_1 … A_N), all heads jointly, the paper's equation 2 reads

    Attr_n = A_n ∘ ∫₀¹ ∂F(αA)/∂A_n dα

F(αA): the model's output for the target class with that layer's attention replaced by αA (not
renormalised), its values and everything below it as they are, everything above it recomputed. The
gradient is ∇F evaluated at αA. Completeness: Σ Attr = F(A) − F(0).

`attributions_by_definition` is that equation as code, a pass through the whole model for each node
and layer. The rest computes the same numbers with less work:

What attention adds to the residual stream, mix(A), is linear in A, so mix(αA) = α·mix(A), and no
product below F depends on α. `jax.vmap` runs over α, `jax.grad` gives ∂F/∂mix there, the sum over α
is taken of that, [B, T, D], and one more `jax.grad`, of ⟨Σ_α w_α ∂F/∂mix, mix(Z)⟩ with respect to
the explicit attention argument Z, brings it back to every token pair of every head. All layers are
integrated in one pass: `Encoder.classify_branches`.

The nodes α and their weights are arguments of the compiled programs, not constants in them. Several
weightings of the same nodes (the levels of `quadrature.nested_rules`) are summed at once.

Shapes: B examples, T tokens (padded), L layers, N heads, D hidden size, C classes, Q query rows (T;
1 in the last layer where only the first row counts), M integration steps, S weightings of them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..models.config import EncoderConfig
from ..models.families import apply_encoder, family_of
from ..models.head_masks import mask_row, spread_heads
from ..models.types import AnyArray, Array, Batch, Params
from .reductions import max_over_real

Rule = tuple[AnyArray, AnyArray]  # nodes [M] and weights [S, M]


def attributions_by_definition(
    params: Params,
    batch: Batch,
    config: EncoderConfig,
    layer: int,
    target: Array,
    rule: tuple[Array, Array],
    objective: str = "prob",
    head_mask: Array | None = None,
) -> Array:
    """Return the attributions [B, N, T, T] of a layer by equation 2, as it is written.

    A forward and a backward pass for each node: slow, and what the tests compare with.

    Args:
      params, batch, config: as for `forward`, all arrays given.
      layer: its number.
      target: classes, int32 [B].
      rule: nodes α and weights, [M] each.
      objective: as for `objective_of`.
      head_mask: [L, N].
    """

    def output(attention: Array) -> Array:
        given = {layer: attention}
        logits, _, _ = apply_encoder(params, config, batch, given, head_mask)
        return jnp.sum(objective_of(logits, target, objective))

    _, used, _ = apply_encoder(params, config, batch, head_mask=head_mask)
    attention = used[layer]
    integral = jnp.zeros_like(attention)
    for alpha, weight in zip(*rule, strict=True):
        integral += weight * jax.grad(output)(alpha * attention)
    return attention * integral


# F of logits, before the class is picked. "contrast" is a difference of two classes' logits.
_OUTPUTS: dict[str, Callable[[Array], Array]] = {
    "prob": jax.nn.softmax,
    "log_prob": jax.nn.log_softmax,
    "sigmoid": jax.nn.sigmoid,
    "log_sigmoid": jax.nn.log_sigmoid,
    "logit": lambda logits: logits,
    "contrast": lambda logits: logits,
}


def objective_of(logits: Array, target: Array, objective: str) -> Array:
    """Return F [B] of logits [B, C]; NaN for a class that the model does not have.

    Args:
      logits: [B, C].
      target: the class int32 [B]; for "contrast" also the one it is compared with, [B, 2].
      objective: one of `_OUTPUTS`.
    """
    outputs = _OUTPUTS[objective](logits)
    # Beyond the last class jnp gives NaN, but a negative one would count from the end.
    classes = jnp.where(target < 0, logits.shape[-1], target).reshape(len(target), -1)
    picked = jnp.take_along_axis(outputs, classes, axis=-1)
    return picked[:, 0] - picked[:, 1] if objective == "contrast" else picked[:, 0]


# A class int32 [B], or None for the predicted one; of "contrast" a pair of them, of which None is
# the most probable other class.
Target = Array | None | tuple[Array | None, Array | None]


def resolved_target(logits: Array, target: Target, objective: str) -> Array:
    """Return the class to explain, int32 [B]; for "contrast" with the one compared, [B, 2]."""
    chosen, other = target if isinstance(target, tuple) else (target, None)
    if chosen is None:
        chosen = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    if objective != "contrast":
        return chosen
    if other is None:
        is_chosen = jnp.arange(logits.shape[-1])[None] == chosen[:, None]
        other = jnp.argmax(jnp.where(is_chosen, -jnp.inf, logits), axis=-1).astype(jnp.int32)
    return jnp.stack([chosen, other], axis=1)


class CleanPass(NamedTuple):
    """One forward pass of the unchanged model.

    Lists have an entry for each layer asked for, ascending.
    """

    logits: Array  # [B, C]
    target: Array  # int32 [B], or [B, 2]: see `objective_of`
    score: Array  # F(A), [B]
    token_mask: Array  # bool [B, T], True for real tokens
    hidden: list[Array]  # [B, T, D], the layers' input
    probs: list[Array]  # [B, N, T, T]
    mixed: list[Array]  # [B, Q, D], what their attention adds


def clean_pass(
    params: Params,
    batch: Batch,
    target: Target,
    head_mask: Any,
    config: EncoderConfig,
    objective: str,
    layers: Sequence[int],
) -> CleanPass:
    """Run the unchanged model, and keep what the integrals over `layers` (ascending) start from."""
    logits, all_probs, all_hidden = apply_encoder(params, config, batch, head_mask=head_mask)
    target = resolved_target(logits, target, objective)
    hidden, probs, mixed = [], [], []
    for layer in layers:
        hidden.append(all_hidden[layer])
        probs.append(all_probs[layer])
        read_probs = probs[-1][:, :, : config.num_queries(layer)]
        mask = mask_row(head_mask, config, layer)
        layer_params = layer_params_of(params, config, layer)
        kind = config.layer_kind(layer)
        mixed.append(attention_output(layer_params, config, kind, hidden[-1], read_probs, mask))
    score = objective_of(logits, target, objective)
    token_mask = batch["attention_mask"] != 0
    return CleanPass(logits, target, score, token_mask, hidden, probs, mixed)


def layer_params_of(params: Params, config: EncoderConfig, layer: int) -> Params:
    """Return the parameters of one layer."""
    return params[config.layer_name(layer)]


def attention_output(
    layer_params: Params,
    config: EncoderConfig,
    kind: int,
    hidden: Array,
    probs: Array,
    head_mask: Array | None,
) -> Array:
    """Return what attention adds to the residual stream of a layer, [B, Q, D]; linear in `probs`.

    In the parameters' own precision, whatever the model is computed in: it is a small part of the
    work, and all of what α scales.

    Args:
      layer_params: of this layer.
      config: the geometry.
      kind: `config.layer_kind` of the layer.
      hidden: its input [B, T, D].
      probs: [B, N, Q, T].
      head_mask: [N].
    """
    dtype = jax.tree.leaves(layer_params)[0].dtype
    precise = dataclasses.replace(config, dtype=None)
    layer = family_of(config).encoder.make_layer(precise, kind, probs.shape[1])
    hidden, probs = hidden.astype(dtype), probs.astype(dtype)
    variables: Any = {"params": layer_params}
    mixed: Any = layer.apply(variables, hidden, probs, head_mask, method="mix")
    return mixed


def baseline_scores(
    params: Params,
    config: EncoderConfig,
    layers: Sequence[int],
    clean: CleanPass,
    head_mask: Any,
    objective: str,
) -> Array:
    """Return F with the attention of each layer at zero, [B, L]."""
    token_masks, targets = [clean.token_mask] * len(layers), [clean.target] * len(layers)
    outputs = _branches(
        params, config, layers, clean.hidden, token_masks, head_mask, targets, objective
    )
    return jnp.stack(outputs([jnp.zeros_like(mixed) for mixed in clean.mixed]), axis=1)


def _branches(
    params, config, layers, hidden, token_masks, head_mask, targets, objective
) -> Callable[[list[Array]], list[Array]]:
    """Return the function from what each layer's attention adds, [B, Q, D], to F [B] of each."""

    def outputs(mixed: list[Array]) -> list[Array]:
        mixed = [added.astype(inputs.dtype) for added, inputs in zip(mixed, hidden, strict=True)]
        branches = layers, hidden, mixed, token_masks, head_mask
        logits = apply_encoder(params, config, *branches, method="classify_branches")
        return [objective_of(logits[i], target, objective) for i, target in enumerate(targets)]

    return outputs


def context_gradients(
    params: Params,
    config: EncoderConfig,
    layers: Sequence[int],
    hidden: list[Array],
    mixed: list[Array],
    token_masks: list[Array],
    head_mask: Any,
    targets: list[Array],
    objective: str,
    rule: Rule,
    steps_at_once: int,
    start: int | Array = 0,
    stop: int | Array | None = None,
) -> list[Array]:
    """Return Σ_k w_sk ∂F(α_k A)/∂mix for each layer, [S, B, Q, D].

    This is the path integral on the side of the context; `attribution_of` brings it to the
    attention.

    Args:
      layers: ascending; the lists have an entry for each, whose examples need not be the same ones.
      rule: nodes [M] and weights [S, M].
      steps_at_once: how many nodes are evaluated at once.
      start, stop: the nodes to evaluate, all by default. With Python integers the result can be
        differentiated.
    """
    outputs = _branches(params, config, layers, hidden, token_masks, head_mask, targets, objective)
    gradient = jax.grad(lambda mixed: sum(jnp.sum(scores) for scores in outputs(mixed)))

    def chunk(alphas, weights):
        # ∂F/∂mix at every α of the chunk: [M, B, Q, D] of each layer.
        gradients = jax.vmap(lambda alpha: gradient([alpha * added for added in mixed]))(alphas)
        return [
            jnp.einsum("sm,mbqd->sbqd", weights, of_layer, precision="highest")
            for of_layer in gradients
        ]

    return sum_over_nodes(chunk, rule, steps_at_once, mixed, start, stop)


def attribution_of(
    layer_params: Params,
    config: EncoderConfig,
    kind: int,
    hidden: Array,
    probs: Array,
    token_mask: Array,
    head_mask: Any,
    gradient: Array,
) -> Array:
    """Return A ∘ ∂/∂A, [B, N, T, T], of one layer.

    Args:
      gradient: the path integral on the side of the context, [B, Q, D].
      Others: as for `attention_output`.
    """

    def linear(explicit: Array) -> Array:
        read = explicit[:, :, : gradient.shape[1]]
        added = attention_output(layer_params, config, kind, hidden, read, head_mask)
        return jnp.vdot(gradient, added)

    # An example that is all padding, as fills up a batch, attends evenly: to nothing.
    is_example = jnp.any(token_mask, axis=1)[:, None, None, None]
    probs = jnp.where(is_example, probs.astype(gradient.dtype), 0)
    # `linear` is linear: its gradient is the same everywhere, so also at 0.
    return probs * jax.grad(linear)(jnp.zeros_like(probs))


def joint_attributions(
    params, config, layers, clean: CleanPass, head_mask, objective, rule: Rule, steps_at_once
) -> tuple[list[Array], Array]:
    """Return the attributions on the path that scales the attention of all `layers` at once.

    One backward pass serves every layer, but it is another quantity: Σ over all the layers together
    is F(A_1 … A_L) − F(0 … 0).

    Returns:
      attributions [B, N, T, T] of each layer, and F with all at zero, [B].
    """

    def output(probs: list[Array]) -> Array:
        dtype = clean.hidden[0].dtype
        given = {layer: values.astype(dtype) for layer, values in zip(layers, probs, strict=True)}
        logits = apply_encoder(
            params,
            config,
            clean.hidden[0],
            clean.token_mask,
            given,
            head_mask,
            layers[0],
            method="classify_hidden",
        )
        return objective_of(logits, clean.target, objective)

    probs = [values.astype(clean.mixed[0].dtype) for values in clean.probs]
    gradient = jax.grad(lambda explicit: jnp.sum(output(explicit)))

    def chunk(alphas, weights):
        gradients = jax.vmap(lambda alpha: gradient([alpha * values for values in probs]))(alphas)
        return [
            jnp.einsum("sm,mbnqt->sbnqt", weights, of_layer, precision="highest")
            for of_layer in gradients
        ]

    gradients = sum_over_nodes(chunk, rule, steps_at_once, probs)
    attributions = [values * of_layer[0] for values, of_layer in zip(probs, gradients, strict=True)]
    return attributions, output([jnp.zeros_like(values) for values in probs])


def sum_over_nodes(
    chunk: Callable,
    rule: Rule,
    steps_at_once: int,
    summand: Any,
    start: int | Array = 0,
    stop: int | Array | None = None,
):
    """Return Σ chunk(nodes [m], weights [S, m]) over the nodes from `start` to `stop`.

    Args:
      chunk: the summands of some nodes, added up.
      rule: nodes [M] and weights [S, M].
      steps_at_once: m, how many nodes are in memory at a time.
      summand: a tree of arrays [...]; the sum has arrays [S, ...] of the same types.
      start, stop: the nodes, all by default.
    """
    dtype = jax.tree.leaves(summand)[0].dtype
    nodes, weights = (jnp.asarray(values, dtype) for values in rule)
    stop = nodes.shape[0] if stop is None else stop
    steps_at_once = min(steps_at_once, nodes.shape[0])
    # The last chunk reaches beyond the nodes; what is not between start and stop has weight 0.
    nodes = jnp.pad(nodes, (0, steps_at_once))
    weights = jnp.pad(weights, ((0, 0), (0, steps_at_once)))

    def add(index, total):
        first = start + index * steps_at_once
        is_inside = first + jnp.arange(steps_at_once) < stop
        alphas = jax.lax.dynamic_slice_in_dim(nodes, first, steps_at_once)
        used = jax.lax.dynamic_slice_in_dim(weights, first, steps_at_once, axis=1)
        return jax.tree.map(jnp.add, total, chunk(alphas, jnp.where(is_inside[None, :], used, 0)))

    zeros = jax.tree.map(
        lambda like: jnp.zeros((weights.shape[0], *like.shape), like.dtype), summand
    )
    num_chunks = -(-(stop - start) // steps_at_once)
    return jax.lax.fori_loop(0, num_chunks, add, zeros)


class Result(NamedTuple):
    """What the compiled entries return: arrays with an axis for each layer asked for, ascending."""

    attributions: Array  # [B, L, N, T, T] or [B, L, N]
    attention_probs: Array  # the same
    target: Array
    score: Array
    baseline_score: Array  # [B, L], or [B, 1] on the joint path
    convergence_delta: Array  # likewise
    logits: Array


@functools.partial(jax.jit, static_argnames=("config", "objective", "path", "groups", "reduce"))
def attribute_fixed(
    params, batch, target, rule, head_mask, config, objective, path, groups, reduce
) -> Result:
    """Attribute with the nodes and weights of one rule, the same for every example and layer."""
    layers = tuple(sorted(layer for group, _ in groups for layer in group))
    clean = clean_pass(params, batch, target, head_mask, config, objective, layers)
    if path == "joint":
        steps_at_once = min(steps for _, steps in groups)
        attributions, baseline_score = joint_attributions(
            params, config, layers, clean, head_mask, objective, rule, steps_at_once
        )
        baseline_score = baseline_score[:, None]
        return assemble(config, layers, clean, attributions, baseline_score, reduce)
    by_layer: dict[int, Array] = {}
    for group, steps_at_once in groups:
        positions = [layers.index(layer) for layer in group]
        hidden, probs, mixed = (
            [values[position] for position in positions]
            for values in (clean.hidden, clean.probs, clean.mixed)
        )
        token_masks, targets = [clean.token_mask] * len(group), [clean.target] * len(group)
        # The integral over α, on the side of the context: [1, B, Q, D] of each layer.
        branches = hidden, mixed, token_masks, head_mask, targets
        summed = context_gradients(params, config, group, *branches, objective, rule, steps_at_once)
        # … and brought to the attention.
        for layer, inputs, used, gradient in zip(group, hidden, probs, summed, strict=True):
            layer_params, kind = layer_params_of(params, config, layer), config.layer_kind(layer)
            of_heads = mask_row(head_mask, config, layer)
            by_layer[layer] = attribution_of(
                layer_params, config, kind, inputs, used, clean.token_mask, of_heads, gradient[0]
            )
    baseline_score = baseline_scores(params, config, layers, clean, head_mask, objective)
    attributions = [by_layer[layer] for layer in layers]
    return assemble(config, layers, clean, attributions, baseline_score, reduce)


def assemble(
    config: EncoderConfig,
    layers: Sequence[int],
    clean: CleanPass,
    attributions: list[Array],
    baseline_score: Array,
    reduce: str | None,
) -> Result:
    """Stack `layers`.

    Args:
      attributions: [B, N, T, T] of each layer, for the remaining heads.
      baseline_score: [B, L], or [B, 1] for all layers together.
      reduce: None or "head_max".
    """
    totals = jnp.stack([values.sum(axis=(1, 2, 3)) for values in attributions], axis=1)
    if baseline_score.shape[1] != totals.shape[1]:
        totals = totals.sum(axis=1, keepdims=True)
    delta = totals - (clean.score[:, None] - baseline_score)

    def stacked(by_layer: list[Array]) -> Array:
        if reduce:
            by_layer = [max_over_real(values, clean.token_mask) for values in by_layer]
        full = [
            spread_heads(values, config, layer)
            for layer, values in zip(layers, by_layer, strict=True)
        ]
        return jnp.stack(full, axis=1)

    return Result(
        attributions=stacked(attributions),
        attention_probs=stacked(clean.probs),
        target=clean.target,
        score=clean.score,
        baseline_score=baseline_score,
        convergence_delta=delta,
        logits=clean.logits,
    )
