"""ModernBERT (Warner et al., 2024): rotary positions, sliding windows, norms before the layers."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, NamedTuple, Self

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ...errors import InputError
from ..config import ACTIVATIONS as ACTIVATION_NAMES
from ..config import EncoderConfig
from ..encoder import ACTIVATIONS, Encoder, EncoderLayer, as_logits, dense, layer_norm
from ..family import Family, TensorTable
from ..types import Array, Batch

_KINDS = ("full_attention", "sliding_attention")


@dataclasses.dataclass(frozen=True)
class ModernBertConfig(EncoderConfig):
    """A ModernBERT sequence classifier (defaults: the base model, two classes)."""

    model_type: ClassVar = "modernbert"
    architecture: ClassVar = "ModernBertForSequenceClassification"
    title: ClassVar = "ModernBERT"
    hf_names: ClassVar = {
        "hidden_act": "hidden_activation",
        "hidden_dropout_prob": "mlp_dropout",
        "attention_probs_dropout_prob": "attention_dropout",
        "layer_norm_eps": "norm_eps",
        "rope_thetas": None,
    }
    required_settings: ClassVar = {
        "attention_bias": False,
        "mlp_bias": False,
        "norm_bias": False,
        "classifier_bias": False,
    }
    # Of the head of a language model, of initial values, and of how attention is computed.
    ignored_settings: ClassVar = frozenset(
        """
        decoder_bias deterministic_flash_attn global_attn_every_n_layers global_rope_theta
        initializer_cutoff_factor local_rope_theta position_embedding_type reference_compile
        repad_logits_with_grad rope_parameters sparse_pred_ignore_index sparse_prediction
        """.split()
    )

    vocab_size: int = 50368
    num_hidden_layers: int = 22
    intermediate_size: int = 1152
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    embedding_dropout: float = 0.0
    classifier_dropout: float | None = 0.0
    max_position_embeddings: int = 8192
    layer_norm_eps: float = 1e-5
    pad_token_id: int = 50283
    layer_types: tuple[str, ...] = ()  # of `_KINDS`; (): every third is full
    local_attention: int = 128  # the width of a window
    rope_thetas: tuple[float, float] = (160000.0, 10000.0)  # of full layers, of sliding ones
    classifier_pooling: str = "cls"  # or "mean", over the real tokens
    classifier_activation: str = "gelu"

    def __post_init__(self):
        super().__post_init__()
        usual = [_KINDS[layer % 3 > 0] for layer in range(self.num_hidden_layers)]
        object.__setattr__(self, "layer_types", tuple(self.layer_types or usual))
        if len(self.layer_types) != self.num_hidden_layers or set(self.layer_types) - set(_KINDS):
            raise InputError(f"layer_types must name one of {_KINDS} for each layer")
        for name, value, known in (
            ("classifier_pooling", self.classifier_pooling, ("cls", "mean")),
            ("classifier_activation", self.classifier_activation, ACTIVATION_NAMES),
        ):
            if value not in known:
                raise InputError(
                    f"{name} {value!r:.80} is not supported; known: {', '.join(known)}"
                )
        if self.head_size % 2:
            raise InputError(f"heads of odd size {self.head_size} have no rotary positions")

    @classmethod
    def from_hf(cls, fields: dict[str, Any]) -> Self:
        """Read a `config.json` of transformers 4 or 5, which name layers and θ differently."""
        config = super().from_hf(fields)
        every, kinds = fields.get("global_attn_every_n_layers"), config.layer_types
        if every is not None and fields.get("layer_types") is None:
            kinds = tuple(_KINDS[layer % every > 0] for layer in range(len(kinds)))
        thetas = [fields.get("global_rope_theta"), fields.get("local_rope_theta")]
        for at, kind in enumerate(_KINDS):
            rope = (fields.get("rope_parameters") or {}).get(kind) or {}
            if rope.get("rope_type", "default") != "default":
                raise InputError(f"rope_type is {rope['rope_type']!r}; only 'default' is supported")
            thetas[at] = float(rope.get("rope_theta") or thetas[at] or cls.rope_thetas[at])
        return dataclasses.replace(config, layer_types=kinds, rope_thetas=tuple(thetas))

    def to_hf(self, id2label: dict[int, str]) -> dict[str, Any]:
        """Return the contents of a `config.json` of transformers 5."""
        rope = {
            kind: {"rope_type": "default", "rope_theta": theta}
            for kind, theta in zip(_KINDS, self.rope_thetas, strict=True)
        }
        return super().to_hf(id2label) | {"rope_parameters": rope}

    @property
    def reads_first_row(self) -> bool:
        """Whether the classifier reads the first row of the last layer alone."""
        return self.classifier_pooling == "cls"

    def layer_kind(self, layer: int) -> int:
        """Return the first layer that computes as this one does; the first has one norm less."""
        return 0 if layer == 0 else self.layer_types.index(self.layer_types[layer], 1)

    def has_parameter(self, path: str) -> bool:
        """Return whether the model has a parameter: the first layer's input is normed already."""
        return path != "layers_0/attention_norm/scale"


class Positions(NamedTuple):
    """What a layer's attention scores need of positions."""

    cos: np.ndarray  # [T, K], of the rotation of each pair of coordinates, twice over
    sin: np.ndarray
    is_seen: np.ndarray  # bool [T, T]: column within the window of the row


class ModernBertLayer(EncoderLayer):
    """A layer with its norms before attention and feed-forward, and without biases."""

    is_first: bool = False

    def setup(self):
        config = self.config
        width = self.num_heads * config.head_size
        self.query, self.key, self.value = (dense(width, config, use_bias=False) for _ in range(3))
        self.attention_output = dense(config.hidden_size, config, use_bias=False)
        if not self.is_first:
            self.attention_norm = layer_norm(config, use_bias=False)
        self.output_norm = layer_norm(config, use_bias=False)
        self.intermediate = dense(config.intermediate_size, config, use_bias=False)
        self.gate = dense(config.intermediate_size, config, use_bias=False)
        self.output = dense(config.hidden_size, config, use_bias=False)
        self.probs_dropout = nn.Dropout(config.attention_probs_dropout_prob)
        self.hidden_dropout = nn.Dropout(config.hidden_dropout_prob)

    def _normed(self, hidden: Array) -> Array:
        return hidden if self.is_first else self.attention_norm(hidden)

    def scores(self, hidden: Array, num_queries: int | None, position_terms: Any) -> Array:
        hidden = self._normed(hidden)
        query = _rotated(self.split_heads(self.query(hidden)), position_terms)[:, :num_queries]
        key = _rotated(self.split_heads(self.key(hidden)), position_terms)
        scores = jnp.einsum("bqnk,btnk->bnqt", query, key)
        scores = scores / np.sqrt(self.config.head_size).astype(scores.dtype)
        is_seen = position_terms.is_seen[:num_queries]
        return jnp.where(is_seen, scores, jnp.finfo(scores.dtype).min)

    def mix(
        self, hidden: Array, probs: Array, head_mask: Array | None = None, train: bool = False
    ) -> Array:
        return super().mix(self._normed(hidden), probs, head_mask, train)

    def finish(self, hidden: Array, mixed: Array, train: bool = False) -> Array:
        hidden = hidden[:, : mixed.shape[1]] + self.probs_dropout(mixed, deterministic=not train)
        normed = self.output_norm(hidden)
        activation = ACTIVATIONS[self.config.hidden_act]
        transformed = activation(self.intermediate(normed)) * self.gate(normed)
        transformed = self.hidden_dropout(transformed, deterministic=not train)
        return hidden + self.output(transformed)


def _rotated(heads: Array, positions: Positions) -> Array:
    """Return [B, T, N, K] with each pair of coordinates k, k + K/2 rotated by its position."""
    first, second = jnp.split(heads, 2, axis=-1)
    turned = jnp.concatenate([-second, first], axis=-1)
    cos, sin = (
        table.astype(heads.dtype)[None, :, None] for table in (positions.cos, positions.sin)
    )
    return heads * cos + turned * sin


class ModernBertClassifier(Encoder):
    """ModernBERT with its classification head."""

    config: ModernBertConfig

    def setup_embeddings(self) -> None:
        self.embeddings_norm = layer_norm(self.config, use_bias=False)
        self.embeddings_dropout = nn.Dropout(self.config.embedding_dropout)
        self.final_norm = layer_norm(self.config, use_bias=False)

    def embed(self, words: Array, inputs: Batch, train: bool = False) -> Array:
        return self.embeddings_dropout(self.embeddings_norm(words), deterministic=not train)

    @staticmethod
    def make_layer(config: EncoderConfig, layer: int, num_heads: int) -> EncoderLayer:
        return ModernBertLayer(config, num_heads, is_first=layer == 0)

    def position_terms(self, layer: int, num_tokens: int) -> Positions:
        """Return the rotations and the window of a layer."""
        config, positions = self.config, np.arange(num_tokens)
        kind = _KINDS.index(config.layer_types[layer])
        frequencies = config.rope_thetas[kind] ** (
            -np.arange(0, config.head_size, 2) / config.head_size
        )
        angles = np.tile(positions[:, None] * frequencies, 2)
        distances = np.abs(positions[:, None] - positions[None, :])
        is_seen = (distances <= config.local_attention // 2) | (kind == 0)
        return Positions(np.cos(angles), np.sin(angles), is_seen)

    def setup_head(self) -> None:
        self.head_dense = dense(self.config.hidden_size, self.config, use_bias=False)
        self.head_norm = layer_norm(self.config, use_bias=False)
        self.classifier = dense(self.config.num_labels, self.config)

    def classify(self, hidden: Array, key_mask: Array, train: bool = False) -> Array:
        hidden = self.final_norm(hidden)
        pooled = hidden[:, 0]
        if not self.config.reads_first_row:
            weights = key_mask.astype(hidden.dtype)[:, :, None]
            pooled = (hidden * weights).sum(axis=1) / jnp.maximum(weights.sum(axis=1), 1)
        pooled = ACTIVATIONS[self.config.classifier_activation](self.head_dense(pooled))
        pooled = self.classifier_dropout(self.head_norm(pooled), deterministic=not train)
        return as_logits(self.classifier(pooled))


FAMILY = Family(
    ModernBertConfig,
    ModernBertClassifier,
    TensorTable(
        prefix="model.",
        layer="layers.{i}.",
        embeddings=(
            ("word_embeddings/embedding", "embeddings.tok_embeddings.weight"),
            ("embeddings_norm/scale", "embeddings.norm.weight"),
            ("final_norm/scale", "final_norm.weight"),
        ),
        layer_rows=(
            ("attention_norm/scale", "attn_norm.weight"),
            ("query/kernel", "attn.Wqkv.weight[0/3]"),
            ("key/kernel", "attn.Wqkv.weight[1/3]"),
            ("value/kernel", "attn.Wqkv.weight[2/3]"),
            ("attention_output/kernel", "attn.Wo.weight"),
            ("output_norm/scale", "mlp_norm.weight"),
            ("intermediate/kernel", "mlp.Wi.weight[0/2]"),
            ("gate/kernel", "mlp.Wi.weight[1/2]"),
            ("output/kernel", "mlp.Wo.weight"),
        ),
        head=(
            ("head_dense/kernel", "head.dense.weight"),
            ("head_norm/scale", "head.norm.weight"),
            ("classifier/kernel", "classifier.weight"),
            ("classifier/bias", "classifier.bias"),
        ),
        head_prefixes=("head.", "classifier.", "decoder."),
        ignored=r"decoder\..*",
    ),
)
