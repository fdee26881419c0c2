"""What a row of `examples.jsonl` says of an example's arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..attribution.summaries.reductions import strongest_pairs, top_heads


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
        "error_estimates": _estimates(arrays.get("error_estimate")),
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
        "token_error_estimate": _estimates(arrays.get("token_error")),
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


def _estimates(values: np.ndarray | None) -> Any:
    """Return error estimates, one or a list, as JSON holds them: those without bound are None."""
    if values is None:
        return None
    return np.where(np.isfinite(values), np.asarray(values, object), None).tolist()


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
