"""Self-attention attribution (Hao, Dong, Wei, Xu: Self-Attention Attribution, AAAI 2021), and token-level integrated gradients.

For one layer with attention probabilities A = (A_1 … A_N), all heads jointly, the paper's equation 2 reads

    Attr_n = A_n ∘ ∫₀¹ ∂F(αA)/∂A_n dα

F(αA): the model's output for the target class with that layer's attention replaced by αA (not renormalised), its values and everything
below it as they are, everything above it recomputed. The gradient is ∇F evaluated at αA. Completeness: Σ Attr = F(A) − F(0).

How it is computed. The explicit argument enters as a perturbation Z of the scaled probabilities, F(αA + Z), differentiated at Z = 0.
What attention adds to the residual stream is linear in the probabilities, so mix(αA + Z) = α·mix(A) + mix(Z): neither product depends on
α, `jax.vmap` over α leaves both outside, and `jax.grad` sums over α before it multiplies with Vᵀ.

Shapes: B examples, T tokens (padded), L layers, N heads, D hidden size, C classes, M integration steps.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .bert import Batch, BertClassifier, HeadMask, Params, checked_head_mask, complete_batch, mask_array
from .config import BertConfig
from .errors import InputError

Array = jax.Array

METHODS = ("riemann_left", "riemann_right", "riemann_middle", "riemann_trapezoid", "gausslegendre")
OBJECTIVES = ("prob", "logit", "log_prob")

MAX_STEPS = 10_000

# What the activations of one chunk of steps may take by default; larger chunks are not faster once the matrix products are this big.
STEP_MEMORY_BYTES = 256 * 2**20


class AttentionAttributions(NamedTuple):
    """Attention attributions of a batch. L counts the layers that were asked for, in that order."""

    attributions: Array  # [B, L, N, T, T] (row attends to column), in units of F; or [B, L, N] with reduce="head_max"
    attention_probs: Array  # [B, L, N, T, T], or [B, L, N] their maximum over real tokens
    target: Array  # int32 [B], the class explained
    score: Array  # [B], F(A)
    baseline_score: Array  # [B, L], F with that layer's attention at zero
    convergence_delta: Array  # [B, L], Σ attributions − (score − baseline_score)
    logits: Array  # [B, C]


class TokenAttributions(NamedTuple):
    """Token-level integrated gradients of a batch."""

    attributions: Array  # [B, T], in units of F
    target: Array  # int32 [B]
    score: Array  # [B], F(x)
    baseline_score: Array  # [B], F(x')
    convergence_delta: Array  # [B], Σ attributions − (score − baseline_score)


def quadrature(method: str, n_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Return nodes α and weights, float64 [M] each, that integrate over [0, 1]; the weights sum to 1.

    `riemann_left`, α = k/M from 0, is the published code's rule; `riemann_right`, from 1/M, the paper's equation 3;
    `riemann_middle` (k+½)/M; `riemann_trapezoid` k/(M−1) with half weight at both ends; `gausslegendre` is exact for polynomials of
    degree 2M−1.

    Raises:
      InputError: an unknown method, or fewer steps than the rule needs (1; the trapezoid 2).
    """
    least = 2 if method == "riemann_trapezoid" else 1
    if method not in METHODS:
        raise InputError(f"method {method!r} is unknown; choose one of {', '.join(METHODS)}")
    if isinstance(n_steps, bool) or not isinstance(n_steps, (int, np.integer)) or n_steps < least:
        raise InputError(f"n_steps must be an integer of at least {least} for {method}, not {n_steps!r}")
    if n_steps > MAX_STEPS:
        raise InputError(f"n_steps must be at most {MAX_STEPS}, not {n_steps}")
    steps = np.arange(n_steps)
    weights = np.full(n_steps, 1 / n_steps)
    if method == "riemann_left":
        return steps / n_steps, weights
    if method == "riemann_right":
        return (steps + 1) / n_steps, weights
    if method == "riemann_middle":
        return (steps + 0.5) / n_steps, weights
    if method == "riemann_trapezoid":
        weights = np.full(n_steps, 1 / (n_steps - 1))
        weights[[0, -1]] /= 2
        return steps / (n_steps - 1), weights
    nodes, weights = np.polynomial.legendre.leggauss(int(n_steps))
    return (nodes + 1) / 2, weights / 2


def check_objective(objective: str, config: BertConfig) -> None:
    """Raise an InputError unless the model has this output."""
    if objective not in OBJECTIVES:
        raise InputError(f"objective {objective!r} is unknown; choose one of {', '.join(OBJECTIVES)}")
    if config.num_labels == 1 and objective != "logit":
        raise InputError(f"objective {objective!r} is constant for a model with one output: use 'logit'")


def default_batch_size(padded_length: int) -> int:
    """Return how many examples of a padded length to attribute at once on a device: 8 of up to 32 tokens, fewer if longer."""
    return max(1, min(8, 256 // padded_length))


def default_step_batch_size(config: BertConfig, batch_size: int, num_tokens: int) -> int:
    """Return how many steps fit into `STEP_MEMORY_BYTES`: what a backward pass keeps of one step, estimated."""
    per_token = 8 * config.hidden_size + 3 * config.intermediate_size + 3 * config.num_attention_heads * num_tokens
    per_step = 4 * batch_size * num_tokens * config.num_hidden_layers * per_token
    return max(1, STEP_MEMORY_BYTES // per_step)


def attribute_attention(
    params: Params,
    batch: Batch,
    config: BertConfig,
    target: str | int | Array = "predicted",
    n_steps: int = 20,
    method: str = "gausslegendre",
    objective: str = "prob",
    layers: Sequence[int] | None = None,
    head_mask: HeadMask | None = None,
    reduce: str | None = None,
    step_batch_size: int | None = None,
) -> AttentionAttributions:
    """Attribute the model's output to the attention of every token pair in every head (paper, equations 2 and 3).

    Pure; jit-compiled when called plainly, safe under `jit`, `vmap` and `grad`. Padding never changes a result; its attribution is 0.

    Args:
      params: the parameter tree.
      batch: `input_ids`, `attention_mask`, `token_type_ids`: int [B, T], as for `forward`.
      config: the model's geometry (static).
      target: "predicted", a class index, or int [B] (pass the labels to explain the gold class). In a JAX array, a class that the model
        does not have gives NaN.
      n_steps: M, the number of integration steps.
      method: the rule, see `quadrature`.
      objective: F: "prob" the softmax probability of the target (as in the paper), "logit", or "log_prob".
      layers: the layers to attribute, by default all.
      head_mask: [L, N] over all the model's layers, as for `forward`.
      reduce: None, or "head_max": keep only each head's maximum over real tokens.
      step_batch_size: how many steps are computed at once: bounds memory, does not change results beyond rounding. None: as many as
        fit into 256 MiB.

    Returns:
      `AttentionAttributions`.

    Raises:
      InputError: an argument is out of range or of the wrong shape; a one-output model with a probability as objective.
    """
    batch = complete_batch(batch, config)
    check_objective(objective, config)
    if reduce not in (None, "head_max"):
        raise InputError(f"reduce {reduce!r} is unknown; choose None or 'head_max'")
    layers = tuple(range(config.num_hidden_layers)) if layers is None else tuple(layers)
    if not layers or not all(layer in range(config.num_hidden_layers) for layer in layers):
        raise InputError(f"layers must be some of 0 to {config.num_hidden_layers - 1}, not {list(layers)}")
    steps = _step_chunks(*quadrature(method, n_steps), step_batch_size, config, np.shape(batch["input_ids"]))
    static_mask, traced_mask = checked_head_mask(head_mask, config)
    return _attribute_attention(
        params,
        batch,
        _target_array(target, np.shape(batch["input_ids"])[0], config),
        steps,
        traced_mask,
        config=config,
        objective=objective,
        layers=layers,
        static_mask=static_mask,
        reduce=reduce,
    )


@functools.partial(jax.jit, static_argnames=("config", "objective", "layers", "static_mask", "reduce"))
def _attribute_attention(params, batch, target, step_chunks, traced_mask, config, objective, layers, static_mask, reduce):
    head_mask = mask_array(static_mask, traced_mask)
    logits, probs, inputs = BertClassifier(config).apply({"params": params}, batch, head_mask=head_mask)
    target = jnp.argmax(logits, axis=-1).astype(jnp.int32) if target is None else target
    score = _objective(logits, target, objective)
    real = batch["attention_mask"] != 0

    attributions, used, baseline_score, delta = [], [], [], []
    for layer in layers:
        attribution, baseline = _attribute_layer(
            params, config, layer, inputs[layer], probs[layer], real, head_mask, target, objective, step_chunks
        )
        baseline_score.append(baseline)
        delta.append(attribution.sum(axis=(1, 2, 3)) - (score - baseline))
        attributions.append(max_over_real(attribution, real) if reduce else attribution)
        used.append(max_over_real(probs[layer], real) if reduce else probs[layer])
    return AttentionAttributions(
        jnp.stack(attributions, axis=1),
        jnp.stack(used, axis=1),
        target,
        score,
        jnp.stack(baseline_score, axis=1),
        jnp.stack(delta, axis=1),
        logits,
    )


def _attribute_layer(params, config, layer, hidden, probs, key_mask, head_mask, target, objective, step_chunks):
    """Return the attribution [B, N, T, T] of one layer's attention `probs`, and F(0) [B]; `hidden` [B, T, D] is its input."""
    apply = functools.partial(BertClassifier(config).apply, {"params": params}, layer, hidden)
    # The classifier reads the [CLS] row alone: of the last layer, no other row is computed.
    num_queries = 1 if layer == config.num_hidden_layers - 1 else None

    def mix(probs):  # [B, N, T, T] -> [B, Q, D], linear
        return apply(probs[:, :, :num_queries], head_mask, method="mix_layer")

    def output(mixed):  # [B, Q, D] -> F [B]
        logits = apply(mixed, key_mask, head_mask, method="classify_from_mixed")
        return _objective(logits, target, objective)

    mixed_probs = mix(probs)

    def integral(explicit_probs, alphas, weights):  # Σ_k w_k F(α_k A + Z), summed over the independent examples
        mixed_explicit = mix(explicit_probs)
        scores = jax.vmap(lambda alpha: output(alpha * mixed_probs + mixed_explicit))(alphas.astype(mixed_probs.dtype))
        return jnp.sum(weights.astype(scores.dtype) @ scores)

    zero = jnp.zeros_like(probs)
    gradient = _sum_over_chunks(functools.partial(jax.grad(integral), zero), step_chunks)
    return probs * gradient, output(jnp.zeros_like(mixed_probs))


def attribute_tokens(
    params: Params,
    batch: Batch,
    config: BertConfig,
    target: str | int | Array = "predicted",
    n_steps: int = 20,
    method: str = "gausslegendre",
    objective: str = "prob",
    head_mask: HeadMask | None = None,
    baseline_token_id: int | None = None,
    step_batch_size: int | None = None,
) -> TokenAttributions:
    """Attribute the model's output to each token by integrated gradients (Sundararajan et al., ICML 2017) on the word embeddings.

    The path runs from the baseline token's embedding to the real ones. Tokens marked in `batch["special_tokens_mask"]` keep their own
    embedding (without that key, each example's first and last real token), as do positions, segments and padding.

    Args:
      baseline_token_id: the token of the baseline, by default [PAD].
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
    if special is not None and np.shape(special) != shape:
        raise InputError(f"special_tokens_mask has shape {np.shape(special)}, input_ids {shape}")
    baseline_token_id = config.pad_token_id if baseline_token_id is None else baseline_token_id
    static_mask, traced_mask = checked_head_mask(head_mask, config)
    return _attribute_tokens(
        params,
        inputs,
        special,
        _target_array(target, shape[0], config),
        _step_chunks(*quadrature(method, n_steps), step_batch_size, config, shape),
        traced_mask,
        config=config,
        objective=objective,
        static_mask=static_mask,
        baseline_token_id=baseline_token_id,
    )


@functools.partial(jax.jit, static_argnames=("config", "objective", "static_mask", "baseline_token_id"))
def _attribute_tokens(params, batch, special, target, step_chunks, traced_mask, config, objective, static_mask, baseline_token_id):
    head_mask = mask_array(static_mask, traced_mask)
    apply = functools.partial(BertClassifier(config).apply, {"params": params})
    real = batch["attention_mask"] != 0
    kept = ~real | (_first_and_last(real) if special is None else jnp.asarray(special) != 0)
    baseline_ids = jnp.where(kept, batch["input_ids"], baseline_token_id)
    words = apply(batch["input_ids"], method="embed_words")
    baseline = apply(baseline_ids, method="embed_words")

    def logits_of(words):
        hidden = apply(words, batch["token_type_ids"], method="embed")
        hidden, _, _ = apply(hidden, real, head_mask=head_mask, cls_only=True, method="encode")
        return apply(hidden, method="classify")

    logits = logits_of(words)
    target = jnp.argmax(logits, axis=-1).astype(jnp.int32) if target is None else target

    def output(words):
        return _objective(logits_of(words), target, objective)

    def integral(explicit_words, alphas, weights):
        path = baseline + explicit_words
        scores = jax.vmap(lambda alpha: output(path + alpha * (words - baseline)))(alphas.astype(words.dtype))
        return jnp.sum(weights.astype(scores.dtype) @ scores)

    gradient = _sum_over_chunks(functools.partial(jax.grad(integral), jnp.zeros_like(words)), step_chunks)
    attributions = jnp.sum((words - baseline) * gradient, axis=-1)
    score, baseline_score = output(words), output(baseline)
    delta = attributions.sum(axis=-1) - (score - baseline_score)
    return TokenAttributions(attributions, target, score, baseline_score, delta)


def sum_over_layers(attributions: Array) -> Array:
    """Sum over layers and heads and divide by the largest absolute value: one table of token pairs per example.

    Args:
      attributions: [B, L, N, T, T].

    Returns:
      [B, T, T], in −1 … 1; all zeros stay zeros.
    """
    total = jnp.asarray(attributions).sum(axis=(1, 2))
    largest = jnp.max(jnp.abs(total), axis=(1, 2), keepdims=True)
    return total / jnp.where(largest == 0, jnp.ones_like(largest), largest)


def max_over_real(values: Array, real: Array) -> Array:
    """Return the maximum [B, ...] of `values` [B, ..., T, T] over pairs of real tokens; `real` bool [B, T]."""
    pairs = real[:, :, None] & real[:, None, :]
    pairs = jnp.expand_dims(pairs, tuple(range(1, values.ndim - 2)))
    return jnp.max(jnp.where(pairs, values, -jnp.inf), axis=(-2, -1))


def _objective(logits: Array, target: Array, objective: str) -> Array:
    """Return F [B] of logits [B, C]."""
    if objective == "prob":
        logits = jax.nn.softmax(logits, axis=-1)
    elif objective == "log_prob":
        logits = jax.nn.log_softmax(logits, axis=-1)
    return jnp.take_along_axis(logits, target[:, None], axis=-1)[:, 0]


def _target_array(target: str | int | Array, batch_size: int, config: BertConfig) -> Array | None:
    """Return the target classes, int32 [B]; None stands for the predicted class."""
    if isinstance(target, str):
        if target != "predicted":
            raise InputError(f"target must be 'predicted', a class index or int [B], not {target!r}")
        return None
    shape = np.shape(target)
    if shape not in ((), (batch_size,)):
        raise InputError(f"target must be a class index or int [B] = [{batch_size}], not of shape {list(shape)}")
    if not jnp.issubdtype(jnp.asarray(target).dtype, jnp.integer):
        raise InputError(f"target must be an integer, not {target!r}")
    if not isinstance(target, jax.Array):  # looking into a device array would wait for it
        values = np.asarray(target)
        if values.size and not (values.min() >= 0 and values.max() < config.num_labels):
            raise InputError(f"target {values.tolist()} is out of range: the model has classes 0 to {config.num_labels - 1}")
    return jnp.broadcast_to(jnp.asarray(target, jnp.int32), (batch_size,))


def _step_chunks(nodes: np.ndarray, weights: np.ndarray, size: int | None, config: BertConfig, shape: tuple[int, int]):
    """Lay nodes and weights out as [chunks, steps per chunk], the last chunk filled with weight 0.

    `size` is the number of steps that may be computed at once, None: what memory allows for a batch of `shape` [B, T].
    """
    if size is None:
        size = default_step_batch_size(config, *shape)
    if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < 1:
        raise InputError(f"step_batch_size must be an integer of at least 1, not {size!r}")
    num_chunks = -(-len(nodes) // size)
    size = -(-len(nodes) // num_chunks)
    padding = (0, num_chunks * size - len(nodes))
    shape = (num_chunks, size)
    dtype = jnp.result_type(float)  # float64 under jax_enable_x64
    return tuple(np.pad(values, padding).reshape(shape).astype(dtype) for values in (nodes, weights))


def _sum_over_chunks(function, chunks):
    """Return Σ function(*chunk), one chunk in memory at a time."""
    first = tuple(values[0] for values in chunks)
    if len(chunks[0]) == 1:
        return function(*first)
    zero = jax.tree.map(lambda like: jnp.zeros(like.shape, like.dtype), jax.eval_shape(function, *first))
    total, _ = jax.lax.scan(lambda total, chunk: (total + function(*chunk), None), zero, chunks)
    return total


def _first_and_last(real: Array) -> Array:
    """Return bool [B, T], True at each example's first and last real token."""
    count = jnp.cumsum(real, axis=-1)
    return real & ((count == 1) | (count == count[:, -1:]))
