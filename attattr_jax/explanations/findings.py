"""What a row of `examples.jsonl` says of an example's arrays, and the summary over all examples."""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np

from ..attribution.summaries.reductions import strongest_pairs, top_heads
from ..views.sentence import ROUGH_LAYER
from .explanation import Explanation


def findings_of(
    arrays, id2label, layers, num_pairs, left_out=None, is_multi_label=False
) -> dict[str, Any]:
    """Return the fields of a row that come from the arrays of an example."""
    logits, total = arrays["logits"], arrays.get("token_pairs")
    probabilities = probabilities_of(logits, is_multi_label)
    # A result that was reduced to the largest value of each head has no pairs.
    largest, pairs = 1.0, []
    if total is not None:
        largest = float(np.abs(total).max(initial=0)) or 1.0
        pairs = strongest_pairs(total / largest, num_pairs, left_out)
    return {
        "predicted": id2label[int(logits.argmax())],
        "target": id2label[int(arrays["target"])],
        # The class it is compared with, if the objective is "contrast".
        "contrast": id2label[int(arrays["contrast"])] if "contrast" in arrays else None,
        # Of a model whose labels hold or not, each by itself: those that are more likely than not.
        "predicted_labels": (
            [id2label[index] for index, value in enumerate(probabilities) if value > 0.5]
            if is_multi_label
            else None
        ),
        "probabilities": {
            id2label[index]: float(value) for index, value in enumerate(probabilities)
        },
        "logits": {id2label[index]: float(value) for index, value in enumerate(logits)},
        "score": float(arrays["score"]),
        "layers": list(layers),
        "baseline_scores": arrays["baseline_score"].tolist(),
        "convergence_deltas": arrays["convergence_delta"].tolist(),
        "absolute_attribution_sums": (
            arrays["magnitude"].tolist() if "magnitude" in arrays else None
        ),
        "n_steps": arrays["n_steps"].tolist(),
        "converged": arrays["converged"].tolist() if "converged" in arrays else None,
        "token_attributions": (
            arrays["token_attributions"].tolist() if "token_attributions" in arrays else None
        ),
        "token_convergence_delta": (
            float(arrays["token_delta"]) if "token_delta" in arrays else None
        ),
        "token_n_steps": int(arrays["token_n_steps"]) if "token_n_steps" in arrays else None,
        "token_converged": bool(arrays["token_converged"]) if "token_converged" in arrays else None,
        "token_pairs_scale": largest,
        "token_pairs": [{"from": i, "to": j, "attribution": value} for i, j, value in pairs],
        # Shortest decimals that give the same float32.
        "head_importance": [
            [float(str(value)) for value in heads] for heads in arrays["head_importance"]
        ],
        "heads": [
            {"layer": layer, "head": head, "importance": value}
            for layer, head, value in top_heads(arrays["head_importance"], num_pairs, layers)
        ],
    }


def probabilities_of(logits: np.ndarray, is_multi_label: bool) -> np.ndarray:
    """Return the probability of each class, or of each label.

    A model with one output has none: its softmax would be 1, whatever the text.
    """
    if len(logits) == 1:
        return np.zeros(0)
    logits = np.asarray(logits, np.float64)
    if is_multi_label:
        return np.exp(-np.logaddexp(0, -logits)).astype(np.float32)
    powers = np.exp(logits - logits.max())
    return (powers / powers.sum()).astype(np.float32)


class DatasetSummary:
    """The mean head importance and the strongest token pairs of all examples.

    Its size does not grow with the number of examples.
    """

    def __init__(self, num_pairs: int = 20):
        self.num_pairs, self.num_examples = num_pairs, 0
        # The largest |convergence delta| / Σ |attributions| of any layer of any example, of which
        # text, and of which layer (None: of all together); and how many texts are rough.
        self.worst: tuple[float, int | None, int | None] = (0.0, None, None)
        self.num_rough = 0
        # (text, layer) that did not reach the tolerance: the first hundred, and how many there are.
        self.not_converged: list[dict[str, int]] = []
        self.num_not_converged = 0
        self._importance_sum: np.ndarray | float = 0.0
        self._n_steps_sum: np.ndarray | float = 0.0
        self._pairs: list[tuple] = []

    def add(self, explained: Explanation) -> None:
        """Take one example."""
        row = explained.row
        self.num_examples += 1
        self._importance_sum = self._importance_sum + np.asarray(row["head_importance"], np.float64)
        self._n_steps_sum = self._n_steps_sum + np.asarray(row["n_steps"], np.float64)
        for layer, converged in zip(row["layers"], row["converged"] or (), strict=False):
            if not converged:
                self.num_not_converged += 1
                self.not_converged = [
                    *self.not_converged,
                    {"example": row["index"], "layer": layer},
                ][:100]
        layers = row["layers"] if row["path"] == "layer" else [None]
        deltas = explained.relative_deltas or ()
        self.num_rough += max(deltas, default=0.0) > ROUGH_LAYER
        for layer, delta in zip(layers, deltas, strict=False):
            if delta > self.worst[0]:
                self.worst = (delta, row["index"], layer)
        for pair in row["token_pairs"]:
            # Not normalised, so that examples compare; index and positions break ties.
            value = pair["attribution"] * row["token_pairs_scale"]
            entry = (
                abs(value),
                -row["index"],
                -pair["from"],
                -pair["to"],
                value,
                row["tokens"][pair["from"]],
                row["tokens"][pair["to"]],
            )
            heapq.heappush(self._pairs, entry)
            if len(self._pairs) > self.num_pairs:
                heapq.heappop(self._pairs)

    @property
    def worst_delta(self) -> float:
        """The largest |convergence delta| / Σ|attributions| of a layer."""
        return self.worst[0]

    @property
    def importance(self) -> np.ndarray:
        """[L, N], float64."""
        return self._importance_sum / self.num_examples

    @property
    def mean_n_steps(self) -> list[float]:
        """Integration steps of each layer, the mean over examples."""
        return (self._n_steps_sum / self.num_examples).tolist()

    @property
    def token_pairs(self) -> list[dict[str, Any]]:
        """The strongest pairs of all examples, largest absolute value first."""
        return [
            {
                "example": -index,
                "from": -i,
                "to": -j,
                "from_token": source,
                "to_token": destination,
                "attribution": value,
            }
            for _, index, i, j, value, source, destination in sorted(self._pairs, reverse=True)
        ]
