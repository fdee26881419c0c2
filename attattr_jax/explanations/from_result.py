"""The result of `attribute_attention` as explanations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..attribution.attention import AttentionAttributions
from ..errors import InputError
from ..models.classifier import Classifier
from .explain import summarized, unpadded
from .explanation import Explanation, Explanations
from .findings import findings_of

_SEGMENTS = ("token_type_ids", "special_tokens_mask")
_NUM_LISTED = 10  # token pairs and heads in a row


def explanations_of(
    result: AttentionAttributions,
    classifier: Classifier | None = None,
    batch: Mapping[str, Any] | None = None,
    layers: Sequence[int] | None = None,
) -> Explanations:
    """Return the result of `attribute_attention` as explanations, one for each example.

    There are no token-level attributions in it.

    Args:
      result: with whole attributions or reduced ones.
      classifier, batch: for the names of classes and tokens, and to leave padding out; without them
        these are numbers.
      layers: those that were asked for; by default what the result says.

    Raises:
      InputError: `layers` are not those of the result, or nothing says which they are.
    """
    num_rows, num_layers = np.shape(result.attributions)[:2]
    numbers, num_hidden_layers = _layers_of(result, layers, classifier)
    token_mask = _token_mask(result, batch)
    if classifier is None:
        id2label = {index: str(index) for index in range(np.shape(result.logits)[1])}
    else:
        id2label = classifier.id2label
    is_multi_label = classifier is not None and classifier.config.is_multi_label
    host, kept = _arrays_of(result, token_mask)
    is_by_layer = np.shape(result.convergence_delta) == (num_rows, num_layers)
    examples = []
    for index in range(num_rows):
        positions = np.flatnonzero(token_mask[index])
        of_example = {name: np.asarray(values[index]) for name, values in host.items()}
        arrays = unpadded(of_example, positions)
        fields = _text_fields(classifier, batch, index, positions)
        left_out = fields["special_tokens_mask"]
        row = {
            "index": index,
            **fields,
            "label": None,
            **findings_of(arrays, id2label, numbers, _NUM_LISTED, left_out, is_multi_label),
            "path": "layer" if is_by_layer else "joint",
        }
        if num_hidden_layers is not None:
            row["num_hidden_layers"] = num_hidden_layers
        examples.append(Explanation(row, {name: arrays[name] for name in kept}))
    return Explanations(examples)


def _token_mask(result: AttentionAttributions, batch: Mapping[str, Any] | None) -> np.ndarray:
    """Return bool [B, T], True for real tokens; all are without a batch that says otherwise.

    Raises:
      InputError: the batch is not that of the result.
    """
    is_whole = np.ndim(result.attributions) == 5
    num_rows = np.shape(result.attributions)[0]
    num_tokens = np.shape(result.attributions)[-1] if is_whole else 0
    if batch is None:
        return np.ones((num_rows, num_tokens), bool)
    shape = np.shape(batch["input_ids"])
    if len(shape) != 2 or shape[0] != num_rows or (is_whole and shape[1] != num_tokens):
        tokens = f" of {num_tokens} tokens" if is_whole else ""
        raise InputError(
            f"batch is not that of the result, {num_rows} examples{tokens}: its input_ids are"
            f" {list(shape)}"
        )
    mask = batch.get("attention_mask")
    return np.ones(shape, bool) if mask is None else np.asarray(mask) != 0


def _arrays_of(
    result: AttentionAttributions, token_mask: np.ndarray
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the arrays of all examples on the host, and which of them an explanation keeps."""
    names = ["target", "score", "baseline_score", "convergence_delta", "n_steps"]
    optional = "converged", "contrast", "error_estimate"
    names += [name for name in optional if getattr(result, name) is not None]
    arrays = {name: getattr(result, name) for name in names} | {
        "logits": result.logits,
        "head_importance": result.attributions,
    }
    kept = ["head_importance"]
    if np.ndim(result.attributions) == 5:  # not reduced
        arrays |= summarized(result, jnp.asarray(token_mask, jnp.int32))
        arrays |= {"attributions": result.attributions, "attention_probs": result.attention_probs}
        kept += ["token_pairs", "attributions", "attention_probs"]
    return jax.device_get(arrays), kept


def _text_fields(
    classifier: Classifier | None,
    batch: Mapping[str, Any] | None,
    index: int,
    positions: np.ndarray,
) -> dict[str, Any]:
    """Return the fields of a row that come from the tokens at these positions of an example."""
    tokens = [str(position) for position in positions]
    text = " ".join(tokens)
    if classifier is not None and batch is not None and classifier.tokenizer is not None:
        ids = np.asarray(batch["input_ids"])[index, positions].tolist()
        tokens = classifier.tokenizer.convert_ids_to_tokens(ids)
        text = classifier.tokenizer.convert_tokens_to_string(tokens)
    fields: dict[str, Any] = {
        "text": text,
        "text_pair": None,
        "tokens": tokens,
        "offsets": [[0, 0]] * len(positions),
        **dict.fromkeys(_SEGMENTS, [0] * len(positions)),
    }
    for name in _SEGMENTS:
        if batch is not None and name in batch:
            fields[name] = np.asarray(batch[name])[index, positions].tolist()
    return fields


def _layers_of(
    result: AttentionAttributions, layers: Sequence[int] | None, classifier: Classifier | None
) -> tuple[list[int], int | None]:
    """Return the numbers of a result's layers, and how many layers the model has.

    The latter is None where nothing says so.
    """
    count = np.shape(result.attributions)[1]
    total = None if classifier is None else classifier.config.num_hidden_layers
    if result.num_hidden_layers is not None:
        total = int(np.asarray(result.num_hidden_layers)[0])
    known = None if result.layers is None else np.asarray(result.layers)[0].tolist()
    if layers is None:
        if known is None and total not in (None, count):
            raise InputError(
                f"the result has {count} of the model's {total} layers, and does not say which:"
                " give layers"
            )
        layers = list(range(count)) if known is None else known
    layers = [int(layer) for layer in layers]
    if len(layers) != count or known not in (None, layers):
        raise InputError(
            f"layers are {layers}, but the result is of {count if known is None else known}"
        )
    return layers, total
