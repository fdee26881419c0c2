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
    after `prefix` and `layer`; those of the head are whole. `name[1/3]` is the second of three
    equal parts of a tensor, along its first axis.
    """

    prefix: str  # of the encoder's tensors, which encoders saved by themselves do not have
    layer: str  # of a layer's tensors
    embeddings: Rows  # the words first, and all else of the encoder outside its layers
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
            (f"{layer_name}/{path}", self.prefix + self.layer.format(i=number) + name)
            for number, layer_name in enumerate(config.layer_names)
            for path, name in self.layer_rows
        ]
        embeddings = [(path, self.prefix + name) for path, name in self.embeddings]
        rows = [*embeddings, *layers, *self.head]
        return [(path, name) for path, name in rows if config.has_parameter(path)]

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


def linear(path: str, name: str) -> Rows:
    """Return the rows of a linear layer with bias."""
    return ((f"{path}/kernel", f"{name}.weight"), (f"{path}/bias", f"{name}.bias"))


def norm(path: str, name: str) -> Rows:
    """Return the rows of a LayerNorm with bias."""
    return ((f"{path}/scale", f"{name}.weight"), (f"{path}/bias", f"{name}.bias"))


def layer_rows(
    query: str,
    key: str,
    value: str,
    attention_output: str,
    attention_norm: str,
    intermediate: str,
    output: str,
    output_norm: str,
) -> Rows:
    """Return the rows of an `EncoderLayer` whose parts have these names."""
    return (
        *linear("query", query),
        *linear("key", key),
        *linear("value", value),
        ("attention_output/kernel", f"{attention_output}.weight"),
        ("attention_output_bias", f"{attention_output}.bias"),
        *norm("attention_norm", attention_norm),
        *linear("intermediate", intermediate),
        *linear("output", output),
        *norm("output_norm", output_norm),
    )


# Names of BERT that many families share: of the embeddings, and of a layer.
BERT_EMBEDDINGS: Rows = (
    ("word_embeddings/embedding", "embeddings.word_embeddings.weight"),
    ("position_embeddings/embedding", "embeddings.position_embeddings.weight"),
    ("token_type_embeddings/embedding", "embeddings.token_type_embeddings.weight"),
    *norm("embeddings_norm", "embeddings.LayerNorm"),
)
BERT_LAYER = layer_rows(
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    attention_output="attention.output.dense",
    attention_norm="attention.output.LayerNorm",
    intermediate="intermediate.dense",
    output="output.dense",
    output_norm="output.LayerNorm",
)


@dataclasses.dataclass(frozen=True)
class Family:
    """One family of models."""

    config: type[EncoderConfig]
    encoder: type[Encoder]
    tensors: TensorTable
