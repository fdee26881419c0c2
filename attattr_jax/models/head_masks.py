"""Head masks and models without some of their heads: one rule for both.

A static mask (NumPy, nested lists) is applied by slicing the masked heads out of the parameters, so
that they are not computed. A traced mask (a JAX array) is multiplied into the context, so that one
compiled program serves every mask.

A layer of a model whose heads were removed (`config.kept_heads`) has fewer heads than N. Arrays
inside the model and the attribution contain only the remaining heads; what the public functions
take or return has all N, in the numbering of the whole model.

Shapes: L layers, N heads, D hidden size, K head size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import InputError
from .config import EncoderConfig
from .types import Array, HeadMask, Params


def mask_row(head_mask: Any, config: EncoderConfig, layer: int) -> Any:
    """Return the part of a head mask for the remaining heads of a layer; None if there is no mask.

    Args:
      head_mask: [L, N], or a factor for every row: a list over layers of [B, Q, N].
      config: the geometry.
      layer: its number.
    """
    if head_mask is None:
        return None
    row = head_mask[layer]
    return row if config.kept_heads is None else row[..., np.asarray(config.heads_of(layer), int)]


def spread_heads(values: Array, config: EncoderConfig, layer: int) -> Array:
    """Return `values` [B, remaining heads, ...] as [B, N, ...], zeros for the removed heads."""
    kept = config.heads_of(layer)
    if len(kept) == config.num_attention_heads:
        return values
    full = jnp.zeros((values.shape[0], config.num_attention_heads, *values.shape[2:]), values.dtype)
    return full.at[:, np.asarray(kept, int)].set(values)


def select_heads(
    params: Params, config: EncoderConfig, head_mask: Any
) -> tuple[Params, EncoderConfig]:
    """Return the parameters and geometry of the same model without the masked heads.

    Their columns of query, key and value and their rows of the output projection are sliced out;
    its bias stays. NumPy stays NumPy, JAX arrays may be traced.

    Args:
      params, config: of a model, some of whose heads may be gone already.
      head_mask: static [L, N]. A factor other than 0 and 1 is multiplied into the output
        projection.

    Raises:
      InputError: layers share their parameters.
    """
    factors = tuple(tuple(map(float, row)) for row in np.asarray(head_mask, np.float32))
    kept_heads = [
        tuple(head for head in config.heads_of(layer) if row[head])
        for layer, row in enumerate(factors)
    ]
    changed = [
        layer
        for layer, row in enumerate(factors)
        if any(row[head] != 1 for head in config.heads_of(layer))
    ]
    if changed:
        check_removable(config)
    names = ("query", "key", "value", "attention_output")
    old = {
        layer: {name: params[config.layer_name(layer)][name] for name in names} for layer in changed
    }
    is_numpy = all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(old))
    new = (_cut_heads if is_numpy else _compiled_cut_heads)(old, config=config, factors=factors)
    layer_names = {layer: config.layer_name(layer) for layer in changed}
    cut = {layer_names[layer]: {**params[layer_names[layer]], **new[layer]} for layer in changed}
    return {**params, **cut}, dataclasses.replace(config, kept_heads=tuple(kept_heads))


def check_removable(config: EncoderConfig) -> None:
    """Raise an InputError where a head cannot be cut out of one layer alone."""
    if config.shares_layers:
        raise InputError(
            f"heads cannot be cut out of {config.title}, whose layers share their parameters: mask"
            " them"
        )


def _cut_heads(
    layers: Mapping[int, Params], config: EncoderConfig, factors: tuple[tuple[float, ...], ...]
) -> dict[int, Params]:
    """Return the attention parameters of `layers` without the heads whose factor is 0.

    The output projection is multiplied by the factors of the remaining heads.
    """
    cut = {}
    for layer, old in layers.items():
        present = np.asarray([factors[layer][head] for head in config.heads_of(layer)], np.float32)
        kept = np.flatnonzero(present)
        by_head = (len(present), config.head_size)
        width = len(kept) * config.head_size
        cut[layer] = {}
        # Query, key, value: columns [N·K] of the kernel, entries of the bias.
        for part in ("query", "key", "value"):
            kernel = old[part]["kernel"].reshape(config.hidden_size, *by_head)[:, kept]
            cut[layer][part] = {"kernel": kernel.reshape(config.hidden_size, width)}
            if "bias" in old[part]:
                cut[layer][part]["bias"] = old[part]["bias"].reshape(by_head)[kept].reshape(width)
        # Output projection: rows [N·K].
        output = old["attention_output"]["kernel"].reshape(*by_head, config.hidden_size)[kept]
        if (present[kept] != 1).any():
            output = output * present[kept][:, None, None].astype(output.dtype)
        cut[layer]["attention_output"] = {"kernel": output.reshape(width, config.hidden_size)}
    return cut


_compiled_cut_heads = jax.jit(_cut_heads, static_argnames=("config", "factors"))


def split_head_mask(
    params: Params, config: EncoderConfig, head_mask: HeadMask | None
) -> tuple[Params, EncoderConfig, Array | None]:
    """Return (parameters, geometry, traced mask) that stand for a model under a head mask.

    A JAX array is traced: one compiled program serves every mask. A NumPy array or nested sequence
    is static: its heads are sliced out, and not computed, unless layers share their parameters.

    Raises:
      InputError: the mask is not a finite [L, N].
    """
    if head_mask is None:
        return params, config, None
    if isinstance(head_mask, jax.Array):
        _check_mask_shape("head_mask", head_mask, config)
        return params, config, head_mask
    mask = static_mask("head_mask", head_mask, config)
    if config.shares_layers:  # nothing can be sliced out of one layer alone
        return params, config, jnp.asarray(mask)
    return *select_heads(params, config, mask), None


def static_mask(name: str, mask: Any, config: EncoderConfig) -> np.ndarray:
    """Return a mask whose values are known, as float32 [L, N].

    Raises:
      InputError: it is not a finite [L, N] of numbers; the message begins with `name`.
    """
    try:
        mask = np.asarray(mask)
    except ValueError:  # rows of different lengths
        mask = np.asarray(None)
    _check_mask_shape(name, mask, config)
    with np.errstate(over="ignore"):
        values = (
            mask.astype(np.float32) if mask.dtype.kind in "biuf" else np.full(mask.shape, np.nan)
        )
    if not np.isfinite(values).all():
        raise InputError(f"{name} must be of finite numbers: 1 keeps a head, 0 masks it")
    return values


def _check_mask_shape(name: str, mask: Any, config: EncoderConfig) -> None:
    expected = (config.num_hidden_layers, config.num_attention_heads)
    if np.shape(mask) != expected:
        raise InputError(f"{name} must be [L, N] = {list(expected)}, not {list(np.shape(mask))}")


def present_heads(config: EncoderConfig) -> np.ndarray:
    """Return the mask int32 [L, N] of the heads that a model has."""
    mask = np.zeros((config.num_hidden_layers, config.num_attention_heads), np.int32)
    for layer, row in enumerate(mask):
        row[list(config.heads_of(layer))] = 1
    return mask
