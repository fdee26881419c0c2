"""The model applied: batches checked, then logits and attention probabilities.

Shapes: B examples, T tokens (padded), L layers, N heads, C classes, M head masks.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import InputError, as_index, root_cause
from .config import EncoderConfig
from .families import apply_encoder
from .head_masks import select_heads, split_head_mask, spread_heads
from .types import Array, Batch, HeadMask, Params


def model_inputs(batch: Batch) -> dict[str, Any]:
    """Return the arrays of a batch that the model reads."""
    return {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}


def complete_batch(batch: Batch, config: EncoderConfig) -> dict[str, Any]:
    """Return the arrays that the model reads, all int [B, T].

    A missing mask means ones, missing segments mean zeros. Host arrays (NumPy, nested lists,
    tensors of other libraries on the CPU) are looked at, and become NumPy int32. JAX arrays are
    not, since that would wait for them: there an id or a segment that the model does not have gives
    NaN for its example, and padding without a mask, or on the left, gives another number.

    Raises:
      InputError: `input_ids` is missing or not [B, T], a shape differs, T exceeds the position
        embeddings, or a host array has an id or segment that the model does not have, a mask that
        is not of 0 and 1, padding on the left, or at the end of a row without a mask.
    """
    if not isinstance(batch, Mapping):
        raise InputError(
            "batch must be a dictionary of arrays, as from Classifier.tokenize, not"
            f" {type(batch).__name__}"
        )
    if batch.get("input_ids") is None:
        raise InputError(
            "batch has no 'input_ids', only"
            f" {sorted(name for name, values in batch.items() if values is not None)}"
        )
    meaning = f"the model's vocab_size is {config.vocab_size}; is the tokenizer another model's?"
    ids = checked_tokens("input_ids", batch["input_ids"], config.vocab_size, meaning)
    shape = ids.shape
    if shape[1] > config.max_length:
        raise InputError(
            f"{shape[1]} tokens are more than the model's max_position_embeddings,"
            f" {config.max_length}"
        )
    completed = {
        "input_ids": ids,
        "attention_mask": np.ones(shape, np.int32),
        "token_type_ids": np.zeros(shape, np.int32),
    }
    for name, size, meaning in (
        ("attention_mask", 2, "1 for real tokens, 0 for padding"),
        (
            "token_type_ids",
            config.num_segments,
            f"the model's type_vocab_size is {config.num_segments}",
        ),
    ):
        if batch.get(name) is not None:
            completed[name] = checked_tokens(name, batch[name], size, meaning, shape)
    mask = completed["attention_mask"]
    if batch.get("attention_mask") is None:
        # At an end of a row; between other tokens it was put there on purpose, as in a baseline.
        ends = [0, shape[1] - 1]
        padding = (
            [] if isinstance(ids, jax.Array) else np.argwhere(ids[:, ends] == config.pad_token_id)
        )
        if len(padding):
            row, end = padding[0]
            raise InputError(
                f"input_ids[{row}, {ends[end]}] is padding (pad_token_id {config.pad_token_id}):"
                " pass attention_mask, 0 there"
            )
    elif not isinstance(mask, jax.Array):
        on_the_left = np.flatnonzero((mask[:, 0] == 0) & mask.any(axis=1))
        if on_the_left.size:
            raise InputError(
                f"attention_mask[{on_the_left[0]}, 0] is 0: the model reads [CLS] there; pad on the"
                " right (padding_side='right')"
            )
    return completed


def checked_tokens(
    name: str, values: Any, size: int, meaning: str, shape: tuple[int, ...] | None = None
) -> Any:
    """Return integers [B, T], checked to be from 0 to `size` − 1.

    A JAX array is returned as it is; anything else as NumPy int32.

    Args:
      name: of the argument.
      values: a JAX array, a NumPy array, a nested list, or whatever NumPy makes an array of.
      size: how many values there are.
      meaning: what the values mean, for the error message.
      shape: that of `input_ids`; None: any [B, T].

    Raises:
      InputError: these are no such integers.
    """
    if not isinstance(values, jax.Array):
        try:
            values = np.asarray(values)
        except Exception as error:  # whatever the library raises whose tensor it is
            raise InputError(
                f"{name} cannot be read as an array [B, T] of integers: {root_cause(error):.200}"
            ) from None
    if shape is None and (values.ndim != 2 or not values.size):
        raise InputError(
            f"{name} must be [B, T], with an example and a token at least, not of shape"
            f" {values.shape}"
        )
    if shape is not None and values.shape != shape:
        raise InputError(f"{name} has shape {values.shape}, input_ids {shape}")
    is_host_mask = name == "attention_mask" and not isinstance(values, jax.Array)
    if (
        is_host_mask
        and jnp.issubdtype(values.dtype, jnp.floating)
        and np.isin(values, (0, 1)).all()
    ):
        values = values.astype(np.int32)
    # Another float mask may be the additive one, 0 and −10000, which means the opposite; of a JAX
    # array nobody knows.
    if not jnp.issubdtype(values.dtype, jnp.integer) and not (
        values.dtype == bool and size == 2 and name.endswith("mask")
    ):
        raise InputError(f"{name} must be of integers, not {values.dtype}")
    if isinstance(values, jax.Array):
        return values
    wrong = np.argwhere((values < 0) | (values >= size))
    if wrong.size:
        where = ", ".join(map(str, wrong[0]))
        raise InputError(
            f"{name}[{where}] is {values[tuple(wrong[0])]}; it must be from 0 to {size - 1}:"
            f" {meaning}"
        )
    return values.astype(np.int32)


def forward(
    params: Params,
    batch: Batch,
    config: EncoderConfig,
    attention_probs: Mapping[int, Array] | None = None,
    head_mask: HeadMask | None = None,
) -> tuple[Array, tuple[Array, ...]]:
    """Classify a batch and return the attention probabilities that were used.

    Pure; jit-compiled when called plainly.

    Args:
      params: the parameter tree, as in `Classifier.params`.
      batch: `input_ids`, and unless they are all ones and zeros `attention_mask` and
        `token_type_ids`, int [B, T]. Other keys are ignored. Row 0 of T is [CLS]: padding is on the
        right. A 0 of the mask between real tokens hides that token; those after it keep their
        positions. Values of host arrays (NumPy, nested lists) are checked. Those of JAX arrays are
        not: an id or segment that the model does not have gives NaN there.
      config: the model's geometry (static).
      attention_probs: {layer: [B, N, T, T]} replaces the probabilities of those layers.
      head_mask: [L, N], 1 keeps a head, 0 zeroes its probabilities. A JAX array is traced: one
        compiled program serves every mask. With a NumPy array or nested list, each compiled anew,
        masked heads are not computed (but for the probabilities returned).

    Returns: logits [B, C], float32 or wider, and a tuple of L arrays [B, N, T, T]: the
      probabilities used, before the head mask. Heads that the model does not have
      (`config.kept_heads`) have probabilities 0.

    Raises:
      InputError: a shape does not fit, a layer does not exist, or a host array has values that
        cannot be right.
    """
    batch = complete_batch(batch, config)
    attention_probs = _checked_probs(attention_probs, np.shape(batch["input_ids"]), config)
    kept_params, kept_config, traced_mask = split_head_mask(params, config, head_mask)
    others = None, None
    if kept_config != config:  # the masked heads, whose probabilities are returned too
        others = select_heads(params, config, np.asarray(head_mask) == 0)
    return _forward(kept_params, batch, kept_config, attention_probs, traced_mask, *others)


def _checked_probs(
    attention_probs: Mapping[int, Any] | None, shape: tuple[int, int], config: EncoderConfig
) -> dict[int, Any]:
    """Return the probabilities given for some layers as arrays, or raise an InputError.

    `shape` is [B, T].
    """
    if attention_probs is not None and not isinstance(attention_probs, Mapping):
        raise InputError(
            f"attention_probs must be {{layer: [B, N, T, T]}}, not {type(attention_probs).__name__}"
        )
    expected = (shape[0], config.num_attention_heads, shape[1], shape[1])
    checked = {}
    for layer, probs in (attention_probs or {}).items():
        index = as_index(layer)
        if index not in range(config.num_hidden_layers):
            raise InputError(
                f"attention_probs names layer {layer!r}; the model has layers 0 to"
                f" {config.num_hidden_layers - 1}"
            )
        try:
            probs = probs if isinstance(probs, jax.Array) else np.asarray(probs)
        except Exception as error:  # whatever the library raises whose tensor it is
            raise InputError(
                f"attention_probs[{layer}] cannot be read as an array: {root_cause(error):.200}"
            ) from None
        if probs.shape != expected:
            raise InputError(
                f"attention_probs[{layer}] must be [B, N, T, T] = {list(expected)}, not"
                f" {list(probs.shape)}"
            )
        if not jnp.issubdtype(probs.dtype, jnp.number):
            raise InputError(f"attention_probs[{layer}] must be of numbers, not {probs.dtype}")
        checked[index] = probs
    return checked


@functools.partial(jax.jit, static_argnames=("config", "masked_config"))
def _forward(params, batch, config, attention_probs, traced_mask, masked_params, masked_config):
    """Return what `forward` does, with `masked_config` the model of the masked heads alone."""
    given = {
        layer: probs[:, np.asarray(config.heads_of(layer), int)]
        for layer, probs in attention_probs.items()
    }
    logits, used, inputs = apply_encoder(params, config, batch, given, traced_mask)
    used = [spread_heads(probs, config, layer) for layer, probs in enumerate(used)]
    # The masked heads see the same input, and their probabilities fill the gaps.
    key_mask = batch["attention_mask"] != 0
    for layer, hidden in enumerate(inputs if masked_config else ()):
        if masked_config.heads_of(layer):
            probs = apply_encoder(
                masked_params, masked_config, layer, hidden, key_mask, method="layer_probs"
            )
            used[layer] += spread_heads(probs, masked_config, layer)
    return logits, tuple(attention_probs.get(layer, probs) for layer, probs in enumerate(used))


@functools.partial(jax.jit, static_argnames=("config",))
def predict_logits(params, batch, config, head_mask=None) -> Array:
    """Return the logits [B, C] alone, without computing rows that no logit depends on.

    `head_mask` is traced.
    """
    return apply_encoder(params, config, batch, head_mask=head_mask, only_read_rows=True)[0]


@functools.partial(jax.jit, static_argnames=("config",))
def predict_logits_of_masks(params, batch, config, head_masks) -> Array:
    """Return the logits [M, B, C] under each of `head_masks` [M, L, N].

    What no mask changes is computed once.
    """
    return jax.vmap(functools.partial(predict_logits, params, batch, config))(head_masks)
