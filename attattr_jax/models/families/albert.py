"""ALBERT (Lan et al., ICLR 2020): layers share their parameters; embeddings are narrow."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from ...errors import InputError
from ..encoder import dense
from ..family import BERT_EMBEDDINGS, Family, TensorTable, layer_rows, linear
from ..types import Array, Batch
from . import bert


@dataclasses.dataclass(frozen=True)
class AlbertConfig(bert.BertConfig):
    """An ALBERT sequence classifier (defaults: the base model, version 2, two classes)."""

    model_type: ClassVar = "albert"
    architecture: ClassVar = "AlbertForSequenceClassification"
    title: ClassVar = "ALBERT"
    hf_names: ClassVar = {"classifier_dropout": "classifier_dropout_prob"}
    required_settings: ClassVar = {"position_embedding_type": "absolute", "inner_group_num": 1}
    hf_defaults: ClassVar = {
        "hidden_size": 4096,
        "num_attention_heads": 64,
        "intermediate_size": 16384,
        "classifier_dropout_prob": 0.1,
    }
    ignored_settings: ClassVar = frozenset(
        "down_scale_factor gap_size layers_to_keep net_structure_type num_memory_blocks".split()
    )

    vocab_size: int = 30000
    embedding_size: int = 128
    num_hidden_groups: int = 1  # layers of a group share their parameters
    hidden_act: str = "gelu_new"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    classifier_dropout: float | None = 0.1

    def __post_init__(self):
        super().__post_init__()
        if self.num_hidden_groups > self.num_hidden_layers:
            raise InputError(
                f"num_hidden_groups {self.num_hidden_groups} is more than num_hidden_layers"
                f" {self.num_hidden_layers}"
            )
        if self.kept_heads is not None and self.shares_layers:
            raise InputError(
                "pruned_heads: layers of ALBERT share their parameters, so that a head cannot be"
                " removed from one of them"
            )

    @property
    def embedding_width(self) -> int:
        """E, the width of the word embeddings."""
        return self.embedding_size

    def layer_name(self, layer: int) -> str:
        """Return under what name a layer's parameters stand: that of its group's first layer."""
        groups, layers = self.num_hidden_groups, self.num_hidden_layers
        group = layer * groups // layers
        return f"layers_{-(-group * layers // groups)}"


class AlbertClassifier(bert.BertClassifier):
    """ALBERT with pooler and classification head."""

    def setup_embeddings(self) -> None:
        super().setup_embeddings()
        self.embeddings_project = dense(self.config.hidden_size, self.config)

    def embed(self, words: Array, inputs: Batch, train: bool = False) -> Array:
        return self.embeddings_project(super().embed(words, inputs, train))


FAMILY = Family(
    AlbertConfig,
    AlbertClassifier,
    TensorTable(
        prefix="albert.",
        layer="encoder.albert_layer_groups.{i}.albert_layers.0.",
        embeddings=(
            *BERT_EMBEDDINGS,
            *linear("embeddings_project", "encoder.embedding_hidden_mapping_in"),
        ),
        layer_rows=layer_rows(
            query="attention.query",
            key="attention.key",
            value="attention.value",
            attention_output="attention.dense",
            attention_norm="attention.LayerNorm",
            intermediate="ffn",
            output="ffn_output",
            output_norm="full_layer_layer_norm",
        ),
        head=(
            *linear("pooler", "albert.pooler"),
            *linear("classifier", "classifier"),
        ),
        head_prefixes=("classifier.", "predictions.", "sop_classifier.", "qa_outputs."),
        ignored=r"(predictions|sop_classifier)\..*|albert\.embeddings\.position_ids",
    ),
)
