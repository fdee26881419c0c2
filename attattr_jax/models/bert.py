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

import functools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from .config import BertConfig
from .head_masks import mask_row
from .types import Array, Batch, Params

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


def init_params(config: BertConfig, key: Array) -> Params:
    """Return freshly initialised parameters, normal(0, initializer_range) as BERT's."""
    tokens = jnp.zeros((1, 2), jnp.int32)
    batch = {"input_ids": tokens, "attention_mask": tokens, "token_type_ids": tokens}
    return jax.jit(BertClassifier(config).init)(key, batch)["params"]


def param_shapes(config: BertConfig) -> Params:
    """Return the parameter tree as `jax.ShapeDtypeStruct`s; computes nothing."""
    return jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
