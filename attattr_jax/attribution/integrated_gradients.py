"""Token-level integrated gradients (Sundararajan, Taly, Yan: Axiomatic Attribution for Deep Networks, ICML 2017).

For word embeddings x and the embeddings x' of a baseline, the attribution of token t is

    Attr_t = Σ_d (x − x')_td ∫₀¹ ∂F(x' + α (x − x'))/∂x_td dα.

Completeness: Σ Attr = F(x) − F(x').

Shapes: B examples, T tokens (padded), D embedding size, C classes, M integration steps, S weightings
of them.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import InputError, as_index
from ..models.bert import BertClassifier
from ..models.config import BertConfig
from ..models.head_masks import split_head_mask
from ..models.inference import checked_tokens, complete_batch
from ..models.types import Array, Batch, HeadMask, Params
from .adaptive import _good, _levels, _rounding, refine
from .arguments import (
    _checked_steps_at_once,
    _fixed_rule,
    _is_adaptive,
    _target_array,
    check_adaptive,
    check_objective,
)
from .formula import objective_of, sum_over_nodes
from .memory import rows_per_device, token_steps_at_once


class TokenPath(NamedTuple):
    """The path of token-level integrated gradients."""

    logits: Array  # [B, C]
    target: Array  # int32 [B]
    real: Array  # bool [B, T]
    words: Array  # x, [B, T, D]
    baseline: Array  # x', [B, T, D]


def token_path(params, batch, special, target, head_mask, config, baseline_token_id) -> TokenPath:
    """Return the word embeddings of a batch and of its baseline, and the class to explain."""
    real = batch["attention_mask"] != 0
    kept = ~real | (_first_and_last(real) if special is None else jnp.asarray(special) != 0)
    embed = functools.partial(
        BertClassifier(dataclasses.replace(config, dtype=None)).apply,
        {"params": params},
        method="embed_words",
    )
    words = embed(batch["input_ids"])
    baseline = embed(jnp.where(kept, batch["input_ids"], baseline_token_id))
    logits = _logits_of_words(params, config, batch["token_type_ids"], real, head_mask, words)
    target = jnp.argmax(logits, axis=-1).astype(jnp.int32) if target is None else target
    return TokenPath(logits, target, real, words, baseline)


def _logits_of_words(params, config, token_type_ids, real, head_mask, words) -> Array:
    words = words if config.dtype is None else words.astype(config.dtype)
    return BertClassifier(config).apply(
        {"params": params}, words, token_type_ids, real, head_mask, method="classify_words"
    )


def token_gradients(
    params,
    token_type_ids,
    head_mask,
    config,
    objective,
    path: TokenPath,
    rule,
    steps_at_once,
    start=0,
    stop=None,
):
    """Return Σ_k w_sk ∂F/∂x at x' + α_k (x − x'), [S, B, T, D]."""

    def output(words):
        logits = _logits_of_words(params, config, token_type_ids, path.real, head_mask, words)
        return jnp.sum(objective_of(logits, path.target, objective))

    def chunk(alphas, weights):
        gradients = jax.vmap(
            lambda alpha: jax.grad(output)(path.baseline + alpha * (path.words - path.baseline))
        )(alphas)
        return jnp.einsum("sm,mbtd->sbtd", weights, gradients, precision="highest")

    return sum_over_nodes(chunk, rule, steps_at_once, path.words, start, stop)


def token_scores(
    params, token_type_ids, head_mask, config, objective, path: TokenPath
) -> tuple[Array, Array]:
    """Return F(x) and F(x'), [B]."""
    baseline = _logits_of_words(params, config, token_type_ids, path.real, head_mask, path.baseline)
    return objective_of(path.logits, path.target, objective), objective_of(
        baseline, path.target, objective
    )


def _first_and_last(real: Array) -> Array:
    """Return bool [B, T], True at each example's first and last real token."""
    count = jnp.cumsum(real, axis=-1)
    return real & ((count == 1) | (count == count[:, -1:]))


class TokenResult(NamedTuple):
    """What token attribution returns."""

    attributions: Array  # [B, T]
    target: Array
    score: Array
    baseline_score: Array
    convergence_delta: Array


@functools.partial(
    jax.jit, static_argnames=("config", "objective", "baseline_token_id", "steps_at_once")
)
def attribute_tokens_fixed(
    params,
    batch,
    special,
    target,
    rule,
    head_mask,
    config,
    objective,
    baseline_token_id,
    steps_at_once,
) -> TokenResult:
    """Attribute to tokens with the nodes and weights of one rule."""
    path = token_path(params, batch, special, target, head_mask, config, baseline_token_id)
    segments = batch["token_type_ids"]
    summed = token_gradients(
        params, segments, head_mask, config, objective, path, rule, steps_at_once
    )
    return token_result(
        path, summed[0], *token_scores(params, segments, head_mask, config, objective, path)
    )


def token_result(
    path: TokenPath, gradient: Array, score: Array, baseline_score: Array
) -> TokenResult:
    """Return the attributions given the path integral [B, T, D]."""
    attributions = jnp.sum((path.words - path.baseline) * gradient, axis=-1)
    delta = attributions.sum(axis=-1) - (score - baseline_score)
    return TokenResult(attributions, path.target, score, baseline_score, delta)


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
    sizes,
) -> tuple[TokenResult, np.ndarray, np.ndarray]:
    """Attribute to tokens, each example with the nodes it needs; returns the result, n_steps and
    converged [B].
    """
    rule = _levels(sizes)
    num_rows = np.shape(batch["input_ids"])[0]
    static = {"config": config, "objective": objective}
    path, score, baseline = _start_tokens(
        params, batch, special, target, head_mask, baseline_token_id=baseline_token_id, **static
    )
    sums = jnp.zeros((len(sizes), *path.words.shape), path.words.dtype)
    result = None

    def integrate(waiting, start, stop):
        nonlocal sums
        rows = np.flatnonzero(waiting["tokens"])
        everything = start == 0 or num_rows < 2 * len(rows)
        size = max(1, num_rows // 8)
        for begin in [0] if everything else range(0, len(rows), size):
            chosen = rows[begin : begin + size]
            picked = (
                None if everything else (np.resize(chosen, size), np.arange(size) < len(chosen))
            )
            segments = batch["token_type_ids"]
            sums = _integrate_tokens(
                params,
                segments,
                path,
                sums,
                picked,
                head_mask,
                rule,
                start,
                stop,
                steps_at_once=steps_at_once,
                **static,
            )

    def assess(_, level, rows):
        nonlocal result
        result, good = _assess_tokens(
            path, sums, score, baseline, result, rows, level, tolerance, objective=objective
        )
        return good

    n_steps, converged = refine(("tokens",), num_rows, sizes, integrate, assess)
    return result, n_steps[:, 0], converged[:, 0]


@functools.partial(jax.jit, static_argnames=("config", "objective", "baseline_token_id"))
def _start_tokens(params, batch, special, target, head_mask, config, objective, baseline_token_id):
    path = token_path(params, batch, special, target, head_mask, config, baseline_token_id)
    return path, *token_scores(params, batch["token_type_ids"], head_mask, config, objective, path)


@functools.partial(
    jax.jit, static_argnames=("config", "objective", "steps_at_once"), donate_argnames=("sums",)
)
def _integrate_tokens(
    params,
    segments,
    path,
    sums,
    picked,
    head_mask,
    rule,
    start,
    stop,
    config,
    objective,
    steps_at_once,
):
    """Add the nodes from `start` to `stop` to the sums [S, B, T, D] of all rows, or of the rows
    picked.
    """
    if picked is not None:
        rows, used = picked
        path, segments = (
            jax.tree.map(lambda values: values[rows], path),
            jnp.asarray(segments)[rows],
        )
    new = token_gradients(
        params, segments, head_mask, config, objective, path, rule, steps_at_once, start, stop
    )
    return (
        sums + new
        if picked is None
        else sums.at[:, rows].add(jnp.where(used[None, :, None, None], new, 0))
    )


@functools.partial(jax.jit, static_argnames=("objective",))
def _assess_tokens(path, sums, score, baseline, before, pending, level, tolerance, objective):
    """Return the result, new where a row was pending, and which rows are good enough."""
    result = token_result(path, sums[level], score, baseline)
    change = jnp.sum(
        jnp.abs(
            result.attributions - token_result(path, sums[level - 1], score, baseline).attributions
        ),
        axis=1,
    )
    magnitude = jnp.sum(jnp.abs(result.attributions), axis=1)
    rounding = _rounding(path.logits, score, baseline, objective)
    good = _good(magnitude, result.convergence_delta, change, rounding, path.real, tolerance)
    if before is not None:
        result = jax.tree.map(
            lambda new, old: jnp.where(pending.reshape(-1, *[1] * (new.ndim - 1)), new, old),
            result,
            before,
        )
    return result, good


class TokenAttributions(NamedTuple):
    """Token-level integrated gradients of a batch."""

    attributions: Array  # [B, T], in units of F
    target: Array  # int32 [B]
    score: Array  # [B], F(x)
    baseline_score: Array  # [B], F(x')
    convergence_delta: Array  # [B], Σ attributions − (score − baseline_score)
    n_steps: Array  # int32 [B], how many nodes were evaluated
    converged: Array | None = None  # with n_steps="auto": whether the tolerance was met, bool [B]


def attribute_tokens(
    params: Params,
    batch: Batch,
    config: BertConfig,
    target: str | int | Array = "predicted",
    n_steps: int | str = 20,
    method: str | tuple[Any, Any] = "gausslegendre",
    objective: str = "prob",
    head_mask: HeadMask | None = None,
    baseline_token_id: int | None = None,
    step_batch_size: int | None = None,
    tolerance: float = 1e-3,
    max_steps: int = 63,
) -> TokenAttributions:
    """Attribute the model's output to each token by integrated gradients (Sundararajan et al., ICML
    2017) on the word embeddings.

    The path runs from the baseline token's embedding to the real ones. Tokens marked in
    `batch["special_tokens_mask"]` keep their own embedding (without that key, each example's first
    and last real token), as do positions, segments and padding.

    Args:
      baseline_token_id: the token of the baseline, by default [PAD], `config.pad_token_id`.
      Others: as for `attribute_attention`.

    Returns:
      `TokenAttributions`; special tokens and padding have attribution 0.

    Raises:
      InputError: as `attribute_attention`.
    """
    inputs = complete_batch(batch, config)
    check_objective(objective, config)
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
    steps_at_once = _checked_steps_at_once(step_batch_size)
    if steps_at_once is None:
        steps_at_once = token_steps_at_once(config, rows_per_device(inputs), shape[1])
    kept_params, kept_config, traced_mask = split_head_mask(params, config, head_mask)
    arrays = kept_params, inputs, special, _target_array(target, shape[0], config)
    static = {
        "config": kept_config,
        "objective": objective,
        "baseline_token_id": baseline,
        "steps_at_once": steps_at_once,
    }
    if _is_adaptive(n_steps, method, config, (arrays, traced_mask)):
        sizes = check_adaptive(tolerance, max_steps)
        result, n_steps, converged = attribute_tokens_adaptively(
            *arrays, traced_mask, tolerance=tolerance, sizes=sizes, **static
        )
        return TokenAttributions(*result, n_steps, converged)
    rule = _fixed_rule(method, n_steps)
    result = attribute_tokens_fixed(*arrays, rule, traced_mask, **static)
    return TokenAttributions(*result, np.full(shape[:1], len(rule[0]), np.int32))
