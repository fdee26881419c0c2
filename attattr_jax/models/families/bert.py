"""BERT (Devlin, Chang, Lee, Toutanova, NAACL 2019): words, positions and segments; a pooler."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from flax import linen as nn

from ..config import EncoderConfig
from ..encoder import Encoder, as_logits, dense, embedding_table, layer_norm, look_up
from ..family import BERT_EMBEDDINGS, BERT_LAYER, Family, TensorTable, linear
from ..types import Array, Batch


@dataclasses.dataclass(frozen=True)
class BertConfig(EncoderConfig):
    """A BERT sequence classifier (defaults: BERT-base, two classes)."""

    model_type: ClassVar = "bert"
    architecture: ClassVar = "BertForSequenceClassification"
    title: ClassVar = "BERT"
    required_settings: ClassVar = {
        "position_embedding_type": "absolute",
        "is_decoder": False,
        "add_cross_attention": False,
    }

    type_vocab_size: int = 2

    @property
    def num_segments(self) -> int:
        """How many different `token_type_ids` the model knows."""
        return self.type_vocab_size

    @property
    def reads_pairs(self) -> bool:
        """Whether the two texts of a pair can be told apart: by their segments alone."""
        return self.type_vocab_size > 1


class BertClassifier(Encoder):
    """BERT with pooler and classification head."""

    def setup_embeddings(self) -> None:
        config = self.config
        self.position_embeddings = embedding_table(config.max_position_embeddings, config)
        self.token_type_embeddings = embedding_table(config.num_segments, config)
        self.embeddings_norm = layer_norm(config)

    def embed(self, words: Array, inputs: Batch, train: bool = False) -> Array:
        positions = self.position_embeddings(jnp.arange(words.shape[1]))[None]
        segments = look_up(self.token_type_embeddings, inputs["token_type_ids"])
        hidden = self.embeddings_norm(words + positions + segments)
        return self.hidden_dropout(hidden, deterministic=not train)

    def setup_head(self) -> None:
        self.pooler = dense(self.config.hidden_size, self.config)
        self.classifier = dense(self.config.num_labels, self.config)

    def classify(self, hidden: Array, key_mask: Array, train: bool = False) -> Array:
        pooled = nn.tanh(self.pooler(hidden[:, 0]))
        return as_logits(self.classifier(self.classifier_dropout(pooled, deterministic=not train)))


FAMILY = Family(
    BertConfig,
    BertClassifier,
    TensorTable(
        prefix="bert.",
        layer="encoder.layer.{i}.",
        embeddings=BERT_EMBEDDINGS,
        layer_rows=BERT_LAYER,
        head=(
            *linear("pooler", "bert.pooler.dense"),
            *linear("classifier", "classifier"),
        ),
        head_prefixes=("cls.", "classifier.", "qa_outputs."),
        ignored=r"cls\..*|bert\.embeddings\.position_ids",
    ),
)
