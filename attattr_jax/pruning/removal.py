"""Physically smaller models, without some of their heads."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from ..errors import InputError
from ..models.classifier import Classifier
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
