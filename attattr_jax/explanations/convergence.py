"""The convergence delta as a function of the number of integration steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..attribution.attention import attribute_attention
from ..attribution.options import AttributionOptions
from ..attribution.quadrature.rules import quadrature
from ..data.batches import encode
from ..data.splits import Split
from ..models.classifier import Classifier
from ..models.inference import model_inputs
from .explanation import Explanation


def convergence_by_steps(
    classifier: Classifier,
    explanations: Sequence[Explanation],
    options: AttributionOptions,
    steps: Sequence[int],
) -> np.ndarray:
    """Return |convergence delta| / Σ|attributions| for several numbers of steps, [B, S, L].

    It is 0 where nothing is attributed. The rules are filled up with nodes of weight 0 to the
    longest of them: one compiled program serves all.

    Args:
      classifier: the model that was explained.
      explanations: B of them; the class explained is taken from there.
      options: how they were attributed; of `method` there must be rules of all of `steps`.
      steps: S numbers.
    """
    options = options.for_outputs(classifier.config.num_labels)
    classes = {name: index for index, name in classifier.id2label.items()}
    longest = max(steps)
    rules = [
        tuple(np.pad(values, (0, longest - count)) for values in quadrature(options.method, count))
        for count in steps
    ]
    config = classifier.config
    texts, pairs = (
        [example.row[name] for example in explanations] for name in ("text", "text_pair")
    )
    split = Split("texts", "texts", texts, None if None in pairs else pairs, None)
    encoded = encode(classifier, split, config.max_length)
    relative_deltas = []
    # One example at a time: a long one makes no other longer.
    for position, example in enumerate(explanations):
        indices = np.asarray([position])
        batch = encoded.batch(indices, 1, config.pad_token_id, config.max_length).inputs
        of_example = []
        for rule in rules:
            keywords = options.attention_keywords() | {"method": rule, "n_steps": longest}
            target = classes[example.row["target"]]
            result = attribute_attention(
                classifier.params, model_inputs(batch), config, target, **keywords
            )
            sizes = np.abs(np.asarray(result.attributions)).sum(axis=(2, 3, 4))
            sizes = sizes if options.path == "layer" else sizes.sum(axis=1, keepdims=True)
            delta = np.abs(np.asarray(result.convergence_delta)[0])
            of_example.append(delta / np.where(sizes[0] == 0, 1, sizes[0]))
        relative_deltas.append(of_example)
    return np.asarray(relative_deltas)
