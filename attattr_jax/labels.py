"""What a label means: the one rule by which labels become classes of a model.

It holds for training, evaluation, gold targets, `--target` and `explain_texts`. Names decide wherever there
are names: in the data (the names of a `datasets.ClassLabel`, or labels that are text) or in the model
(`id2label` other than LABEL_0, LABEL_1, …).

| label in the data           | model with names                               | model with LABEL_0, LABEL_1, … |
|-----------------------------|------------------------------------------------|--------------------------------|
| text, or ClassLabel's names | the class of that name                         | ClassLabel: by position, if    |
|                             |                                                | there are as many; text: error |
| a number                    | the class of that name, if a class has one     | the class with that index      |
|                             | (digits are names where the model's are);      |                                |
|                             | else the class with that index                 |                                |
| −1, "-", empty              | no gold label                                  | no gold label                  |

A name is matched exactly, else with case folded where that leaves one class. A number that could be meant
both ways (1 beside a class "1 star" of index 0) is an error. What was assumed about numbers and positions is
said by `assumption`.
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
        numbers = {index: re.findall(r"[0-9]+", name) for index, name in id2label.items()}
        # "1 star" is class 0: the number 1 might mean either class.
        self.misleading = next(
            (name for index, name in id2label.items() if len(numbers[index]) == 1 and int(numbers[index][0]) != index),
            None,
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
        if self.misleading is None:
            return number if number in self.id2label else None
        if any(name.isdecimal() for name in self.by_name):  # digits are names here, and this is none of them
            return None
        raise InputError(f"label {number} may be an index, or a number in a name such as {self.misleading!r}: use the names")

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
            theirs = shortened(", ".join(data_names.values()))
            raise InputError(
                f"{split.source} has the classes {theirs}; the model has {len(classes.id2label)} classes without "
                f"names: write their names into id2label of its config.json"
            )
        return lambda label: label if label in data_names else None
    by_index = {index: classes.named(name) for index, name in data_names.items()}
    found = [index for index in by_index.values() if index is not None]
    if len(set(found)) < len(found):
        theirs, ours = shortened(", ".join(data_names.values())), classes.listed()
        raise InputError(f"{split.source}: two of its classes ({theirs}) match one of the model's ({ours})")
    return by_index.get


def assumption(split: Split, id2label: Mapping[int, str]) -> str | None:
    """Return, in words, what `class_indices` assumed where only one side says names; None if nothing."""
    classes, data_names = _Classes(id2label), _data_names(split)
    if data_names is not None and not classes.have_names:
        pairs = ", ".join(f"{name} = {id2label[index]}" for index, name in data_names.items())
        return f"the model does not name its classes; by position {shortened(pairs)}"
    is_number = data_names is None and any(isinstance(label, int) for label in split.raw_labels or ())
    if is_number and classes.have_names and classes.misleading is None:
        pairs = ", ".join(f"{index} = {name}" for index, name in sorted(id2label.items()))
        return f"labels are class indices, in the model's order: {shortened(pairs)}"
    return None


def checked_labels(split: Split) -> list[Label]:
    """Return the labels of a split, all names or all integers, None where an example has none.

    Raises:
      InputError: there are no labels, fractions (regression), negative numbers, or names beside numbers.
    """
    if split.raw_labels is None:
        raise InputError(f"{split.source} has no labels: name their column with --label_column")
    first = next(label for label in split.raw_labels if label is not None)
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
      InputError: the split has no labels, only one class, or two names that differ in case alone.
    """
    found = sorted({label for label in checked_labels(train) if label is not None})
    model_names = dict(model_names or {})
    if len(found) < 2:
        raise InputError(f"{train.source}: every label is {found[0]!r:.80}; a classifier needs at least two classes")
    data_names = _data_names(train)
    if data_names is None and isinstance(found[0], int):
        if model_names and _know_numbers(model_names, found):
            return model_names
        if found[0] == 0:
            count = found[-1] + 1
            if count > len(train):
                row = train.row(train.raw_labels.index(found[-1]))
                raise InputError(f"{row}: class index {found[-1]} is larger than the number of examples")
            return {index: f"LABEL_{index}" for index in range(count)}
    names = [str(label) for label in found] if data_names is None else list(data_names.values())
    classes = _Classes(model_names)
    matched = [classes.named(name) for name in names]
    if model_names and None not in matched and len(set(matched)) == len(names):
        return model_names
    by_folded: dict[str, str] = {}
    for name in names:
        other = by_folded.setdefault(name.casefold(), name)
        if other != name:
            raise InputError(f"{train.source}: labels {other!r:.80} and {name!r:.80} differ in case alone: use one of them")
    return dict(enumerate(names))


def has_other_classes(model_names: Mapping[int, str], id2label: Mapping[int, str]) -> bool:
    """Return whether a model names its classes, and they are not these: its head is of no use for them."""
    return _are_names(model_names) and dict(model_names) != dict(id2label)


def _know_numbers(model_names: Mapping[int, str], found: Sequence[int]) -> bool:
    """Return whether these labels are the model's classes: all by name, or indices of all of its classes."""
    classes = _Classes(model_names)
    if all(classes.named(str(number)) is not None for number in found):
        return True
    return classes.misleading is None and len(model_names) == found[-1] + 1
