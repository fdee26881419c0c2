"""Self-attention attribution (ATTATTR) and head pruning for text classifiers, in JAX.

    classifier = attattr_jax.load_classifier("runs/sst2")
    batch = classifier.tokenize(["a gripping film"])
    result = attattr_jax.attribute_attention(classifier.params, batch, classifier.config)

The names below are the public ones; everything else may change. Importing touches no device, and
imports JAX and the others when a name is first used: `--help` does without them.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .attribution.attention import AttentionAttributions, attribute_attention
    from .attribution.integrated_gradients import TokenAttributions, attribute_tokens
    from .attribution.options import AttributionOptions
    from .attribution.quadrature.rules import quadrature
    from .attribution.summaries.reductions import sum_over_layers
    from .attribution.summaries.tree import AttributionTree, attribution_tree
    from .errors import InputError
    from .explanations.comparison import Comparison, compare
    from .explanations.explain import explain_texts
    from .explanations.explanation import Explanation, Explanations
    from .explanations.from_result import explanations_of
    from .explanations.stored import load_attributions
    from .models.classifier import Classifier, load_classifier, save_classifier
    from .models.families.bert import BertConfig
    from .models.head_masks import present_heads
    from .models.inference import forward
    from .models.tensors import init_params
    from .pruning.experiment import prune_curve
    from .pruning.importance import head_importance
    from .pruning.masks import keep_top_heads, prune_lowest_heads
    from .pruning.removal import fill_heads, remove_heads

_MODULES = {
    "AttentionAttributions": ".attribution.attention",
    "AttributionOptions": ".attribution.options",
    "AttributionTree": ".attribution.summaries.tree",
    "BertConfig": ".models.families.bert",
    "Classifier": ".models.classifier",
    "Comparison": ".explanations.comparison",
    "Explanation": ".explanations.explanation",
    "Explanations": ".explanations.explanation",
    "InputError": ".errors",
    "TokenAttributions": ".attribution.integrated_gradients",
    "attribute_attention": ".attribution.attention",
    "attribute_tokens": ".attribution.integrated_gradients",
    "attribution_tree": ".attribution.summaries.tree",
    "compare": ".explanations.comparison",
    "explain_texts": ".explanations.explain",
    "explanations_of": ".explanations.from_result",
    "forward": ".models.inference",
    "head_importance": ".pruning.importance",
    "init_params": ".models.tensors",
    "keep_top_heads": ".pruning.masks",
    "load_attributions": ".explanations.stored",
    "load_classifier": ".models.classifier",
    "present_heads": ".models.head_masks",
    "prune_curve": ".pruning.experiment",
    "prune_lowest_heads": ".pruning.masks",
    "quadrature": ".attribution.quadrature.rules",
    "fill_heads": ".pruning.removal",
    "remove_heads": ".pruning.removal",
    "save_classifier": ".models.classifier",
    "sum_over_layers": ".attribution.summaries.reductions",
}

__all__ = [
    "AttentionAttributions",
    "AttributionOptions",
    "AttributionTree",
    "BertConfig",
    "Classifier",
    "Comparison",
    "Explanation",
    "Explanations",
    "InputError",
    "TokenAttributions",
    "attribute_attention",
    "attribute_tokens",
    "attribution_tree",
    "compare",
    "explain_texts",
    "explanations_of",
    "fill_heads",
    "forward",
    "head_importance",
    "init_params",
    "keep_top_heads",
    "load_attributions",
    "load_classifier",
    "present_heads",
    "prune_curve",
    "prune_lowest_heads",
    "quadrature",
    "remove_heads",
    "save_classifier",
    "sum_over_layers",
]


def __getattr__(name: str):
    """Import a public name when it is first used (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
