"""DistilBERT (Sanh, Debut, Chaumond, Wolf, 2019): BERT's layers, no segments, a head of its own."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from flax import linen as nn

from ..config import EncoderConfig
from ..encoder import Encoder, as_logits, dense, embedding_table, layer_norm
from ..family import Family, TensorTable, layer_rows, linear, norm
from ..types import Array, Batch


@dataclasses.dataclass(frozen=True)
class DistilBertConfig(EncoderConfig):
    """A DistilBERT sequence classifier (defaults: the base model, two classes)."""

    model_type: ClassVar = "distilbert"
    architecture: ClassVar = "DistilBertForSequenceClassification"
    title: ClassVar = "DistilBERT"
    hf_names: ClassVar = {
        "hidden_size": "dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "intermediate_size": "hidden_dim",
        "hidden_act": "activation",
        "hidden_dropout_prob": "dropout",
        "attention_probs_dropout_prob": "attention_dropout",
        "classifier_dropout": "seq_classif_dropout",
        "layer_norm_eps": None,
    }
    # Another head's; and how the positions were initialised, which are stored like all others.
    ignored_settings: ClassVar = frozenset(("qa_dropout", "sinusoidal_pos_embds"))

    num_hidden_layers: int = 6
    classifier_dropout: float | None = 0.2


class DistilBertClassifier(Encoder):
    """DistilBERT with its classification head."""

    def setup_embeddings(self) -> None:
        self.position_embeddings = embedding_table(self.config.max_position_embeddings, self.config)
        self.embeddings_norm = layer_norm(self.config)

    def embed(self, words: Array, inputs: Batch, train: bool = False) -> Array:
        positions = self.position_embeddings(jnp.arange(words.shape[1]))[None]
        return self.hidden_dropout(self.embeddings_norm(words + positions), deterministic=not train)

    def setup_head(self) -> None:
        self.pre_classifier = dense(self.config.hidden_size, self.config)
        self.classifier = dense(self.config.num_labels, self.config)

    def classify(self, hidden: Array, key_mask: Array, train: bool = False) -> Array:
        pooled = nn.relu(self.pre_classifier(hidden[:, 0]))
        return as_logits(self.classifier(self.classifier_dropout(pooled, deterministic=not train)))


FAMILY = Family(
    DistilBertConfig,
    DistilBertClassifier,
    TensorTable(
        prefix="distilbert.",
        layer="transformer.layer.{i}.",
        embeddings=(
            ("word_embeddings/embedding", "embeddings.word_embeddings.weight"),
            ("position_embeddings/embedding", "embeddings.position_embeddings.weight"),
            *norm("embeddings_norm", "embeddings.LayerNorm"),
        ),
        layer_rows=layer_rows(
            query="attention.q_lin",
            key="attention.k_lin",
            value="attention.v_lin",
            attention_output="attention.out_lin",
            attention_norm="sa_layer_norm",
            intermediate="ffn.lin1",
            output="ffn.lin2",
            output_norm="output_layer_norm",
        ),
        head=(
            *linear("pre_classifier", "pre_classifier"),
            *linear("classifier", "classifier"),
        ),
        head_prefixes=("pre_classifier.", "classifier.", "qa_outputs.", "vocab_"),
        ignored=r"vocab_.*|distilbert\.embeddings\.position_ids",
    ),
)
