"""The convergence delta as a function of the number of integration steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..attribution.attention import attribute_attention
from ..attribution.options import AttributionOptions
from ..attribution.quadrature import quadrature
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
    """Return |convergence delta| / Σ|attributions| for several numbers of integration steps, [B, S,
    L]; 0 where nothing is attributed.

    The rules are filled up with nodes of weight 0 to the longest of them: one compiled program
    serves all.

    Args:
      classifier: the model that was explained.
      explanations: B of them; the class explained is taken from there.
      options: how they were attributed; of `method` there must be rules of all of `steps`.
      steps: S numbers.
    """
    classes = {name: index for index, name in classifier.id2label.items()}
    rules = [quadrature(options.method, count) for count in steps]
    longest = max(steps)
    config = classifier.config
    texts, pairs = (
        [example.row[name] for example in explanations] for name in ("text", "text_pair")
    )
    encoded = encode(
        classifier,
        Split("texts", "texts", texts, None if None in pairs else pairs, None),
        config.max_length,
    )
    found = []
    # By themselves: one that is long makes no other longer
    for at, example in enumerate(explanations):
        batch = encoded.batch(np.asarray([at]), 1, config.pad_token_id, config.max_length).inputs
        relative = []
        for nodes, weights in rules:
            rule = tuple(np.pad(values, (0, longest - len(values))) for values in (nodes, weights))
            result = attribute_attention(
                classifier.params,
                model_inputs(batch),
                config,
                classes[example.row["target"]],
                method=rule,
                objective=options.objective,
                layers=options.layers,
                step_batch_size=options.step_batch_size,
                path=options.path,
            )
            sizes = np.abs(np.asarray(result.attributions)).sum(axis=(2, 3, 4))
            sizes = sizes if options.path == "layer" else sizes.sum(axis=1, keepdims=True)
            relative.append(
                np.abs(np.asarray(result.convergence_delta)[0])
                / np.where(sizes[0] == 0, 1, sizes[0])
            )
        found.append(relative)
    return np.asarray(found)
