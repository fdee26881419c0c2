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

The gradient that is taken is that of z, F = φ(z) (`objectives`); ∂F = φ′(z) ∂z. The nodes α and
their weights are arguments of the compiled programs, not constants in them. Several weightings of
the same nodes (the levels of `quadrature.levels`) are summed at once.

Shapes: B examples, T tokens (padded), L layers, N heads, D hidden size, C classes, Q query rows (T;
1 in the last layer where only the first row counts), M integration steps, S weightings of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..models.config import EncoderConfig
from ..models.families import apply_encoder, family_of
from ..models.head_masks import mask_row
from ..models.types import Array, Batch, Params
from .objectives import LINKS, Target, objective_of, resolved_target, smooth_output
from .quadrature.levels import LayerRule


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


class CleanPass(NamedTuple):
    """One forward pass of the unchanged model.

    Lists have an entry for each layer asked for, ascending.
    """

    logits: Array  # [B, C]
    target: Array  # int32 [B], or [B, 2]: see `objective_of`
    score: Array  # F(A), [B]
    smooth: Array  # z of F = φ(z), [B]
    token_mask: Array  # bool [B, T], True for real tokens
    hidden: list[Array]  # [B, T, D], the layers' input
    probs: list[Array]  # [B, N, T, T]
    mixed: list[Array]  # [B, Q, D], what their attention adds
    # {layer: [B, Q, D]}, ∂z/∂mix there: of all layers by one backward pass, α = 1 of each.
    end_gradients: dict[int, Array]


def clean_pass(
    params: Params,
    batch: Batch,
    target: Target,
    head_mask: Any,
    config: EncoderConfig,
    objective: str,
    layers: Sequence[int],
    layers_of_end: Sequence[int] = (),
) -> CleanPass:
    """Run the unchanged model, and keep what the integrals over `layers` (ascending) start from.

    `layers_of_end` are those whose gradient at α = 1 is wanted.
    """
    shape = np.shape(batch["input_ids"])

    def run(added: dict[int, Array]):
        logits, probs, hidden = apply_encoder(
            params, config, batch, head_mask=head_mask, only_read_rows=True, added=added
        )
        classes = resolved_target(logits, target, objective)
        smooth = smooth_output(logits, classes, objective)
        return jnp.sum(smooth), (logits, classes, smooth, probs, hidden)

    # Zeros added to what every layer's attention adds: the gradient there is the one at α = 1.
    zeros = {
        layer: jnp.zeros((shape[0], config.num_queries(layer) or shape[1], config.hidden_size))
        for layer in layers_of_end
    }
    if zeros:
        gradients, outputs = jax.grad(run, has_aux=True)(zeros)
    else:
        gradients, (_, outputs) = {}, run({})
    logits, target, smooth, all_probs, all_hidden = outputs
    token_mask = batch["attention_mask"] != 0
    hidden, probs, mixed = [], [], []
    for layer in layers:
        hidden.append(all_hidden[layer])
        read_probs = of_layer = all_probs[layer]
        if config.num_queries(layer):  # the rows that the model does not need are returned too
            inputs = layer, hidden[-1], token_mask
            of_layer = apply_encoder(params, config, *inputs, method="layer_probs")
        probs.append(of_layer)
        mask = mask_row(head_mask, config, layer)
        layer_params = layer_params_of(params, config, layer)
        kind = config.layer_kind(layer)
        mixed.append(attention_output(layer_params, config, kind, hidden[-1], read_probs, mask))
    score = objective_of(logits, target, objective)
    kept = hidden, probs, mixed, gradients
    return CleanPass(logits, target, score, smooth, token_mask, *kept)


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


def smooth_of_branches(
    params, config, layers, hidden, token_masks, head_mask, targets, objective
) -> Callable[[list[Array]], list[Array]]:
    """Return the function from what each layer's attention adds, [B, Q, D], to z [B] of each."""

    def outputs(mixed: list[Array]) -> list[Array]:
        mixed = [added.astype(inputs.dtype) for added, inputs in zip(mixed, hidden, strict=True)]
        branches = layers, hidden, mixed, token_masks, head_mask
        logits = apply_encoder(params, config, *branches, method="classify_branches")
        return [smooth_output(logits[i], target, objective) for i, target in enumerate(targets)]

    return outputs


class NodeValues(NamedTuple):
    """What the nodes of a layer's path give.

    A node that has not been evaluated counts as 0 everywhere.
    """

    smooth: Array  # z, [M, B]
    slopes: Array  # dz/dα = ⟨∂z/∂mix, mix⟩, [M, B]
    # Σ_k w_sk ∂F/∂mix, the path integral on the side of the context: `attribution_of` brings it to
    # the attention. [S, B, Q, D]
    sums: Any
    gradients: Any  # ∂z/∂mix itself, [M0, B, Q, D] of the first level, where kept

    def plus(self, other: NodeValues) -> NodeValues:
        """Return the values with those of other nodes."""
        return jax.tree.map(jnp.add, self, other)


def no_nodes(num_nodes: int, rule: LayerRule, mixed: Array, kept: int) -> NodeValues:
    """Return the values of a layer before a node is evaluated; `kept` is M0, or 0."""
    scalars = jnp.zeros((num_nodes, mixed.shape[0]), mixed.dtype)
    sums = jnp.zeros((len(rule.weights), *mixed.shape), mixed.dtype)
    gradients = jnp.zeros((kept, *mixed.shape), mixed.dtype) if kept else None
    return NodeValues(scalars, scalars, sums, gradients)


def evaluate_nodes(
    params: Params,
    config: EncoderConfig,
    layers: Sequence[int],
    hidden: list[Array],
    mixed: list[Array],
    token_masks: list[Array],
    targets: list[Array],
    head_mask: Any,
    objective: str,
    rules: Sequence[LayerRule],
    kept: Sequence[int],
    steps_at_once: int,
    start: int | Array,
    stop: int | Array,
) -> list[NodeValues]:
    """Evaluate the nodes from `start` to `stop` of each layer's rule.

    Args:
      layers: ascending; the lists have an entry for each, whose examples need not be the same ones.
      kept: how many nodes' gradients to return as they are, from the first on.
      steps_at_once: how many nodes are evaluated at once.
      start, stop: with Python integers the result can be differentiated.
    """
    smooth_of = smooth_of_branches(
        params, config, layers, hidden, token_masks, head_mask, targets, objective
    )
    link = LINKS[objective]

    def total(mixed):
        smooth = smooth_of(mixed)
        return sum(jnp.sum(values) for values in smooth), smooth

    def gradients_at(alphas):
        scaled = [alpha * added for alpha, added in zip(alphas, mixed, strict=True)]
        return jax.grad(total, has_aux=True)(scaled)

    dtype, num_nodes = mixed[0].dtype, max(len(rule.nodes) for rule in rules)

    def chunk(alphas, columns):
        # ∂z/∂mix [m, B, Q, D] and z [m, B] at m nodes of each layer.
        gradients, smooth = jax.vmap(gradients_at)(alphas)
        of_layers = zip(gradients, smooth, mixed, columns, kept, strict=True)
        return [_values_of(*of_layer, num_nodes, link) for of_layer in of_layers]

    def padded(values):
        """Fill up: the nodes that are evaluated here every layer has."""
        values = jnp.asarray(values, dtype)
        return jnp.pad(values, [(0, num_nodes - len(values))] + [(0, 0)] * (values.ndim - 1))

    alphas = jnp.stack([padded(rule.nodes) for rule in rules], axis=1)
    # Numbers from 1: 0 stands for a node that does not count.
    columns = [(padded(rule.weights.T), jnp.arange(1, num_nodes + 1)) for rule in rules]
    empty = [no_nodes(num_nodes, *each) for each in zip(rules, mixed, kept, strict=True)]
    found = sum_over_nodes(chunk, alphas, columns, empty, steps_at_once, start, stop)
    return [
        values._replace(
            smooth=values.smooth[: len(rule.nodes)], slopes=values.slopes[: len(rule.nodes)]
        )
        for values, rule in zip(found, rules, strict=True)
    ]


def _values_of(gradients, smooth, mixed, columns, kept, num_nodes, link) -> NodeValues:
    """Return the values of m nodes of a layer.

    Args:
      gradients, smooth: ∂z/∂mix [m, B, Q, D] and z [m, B].
      mixed: what its attention adds, [B, Q, D].
      columns: the nodes' weights [m, S] and their numbers [m], from 1.
      kept, num_nodes: of how many nodes gradients are kept, and M.
      link: φ.
    """
    weights, number = columns
    is_node = (number[:, None] == jnp.arange(1, num_nodes + 1)[None]).astype(mixed.dtype)
    smooth = smooth.astype(mixed.dtype)
    slopes = product_sum("mbqd,bqd->mb", gradients, mixed)
    factors = weights[:, :, None] * link.slope(smooth)[:, None, :]
    return NodeValues(
        product_sum("mk,mb->kb", is_node, smooth),
        product_sum("mk,mb->kb", is_node, slopes),
        product_sum("msb,mbqd->sbqd", factors, gradients),
        product_sum("mk,mbqd->kbqd", is_node[:, :kept], gradients) if kept else None,
    )


def product_sum(subscripts: str, *operands: Any) -> Array:
    """Return `jnp.einsum` in full precision."""
    return jnp.einsum(subscripts, *operands, precision="highest")


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


def sum_over_nodes(
    chunk: Callable,
    alphas: Array,
    columns: Any,
    empty: Any,
    steps_at_once: int,
    start: int | Array = 0,
    stop: int | Array | None = None,
):
    """Return `empty` + Σ chunk(alphas [m, ...], columns [m, ...]) over nodes.

    Args:
      chunk: the summands of some nodes, added up; linear in the columns, which are 0 for nodes that
        do not count.
      alphas, columns: an array, and a tree of arrays, with an entry for each node.
      empty: a tree of zeros, as the sum.
      steps_at_once: m, how many nodes are in memory at a time.
      start, stop: the nodes, all by default.
    """
    stop = alphas.shape[0] if stop is None else stop
    steps_at_once = min(steps_at_once, alphas.shape[0])
    # The last chunk reaches beyond the nodes.
    alphas, columns = jax.tree.map(
        lambda values: jnp.pad(values, [(0, steps_at_once)] + [(0, 0)] * (values.ndim - 1)),
        (alphas, columns),
    )

    def add(index, total):
        first = start + index * steps_at_once
        is_inside = first + jnp.arange(steps_at_once) < stop
        used, weights = jax.tree.map(
            lambda values: jax.lax.dynamic_slice_in_dim(values, first, steps_at_once),
            (alphas, columns),
        )
        weights = jax.tree.map(
            lambda values: jnp.where(is_inside.reshape(-1, *[1] * (values.ndim - 1)), values, 0),
            weights,
        )
        return jax.tree.map(jnp.add, total, chunk(used, weights))

    num_chunks = -(-(stop - start) // steps_at_once)
    return jax.lax.fori_loop(0, num_chunks, add, empty)
