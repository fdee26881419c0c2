"""What the views need of an explained example. `explanations.Explanation` is one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from ..attribution.tree import THRESHOLD, AttributionTree


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


def single_output(row: Mapping[str, Any]) -> float | None:
    """Return the output of a model with one output (regression); None where there are classes.

    Args:
      row: of `examples.jsonl`. A model with one output has no probabilities: older files have 1 in
        their place, and the output as `score` alone.
    """
    if len(row["probabilities"]) > 1:
        return None
    return row["logits"][row["predicted"]] if "logits" in row else row["score"]
