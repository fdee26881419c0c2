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
from .adaptive import REFINED_SHARE, is_good_enough, levels_rule, refine, rounding_of
from .arguments import (
    checked_steps_at_once,
    checked_target,
    divided_target,
    fixed_rule,
    is_adaptive,
    resolved_objective,
)
from .formula import objective_of, resolved_target, sum_over_nodes
from .memory import rows_per_device, token_steps_at_once
from .quadrature import checked_levels


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


def token_gradients(
    params, head_mask, config, objective, path: TokenPath, rule, steps_at_once, start=0, stop=None
):
    """Return Σ_k w_sk ∂F/∂x at x' + α_k (x − x'), [S, B, T, D]."""

    def output(words):
        logits = _logits_of_words(params, config, path.inputs, head_mask, words)
        return jnp.sum(objective_of(logits, path.target, objective))

    def gradient_at(alpha):
        return jax.grad(output)(path.baseline + alpha * (path.words - path.baseline))

    def chunk(alphas, weights):
        gradients = jax.vmap(gradient_at)(alphas)  # [M, B, T, D]
        return jnp.einsum("sm,mbtd->sbtd", weights, gradients, precision="highest")

    return sum_over_nodes(chunk, rule, steps_at_once, path.words, start, stop)


def token_scores(params, head_mask, config, objective, path: TokenPath) -> tuple[Array, Array]:
    """Return F(x) and F(x'), [B]."""
    baseline = _logits_of_words(params, config, path.inputs, head_mask, path.baseline)
    score = objective_of(path.logits, path.target, objective)
    return score, objective_of(baseline, path.target, objective)


def _first_and_last(token_mask: Array) -> Array:
    """Return bool [B, T], True at each example's first and last real token."""
    count = jnp.cumsum(token_mask, axis=-1)
    return token_mask & ((count == 1) | (count == count[:, -1:]))


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
    path = token_path(
        params, batch, special, target, head_mask, config, objective, baseline_token_id
    )
    summed = token_gradients(params, head_mask, config, objective, path, rule, steps_at_once)
    return token_result(path, summed[0], *token_scores(params, head_mask, config, objective, path))


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
    """Attribute to tokens, each example with the nodes it needs (see `adaptive`).

    Returns:
      the result, n_steps and converged [B].
    """
    rule = levels_rule(sizes)
    num_rows = np.shape(batch["input_ids"])[0]
    static = {"config": config, "objective": objective}
    path, score, baseline = _start_tokens(
        params, batch, special, target, head_mask, baseline_token_id=baseline_token_id, **static
    )
    sums = jnp.zeros((len(sizes), *path.words.shape), path.words.dtype)
    result: Any = None

    def integrate(waiting, start, stop):
        nonlocal sums
        rows = np.flatnonzero(waiting["tokens"])
        all_at_once = start == 0 or num_rows < 2 * len(rows)
        size = max(1, num_rows // REFINED_SHARE)
        for begin in [0] if all_at_once else range(0, len(rows), size):
            picked = None
            if not all_at_once:
                chosen = rows[begin : begin + size]
                picked = np.resize(chosen, size), np.arange(size) < len(chosen)
            nodes = rule, start, stop
            sums = _integrate_tokens(
                params, path, sums, picked, head_mask, *nodes, steps_at_once=steps_at_once, **static
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
    path = token_path(
        params, batch, special, target, head_mask, config, objective, baseline_token_id
    )
    return path, *token_scores(params, head_mask, config, objective, path)


@functools.partial(
    jax.jit, static_argnames=("config", "objective", "steps_at_once"), donate_argnames=("sums",)
)
def _integrate_tokens(
    params, path, sums, picked, head_mask, rule, start, stop, config, objective, steps_at_once
):
    """Add the nodes from `start` to `stop` to the sums [S, B, T, D].

    With `picked`, only for those rows.
    """
    if picked is not None:
        rows, is_used = picked
        path = jax.tree.map(lambda values: values[rows], path)
    new = token_gradients(
        params, head_mask, config, objective, path, rule, steps_at_once, start, stop
    )
    if picked is None:
        return sums + new
    return sums.at[:, rows].add(jnp.where(is_used[None, :, None, None], new, 0))


@functools.partial(jax.jit, static_argnames=("objective",))
def _assess_tokens(path, sums, score, baseline, before, pending, level, tolerance, objective):
    """Return the result, new where a row was pending, and which rows are good enough."""
    result = token_result(path, sums[level], score, baseline)
    coarser = token_result(path, sums[level - 1], score, baseline)
    change = jnp.sum(jnp.abs(result.attributions - coarser.attributions), axis=1)
    magnitude = jnp.sum(jnp.abs(result.attributions), axis=1)
    rounding = rounding_of(path.logits, score, baseline, objective)
    good = is_good_enough(
        magnitude, result.convergence_delta, change, rounding, path.token_mask, tolerance
    )
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
    max_steps: int = 63,
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
        sizes = checked_levels(tolerance, max_steps)
        result, nodes, converged = attribute_tokens_adaptively(
            *arrays, traced_mask, tolerance=tolerance, sizes=sizes, **static
        )
        return TokenAttributions(
            **divided_target(result, objective), n_steps=nodes, converged=converged
        )
    rule = fixed_rule(method, n_steps)
    result = attribute_tokens_fixed(*arrays, rule, traced_mask, **static)
    nodes = np.full(shape[:1], len(rule[0]), np.int32)
    return TokenAttributions(**divided_target(result, objective), n_steps=nodes)
