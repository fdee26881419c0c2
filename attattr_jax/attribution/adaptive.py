"""Integration with as many nodes as each example and layer needs: a level above the pure functions,
since it looks at values.

The levels are those of `integration.nested_rules`, 7, 11, 15, 31 and 63 nodes. All examples and
layers are integrated at the first; those that do not meet the tolerance go on to the next, which
adds nodes and repeats none: the sums for the weights of all levels are kept from the start. The
tolerance is met twice: by |convergence delta| / Σ|attributions|, and by the change from the level
before, Σ|change| / Σ|attributions|. Both are estimates of the error, not bounds; for smooth
integrands the change is a large overestimate.

Shapes: B examples, T tokens (padded), L layers, N heads, D hidden size, S levels, E examples that
are refined at once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ..models.head_masks import mask_row
from ..models.types import Array
from . import formula
from .quadrature import nested_rules

REFINED_STEPS = 4  # the least that a level adds
ROUNDINGS = 16  # of a float, that add up in F: up to 6 were seen where nothing is attributed
FIRST_LEVEL = 1  # of `nested_rules`: its 5 nodes only give the change of the 7


def levels_within(max_steps: int) -> tuple[int, ...]:
    """Return the numbers of nodes of the levels that `max_steps` allows, the first of which only
    gives the first change.
    """
    return tuple(size for size in nested_rules().sizes if size <= max_steps)


def refine(
    keys: Sequence[Hashable],
    num_rows: int,
    sizes: Sequence[int],
    integrate: Callable[[dict[Hashable, np.ndarray], int, int], None],
    assess: Callable[[Hashable, int, np.ndarray], np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Go from level to level until every (row, key) is good enough, or the levels end.

    Args:
      keys: what is integrated for each of `num_rows` rows: layers.
      sizes: nodes of each level.
      integrate: (pending rows of each key, first node, last node + 1): add these nodes.
      assess: (key, level, pending) -> bool [rows], good enough.

    Returns:
      n_steps int32 and converged bool, [rows, keys].
    """
    n_steps = np.full((num_rows, len(keys)), sizes[FIRST_LEVEL], np.int32)
    pending = {key: np.ones(num_rows, bool) for key in keys}
    done = 0
    for level in range(FIRST_LEVEL, len(sizes)):
        waiting = {key: rows for key, rows in pending.items() if rows.any()}
        if not waiting:
            break
        integrate(waiting, done, sizes[level])
        done = sizes[level]
        for at, (key, rows) in enumerate(pending.items()):
            if rows.any():
                n_steps[rows, at] = sizes[level]
                pending[key] = rows & ~np.asarray(assess(key, level, rows))
    return n_steps, ~np.stack(list(pending.values()), axis=1)


def attribute_adaptively(
    params,
    batch,
    target,
    head_mask,
    config,
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
    rule = _levels(sizes)
    num_rows = np.shape(batch["input_ids"])[0]
    last = config.num_hidden_layers - 1
    static = {"config": config, "objective": objective}
    clean, baseline = _start(params, batch, target, head_mask, layers=layers, **static)
    at = {layer: index for index, layer in enumerate(layers)}
    sums = {
        layer: jnp.zeros((len(sizes), *clean.mixed[at[layer]].shape), clean.mixed[0].dtype)
        for layer in layers
    }
    found = {
        layer: (
            jnp.zeros(clean.probs[at[layer]].shape, clean.mixed[0].dtype),
            jnp.zeros_like(clean.score),
        )
        for layer in layers
    }

    def integrate(waiting, start, stop):
        for group, steps_at_once in groups:
            of_group = {layer: waiting.get(layer, np.zeros(num_rows, bool)) for layer in group}
            num_slots = max(1, num_rows // 8)
            most = max((rows.sum() for layer, rows in of_group.items() if layer != last), default=0)
            everything = start == 0 or 1 < num_rows < 2 * most
            parts = [(group, None)] if everything else _slots(of_group, last, num_slots)
            for part, picked in parts:
                which = [at[layer] for layer in part]
                rows = (
                    [clean.hidden[i] for i in which],
                    [clean.mixed[i] for i in which],
                    clean.real,
                    clean.target,
                )
                before = [sums[layer] for layer in part]
                # Fewer rows, more steps: as much at once.
                steps = (
                    steps_at_once
                    if picked is None
                    else min(REFINED_STEPS, steps_at_once * max(1, num_rows // picked[0].shape[1]))
                )
                new = _integrate(
                    params,
                    *rows,
                    before,
                    picked,
                    head_mask,
                    rule,
                    start,
                    stop,
                    layers=part,
                    steps_at_once=steps,
                    **static,
                )
                sums.update(zip(part, new, strict=True))

    def assess(layer, level, rows):
        i = at[layer]
        arrays = (
            clean.hidden[i],
            clean.probs[i],
            sums[layer],
            clean.logits,
            clean.score,
            baseline[:, i],
            clean.real,
        )
        arrays += mask_row(head_mask, config, layer), tuple(found[layer]), rows
        *found[layer], good = _assess(
            params[f"layers_{layer}"], *arrays, level, tolerance, **static
        )
        return good

    n_steps, converged = refine(layers, num_rows, sizes, integrate, assess)
    attributions = [found[layer][0] for layer in layers]
    result = _assemble(clean, attributions, baseline, config=config, layers=layers, reduce=reduce)
    return result, n_steps, converged, jnp.stack([found[layer][1] for layer in layers], axis=1)


def _levels(sizes: Sequence[int]) -> formula.Rule:
    """Return the nodes and weights of the levels with these sizes."""
    rules = nested_rules()
    dtype = jnp.result_type(float)
    return rules.nodes[: sizes[-1]].astype(dtype), rules.weights[: len(sizes), : sizes[-1]].astype(
        dtype
    )


def _slots(waiting: dict[int, np.ndarray], last: int, num_slots: int):
    """Yield (layers, (rows int [layers, E], used bool [layers, E])) until every waiting row of
    every layer had a slot.

    The model's last layer, of which only one row is computed, goes by itself: it is the one that
    most often needs more nodes.
    """
    num_rows = len(next(iter(waiting.values())))
    for part, slots in (
        (tuple(key for key in waiting if key != last), num_slots),
        (tuple(key for key in waiting if key == last), num_rows),
    ):
        listed = [np.flatnonzero(waiting[layer]) for layer in part]
        for begin in range(0, max(map(len, listed), default=0), slots):
            rows, used = np.zeros((len(part), slots), np.int32), np.zeros((len(part), slots), bool)
            for number, each in enumerate(listed):
                chosen = each[begin : begin + slots]
                rows[number, : len(chosen)], used[number, : len(chosen)] = chosen, True
            yield part, (rows, used)


@functools.partial(jax.jit, static_argnames=("config", "objective", "layers"))
def _start(params, batch, target, head_mask, config, objective, layers):
    clean = formula.clean_pass(params, batch, target, head_mask, config, objective, layers)
    return clean, formula.baseline_scores(params, config, layers, clean, head_mask, objective)


@functools.partial(
    jax.jit,
    static_argnames=("config", "objective", "layers", "steps_at_once"),
    donate_argnames=("sums",),
)
def _integrate(
    params,
    hidden,
    mixed,
    real,
    target,
    sums,
    picked,
    head_mask,
    rule,
    start,
    stop,
    config,
    objective,
    layers,
    steps_at_once,
) -> list[Array]:
    """Add the nodes from `start` to `stop` to the sums [S, B, Q, D] of each layer, of all rows, or
    of the rows picked for each layer.
    """
    real, targets = [real] * len(layers), [target] * len(layers)
    if picked is not None:
        hidden, mixed, real, targets = (
            [values[rows] for values, rows in zip(each, picked[0], strict=True)]
            for each in (hidden, mixed, real, targets)
        )
    added = formula.context_gradients(
        params,
        config,
        layers,
        hidden,
        mixed,
        real,
        head_mask,
        targets,
        objective,
        rule,
        steps_at_once,
        start,
        stop,
    )
    if picked is None:
        return jax.tree.map(jnp.add, sums, added)
    return [
        total.at[:, rows].add(jnp.where(used[None, :, None, None], new, 0))
        for total, new, rows, used in zip(sums, added, *picked, strict=True)
    ]


@functools.partial(jax.jit, static_argnames=("config", "objective"), donate_argnames=("found",))
def _assess(
    layer_params,
    hidden,
    probs,
    sums,
    logits,
    score,
    baseline,
    real,
    head_mask,
    found,
    pending,
    level,
    tolerance,
    config,
    objective,
):
    """Return the attributions [B, N, T, T] and relative changes [B], new where a row was pending,
    and which rows are good enough.
    """
    attributions, before = (
        formula.attribution_of(layer_params, config, hidden, probs, real, head_mask, sums[at])
        for at in (level, level - 1)
    )
    magnitude = jnp.sum(jnp.abs(attributions), axis=(1, 2, 3))
    delta = jnp.sum(attributions, axis=(1, 2, 3)) - (score - baseline)
    change = jnp.sum(jnp.abs(attributions - before), axis=(1, 2, 3))
    good = _good(
        magnitude, delta, change, _rounding(logits, score, baseline, objective), real, tolerance
    )
    change = change / jnp.where(magnitude == 0, 1, magnitude)
    kept, kept_change = found
    return (
        jnp.where(pending[:, None, None, None], attributions, kept),
        jnp.where(pending, change, kept_change),
        good,
    )


def _rounding(logits, score, baseline, objective) -> Array:
    """Return how large a convergence delta [B] may come from rounding alone: F(A) and F(0) are not
    known better.
    """
    scales = [formula.rounding_scale(logits, outputs, objective) for outputs in (score, baseline)]
    return ROUNDINGS * jnp.finfo(score.dtype).eps * jnp.maximum(*scales)


def _good(magnitude, delta, change, rounding, real, tolerance) -> Array:
    """Return bool [B]: both within the tolerance. Rows without a real token, which fill up a batch,
    are good.
    """
    good = (jnp.abs(delta) <= jnp.maximum(tolerance * magnitude, rounding)) & (
        change <= tolerance * magnitude
    )
    return good | ~jnp.any(real, axis=1)


@functools.partial(jax.jit, static_argnames=("config", "layers", "reduce"))
def _assemble(clean, attributions, baseline, config, layers, reduce) -> formula.Result:
    return formula.assemble(config, layers, clean, attributions, baseline, reduce)
