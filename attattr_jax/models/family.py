"""A family of models: configuration, encoder, and the names of its tensors in a checkpoint."""

from __future__ import annotations

import dataclasses
import re

from .config import EncoderConfig
from .encoder import Encoder

# (parameter, tensor): the path in the parameter tree, the name in a checkpoint.
Rows = tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class TensorTable:
    """Flax parameter ↔ Hugging Face tensor. Kernels are stored transposed by PyTorch.

    `{i}` stands for the layer. Names of `embeddings` come after `prefix`, those of `layer_rows`
    after `prefix` and `layer`; those of the head are whole.
    """

    prefix: str  # of the encoder's tensors, which encoders saved by themselves do not have
    layer: str  # of a layer's tensors
    embeddings: Rows
    layer_rows: Rows
    # The parts of the classification head in order, each under one name in the parameter tree. The
    # last one has a row for each class.
    head: Rows
    # Beside the encoder's: where the tensors of this and other heads begin.
    head_prefixes: tuple[str, ...]
    # Tensors that a checkpoint may have and a classifier does not use (a regular expression).
    ignored: str

    def rows(self, config: EncoderConfig) -> list[tuple[str, str]]:
        """Return (parameter, tensor) of a whole model."""
        layers = [
            (f"{config.layer_name(i)}/{path}", self.prefix + self.layer.format(i=i) + name)
            for i in range(config.num_hidden_layers)
            for path, name in self.layer_rows
        ]
        embeddings = [(path, self.prefix + name) for path, name in self.embeddings]
        return [*embeddings, *layers, *self.head]

    @property
    def head_parts(self) -> tuple[str, ...]:
        """The names of the head's parts in the parameter tree, in order."""
        return tuple(dict.fromkeys(path.split("/")[0] for path, _ in self.head))

    @property
    def encoder_prefixes(self) -> tuple[str, ...]:
        """How the names of an encoder's tensors begin, with `prefix` and without."""
        in_head = [name.removeprefix(self.prefix) for _, name in self.head if self._is_inside(name)]
        inside = [*(name for _, name in self.embeddings), self.layer, *in_head]
        return (self.prefix, *dict.fromkeys(name.split(".")[0] + "." for name in inside))

    def _is_inside(self, name: str) -> bool:
        return name.startswith(self.prefix)

    @property
    def layer_pattern(self) -> str:
        """A regular expression for the beginning of a layer's tensors, without `prefix`."""
        return re.escape(self.layer).replace(re.escape("{i}"), r"(\d+)")


# Names of BERT that many families share: of the embeddings, and of a layer.
BERT_EMBEDDINGS: Rows = (
    ("word_embeddings/embedding", "embeddings.word_embeddings.weight"),
    ("position_embeddings/embedding", "embeddings.position_embeddings.weight"),
    ("token_type_embeddings/embedding", "embeddings.token_type_embeddings.weight"),
    ("embeddings_norm/scale", "embeddings.LayerNorm.weight"),
    ("embeddings_norm/bias", "embeddings.LayerNorm.bias"),
)
BERT_LAYER: Rows = (
    ("query/kernel", "attention.self.query.weight"),
    ("query/bias", "attention.self.query.bias"),
    ("key/kernel", "attention.self.key.weight"),
    ("key/bias", "attention.self.key.bias"),
    ("value/kernel", "attention.self.value.weight"),
    ("value/bias", "attention.self.value.bias"),
    ("attention_output/kernel", "attention.output.dense.weight"),
    ("attention_output_bias", "attention.output.dense.bias"),
    ("attention_norm/scale", "attention.output.LayerNorm.weight"),
    ("attention_norm/bias", "attention.output.LayerNorm.bias"),
    ("intermediate/kernel", "intermediate.dense.weight"),
    ("intermediate/bias", "intermediate.dense.bias"),
    ("output/kernel", "output.dense.weight"),
    ("output/bias", "output.dense.bias"),
    ("output_norm/scale", "output.LayerNorm.weight"),
    ("output_norm/bias", "output.LayerNorm.bias"),
)


@dataclasses.dataclass(frozen=True)
class Family:
    """One family of models."""

    config: type[EncoderConfig]
    encoder: type[Encoder]
    tensors: TensorTable
