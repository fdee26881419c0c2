"""Self-attention attribution (ATTATTR) and head pruning for BERT classifiers, in JAX.

    classifier = attattr_jax.load_classifier("runs/sst2")
    batch = classifier.tokenize(["a gripping film"])
    result = attattr_jax.attribute_attention(classifier.params, batch, classifier.config)

The names below are the public ones; everything else may change. Importing touches no device.
"""

from .attribution import (
    AttentionAttributions,
    TokenAttributions,
    attribute_attention,
    attribute_tokens,
    sum_over_layers,
)
from .bert import forward, init_params
from .config import BertConfig
from .errors import InputError
from .explanations import AttributionOptions, explain_texts, explanations_of
from .heads import head_importance, keep_top_heads, present_heads, prune_lowest_heads
from .integration import quadrature
from .pretrained import Classifier, load_classifier, save_classifier
from .pruning import remove_heads
from .results import Explanation, Explanations, load_attributions
from .tree import AttributionTree, attribution_tree

__all__ = [
    "AttentionAttributions",
    "AttributionOptions",
    "AttributionTree",
    "BertConfig",
    "Classifier",
    "Explanation",
    "Explanations",
    "InputError",
    "TokenAttributions",
    "attribute_attention",
    "attribute_tokens",
    "attribution_tree",
    "explain_texts",
    "explanations_of",
    "forward",
    "head_importance",
    "init_params",
    "keep_top_heads",
    "load_attributions",
    "load_classifier",
    "present_heads",
    "prune_lowest_heads",
    "quadrature",
    "remove_heads",
    "save_classifier",
    "sum_over_layers",
]
