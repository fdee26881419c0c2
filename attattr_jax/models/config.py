"""The geometry of a BERT classifier: frozen and hashable, so that `jax.jit` takes it as a static
argument.
"""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Mapping
from typing import Any

from ..errors import InputError, as_index

# No BERT is larger. A config.json that says so is refused before anything is made in its size.
_LARGEST_SIZE = 2**24
_LARGEST = {"num_hidden_layers": 1000, "num_attention_heads": 1000}
ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu")


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """A BERT sequence classifier, with the field names of Hugging Face's `config.json` (defaults:
    BERT-base, two classes).
    """

    vocab_size: int = 30522
    hidden_size: int = 768  # D
    num_hidden_layers: int = 12  # L
    num_attention_heads: int = 12  # N
    intermediate_size: int = 3072
    hidden_act: str = "gelu"  # the exact, erf-based one
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    classifier_dropout: float | None = None  # None: hidden_dropout_prob
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int = 0
    num_labels: int = 2  # C; with 1, the output is a number (regression)
    problem_type: str | None = (
        None  # "regression" or "single_label_classification"; None: by the number of outputs
    )
    # Of each layer, ascending, in the numbering of the whole model; None: all. Hugging Face's
    # config.json has the others, `pruned_heads`.
    kept_heads: tuple[tuple[int, ...], ...] | None = None
    # Linen's meaning: what is computed in, e.g. "bfloat16"; None: the parameters' own dtype. Not
    # part of config.json.
    dtype: str | None = None

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type == "int":
                least = 0 if field.name == "pad_token_id" else 1
                most = _LARGEST.get(field.name, _LARGEST_SIZE)
                index = as_index(value)
                if index is None or not least <= index <= most:
                    raise InputError(
                        f"{field.name} must be an integer from {least} to {most}, not {value!r:.80}"
                    )
                object.__setattr__(self, field.name, index)  # NumPy's are not JSON
            elif field.type == "float" or (
                field.name == "classifier_dropout" and value is not None
            ):
                is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
                if not (is_number and 0 <= value < 1):
                    raise InputError(
                        f"{field.name} must be a number from 0 up to 1, not {value!r:.80}"
                    )
                if not isinstance(value, (int, float)):
                    object.__setattr__(self, field.name, float(value))
        if self.hidden_size % self.num_attention_heads:
            raise InputError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads"
                f" {self.num_attention_heads}"
            )
        if self.pad_token_id >= self.vocab_size:
            raise InputError(
                f"pad_token_id {self.pad_token_id} is not below vocab_size {self.vocab_size}"
            )
        if self.dtype not in (None, "float32", "bfloat16", "float16", "float64"):
            raise InputError(f"dtype {self.dtype!r} is not supported; use float32 or bfloat16")
        if self.hidden_act not in ACTIVATIONS:
            raise InputError(
                f"hidden_act {self.hidden_act!r:.80} is not supported; known:"
                f" {', '.join(ACTIVATIONS)}"
            )
        unusable = unusable_problem_type(self.problem_type, self.num_labels)
        if unusable is not None:
            raise InputError(unusable)
        if self.kept_heads is not None:
            object.__setattr__(self, "kept_heads", self._checked_kept_heads())

    def _checked_kept_heads(self) -> tuple[tuple[int, ...], ...] | None:
        every = tuple(range(self.num_attention_heads))
        try:
            kept = tuple({as_index(head) for head in heads} for heads in self.kept_heads)
        except TypeError:
            kept = ()
        if len(kept) != self.num_hidden_layers or not all(heads <= set(every) for heads in kept):
            expected = (
                f"{self.num_hidden_layers} layers, some of the heads 0 to {every[-1]} of each"
            )
            raise InputError(
                f"kept_heads must be a list for each of {expected}, not {self.kept_heads!r:.200}"
            )
        kept = tuple(tuple(sorted(heads)) for heads in kept)
        return None if all(heads == every for heads in kept) else kept

    @property
    def head_size(self) -> int:
        """K, the width of one head."""
        return self.hidden_size // self.num_attention_heads

    def heads_of(self, layer: int) -> tuple[int, ...]:
        """Return the heads that a layer has, in the numbering of the whole model."""
        return (
            tuple(range(self.num_attention_heads))
            if self.kept_heads is None
            else self.kept_heads[layer]
        )

    @classmethod
    def from_hf(cls, fields: dict[str, Any]) -> BertConfig:
        """Read the contents of a Hugging Face `config.json`.

        Raises:
          InputError: the model is not a BERT encoder, or a field has a value that this
            implementation does not have.
        """
        if fields.get("model_type") != "bert":
            raise InputError(
                f"model_type is {fields.get('model_type')!r}; only 'bert' models can be used"
            )
        for name, supported in (
            ("position_embedding_type", "absolute"),
            ("is_decoder", False),
            ("add_cross_attention", False),
        ):
            if fields.get(name) not in (None, supported):
                raise InputError(f"{name} is {fields[name]!r}; only {supported!r} is supported")
        known = {field.name for field in dataclasses.fields(cls)} - {
            "num_labels",
            "dtype",
            "kept_heads",
        }
        given = {
            name: value for name, value in fields.items() if name in known and value is not None
        }
        config = cls(**given, num_labels=num_labels_of(fields))
        pruned = fields.get("pruned_heads")
        return (
            config
            if pruned in (None, {})
            else dataclasses.replace(config, kept_heads=_without(pruned, config))
        )

    def to_hf(self, id2label: dict[int, str]) -> dict[str, Any]:
        """Return the contents of a `config.json` that `transformers` loads as
        `BertForSequenceClassification`.
        """
        fields = dataclasses.asdict(self)
        del fields["num_labels"], fields["dtype"], fields["kept_heads"]
        if self.problem_type is None:
            del fields["problem_type"]
        if self.kept_heads is not None:
            every = set(range(self.num_attention_heads))
            removed = {
                str(layer): sorted(every - set(kept)) for layer, kept in enumerate(self.kept_heads)
            }
            fields["pruned_heads"] = {layer: heads for layer, heads in removed.items() if heads}
        return {
            "architectures": ["BertForSequenceClassification"],
            "model_type": "bert",
            **fields,
            "id2label": {str(index): name for index, name in sorted(id2label.items())},
            "label2id": {name: index for index, name in sorted(id2label.items())},
        }


def num_labels_of(fields: Mapping[str, Any]) -> int:
    """Return the number of outputs that a Hugging Face `config.json` says."""
    labels = fields.get("id2label")
    return len(labels) if labels else fields.get("num_labels", 2)


def unusable_problem_type(problem_type: Any, num_labels: int) -> str | None:
    """Return why outputs of this Hugging Face `problem_type` cannot be explained, None where they
    can.
    """
    if problem_type == "regression" and num_labels != 1:
        return (
            f"problem_type is regression with {num_labels} outputs; these have no probabilities,"
            " and only one number can be explained"
        )
    if problem_type not in (None, "regression", "single_label_classification"):
        return (
            f"problem_type is {problem_type!r:.80}; one class is explained here, from a softmax"
            " over all"
        )
    return None


def _without(pruned: Any, config: BertConfig) -> tuple[tuple[int, ...], ...]:
    """Return the heads kept, given Hugging Face's `pruned_heads`: {layer: [head, …]}, the layer as
    text.
    """
    every = range(config.num_attention_heads)
    kept = [set(every) for _ in range(config.num_hidden_layers)]
    is_mapping = isinstance(pruned, dict) and all(
        isinstance(heads, list) for heads in pruned.values()
    )
    for layer, heads in pruned.items() if is_mapping else ():
        exists = str(layer) in map(str, range(len(kept)))
        if not exists or not all(type(head) is int and head in every for head in heads):
            raise InputError(
                f"pruned_heads names heads {heads} of layer {layer!r}; the model had layers 0 to"
                f" {len(kept) - 1}, heads 0 to {every[-1]}"
            )
        kept[int(layer)] -= set(heads)
    if not is_mapping:
        raise InputError(f"pruned_heads must be {{layer: [head, …]}}, not {pruned!r}")
    return tuple(tuple(sorted(heads)) for heads in kept)
