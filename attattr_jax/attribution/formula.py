"""The core: path integrals of the model's gradient, for attention (Hao, Dong, Wei, Xu:
Self-Attention Attribution, AAAI 2021) and tokens.

For one layer with attention probabilities A = (A_1 … A_N), all heads jointly, the paper's equation
2 reads

    Attr_n = A_n ∘ ∫₀¹ ∂F(αA)/∂A_n dα

F(αA): the model's output for the target class with that layer's attention replaced by αA (not
renormalised), its values and everything below it as they are, everything above it recomputed. The
gradient is ∇F evaluated at αA. Completeness: Σ Attr = F(A) − F(0).

How it is computed. What attention adds to the residual stream, mix(A), is linear in A, so mix(αA) =
α·mix(A), and no product below F depends on α. `jax.vmap` runs over α, `jax.grad` gives ∂F/∂mix
there, the sum over α is taken of that, [B, T, D], and one more `jax.grad`, of ⟨Σ_α w_α ∂F/∂mix,
mix(Z)⟩ with respect to the explicit attention argument Z, brings it back to every token pair of
every head. All layers are integrated in one pass: `BertClassifier.classify_branches`.

What is not a constant of the compiled program: the nodes α and their weights. Several weightings of
the same nodes (the levels of `integration.nested_rules`) are summed at once.

Shapes: B examples, T tokens (padded), L layers, N heads, D hidden size, C classes, Q query rows (T;
1 in the last layer, where only the [CLS] row counts), M integration steps, S weightings of them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..models import bert
from ..models.bert import BertClassifier
from ..models.config import BertConfig
from ..models.head_masks import mask_row, spread_heads
from ..models.types import Array, Batch, Params
from .reductions import max_over_real

Rule = tuple[Array, Array]  # nodes [M] and weights [S, M]


class CleanPass(NamedTuple):
    """What one forward pass of the model as it is gives. Lists have an entry for each layer asked
    for, ascending.
    """

    logits: Array  # [B, C]
    target: Array  # int32 [B]
    score: Array  # F(A), [B]
    real: Array  # bool [B, T]
    hidden: list[Array]  # [B, T, D], the layers' input
    probs: list[Array]  # [B, N, T, T]
    mixed: list[Array]  # [B, Q, D], what their attention adds


def objective_of(logits: Array, target: Array, objective: str) -> Array:
    """Return F [B] of logits [B, C]."""
    if objective == "prob":
        logits = jax.nn.softmax(logits, axis=-1)
    elif objective == "log_prob":
        logits = jax.nn.log_softmax(logits, axis=-1)
    # Beyond the last class jnp gives NaN, but a negative one would count from there.
    target = jnp.where(target < 0, logits.shape[-1], target)
    return jnp.take_along_axis(logits, target[:, None], axis=-1)[:, 0]


def rounding_scale(logits: Array, scores: Array, objective: str) -> Array:
    """Return the number [B] with which the rounding of F grows: its error is a few times this,
    times the precision of a float.

    The error of a logit is in proportion to the largest of them, whatever the target's own is; F
    passes on ∂F/∂logits of that.

    Args:
      logits: [B, C].
      scores: F, [B].
    """
    largest = jnp.max(jnp.abs(logits), axis=-1)
    if objective == "logit":
        return jnp.maximum(largest, jnp.abs(scores))
    probs = jnp.exp(scores) if objective == "log_prob" else scores
    # Σ_c |∂ log p / ∂ logit_c| = 2 (1 − p); 1: of exp, of log(1 + …)
    passed_on = jnp.maximum(1, 2 * (1 - probs) * largest)
    return jnp.maximum(passed_on, jnp.abs(scores)) if objective == "log_prob" else probs * passed_on


def clean_pass(
    params: Params,
    batch: Batch,
    target: Array | None,
    head_mask: Any,
    config: BertConfig,
    objective: str,
    layers,
) -> CleanPass:
    """Run the model as it is, and keep what the integrals over `layers` (ascending) start from."""
    logits, probs, hidden = BertClassifier(config).apply(
        {"params": params}, batch, head_mask=head_mask
    )
    target = jnp.argmax(logits, axis=-1).astype(jnp.int32) if target is None else target
    real = batch["attention_mask"] != 0
    hidden, probs = [hidden[layer] for layer in layers], [probs[layer] for layer in layers]
    last = config.num_hidden_layers - 1
    mixed = [
        mix(
            params[f"layers_{layer}"],
            config,
            inputs,
            used[:, :, :1] if layer == last else used,
            mask_row(head_mask, config, layer),
        )
        for layer, inputs, used in zip(layers, hidden, probs, strict=True)
    ]
    return CleanPass(
        logits, target, objective_of(logits, target, objective), real, hidden, probs, mixed
    )


def baseline_scores(
    params: Params,
    config: BertConfig,
    layers: Sequence[int],
    clean: CleanPass,
    head_mask: Any,
    objective: str,
) -> Array:
    """Return F with the attention of each layer at zero, [B, L]."""
    repeated = [clean.real] * len(layers), head_mask, [clean.target] * len(layers)
    outputs = _branches(params, config, layers, clean.hidden, *repeated, objective)
    return jnp.stack(outputs([jnp.zeros_like(added) for added in clean.mixed]), axis=1)


def mix(
    layer_params: Params, config: BertConfig, hidden: Array, probs: Array, head_mask: Array | None
) -> Array:
    """Return what attention `probs` adds to the residual stream of a layer, [B, Q, D]; linear in
    `probs`.

    In the parameters' own precision, whatever the model is computed in: it is a small part of the
    work, and all of what α scales.
    """
    dtype = jax.tree.leaves(layer_params)[0].dtype
    return bert.mix(
        layer_params,
        dataclasses.replace(config, dtype=None),
        hidden.astype(dtype),
        probs.astype(dtype),
        head_mask,
    )


def _branches(
    params, config, layers, hidden, real, head_mask, targets, objective
) -> Callable[[list[Array]], list[Array]]:
    """Return the function from what each layer's attention adds, [B, Q, D], to F [B], layer by
    layer.
    """

    def outputs(mixed: list[Array]) -> list[Array]:
        mixed = [added.astype(inputs.dtype) for added, inputs in zip(mixed, hidden, strict=True)]
        logits = BertClassifier(config).apply(
            {"params": params}, layers, hidden, mixed, real, head_mask, method="classify_branches"
        )
        return [objective_of(logits[at], target, objective) for at, target in enumerate(targets)]

    return outputs


def context_gradients(
    params: Params,
    config: BertConfig,
    layers: Sequence[int],
    hidden: list[Array],
    mixed: list[Array],
    real: list[Array],
    head_mask: Any,
    targets: list[Array],
    objective: str,
    rule: Rule,
    steps_at_once: int,
    start: int | Array = 0,
    stop: int | Array | None = None,
) -> list[Array]:
    """Return Σ_k w_sk ∂F(α_k A)/∂mix for each layer, [S, B, Q, D]: the path integral on the side of
    the context.

    Args:
      layers: ascending; the lists have an entry for each, whose examples need not be the same ones.
      rule: nodes [M] and weights [S, M].
      steps_at_once: how many nodes are evaluated at once.
      start, stop: the nodes to evaluate, all by default. With Python integers the result can be
        differentiated.
    """
    outputs = _branches(params, config, layers, hidden, real, head_mask, targets, objective)
    gradient = jax.grad(lambda mixed: sum(jnp.sum(scores) for scores in outputs(mixed)))

    def chunk(alphas, weights):
        # [M, B, Q, D] of each layer
        gradients = jax.vmap(lambda alpha: gradient([alpha * added for added in mixed]))(alphas)
        return [
            jnp.einsum("sm,mbqd->sbqd", weights, each, precision="highest") for each in gradients
        ]

    return sum_over_nodes(chunk, rule, steps_at_once, mixed, start, stop)


def attribution_of(
    layer_params: Params,
    config: BertConfig,
    hidden: Array,
    probs: Array,
    real: Array,
    head_mask: Any,
    gradient: Array,
) -> Array:
    """Return A ∘ ∂/∂A, [B, N, T, T], of one layer, given the path integral on the side of the
    context, [B, Q, D].
    """

    def linear(explicit: Array) -> Array:
        return jnp.vdot(
            gradient,
            mix(layer_params, config, hidden, explicit[:, :, : gradient.shape[1]], head_mask),
        )

    # An example that is all padding, as fills up a batch, attends evenly: to nothing.
    probs = jnp.where(jnp.any(real, axis=1)[:, None, None, None], probs.astype(gradient.dtype), 0)
    return probs * jax.grad(linear)(jnp.zeros_like(probs))


def joint_attributions(
    params, config, layers, clean: CleanPass, head_mask, objective, rule: Rule, steps_at_once
) -> tuple[list[Array], Array]:
    """Return the attributions [B, N, T, T] on the path that scales the attention of all `layers` at
    once, and F with all at zero, [B].

    One backward pass serves every layer, but it is another quantity: Σ over all the layers together
    is F(A_1 … A_L) − F(0 … 0).
    """

    def output(probs: list[Array]) -> Array:
        given = {
            layer: values.astype(clean.hidden[0].dtype)
            for layer, values in zip(layers, probs, strict=True)
        }
        logits = BertClassifier(config).apply(
            {"params": params},
            clean.hidden[0],
            clean.real,
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
            jnp.einsum("sm,mbnqt->sbnqt", weights, each, precision="highest") for each in gradients
        ]

    gradients = sum_over_nodes(chunk, rule, steps_at_once, probs)
    attributions = [values * each[0] for values, each in zip(probs, gradients, strict=True)]
    return attributions, output([jnp.zeros_like(values) for values in probs])


def sum_over_nodes(
    chunk: Callable,
    rule: Rule,
    steps_at_once: int,
    summand: Any,
    start: int | Array = 0,
    stop: int | Array | None = None,
):
    """Return Σ chunk(nodes [m], weights [S, m]) over the nodes from `start` to `stop`,
    `steps_at_once` of them in memory at a time.

    `summand` is a tree of arrays [...]; the sum has arrays [S, ...] of the same types.
    """
    dtype = jax.tree.leaves(summand)[0].dtype
    nodes, weights = (jnp.asarray(values, dtype) for values in rule)
    stop = nodes.shape[0] if stop is None else stop
    steps_at_once = min(steps_at_once, nodes.shape[0])
    # The last chunk reaches beyond the nodes; what is not between start and stop has weight 0.
    nodes, weights = (
        jnp.pad(nodes, (0, steps_at_once)),
        jnp.pad(weights, ((0, 0), (0, steps_at_once))),
    )

    def add(index, total):
        first = start + index * steps_at_once
        here = first + jnp.arange(steps_at_once) < stop
        alphas = jax.lax.dynamic_slice_in_dim(nodes, first, steps_at_once)
        used = jnp.where(
            here[None, :], jax.lax.dynamic_slice_in_dim(weights, first, steps_at_once, axis=1), 0
        )
        return jax.tree.map(jnp.add, total, chunk(alphas, used))

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
        return assemble(config, layers, clean, attributions, baseline_score[:, None], reduce)
    by_layer: dict[int, Array] = {}
    for group, steps_at_once in groups:
        at = [layers.index(layer) for layer in group]
        hidden, probs, mixed = (
            [values[i] for i in at] for values in (clean.hidden, clean.probs, clean.mixed)
        )
        real, targets = [clean.real] * len(group), [clean.target] * len(group)
        summed = context_gradients(
            params,
            config,
            group,
            hidden,
            mixed,
            real,
            head_mask,
            targets,
            objective,
            rule,
            steps_at_once,
        )
        for layer, inputs, used, gradient in zip(group, hidden, probs, summed, strict=True):
            row = mask_row(head_mask, config, layer)
            by_layer[layer] = attribution_of(
                params[f"layers_{layer}"], config, inputs, used, clean.real, row, gradient[0]
            )
    baseline_score = baseline_scores(params, config, layers, clean, head_mask, objective)
    return assemble(
        config, layers, clean, [by_layer[layer] for layer in layers], baseline_score, reduce
    )


def assemble(
    config: BertConfig,
    layers: Sequence[int],
    clean: CleanPass,
    attributions: list[Array],
    baseline_score: Array,
    reduce: str | None,
) -> Result:
    """Stack `layers`; `attributions` are [B, N, T, T], `baseline_score` is [B, L], or [B, 1] for
    all layers together.
    """
    totals = jnp.stack([values.sum(axis=(1, 2, 3)) for values in attributions], axis=1)
    if baseline_score.shape[1] != totals.shape[1]:
        totals = totals.sum(axis=1, keepdims=True)
    delta = totals - (clean.score[:, None] - baseline_score)
    probs = clean.probs
    if reduce:
        attributions, probs = (
            [max_over_real(values, clean.real) for values in each] for each in (attributions, probs)
        )
    stacked = (
        jnp.stack(
            [
                spread_heads(values, config, layer)
                for layer, values in zip(layers, each, strict=True)
            ],
            axis=1,
        )
        for each in (attributions, probs)
    )
    return Result(*stacked, clean.target, clean.score, baseline_score, delta, clean.logits)
