"""MPNet (Song, Tan, Qin, Lu, Liu, NeurIPS 2020): RoBERTa, and a bias of attention by distance."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from ..config import EncoderConfig
from ..encoder import EncoderLayer, embedding_table, layer_norm, look_up
from ..family import Family, TensorTable, layer_rows, norm
from ..types import Array, Batch
from . import roberta

_PADDING = 1  # positions are counted from it, whatever pad_token_id is
_FARTHEST = 128  # distances from here on share a bucket


@dataclasses.dataclass(frozen=True)
class MpnetConfig(EncoderConfig):
    """An MPNet sequence classifier (defaults: the base model, two classes)."""

    model_type: ClassVar = "mpnet"
    architecture: ClassVar = "MPNetForSequenceClassification"
    title: ClassVar = "MPNet"
    hf_defaults: ClassVar = {"max_position_embeddings": 512, "layer_norm_eps": 1e-12}

    vocab_size: int = 30527
    max_position_embeddings: int = 514
    layer_norm_eps: float = 1e-5
    pad_token_id: int = _PADDING
    relative_attention_num_buckets: int = 32

    @property
    def max_length(self) -> int:
        """The largest number of tokens: the first position is the one after padding's."""
        return self.max_position_embeddings - _PADDING - 1


def buckets(distances: np.ndarray, num_buckets: int) -> np.ndarray:
    """Return the bucket of each distance j − i, from the token that reads to the one that is read.

    Half of them are for j > i. Of each half, the first half is exact, the other logarithmic.
    """
    side, exact = num_buckets // 2, num_buckets // 4
    size = np.abs(distances)
    # In float32 as in PyTorch: the borders of the buckets depend on it.
    logarithm = np.log(np.maximum(size, 1).astype(np.float32) / np.float32(exact))
    scaled = logarithm / np.float32(np.log(_FARTHEST / exact)) * np.float32(side - exact)
    far = np.minimum(exact + scaled.astype(int), side - 1)
    return np.where(size < exact, size, far) + np.where(distances > 0, side, 0)


class MpnetLayer(EncoderLayer):
    """A layer whose attention scores have a bias."""

    def scores(self, hidden: Array, num_queries: int | None, position_terms: Any) -> Array:
        scores = super().scores(hidden, num_queries, position_terms)
        return scores + position_terms[None, :, :num_queries].astype(scores.dtype)


class MpnetClassifier(roberta.RobertaClassifier):
    """MPNet with its classification head, which is RoBERTa's."""

    config: MpnetConfig

    def setup_embeddings(self) -> None:
        config = self.config
        self.position_embeddings = embedding_table(config.max_position_embeddings, config)
        self.embeddings_norm = layer_norm(config)
        self.relative_attention_bias = embedding_table(
            config.relative_attention_num_buckets, config, config.num_attention_heads
        )

    def embed(self, words: Array, inputs: Batch, train: bool = False) -> Array:
        position_ids = roberta.positions_from(inputs["input_ids"], _PADDING)
        hidden = self.embeddings_norm(words + look_up(self.position_embeddings, position_ids))
        return self.hidden_dropout(hidden, deterministic=not train)

    @staticmethod
    def make_layer(config: EncoderConfig, layer: int, num_heads: int) -> EncoderLayer:
        return MpnetLayer(config, num_heads)

    def position_terms(self, layer: int, num_tokens: int) -> Array:
        """Return the bias [N, T, T] of a layer's heads; one table serves all layers."""
        positions = np.arange(num_tokens)
        distances = positions[None, :] - positions[:, None]
        of_heads = self.relative_attention_bias.embedding[
            :, np.asarray(self.config.heads_of(layer), int)
        ]
        found = buckets(distances, self.config.relative_attention_num_buckets)
        return jnp.moveaxis(of_heads[found], -1, 0)


FAMILY = Family(
    MpnetConfig,
    MpnetClassifier,
    TensorTable(
        prefix="mpnet.",
        layer="encoder.layer.{i}.",
        embeddings=(
            ("word_embeddings/embedding", "embeddings.word_embeddings.weight"),
            ("position_embeddings/embedding", "embeddings.position_embeddings.weight"),
            *norm("embeddings_norm", "embeddings.LayerNorm"),
            ("relative_attention_bias/embedding", "encoder.relative_attention_bias.weight"),
        ),
        layer_rows=layer_rows(
            query="attention.attn.q",
            key="attention.attn.k",
            value="attention.attn.v",
            attention_output="attention.attn.o",
            attention_norm="attention.LayerNorm",
            intermediate="intermediate.dense",
            output="output.dense",
            output_norm="output.LayerNorm",
        ),
        head=roberta.FAMILY.tensors.head,
        head_prefixes=("classifier.", "lm_head.", "qa_outputs."),
        ignored=r"mpnet\.pooler\..*|lm_head\..*|mpnet\.embeddings\.position_ids",
    ),
)
