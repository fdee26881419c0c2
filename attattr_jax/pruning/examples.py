"""Which examples heads are scored on, and which accuracy is measured on: never the same ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..data.splits import Split
from ..errors import InputError


def disjoint(scoring: Split, evaluated: Split, num_scoring: int, seed: int) -> tuple[Split, Split]:
    """Return the examples to score on, drawn at random, and those to evaluate on.

    No text that is scored on is among the latter.

    Raises:
      InputError: nothing would be left to evaluate on.
    """
    drawn = np.random.default_rng(seed).permutation(len(scoring))[:num_scoring]
    scored = scoring.select(np.sort(drawn))
    return scored, drop_examples(evaluated, scored.example_hashes())


def drop_examples(evaluated: Split, hashes: Sequence[str]) -> Split:
    """Return the split without the examples that have one of these hashes (`Split.example_hashes`).

    Raises:
      InputError: none is left.
    """
    known = set(hashes)
    left = [index for index, digest in enumerate(evaluated.example_hashes()) if digest not in known]
    if not left:
        raise InputError(
            f"every example of {evaluated.source} was scored on: score on fewer, or evaluate on"
            " more or others (--eval_split)"
        )
    return evaluated.select(left)
