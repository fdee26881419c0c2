"""The arguments of the public attribution functions, checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ..errors import InputError, as_index, root_cause
from ..models.config import EncoderConfig
from ..models.types import Array
from .objectives import Target
from .options import check_n_steps, check_objective_name
from .quadrature.levels import LayerRule, fast_rule, fixed_level, named_level
from .quadrature.rules import FAST_METHOD, METHODS, check_adaptive_method, checked_rule


def is_adaptive(n_steps: Any, method: Any, config: EncoderConfig, arrays) -> bool:
    """Return whether n_steps is "auto", or raise an InputError if that is not possible here."""
    if not isinstance(n_steps, str):
        return False
    check_n_steps(n_steps)
    check_adaptive_method(method)
    if config.dtype in ("bfloat16", "float16"):
        raise InputError(
            f"n_steps 'auto' needs float32: the rounding of {config.dtype} is larger than what is"
            " to be detected"
        )
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(arrays)):
        raise InputError(
            "n_steps 'auto' looks at values and cannot be traced: call it outside jit, vmap and"
            " grad"
        )
    return True


def resolved_objective(objective: str, config: EncoderConfig) -> str:
    """Return what of the logits an objective is, by its name in `objectives.objective_of`.

    Raises:
      InputError: there is no such objective, or the model does not have this output.
    """
    check_objective_name(objective)
    if config.num_labels == 1 and objective != "logit":
        what = "needs two classes" if objective == "contrast" else "is constant"
        raise InputError(f"objective {objective!r} {what} for a model with one output: use 'logit'")
    of_labels = {"prob": "sigmoid", "log_prob": "log_sigmoid"}
    return of_labels.get(objective, objective) if config.is_multi_label else objective


def checked_layers(layers: Sequence[int] | None, config: EncoderConfig) -> tuple[int, ...]:
    """Return the layers asked for, all if None, or raise an InputError."""
    if layers is None:
        return tuple(range(config.num_hidden_layers))
    try:
        indices = [as_index(layer) for layer in layers]
    except TypeError:  # a single number
        indices = []
    known = range(config.num_hidden_layers)
    checked = tuple(index for index in indices if index is not None and index in known)
    if not checked or len(checked) != len(indices):
        given = list(layers) if isinstance(layers, (tuple, range)) else layers
        raise InputError(
            f"layers must be some of 0 to {config.num_hidden_layers - 1}, as a list, not"
            f" {given!r:.80}"
        )
    return checked


def fixed_rules(
    method: str | tuple[Any, Any], n_steps: Any, layers: Sequence[int], config: EncoderConfig
) -> dict[int, LayerRule]:
    """Return the rule of each layer.

    Args:
      method: a name, or a caller's own nodes and weights [M].
      n_steps: M, or one number for each of `layers`.
      layers: as asked for.
      config: for the numbers of layers.
    """
    if not isinstance(method, str):
        try:
            nodes, weights = method
        except (TypeError, ValueError):
            raise InputError(
                f"method must be one of {', '.join(METHODS)}, or (nodes, weights), not"
                f" {method!r:.80}"
            ) from None
        return dict.fromkeys(layers, fixed_level(*checked_rule(nodes, weights)))
    if method == FAST_METHOD:
        return {layer: fast_rule(bool(config.num_queries(layer))) for layer in layers}
    counts = n_steps if isinstance(n_steps, (list, tuple)) else [n_steps] * len(layers)
    if len(counts) != len(layers):
        raise InputError(
            f"n_steps has {len(counts)} numbers for {len(layers)} layers: give one for each"
        )
    return {layer: named_level(method, count) for layer, count in zip(layers, counts, strict=True)}


def checked_target(
    target: Any, contrast: Any, objective: str, batch_size: int, config: EncoderConfig
) -> Target:
    """Return the classes to explain as the formula takes them.

    Args:
      target, contrast: as for `attribute_attention`.
      objective: as `resolved_objective` returns it.
      batch_size: B.
      config: for the number of classes.

    Raises:
      InputError: these are no classes, or the same ones; or there is nothing to contrast.
    """
    classes = target_array(target, batch_size, config)
    is_default = isinstance(contrast, str) and contrast == "runner_up"
    if objective != "contrast":
        if not is_default:
            raise InputError("contrast goes with objective 'contrast'")
        return classes
    other = None if is_default else target_array(contrast, batch_size, config, "contrast")
    # Looking into a device array would wait for it.
    are_on_host = not any(isinstance(values, (str, jax.Array)) for values in (target, contrast))
    if are_on_host and np.any(np.asarray(target) == np.asarray(contrast)):
        raise InputError("contrast is the target itself: name another class")
    return classes, other


def divided_target(result: Any, objective: str) -> dict[str, Any]:
    """Return the fields of a result, with the class explained and the one compared with apart."""
    fields = result._asdict()
    if objective == "contrast":
        fields |= {"target": result.target[:, 0], "contrast": result.target[:, 1]}
    return fields


def target_array(
    target: Any, batch_size: int, config: EncoderConfig, name: str = "target"
) -> Array | None:
    """Return the target classes, int32 [B]; None stands for the predicted class.

    Args:
      target: "predicted", a class index, or int [B].
      batch_size: B.
      config: for the number of classes.
      name: of the argument.

    Raises:
      InputError: it is none of these, or a host array names a class that does not exist.
    """
    if isinstance(target, str):
        default = "predicted" if name == "target" else "runner_up"
        if target != default:
            raise InputError(
                f"{name} must be {default!r}, a class index or int [B], not {target!r}: the index"
                " of a class is classifier.label2id[name]"
            )
        return None
    try:
        values = target if isinstance(target, jax.Array) else np.asarray(target)
    except Exception as error:  # whatever the library raises whose tensor it is
        raise InputError(f"{name} cannot be read as an array: {root_cause(error):.200}") from None
    if values.shape not in ((), (batch_size,)):
        raise InputError(
            f"{name} must be a class index or int [B] = [{batch_size}], not of shape"
            f" {list(values.shape)}"
        )
    if not jnp.issubdtype(values.dtype, jnp.integer):
        raise InputError(f"{name} must be an integer, not {target!r:.80}")
    # Looking into a device array would wait for it.
    if isinstance(values, np.ndarray) and not (
        values.min() >= 0 and values.max() < config.num_labels
    ):
        raise InputError(
            f"{name} {values.tolist()} is out of range: the model has classes 0 to"
            f" {config.num_labels - 1}"
        )
    return jnp.broadcast_to(jnp.asarray(values, jnp.int32), (batch_size,))


def checked_steps_at_once(size: int | None) -> int | None:
    """Return `step_batch_size` as an integer, None if it is None, or raise an InputError."""
    if size is None:
        return None
    index = as_index(size)
    if index is None or index < 1:
        raise InputError(f"step_batch_size must be an integer of at least 1, not {size!r}")
    return index
