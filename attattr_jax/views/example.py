"""What the views need of an explained example. `explanations.Explanation` is one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from ..attribution.summaries.tree import THRESHOLD, AttributionTree


class Example(Protocol):
    """One explained example: T tokens without padding, L layers (those asked for), N heads."""

    row: Mapping[str, Any]  # the fields of `examples.jsonl` (docs/files.md)

    @property
    def array_names(self) -> Sequence[str]:
        """The arrays that `array` can return."""
        ...

    def array(self, name: str) -> np.ndarray:
        """Return one array."""
        ...

    def loaded(self) -> Example:
        """Return the same example with its arrays in memory."""
        ...

    @property
    def attributions(self) -> np.ndarray:
        """[L, N, T, T], row attends to column."""
        ...

    @property
    def attention_probs(self) -> np.ndarray:
        """[L, N, T, T]."""
        ...

    @property
    def token_pair_attributions(self) -> np.ndarray:
        """[T, T], the sum over layers and heads divided by its largest absolute value."""
        ...

    @property
    def relative_deltas(self) -> list[float] | None:
        """|convergence delta| / Σ|attributions| of each layer; None where it is not known."""
        ...

    @property
    def relative_errors(self) -> list[float] | None:
        """The estimated error / Σ|attributions| of each layer; None where it is not known."""
        ...

    @property
    def words(self) -> list[list[int]]:
        """The positions of each word's pieces."""
        ...

    @property
    def word_labels(self) -> list[str]:
        """Each word as the text has it."""
        ...

    @property
    def sum_name(self) -> str:
        """What `token_pair_attributions` is the sum over, in words."""
        ...

    @property
    def has_all_layers(self) -> bool:
        """Whether every layer of the model was attributed: a tree needs that."""
        ...

    def tree(
        self, threshold: float = THRESHOLD, penalty: float = 0.0, words: bool = False
    ) -> AttributionTree:
        """Return the attribution tree of tokens, or of words."""
        ...


def prediction_of(row: Mapping[str, Any]) -> str:
    """Return in words what the model says of a text."""
    output = single_output(row)
    if output is not None:
        return f"output {output:.3f}"
    probabilities, predicted = row["probabilities"], row["predicted"]
    labels = row.get("predicted_labels")
    if labels is None:
        return f"{predicted} (p = {probabilities[predicted]:.3f})"
    if not labels:
        return f"no label (most probable: {predicted}, {probabilities[predicted]:.3f})"
    ordered = sorted(labels, key=lambda label: -probabilities[label])
    return ", ".join(f"{label} ({probabilities[label]:.3f})" for label in ordered)


def window_of(row: Mapping[str, Any]) -> str | None:
    """Return in words which window of a longer text this is; None of a text in one piece."""
    window = row.get("window")
    if window is None:
        return None
    predicted, means = window["predicted"], window["means"]
    is_output = len(means) == 1
    whole = f"{means[predicted]:.3f}" if is_output else f"{predicted} ({means[predicted]:.3f})"
    return f"window {window['number'] + 1} of {window['count']}; the whole text: {whole}"


def gold_of(row: Mapping[str, Any]) -> str | None:
    """Return the gold class, or the list of them; None without one."""
    labels = row.get("labels")
    return row["label"] if labels is None else ", ".join(labels) or "no label"


def is_wrong(row: Mapping[str, Any]) -> bool:
    """Return whether the model says something else than the gold class or classes."""
    if row.get("labels") is not None:
        return set(row["labels"]) != set(row["predicted_labels"])
    return row["label"] not in (None, row["predicted"])


def explained_class(row: Mapping[str, Any]) -> str:
    """Return what was explained: a class, or one rather than another."""
    contrast = row.get("contrast")
    return row["target"] if contrast is None else f"{row['target']} rather than {contrast}"


def single_output(row: Mapping[str, Any]) -> float | None:
    """Return the output of a model with one output (regression); None where there are classes.

    Args:
      row: of `examples.jsonl`. A model with one output has no probabilities: older files have 1 in
        their place, and the output as `score` alone.
    """
    if len(row["probabilities"]) > 1:
        return None
    return row["logits"][row["predicted"]] if "logits" in row else row["score"]
