"""What a row of `examples.jsonl` and its arrays must be: whoever reads them may then rely on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..errors import InputError, require

LARGEST_NUMBER = 3.5e38  # of float32: what is computed is within


def check_row(row: Any) -> None:
    """Check that a row of `examples.jsonl` has what is read of it, in the types, ranges and lengths
    of docs/files.md.

    Raises:
      InputError: names the first field that is not so.
    """
    require(isinstance(row, dict), "it must be a JSON object")

    def check(name: str, is_right: Callable[[Any], bool], what: str) -> None:
        require(name in row, f"it has no {name!r}")
        if not is_right(row[name]):
            raise InputError(f"{name} must be {what}, not {row[name]!r:.80}")

    def each(is_right: Callable[[Any], bool], *lengths: int) -> Callable[[Any], bool]:
        return lambda values: (
            isinstance(values, (list, tuple))
            and len(values) in (lengths or (len(values),))
            and all(map(is_right, values))
        )

    def maybe(is_right: Callable[[Any], bool]) -> Callable[[Any], bool]:
        return lambda value: value is None or is_right(value)

    for name in ("text", "predicted", "target"):
        check(name, _is_text, "text")
    for name in ("text_pair", "label"):
        check(name, maybe(_is_text), "text or null")
    check("index", _is_count, "a number from 0")
    check("tokens", each(_is_text), "a list of tokens")
    layers_differ = "a list of different layers"
    check(
        "layers",
        lambda layers: each(_is_layer)(layers) and len(set(layers)) == len(layers) > 0,
        layers_differ,
    )
    check("path", lambda path: path in ("layer", "joint"), "layer or joint")
    num_tokens, num_layers = len(row["tokens"]), len(row["layers"])
    num_paths = num_layers if row["path"] == "layer" else 1

    def is_position(value: Any) -> bool:
        return _is_count(value) and value < num_tokens

    def is_pair(pair: Any) -> bool:
        return (
            isinstance(pair, dict)
            and is_position(pair.get("from"))
            and is_position(pair.get("to"))
            and _is_number(pair.get("attribution"))
        )

    def is_head(head: Any) -> bool:
        return (
            isinstance(head, dict)
            and head.get("layer") in row["layers"]
            and _is_count(head.get("head"))
            and _is_number(head.get("importance"))
        )

    def are_arrays(where: Any) -> bool:
        return (
            isinstance(where, dict)
            and _is_text(where.get("file"))
            and _is_text(where.get("prefix"))
            and each(_is_text)(where.get("names"))
        )

    def are_by_head(values: Any) -> bool:
        return (
            each(each(_is_number), num_layers)(values)
            and len({len(layer) for layer in values}) == 1
        )

    by_token = f"a list of {num_tokens}, one for each token"
    check("offsets", each(each(_is_count, 2), num_tokens), f"{by_token}: [start, end)")
    for name in ("token_type_ids", "special_tokens_mask"):
        check(
            name,
            each(lambda value: value in (0, 1) or _is_count(value), num_tokens),
            f"{by_token}: numbers from 0",
        )
    by_name = "numbers by class, the predicted one among them"
    # Empty of a model with one output.
    check(
        "probabilities",
        lambda values: values == {} or (_are_numbers(values) and row["predicted"] in values),
        by_name,
    )
    check("score", _is_number, "a number")
    for name, count in (("baseline_scores", num_paths), ("convergence_deltas", num_paths)):
        check(name, each(_is_number, count), f"a list of {count} numbers")
    check(
        "absolute_attribution_sums",
        maybe(each(_is_number, num_layers)),
        f"null or a list of {num_layers} numbers",
    )
    check(
        "n_steps", each(_is_count, num_layers, num_paths), f"a list of {num_layers} numbers from 0"
    )
    check(
        "converged",
        maybe(each(lambda value: isinstance(value, bool), num_layers)),
        f"null or a list of {num_layers} truth values",
    )
    check("token_attributions", maybe(each(_is_number, num_tokens)), f"null or {by_token}: numbers")
    check("token_convergence_delta", maybe(_is_number), "a number or null")
    check(
        "token_pairs", each(is_pair), "a list of {from, to, attribution}, with positions of tokens"
    )
    check(
        "heads",
        each(is_head),
        "a list of {layer, head, importance}, with layers that were attributed",
    )
    check("token_pairs_scale", lambda value: _is_number(value) and value > 0, "a number above 0")
    check("arrays", maybe(are_arrays), "null, or file, prefix and names")
    for name, is_right, what in (  # not in older files
        (
            "word_ids",
            maybe(each(maybe(_is_count), num_tokens)),
            f"null or {by_token}: numbers from 0 or null",
        ),
        ("num_cut_tokens", _is_count, "a number from 0"),
        ("num_hidden_layers", _is_layer, "a number of layers"),
        ("logits", lambda values: _are_numbers(values) and row["predicted"] in values, by_name),
        (
            "head_importance",
            are_by_head,
            f"a list of numbers for each of {num_layers} layers, all of one length",
        ),
    ):
        if name in row:
            check(name, is_right, what)


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


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**31


def _is_layer(value: Any) -> bool:
    return _is_count(value) and value <= 1000


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= LARGEST_NUMBER  # NaN is not


def _are_numbers(values: Any) -> bool:
    return isinstance(values, dict) and all(map(_is_number, values.values()))
