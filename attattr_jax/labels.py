"""What a label means: the one rule by which labels become classes of a model.

It holds for training, evaluation, gold targets, `--target` and `explain_texts`. Names decide wherever there
are names: in the data (the names of a `datasets.ClassLabel`, or labels that are text) or in the model
(`id2label` other than LABEL_0, LABEL_1, …).

| label in the data           | model with names                               | model with LABEL_0, LABEL_1, … |
|-----------------------------|------------------------------------------------|--------------------------------|
| text, or ClassLabel's names | the class of that name                         | ClassLabel: by position, if    |
|                             |                                                | there are as many; text: error |
| a number without a name     | where class names are digits: the class of     | the class with that index      |
|                             | that name; else the class with that index      |                                |
| −1, "-", empty              | no gold label                                  | no gold label                  |

A name is matched exactly, else with case folded where that leaves one class. Where all class names have a
number in them that is not their index ("1 star", "2 stars", …), numbers could be meant both ways and are an
error. What was assumed about numbers and positions is said by `assumption`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import InputError
from .tokens import shortened

if TYPE_CHECKING:
    from .data import Split

Label = int | float | str | None  # None: no gold label

NO_GOLD = -1  # among class indices
_NO_GOLD_TEXTS = ("", "-", "-1", "-1.0")
_WHOLE_NUMBER = re.compile(r"[+-]?(0|[1-9][0-9]{0,8})(\.0*)?")
_NUMBER = re.compile(r"[+-]?[0-9]*\.?[0-9]+([eE][+-]?[0-9]+)?")


def parse_labels(values: Sequence[Any]) -> list[Label] | None:
    """Return the labels of a column as integers, other numbers, text, or None where an example has none.

    Whole numbers are integers however they are written (1, "1", 1.0, True), unless one of the column has a
    leading zero: "01" is text, and so is "10" beside it. None if no example has a label.
    """
    texts = [value.strip() for value in values if isinstance(value, str)]
    is_padded = any(re.fullmatch(r"0[0-9]+", text) for text in texts)
    parsed = [_parse_label(value, is_padded) for value in values]
    return None if all(label is None for label in parsed) else parsed


def _parse_label(value: Any, digits_are_text: bool) -> Label:
    if value is None or (isinstance(value, str) and value.strip() in _NO_GOLD_TEXTS):
        return None
    if isinstance(value, str):
        value = value.strip()
        if digits_are_text:
            return value
        if _WHOLE_NUMBER.fullmatch(value):
            return int(float(value))
        return float(value) if _NUMBER.fullmatch(value) else value
    if not isinstance(value, (bool, int, float, np.bool_, np.integer, np.floating)):
        return shortened(repr(value), 80)  # a list, an object: no class has such a name
    if not math.isfinite(value):
        return None if math.isnan(value) else float(value)
    if value == -1:
        return None
    return int(value) if value == int(value) else float(value)


class _Classes:
    """The classes of a model, to look labels up in."""

    def __init__(self, id2label: Mapping[int, str]):
        self.id2label = id2label
        self.by_name = {name: index for index, name in id2label.items()}
        folded: dict[str, list[int]] = {}
        for index, name in id2label.items():
            folded.setdefault(name.strip().casefold(), []).append(index)
        self.by_folded_name = {name: found[0] for name, found in folded.items() if len(found) == 1}
        self.have_names = _are_names(id2label)
        self.digits_are_names = any(name.isdecimal() and name != str(index) for index, name in id2label.items())
        # Of "1 star", "2 stars", …: the number 1 might be the class of index 1, or the one of that name.
        numbers = {index: [int(part) for part in re.findall(r"[0-9]{1,9}", name)] for index, name in id2label.items()}
        are_numbered = all(len(parts) == 1 for parts in numbers.values())
        self.numbers = {index: parts[0] for index, parts in numbers.items()} if are_numbered else {}
        self.are_ambiguous = (
            not self.digits_are_names
            and len(set(self.numbers.values())) == len(id2label)
            and any(index != number for index, number in self.numbers.items())
        )

    def named(self, name: str) -> int | None:
        """Return the class of a name."""
        if name in self.by_name:
            return self.by_name[name]
        return self.by_folded_name.get(name.strip().casefold())

    def numbered(self, number: int) -> int | None:
        """Return the class that a number means, None if there is none.

        Raises:
          InputError: it could mean two.
        """
        if (index := self.named(str(number))) is not None:
            return index
        if self.digits_are_names:  # and this is none of them
            return None
        if self.are_ambiguous:
            name = self.id2label[min(self.id2label)]
            raise InputError(f"label {number} may be an index, or a number in a name such as {name!r:.80}: use the names")
        return number if number in self.id2label else None

    def listed(self) -> str:
        """Return the classes as errors name them."""
        if self.have_names:
            return shortened(", ".join(self.id2label[index] for index in sorted(self.id2label)))
        return f"0 to {len(self.id2label) - 1}"


def _are_names(names: Mapping[int, str]) -> bool:
    """Return whether names say more than the index does."""
    return any(name not in (str(index), f"LABEL_{index}") for index, name in names.items())


def _data_names(split: Split) -> dict[int, str] | None:
    """Return the names that a data set itself gives its indices, None without any."""
    names = dict(enumerate(split.label_names or ()))
    return names if _are_names(names) else None


def class_index(label: str | int, id2label: Mapping[int, str], alternatives: str = "") -> int:
    """Return the class that a label means, as text (of the command line) or as a number.

    Args:
      label: a class name, an index, or an index as text.
      id2label: the model's classes.
      alternatives: what else might have been given, as errors name it.

    Raises:
      InputError: none of the classes is meant, or two might be.
    """
    classes = _Classes(id2label)
    (parsed,) = parse_labels([label]) or [None]
    found = classes.named(label) if isinstance(label, str) else None
    if found is None and isinstance(parsed, int):
        found = classes.numbered(parsed)
    if found is None:
        named = ", ".join(f"{index} ({name})" for index, name in sorted(id2label.items()))
        raise InputError(f"{shortened(str(label), 80)!r} is not {alternatives}one of the classes {shortened(named)}")
    return found


def class_indices(split: Split, id2label: Mapping[int, str]) -> np.ndarray:
    """Return the labels as the model's class indices, int32 [examples]; −1 without a gold label.

    Raises:
      InputError: the split has no labels, mixes names and numbers, or has a label that is none of the
        model's classes, names file and row; or the model has no classes (regression).
    """
    if len(id2label) == 1:
        raise InputError(f"{split.source}: the model has one output (regression): labels are no classes of it")
    raw_labels = checked_labels(split)
    classes = _Classes(id2label)
    look_up = _look_up(split, classes)
    known: dict[Label, int | None] = {None: NO_GOLD}
    indices = []
    for at, label in enumerate(raw_labels):
        if label not in known:
            try:
                known[label] = look_up(label)
            except InputError as error:
                raise InputError(f"{split.row(at)}: {error}") from None
        if known[label] is None:
            shown = (_data_names(split) or {}).get(label, label)
            what = f"label {shown!r:.80} is not one of the model's classes ({classes.listed()})"
            raise InputError(f"{split.row(at)}: {what}")
        indices.append(known[label])
    return np.asarray(indices, np.int32)


def _look_up(split: Split, classes: _Classes) -> Callable[[Label], int | None]:
    """Return label -> class, None if it is none of the model's."""
    data_names = _data_names(split)
    if data_names is None:
        return lambda label: classes.named(label) if isinstance(label, str) else classes.numbered(label)
    if not classes.have_names:
        if len(data_names) != len(classes.id2label):
            in_data = shortened(", ".join(data_names.values()))
            raise InputError(
                f"{split.source} has the classes {in_data}; the model has {len(classes.id2label)} classes without "
                f"names: write their names into id2label of its config.json"
            )
        return lambda label: label if label in data_names else None
    by_index = {index: classes.named(name) for index, name in data_names.items()}
    matched = [index for index in by_index.values() if index is not None]
    if len(set(matched)) < len(matched):
        in_data = shortened(", ".join(data_names.values()))
        raise InputError(f"{split.source}: two of its classes ({in_data}) match one of the model's ({classes.listed()})")
    return by_index.get


def assumption(split: Split, id2label: Mapping[int, str]) -> str | None:
    """Return, in words, what `class_indices` assumed where only one side says names; None if nothing."""
    classes, data_names = _Classes(id2label), _data_names(split)
    if data_names is not None and not classes.have_names:
        pairs = ", ".join(f"{name} = {id2label[index]}" for index, name in data_names.items())
        return f"the model does not name its classes; by position {shortened(pairs)}"
    has_numbers = data_names is None and any(isinstance(label, int) for label in split.raw_labels or ())
    if has_numbers and classes.have_names and not (classes.digits_are_names or classes.are_ambiguous):
        pairs = ", ".join(f"{index} = {name}" for index, name in sorted(id2label.items()))
        return f"labels are class indices, in the model's order: {shortened(pairs)}"
    return None


def checked_labels(split: Split) -> list[Label]:
    """Return the labels of a split, all names or all integers, None where an example has none.

    Raises:
      InputError: there are no labels, fractions (regression), negative numbers, or names beside numbers.
    """
    if split.raw_labels is None:
        raise InputError(f"{split.source} has no labels: name their column with --label_column (−1, - and empty are none)")
    first = next((label for label in split.raw_labels if label is not None), None)
    for at, label in enumerate(split.raw_labels):
        if isinstance(label, float):
            what = f"label {label:g} is a number but no class index; regression is not supported"
            raise InputError(f"{split.row(at)}: {what}")
        if label is not None and isinstance(label, str) != isinstance(first, str):
            what = f"label {str(label)!r:.80} beside {str(first)!r:.80}: use class indices or class names, not both"
            raise InputError(f"{split.row(at)}: {what}")
        if isinstance(label, int) and label < 0:
            raise InputError(f"{split.row(at)}: label {label} is negative; class indices start at 0")
    return split.raw_labels


def label_names(train: Split, model_names: Mapping[int, str] | None = None) -> dict[int, str]:
    """Return the class names to train with: index -> name.

    A model that knows all the names of the data keeps its own numbering. Otherwise ClassLabel's order counts,
    text is numbered in sorted order, and indices take their names from a model with as many classes, or are
    called LABEL_0, …. Numbers of which none is 0 (ratings 1 to 5) are names, not indices.

    Raises:
      InputError: the split has no labels, only one class, two names that differ in case alone, or numbers that
        might be indices of the model's classes or numbers in their names.
    """
    labels = sorted({label for label in checked_labels(train) if label is not None})
    model_names = dict(model_names or {})
    if len(labels) < 2:
        raise InputError(f"{train.source}: every label is {labels[0]!r:.80}; a classifier needs at least two classes")
    data_names, classes = _data_names(train), _Classes(model_names)
    names = [str(label) for label in labels] if data_names is None else list(data_names.values())
    matched = [classes.named(name) for name in names]
    if model_names and None not in matched and len(set(matched)) == len(names):
        return model_names
    if data_names is None and isinstance(labels[0], int):
        if classes.are_ambiguous and (len(model_names) == labels[-1] + 1 or set(labels) <= set(classes.numbers.values())):
            classes.numbered(labels[0])  # raises
        if len(model_names) == labels[-1] + 1 and not classes.digits_are_names:
            return model_names
        if labels[0] == 0:
            count = labels[-1] + 1
            if count > len(train):
                row = train.row(train.raw_labels.index(labels[-1]))
                raise InputError(f"{row}: class index {labels[-1]} is larger than the number of examples")
            return {index: f"LABEL_{index}" for index in range(count)}
    by_folded: dict[str, str] = {}
    for name in names:
        other = by_folded.setdefault(name.casefold(), name)
        if other != name:
            raise InputError(f"{train.source}: labels {other!r:.80} and {name!r:.80} differ in case alone: use one of them")
    return dict(enumerate(names))


def has_other_classes(model_names: Mapping[int, str], id2label: Mapping[int, str]) -> bool:
    """Return whether a model names its classes, and they are not these: its head is of no use for them."""
    return _are_names(model_names) and dict(model_names) != dict(id2label)
