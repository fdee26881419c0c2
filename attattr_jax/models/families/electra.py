"""ELECTRA (Clark, Luong, Le, Manning, ICLR 2020): BERT with narrow embeddings, and another head."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from ..encoder import ACTIVATIONS, as_logits, dense
from ..family import BERT_EMBEDDINGS, BERT_LAYER, Family, TensorTable, linear
from ..types import Array, Batch
from . import bert


@dataclasses.dataclass(frozen=True)
class ElectraConfig(bert.BertConfig):
    """An ELECTRA sequence classifier (defaults: the small discriminator, two classes)."""

    model_type: ClassVar = "electra"
    architecture: ClassVar = "ElectraForSequenceClassification"
    title: ClassVar = "ELECTRA"
    # Of other heads than the sequence classifier's.
    ignored_settings: ClassVar = frozenset(
        "summary_activation summary_last_dropout summary_type summary_use_proj".split()
    )

    hidden_size: int = 256
    num_attention_heads: int = 4
    intermediate_size: int = 1024
    embedding_size: int = 128

    @property
    def embedding_width(self) -> int:
        """E, the width of the word embeddings."""
        return self.embedding_size

    def has_parameter(self, path: str) -> bool:
        """Return whether the model has a parameter: embeddings as wide as D are not projected."""
        return not path.startswith("embeddings_project/") or self.embedding_size != self.hidden_size


class ElectraClassifier(bert.BertClassifier):
    """ELECTRA with its classification head."""

    def setup_embeddings(self) -> None:
        super().setup_embeddings()
        if self.config.has_parameter("embeddings_project/kernel"):
            self.embeddings_project = dense(self.config.hidden_size, self.config)

    def embed(self, words: Array, inputs: Batch, train: bool = False) -> Array:
        hidden = super().embed(words, inputs, train)
        is_projected = self.config.has_parameter("embeddings_project/kernel")
        return self.embeddings_project(hidden) if is_projected else hidden

    def setup_head(self) -> None:
        self.classifier_dense = dense(self.config.hidden_size, self.config)
        self.classifier = dense(self.config.num_labels, self.config)

    def classify(self, hidden: Array, key_mask: Array, train: bool = False) -> Array:
        pooled = self.classifier_dropout(hidden[:, 0], deterministic=not train)
        # The exact GELU, whatever the layers' activation is.
        pooled = ACTIVATIONS["gelu"](self.classifier_dense(pooled))
        return as_logits(self.classifier(self.classifier_dropout(pooled, deterministic=not train)))


FAMILY = Family(
    ElectraConfig,
    ElectraClassifier,
    TensorTable(
        prefix="electra.",
        layer="encoder.layer.{i}.",
        embeddings=(
            *BERT_EMBEDDINGS,
            *linear("embeddings_project", "embeddings_project"),
        ),
        layer_rows=BERT_LAYER,
        head=(
            *linear("classifier_dense", "classifier.dense"),
            *linear("classifier", "classifier.out_proj"),
        ),
        head_prefixes=("classifier.", "discriminator_predictions.", "generator_", "qa_outputs."),
        ignored=r"discriminator_predictions\..*|generator_.*|electra\.embeddings\.position_ids",
    ),
)
