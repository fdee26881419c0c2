"""What is known of all examples of a run together.

Each part of a run has a summary of its own, and those of all parts are merged: into the same
numbers, to the bit, however the examples were divided.

Shapes: L layers, N heads.
"""

from __future__ import annotations

import collections
import heapq
import math
from typing import Any

import numpy as np

from ..views.sentence import ROUGH_LAYER
from .explanation import Explanation
from .rows import LARGEST_NUMBER

MAX_NAMED = 100  # of the layers that did not reach the tolerance


class ExactSum:
    """A sum of float64 arrays of one shape that is rounded once, at the end.

    It does not depend on the order of its terms, nor on how they were grouped.
    """

    _MAX_TERMS = 512

    def __init__(self) -> None:
        self._terms: list[np.ndarray] = []

    def add(self, values: np.ndarray) -> None:
        """Add an array; a ValueError if it has another shape than those before."""
        if self._terms and values.shape != self._terms[0].shape:
            raise ValueError(f"shape {values.shape}, not {self._terms[0].shape}")
        self._terms.append(values)
        if len(self._terms) > self._MAX_TERMS:
            self._terms = self.terms

    @property
    def terms(self) -> list[np.ndarray]:
        """A few arrays that have exactly the same sum."""
        if not self._terms:
            return []
        stacked = np.stack(self._terms)
        columns = [_few_terms(column) for column in stacked.reshape(len(stacked), -1).T.tolist()]
        count = max(1, *map(len, columns))
        padded = np.asarray([column + [0.0] * (count - len(column)) for column in columns])
        return list(padded.T.reshape(count, *stacked.shape[1:]))

    @property
    def total(self) -> np.ndarray:
        """The sum, each value of it rounded to float64."""
        stacked = np.stack(self._terms)
        columns = stacked.reshape(len(stacked), -1).T.tolist()
        return np.asarray([math.fsum(column) for column in columns]).reshape(stacked.shape[1:])


def _few_terms(values: list[float]) -> list[float]:
    """Return the rounded sum, then what rounding left of it, and so on until nothing is left."""
    found: list[float] = []
    while rest := math.fsum([*values, *(-term for term in found)]):
        found.append(rest)
    return found


class DatasetSummary:
    """The mean head importance, the strongest token pairs and the roughest layers of all examples.

    Its size does not grow with the number of examples.
    """

    def __init__(self, num_pairs: int = 20):
        self.num_pairs, self.num_examples = num_pairs, 0
        # The largest estimated error / Σ|attributions| of any layer of any example, of which text,
        # and of which layer (None: of all together); how many texts are rough, and in which layers
        self.worst: tuple[float, int | None, int | None] = (0.0, None, None)
        self.worst_delta = 0.0  # |convergence delta| / Σ|attributions|
        self.num_rough = 0
        self.rough_layers: collections.Counter[int | None] = collections.Counter()
        # (text, layer) that did not reach the tolerance: the first of them, and how many there are
        self.not_converged: list[dict[str, int]] = []
        self.num_not_converged = 0
        self._importance, self._n_steps = ExactSum(), ExactSum()
        self._pairs: list[tuple] = []  # a heap: (|value|, -example, -from, -to, value, tokens)

    def add(self, explained: Explanation) -> None:
        """Take one example."""
        row = explained.row
        self.num_examples += 1
        self._importance.add(np.asarray(row["head_importance"], np.float64))
        self._n_steps.add(np.asarray(row["n_steps"], np.float64))
        missed = [
            {"example": row["index"], "layer": layer}
            for layer, converged in zip(row["layers"], row["converged"] or (), strict=False)
            if not converged
        ]
        self._add_missed(missed, len(missed))
        layers = row["layers"] if row["path"] == "layer" else [None]
        self.worst_delta = max(self.worst_delta, *(explained.relative_deltas or [0.0]))
        errors = [min(error, LARGEST_NUMBER) for error in explained.relative_errors or ()]
        self.num_rough += max(errors, default=0.0) > ROUGH_LAYER
        for layer, error in zip(layers, errors, strict=False):
            self._add_worst((error, row["index"], layer))
            self.rough_layers[layer] += error > ROUGH_LAYER
        for pair in row["token_pairs"]:
            # Not normalised, so that examples compare; index and positions break ties
            value = pair["attribution"] * row["token_pairs_scale"]
            places = (-row["index"], -pair["from"], -pair["to"])
            tokens = (row["tokens"][pair["from"]], row["tokens"][pair["to"]])
            self._add_pair((abs(value), *places, value, *tokens))

    def merge(self, other: DatasetSummary) -> None:
        """Take all examples of another summary; none of them may be in this one."""
        self.num_examples += other.num_examples
        for own, others in ((self._importance, other._importance), (self._n_steps, other._n_steps)):
            for term in others.terms:
                own.add(term)
        self._add_missed(other.not_converged, other.num_not_converged)
        self.num_rough += other.num_rough
        self.rough_layers += other.rough_layers  # leaves those without any out
        self.worst_delta = max(self.worst_delta, other.worst_delta)
        self._add_worst(other.worst)
        for pair in other._pairs:
            self._add_pair(pair)

    def _add_missed(self, missed: list[dict[str, int]], count: int) -> None:
        if count:
            both = [*self.not_converged, *missed]
            # Sorted by example alone: the layers of one keep their order
            self.not_converged = sorted(both, key=lambda one: one["example"])[:MAX_NAMED]
            self.num_not_converged += count

    def _add_worst(self, worst: tuple[float, int | None, int | None]) -> None:
        # Of equal ones the first text, and its first layer
        error, index, _ = worst
        if index is not None and (error, -index) > (self.worst[0], -(self.worst[1] or 0)):
            self.worst = worst

    def _add_pair(self, pair: tuple) -> None:
        heapq.heappush(self._pairs, pair)
        if len(self._pairs) > self.num_pairs:
            heapq.heappop(self._pairs)

    def to_json(self) -> dict[str, Any]:
        """Return all that it knows, as JSON can hold it without loss."""
        return {
            "num_examples": self.num_examples,
            "importance": [term.tolist() for term in self._importance.terms],
            "n_steps": [term.tolist() for term in self._n_steps.terms],
            "worst": list(self.worst),
            "worst_delta": self.worst_delta,
            "num_rough": int(self.num_rough),
            "rough_layers": [
                [layer, int(count)]
                for layer, count in sorted(self.rough_layers.items(), key=str)
                if count
            ],
            "not_converged": self.not_converged,
            "num_not_converged": self.num_not_converged,
            "token_pairs": [list(pair) for pair in sorted(self._pairs, reverse=True)],
        }

    @classmethod
    def from_json(cls, fields: Any) -> DatasetSummary:
        """Return the summary that `to_json` described; a ValueError if it is none."""
        try:
            summary = cls()
            counts = [fields[name] for name in ("num_examples", "num_rough", "num_not_converged")]
            if not all(type(count) is int and count >= 0 for count in counts):
                raise ValueError("counts must be numbers from 0")
            summary.num_examples, summary.num_rough, summary.num_not_converged = counts
            for name, own in (("importance", summary._importance), ("n_steps", summary._n_steps)):
                for term in fields[name]:
                    own.add(_finite(term))
            summary.worst = _worst(fields["worst"])
            summary.worst_delta = float(_finite([fields["worst_delta"]])[0])
            for layer, count in fields["rough_layers"]:
                summary.rough_layers[None if layer is None else _whole(layer)] = _whole(count)
            summary.not_converged = [
                {name: _whole(missed[name]) for name in ("example", "layer")}
                for missed in fields["not_converged"][:MAX_NAMED]
            ]
            for pair in fields["token_pairs"]:
                summary._add_pair(_pair(pair))
            return summary
        except (
            TypeError,
            KeyError,
            IndexError,
            AttributeError,
            OverflowError,
            ValueError,
        ) as error:
            raise ValueError(f"the summary is damaged ({error!s:.80})") from None

    @property
    def importance(self) -> np.ndarray:
        """[L, N], float64."""
        return self._importance.total / self.num_examples

    @property
    def mean_n_steps(self) -> list[float]:
        """Integration steps of each layer, the mean over examples."""
        return (self._n_steps.total / self.num_examples).tolist()

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


def _finite(values: Any) -> np.ndarray:
    found = np.asarray(values, np.float64)
    if not found.size or found.ndim > 2 or not np.isfinite(found).all():
        raise ValueError("sums must be lists of finite numbers")
    return found


def _whole(value: Any) -> int:
    if type(value) is not int or abs(value) >= 2**31:
        raise ValueError(f"{value!r:.20} is no number of an example, token or layer")
    return value


def _worst(fields: Any) -> tuple[float, int | None, int | None]:
    error, index, layer = fields
    places = [None if place is None else _whole(place) for place in (index, layer)]
    return (float(_finite([error])[0]), *places)


def _pair(fields: Any) -> tuple:
    size, index, start, end, value, source, destination = fields
    if not isinstance(source, str) or not isinstance(destination, str):
        raise ValueError("tokens must be text")
    numbers = [float(number) for number in _finite([size, value])]
    return (numbers[0], *map(_whole, (index, start, end)), numbers[1], source, destination)
