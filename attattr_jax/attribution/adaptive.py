"""Integration with as many nodes as each example and layer needs (n_steps="auto").

This stands above the pure functions, since it looks at values. The levels are those of
`quadrature.levels.adaptive_levels`. All examples and layers are integrated at the first, in one
program; those whose error estimate (`quadrature.estimate`) exceeds the tolerance go on to the next,
which adds nodes and repeats none: the sums for the weights of all levels are kept from the start.

Shapes: B examples, T tokens (padded), L layers, N heads, D hidden size, Q query rows, S levels, E
examples that are refined at once.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..models.config import EncoderConfig
from ..models.head_masks import mask_row
from ..models.types import Array
from . import integration
from .formula import CleanPass, NodeValues, attribution_of, evaluate_nodes, layer_params_of
from .quadrature.levels import Levels, adaptive_levels

REFINED_STEPS = 4  # the fewest nodes that a level adds
REFINED_SHARE = 8  # of the rows are refined at once: one in so many

# Rows to refine of each layer: their numbers int [layers, E], and which of these count.
Picked = tuple[np.ndarray, np.ndarray]


def attribute_adaptively(
    params,
    batch,
    target,
    head_mask,
    config: EncoderConfig,
    objective,
    layers: tuple[int, ...],
    groups,
    tolerance: float,
    max_steps: int,
    reduce,
) -> tuple[integration.Result, np.ndarray, np.ndarray]:
    """Attribute to the attention of `layers` (ascending), each with the nodes it needs.

    Returns:
      the result, n_steps and converged [B, L].
    """
    # Of layers of which one row is computed all rows go on at once: they cost next to nothing.
    cheap = tuple(layer for layer in layers if config.num_queries(layer))
    levels = {is_cheap: adaptive_levels(is_cheap) for is_cheap in (False, True)}
    arrays = {kind: of_kind.rule.astype(jnp.result_type(float)) for kind, of_kind in levels.items()}
    sizes = {layer: _sizes_within(max_steps, levels[layer in cheap]) for layer in layers}
    rules = {layer: arrays[layer in cheap] for layer in layers}
    plans = tuple(integration.plan_of(rules[layer], sizes[layer][0]) for layer in layers)
    static = {"config": config, "objective": objective, "reduce": reduce}
    state = _start(
        params,
        batch,
        target,
        tuple(rules.values()),
        head_mask,
        layers=layers,
        plans=plans,
        groups=groups,
        **static,
    )
    first_sizes = np.asarray([[sizes[layer][0] for layer in layers]], np.int32)
    n_steps = np.repeat(first_sizes, len(state.clean.score), axis=0)
    is_pending = _exceeds(state.result.error_estimate, tolerance)
    for level in range(1, max(map(len, sizes.values()))):
        waiting = {
            layer: is_pending[:, index]
            for index, layer in enumerate(layers)
            if level < len(sizes[layer])
        }
        if not any(rows.any() for rows in waiting.values()):
            break
        for some, picked, steps in _portions(waiting, cheap, groups, len(is_pending)):
            nodes = sizes[some[0]][level - 1 : level + 1]
            numbers = {"layers": some, "positions": tuple(layers.index(layer) for layer in some)}
            of_some = tuple(rules[layer] for layer in some)
            inputs = params, state, of_some, picked, head_mask, nodes, level
            state = _refine(*inputs, steps_at_once=steps, **numbers, **static)
        for layer, rows in waiting.items():
            n_steps[rows, layers.index(layer)] = sizes[layer][level]
        is_pending = _exceeds(state.result.error_estimate, tolerance)
    return state.result, n_steps, ~is_pending


def _sizes_within(max_steps: int, levels: Levels) -> tuple[int, ...]:
    """Return the numbers of nodes of the levels of a layer that `max_steps` allows."""
    first = levels.sizes[:1]  # of the cheap layers it may be more than that
    return first + tuple(size for size in levels.sizes[1:] if size <= max_steps)


def _exceeds(estimates: Array, tolerance: float) -> np.ndarray:
    """Return bool [B, L]; NaN, of targets that do not exist, does not: more nodes do not help."""
    return np.asarray(estimates) > tolerance


def _portions(
    waiting: dict[int, np.ndarray], cheap: Sequence[int], groups, num_rows: int
) -> Iterator[tuple[tuple[int, ...], Any, int]]:
    """Yield layers, the rows of each to refine, and how many nodes to evaluate at once.

    Args:
      waiting: bool [B] of each layer.
      cheap: layers that go by themselves, all their rows at once.
      groups: (layers, steps at once) that fit into memory together.
      num_rows: B.
    """
    for group, steps_at_once in groups:
        for some in (
            tuple(layer for layer in group if layer in waiting and layer not in cheap),
            tuple(layer for layer in group if layer in waiting and layer in cheap),
        ):
            most = max((waiting[layer].sum() for layer in some), default=0)
            if not most:
                continue
            # Where most rows wait, all are integrated: none are gathered, which would bring the
            # rows of all devices together.
            if some[0] in cheap or num_rows < 2 * most or num_rows == 1:
                counted = np.stack([waiting[layer] for layer in some])
                yield some, (None, counted), min(steps_at_once, REFINED_STEPS)
                continue
            size = max(1, num_rows // REFINED_SHARE)
            # Fewer rows, more steps: as much at once.
            steps = min(REFINED_STEPS, steps_at_once * max(1, num_rows // size))
            for picked in _slots([waiting[layer] for layer in some], size):
                yield some, picked, steps


def _slots(waiting: Sequence[np.ndarray], size: int) -> Iterator[Picked]:
    """Yield `size` rows of each layer, until every one that waits had its turn."""
    indices = [np.flatnonzero(rows) for rows in waiting]
    for begin in range(0, max(map(len, indices)), size):
        rows = np.zeros((len(indices), size), np.int32)
        is_used = np.zeros((len(indices), size), bool)
        for number, of_layer in enumerate(indices):
            chosen = of_layer[begin : begin + size]
            rows[number, : len(chosen)], is_used[number, : len(chosen)] = chosen, True
        yield rows, is_used


class _State(NamedTuple):
    """The path integrals of a batch. Lists have an entry for each layer."""

    clean: CleanPass
    values: list[NodeValues]
    baseline: list[Array]
    result: integration.Result


@functools.partial(
    jax.jit, static_argnames=("config", "objective", "layers", "plans", "groups", "reduce")
)
def _start(
    params, batch, target, rules, head_mask, config, objective, layers, plans, groups, reduce
) -> _State:
    """Integrate all rows of all layers at the first level."""
    inputs = params, batch, target, rules, head_mask, config, objective
    first = integration.first_level(*inputs, layers, plans, groups)
    result, values = integration.first_results(
        params, config, layers, first, rules, plans, head_mask, objective, reduce
    )
    return _State(first.clean, values, first.baseline, result)


@functools.partial(
    jax.jit,
    static_argnames=("config", "objective", "layers", "positions", "steps_at_once", "reduce"),
    donate_argnames=("state",),
)
def _refine(
    params,
    state: _State,
    rules,
    picked,
    head_mask,
    nodes,
    level,
    config,
    objective,
    layers,
    positions,
    steps_at_once,
    reduce,
) -> _State:
    """Add nodes to some layers' rows, and take over their new integrals.

    Args:
      picked: (rows [layers, E], which of them count); or (None, which rows count [layers, B]).
      nodes: the number of the first, and of the one after the last.
    """
    clean, (rows, is_used) = state.clean, picked

    def of_rows(values: Any, number: int, axis: int = 0):
        """Return what belongs to the rows of a layer."""
        if rows is None:
            return values
        return jax.tree.map(lambda each: jnp.take(each, rows[number], axis=axis), values)

    hidden, mixed, token_masks, targets = (
        [
            of_rows(values[position] if isinstance(values, list) else values, number)
            for number, position in enumerate(positions)
        ]
        for values in (clean.hidden, clean.mixed, clean.token_mask, clean.target)
    )
    model = params, config, layers, hidden, mixed, token_masks, targets, head_mask, objective
    kept = [0] * len(layers)
    added = evaluate_nodes(*model, rules, kept, steps_at_once, *nodes)
    for number, (layer, position) in enumerate(zip(layers, positions, strict=True)):
        values = of_rows(state.values[position], number, axis=1).plus(added[number])
        layer_inputs = layer_params_of(params, config, layer), config, config.layer_kind(layer)
        probs, token_mask = of_rows(clean.probs[position], number), token_masks[number]
        inputs = hidden[number], probs, token_mask, mask_row(head_mask, config, layer)
        fine, coarse = (
            attribution_of(*layer_inputs, *inputs, values.sums[index])
            for index in (level, level - 1)
        )
        change = jnp.abs(fine - coarse).sum(axis=(1, 2, 3))
        examples = integration.Examples(
            of_rows(clean.logits, number),
            of_rows(clean.smooth, number),
            token_mask,
            of_rows(state.baseline[position], number),
        )
        estimate = integration.estimated_error(
            examples, rules[number], level, values, fine, change, objective
        )
        expected = of_rows(clean.score - state.result.baseline_score[:, position], number)
        output = integration.output_of(fine, token_mask, config, layer, reduce)
        delta = fine.sum(axis=(1, 2, 3)) - expected
        names = "attributions", "convergence_delta", "error_estimate"
        new = dict(zip(names, (output, delta, estimate), strict=True))
        places = None if rows is None else rows[number]
        state = _with_rows(state, position, places, is_used[number], values, new)
    return state


def _with_rows(
    state: _State, position: int, rows: Any, is_used: Array, values: NodeValues, new: dict
) -> _State:
    """Return the state with new values and results of some rows of a layer.

    Args:
      position: of the layer in the lists.
      rows: their numbers [E]; None: all.
      is_used: which of them to take over.
      values, new: theirs.
    """
    num_rows = len(state.clean.score)
    # What does not count is written to a row that is not there.
    places = jnp.where(is_used, jnp.arange(num_rows) if rows is None else rows, num_rows)
    all_values = list(state.values)
    all_values[position] = jax.tree.map(
        lambda old, of_rows: old.at[:, places].set(of_rows, mode="drop"),
        all_values[position],
        values,
    )
    result = state.result
    fields = {
        name: getattr(result, name).at[places, position].set(of_rows, mode="drop")
        for name, of_rows in new.items()
    }
    return state._replace(values=all_values, result=result._replace(**fields))
