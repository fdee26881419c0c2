"""What a model is trained towards and compared with, by its kind of outputs.

single_label_classification: one class an example (`labels` has the rule for what a label means).
multi_label_classification: a list of classes an example, any number of them, also none.
regression: a number an example.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from ..errors import InputError
from .labels import NO_GOLD, class_indices, label_names
from .splits import Split

REGRESSION, SINGLE_LABEL, MULTI_LABEL = (
    "regression",
    "single_label_classification",
    "multi_label_classification",
)


def problem_type_of(split: Split) -> str:
    """Return what kind of labels a split has: lists, fractions, or else classes."""
    labels = split.raw_labels or ()
    if any(isinstance(label, tuple) for label in labels):
        return MULTI_LABEL
    has_fractions = any(isinstance(label, float) for label in labels)
    return REGRESSION if has_fractions else SINGLE_LABEL


def with_gold(split: Split, id2label: Mapping[int, str], problem_type: str) -> Split:
    """Return the split without the examples that have no gold label.

    None and "-" are none, and where one class is the label −1 too; an empty list is one.
    """
    if problem_type == SINGLE_LABEL:
        return split.with_gold_labels(id2label)
    are_gold = [label not in (None, "-") for label in split.raw_labels or ()]
    if all(are_gold):
        return split
    return split.select(np.flatnonzero(are_gold).tolist())


def class_names(
    train: Split, model_names: Mapping[int, str] | None, problem_type: str
) -> dict[int, str]:
    """Return the names of the outputs to train with, index -> name, as `label_names` does.

    Raises:
      InputError: as `label_names`, or labels are of another kind.
    """
    if problem_type == SINGLE_LABEL:
        return label_names(train, model_names)
    if problem_type == REGRESSION:
        _numbers(train)
        return dict(model_names or {}) if len(model_names or {}) == 1 else {0: "LABEL_0"}
    return label_names(_one_by_one(train)[0], model_names)


def gold_labels(split: Split, id2label: Mapping[int, str], problem_type: str) -> np.ndarray:
    """Return the labels of a split as the model's outputs.

    Returns:
      of one class an example its index, int32 [examples], −1 without a gold label; of lists of
      classes int32 [examples, C], 1 for those in the list, −1 in all of a row without one; of
      numbers float32 [examples].

    Raises:
      InputError: a label is of another kind, or is no class of the model; names file and row.
    """
    if problem_type == SINGLE_LABEL:
        return class_indices(split, id2label)
    if problem_type == REGRESSION:
        return _numbers(split)
    flat, counts = _one_by_one(split)
    indices = class_indices(flat, id2label) if len(flat) else np.zeros(0, np.int32)
    rows = np.repeat(np.arange(len(split)), counts)
    if NO_GOLD in indices:
        at = int(np.flatnonzero(indices == NO_GOLD)[0])
        label = (flat.raw_labels or [])[at]
        raise InputError(f"{flat.row(at)}: {label!r:.80} in a list of labels is no class")
    gold = np.zeros((len(split), len(id2label)), np.int32)
    gold[rows, indices] = 1
    labels = split.raw_labels or ()
    gold[[label is None for label in labels]] = NO_GOLD
    return gold


def _numbers(split: Split) -> np.ndarray:
    """Return labels that are numbers, float32 [examples]."""
    if split.raw_labels is None:
        raise InputError(f"{split.source} has no labels: name their column with --label_column")
    for index, label in enumerate(split.raw_labels):
        if isinstance(label, bool) or not isinstance(label, (int, float)):
            raise InputError(
                f"{split.row(index)}: label {label!r:.80} is no number, which a model with one"
                " output (regression) needs"
            )
    return np.asarray(split.raw_labels, np.float32)


def _one_by_one(split: Split) -> tuple[Split, list[int]]:
    """Return a split with an example for each label of every list, and how many each list has."""
    texts, labels, counts = [], [], []
    rows: list[int] = []
    for index, of_example in enumerate(split.raw_labels or ()):
        if of_example is not None and not isinstance(of_example, tuple):
            raise InputError(
                f"{split.row(index)}: label {of_example!r:.80} is no list, which a model whose"
                " labels hold or not, each by itself, needs"
            )
        of_example = of_example or ()
        counts.append(len(of_example))
        labels.extend(of_example)
        texts.extend([split.texts[index]] * len(of_example))
        rows.extend([index + 1 if split.rows is None else split.rows[index]] * len(of_example))
    flat = dataclasses.replace(split, texts=texts, text_pairs=None, raw_labels=labels, rows=rows)
    return flat, counts


def shown_labels(
    gold: np.ndarray | None, index: int, id2label: Mapping[int, str], problem_type: str
) -> tuple[str | None, list[str] | None]:
    """Return (gold class, gold list of classes) of an example by name; None where there is none."""
    if gold is None or problem_type == REGRESSION or np.any(gold[index] == NO_GOLD):
        return None, None
    if problem_type == SINGLE_LABEL:
        return id2label[int(gold[index])], None
    return None, [id2label[int(label)] for label in np.flatnonzero(gold[index])]


def without_examples(
    gold: np.ndarray, id2label: Mapping[int, str], problem_type: str
) -> Sequence[str]:
    """Return the classes that no example has."""
    if problem_type == REGRESSION:
        return ()
    is_of_one = gold[:, None] == np.arange(len(id2label)) if gold.ndim == 1 else gold == 1
    return [name for index, name in id2label.items() if not is_of_one[:, index].any()]
