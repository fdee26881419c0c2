"""Integration with as many nodes as each example and layer needs (n_steps="auto").

This stands above the pure functions, since it looks at values. The levels are those of
`quadrature.nested_rules`, 7, 11, 15, 31 and 63 nodes. All examples and layers are integrated at the
first; those that do not meet the tolerance go on to the next, which adds nodes and repeats none:
the sums for the weights of all levels are kept from the start. The tolerance is met twice: by
|convergence delta| / Σ|attributions|, and by the change from the level before, Σ|change| /
Σ|attributions|. Both are estimates of the error, not bounds; for smooth integrands the change is a
large overestimate.

Shapes: B examples, T tokens (padded), L layers, N heads, D hidden size, Q query rows, S levels, E
examples that are refined at once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..models.config import EncoderConfig
from ..models.head_masks import mask_row
from ..models.types import AnyArray, Array, Params
from . import formula
from .quadrature import FIRST_LEVEL, nested_rules

REFINED_STEPS = 4  # the fewest nodes that a level adds
ROUNDINGS = 16  # of a float, that add up in F: up to 6 were seen where nothing is attributed
REFINED_SHARE = 8  # of the rows are refined at once: one in so many

# Rows to refine of each layer: their numbers int [layers, E], and which of these count.
Picked = tuple[np.ndarray, np.ndarray]


def levels_rule(sizes: Sequence[int]) -> formula.Rule:
    """Return the nodes and weights of the levels with these numbers of nodes."""
    rules = nested_rules()
    dtype = jnp.result_type(float)
    nodes, weights = rules.nodes[: sizes[-1]], rules.weights[: len(sizes), : sizes[-1]]
    return nodes.astype(dtype), weights.astype(dtype)


def refine(
    keys: Sequence[Hashable],
    num_rows: int,
    sizes: Sequence[int],
    integrate: Callable[[dict[Any, np.ndarray], int, int], None],
    assess: Callable[[Any, int, np.ndarray], AnyArray],
) -> tuple[np.ndarray, np.ndarray]:
    """Go from level to level until every (row, key) is good enough, or the levels end.

    Args:
      keys: what is integrated for each of `num_rows` rows: layers.
      num_rows: of the batch.
      sizes: nodes of each level.
      integrate: (pending rows of each key, first node, last node + 1): add these nodes.
      assess: (key, level, pending) -> bool [rows], good enough.

    Returns:
      n_steps int32 and converged bool, [rows, keys].
    """
    n_steps = np.full((num_rows, len(keys)), sizes[FIRST_LEVEL], np.int32)
    pending = {key: np.ones(num_rows, bool) for key in keys}
    num_nodes = 0
    for level in range(FIRST_LEVEL, len(sizes)):
        waiting = {key: rows for key, rows in pending.items() if rows.any()}
        if not waiting:
            break
        integrate(waiting, num_nodes, sizes[level])
        num_nodes = sizes[level]
        for column, (key, rows) in enumerate(pending.items()):
            if rows.any():
                n_steps[rows, column] = sizes[level]
                pending[key] = rows & ~np.asarray(assess(key, level, rows))
    return n_steps, ~np.stack(list(pending.values()), axis=1)


def attribute_adaptively(
    params,
    batch,
    target,
    head_mask,
    config: EncoderConfig,
    objective,
    layers,
    groups,
    tolerance: float,
    sizes: Sequence[int],
    reduce,
) -> tuple[formula.Result, np.ndarray, np.ndarray, Array]:
    """Attribute to the attention of `layers` (ascending), each with the nodes it needs.

    Returns:
      the result, n_steps and converged [B, L], the last relative change [B, L].
    """
    integrals = _LayerIntegrals(
        params, batch, target, head_mask, config, objective, layers, groups, tolerance, sizes
    )
    num_rows = integrals.num_rows
    n_steps, converged = refine(layers, num_rows, sizes, integrals.integrate, integrals.assess)
    result = _assemble(
        integrals.clean,
        [integrals.attributions[layer] for layer in layers],
        integrals.baseline,
        config=config,
        layers=layers,
        reduce=reduce,
    )
    changes = jnp.stack([integrals.changes[layer] for layer in layers], axis=1)
    return result, n_steps, converged, changes


class _LayerIntegrals:
    """The path integrals of some layers, which `refine` extends and assesses."""

    def __init__(
        self, params, batch, target, head_mask, config, objective, layers, groups, tolerance, sizes
    ):
        self.params, self.head_mask, self.config = params, head_mask, config
        self.static = {"config": config, "objective": objective}
        self.groups, self.tolerance, self.rule = groups, tolerance, levels_rule(sizes)
        self.num_rows = np.shape(batch["input_ids"])[0]
        self.clean, self.baseline = _start(
            params, batch, target, head_mask, layers=layers, **self.static
        )
        self.position = {layer: index for index, layer in enumerate(layers)}
        # Of each layer: Σ w ∂F/∂mix for the weights of every level [S, B, Q, D]; the attributions
        # [B, N, T, T] and their relative change [B] at the last level that a row was assessed at.
        clean, dtype = self.clean, self.clean.mixed[0].dtype
        mixed, probs = dict(zip(layers, clean.mixed, strict=True)), clean.probs
        self.sums = {layer: jnp.zeros((len(sizes), *mixed[layer].shape), dtype) for layer in layers}
        self.attributions = {
            layer: jnp.zeros(values.shape, dtype)
            for layer, values in zip(layers, probs, strict=True)
        }
        self.changes = {layer: jnp.zeros_like(clean.score) for layer in layers}

    def integrate(self, waiting: dict[int, np.ndarray], start: int, stop: int) -> None:
        """Add the nodes from `start` to `stop` for the waiting rows of each layer."""
        # Layers of which one row is computed are the ones that most often need more nodes, and the
        # ones that cost least.
        cheap = tuple(
            layer for group, _ in self.groups for layer in group if self.config.num_queries(layer)
        )
        for group, steps_at_once in self.groups:
            no_rows = np.zeros(self.num_rows, bool)
            pending = {layer: waiting.get(layer, no_rows) for layer in group}
            most = max(
                (rows.sum() for layer, rows in pending.items() if layer not in cheap), default=0
            )
            # Where most rows wait, all are integrated: no rows are gathered, one program serves.
            if start == 0 or 1 < self.num_rows < 2 * most:
                self._add(group, None, steps_at_once, start, stop)
                continue
            for layers, picked in _slots(pending, cheap, max(1, self.num_rows // REFINED_SHARE)):
                # Fewer rows, more steps: as much at once.
                fewer = max(1, self.num_rows // picked[0].shape[1])
                steps = min(REFINED_STEPS, steps_at_once * fewer)
                self._add(layers, picked, steps, start, stop)

    def _add(
        self, layers: tuple[int, ...], picked: Picked | None, steps_at_once: int, start, stop
    ) -> None:
        """Add nodes to the sums of some layers, for all rows or those picked."""
        clean, positions = self.clean, [self.position[layer] for layer in layers]
        sums = _integrate(
            self.params,
            [clean.hidden[position] for position in positions],
            [clean.mixed[position] for position in positions],
            clean.token_mask,
            clean.target,
            [self.sums[layer] for layer in layers],
            picked,
            self.head_mask,
            self.rule,
            start,
            stop,
            layers=layers,
            steps_at_once=steps_at_once,
            **self.static,
        )
        self.sums.update(zip(layers, sums, strict=True))

    def assess(self, layer: int, level: int, rows: np.ndarray) -> Array:
        """Take over the attributions of the pending `rows`; return bool [B], good enough."""
        clean, position = self.clean, self.position[layer]
        self.attributions[layer], self.changes[layer], good = _assess(
            formula.layer_params_of(self.params, self.config, layer),
            clean.hidden[position],
            clean.probs[position],
            self.sums[layer],
            clean.logits,
            clean.score,
            self.baseline[:, position],
            clean.token_mask,
            mask_row(self.head_mask, self.config, layer),
            (self.attributions[layer], self.changes[layer]),
            rows,
            level,
            self.tolerance,
            kind=self.config.layer_kind(layer),
            **self.static,
        )
        return good


def _slots(
    pending: dict[int, np.ndarray], cheap: Sequence[int], num_slots: int
) -> Iterator[tuple[tuple[int, ...], Picked]]:
    """Yield layers and the rows to refine of each, until every pending row had a slot.

    Args:
      pending: bool [B] of each layer.
      cheap: layers that go by themselves, all their rows at once.
      num_slots: E, rows of the other layers at once.
    """
    num_rows = len(next(iter(pending.values())))
    for layers, slots in (
        (tuple(layer for layer in pending if layer not in cheap), num_slots),
        (tuple(layer for layer in pending if layer in cheap), num_rows),
    ):
        indices = [np.flatnonzero(pending[layer]) for layer in layers]
        for begin in range(0, max(map(len, indices), default=0), slots):
            rows = np.zeros((len(layers), slots), np.int32)
            is_used = np.zeros((len(layers), slots), bool)
            for number, of_layer in enumerate(indices):
                chosen = of_layer[begin : begin + slots]
                rows[number, : len(chosen)], is_used[number, : len(chosen)] = chosen, True
            yield layers, (rows, is_used)


@functools.partial(jax.jit, static_argnames=("config", "objective", "layers"))
def _start(params, batch, target, head_mask, config, objective, layers):
    """Return the clean pass and F with each layer's attention at zero, [B, L]."""
    clean = formula.clean_pass(params, batch, target, head_mask, config, objective, layers)
    return clean, formula.baseline_scores(params, config, layers, clean, head_mask, objective)


@functools.partial(
    jax.jit,
    static_argnames=("config", "objective", "layers", "steps_at_once"),
    donate_argnames=("sums",),
)
def _integrate(
    params: Params,
    hidden: list[Array],
    mixed: list[Array],
    token_mask: Array,
    target: Array,
    sums: list[Array],
    picked: Any,
    head_mask: Any,
    rule: formula.Rule,
    start,
    stop,
    config,
    objective,
    layers,
    steps_at_once,
) -> list[Array]:
    """Add the nodes from `start` to `stop` to the sums [S, B, Q, D] of each layer.

    With `picked`, only for those rows of each layer.
    """
    token_masks, targets = [token_mask] * len(layers), [target] * len(layers)
    if picked is not None:
        hidden, mixed, token_masks, targets = (
            [values[rows] for values, rows in zip(by_layer, picked[0], strict=True)]
            for by_layer in (hidden, mixed, token_masks, targets)
        )
    branches = hidden, mixed, token_masks, head_mask, targets
    added = formula.context_gradients(
        params, config, layers, *branches, objective, rule, steps_at_once, start, stop
    )
    if picked is None:
        return jax.tree.map(jnp.add, sums, added)
    return [
        total.at[:, rows].add(jnp.where(is_used[None, :, None, None], new, 0))
        for total, new, rows, is_used in zip(sums, added, *picked, strict=True)
    ]


@functools.partial(
    jax.jit, static_argnames=("config", "objective", "kind"), donate_argnames=("before",)
)
def _assess(
    layer_params: Params,
    hidden: Array,
    probs: Array,
    sums: Array,
    logits: Array,
    score: Array,
    baseline: Array,
    token_mask: Array,
    head_mask: Any,
    before: tuple[Array, Array],
    pending: Array,
    level,
    tolerance,
    config,
    objective,
    kind,
):
    """Return attributions [B, N, T, T] and relative changes [B], and which rows are good enough.

    Both are new where a row is pending, those of `before` elsewhere.
    """
    attributions, coarser = (
        formula.attribution_of(
            layer_params, config, kind, hidden, probs, token_mask, head_mask, sums[index]
        )
        for index in (level, level - 1)
    )
    magnitude = jnp.sum(jnp.abs(attributions), axis=(1, 2, 3))
    delta = jnp.sum(attributions, axis=(1, 2, 3)) - (score - baseline)
    change = jnp.sum(jnp.abs(attributions - coarser), axis=(1, 2, 3))
    rounding = rounding_of(logits, score, baseline, objective)
    good = is_good_enough(magnitude, delta, change, rounding, token_mask, tolerance)
    change = change / jnp.where(magnitude == 0, 1, magnitude)
    kept, kept_change = before
    return (
        jnp.where(pending[:, None, None, None], attributions, kept),
        jnp.where(pending, change, kept_change),
        good,
    )


def rounding_scale(logits: Array, scores: Array, objective: str) -> Array:
    """Return the number [B] with which the rounding of F grows.

    The error of F is a few times this, times the precision of a float. The error of a logit is in
    proportion to the largest of them, whatever the target's own is; F passes on ∂F/∂logits of that.

    Args:
      logits: [B, C].
      scores: F, [B].
      objective: what F is.
    """
    largest = jnp.max(jnp.abs(logits), axis=-1)
    if objective in ("logit", "contrast"):
        return jnp.maximum(largest, jnp.abs(scores))
    is_log = objective in ("log_prob", "log_sigmoid")
    probs = jnp.exp(scores) if is_log else scores
    # Σ_c |∂ log p / ∂ logit_c| = 2 (1 − p), of a sigmoid half of it; 1: of exp, of log(1 + …)
    passed_on = jnp.maximum(1, 2 * (1 - probs) * largest)
    if is_log:
        return jnp.maximum(passed_on, jnp.abs(scores))
    return probs * passed_on


def rounding_of(logits: Array, score: Array, baseline: Array, objective: str) -> Array:
    """Return how large a convergence delta [B] may come from rounding alone.

    F(A) and F(0) are not known better.
    """
    scales = [rounding_scale(logits, outputs, objective) for outputs in (score, baseline)]
    return ROUNDINGS * jnp.finfo(score.dtype).eps * jnp.maximum(*scales)


def is_good_enough(magnitude, delta, change, rounding, token_mask, tolerance) -> Array:
    """Return bool [B]: whether both estimates of the error are within the tolerance.

    Rows without a real token, which fill up a batch, are good.
    """
    delta_is_small = jnp.abs(delta) <= jnp.maximum(tolerance * magnitude, rounding)
    change_is_small = change <= tolerance * magnitude
    return (delta_is_small & change_is_small) | ~jnp.any(token_mask, axis=1)


@functools.partial(jax.jit, static_argnames=("config", "layers", "reduce"))
def _assemble(clean, attributions, baseline, config, layers, reduce) -> formula.Result:
    return formula.assemble(config, layers, clean, attributions, baseline, reduce)
