"""BERT for sequence classification in Flax Linen, with the attention probabilities as an explicit
argument.

The only file that knows Linen. Everything is a pure function of its arguments; intermediate results
that others need (attention probabilities, the hidden states between layers) are return values.

Shapes: B examples, T tokens (padded), L layers, N heads, D hidden size, K head size (D = N·K), C
classes, Q query rows (T, or 1 where only the [CLS] row is needed).

A model whose heads were removed (`config.kept_heads`) has fewer than N in some layers. Inside this
file and the attribution engine the head axis of a layer has those that are there; masks and
everything that the public functions take or return have all N, in the numbering of the whole model.

`BertLayer` is the one place where attention exists. It is cut in three so that attribution can
enter between the pieces:

    probs = layer.probs(hidden)            A = softmax(Q Kᵀ / √K)                           [B, N,
    Q, T] mixed = layer.mix(hidden, probs)       concat_n(m_n A_n V_n) W_o, linear in A
    [B, Q, D] hidden = layer.finish(hidden, mixed)   residual, LayerNorm, feed-forward
    [B, Q, D]
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from .config import BertConfig
from .errors import InputError, as_index, root_cause

Array = jax.Array
Params = Mapping[str, Any]
Batch = Mapping[str, Any]
# 1 keeps a head, 0 masks it, [L, N]. A JAX array is traced; of anything else the heads that are
# masked are not computed.
HeadMask = Any


# Recomputed in the backward pass: what would be kept otherwise is most of the memory of an
# attribution.
_ACTIVATIONS = {
    "gelu": jax.checkpoint(functools.partial(nn.gelu, approximate=False)),
    "gelu_new": jax.checkpoint(functools.partial(nn.gelu, approximate=True)),
    "gelu_pytorch_tanh": jax.checkpoint(functools.partial(nn.gelu, approximate=True)),
    "relu": nn.relu,
}
_softmax = jax.checkpoint(nn.softmax)


def _dense(features: int, config: BertConfig, use_bias: bool = True) -> nn.Dense:
    return nn.Dense(
        features,
        use_bias=use_bias,
        dtype=config.dtype,
        kernel_init=nn.initializers.normal(config.initializer_range),
    )


def _embed(size: int, config: BertConfig) -> nn.Embed:
    return nn.Embed(
        size,
        config.hidden_size,
        dtype=config.dtype,
        embedding_init=nn.initializers.normal(config.initializer_range),
    )


def _look_up(table: nn.Embed, ids: Array) -> Array:
    """Return rows [B, T, D] of an embedding, NaN for an id that it does not have: `nn.Embed` counts
    a negative one from the end.
    """
    (embedding,) = table.promote_dtype(table.embedding, dtype=table.dtype, inexact=False)
    return embedding.at[ids].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


def _layer_norm(config: BertConfig) -> nn.LayerNorm:
    # The fast variance, E[x²] − E[x]², loses digits that the golden numbers show.
    return nn.LayerNorm(epsilon=config.layer_norm_eps, dtype=config.dtype, use_fast_variance=False)


class BertLayer(nn.Module):
    """One Transformer layer, with `num_heads` heads (N below)."""

    config: BertConfig
    num_heads: int

    def setup(self):
        config = self.config
        width = self.num_heads * config.head_size
        self.query = _dense(width, config)
        self.key = _dense(width, config)
        self.value = _dense(width, config)
        # The bias stands apart, so that `mix` is linear in the probabilities.
        self.attention_output = _dense(config.hidden_size, config, use_bias=False)
        self.attention_output_bias = self.param(
            "attention_output_bias", nn.initializers.zeros, (config.hidden_size,)
        )
        self.attention_norm = _layer_norm(config)
        self.intermediate = _dense(config.intermediate_size, config)
        self.output = _dense(config.hidden_size, config)
        self.output_norm = _layer_norm(config)
        self.probs_dropout = nn.Dropout(config.attention_probs_dropout_prob)
        self.hidden_dropout = nn.Dropout(config.hidden_dropout_prob)

    def _split_heads(self, projected: Array) -> Array:
        return projected.reshape(*projected.shape[:2], self.num_heads, self.config.head_size)

    def probs(self, hidden: Array, key_mask: Array, num_queries: int | None = None) -> Array:
        """Return the attention probabilities [B, N, Q, T] of the first Q rows; 0 where `key_mask`
        [B, T] is False.
        """
        query = self._split_heads(self.query(hidden[:, :num_queries]))
        key = self._split_heads(self.key(hidden))
        scores = jnp.einsum("bqnk,btnk->bnqt", query, key) / np.sqrt(self.config.head_size).astype(
            query.dtype
        )
        # At least float32 for the softmax, also when the rest is computed in bfloat16.
        scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
        # A finite fill: a row without any real key, as padded examples have, stays free of NaN.
        scores = jnp.where(key_mask[:, None, None, :], scores, jnp.finfo(scores.dtype).min)
        return _softmax(scores).astype(query.dtype)

    def mix(
        self, hidden: Array, probs: Array, head_mask: Array | None = None, train: bool = False
    ) -> Array:
        """Return the projected context [B, Q, D] of `probs` [B, N, Q, T], without its bias: linear
        in `probs`.

        `head_mask` is [N], or [B, Q, N], a factor for every row.
        """
        value = self._split_heads(self.value(hidden))
        probs = self.probs_dropout(probs, deterministic=not train)
        context = jnp.einsum("bnqt,btnk->bqnk", probs.astype(value.dtype), value)
        if head_mask is not None:  # the same as masking the probabilities, on a smaller array
            factors = head_mask if head_mask.ndim == 3 else head_mask[None, None, :]
            context = context * factors.astype(context.dtype)[..., None]
        return self.attention_output(
            context.reshape(*context.shape[:2], self.num_heads * self.config.head_size)
        )

    def finish(self, hidden: Array, mixed: Array, train: bool = False) -> Array:
        """Return the layer's output [B, Q, D] from its input [B, T, D] and `mixed` [B, Q, D]."""
        attended = mixed + self.attention_output_bias.astype(mixed.dtype)[None, None, :]
        attended = self.hidden_dropout(attended, deterministic=not train)
        hidden = self.attention_norm(hidden[:, : mixed.shape[1]] + attended)
        transformed = self.output(_ACTIVATIONS[self.config.hidden_act](self.intermediate(hidden)))
        return self.output_norm(hidden + self.hidden_dropout(transformed, deterministic=not train))


class BertClassifier(nn.Module):
    """BERT with pooler and classification head. Inputs are [B, T] arrays named as the tokenizer
    names them.
    """

    config: BertConfig

    def setup(self):
        config = self.config
        self.word_embeddings = _embed(config.vocab_size, config)
        self.position_embeddings = _embed(config.max_position_embeddings, config)
        self.token_type_embeddings = _embed(config.type_vocab_size, config)
        self.embeddings_norm = _layer_norm(config)
        self.layers = [
            BertLayer(config, len(config.heads_of(index)))
            for index in range(config.num_hidden_layers)
        ]
        self.pooler = _dense(config.hidden_size, config)
        self.classifier = _dense(config.num_labels, config)
        self.hidden_dropout = nn.Dropout(config.hidden_dropout_prob)
        rate = config.classifier_dropout
        self.classifier_dropout = nn.Dropout(config.hidden_dropout_prob if rate is None else rate)

    def embed_words(self, input_ids: Array) -> Array:
        """Return the word embeddings [B, T, D]."""
        return _look_up(self.word_embeddings, input_ids)

    def embed(self, words: Array, token_type_ids: Array, train: bool = False) -> Array:
        """Return the first layer's input [B, T, D] from word embeddings [B, T, D]."""
        positions = self.position_embeddings(jnp.arange(words.shape[1]))[None]
        hidden = self.embeddings_norm(
            words + positions + _look_up(self.token_type_embeddings, token_type_ids)
        )
        return self.hidden_dropout(hidden, deterministic=not train)

    def encode(
        self,
        hidden: Array,
        key_mask: Array,
        attention_probs: Mapping[int, Array] | None = None,
        head_mask: Array | None = None,
        first_layer: int = 0,
        cls_only: bool = False,
        train: bool = False,
    ) -> tuple[Array, tuple[Array, ...], tuple[Array, ...]]:
        """Run the layers from `first_layer` on.

        With `cls_only` the last layer is computed for its [CLS] row alone, the only one the
        classifier reads.

        Returns: hidden [B, Q, D], the probabilities used [B, N, Q, T] and the input [B, T, D] of
          every layer run.
        """
        used, inputs = [], []
        for index in range(first_layer, self.config.num_hidden_layers):
            layer = self.layers[index]
            is_last = index == self.config.num_hidden_layers - 1
            inputs.append(hidden)
            if attention_probs is not None and index in attention_probs:
                probs = attention_probs[index]
                probs = probs[:, :, :1] if is_last and cls_only else probs
            else:
                probs = layer.probs(
                    hidden, key_mask, num_queries=1 if is_last and cls_only else None
                )
            used.append(probs)
            mask = mask_row(head_mask, self.config, index)
            hidden = layer.finish(hidden, layer.mix(hidden, probs, mask, train), train)
        return hidden, tuple(used), tuple(inputs)

    def classify(self, hidden: Array, train: bool = False) -> Array:
        """Return the logits [B, C], at least float32, from the last layer's output [B, Q, D]."""
        pooled = nn.tanh(self.pooler(hidden[:, 0]))
        logits = self.classifier(self.classifier_dropout(pooled, deterministic=not train))
        return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))

    def __call__(
        self, batch: Batch, attention_probs=None, head_mask=None, cls_only=False, train=False
    ):
        """Return logits [B, C], and every layer's probabilities and input, as `encode` does."""
        words = self.embed_words(batch["input_ids"])
        hidden = self.embed(words, batch["token_type_ids"], train)
        hidden, used, inputs = self.encode(
            hidden,
            batch["attention_mask"] != 0,
            attention_probs,
            head_mask,
            cls_only=cls_only,
            train=train,
        )
        return self.classify(hidden, train), used, inputs

    def classify_hidden(
        self,
        hidden: Array,
        key_mask: Array,
        attention_probs=None,
        head_mask=None,
        first_layer: int = 0,
    ) -> Array:
        """Return the logits [B, C] given the input [B, T, D] of `first_layer`; otherwise as
        `encode`.
        """
        hidden, _, _ = self.encode(
            hidden, key_mask, attention_probs, head_mask, first_layer, cls_only=True
        )
        return self.classify(hidden)

    def classify_words(
        self, words: Array, token_type_ids: Array, key_mask: Array, head_mask=None
    ) -> Array:
        """Return the logits [B, C] given word embeddings [B, T, D]."""
        return self.classify_hidden(
            self.embed(words, token_type_ids), key_mask, head_mask=head_mask
        )

    def classify_branches(
        self,
        layers: Sequence[int],
        hidden: Sequence[Array],
        mixed: Sequence[Array],
        key_mask: Sequence[Array],
        head_mask=None,
    ) -> Array:
        """Return the logits [len(layers), B, C] of models in which one layer's attention adds
        something else: a branch for each layer.

        All branches go up through the model as one batch, which grows by B examples at each of
        `layers`: a matrix of weights is used once, however many branches there are.

        Args:
          layers: ascending.
          hidden: the input [B, T, D] of each of them.
          mixed: what its attention adds, [B, Q, D], as from `mix`.
          key_mask: bool [B, T], of each layer's examples.
          head_mask: [L, N].
        """
        entering = dict(zip(layers, zip(hidden, mixed, key_mask, strict=True), strict=True))
        stream, keys = None, None
        for index in range(layers[0], self.config.num_hidden_layers):
            layer = self.layers[index]
            num_queries = 1 if index == self.config.num_hidden_layers - 1 else None
            residual, added = [], []
            if stream is not None:
                probs = layer.probs(stream, keys, num_queries)
                added.append(layer.mix(stream, probs, mask_row(head_mask, self.config, index)))
                residual.append(stream[:, :num_queries])
            if index in entering:
                inputs, attention, mask = entering[index]
                added.append(attention)
                residual.append(inputs[:, :num_queries])
                keys = mask if keys is None else jnp.concatenate([keys, mask])
            stream = layer.finish(jnp.concatenate(residual), jnp.concatenate(added))
        return self.classify(stream).reshape(len(layers), -1, self.config.num_labels)


def mix(
    layer_params: Params, config: BertConfig, hidden: Array, probs: Array, head_mask: Array | None
) -> Array:
    """Return what attention `probs` [B, N, Q, T] adds to the residual stream of a layer, [B, Q, D]:
    linear in `probs`, without the bias.

    Args:
      layer_params: of this layer.
      hidden: its input [B, T, D].
      head_mask: [N].
    """
    return BertLayer(config, probs.shape[1]).apply(
        {"params": layer_params}, hidden, probs, head_mask, method="mix"
    )


def mask_row(head_mask: Any, config: BertConfig, layer: int) -> Any:
    """Return the head mask of the heads that a layer has, of the mask [L, N] of the whole model;
    None of None.

    A list of factors for every row, [B, Q, N] of each layer, will do as well.
    """
    if head_mask is None:
        return None
    row = head_mask[layer]
    return row if config.kept_heads is None else row[..., np.asarray(config.heads_of(layer), int)]


def spread_heads(values: Array, config: BertConfig, layer: int) -> Array:
    """Return `values` [B, heads that the layer has, ...] as [B, N, ...], zeros for those it does
    not have.
    """
    kept = config.heads_of(layer)
    if len(kept) == config.num_attention_heads:
        return values
    full = jnp.zeros((values.shape[0], config.num_attention_heads, *values.shape[2:]), values.dtype)
    return full.at[:, np.asarray(kept, int)].set(values)


def select_heads(params: Params, config: BertConfig, head_mask: Any) -> tuple[Params, BertConfig]:
    """Return the parameters and geometry of the same model without the heads whose mask is 0,
    sliced out of them.

    Rows K of query, key and value, columns K of the output projection; its bias stays. NumPy stays
    NumPy, JAX arrays may be traced.

    Args:
      params, config: of a model, some of whose heads may be gone already.
      head_mask: static [L, N]. A factor other than 0 and 1 is multiplied into the output
        projection.
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
    names = ("query", "key", "value", "attention_output")
    old = {
        f"layers_{layer}": {name: params[f"layers_{layer}"][name] for name in names}
        for layer in changed
    }
    is_numpy = all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(old))
    new = (_cut_heads if is_numpy else _compiled_cut_heads)(old, config=config, factors=factors)
    cut = {layer: {**params[layer], **attention} for layer, attention in new.items()}
    return {**params, **cut}, dataclasses.replace(config, kept_heads=tuple(kept_heads))


def _cut_heads(layers: Params, config: BertConfig, factors: HeadMask) -> Params:
    """Return the attention parameters of `layers` without the heads whose factor is 0, the output
    projection times the others' factors.
    """
    cut = {}
    for name, old in layers.items():
        layer = int(name.removeprefix("layers_"))
        of_heads = np.asarray([factors[layer][head] for head in config.heads_of(layer)], np.float32)
        split, at = (len(of_heads), config.head_size), np.flatnonzero(of_heads)
        width = len(at) * config.head_size
        cut[name] = {}
        for part in ("query", "key", "value"):
            kernel = (
                old[part]["kernel"]
                .reshape(config.hidden_size, *split)[:, at]
                .reshape(config.hidden_size, width)
            )
            cut[name][part] = {
                "kernel": kernel,
                "bias": old[part]["bias"].reshape(split)[at].reshape(width),
            }
        output = old["attention_output"]["kernel"].reshape(*split, config.hidden_size)[at]
        if (of_heads[at] != 1).any():
            output = output * of_heads[at][:, None, None].astype(output.dtype)
        cut[name]["attention_output"] = {"kernel": output.reshape(width, config.hidden_size)}
    return cut


_compiled_cut_heads = jax.jit(_cut_heads, static_argnames=("config", "factors"))


def init_params(config: BertConfig, key: Array) -> Params:
    """Return freshly initialised parameters, normal(0, initializer_range) as BERT's."""
    tokens = jnp.zeros((1, 2), jnp.int32)
    batch = {"input_ids": tokens, "attention_mask": tokens, "token_type_ids": tokens}
    return jax.jit(BertClassifier(config).init)(key, batch)["params"]


def param_shapes(config: BertConfig) -> Params:
    """Return the parameter tree as `jax.ShapeDtypeStruct`s; computes nothing."""
    return jax.eval_shape(lambda: init_params(config, jax.random.key(0)))


def model_inputs(batch: Batch) -> dict[str, Any]:
    """Return the arrays of a batch that the model reads."""
    return {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}


def complete_batch(batch: Batch, config: BertConfig) -> dict[str, Any]:
    """Return the arrays that the model reads, all int [B, T]; a missing mask means ones, missing
    segments zeros.

    Host arrays (NumPy, nested lists, tensors of other libraries on the CPU) are looked at, and
    become NumPy int32. JAX arrays are not, since that would wait for them: there an id or a segment
    that the model does not have gives NaN for its example, and padding without a mask, or on the
    left, gives another number.

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
    if shape[1] > config.max_position_embeddings:
        raise InputError(
            f"{shape[1]} tokens are more than the model's max_position_embeddings,"
            f" {config.max_position_embeddings}"
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
            config.type_vocab_size,
            f"the model's type_vocab_size is {config.type_vocab_size}",
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
    """Return integers [B, T]: a JAX array as it is, anything else as NumPy int32 after checking
    that its values are 0 … `size` − 1.

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


def split_head_mask(
    params: Params, config: BertConfig, head_mask: HeadMask | None
) -> tuple[Params, BertConfig, Array | None]:
    """Return (parameters, geometry, traced mask) that stand for a model under a head mask.

    A JAX array is traced: one compiled program serves every mask. A NumPy array or nested sequence
    is static: its heads are sliced out, and not computed.

    Raises:
      InputError: the mask is not a finite [L, N].
    """
    if head_mask is None:
        return params, config, None
    if isinstance(head_mask, jax.Array):
        _check_mask_shape("head_mask", head_mask, config)
        return params, config, head_mask
    return *select_heads(params, config, static_mask("head_mask", head_mask, config)), None


def static_mask(name: str, mask: Any, config: BertConfig) -> np.ndarray:
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


def _check_mask_shape(name: str, mask: Any, config: BertConfig) -> None:
    expected = (config.num_hidden_layers, config.num_attention_heads)
    if np.shape(mask) != expected:
        raise InputError(f"{name} must be [L, N] = {list(expected)}, not {list(np.shape(mask))}")


def forward(
    params: Params,
    batch: Batch,
    config: BertConfig,
    attention_probs: Mapping[int, Array] | None = None,
    head_mask: HeadMask | None = None,
) -> tuple[Array, tuple[Array, ...]]:
    """Classify a batch and return the attention probabilities that were used. Pure; jit-compiled
    when called plainly.

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
    attention_probs: Mapping[int, Any] | None, shape: tuple[int, int], config: BertConfig
) -> dict[int, Any]:
    """Return the probabilities given for some layers as arrays, or raise an InputError; `shape` is
    [B, T].
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
    given = {
        layer: probs[:, np.asarray(config.heads_of(layer), int)]
        for layer, probs in attention_probs.items()
    }
    logits, used, inputs = BertClassifier(config).apply(
        {"params": params}, batch, given, traced_mask
    )
    used = [spread_heads(probs, config, layer) for layer, probs in enumerate(used)]
    for layer, hidden in enumerate(inputs if masked_config else ()):
        heads = masked_config.heads_of(layer)
        if heads:
            variables = {"params": masked_params[f"layers_{layer}"]}
            probs = BertLayer(masked_config, len(heads)).apply(
                variables, hidden, batch["attention_mask"] != 0, method="probs"
            )
            used[layer] += spread_heads(probs, masked_config, layer)
    return logits, tuple(attention_probs.get(layer, probs) for layer, probs in enumerate(used))


@functools.partial(jax.jit, static_argnames=("config",))
def predict_logits(params, batch, config, head_mask=None) -> Array:
    """Return the logits [B, C] alone: `forward` without the rows of the last layer that no logit
    depends on; `head_mask` is traced.
    """
    return BertClassifier(config).apply(
        {"params": params}, batch, head_mask=head_mask, cls_only=True
    )[0]


@functools.partial(jax.jit, static_argnames=("config",))
def predict_logits_of_masks(params, batch, config, head_masks) -> Array:
    """Return the logits [M, B, C] under each of `head_masks` [M, L, N]; what no mask changes is
    computed once.
    """
    return jax.vmap(functools.partial(predict_logits, params, batch, config))(head_masks)
