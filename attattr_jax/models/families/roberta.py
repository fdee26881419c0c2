"""RoBERTa (Liu et al., 2019): BERT with positions counted from the padding id, and another head."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from flax import linen as nn

from ...errors import InputError
from ..config import EncoderConfig
from ..encoder import Encoder, as_logits, dense, embedding_table, layer_norm, look_up
from ..family import BERT_EMBEDDINGS, BERT_LAYER, Family, TensorTable, linear
from ..types import Array, Batch


@dataclasses.dataclass(frozen=True)
class RobertaConfig(EncoderConfig):
    """A RoBERTa sequence classifier (defaults: the base model, two classes)."""

    model_type: ClassVar = "roberta"
    architecture: ClassVar = "RobertaForSequenceClassification"
    title: ClassVar = "RoBERTa"
    required_settings: ClassVar = {
        "position_embedding_type": "absolute",
        "is_decoder": False,
        "add_cross_attention": False,
    }
    hf_defaults: ClassVar = {
        "max_position_embeddings": 512,
        "layer_norm_eps": 1e-12,
        "type_vocab_size": 2,
    }
    counts_positions_from_padding: ClassVar = True

    vocab_size: int = 50265
    max_position_embeddings: int = 514
    layer_norm_eps: float = 1e-5
    pad_token_id: int = 1
    type_vocab_size: int = 1

    def __post_init__(self):
        super().__post_init__()
        if self.max_length < 1:
            raise InputError(
                f"max_position_embeddings {self.max_position_embeddings} leaves no position after"
                f" pad_token_id {self.pad_token_id}"
            )

    @property
    def max_length(self) -> int:
        """The largest number of tokens: the first position is the one after pad_token_id."""
        return self.max_position_embeddings - self.pad_token_id - 1

    @property
    def num_segments(self) -> int:
        """How many different `token_type_ids` the model knows."""
        return self.type_vocab_size


def positions_from(input_ids: Array, padding: int) -> Array:
    """Return the positions [B, T]: `padding` of padding; tokens are counted from the one after."""
    is_token = (input_ids != padding).astype(jnp.int32)
    return jnp.cumsum(is_token, axis=1) * is_token + padding


class RobertaClassifier(Encoder):
    """RoBERTa with its classification head."""

    def setup_embeddings(self) -> None:
        config = self.config
        self.position_embeddings = embedding_table(config.max_position_embeddings, config)
        self.token_type_embeddings = embedding_table(config.num_segments, config)
        self.embeddings_norm = layer_norm(config)

    def embed(self, words: Array, inputs: Batch, train: bool = False) -> Array:
        position_ids = positions_from(inputs["input_ids"], self.config.pad_token_id)
        positions = look_up(self.position_embeddings, position_ids)
        segments = look_up(self.token_type_embeddings, inputs["token_type_ids"])
        hidden = self.embeddings_norm(words + positions + segments)
        return self.hidden_dropout(hidden, deterministic=not train)

    def setup_head(self) -> None:
        self.classifier_dense = dense(self.config.hidden_size, self.config)
        self.classifier = dense(self.config.num_labels, self.config)

    def classify(self, hidden: Array, key_mask: Array, train: bool = False) -> Array:
        pooled = self.classifier_dropout(hidden[:, 0], deterministic=not train)
        pooled = nn.tanh(self.classifier_dense(pooled))
        return as_logits(self.classifier(self.classifier_dropout(pooled, deterministic=not train)))


FAMILY = Family(
    RobertaConfig,
    RobertaClassifier,
    TensorTable(
        prefix="roberta.",
        layer="encoder.layer.{i}.",
        embeddings=BERT_EMBEDDINGS,
        layer_rows=BERT_LAYER,
        head=(
            *linear("classifier_dense", "classifier.dense"),
            *linear("classifier", "classifier.out_proj"),
        ),
        head_prefixes=("classifier.", "lm_head.", "qa_outputs."),
        ignored=r"roberta\.pooler\..*|lm_head\..*|roberta\.embeddings\.position_ids",
    ),
)
