"""What a label means: the one rule by which labels become classes of a model.

It holds for training, evaluation, gold targets, `--target` and `explain_texts`. Names decide
wherever there are names: in the data (the names of a `datasets.ClassLabel`, or labels that are
text) or in the model (`id2label` other than LABEL_0, LABEL_1, …).

What a label in the data means
  that is text, or a ClassLabel's name:
    on a model with names, the class of that name;
    on a model with LABEL_0, LABEL_1, …, for a ClassLabel the class of that position if there are as
      many, for text an error;
  that is a number without a name:
    on a model whose class names are numbers, the class of that name;
    on any other, the class with that index;
  that is −1, "-" or empty: no gold label, unless it is a class name.

A name is matched exactly, else with case folded where that leaves one class. Where all class names
have a number in them that is not their index ("1 star", "2 stars", …), numbers could be meant both
ways and are an error. What was assumed about numbers and positions is said by `assumption`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from ..errors import InputError
from ..runtime.files import is_utf8
from ..runtime.text import shortened

# None: the example has none; a tuple: those of a list, each by itself.
Label = bool | int | float | str | tuple["Label", ...] | None


class Labelled(Protocol):
    """What the rule needs of a data set: `splits.Split` is one."""

    source: str  # the file or data set, for error messages
    raw_labels: list[Label] | None  # of each example; None: the data has no labels
    label_names: Sequence[str] | None  # names that the data itself gives its indices

    def __len__(self) -> int: ...

    def row(self, index: int) -> str:
        """Return file and row of an example, for error messages."""
        ...


NO_GOLD = -1  # among class indices
_NO_GOLD_LABELS = (-1, "-")  # where they are no class names
_LARGEST_NUMBER = 10**9
_WHOLE_NUMBER = re.compile(r"[+-]?(0|[1-9][0-9]{0,8})(\.0*)?")
_NUMBER = re.compile(r"[+-]?[0-9]{1,20}(\.[0-9]{0,20})?|[+-]?\.[0-9]{1,20}")


def parse_labels(values: Sequence[Any]) -> list[Label] | None:
    """Return the labels of a column: integers, other numbers, text, or None without a label.

    Lists become tuples of such labels.

    Whole numbers are integers however they are written (1, "1", 1.0), unless all of the column have
    the same number of digits and some begin with 0: "01" is text then, and so is "10" beside it.
    None if no example has a label.
    """
    if any(isinstance(value, (list, tuple, np.ndarray)) for value in values):
        return [
            tuple(parse_labels(list(value)) or ())
            if isinstance(value, (list, tuple, np.ndarray))
            else _parse_label(value, False)
            for value in values
        ]
    digits = {
        value.strip() for value in values if isinstance(value, str) and value.strip().isdecimal()
    }
    are_padded = any(text.startswith("0") for text in digits) and {
        len(text) > 1 for text in digits
    } == {True}
    are_text = are_padded and len({len(text) for text in digits}) == 1
    parsed = [_parse_label(value, are_text) for value in values]
    return None if all(label is None or label in _NO_GOLD_LABELS for label in parsed) else parsed


def _parse_label(value: Any, digits_are_text: bool) -> Label:
    if isinstance(value, str):
        text = value.strip()
        if _WHOLE_NUMBER.fullmatch(text) and not digits_are_text:
            return int(float(text))
        is_fraction = _NUMBER.fullmatch(text) and not text.isdecimal()
        return float(text) if is_fraction else text or None
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return int(value) if value.is_integer() and abs(value) < _LARGEST_NUMBER else value
    if isinstance(value, int) and abs(value) < _LARGEST_NUMBER:
        return value
    return shortened(repr(value), 80)  # a list, an object: no class has such a name


class _Classes:
    """The classes of a model, to look labels up in."""

    def __init__(self, id2label: Mapping[int, str]):
        self.id2label = id2label
        self.by_name = {name: index for index, name in id2label.items()}
        folded: dict[str, list[int]] = {}
        for index, name in id2label.items():
            folded.setdefault(name.strip().casefold(), []).append(index)
        self.by_folded_name = {
            name: indices[0] for name, indices in folded.items() if len(indices) == 1
        }
        self.have_names = _are_names(id2label)
        self.by_number = {
            float(name): index for index, name in id2label.items() if _NUMBER.fullmatch(name)
        }
        self.numbers_are_names = any(number != index for number, index in self.by_number.items())
        # Of "1 star", "2 stars", …: the number 1 might be the class of index 1, or the one of that
        # name.
        in_names = [re.findall(r"[0-9]{1,9}", name) for name in id2label.values()]
        self.numbers_in_names = [int(numbers[0]) for numbers in in_names if len(numbers) == 1]
        self.are_ambiguous = (
            not self.numbers_are_names
            and len(set(self.numbers_in_names)) == len(id2label)
            and self.numbers_in_names != list(id2label)
        )

    def named(self, name: str) -> int | None:
        """Return the class of a name."""
        if name in self.by_name:
            return self.by_name[name]
        return self.by_folded_name.get(name.strip().casefold())

    def with_name_of(self, label: Label) -> int | None:
        """Return the class whose name a label is, also as a number or truth value.

        Never the class with that index.
        """
        if isinstance(label, (str, bool)) and (index := self.named(str(label))) is not None:
            return index
        return None if label is None or isinstance(label, str) else self.by_number.get(float(label))

    def look_up(self, label: Label) -> int | None:
        """Return the class that a label without a name of its own means.

        `NO_GOLD` if it means no class; None if it is none of the classes.

        Raises:
          InputError: a number could mean two classes.
        """
        if (index := self.with_name_of(label)) is not None:
            return index
        if label is None or label in _NO_GOLD_LABELS:
            return NO_GOLD
        if isinstance(label, (str, float)) or self.numbers_are_names:
            return None
        if self.are_ambiguous:
            name = self.id2label[min(self.id2label)]
            raise InputError(
                f"label {label} may be an index, or a number in a name such as {name!r:.80}: use"
                " the names"
            )
        return int(label) if label in self.id2label else None

    def listed(self) -> str:
        """Return the classes as errors name them."""
        if self.have_names:
            return shortened(", ".join(self.id2label[index] for index in sorted(self.id2label)))
        return f"0 to {len(self.id2label) - 1}"


def _are_names(names: Mapping[int, str]) -> bool:
    """Return whether names say more than the index does."""
    return any(name not in (str(index), f"LABEL_{index}") for index, name in names.items())


def _data_names(split: Labelled) -> dict[int, str] | None:
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
    index = classes.named(label) if isinstance(label, str) else None
    if index is None:
        index = classes.look_up(_parse_label(label, digits_are_text=False))
    if index is None or index == NO_GOLD:
        named = ", ".join(f"{index} ({name})" for index, name in sorted(id2label.items()))
        raise InputError(
            f"{shortened(str(label), 80)!r} is not {alternatives}one of the classes"
            f" {shortened(named)}"
        )
    return index


def has_gold(split: Labelled, id2label: Mapping[int, str]) -> list[bool]:
    """Return for each example whether it has a gold label.

    None is none, nor is −1 or "-" where no class has that name.
    """
    classes = _Classes(id2label)
    known = {label: classes.look_up(label) != NO_GOLD for label in (None, *_NO_GOLD_LABELS)}
    return [known.get(label, True) for label in split.raw_labels or [None] * len(split)]


def class_indices(split: Labelled, id2label: Mapping[int, str]) -> np.ndarray:
    """Return the labels as the model's class indices, int32 [examples]; −1 without a gold label.

    Raises:
      InputError: the split has no labels, mixes names and numbers, or has a label that is none of
        the model's classes, names file and row; or the model has no classes (regression).
    """
    if len(id2label) == 1:
        raise InputError(
            f"{split.source}: the model has one output (regression): labels are no classes of it"
        )
    raw_labels = _checked_labels(split, id2label)
    classes = _Classes(id2label)
    look_up = _look_up(split, classes)
    known: dict[tuple[type, Label], int | None] = {}
    indices = []
    for index, label in enumerate(raw_labels):
        key = type(label), label  # True equals 1
        if key not in known:
            try:
                known[key] = look_up(label)
            except InputError as error:
                raise InputError(f"{split.row(index)}: {error}") from None
        if known[key] is None:
            if isinstance(label, float):
                what = (
                    f"label {label:g} is a number but no class index: only a model with one output"
                    " (regression) has such labels"
                )
            else:
                shown = (_data_names(split) or {}).get(label, label)
                what = f"label {shown!r:.80} is not one of the model's classes ({classes.listed()})"
            raise InputError(f"{split.row(index)}: {what}")
        indices.append(known[key])
    return np.asarray(indices, np.int32)


def _look_up(split: Labelled, classes: _Classes) -> Callable[[Label], int | None]:
    """Return label -> class, None if it is none of the model's."""
    data_names = _data_names(split)
    if data_names is None:
        return classes.look_up
    by_index: dict[Label, int | None] = {None: NO_GOLD, -1: NO_GOLD}
    if classes.have_names:
        by_index |= {index: classes.named(name) for index, name in data_names.items()}
    elif len(data_names) == len(classes.id2label):
        by_index |= {index: index for index in data_names}
    else:
        in_data = shortened(", ".join(data_names.values()))
        raise InputError(
            f"{split.source} has the classes {in_data}; the model has {len(classes.id2label)}"
            " classes without names: write their names into id2label of its config.json"
        )
    matched = [index for index in by_index.values() if index not in (None, NO_GOLD)]
    if len(set(matched)) < len(matched):
        in_data = shortened(", ".join(data_names.values()))
        raise InputError(
            f"{split.source}: two of its classes ({in_data}) match one of the model's"
            f" ({classes.listed()})"
        )
    return by_index.get


def assumption(split: Labelled, id2label: Mapping[int, str]) -> str | None:
    """Return in words what `class_indices` assumed where only one side has names.

    None if it assumed nothing.
    """
    classes, data_names = _Classes(id2label), _data_names(split)
    if data_names is not None and not classes.have_names:
        pairs = ", ".join(f"{name} = {id2label[index]}" for index, name in data_names.items())
        return f"the model does not name its classes; by position {shortened(pairs)}"
    numbers = [
        label
        for label in split.raw_labels or ()
        if isinstance(label, int) and label not in _NO_GOLD_LABELS
    ]
    if numbers and data_names is None and classes.have_names and not classes.numbers_are_names:
        pairs = ", ".join(f"{index} = {name}" for index, name in sorted(id2label.items()))
        return f"labels are class indices, in the model's order: {shortened(pairs)}"
    return None


def _checked_labels(split: Labelled, id2label: Mapping[int, str]) -> list[Label]:
    """Return the labels of a split: all names or all numbers, but for examples that have none.

    Raises:
      InputError: there are no labels, negative numbers, or names beside numbers.
    """
    if split.raw_labels is None:
        raise InputError(
            f"{split.source} has no labels: name their column with --label_column (−1, - and empty"
            " are none)"
        )
    are_gold = has_gold(split, id2label)
    by_number = _Classes(id2label).by_number
    first = next(
        (label for label, is_gold in zip(split.raw_labels, are_gold, strict=True) if is_gold), None
    )
    for index, (label, is_gold) in enumerate(zip(split.raw_labels, are_gold, strict=True)):
        if not is_gold:
            continue
        if isinstance(label, tuple):
            shown = shortened(", ".join(map(str, label)))
            raise InputError(
                f"{split.row(index)}: label [{shown}] is a list; this model has one class for each"
                " text"
            )
        if isinstance(label, str) != isinstance(first, str):
            what = (
                f"label {str(label)!r:.80} beside {str(first)!r:.80}: use class indices or class"
                " names, not both"
            )
            raise InputError(f"{split.row(index)}: {what}")
        if isinstance(label, str) and not is_utf8(label):
            raise InputError(
                f"{split.row(index)}: the label has a lone surrogate, which is no character"
            )
        if isinstance(label, int) and label < 0 and label not in by_number:
            raise InputError(
                f"{split.row(index)}: label {label} is negative; class indices start at 0"
            )
    return split.raw_labels


def label_names(train: Labelled, model_names: Mapping[int, str] | None = None) -> dict[int, str]:
    """Return the class names to train with: index -> name.

    A model that knows all the names of the data keeps its own numbering. Otherwise ClassLabel's
    order counts, text is numbered in sorted order, and indices take their names from a model with
    as many classes, or are called LABEL_0, …. Numbers of which none is 0 (ratings 1 to 5) are
    names, not indices.

    Raises:
      InputError: the split has no labels, only one class, fractions (regression), two names that
        differ in case alone, or numbers that might be indices of the model's classes or names.
    """
    model_names = dict(model_names or {})
    checked, are_gold = _checked_labels(train, model_names), has_gold(train, model_names)
    labels = sorted({label for label, is_gold in zip(checked, are_gold, strict=True) if is_gold})
    if len(labels) < 2:
        only = f"every label is {labels[0]!r:.80}" if labels else "no label counts"
        raise InputError(
            f"{train.source}: {only} (−1 and - count as none); a classifier needs at least two"
            " classes"
        )
    data_names, classes = _data_names(train), _Classes(model_names)
    if data_names is not None:
        names = list(data_names.values())
        matched = [classes.named(name) for name in names]
    else:
        names = [str(label) for label in labels]
        matched = [classes.with_name_of(label) for label in labels]
    if model_names and None not in matched and len(set(matched)) == len(names):
        return model_names
    fraction = next((label for label in labels if isinstance(label, float)), None)
    if fraction is not None:
        what = f"label {fraction:g} is a number but no class index; use --problem_type regression"
        raise InputError(f"{train.row(checked.index(fraction))}: {what}")
    if data_names is None and isinstance(labels[0], int):
        lowest, count = int(labels[0]), int(labels[-1]) + 1
        if len(model_names) == count or set(labels) <= set(classes.numbers_in_names):
            if classes.are_ambiguous:
                classes.look_up(lowest)  # raises
            if lowest > 0 and classes.have_names and len(model_names) == count:
                choices = f"the model's classes {classes.listed()}, or names"
                raise InputError(
                    f"{train.source}: labels {lowest} to {count - 1} may be indices of {choices}:"
                    " use the names"
                )
        if len(model_names) == count and not classes.numbers_are_names:
            return model_names
        if lowest == 0:
            if count > len(train):
                row = train.row(checked.index(labels[-1]))
                raise InputError(
                    f"{row}: class index {labels[-1]} is larger than the number of examples"
                )
            return {index: f"LABEL_{index}" for index in range(count)}
    by_folded: dict[str, str] = {}
    for name in names:
        other = by_folded.setdefault(name.casefold(), name)
        if other != name:
            raise InputError(
                f"{train.source}: labels {other!r:.80} and {name!r:.80} differ in case alone: use"
                " one of them"
            )
    return dict(enumerate(names))


def keeps_head(
    train: Labelled, model_names: Mapping[int, str], id2label: Mapping[int, str]
) -> bool:
    """Return whether a model's head is for the classes to train with.

    `id2label` is what `label_names` returns. Of a model without class names it is, by position,
    only where the data set numbers its names itself.
    """
    if dict(model_names) == dict(id2label):
        return True
    return (
        not _are_names(model_names)
        and len(model_names) == len(id2label)
        and _data_names(train) is not None
    )
