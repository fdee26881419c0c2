"""Self-attention attribution (Hao, Dong, Wei, Xu: Self-Attention Attribution, AAAI 2021), and
token-level integrated gradients.

The public functions: they check arguments, choose how much to compute at once, and call `engine`
(the formula, pure) or, for n_steps="auto", `adaptive`.

Shapes: B examples, T tokens (padded), L layers, N heads, D hidden size, C classes, M integration
steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from . import adaptive, engine
from .bert import Batch, HeadMask, Params, checked_tokens, complete_batch, forward, split_head_mask
from .config import BertConfig
from .engine import OBJECTIVES, PATHS
from .errors import InputError, as_index, root_cause
from .integration import METHODS, check_adaptive_method, checked_rule, quadrature

Array = jax.Array


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
    n_steps: Array  # int32 [B, L], how many nodes were evaluated
    # With n_steps="auto", else None: Σ|change from the level before| / Σ|attributions|, and whether
    # the tolerance was met, [B, L].
    relative_change: Array | None = None
    converged: Array | None = None
    # What the result is of. For each example, so that every field can be sliced, joined and divided
    # over devices alike.
    layers: Array | None = None  # int32 [B, L], the model's numbers of the layers
    num_hidden_layers: Array | None = None  # int32 [B], of the model

    def show(
        self,
        classifier: Any = None,
        batch: Batch | None = None,
        layers: Sequence[int] | None = None,
        file: Any = None,
        overwrite: bool = False,
    ) -> Any:
        """Show the report of this batch: in a notebook below the cell, elsewhere as a file whose
        path is returned.

        Args:
          classifier, batch: what was attributed: for the names of tokens and classes, and to leave
            padding out. Without them these are numbers. (`explain_texts` shows token-level
            attributions and the texts as well.)
          layers: those that were asked for, where the result does not say so.
          file: where to write the page; by default into a new temporary folder. An older report
            there is replaced.
          overwrite: replace any other file as well.
        """
        return _explanations_of(self, classifier, batch, layers).show(file, overwrite)

    def _repr_html_(self) -> str:
        return _explanations_of(self)._repr_html_()


def _explanations_of(result: AttentionAttributions, *what: Any) -> Any:
    # Stands above this module: a result that is shown asks for the page, none that is computed
    from .explanations import explanations_of

    return explanations_of(result, *what)


class TokenAttributions(NamedTuple):
    """Token-level integrated gradients of a batch."""

    attributions: Array  # [B, T], in units of F
    target: Array  # int32 [B]
    score: Array  # [B], F(x)
    baseline_score: Array  # [B], F(x')
    convergence_delta: Array  # [B], Σ attributions − (score − baseline_score)
    n_steps: Array  # int32 [B], how many nodes were evaluated
    converged: Array | None = None  # with n_steps="auto": whether the tolerance was met, bool [B]


def check_adaptive(tolerance: float, max_steps: int) -> tuple[int, ...]:
    """Return the numbers of nodes of the levels to try, or raise an InputError."""
    if (
        isinstance(tolerance, bool)
        or not isinstance(tolerance, (int, float, np.floating))
        or not 0 < tolerance < 1
    ):
        raise InputError(f"tolerance must be a number between 0 and 1, not {tolerance!r}")
    most = as_index(max_steps)
    sizes = () if most is None else adaptive.levels_within(most)
    if len(sizes) <= adaptive.FIRST_LEVEL:
        raise InputError(
            "max_steps must be an integer of at least 7, the nodes of the first level, not"
            f" {max_steps!r}"
        )
    return sizes


def _is_adaptive(n_steps: int | str, method: Any, config: BertConfig, arrays) -> bool:
    """Return whether n_steps is "auto", or raise an InputError if that is not possible here."""
    if not isinstance(n_steps, str):
        return False
    if n_steps != "auto":
        raise InputError(f"n_steps must be an integer or 'auto', not {n_steps!r}")
    check_adaptive_method(method)
    if config.dtype in ("bfloat16", "float16"):
        raise InputError(
            f"n_steps 'auto' needs float32: the rounding of {config.dtype} is larger than what is"
            " to be detected"
        )
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(arrays)):
        raise InputError(
            "n_steps 'auto' looks at values and cannot be traced: call it outside jit, vmap and"
            " grad"
        )
    return True


def check_objective(objective: str, config: BertConfig) -> None:
    """Raise an InputError unless the model has this output."""
    if objective not in OBJECTIVES:
        raise InputError(
            f"objective {objective!r} is unknown; choose one of {', '.join(OBJECTIVES)}"
        )
    if config.num_labels == 1 and objective != "logit":
        raise InputError(
            f"objective {objective!r} is constant for a model with one output: use 'logit'"
        )


def attribute_attention(
    params: Params,
    batch: Batch,
    config: BertConfig,
    target: str | int | Array = "predicted",
    n_steps: int | str = 20,
    method: str | tuple[Any, Any] = "gausslegendre",
    objective: str = "prob",
    layers: Sequence[int] | None = None,
    head_mask: HeadMask | None = None,
    reduce: str | None = None,
    step_batch_size: int | None = None,
    path: str = "layer",
    tolerance: float = 1e-3,
    max_steps: int = 63,
) -> AttentionAttributions:
    """Attribute the model's output to the attention of every token pair in every head (paper,
    equations 2 and 3).

    Pure; jit-compiled when called plainly, safe under `jit`, `vmap` and `grad`. Padding never
    changes a result; its attribution is 0. With n_steps="auto" it looks at values, and cannot be
    traced.

    Args:
      params: the parameter tree.
      batch: `input_ids`, `attention_mask`, `token_type_ids`: int [B, T], as for `forward`.
      config: the model's geometry (static).
      target: "predicted", a class index, or int [B] (pass the labels to explain the gold class). In
        a JAX array, a class that the model does not have gives NaN, as do ids and segments in the
        batch.
      n_steps: M, the number of integration steps; "auto": for each layer of each example as many as
        `tolerance` needs, by nested rules of its own, so that no other `method` than the default
        goes with it.
      method: the rule, see `quadrature`; or its nodes and weights [M] themselves (`n_steps` does
        not count then). Rules of as many nodes share one compiled program.
      objective: F: "prob" the softmax probability of the target (as in the paper), "logit", or
        "log_prob".
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
      tolerance: with "auto": the largest |convergence delta| / Σ|attributions|, and the largest
        change from one level of nodes to the next, Σ|change| / Σ|attributions|, of a layer of an
        example: estimates of its relative error.
      max_steps: with "auto": no level of more nodes is tried; the levels are 7, 11, 15, 31 and 63.

    Returns:
      `AttentionAttributions`.

    Raises:
      InputError: an argument is out of range or of the wrong shape; a one-output model with a
        probability as objective.
    """
    batch = complete_batch(batch, config)
    check_objective(objective, config)
    if reduce not in (None, "head_max"):
        raise InputError(f"reduce {reduce!r} is unknown; choose None or 'head_max'")
    if path not in PATHS:
        raise InputError(f"path {path!r} is unknown; choose one of {', '.join(PATHS)}")
    layers = checked_layers(layers, config)
    ascending = tuple(sorted(set(layers)))
    shape = engine.rows_per_device(batch), np.shape(batch["input_ids"])[1]
    groups = engine.layer_groups(config, ascending, *shape, _checked_steps_at_once(step_batch_size))
    target = _target_array(target, np.shape(batch["input_ids"])[0], config)
    kept_params, kept_config, traced_mask = split_head_mask(params, config, head_mask)
    static = {"config": kept_config, "objective": objective, "groups": groups, "reduce": reduce}

    relative_change = converged = None
    if _is_adaptive(n_steps, method, config, (params, batch, target, traced_mask)):
        sizes = check_adaptive(tolerance, max_steps)
        if path != "layer":
            raise InputError(
                "n_steps 'auto' goes with path 'layer'; give a number of steps for path 'joint'"
            )
        result, n_steps, converged, relative_change = adaptive.attribute_adaptively(
            kept_params,
            batch,
            target,
            traced_mask,
            layers=ascending,
            tolerance=tolerance,
            sizes=sizes,
            **static,
        )
    else:
        rule = _fixed_rule(method, n_steps)
        result = engine.attribute_fixed(
            kept_params, batch, target, rule, traced_mask, path=path, **static
        )
        n_steps = np.full((np.shape(batch["input_ids"])[0], len(ascending)), len(rule[0]), np.int32)
    # The engine knows nothing of the heads that are masked: their attribution is 0, their attention
    # is not
    if kept_config != config:
        _, probs = forward(params, batch, config, head_mask=head_mask)
        stacked = jnp.stack([probs[layer] for layer in ascending], axis=1)
        real = jnp.asarray(batch["attention_mask"]) != 0
        result = result._replace(
            attention_probs=engine.max_over_real(stacked, real) if reduce else stacked
        )
    num_rows = np.shape(batch["input_ids"])[0]
    which = (
        np.tile(np.asarray(layers, np.int32), (num_rows, 1)),
        np.full(num_rows, config.num_hidden_layers, np.int32),
    )
    found = AttentionAttributions(*result, n_steps, relative_change, converged, *which)
    if layers == ascending:
        return found
    order = np.asarray([ascending.index(layer) for layer in layers])
    by_layer = ("attributions", "attention_probs", "n_steps", "relative_change", "converged")
    by_layer += ("baseline_score", "convergence_delta") if path == "layer" else ()
    return found._replace(
        **{
            name: values[:, order]
            for name in by_layer
            if (values := getattr(found, name)) is not None
        }
    )


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
        steps_at_once = engine.token_steps_at_once(config, engine.rows_per_device(inputs), shape[1])
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
        result, n_steps, converged = adaptive.attribute_tokens_adaptively(
            *arrays, traced_mask, tolerance=tolerance, sizes=sizes, **static
        )
        return TokenAttributions(*result, n_steps, converged)
    rule = _fixed_rule(method, n_steps)
    result = engine.attribute_tokens_fixed(*arrays, rule, traced_mask, **static)
    return TokenAttributions(*result, np.full(shape[:1], len(rule[0]), np.int32))


def sum_over_layers(attributions: Array) -> Array:
    """Sum over layers and heads and divide by the largest absolute value: one table of token pairs
    per example.

    Args:
      attributions: [B, L, N, T, T].

    Returns:
      [B, T, T], in −1 … 1; all zeros stay zeros.

    Raises:
      InputError: they have another shape, as with reduce="head_max".
    """
    if np.ndim(attributions) != 5:
        raise InputError(
            f"attributions must be [B, L, N, T, T], not {list(np.shape(attributions))}"
        )
    total = jnp.asarray(attributions).sum(axis=(1, 2))
    largest = jnp.max(jnp.abs(total), axis=(1, 2), keepdims=True)
    return total / jnp.where(largest == 0, jnp.ones_like(largest), largest)


def checked_layers(layers: Sequence[int] | None, config: BertConfig) -> tuple[int, ...]:
    """Return the layers asked for, all if None, or raise an InputError."""
    if layers is None:
        return tuple(range(config.num_hidden_layers))
    try:
        indices = tuple(map(as_index, layers))
    except TypeError:  # a single number
        indices = ()
    if not indices or not all(index in range(config.num_hidden_layers) for index in indices):
        given = list(layers) if isinstance(layers, (tuple, range)) else layers
        raise InputError(
            f"layers must be some of 0 to {config.num_hidden_layers - 1}, as a list, not"
            f" {given!r:.80}"
        )
    return indices


def _fixed_rule(method: str | tuple[Any, Any], n_steps: int) -> engine.Rule:
    """Return nodes [M] and weights [1, M] of a method, or of a caller's own rule."""
    if isinstance(method, str):
        nodes, weights = quadrature(method, n_steps)
    else:
        try:
            nodes, weights = method
        except (TypeError, ValueError):
            raise InputError(
                f"method must be one of {', '.join(METHODS)}, or (nodes, weights), not"
                f" {method!r:.80}"
            ) from None
        nodes, weights = checked_rule(nodes, weights)
    dtype = jnp.result_type(float)  # float64 under jax_enable_x64
    return nodes.astype(dtype), weights[None].astype(dtype)


def _target_array(target: str | int | Array, batch_size: int, config: BertConfig) -> Array | None:
    """Return the target classes, int32 [B]; None stands for the predicted class."""
    if isinstance(target, str):
        if target != "predicted":
            raise InputError(
                f"target must be 'predicted', a class index or int [B], not {target!r}"
            )
        return None
    try:
        values = target if isinstance(target, jax.Array) else np.asarray(target)
    except Exception as error:  # whatever the library raises whose tensor it is
        raise InputError(f"target cannot be read as an array: {root_cause(error):.200}") from None
    if values.shape not in ((), (batch_size,)):
        raise InputError(
            f"target must be a class index or int [B] = [{batch_size}], not of shape"
            f" {list(values.shape)}"
        )
    if not jnp.issubdtype(values.dtype, jnp.integer):
        raise InputError(f"target must be an integer, not {target!r:.80}")
    if not isinstance(values, jax.Array):  # looking into a device array would wait for it
        if not (values.min() >= 0 and values.max() < config.num_labels):
            raise InputError(
                f"target {values.tolist()} is out of range: the model has classes 0 to"
                f" {config.num_labels - 1}"
            )
        target = values.astype(np.int32)
    return jnp.broadcast_to(jnp.asarray(target, jnp.int32), (batch_size,))


def _checked_steps_at_once(size: int | None) -> int | None:
    if size is None:
        return None
    index = as_index(size)
    if index is None or index < 1:
        raise InputError(f"step_batch_size must be an integer of at least 1, not {size!r}")
    return index
