"""Token-level integrated gradients.

Sundararajan, Taly, Yan: Axiomatic Attribution for Deep Networks, ICML 2017.

For word embeddings x and the embeddings x' of a baseline, the attribution of token t is

    Attr_t = Σ_d (x − x')_td ∫₀¹ ∂F(x' + α (x − x'))/∂x_td dα.

Completeness: Σ Attr = F(x) − F(x').

Shapes: B examples, T tokens (padded), D embedding size, C classes, M integration steps, S
weightings of them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import InputError, as_index
from ..models.config import EncoderConfig
from ..models.families import apply_encoder
from ..models.head_masks import split_head_mask
from ..models.inference import checked_tokens, complete_batch
from ..models.types import AnyArray, Array, Batch, HeadMask, Params, described
from .adaptive import REFINED_SHARE
from .arguments import (
    checked_steps_at_once,
    checked_target,
    divided_target,
    fixed_rules,
    is_adaptive,
    resolved_objective,
)
from .formula import NodeValues, product_sum
from .integration import Examples, estimated_error
from .memory import rows_per_device, token_steps_at_once
from .objectives import LINKS, Link, objective_of, resolved_target, smooth_output
from .quadrature.estimate import rounding_of
from .quadrature.levels import LayerRule
from .quadrature.panels import (
    PANEL_NODES,
    Bisection,
    Panel,
    panel_nodes,
    panel_tables,
    row_of,
    stacked,
)
from .quadrature.product import ProductTables, product_weights
from .quadrature.rules import FAST_METHOD, MAX_ADAPTIVE_STEPS, check_adaptive


class TokenPath(NamedTuple):
    """The path of token-level integrated gradients."""

    logits: Array  # [B, C]
    target: Array  # int32 [B], or [B, 2]: see `objective_of`
    inputs: dict[str, Array]  # the batch, [B, T] each: positions and segments are taken from there
    words: Array  # x, [B, T, D]
    baseline: Array  # x', [B, T, D]

    @property
    def token_mask(self) -> Array:
        """True for real tokens, bool [B, T]."""
        return self.inputs["attention_mask"] != 0


def token_path(
    params, batch, special, target, head_mask, config, objective, baseline_token_id
) -> TokenPath:
    """Return the word embeddings of a batch and of its baseline, and the class to explain."""
    token_mask = batch["attention_mask"] != 0
    is_special = _first_and_last(token_mask) if special is None else jnp.asarray(special) != 0
    kept = ~token_mask | is_special
    # In the parameters' own precision: what the path is, not what the model computes in.
    precise = dataclasses.replace(config, dtype=None)
    embed = functools.partial(apply_encoder, params, precise, method="embed_words")
    words = embed(batch["input_ids"])
    baseline = embed(jnp.where(kept, batch["input_ids"], baseline_token_id))
    inputs = {name: jnp.asarray(values) for name, values in batch.items()}
    logits = _logits_of_words(params, config, inputs, head_mask, words)
    target = resolved_target(logits, target, objective)
    return TokenPath(logits, target, inputs, words, baseline)


def _logits_of_words(params, config, inputs, head_mask, words) -> Array:
    words = words if config.dtype is None else words.astype(config.dtype)
    return apply_encoder(params, config, words, inputs, head_mask, method="classify_words")


class TokenNodes(NamedTuple):
    """What some points of the path give."""

    smooth: Array  # z of F = φ(z), [M, B]
    attributions: Array  # Σ_d (x − x')_d ∂z/∂x_d, [M, B, T]; their sum over tokens is dz/dα


def token_nodes(
    params, head_mask, config, objective, path: TokenPath, alphas: Array, steps_at_once: int
) -> TokenNodes:
    """Evaluate z and its gradient at x' + α (x − x'), α [M, B]."""
    difference = path.words - path.baseline

    def smooth_of(words):
        logits = _logits_of_words(params, config, path.inputs, head_mask, words)
        smooth = smooth_output(logits, path.target, objective).astype(words.dtype)
        return jnp.sum(smooth), smooth

    def at_node(of_rows):
        words = path.baseline + of_rows[:, None, None] * difference
        gradient, smooth = jax.grad(smooth_of, has_aux=True)(words)
        return TokenNodes(smooth, jnp.sum(difference * gradient, axis=-1))

    return jax.lax.map(at_node, alphas, batch_size=steps_at_once)


def _first_and_last(token_mask: Array) -> Array:
    """Return bool [B, T], True at each example's first and last real token."""
    count = jnp.cumsum(token_mask, axis=-1)
    return token_mask & ((count == 1) | (count == count[:, -1:]))


class TokenResult(NamedTuple):
    """What token attribution returns."""

    attributions: AnyArray  # [B, T]
    target: Array
    score: Array
    baseline_score: Array
    convergence_delta: AnyArray
    error_estimate: AnyArray  # [B]


@functools.partial(
    jax.jit, static_argnames=("config", "objective", "baseline_token_id", "steps_at_once")
)
def attribute_tokens_fixed(
    params,
    batch,
    special,
    target,
    rule: LayerRule,
    head_mask,
    config,
    objective,
    baseline_token_id,
    steps_at_once,
) -> TokenResult:
    """Attribute to tokens with the nodes and weights of one rule."""
    path = token_path(
        params, batch, special, target, head_mask, config, objective, baseline_token_id
    )
    model, link = (params, head_mask, config, objective, path), LINKS[objective]
    dtype = path.words.dtype
    alphas = jnp.asarray(rule.nodes, dtype)[:, None] * jnp.ones(len(path.words), dtype)[None]
    nodes = token_nodes(*model, alphas, steps_at_once)
    logits = _logits_of_words(params, config, path.inputs, head_mask, path.baseline)
    baseline = smooth_output(logits, path.target, objective).astype(dtype)
    weights = jnp.asarray(rule.weights[0], dtype)[:, None] * link.slope(nodes.smooth)
    attributions = product_sum("mb,mbt->bt", weights, nodes.attributions)
    score = objective_of(path.logits, path.target, objective)
    delta = attributions.sum(axis=-1) - (score - link.value(baseline))
    examples = Examples(
        path.logits, smooth_output(path.logits, path.target, objective), path.token_mask, baseline
    )
    values = NodeValues(nodes.smooth, nodes.attributions.sum(axis=-1), None, None)
    error = estimated_error(examples, rule, 0, values, attributions[:, None, None], None, objective)
    return TokenResult(attributions, path.target, score, link.value(baseline), delta, error)


def attribute_tokens_adaptively(
    params,
    batch,
    special,
    target,
    head_mask,
    config,
    objective,
    baseline_token_id,
    steps_at_once,
    tolerance,
    max_steps,
) -> tuple[TokenResult, np.ndarray, np.ndarray]:
    """Attribute to tokens by bisection: each example has the panels that it needs.

    The path is cut in two, and the half with the larger error again and again, until the error
    estimates of all panels together are within the tolerance (see `quadrature.panels`).

    Returns:
      the result, n_steps and converged [B].
    """
    static = {"config": config, "objective": objective, "steps_at_once": steps_at_once}
    tables = panel_tables().astype(jnp.result_type(float))
    path, score, halves, rounding = _start_tokens(
        params,
        batch,
        special,
        target,
        tables,
        head_mask,
        baseline_token_id=baseline_token_id,
        **static,
    )
    is_example = np.any(np.asarray(path.token_mask), axis=1)
    state = Bisection(jax.device_get(halves), is_example, np.asarray(rounding))
    num_rows = len(is_example)
    size = max(1, num_rows // REFINED_SHARE)
    while waiting := state.to_cut(tolerance, max_steps):
        for begin in range(0, len(waiting), size):
            chosen = waiting[begin : begin + size]
            filled = [chosen[index % len(chosen)] for index in range(size)]
            rows = np.asarray([row for row, _ in filled], np.int32)
            panels = stacked([state.rows[row][panel] for row, panel in filled])
            halves = jax.device_get(
                _bisect(params, path, rows, tables, panels, head_mask, **static)
            )
            for index, (row, panel) in enumerate(chosen):
                state.replace(row, panel, [row_of(half, index) for half in halves])
    attributions = np.stack([state.attributions(row) for row in range(num_rows)])
    errors = np.asarray([state.estimate(row) for row in range(num_rows)])
    smooth = jnp.asarray([panels[0].smooth[0] for panels in state.rows])
    baseline = LINKS[objective].value(smooth)
    delta = attributions.sum(axis=1) - (np.asarray(score) - np.asarray(baseline))
    dtype = score.dtype
    result = TokenResult(
        attributions.astype(dtype),
        path.target,
        score,
        baseline,
        delta.astype(dtype),
        errors.astype(dtype),
    )
    n_steps = np.asarray([state.n_steps(row) for row in range(num_rows)], np.int32)
    return result, n_steps, ~(errors > tolerance)


@functools.partial(
    jax.jit, static_argnames=("config", "objective", "baseline_token_id", "steps_at_once")
)
def _start_tokens(
    params,
    batch,
    special,
    target,
    tables,
    head_mask,
    config,
    objective,
    baseline_token_id,
    steps_at_once,
) -> tuple[TokenPath, Array, tuple[Panel, Panel], Array]:
    """Return the path, F(x), both halves of it, and how large a part may come from rounding."""
    path = token_path(
        params, batch, special, target, head_mask, config, objective, baseline_token_id
    )
    num_rows, dtype, link = len(path.words), path.words.dtype, LINKS[objective]

    def evaluate(alphas: Array) -> TokenNodes:
        return token_nodes(params, head_mask, config, objective, path, alphas, steps_at_once)

    alphas = jnp.asarray([0, 1], dtype)[:, None] * jnp.ones(num_rows, dtype)[None]
    ends = evaluate(alphas)
    halves = _halves(evaluate, link, tables, alphas, ends)
    slope = jnp.max(link.slope(ends.smooth), axis=0)
    rounding = rounding_of(path.logits, slope, dtype)
    return path, objective_of(path.logits, path.target, objective), halves, rounding


@functools.partial(jax.jit, static_argnames=("config", "objective", "steps_at_once"))
def _bisect(
    params, path, rows, tables, panels: Panel, head_mask, config, objective, steps_at_once
) -> tuple[Panel, Panel]:
    """Return both halves of a panel of each of some rows, [E]."""
    of_rows = jax.tree.map(lambda values: values[rows], path)

    def evaluate(alphas: Array) -> TokenNodes:
        return token_nodes(params, head_mask, config, objective, of_rows, alphas, steps_at_once)

    ends = TokenNodes(jnp.asarray(panels.smooth).T, jnp.swapaxes(panels.of_tokens, 0, 1))
    return _halves(evaluate, LINKS[objective], tables, jnp.asarray(panels.ends).T, ends)


def _halves(
    evaluate: Callable[[Array], TokenNodes],
    link: Link,
    tables: ProductTables,
    borders: Array,
    ends: TokenNodes,
) -> tuple[Panel, Panel]:
    """Evaluate the nodes of both halves of a panel.

    Args:
      evaluate: returns what is at α [M, E].
      link: φ.
      tables: of a panel's nodes.
      borders, ends: α at both ends of the panel and what is there, [2, E, ...].
    """
    lower, upper = borders[:1], borders[1:]
    middle, width = (lower + upper) / 2, (upper - lower) / 2
    inner = jnp.asarray(panel_nodes()[1:-1], lower.dtype)[:, None]
    alphas = jnp.concatenate([lower + inner * width, middle, middle + inner * width])
    nodes = evaluate(alphas)
    smooth, attributions = (
        jnp.concatenate([of_ends[:1], inside, of_ends[1:]])
        for of_ends, inside in zip(ends, nodes, strict=True)
    )
    cut = PANEL_NODES - 1
    first = TokenNodes(smooth[: cut + 1], attributions[: cut + 1])
    second = TokenNodes(smooth[cut:], attributions[cut:])
    return (
        _integrated_panel(tables, link, jnp.concatenate([lower, middle]), first),
        _integrated_panel(tables, link, jnp.concatenate([middle, upper]), second),
    )


def _integrated_panel(tables, link: Link, borders: Array, nodes: TokenNodes) -> Panel:
    """Return the panel with these nodes [M, E, ...]."""
    width = borders[1] - borders[0]
    slopes = nodes.attributions.sum(axis=-1) * width[None]
    weights = product_weights(tables, link, nodes.smooth, slopes)
    integral = product_sum("me,met->et", weights.weights * width[None], nodes.attributions)
    change = product_sum("m,met->et", jnp.asarray(tables.divided), nodes.attributions)
    change = weights.smallest_omission * width * jnp.abs(change).sum(axis=-1)
    differences = link.difference(nodes.smooth[1:], nodes.smooth[:1])
    part = jnp.max(jnp.abs(weights.partials - differences), axis=0)
    smooth, of_tokens = (values[jnp.asarray([0, -1])] for values in nodes)
    return Panel(borders.T, smooth.T, of_tokens.swapaxes(0, 1), integral, part, change)


class TokenAttributions(NamedTuple):
    """Token-level integrated gradients of a batch."""

    attributions: Array  # [B, T], in units of F
    target: Array  # int32 [B]
    score: Array  # [B], F(x)
    baseline_score: Array  # [B], F(x')
    convergence_delta: Array  # [B], Σ attributions − (score − baseline_score)
    error_estimate: AnyArray  # [B], of Σ|error| / Σ|attributions| (docs/quadrature.md)
    n_steps: AnyArray  # int32 [B], how many nodes were evaluated
    converged: AnyArray | None = (
        None  # with n_steps="auto": whether the tolerance was met, bool [B]
    )
    contrast: Array | None = None  # with objective="contrast": the class compared with, int32 [B]

    def __repr__(self) -> str:
        return described(self)


def attribute_tokens(
    params: Params,
    batch: Batch,
    config: EncoderConfig,
    target: str | int | Array = "predicted",
    n_steps: int | str = 20,
    method: str | tuple[Any, Any] = "gausslegendre",
    objective: str = "prob",
    head_mask: HeadMask | None = None,
    baseline_token_id: int | None = None,
    step_batch_size: int | None = None,
    tolerance: float = 1e-3,
    max_steps: int = MAX_ADAPTIVE_STEPS,
    contrast: str | int | Array = "runner_up",
) -> TokenAttributions:
    """Attribute the model's output to each token by integrated gradients on the word embeddings.

    The path runs from the baseline token's embedding to the real ones (Sundararajan, Taly, Yan,
    ICML 2017). Tokens marked in `batch["special_tokens_mask"]` keep their own embedding (without
    that key, each example's first and last real token), as do positions, segments and padding.

    Args:
      baseline_token_id: the token of the baseline, by default [PAD], `config.pad_token_id`.
      Others: as for `attribute_attention`.

    Returns:
      `TokenAttributions`; special tokens and padding have attribution 0.

    Raises:
      InputError: as `attribute_attention`.
    """
    inputs = complete_batch(batch, config)
    objective = resolved_objective(objective, config)
    shape = np.shape(inputs["input_ids"])
    special = batch.get("special_tokens_mask")
    if special is not None:
        special = checked_tokens("special_tokens_mask", special, 2, "1 for special tokens", shape)
    baseline = config.pad_token_id if baseline_token_id is None else as_index(baseline_token_id)
    if baseline not in range(config.vocab_size):
        raise InputError(
            f"baseline_token_id must be an id from 0 to {config.vocab_size - 1}, not"
            f" {baseline_token_id!r:.80}"
        )
    steps_at_once = checked_steps_at_once(step_batch_size)
    if steps_at_once is None:
        steps_at_once = token_steps_at_once(config, rows_per_device(inputs), shape[1])
    kept_params, kept_config, traced_mask = split_head_mask(params, config, head_mask)
    classes = checked_target(target, contrast, objective, shape[0], config)
    arrays = kept_params, inputs, special, classes
    static = {
        "config": kept_config,
        "objective": objective,
        "baseline_token_id": baseline,
        "steps_at_once": steps_at_once,
    }
    if is_adaptive(n_steps, method, config, (arrays, traced_mask)):
        check_adaptive(tolerance, max_steps)
        result, nodes, converged = attribute_tokens_adaptively(
            *arrays, traced_mask, tolerance=tolerance, max_steps=max_steps, **static
        )
        return TokenAttributions(
            **divided_target(result, objective), n_steps=nodes, converged=converged
        )
    if isinstance(method, str) and method == FAST_METHOD:
        raise InputError(f"method {method!r} is for attention; tokens have n_steps 'auto'")
    (rule,) = fixed_rules(method, n_steps, (0,), config).values()
    of_model = rule.astype(jnp.result_type(float))
    result = attribute_tokens_fixed(*arrays, of_model, traced_mask, **static)
    nodes = np.full(shape[:1], len(rule.nodes), np.int32)
    return TokenAttributions(**divided_target(result, objective), n_steps=nodes)
