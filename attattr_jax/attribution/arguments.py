"""The arguments of the public attribution functions, checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import InputError, as_index, root_cause
from ..models.config import EncoderConfig
from ..models.types import Array
from . import adaptive, formula
from .options import OBJECTIVES
from .quadrature import METHODS, check_adaptive_method, checked_rule, quadrature


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


def is_adaptive(n_steps: int | str, method: Any, config: EncoderConfig, arrays) -> bool:
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


def check_objective(objective: str, config: EncoderConfig) -> None:
    """Raise an InputError unless the model has this output."""
    if objective not in OBJECTIVES:
        raise InputError(
            f"objective {objective!r} is unknown; choose one of {', '.join(OBJECTIVES)}"
        )
    if config.num_labels == 1 and objective != "logit":
        raise InputError(
            f"objective {objective!r} is constant for a model with one output: use 'logit'"
        )


def checked_layers(layers: Sequence[int] | None, config: EncoderConfig) -> tuple[int, ...]:
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


def fixed_rule(method: str | tuple[Any, Any], n_steps: int) -> formula.Rule:
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


def target_array(target: str | int | Array, batch_size: int, config: EncoderConfig) -> Array | None:
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


def checked_steps_at_once(size: int | None) -> int | None:
    if size is None:
        return None
    index = as_index(size)
    if index is None or index < 1:
        raise InputError(f"step_batch_size must be an integer of at least 1, not {size!r}")
    return index
