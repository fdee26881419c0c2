"""Parameters of a model: new ones, and to and from the tensors of a Hugging Face checkpoint.

Each family has one table of names (`family.TensorTable`). Every tensor must match it in both
directions, except those that the table ignores.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from ..errors import InputError
from ..runtime.text import shortened
from .config import EncoderConfig
from .families import encoder_of, family_of
from .family import TensorTable
from .types import Array, Params

_OLD_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
# What DataParallel and torch.compile put into the names.
_WRAPPER = re.compile(r"(?<![^.])(?:module|_orig_mod)\.")
_PART = re.compile(r"(?P<whole>.+)\[(?P<number>\d)/(?P<count>\d)\]")  # see TensorTable
_MOST_SHOWN = 12  # mismatches that an error message names

Tensors = Mapping[str, np.ndarray]


def init_params(config: EncoderConfig, key: Array) -> Params:
    """Return freshly initialised parameters, normal(0, initializer_range) as BERT's.

    Args:
      config: the geometry.
      key: from `jax.random.key`.
    """
    tokens = jnp.zeros((1, 2), jnp.int32)
    batch = {"input_ids": tokens, "attention_mask": tokens, "token_type_ids": tokens}
    return jax.jit(encoder_of(config).init)(key, batch)["params"]


def param_shapes(config: EncoderConfig) -> Params:
    """Return the parameter tree as `jax.ShapeDtypeStruct`s; computes nothing."""
    return jax.eval_shape(lambda: init_params(config, jax.random.key(0)))


def _flat(params: Params) -> dict[str, Any]:
    """Return {path: value} of a tree of parameters."""
    return flax.traverse_util.flatten_dict(params, sep="/")


def to_hf_tensors(params: Params, config: EncoderConfig) -> dict[str, np.ndarray]:
    """Return the parameters as the state dict of `config.architecture`, of NumPy arrays."""
    flat = _flat(params)
    tensors: dict[str, np.ndarray] = {}
    for path, name in family_of(config).tensors.rows(config):
        value = np.asarray(flat.pop(path))
        value = np.ascontiguousarray(value.T if path.endswith("/kernel") else value)
        part = _PART.fullmatch(name)
        if part is None:
            tensors[name] = value
        else:  # parts come in order
            before = [tensors[part["whole"]]] if part["number"] != "0" else []
            tensors[part["whole"]] = np.concatenate([*before, value])
    assert not flat, f"parameters that the table does not name: {sorted(flat)}"
    return tensors


def _divided(tensors: Tensors, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Return the tensors with those that `names` has in parts divided into them."""
    divided = dict(tensors)
    for name in names:
        part = _PART.fullmatch(name)
        if part is not None and part["whole"] in tensors:
            divided.pop(part["whole"], None)
            count, whole = int(part["count"]), tensors[part["whole"]]
            size = len(whole) // count if whole.ndim else 0
            if size * count != len(np.atleast_1d(whole)):
                return dict(tensors)  # what does not divide is reported by its own name
            divided[name] = whole[int(part["number"]) * size :][:size]
    return divided


def from_hf_tensors(
    tensors: Tensors,
    config: EncoderConfig,
    source: str,
    new_head_seed: int | None = None,
    takes_head: bool = True,
) -> tuple[dict[str, Any], list[str]]:
    """Return (parameters, names of the parts that are new).

    Old names (`gamma`, `beta`), a missing prefix, the prefixes of DataParallel (`module.`) and of
    `torch.compile` (`_orig_mod.`) and pre-training heads are understood; every other key must match
    in both directions.

    Args:
      tensors: arrays by Hugging Face name.
      config: the geometry to match.
      source: what to call the checkpoint in errors.
      new_head_seed: if given, a classifier that is missing or has another number of classes, and
        other parts of the head that are missing, are initialised from this seed and reported; if
        None, they are errors like every other mismatch.
      takes_head: False for a head of another task: it is not looked at, and the classifier is new,
        whatever fits. Needs `new_head_seed`.

    Raises:
      InputError: names every missing, unknown and ill-shaped tensor at once, or the two names of
        one tensor.
    """
    table = family_of(config).tensors
    given = _with_standard_names(tensors, table, source, takes_head)
    # First, because finding out the shapes takes time for each layer that the configuration names.
    _check_layers(given, tensors, table, config, source)
    shapes = _flat(param_shapes(config))
    new_parts = [] if new_head_seed is None else _unusable_head_parts(given, table, shapes)
    flat, problems = {}, []
    given = _divided(given, (name for _, name in table.rows(config)))
    for path, name in table.rows(config):
        if path.split("/")[0] in new_parts:
            given.pop(name, None)
        elif name not in given:
            problems.append(f"{name} is missing")
        else:
            value = given.pop(name)
            value = value.T if path.endswith("/kernel") else value
            problem = _problem(name, value, shapes[path].shape)
            if problem is None:
                flat[path] = np.ascontiguousarray(value, dtype=_stored_dtype(value))
            else:
                problems.append(problem)
    problems += [f"{shortened(name)} is unknown" for name in sorted(given)]
    if problems:
        raise InputError(f"{source} {_described(problems, table)}")
    if new_head_seed is not None and new_parts:
        fresh = _flat(init_params(config, jax.random.key(new_head_seed)))
        flat |= {
            path: np.asarray(value)
            for path, value in fresh.items()
            if path.split("/")[0] in new_parts
        }
    return flax.traverse_util.unflatten_dict(flat, sep="/"), new_parts


def _with_standard_names(
    tensors: Tensors, table: TensorTable, source: str, takes_head: bool
) -> dict[str, np.ndarray]:
    """Return the tensors under the names of the table, without those that it ignores."""
    ignored = re.compile(table.ignored)
    given, stored_names = {}, {}
    for stored, value in tensors.items():
        name = _WRAPPER.sub("", stored)
        for old, new in _OLD_NAMES.items():
            name = name.replace(old, new)
        # The tensors of another task's head may have any name.
        if not takes_head and not name.startswith(table.encoder_prefixes):
            continue
        if not name.startswith((table.prefix, *table.head_prefixes)):
            name = table.prefix + name
        if ignored.fullmatch(name):
            continue
        if name in given:
            both = f"{shortened(stored_names[name])} and {shortened(stored)}"
            raise InputError(
                f"{source} has both {both}, two values for {shortened(name)}: remove the one that"
                " is not the model's"
            )
        given[name], stored_names[name] = value, stored
    return given


def _check_layers(
    given: Tensors, tensors: Tensors, table: TensorTable, config: EncoderConfig, source: str
) -> None:
    """Raise an InputError unless there are tensors of every layer."""
    layer_names = re.compile(re.escape(table.prefix) + table.layer_pattern)
    numbers = {match[1] for name in given if (match := layer_names.match(name))}
    absent = next((i for i in range(len(config.layer_names)) if str(i) not in numbers), None)
    if absent is None:
        return
    # Where an encoder begins, after whatever prefix.
    words = re.escape(table.embeddings[0][1].removesuffix("weight"))
    encoder_names = re.compile(rf"(.+\.)(?:{words}|{table.layer_pattern})")
    prefixes = {match[1] for name in tensors if (match := encoder_names.match(name))}
    if not numbers and len(prefixes) == 1:
        raise InputError(
            f"{source}: its tensors begin with {shortened(prefixes.pop())!r}, not with"
            f" {table.prefix!r}: save the {config.title} classifier that it contains by itself,"
            " with save_pretrained"
        )
    raise InputError(
        f"{source} does not match its config.json: num_hidden_layers is"
        f" {config.num_hidden_layers}, but there are no tensors of layer {absent}"
    )


def _unusable_head_parts(given: Tensors, table: TensorTable, shapes: Params) -> list[str]:
    """Return the parts of the head to initialise: absent ones, and a classifier that does not fit.

    The tensors of a classifier that does not fit are of other classes. Other parts that do not fit
    are mistakes.
    """
    parts = []
    for part in table.head_parts:
        rows = [(path, name) for path, name in table.head if path.split("/")[0] == part]
        is_absent = not any(name in given for _, name in rows)
        fits = all(
            name in given and given[name].shape == shapes[path].shape[::-1] for path, name in rows
        )
        if is_absent or (part == table.head_parts[-1] and not fits):
            parts.append(part)
    return parts


def _problem(name: str, value: np.ndarray, shape: tuple[int, ...]) -> str | None:
    """Return why a tensor cannot be the parameter of this shape; None where it can."""
    if value.shape != shape:
        return f"{name} is {list(value.shape)}, the configuration says {list(shape)}"
    if not np.issubdtype(value.dtype, np.floating) and value.dtype.name != "bfloat16":
        return f"{name} is of type {value.dtype}"
    if not np.isfinite(value.astype(np.float32)).all():
        return f"{name} has values that are not finite"
    return None


def _stored_dtype(value: np.ndarray) -> Any:
    """Return float64 for float64 where JAX computes in it, float32 for everything else."""
    is_wide = value.dtype == np.float64 and jnp.result_type(float) == np.float64
    return value.dtype if is_wide else np.float32


def _described(problems: list[str], table: TensorTable) -> str:
    """Return what to say of a checkpoint with these mismatches, and the remedy."""
    of_head = tuple({name.rsplit(".", 1)[0] + "." for _, name in table.head})
    if all(problem.startswith((*of_head, "classifier.")) for problem in problems):
        return (
            f"has no usable classification head ({'; '.join(problems)}): fine-tune it with train.py"
            " first"
        )
    shown = problems
    if len(problems) > _MOST_SHOWN:
        shown = [*problems[:_MOST_SHOWN], f"and {len(problems) - _MOST_SHOWN} more"]
    return f"does not match its config.json: {'; '.join(shown)}"
