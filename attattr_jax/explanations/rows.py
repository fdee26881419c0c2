"""The schema of a row of `examples.jsonl`, and of its arrays, as one table: readers may rely on it.

docs/files.md says what the fields mean.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ..errors import InputError, require

LARGEST_NUMBER = 3.5e38  # of float32: what is computed is within


class _Sizes(NamedTuple):
    """What the lengths of a row's lists depend on."""

    row: Mapping[str, Any]
    T: int  # tokens
    L: int  # layers
    P: int  # paths: L, or 1 where all layers are scaled together


_Check = Callable[[Any, _Sizes], bool]


@dataclasses.dataclass(frozen=True)
class Field:
    """One field of a row."""

    name: str
    is_right: _Check
    what: str  # it must be, for the error message; $T, $L and $P stand for the lengths
    may_be_absent: bool = False  # in files of earlier versions


# --- kinds of values --------------------------------------------------------------------------


def _text(value: Any, sizes: _Sizes) -> bool:
    return isinstance(value, str)


def _count(value: Any, sizes: _Sizes) -> bool:
    return type(value) is int and 0 <= value < 2**31


def _layer(value: Any, sizes: _Sizes) -> bool:
    return _count(value, sizes) and value <= 1000


def _number(value: Any, sizes: _Sizes) -> bool:
    return type(value) in (int, float) and abs(value) <= LARGEST_NUMBER  # NaN is not


def _truth(value: Any, sizes: _Sizes) -> bool:
    return isinstance(value, bool)


def _segment(value: Any, sizes: _Sizes) -> bool:
    return value in (0, 1) or _count(value, sizes)


def _position(value: Any, sizes: _Sizes) -> bool:
    return _count(value, sizes) and value < sizes.T


def _pair(value: Any, sizes: _Sizes) -> bool:
    fields = {"from": _position, "to": _position, "attribution": _number}
    return _has(value, fields, sizes)


def _head(value: Any, sizes: _Sizes) -> bool:
    fields = {"head": _count, "importance": _number}
    return _has(value, fields, sizes) and value.get("layer") in sizes.row["layers"]


def _arrays(value: Any, sizes: _Sizes) -> bool:
    return _has(value, {"file": _text, "prefix": _text, "names": _each(_text)}, sizes)


def _window(value: Any, sizes: _Sizes) -> bool:
    fields = {"text": _count, "number": _count, "count": _count, "predicted": _text}
    are_numbers = _has(value, fields, sizes) and isinstance(value.get("means"), dict)
    return are_numbers and all(_number(mean, sizes) for mean in value["means"].values())


def _numbers_by_name(value: Any, sizes: _Sizes) -> bool:
    is_named = isinstance(value, dict) and sizes.row["predicted"] in value
    return is_named and all(_number(number, sizes) for number in value.values())


def _probabilities(value: Any, sizes: _Sizes) -> bool:
    return value == {} or _numbers_by_name(value, sizes)  # empty: a model with one output


def _by_head(value: Any, sizes: _Sizes) -> bool:
    are_lists = _each(_each(_number), "L")(value, sizes)
    return are_lists and len({len(of_layer) for of_layer in value}) == 1


def _different_layers(value: Any, sizes: _Sizes) -> bool:
    return _each(_layer)(value, sizes) and len(set(value)) == len(value) > 0


def _has(value: Any, fields: Mapping[str, _Check], sizes: _Sizes) -> bool:
    """Return whether a value is an object with these fields."""
    return isinstance(value, dict) and all(
        is_right(value.get(name), sizes) for name, is_right in fields.items()
    )


def _each(is_right: _Check, *lengths: str | int) -> _Check:
    """Return the check of a list of such values, of one of these lengths if any are given."""

    def check(values: Any, sizes: _Sizes) -> bool:
        if not isinstance(values, (list, tuple)):
            return False
        allowed = [getattr(sizes, size) if isinstance(size, str) else size for size in lengths]
        fits = not lengths or len(values) in allowed
        return fits and all(is_right(value, sizes) for value in values)

    return check


def _maybe(is_right: _Check) -> _Check:
    """Return the check of a value that may also be null."""
    return lambda value, sizes: value is None or is_right(value, sizes)


_BY_TOKEN = "a list of $T, one for each token"
_BY_NAME = "numbers by class, the predicted one among them"

# Checked in this order: lengths depend on the first ones.
FIELDS = (
    Field("text", _text, "text"),
    Field("predicted", _text, "text"),
    Field("target", _text, "text"),
    Field("text_pair", _maybe(_text), "text or null"),
    Field("label", _maybe(_text), "text or null"),
    Field("index", _count, "a number from 0"),
    Field("tokens", _each(_text), "a list of tokens"),
    Field("layers", _different_layers, "a list of different layers"),
    Field("path", lambda path, sizes: path in ("layer", "joint"), "layer or joint"),
    Field("offsets", _each(_each(_count, 2), "T"), f"{_BY_TOKEN}: [start, end)"),
    Field("token_type_ids", _each(_segment, "T"), f"{_BY_TOKEN}: numbers from 0"),
    Field("special_tokens_mask", _each(_segment, "T"), f"{_BY_TOKEN}: numbers from 0"),
    Field("probabilities", _probabilities, _BY_NAME),
    Field("score", _number, "a number"),
    Field("baseline_scores", _each(_number, "P"), "a list of $P numbers"),
    Field("convergence_deltas", _each(_number, "P"), "a list of $P numbers"),
    Field("absolute_attribution_sums", _maybe(_each(_number, "L")), "null or a list of $L numbers"),
    Field("n_steps", _each(_count, "L", "P"), "a list of $L numbers from 0"),
    Field("converged", _maybe(_each(_truth, "L")), "null or a list of $L truth values"),
    Field("token_attributions", _maybe(_each(_number, "T")), f"null or {_BY_TOKEN}: numbers"),
    Field("token_convergence_delta", _maybe(_number), "a number or null"),
    Field(
        "token_pairs", _each(_pair), "a list of {from, to, attribution}, with positions of tokens"
    ),
    Field(
        "heads",
        _each(_head),
        "a list of {layer, head, importance}, with layers that were attributed",
    ),
    Field(
        "token_pairs_scale",
        lambda value, sizes: _number(value, sizes) and value > 0,
        "a number above 0",
    ),
    Field("arrays", _maybe(_arrays), "null, or file, prefix and names"),
    Field(
        "word_ids",
        _maybe(_each(_maybe(_count), "T")),
        f"null or {_BY_TOKEN}: numbers from 0 or null",
        may_be_absent=True,
    ),
    Field(
        "labels",
        _maybe(_each(_text)),
        "null, or the gold classes of a model with lists of them",
        may_be_absent=True,
    ),
    Field(
        "predicted_labels",
        _maybe(_each(_text)),
        "null, or the classes above 0.5 of a model with lists of them",
        may_be_absent=True,
    ),
    Field("token_baseline", _maybe(_text), "text or null", may_be_absent=True),
    Field("window", _maybe(_window), "null, or text, number, count and means", may_be_absent=True),
    Field("contrast", _maybe(_text), "text or null", may_be_absent=True),
    Field("objective", _text, "text", may_be_absent=True),
    Field("num_cut_tokens", _count, "a number from 0", may_be_absent=True),
    Field("num_hidden_layers", _layer, "a number of layers", may_be_absent=True),
    Field("logits", _numbers_by_name, _BY_NAME, may_be_absent=True),
    Field(
        "head_importance",
        _by_head,
        "a list of numbers for each of $L layers, all of one length",
        may_be_absent=True,
    ),
    Field(
        "error_estimates",
        _maybe(_each(_maybe(_number), "P")),
        "null or a list of $P numbers",
        may_be_absent=True,
    ),
    Field("token_error_estimate", _maybe(_number), "a number or null", may_be_absent=True),
    Field("token_n_steps", _maybe(_count), "a number from 0 or null", may_be_absent=True),
    Field("token_converged", _maybe(_truth), "true, false or null", may_be_absent=True),
)


def check_row(row: Any) -> None:
    """Check that a row of `examples.jsonl` has the fields of the table, each as it must be.

    Raises:
      InputError: names the first field that is not.
    """
    require(isinstance(row, dict), "it must be a JSON object")
    sizes = _Sizes(row, 0, 0, 0)
    for field in FIELDS:
        if field.name not in row and field.may_be_absent:
            continue
        require(field.name in row, f"it has no {field.name!r}")
        value = row[field.name]
        if not field.is_right(value, sizes):
            what = field.what
            for name in "TLP":
                what = what.replace(f"${name}", str(getattr(sizes, name)))
            raise InputError(f"{field.name} must be {what}, not {value!r:.80}")
        if field.name == "path":  # all that the lengths depend on is checked
            num_layers = len(row["layers"])
            num_paths = num_layers if value == "layer" else 1
            sizes = _Sizes(row, len(row["tokens"]), num_layers, num_paths)


def check_array(row: Mapping[str, Any], name: str, values: np.ndarray) -> None:
    """Check that an array of an example has the shape that its row says, and finite numbers.

    Raises:
      InputError: it has not.
    """
    num_layers, num_tokens = len(row["layers"]), len(row["tokens"])
    sizes = {"L": num_layers, "T": num_tokens}
    axes = {
        "head_importance": "LN",
        "token_pairs": "TT",
        "token_attributions": "T",
        "attributions": "LNTT",
        "attention_probs": "LNTT",
    }
    expected = axes.get(name, "?" * values.ndim)
    fits = len(expected) == values.ndim and all(
        sizes.get(axis, size) == size for axis, size in zip(expected, values.shape, strict=True)
    )
    if not fits or not values.size:
        what = f"[{', '.join(str(sizes.get(axis, axis)) for axis in expected)}]"
        raise InputError(f"example {row['index']}: {name} must be {what}, not {list(values.shape)}")
    if not np.issubdtype(values.dtype, np.floating) and values.dtype.name != "bfloat16":
        raise InputError(
            f"example {row['index']}: {name} must be floating-point numbers, not {values.dtype}"
        )
    if not np.isfinite(values).all():
        raise InputError(f"example {row['index']}: {name} has values that are not finite")
