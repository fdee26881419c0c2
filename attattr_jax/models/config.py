"""The geometry of a classifier: frozen and hashable, a static argument of `jax.jit`.

`EncoderConfig` is what every family of encoders has; a family adds its own fields and states its
facts (`families/`). Shapes: D hidden size, L layers, N heads, K head size, C classes.
"""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from ..errors import InputError, as_index

# No encoder is larger. A config.json that says so is refused before anything is made in its size.
_LARGEST_SIZE = 2**24
_LARGEST = {"num_hidden_layers": 1000, "num_attention_heads": 1000}

PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")

ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu")

# What config.json says beside the geometry: of the file, of training, of generating text, of other
# tasks' heads, of how `transformers` computes.
_IGNORED_SETTINGS = frozenset(
    """
    _attn_implementation _attn_implementation_autoset _commit_hash _name_or_path adapters
    architectures attn_implementation auto_map bad_words_ids begin_suppress_tokens bos_token_id
    chunk_size_feed_forward cls_token_id custom_pipelines decoder_start_token_id directionality
    diversity_penalty do_sample dtype early_stopping encoder_no_repeat_ngram_size eos_token_id
    exponential_decay_length_penalty finetuning_task forced_bos_token_id forced_eos_token_id
    gradient_checkpointing id2label is_encoder_decoder label2id language length_penalty license
    max_length min_length mask_token_id model_type name no_repeat_ngram_size num_beam_groups
    num_beams num_labels num_return_sequences output_attentions output_hidden_states output_past
    output_scores pooler_fc_size pooler_num_attention_heads pooler_num_fc_layers
    pooler_size_per_head pooler_type prefix pretrained_config_archive_map pruned_heads
    quantization_config remove_invalid_values repetition_penalty return_dict
    return_dict_in_generate sbert_ce_default_activation_function sentence_transformers sep_token_id
    suppress_tokens task_specific_params temperature
    tf_legacy_loss tie_encoder_decoder tie_weights tie_weights_ tie_word_embeddings tokenizer_class
    top_k top_p torch_dtype torchscript transformers_version typical_p unk_token_id use_bfloat16
    use_cache
    """.split()
)

# Fields that are not read from, and written to, `config.json` under a name of their own.
_DERIVED = ("num_labels", "dtype", "kept_heads")


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """A sequence classifier, with the field names of Hugging Face's BERT."""

    model_type: ClassVar[str]  # of config.json
    architecture: ClassVar[str]  # the class of `transformers` that reads what is saved
    title: ClassVar[str]  # the family's name in error messages
    # Where config.json has another name than the field; None: it is fixed, and not written there.
    hf_names: ClassVar[Mapping[str, str | None]] = {}
    # Values of config.json that are supported; a missing value is as good.
    required_settings: ClassVar[Mapping[str, Any]] = {}
    # What a missing value means to `transformers`, where a field here has another default.
    hf_defaults: ClassVar[Mapping[str, Any]] = {}
    # Values that change nothing that is computed here, beside `_IGNORED_SETTINGS`.
    ignored_settings: ClassVar[frozenset[str]] = frozenset()
    # Whether positions are counted from pad_token_id, which then must be the tokenizer's.
    counts_positions_from_padding: ClassVar[bool] = False

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
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int = 0
    num_labels: int = 2  # C; with 1, the output is a number (regression)
    # "regression", "single_label_classification" or "multi_label_classification"; None: by the
    # number of outputs, one class of many
    problem_type: str | None = None
    # The remaining heads of each layer, ascending, in the numbering of the whole model; None: all.
    # Hugging Face's config.json has those that were removed, `pruned_heads`.
    kept_heads: tuple[tuple[int, ...], ...] | None = None
    # As in Linen: what is computed in, e.g. "bfloat16"; None: the parameters' own dtype. Not part
    # of config.json.
    dtype: str | None = None

    def __post_init__(self):
        for field in dataclasses.fields(self):
            self._check_number(field)
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

    def _check_number(self, field: dataclasses.Field) -> None:
        """Check a field that is a number, and store it as Python's: NumPy's are not JSON."""
        value = getattr(self, field.name)
        if field.type == "int":
            least = 0 if field.name == "pad_token_id" else 1
            most = _LARGEST.get(field.name, _LARGEST_SIZE)
            index = as_index(value)
            if index is None or not least <= index <= most:
                raise InputError(
                    f"{field.name} must be an integer from {least} to {most}, not {value!r:.80}"
                )
            object.__setattr__(self, field.name, index)
        elif field.type == "float" or (field.name == "classifier_dropout" and value is not None):
            is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
            if not (is_number and 0 <= float(value) < 1):
                raise InputError(f"{field.name} must be a number from 0 up to 1, not {value!r:.80}")
            if not isinstance(value, (int, float)):
                object.__setattr__(self, field.name, float(value))

    def _checked_kept_heads(self) -> tuple[tuple[int, ...], ...] | None:
        all_heads = tuple(range(self.num_attention_heads))
        try:
            kept = tuple({as_index(head) for head in heads} for heads in self.kept_heads or ())
        except TypeError:
            kept = ()
        if len(kept) != self.num_hidden_layers or not all(
            heads <= set(all_heads) for heads in kept
        ):
            expected = (
                f"{self.num_hidden_layers} layers, some of the heads 0 to {all_heads[-1]} of each"
            )
            raise InputError(
                f"kept_heads must be a list for each of {expected}, not {self.kept_heads!r:.200}"
            )
        ordered = tuple(tuple(head for head in all_heads if head in heads) for heads in kept)
        return None if all(heads == all_heads for heads in ordered) else ordered

    @property
    def is_multi_label(self) -> bool:
        """Whether each output is a label that holds or not, by a sigmoid of its own."""
        return self.problem_type == "multi_label_classification"

    @property
    def outputs(self) -> str:
        """What kind of outputs the model has: one of `PROBLEM_TYPES`."""
        if self.is_multi_label:
            return "multi_label_classification"
        return "regression" if self.num_labels == 1 else "single_label_classification"

    @property
    def reads_first_row(self) -> bool:
        """Whether the classifier reads the first row of the last layer alone.

        The others then need not be computed. False where it takes a mean over the tokens.
        """
        return True

    @property
    def embedding_width(self) -> int:
        """E, the width of the word embeddings."""
        return self.hidden_size

    @property
    def shares_layers(self) -> bool:
        """Whether several layers have the same parameters: a head cannot be cut out of one."""
        return len(self.layer_names) < self.num_hidden_layers

    @property
    def layer_names(self) -> tuple[str, ...]:
        """Under what names the parameters of layers stand in the tree, in the order of layers."""
        names = map(self.layer_name, range(self.num_hidden_layers))
        return tuple(dict.fromkeys(names))

    @property
    def head_size(self) -> int:
        """K, the width of one head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def max_length(self) -> int:
        """The largest number of tokens that the model has positions for."""
        return self.max_position_embeddings

    @property
    def num_segments(self) -> int:
        """How many different `token_type_ids` the model knows."""
        return 1

    @property
    def reads_pairs(self) -> bool:
        """Whether the model can tell the two texts of a pair apart."""
        return True

    def heads_of(self, layer: int) -> tuple[int, ...]:
        """Return the heads that a layer has, in the numbering of the whole model."""
        if self.kept_heads is None:
            return tuple(range(self.num_attention_heads))
        return self.kept_heads[layer]

    def num_queries(self, layer: int) -> int | None:
        """Return how many rows of a layer's attention the output depends on; None: all."""
        is_last = layer == self.num_hidden_layers - 1
        return 1 if is_last and self.reads_first_row else None

    def layer_name(self, layer: int) -> str:
        """Return under what name a layer's parameters stand in the tree.

        The number is that of the first layer that has them.
        """
        return f"layers_{layer}"

    def layer_kind(self, layer: int) -> int:
        """Return the first layer that computes as this one does, with other parameters.

        Programs that see one layer are compiled for each kind.
        """
        return 0

    def has_parameter(self, path: str) -> bool:
        """Return whether this model has a parameter that others of its family have."""
        return True

    @classmethod
    def from_hf(cls, fields: dict[str, Any]) -> Self:
        """Read the contents of a Hugging Face `config.json`.

        Raises:
          InputError: the model is of another family, or a field has a value that this
            implementation does not have.
        """
        if fields.get("model_type") != cls.model_type:
            raise InputError(
                f"model_type is {fields.get('model_type')!r}; only {cls.model_type!r} models can be"
                " used"
            )
        given = {name: value for name, value in fields.items() if value is not None}
        fields = {**cls.hf_defaults, **given}
        for name, supported in cls.required_settings.items():
            if fields.get(name, supported) != supported:
                raise InputError(f"{name} is {fields[name]!r}; only {supported!r} is supported")
        cls._check_unknown(fields)
        values = {name: fields[hf_name] for name, hf_name in cls._hf_fields() if hf_name in fields}
        config = cls(**values, num_labels=num_labels_of(fields))
        pruned = fields.get("pruned_heads")
        if pruned in (None, {}):
            return config
        return dataclasses.replace(config, kept_heads=_remaining_heads(pruned, config))

    @classmethod
    def _check_unknown(cls, fields: Mapping[str, Any]) -> None:
        """Raise an InputError for a setting that may change numbers and that is not built."""
        built = {hf_name for _, hf_name in cls._hf_fields()} | set(cls.required_settings)
        known = built | cls.ignored_settings | _IGNORED_SETTINGS
        # What is off, or none, adds nothing.
        unknown = [name for name, value in fields.items() if name not in known and value]
        if unknown:
            raise InputError(
                f"{unknown[0]} is {fields[unknown[0]]!r:.80}, which {cls.title} here does not know:"
                " remove it if the model computes the same without it"
            )

    @classmethod
    def _hf_fields(cls) -> list[tuple[str, str]]:
        """Return (field, name in config.json) of every field that stands there."""
        names = [(field.name, cls.hf_names.get(field.name, field.name)) for field in _fields(cls)]
        return [(name, hf_name) for name, hf_name in names if hf_name is not None]

    def to_hf(self, id2label: dict[int, str]) -> dict[str, Any]:
        """Return the contents of a `config.json` that `transformers` loads as `architecture`."""
        fields = {hf_name: getattr(self, name) for name, hf_name in self._hf_fields()}
        if self.problem_type is None:
            del fields["problem_type"]
        if self.kept_heads is not None:
            all_heads = set(range(self.num_attention_heads))
            removed = {
                str(layer): sorted(all_heads - set(kept))
                for layer, kept in enumerate(self.kept_heads)
            }
            fields["pruned_heads"] = {layer: heads for layer, heads in removed.items() if heads}
        # Settings without which `transformers` would take another value.
        stated = [name for name in self.required_settings if name in self.hf_defaults]
        return {
            "architectures": [self.architecture],
            "model_type": self.model_type,
            **{name: self.required_settings[name] for name in stated},
            **fields,
            "id2label": {str(index): name for index, name in sorted(id2label.items())},
            "label2id": {name: index for index, name in sorted(id2label.items())},
        }


def _fields(config: type[EncoderConfig]) -> list[dataclasses.Field]:
    return [field for field in dataclasses.fields(config) if field.name not in _DERIVED]


def num_labels_of(fields: Mapping[str, Any]) -> int:
    """Return the number of outputs that a Hugging Face `config.json` says."""
    labels = fields.get("id2label")
    return len(labels) if labels else fields.get("num_labels", 2)


def unusable_problem_type(problem_type: Any, num_labels: int) -> str | None:
    """Return why outputs of this `problem_type` cannot be explained; None where they can."""
    if problem_type == "regression" and num_labels != 1:
        return (
            f"problem_type is regression with {num_labels} outputs; these have no probabilities,"
            " and only one number can be explained"
        )
    if problem_type not in (None, *PROBLEM_TYPES):
        return f"problem_type is {problem_type!r:.80}; known: {', '.join(PROBLEM_TYPES)}"
    if problem_type == "multi_label_classification" and num_labels == 1:
        return "problem_type is multi_label_classification with one output"
    return None


def _remaining_heads(pruned: Any, config: EncoderConfig) -> tuple[tuple[int, ...], ...]:
    """Return the heads kept, given Hugging Face's `pruned_heads`.

    Args:
      pruned: {layer: [head, …]}, the layer as text.
      config: the geometry of the whole model.
    """
    all_heads = range(config.num_attention_heads)
    kept = [set(all_heads) for _ in range(config.num_hidden_layers)]
    if not isinstance(pruned, dict) or not all(
        isinstance(heads, list) for heads in pruned.values()
    ):
        raise InputError(f"pruned_heads must be {{layer: [head, …]}}, not {pruned!r}")
    for layer, heads in pruned.items():
        exists = str(layer) in map(str, range(len(kept)))
        if not exists or not all(type(head) is int and head in all_heads for head in heads):
            raise InputError(
                f"pruned_heads names heads {heads} of layer {layer!r}; the model had layers 0 to"
                f" {len(kept) - 1}, heads 0 to {all_heads[-1]}"
            )
        kept[int(layer)] -= set(heads)
    return tuple(tuple(sorted(heads)) for heads in kept)
