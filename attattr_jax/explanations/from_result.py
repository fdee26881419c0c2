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
from .explain import _summarize, _unpad
from .explanation import Explanation, Explanations
from .findings import _findings


def explanations_of(
    result: AttentionAttributions,
    classifier: Classifier | None = None,
    batch: Mapping[str, Any] | None = None,
    layers=None,
) -> Explanations:
    """Return the result of `attribute_attention` as explanations, an example each, without
    token-level attributions.

    Args:
      result: with whole attributions or reduced ones.
      classifier, batch: for the names of classes and tokens, and to leave padding out; without them
        these are numbers.
      layers: those that were asked for; by default what the result says.

    Raises:
      InputError: `layers` are not those of the result, or nothing says which they are.
    """
    is_whole = np.ndim(result.attributions) == 5
    num_rows, num_layers = np.shape(result.attributions)[:2]
    layers, num_hidden_layers = _layers_of(result, layers, classifier)
    num_tokens = np.shape(result.attributions)[-1] if is_whole else 0
    if batch is not None:
        shape = np.shape(batch["input_ids"])
        if len(shape) != 2 or shape[0] != num_rows or (is_whole and shape[1] != num_tokens):
            tokens = f" of {num_tokens} tokens" if is_whole else ""
            raise InputError(
                f"batch is not that of the result, {num_rows} examples{tokens}: its input_ids are"
                f" {list(shape)}"
            )
        num_tokens = shape[1]
    mask = None if batch is None else batch.get("attention_mask")
    real = np.ones((num_rows, num_tokens), bool) if mask is None else np.asarray(mask) != 0
    names = (
        dict(enumerate(map(str, range(np.shape(result.logits)[1]))))
        if classifier is None
        else classifier.id2label
    )
    found = {
        "logits": result.logits,
        "probabilities": jax.nn.softmax(result.logits, axis=-1),
        "head_importance": result.attributions,
        **{
            name: getattr(result, name)
            for name in ("target", "score", "baseline_score", "convergence_delta", "n_steps")
        },
    }
    kept = ["head_importance"]
    if is_whole:
        found |= _summarize(result, jnp.asarray(real, jnp.int32)) | {
            "attributions": result.attributions,
            "attention_probs": result.attention_probs,
        }
        kept += ["token_pairs", "attributions", "attention_probs"]
    if result.converged is not None:
        found["converged"] = result.converged
    host = jax.device_get(found)
    examples = []
    for index in range(num_rows):
        positions = np.flatnonzero(real[index])
        count = len(positions)
        arrays = _unpad(
            {name: np.asarray(values[index]) for name, values in host.items()}, positions
        )
        tokens = list(map(str, positions))
        if classifier is not None and batch is not None and classifier.tokenizer is not None:
            tokens = classifier.tokenizer.convert_ids_to_tokens(
                np.asarray(batch["input_ids"])[index, positions].tolist()
            )
        given = {
            name: np.asarray(batch[name])[index, positions].tolist()
            for name in _SEGMENTS
            if batch is not None and name in batch
        }
        row = {
            "index": index,
            "text": " ".join(tokens).replace(" ##", ""),
            "text_pair": None,
            "tokens": tokens,
            "offsets": [[0, 0]] * count,
            **dict.fromkeys(_SEGMENTS, [0] * count),
            **given,
            "label": None,
            **_findings(arrays, names, layers, 10),
            "path": (
                "layer" if np.shape(result.convergence_delta) == (num_rows, num_layers) else "joint"
            ),
            **({} if num_hidden_layers is None else {"num_hidden_layers": num_hidden_layers}),
        }
        examples.append(Explanation(row, {name: arrays[name] for name in kept}))
    return Explanations(examples)


def _layers_of(
    result: AttentionAttributions, layers: Sequence[int] | None, classifier: Classifier | None
) -> tuple[list[int], int | None]:
    """Return the numbers of a result's layers, and how many the model has, None where nothing says
    so.
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


_SEGMENTS = ("token_type_ids", "special_tokens_mask")
