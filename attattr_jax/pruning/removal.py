"""Physically smaller models, without some of their heads."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from ..errors import InputError
from ..models.classifier import Classifier
from ..models.config import EncoderConfig
from ..models.head_masks import select_heads, static_mask


def remove_heads(classifier: Classifier, mask) -> Classifier:
    """Return the physically smaller model without the heads whose mask is 0.

    It has the logits that the model has under the mask. Their rows of query, key and value and
    their columns of the attention output are cut out; a layer without any head left still adds that
    output's bias. `config.kept_heads` keeps account, in the numbering of the whole model.

    Looks at values: `mask` cannot be traced.

    Args:
      classifier: the model, some of whose heads may be gone already.
      mask: 0/1 [L, N].

    Raises:
      InputError: the mask is not [L, N], or has other values; or layers share their parameters.
    """
    mask = static_mask("mask", mask, classifier.config)
    if not np.isin(mask, (0, 1)).all():
        raise InputError("mask must be of 0 and 1: a head is removed or kept")
    params, smaller = select_heads(
        jax.tree.map(np.asarray, classifier.params), classifier.config, mask
    )
    return dataclasses.replace(classifier, params=params, config=smaller)


def fill_heads(classifier: Classifier) -> Classifier:
    """Return a model of full size, with zeros for the heads that were removed.

    It has the same logits: what a head adds is multiplied by rows of the output projection, which
    are 0. Every version of `transformers` reads it, and it is as slow as the whole model.

    Args:
      classifier: some of whose heads may be gone.
    """
    config = classifier.config
    full = dataclasses.replace(config, kept_heads=None)
    params = dict(jax.tree.map(np.asarray, classifier.params))
    for layer in range(config.num_hidden_layers):
        kept = np.asarray(config.heads_of(layer), int)
        if len(kept) == config.num_attention_heads:
            continue
        name = config.layer_name(layer)
        of_layer = dict(params[name])
        for part in ("query", "key", "value"):
            of_layer[part] = {
                field: _filled(values, kept, config, -1) for field, values in of_layer[part].items()
            }
        output = of_layer["attention_output"]["kernel"]
        of_layer["attention_output"] = {"kernel": _filled(output, kept, config, 0)}
        params[name] = of_layer
    return dataclasses.replace(classifier, params=params, config=full)


def _filled(values: np.ndarray, kept: np.ndarray, config: EncoderConfig, axis: int) -> np.ndarray:
    """Return parameters with the columns of all heads along an axis, zeros where heads are gone."""
    columns = (kept[:, None] * config.head_size + np.arange(config.head_size)).ravel()
    shape = list(values.shape)
    shape[axis] = config.num_attention_heads * config.head_size
    filled = np.zeros(shape, values.dtype)
    np.moveaxis(filled, axis, 0)[columns] = np.moveaxis(values, axis, 0)
    return filled
