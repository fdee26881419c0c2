"""Parameters of a model to and from the tensors of a Hugging Face checkpoint, through one table."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import numpy as np

from ..errors import InputError
from ..runtime.text import shortened
from .bert import init_params, param_shapes
from .config import BertConfig

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
