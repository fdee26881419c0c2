"""What every encoder has in common, in Flax Linen, with the attention probabilities as an argument.

With `families/`, the only place that knows Linen. Everything is a pure function of its arguments;
intermediate results that others need (attention probabilities, the hidden states between layers)
are return values.

`EncoderLayer` is the one place where attention exists. It is cut in three so that attribution can
enter between the pieces:

    probs = layer.probs(hidden)            A = softmax(Q Kᵀ / √K)                     [B, N, Q, T]
    mixed = layer.mix(hidden, probs)       concat_n(m_n A_n V_n) W_o, linear in A     [B, Q, D]
    hidden = layer.finish(hidden, mixed)   residual, LayerNorm, feed-forward          [B, Q, D]

A family (`families/bert.py` is the shortest full one) subclasses `Encoder` for its embeddings and
its classification head, and `EncoderLayer` where its layers differ from BERT's.

Shapes: B examples, T tokens (padded), L layers, N heads, D hidden size, K head size (D = N·K), E
width of the embeddings (D in most families), C classes, Q query rows (T, or 1 where the classifier
reads the first row alone).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from .config import EncoderConfig
from .head_masks import mask_row
from .types import Array, Batch

# Recomputed in the backward pass: what would be kept otherwise is most of the memory of an
# attribution.
ACTIVATIONS = {
    "gelu": jax.checkpoint(functools.partial(nn.gelu, approximate=False)),
    "gelu_new": jax.checkpoint(functools.partial(nn.gelu, approximate=True)),
    "gelu_pytorch_tanh": jax.checkpoint(functools.partial(nn.gelu, approximate=True)),
    "relu": nn.relu,
}
_softmax = jax.checkpoint(nn.softmax)


def dense(features: int, config: EncoderConfig, use_bias: bool = True) -> nn.Dense:
    """Return a linear layer, initialised as the family is."""
    return nn.Dense(
        features,
        use_bias=use_bias,
        dtype=config.dtype,
        kernel_init=nn.initializers.normal(config.initializer_range),
    )


def embedding_table(size: int, config: EncoderConfig, width: int | None = None) -> nn.Embed:
    """Return a table of `size` embeddings [size, E], or of another width."""
    return nn.Embed(
        size,
        config.embedding_width if width is None else width,
        dtype=config.dtype,
        embedding_init=nn.initializers.normal(config.initializer_range),
    )


def look_up(table: nn.Embed, ids: Array) -> Array:
    """Return rows [B, T, E] of an embedding table, NaN for an id that it does not have.

    `nn.Embed` itself counts a negative id from the end.
    """
    embedding: Any
    (embedding,) = table.promote_dtype(table.embedding, dtype=table.dtype, inexact=False)
    return embedding.at[ids].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


def layer_norm(config: EncoderConfig, use_bias: bool = True) -> nn.LayerNorm:
    """Return a LayerNorm with the variance computed in two passes.

    The fast variance, E[x²] − E[x]², loses digits that the golden numbers show.
    """
    return nn.LayerNorm(
        epsilon=config.layer_norm_eps,
        dtype=config.dtype,
        use_bias=use_bias,
        use_fast_variance=False,
    )


class EncoderLayer(nn.Module):
    """One Transformer layer as BERT's, with `num_heads` heads (N below)."""

    config: EncoderConfig
    num_heads: int

    def setup(self):
        config = self.config
        width = self.num_heads * config.head_size
        self.query = dense(width, config)
        self.key = dense(width, config)
        self.value = dense(width, config)
        # The bias stands apart, so that `mix` is linear in the probabilities.
        self.attention_output = dense(config.hidden_size, config, use_bias=False)
        self.attention_output_bias = self.param(
            "attention_output_bias", nn.initializers.zeros, (config.hidden_size,)
        )
        self.attention_norm = layer_norm(config)
        self.intermediate = dense(config.intermediate_size, config)
        self.output = dense(config.hidden_size, config)
        self.output_norm = layer_norm(config)
        self.probs_dropout = nn.Dropout(config.attention_probs_dropout_prob)
        self.hidden_dropout = nn.Dropout(config.hidden_dropout_prob)

    def split_heads(self, projected: Array) -> Array:
        """Return [B, T, N·K] as [B, T, N, K]."""
        return projected.reshape(*projected.shape[:2], self.num_heads, self.config.head_size)

    def scores(self, hidden: Array, num_queries: int | None, position_terms: Any) -> Array:
        """Return the attention scores [B, N, Q, T] before the softmax.

        Args:
          hidden: the layer's input [B, T, D].
          num_queries: Q; None: all rows.
          position_terms: what `Encoder.position_terms` returns for this layer.
        """
        query = self.split_heads(self.query(hidden[:, :num_queries]))
        key = self.split_heads(self.key(hidden))
        scale = np.sqrt(self.config.head_size).astype(query.dtype)
        return jnp.einsum("bqnk,btnk->bnqt", query, key) / scale

    def probs(
        self,
        hidden: Array,
        key_mask: Array,
        num_queries: int | None = None,
        position_terms: Any = None,
    ) -> Array:
        """Return the attention probabilities [B, N, Q, T], 0 where `key_mask` [B, T] is False.

        Other arguments are those of `scores`.
        """
        scores = self.scores(hidden, num_queries, position_terms)
        dtype = scores.dtype
        # At least float32 for the softmax, also when the rest is computed in bfloat16.
        scores = scores.astype(jnp.promote_types(dtype, jnp.float32))
        # A finite fill: a row without any real key, as padded examples have, stays free of NaN.
        scores = jnp.where(key_mask[:, None, None, :], scores, jnp.finfo(scores.dtype).min)
        return _softmax(scores).astype(dtype)

    def mix(
        self, hidden: Array, probs: Array, head_mask: Array | None = None, train: bool = False
    ) -> Array:
        """Return what attention adds before its bias, [B, Q, D]: linear in `probs` [B, N, Q, T].

        Args:
          hidden: the layer's input [B, T, D].
          probs: the attention probabilities.
          head_mask: [N], or [B, Q, N], a factor for every row.
          train: with dropout.
        """
        value = self.split_heads(self.value(hidden))
        probs = self.probs_dropout(probs, deterministic=not train)
        context = jnp.einsum("bnqt,btnk->bqnk", probs.astype(value.dtype), value)
        if head_mask is not None:  # the same as masking the probabilities, on a smaller array
            factors = head_mask if head_mask.ndim == 3 else head_mask[None, None, :]
            context = context * factors.astype(context.dtype)[..., None]
        width = self.num_heads * self.config.head_size
        return self.attention_output(context.reshape(*context.shape[:2], width))

    def finish(self, hidden: Array, mixed: Array, train: bool = False) -> Array:
        """Return the layer's output [B, Q, D] from its input [B, T, D] and `mixed` [B, Q, D]."""
        attended = mixed + self.attention_output_bias.astype(mixed.dtype)[None, None, :]
        attended = self.hidden_dropout(attended, deterministic=not train)
        hidden = self.attention_norm(hidden[:, : mixed.shape[1]] + attended)
        transformed = self.output(ACTIVATIONS[self.config.hidden_act](self.intermediate(hidden)))
        return self.output_norm(hidden + self.hidden_dropout(transformed, deterministic=not train))


class Encoder(nn.Module):
    """An encoder with a classification head.

    A family defines `setup_embeddings`, `embed`, `setup_head` and `classify`; where its layers are
    not BERT's, `make_layer`; where attention scores need something that depends on positions,
    `position_terms`.

    Inputs are dictionaries of [B, T] arrays, named as the tokenizer names them.
    """

    config: EncoderConfig

    def setup(self):
        config = self.config
        self.word_embeddings = embedding_table(config.vocab_size, config)
        self.setup_embeddings()
        own: dict[str, EncoderLayer] = {}  # layers of the same name are one
        for index in range(config.num_hidden_layers):
            name = config.layer_name(index)
            if name not in own:
                own[name] = self.make_layer(config, index, len(config.heads_of(index)))
        self.layers = [own[config.layer_name(i)] for i in range(config.num_hidden_layers)]
        self.setup_head()
        self.hidden_dropout = nn.Dropout(config.hidden_dropout_prob)
        rate = config.classifier_dropout
        self.classifier_dropout = nn.Dropout(config.hidden_dropout_prob if rate is None else rate)

    # --- what a family defines ---------------------------------------------------------------

    def setup_embeddings(self) -> None:
        """Define the modules of `embed` beside `word_embeddings`."""
        raise NotImplementedError

    def embed(self, words: Array, inputs: Batch, train: bool = False) -> Array:
        """Return the first layer's input [B, T, D].

        Args:
          words: word embeddings [B, T, E].
          inputs: `input_ids`, `attention_mask`, `token_type_ids` of the real tokens: positions and
            segments are taken from there, whatever `words` are.
          train: with dropout.
        """
        raise NotImplementedError

    def setup_head(self) -> None:
        """Define the modules of `classify`."""
        raise NotImplementedError

    def classify(self, hidden: Array, key_mask: Array, train: bool = False) -> Array:
        """Return the logits [B, C], at least float32, from the last layer's output [B, Q, D]."""
        raise NotImplementedError

    @staticmethod
    def make_layer(config: EncoderConfig, layer: int, num_heads: int) -> EncoderLayer:
        """Return the module of a layer, with `num_heads` remaining heads."""
        return EncoderLayer(config, num_heads)

    def position_terms(self, layer: int, num_tokens: int) -> Any:
        """Return what a layer's attention scores need of positions beyond `embed`, e.g. a bias."""
        return None

    # --- what all share ----------------------------------------------------------------------

    def embed_words(self, input_ids: Array) -> Array:
        """Return the word embeddings [B, T, E]."""
        return look_up(self.word_embeddings, input_ids)

    def layer_probs(
        self, layer: int, hidden: Array, key_mask: Array, num_queries: int | None = None
    ) -> Array:
        """Return the attention probabilities [B, N, Q, T] of a layer with this input [B, T, D]."""
        terms = self.position_terms(layer, hidden.shape[1])
        return self.layers[layer].probs(hidden, key_mask, num_queries, terms)

    def encode(
        self,
        hidden: Array,
        key_mask: Array,
        attention_probs: Mapping[int, Array] | None = None,
        head_mask: Any = None,
        first_layer: int = 0,
        only_read_rows: bool = False,
        train: bool = False,
        added: Mapping[int, Array] | None = None,
    ) -> tuple[Array, tuple[Array, ...], tuple[Array, ...]]:
        """Run the layers from `first_layer` on.

        Args:
          hidden: the input [B, T, D] of `first_layer`.
          key_mask: bool [B, T], True for real tokens.
          attention_probs: {layer: [B, N, T, T]} replaces the probabilities of those layers.
          head_mask: [L, N], a factor for each head's context.
          first_layer: layers below are not run.
          only_read_rows: of the last layer, compute only the rows that the classifier reads.
          train: with dropout.
          added: {layer: [B, Q, D]} is added to what that layer's attention adds.

        Returns:
          hidden [B, Q, D], the probabilities used [B, N, Q, T] and the input [B, T, D] of every
          layer run.
        """
        used, inputs = [], []
        for index in range(first_layer, self.config.num_hidden_layers):
            layer = self.layers[index]
            num_queries = self.config.num_queries(index) if only_read_rows else None
            inputs.append(hidden)
            if attention_probs is not None and index in attention_probs:
                probs = attention_probs[index][:, :, :num_queries]
            else:
                probs = self.layer_probs(index, hidden, key_mask, num_queries)
            used.append(probs)
            mask = mask_row(head_mask, self.config, index)
            mixed = layer.mix(hidden, probs, mask, train)
            if added is not None and index in added:
                mixed += added[index].astype(mixed.dtype)
            hidden = layer.finish(hidden, mixed, train)
        return hidden, tuple(used), tuple(inputs)

    def __call__(
        self,
        batch: Batch,
        attention_probs: Mapping[int, Array] | None = None,
        head_mask: Any = None,
        only_read_rows: bool = False,
        train: bool = False,
        added: Mapping[int, Array] | None = None,
    ) -> tuple[Array, tuple[Array, ...], tuple[Array, ...]]:
        """Return logits [B, C], and every layer's probabilities and input, as `encode` does."""
        hidden = self.embed(self.embed_words(batch["input_ids"]), batch, train)
        key_mask = batch["attention_mask"] != 0
        hidden, used, inputs = self.encode(
            hidden,
            key_mask,
            attention_probs,
            head_mask,
            only_read_rows=only_read_rows,
            train=train,
            added=added,
        )
        return self.classify(hidden, key_mask, train), used, inputs

    def classify_hidden(
        self,
        hidden: Array,
        key_mask: Array,
        attention_probs: Mapping[int, Array] | None = None,
        head_mask: Any = None,
        first_layer: int = 0,
    ) -> Array:
        """Return the logits [B, C] given the input of `first_layer`; otherwise as `encode`."""
        hidden, _, _ = self.encode(
            hidden, key_mask, attention_probs, head_mask, first_layer, only_read_rows=True
        )
        return self.classify(hidden, key_mask)

    def classify_words(self, words: Array, inputs: Batch, head_mask: Any = None) -> Array:
        """Return the logits [B, C] given word embeddings; the arguments are those of `embed`."""
        key_mask = inputs["attention_mask"] != 0
        return self.classify_hidden(self.embed(words, inputs), key_mask, head_mask=head_mask)

    def classify_branches(
        self,
        layers: Sequence[int],
        hidden: Sequence[Array],
        mixed: Sequence[Array],
        key_mask: Sequence[Array],
        head_mask: Any = None,
    ) -> Array:
        """Return the logits [len(layers), B, C] of one branch per layer.

        A branch is the model with what that layer's attention adds replaced. All branches go up
        through the model as one batch, which grows by B examples at each of `layers`: a matrix of
        weights is used once, however many branches there are.

        Args:
          layers: ascending.
          hidden: the input [B, T, D] of each of them.
          mixed: what its attention adds, [B, Q, D], as from `mix`.
          key_mask: bool [B, T], of each layer's examples.
          head_mask: [L, N].
        """
        entering = dict(zip(layers, zip(hidden, mixed, key_mask, strict=True), strict=True))
        stream: Any = None  # [branches · B, T, D]
        stream_mask: Any = None
        for index in range(layers[0], self.config.num_hidden_layers):
            layer, num_queries = self.layers[index], self.config.num_queries(index)
            residual, added = [], []
            # The branches that entered below run this layer as it is.
            if stream is not None:
                probs = self.layer_probs(index, stream, stream_mask, num_queries)
                added.append(layer.mix(stream, probs, mask_row(head_mask, self.config, index)))
                residual.append(stream[:, :num_queries])
            # The branch of this layer enters with what its attention is said to add.
            if index in entering:
                inputs, attention, mask = entering[index]
                added.append(attention)
                residual.append(inputs[:, :num_queries])
                stream_mask = mask if stream_mask is None else jnp.concatenate([stream_mask, mask])
            stream = layer.finish(jnp.concatenate(residual), jnp.concatenate(added))
        logits = self.classify(stream, stream_mask)
        return logits.reshape(len(layers), -1, self.config.num_labels)


def as_logits(outputs: Array) -> Array:
    """Return outputs of a classification head in float32 or wider."""
    return outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32))
