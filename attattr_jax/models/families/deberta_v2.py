"""DeBERTa (He, Liu, Gao, Chen, ICLR 2021), versions 2 and 3: attention by content and distance."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Self

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ...errors import InputError
from ..config import EncoderConfig
from ..encoder import (
    ACTIVATIONS,
    Encoder,
    EncoderLayer,
    as_logits,
    dense,
    embedding_table,
    layer_norm,
)
from ..family import Family, TensorTable, layer_rows, linear, norm
from ..types import Array, Batch


@dataclasses.dataclass(frozen=True)
class DebertaV2Config(EncoderConfig):
    """A DeBERTa-v2 or -v3 sequence classifier (defaults: the base model of v3, two classes)."""

    model_type: ClassVar = "deberta-v2"
    architecture: ClassVar = "DebertaV2ForSequenceClassification"
    title: ClassVar = "DeBERTa"
    hf_names: ClassVar = {"classifier_dropout": "cls_dropout"}
    required_settings: ClassVar = {
        "relative_attention": True,
        "share_att_key": True,
        "position_biased_input": False,
        "norm_rel_ebd": "layer_norm",
        "type_vocab_size": 0,
        "conv_kernel_size": 0,
        "pooler_hidden_act": "gelu",
    }
    hf_defaults: ClassVar = {
        "relative_attention": False,
        "share_att_key": False,
        "position_biased_input": True,
        "norm_rel_ebd": "none",
        "position_buckets": -1,
        "pos_att_type": (),
        "hidden_size": 1536,
        "num_hidden_layers": 24,
        "num_attention_heads": 24,
        "intermediate_size": 6144,
    }
    # Of the head of a language model, and of a convolution that is refused.
    ignored_settings: ClassVar = frozenset(("legacy", "conv_act", "conv_groups"))

    vocab_size: int = 128100
    layer_norm_eps: float = 1e-7
    position_buckets: int = 256  # S: a side's number of distances that are told apart
    max_relative_positions: int = 512  # distances from here on share a bucket
    pos_att_type: tuple[str, ...] = ("c2p", "p2c")
    pooler_dropout: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        terms = self.pos_att_type if isinstance(self.pos_att_type, (list, tuple)) else None
        if terms is None or not set(map(str, terms)) <= {"c2p", "p2c"}:
            raise InputError(
                f"pos_att_type is {self.pos_att_type!r:.80}; only 'c2p' and 'p2c' are supported"
            )
        object.__setattr__(self, "pos_att_type", tuple(sorted(terms)))

    @classmethod
    def from_hf(cls, fields: dict[str, Any]) -> Self:
        """Read a `config.json`; older ones write `pos_att_type` as "p2c|c2p"."""
        fields = {name: value for name, value in fields.items() if value is not None}
        if isinstance(fields.get("pos_att_type"), str):
            fields["pos_att_type"] = fields["pos_att_type"].split("|")
        if fields.get("max_relative_positions", -1) == -1:
            fields["max_relative_positions"] = fields.get("max_position_embeddings", 512)
        width = fields.get("hidden_size", cls.hf_defaults["hidden_size"])
        for name in ("embedding_size", "pooler_hidden_size"):
            if fields.pop(name, width) != width:
                raise InputError(f"{name} differs from hidden_size, which is not supported")
        return super().from_hf(fields)

    def distance_rows(self, distances: np.ndarray) -> np.ndarray:
        """Return the row of the table [2·S] for each distance i − j (its equation 3, in buckets).

        Distances below S / 2 are exact, beyond that logarithmic.
        """
        buckets, exact = self.position_buckets, self.position_buckets // 2
        # In float32 as in PyTorch: the borders of the buckets depend on it.
        far = np.log(np.maximum(np.abs(distances), 1).astype(np.float32) / np.float32(exact))
        far /= np.log(np.float32((self.max_relative_positions - 1) / exact))
        steps = np.ceil(far * np.float32(exact - 1)).astype(int) + exact
        is_exact = np.abs(distances) <= exact
        bucket = np.where(is_exact, distances, steps * np.sign(distances))
        return np.clip(bucket + buckets, 0, 2 * buckets - 1)


class DebertaV2Layer(EncoderLayer):
    """A layer whose attention scores have terms of content and position.

    A_ij ~ Q_i·K_j + Q_i·Kr_δ(i−j) + K_j·Qr_δ(i−j), over √(3 K); Kr and Qr are this layer's key and
    query of an embedding of the distance.
    """

    config: DebertaV2Config

    def scores(self, hidden: Array, num_queries: int | None, position_terms: Any) -> Array:
        query = self.split_heads(self.query(hidden[:, :num_queries]))
        key = self.split_heads(self.key(hidden))
        scores = jnp.einsum("bqnk,btnk->bnqt", query, key)
        # The distances T−1 … 1−T, as embeddings [1, 2·T−1, D].
        distances = position_terms.astype(hidden.dtype)[None]
        terms = self.config.pos_att_type
        if "c2p" in terms:
            of_distance = self.split_heads(self.key(distances))[0]
            scores += _at_distances(jnp.einsum("bqnk,rnk->bnqr", query, of_distance))
        if "p2c" in terms:
            of_distance = self.split_heads(self.query(distances[:, ::-1]))[0]
            by_key = _at_distances(jnp.einsum("btnk,rnk->bntr", key, of_distance))
            scores += jnp.swapaxes(by_key, 2, 3)[:, :, :num_queries]
        # In float32 as in transformers, also where the rest is in float64.
        scale = np.sqrt(np.float32(self.config.head_size * (1 + len(terms))))
        return scores / scale.astype(scores.dtype)


def _at_distances(values: Array) -> Array:
    """Return [B, N, Q, T] with entry (i, j) = `values` [B, N, Q, 2·T−1] at (i, T−1 − i + j).

    Each row begins one place before the row above: in memory, rows of 2·T−2.
    """
    *leading, num_rows, width = values.shape
    num_columns = (width + 1) // 2
    if num_columns == 1:
        return values
    flat = values.reshape(*leading, num_rows * width)[..., num_columns - 1 :]
    missing = num_rows * (width - 1) - flat.shape[-1]
    flat = jnp.pad(flat, [(0, 0)] * len(leading) + [(0, max(0, missing))])
    rows = flat[..., : num_rows * (width - 1)].reshape(*leading, num_rows, width - 1)
    return rows[..., :num_columns]


class DebertaV2Classifier(Encoder):
    """DeBERTa with pooler and classification head."""

    config: DebertaV2Config

    def setup_embeddings(self) -> None:
        config = self.config
        self.embeddings_norm = layer_norm(config)
        self.distance_embeddings = embedding_table(2 * config.position_buckets, config)
        self.distance_norm = layer_norm(config)

    def embed(self, words: Array, inputs: Batch, train: bool = False) -> Array:
        hidden = self.embeddings_norm(words)
        hidden = hidden * inputs["attention_mask"][:, :, None].astype(hidden.dtype)
        return self.hidden_dropout(hidden, deterministic=not train)

    @staticmethod
    def make_layer(config: EncoderConfig, layer: int, num_heads: int) -> EncoderLayer:
        assert isinstance(config, DebertaV2Config)
        return DebertaV2Layer(config, num_heads)

    def position_terms(self, layer: int, num_tokens: int) -> Array:
        """Return the embeddings [2·T−1, D] of the distances T−1 … 1−T."""
        rows = self.config.distance_rows(np.arange(num_tokens - 1, -num_tokens, -1))
        return self.distance_norm(self.distance_embeddings(rows))

    def setup_head(self) -> None:
        self.pooler_dropout = nn.Dropout(self.config.pooler_dropout)
        self.pooler = dense(self.config.hidden_size, self.config)
        self.classifier = dense(self.config.num_labels, self.config)

    def classify(self, hidden: Array, key_mask: Array, train: bool = False) -> Array:
        pooled = self.pooler(self.pooler_dropout(hidden[:, 0], deterministic=not train))
        pooled = ACTIVATIONS["gelu"](pooled)
        return as_logits(self.classifier(self.classifier_dropout(pooled, deterministic=not train)))


FAMILY = Family(
    DebertaV2Config,
    DebertaV2Classifier,
    TensorTable(
        prefix="deberta.",
        layer="encoder.layer.{i}.",
        embeddings=(
            ("word_embeddings/embedding", "embeddings.word_embeddings.weight"),
            *norm("embeddings_norm", "embeddings.LayerNorm"),
            ("distance_embeddings/embedding", "encoder.rel_embeddings.weight"),
            *norm("distance_norm", "encoder.LayerNorm"),
        ),
        layer_rows=layer_rows(
            query="attention.self.query_proj",
            key="attention.self.key_proj",
            value="attention.self.value_proj",
            attention_output="attention.output.dense",
            attention_norm="attention.output.LayerNorm",
            intermediate="intermediate.dense",
            output="output.dense",
            output_norm="output.LayerNorm",
        ),
        head=(
            *linear("pooler", "pooler.dense"),
            *linear("classifier", "classifier"),
        ),
        head_prefixes=("pooler.", "classifier.", "lm_predictions.", "mask_predictions.", "cls."),
        ignored=r"(lm_predictions|mask_predictions|cls)\..*|deberta\.embeddings\.position_ids",
    ),
)
