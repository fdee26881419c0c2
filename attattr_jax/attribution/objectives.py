"""F: the number that is attributed, as a function of the logits.

Every F here is φ(z): z is a number of the logits in which the model is smooth, φ a function known
in closed form. Integrals over a path are computed from the gradients of z, since ∂F = φ′(z) ∂z.

Shapes: B examples, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..models.types import Array

# F of logits, before the class is picked. "contrast" is a difference of two classes' logits.
_OUTPUTS: dict[str, Callable[[Array], Array]] = {
    "prob": jax.nn.softmax,
    "log_prob": jax.nn.log_softmax,
    "sigmoid": jax.nn.sigmoid,
    "log_sigmoid": jax.nn.log_sigmoid,
    "logit": lambda logits: logits,
    "contrast": lambda logits: logits,
}


def objective_of(logits: Array, target: Array, objective: str) -> Array:
    """Return F [B] of logits [B, C]; NaN for a class that the model does not have.

    Args:
      logits: [B, C].
      target: the class int32 [B]; for "contrast" also the one it is compared with, [B, 2].
      objective: one of `_OUTPUTS`.
    """
    return _picked(_OUTPUTS[objective](logits), target, objective)


def _picked(outputs: Array, target: Array, objective: str) -> Array:
    """Return the outputs [B] of the target classes."""
    # Beyond the last class jnp gives NaN, but a negative one would count from the end.
    classes = jnp.where(target < 0, outputs.shape[-1], target).reshape(len(target), -1)
    picked = jnp.take_along_axis(outputs, classes, axis=-1)
    return picked[:, 0] - picked[:, 1] if objective == "contrast" else picked[:, 0]


class Link(NamedTuple):
    """What leads from z to F."""

    value: Callable[[Array], Array]  # φ(z)
    slope: Callable[[Array], Array]  # φ′(z)
    difference: Callable[[Array, Array], Array]  # φ(a) − φ(b), without cancellation


def _sigmoid_slope(z: Array) -> Array:
    return jax.nn.sigmoid(z) * jax.nn.sigmoid(-z)


def _sigmoid_difference(a: Array, b: Array) -> Array:
    return (
        -jnp.expm1(-jnp.abs(a - b))
        * jnp.sign(a - b)
        * (jax.nn.sigmoid(jnp.maximum(a, b)) * jax.nn.sigmoid(-jnp.minimum(a, b)))
    )


def _log_sigmoid_difference(a: Array, b: Array) -> Array:
    return jax.nn.softplus(-b) - jax.nn.softplus(-a)


_SIGMOID = Link(jax.nn.sigmoid, _sigmoid_slope, _sigmoid_difference)
_LOG_SIGMOID = Link(jax.nn.log_sigmoid, lambda z: jax.nn.sigmoid(-z), _log_sigmoid_difference)
_IDENTITY = Link(lambda z: z, jnp.ones_like, lambda a, b: a - b)

# φ of each objective: a softmax probability is the sigmoid of the class's log-odds.
LINKS: dict[str, Link] = {
    "prob": _SIGMOID,
    "log_prob": _LOG_SIGMOID,
    "sigmoid": _SIGMOID,
    "log_sigmoid": _LOG_SIGMOID,
    "logit": _IDENTITY,
    "contrast": _IDENTITY,
}


def smooth_output(logits: Array, target: Array, objective: str) -> Array:
    """Return z [B]: of a softmax the log-odds of the class, else the logit or their difference.

    Arguments are those of `objective_of`.
    """
    picked = _picked(logits, target, objective)
    if objective not in ("prob", "log_prob"):
        return picked
    is_target = jnp.arange(logits.shape[-1])[None] == target[:, None]
    others = jnp.where(is_target, -jnp.inf, logits)
    return picked - jax.nn.logsumexp(others, axis=-1)


# A class int32 [B], or None for the predicted one; of "contrast" a pair of them, of which None is
# the most probable other class.
Target = Array | None | tuple[Array | None, Array | None]


def resolved_target(logits: Array, target: Target, objective: str) -> Array:
    """Return the class to explain, int32 [B]; for "contrast" with the one compared, [B, 2]."""
    chosen, other = target if isinstance(target, tuple) else (target, None)
    if chosen is None:
        chosen = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    if objective != "contrast":
        return chosen
    if other is None:
        is_chosen = jnp.arange(logits.shape[-1])[None] == chosen[:, None]
        other = jnp.argmax(jnp.where(is_chosen, -jnp.inf, logits), axis=-1).astype(jnp.int32)
    return jnp.stack([chosen, other], axis=1)
