"""A pruning experiment: heads ranked by measures, and metrics of the model without some of them.

    experiment = Experiment(classifier, scored, evaluated)
    ranking = experiment.rank("attribution")
    curve, = experiment.curves([ranking])

`prune_curve` does this from lists of texts and labels. What was computed is kept in a journal: a
mask is evaluated once, however often it is asked for, and with a journal on disk a run that was
killed goes on where it stopped.

Shapes: L layers, N heads, M masks. A mask is [L, N], 1 keeps a head.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
import types
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from ..data.batches import Encoded, encode
from ..data.labels import class_indices, parse_labels
from ..data.splits import Split
from ..errors import InputError
from ..models.classifier import Classifier, checked_texts
from ..models.head_masks import present_heads
from ..runtime import sharding
from ..runtime.files import Journal
from ..training import evaluation
from .curves import curve_masks, curve_record, removal_order
from .examples import drop_examples
from .importance import HeadScores, score_heads
from .importance_file import importance_record
from .measures import MEASURES

MASKS_PER_LINE = 16  # evaluated between two writes: what a killed run loses

# (total, unit, description) -> a context with an `update(count)`: a progress bar.
Progress = Callable[[int, str, str], contextlib.AbstractContextManager]


@contextlib.contextmanager
def _no_progress(total: int, unit: str, description: str):
    yield types.SimpleNamespace(update=lambda count: None)


@dataclasses.dataclass(frozen=True)
class Ranking:
    """The heads as one measure ranks them, with one seed where that is random."""

    record: dict[str, Any]  # the contents of its head_importance.json
    seed: int | None
    order: np.ndarray  # [L·N], in which the heads are removed
    seconds: float  # that it took

    @property
    def measure(self) -> str:
        """The name of the measure."""
        return self.record["measure"]


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One model, the examples its heads are scored on, and those it is evaluated on."""

    classifier: Classifier
    scored: Encoded | None  # with labels; None where no measure needs examples
    evaluated: Encoded  # with labels
    example_hashes: Sequence[str] = ()  # of the scored ones (`Split.example_hashes`)
    task: str | None = None  # whose own metric is computed too, as for `evaluation.metrics`
    n_steps: int | str = 20  # of the measure "attribution"
    method: str = "gausslegendre"  # likewise
    shard_params: bool = False  # divide the parameters over the devices
    journal: Journal = dataclasses.field(default_factory=lambda: Journal(None))
    progress: Progress = _no_progress

    @functools.cached_property
    def mesh(self) -> jax.sharding.Mesh:
        """The devices of this process."""
        return sharding.data_mesh()

    @functools.cached_property
    def params(self) -> Any:
        """The parameters on the devices."""
        return sharding.place_params(self.classifier.params, self.mesh, self.shard_params)

    @functools.cached_property
    def present(self) -> np.ndarray:
        """The heads that the model has, int32 [L, N]."""
        return present_heads(self.classifier.config)

    @functools.cached_property
    def fingerprint(self) -> str:
        """The model's fingerprint."""
        return self.classifier.fingerprint()

    def score(self, measure: str, seed: int | None, mask: np.ndarray) -> HeadScores:
        """Return the scores of all heads under a mask [L, N]."""
        name = _entry(f"scores {measure} {seed}", mask)
        if known := self.journal.get(name):
            details = {key: np.asarray(values) for key, values in known["details"].items()}
            return HeadScores(np.asarray(known["importance"]), details)
        num_examples = 0 if self.scored is None else len(self.scored)
        with self.progress(num_examples, "examples", f"scoring heads by {measure}") as bar:
            scores = score_heads(
                measure,
                self.classifier,
                self.scored,
                self.mesh,
                mask,
                self.n_steps,
                self.method,
                seed or 0,
                on_batch=lambda count: bar.update(count * sharding.num_shares(self.mesh)),
                params=self.params,
            )
        details = {key: values.tolist() for key, values in scores.details.items()}
        self.journal.put(name, {"importance": scores.importance.tolist(), "details": details})
        return scores

    def rank(
        self,
        measure: str,
        seed: int | None = None,
        heads_per_round: int | None = None,
        num_heads: int | None = None,
    ) -> Ranking:
        """Rank the heads by a measure.

        Args:
          measure: one of `measures.MEASURES`.
          seed: for "random".
          heads_per_round: how many heads are removed before the remaining ones are scored again;
            None: all are scored once.
          num_heads: how many heads are to be removed at most: no more rounds than that needs.
        """
        start = time.perf_counter()
        scores = self.score(measure, seed, self.present)
        target, hashes = ("gold", self.example_hashes) if measure != "random" else (None, ())
        record = importance_record(
            measure, scores.importance, self.fingerprint, target, hashes, details=scores.details
        )
        again = None
        if heads_per_round is not None and measure != "random":
            again = lambda mask: self.score(measure, seed, mask).importance  # noqa: E731
        order = removal_order(record["importance"], self.present, again, heads_per_round, num_heads)
        return Ranking(record, seed, order, round(time.perf_counter() - start, 3))

    def rank_by_record(self, record: dict[str, Any], num_heads: int | None = None) -> Ranking:
        """Rank the heads by the contents of a `head_importance.json`."""
        start = time.perf_counter()
        order = removal_order(record["importance"], self.present, num_heads=num_heads)
        return Ranking(record, None, order, round(time.perf_counter() - start, 3))

    def metrics(self, masks: np.ndarray) -> list[dict[str, float]]:
        """Return the metrics on the evaluated examples under each of `masks` [M, L, N]."""
        names = [_entry("metrics", mask) for mask in masks]
        new = {
            name: mask
            for name, mask in zip(names, masks, strict=True)
            if self.journal.get(name) is None
        }
        if new:
            description = f"evaluating {len(new)} masks"
            total = len(self.evaluated) * len(new)
            with self.progress(total, "examples", description) as bar:
                for start in range(0, len(new), MASKS_PER_LINE):
                    self._evaluate(dict(list(new.items())[start : start + MASKS_PER_LINE]), bar)
        return [self.journal.get(name) for name in names]

    def _evaluate(self, masks: dict[str, np.ndarray], bar: Any) -> None:
        """Put the metrics under each mask into the journal."""

        def on_batch(count: int) -> None:
            bar.update(count * len(masks) * sharding.num_shares(self.mesh))

        stacked = np.stack(list(masks.values())).astype(np.float32)
        config, id2label = self.classifier.config, self.classifier.id2label
        all_logits = evaluation.predict_masks(
            self.params, config, self.evaluated, self.mesh, stacked, on_batch=on_batch
        )
        for name, logits in zip(masks, all_logits, strict=True):
            labels = self.evaluated.labels
            assert labels is not None
            self.journal.put(name, evaluation.metrics(logits, labels, self.task, id2label))

    def curves(
        self,
        rankings: Sequence[Ranking],
        tops: Sequence[np.ndarray] | None = None,
        other_masks: np.ndarray | None = None,
    ) -> list[dict[str, Any]]:
        """Return the curve of each ranking, as `curve_record` has it.

        Args:
          rankings: R of them.
          tops: R masks, of the best heads of every layer: a point `keep_per_layer` beside the
            curve.
          other_masks: [M, L, N], evaluated in the same passes because they are needed next.
        """
        points = np.stack([curve_masks(ranking.order, self.present) for ranking in rankings])
        num_points = points.shape[1]
        flat = points.reshape(-1, *self.present.shape)
        groups = [masks for masks in (other_masks, flat, tops) if masks is not None]
        metrics = self.metrics(np.concatenate(groups))
        metrics = metrics[0 if other_masks is None else len(other_masks) :]
        curves = []
        for number, ranking in enumerate(rankings):
            of_points = metrics[number * num_points : (number + 1) * num_points]
            curve = curve_record(ranking.measure, ranking.seed, points[number], of_points)
            if tops is not None:
                num_pruned = int((tops[number] == 0).sum())
                curve["keep_per_layer"] = {
                    "per_layer": int(tops[number].sum(axis=1).max()),
                    "fraction": num_pruned / self.present.size,
                    "num_pruned": num_pruned,
                    **metrics[len(flat) + number],
                }
            curves.append(curve)
        return curves


def _entry(kind: str, mask: np.ndarray) -> str:
    """Return the name in the journal of what was computed under a mask [L, N]."""
    return f"{kind} {np.ascontiguousarray(mask, np.int8).tobytes().hex()}"


def prune_curve(
    classifier: Classifier,
    texts: Sequence[str],
    labels: Sequence[Any],
    eval_texts: Sequence[str],
    eval_labels: Sequence[Any],
    measure: str = "attribution",
    *,
    text_pairs: Sequence[str] | None = None,
    eval_text_pairs: Sequence[str] | None = None,
    n_steps: int | str = 20,
    seed: int = 0,
    heads_per_round: int | None = None,
) -> dict[str, Any]:
    """Return the accuracy with 0, 10, … 100 % of all heads removed, the least important first.

    What `prune.py --curve` computes, in memory (Hao et al. 2021, section 4.2; for iterative
    scoring, Michel, Levy, Neubig 2019, section 4.1).

    Args:
      classifier: the model, with its tokenizer.
      texts, labels, text_pairs: what heads are scored on: texts, class names or indices, and second
        segments for tasks on sentence pairs.
      eval_texts, eval_labels, eval_text_pairs: what accuracy is measured on. Examples that are
        scored on as well are left out.
      measure: "attribution", "taylor", "attention", "ablation" or "random".
      n_steps: integration steps of "attribution", or "auto".
      seed: for "random".
      heads_per_round: how many heads are removed before the remaining ones are scored again; None:
        all are scored once.

    Returns:
      `measure`, `seed`, `points` (`fraction` of heads removed, `num_pruned`, `accuracy`, `loss`),
      `area_under_curve` (the mean accuracy over the fractions, trapezoidal rule), and
      `removable_within_1_point`, the heads removed at the last point before accuracy is more than
      0.01 below the first point's.

    Raises:
      InputError: an unknown measure, texts and labels that do not fit the model, or no example to
        evaluate that was not scored on.
    """
    if measure not in MEASURES:
        raise InputError(f"measure {measure!r:.80} is unknown; choose one of {', '.join(MEASURES)}")
    classifier.require_classes()
    scored = _split_of("texts", texts, labels, text_pairs, classifier)
    evaluated = _split_of("eval_texts", eval_texts, eval_labels, eval_text_pairs, classifier)
    evaluated = drop_examples(evaluated, scored.example_hashes())
    experiment = Experiment(
        classifier,
        _encoded(scored, classifier),
        _encoded(evaluated, classifier),
        scored.example_hashes(),
        n_steps=n_steps,
    )
    seeded = seed if measure == "random" else None
    (curve,) = experiment.curves([experiment.rank(measure, seeded, heads_per_round)])
    return curve


def _split_of(name: str, texts, labels, text_pairs, classifier: Classifier) -> Split:
    """Return texts and labels as a split, without examples that have no gold label."""
    texts, text_pairs = checked_texts(texts, text_pairs)
    labels = np.asarray(labels).tolist() if hasattr(labels, "dtype") else labels
    if not isinstance(labels, (list, tuple)) or len(labels) != len(texts):
        raise InputError(f"the labels of {name} must be a list, one for each of {len(texts)} texts")
    split = Split(name, name, texts, text_pairs, parse_labels(labels))
    return split.with_gold_labels(classifier.id2label)


def _encoded(split: Split, classifier: Classifier) -> Encoded:
    labels = class_indices(split, classifier.id2label)
    return encode(classifier, split, classifier.config.max_length, labels)
