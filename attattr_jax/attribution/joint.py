"""The path that scales the attention of several layers at once (path="joint").

Shapes: B examples, T tokens (padded), N heads, M nodes; m of them at once.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ..models.families import apply_encoder
from ..models.types import Array
from .formula import CleanPass, NodeValues, product_sum, sum_over_nodes
from .objectives import LINKS, smooth_output
from .quadrature.levels import LayerRule


def joint_attributions(
    params, config, layers, clean: CleanPass, head_mask, objective, rule: LayerRule, steps_at_once
) -> tuple[list[Array], Array, NodeValues]:
    """Return the attributions on the path that scales the attention of all `layers` at once.

    One backward pass serves every layer, but it is another quantity: Σ over all the layers together
    is F(A_1 … A_L) − F(0 … 0).

    Returns:
      attributions [B, N, T, T] of each layer; z with all at zero, [B]; z and dz/dα at the nodes.
    """
    link, dtype = LINKS[objective], clean.mixed[0].dtype

    def smooth_of(probs: list[Array]) -> tuple[Array, Array]:
        given = {
            layer: values.astype(clean.hidden[0].dtype)
            for layer, values in zip(layers, probs, strict=True)
        }
        inputs = clean.hidden[0], clean.token_mask, given, head_mask, layers[0]
        logits = apply_encoder(params, config, *inputs, method="classify_hidden")
        smooth = smooth_output(logits, clean.target, objective).astype(dtype)
        return jnp.sum(smooth), smooth

    probs = [values.astype(dtype) for values in clean.probs]

    def chunk(alphas, columns):
        weights, number = columns
        is_node = (number[:, None] == jnp.arange(1, len(rule.nodes) + 1)[None]).astype(dtype)
        at_node = jax.vmap(
            lambda alpha: jax.grad(smooth_of, has_aux=True)([alpha * values for values in probs])
        )
        gradients, smooth = at_node(alphas)  # [m, B, N, T, T] of each layer, [m, B]
        pairs = zip(gradients, probs, strict=True)
        slopes = sum(product_sum("mbnqt,bnqt->mb", of_layer, values) for of_layer, values in pairs)
        factors = weights[:, None] * link.slope(smooth)
        sums = [product_sum("mb,mbnqt->bnqt", factors, of_layer) for of_layer in gradients]
        return (
            sums,
            product_sum("mk,mb->kb", is_node, smooth),
            product_sum("mk,mb->kb", is_node, slopes),
        )

    scalars = jnp.zeros((len(rule.nodes), len(clean.score)), dtype)
    empty = [jnp.zeros_like(values) for values in probs], scalars, scalars
    columns = jnp.asarray(rule.weights[0], dtype), jnp.arange(1, len(rule.nodes) + 1)
    alphas = jnp.asarray(rule.nodes, dtype)
    sums, smooth, slopes = sum_over_nodes(chunk, alphas, columns, empty, steps_at_once)
    attributions = [values * of_layer for values, of_layer in zip(probs, sums, strict=True)]
    baseline = smooth_of([jnp.zeros_like(values) for values in probs])[1]
    return attributions, baseline, NodeValues(smooth, slopes, None, None)
