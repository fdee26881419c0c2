"""What an explanation says, in one sentence, and where it is rough: for page, terminal and Python.

Shapes: T tokens of one example (no padding), L layers (those asked for), N heads, W words.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ..attribution.summaries.reductions import strongest_pairs
from ..attribution.summaries.words import sum_over_pieces
from .example import (
    Example,
    explained_class,
    gold_of,
    is_wrong,
    prediction_of,
    single_output,
)

ROUGH_LAYER = 0.01  # estimated error / Σ|attributions| of a layer above which it is called rough
ROUGH_TOKENS = 0.05  # the same of token-level attributions
LARGEST_SHARE = 1e3  # beyond it an estimated error says no more than that there is no bound
_LEAST_SHARE = 0.1  # of the largest token attribution: what is smaller did not speak against


class Part(NamedTuple):
    """A stretch of the sentence."""

    text: str
    kind: str = ""  # "token", which the page sets apart and text quotes; "class"; or our own words


def sentence_of(example: Example) -> list[Part]:
    """Return what spoke for and against, and the strongest pair, as parts of one sentence.

    Words are meant, not their pieces. Special tokens are left out wherever there are others. It is
    as complete as what was kept allows: [] where nothing was.
    """
    of_tokens, of_pair = _tokens_part(example), _pair_part(example)
    between = [Part("; ")] if of_tokens and of_pair else []
    parts = [*of_tokens, *between, *of_pair]
    return [*parts, Part(".")] if parts else []


def summary_of(example: Example) -> str:
    """Return the prediction and the sentence, as plain text."""
    row, output = example.row, single_output(example.row)
    if output is None:
        wrong = f", labelled {gold_of(row)}" if is_wrong(row) else ""
        prediction = f"Predicted {prediction_of(row)}{wrong}."
    else:
        prediction = f"The output is {output:.3f}."
    said = "".join(f"“{text}”" if kind == "token" else text for text, kind in sentence_of(example))
    return f"{prediction} {said[:1].upper()}{said[1:]}".rstrip()


def _tokens_part(example: Example) -> list[Part]:
    values = example.row["token_attributions"]
    if values is None:
        return []
    of_words = np.asarray(sum_over_pieces(values, example.words, axes=(0,)), float)
    are_special = _are_special(example)
    of_words[are_special & (not are_special.all())] = 0
    labels, largest = example.word_labels, float(np.abs(of_words).max(initial=0))
    if not largest:
        return []
    has_classes = single_output(example.row) is None
    target = explained_class(example.row)
    above, below = int(of_words.argmax()), int(of_words.argmin())
    # A word that did next to nothing is not worth a mention.
    has_above, has_below = (
        sign * of_words[word] > _LEAST_SHARE * largest for sign, word in ((1, above), (-1, below))
    )
    did = ["spoke most for ", "spoke most against "] if has_classes else ["raised ", "lowered "]
    what = [Part(target, "class")] if has_classes else [Part("the output most")]
    parts = []
    if has_above:
        parts += [Part(labels[above], "token"), Part(f" {did[0]}"), *what]
    if has_below and has_above:
        rest = " against it" if has_classes else " lowered it"
        parts += [Part(", "), Part(labels[below], "token"), Part(rest)]
    elif has_below:
        parts += [Part(labels[below], "token"), Part(f" {did[1]}"), *what]
    return parts


def _pair_part(example: Example) -> list[Part]:
    found = _strongest_pair(example)
    if found is None:
        return []
    reader, source, value, head = found
    labels = example.word_labels
    read = [Part("itself")] if reader == source else [Part(labels[source], "token")]
    where = "" if head is None else f", most in layer {head[0]}, head {head[1]}"
    are_special = _are_special(example)
    of = " of words" if are_special.any() and not are_special.all() else ""
    return [
        Part(f"strongest pair{of}: "),
        Part(labels[reader], "token"),
        Part(" reads from "),
        *read,
        Part(f" ({value:+.2g}){where}"),
    ]


def _strongest_pair(example: Example) -> tuple[int, int, float, tuple[int, int] | None] | None:
    """Return (reader, source, attribution, (layer, head)) of the strongest pair of words.

    The head is where it is strongest, None without the arrays of heads.
    """
    names, groups, special = example.array_names, example.words, _are_special(example)
    if "token_pairs" not in names:
        return None
    total = sum_over_pieces(example.array("token_pairs").astype(float), groups, axes=(0, 1))
    total = np.asarray(total)
    ((reader, source, value),) = strongest_pairs(total, 1, special)
    if not value:
        return None
    if "attributions" not in names:
        return reader, source, value, None
    pieces = np.ix_(groups[reader], groups[source])
    of_heads = example.attributions[(..., *pieces)].sum(axis=(2, 3), dtype=np.float64)
    layer, head = np.unravel_index((np.sign(value) * of_heads).argmax(), of_heads.shape)
    return reader, source, value, (example.row["layers"][layer], int(head))


def _are_special(example: Example) -> np.ndarray:
    """Return bool [W], True for words that are special tokens."""
    mask: Any = example.row["special_tokens_mask"]
    return np.asarray([mask[group[0]] != 0 for group in example.words], bool)


def roughness_of(example: Example, in_script: bool) -> list[str]:
    """Return a phrase for each kind of attribution whose error is large, [] where none is.

    Args:
      example: with its estimated errors.
      in_script: the remedy is an option of attribute.py, else an argument in Python.
    """
    row, phrases = example.row, []
    errors = example.relative_errors or []
    rough = [
        (error, "all layers together" if row["path"] == "joint" else f"layer {layer}")
        for layer, error in zip(row["layers"], errors, strict=False)
        if error > ROUGH_LAYER
    ]
    if rough:
        named = ", ".join(f"{name} ({share(error)})" for error, name in sorted(rough)[:-4:-1])
        more = f" and {len(rough) - 3} more layers" if len(rough) > 3 else ""
        remedy = more_steps("n_steps", row["path"] == "layer", row["converged"], in_script)
        phrases.append(f"rough: the estimated error is large in {named}{more}; {remedy}")
    error = _token_error(row)
    if error is not None and error > ROUGH_TOKENS:
        remedy = more_steps("token_n_steps", True, row.get("token_converged"), in_script)
        phrases.append(f"rough: the token attributions, by {error:.0%} of their sum; {remedy}")
    return phrases


def share(error: float) -> str:
    """Return an estimated error as text."""
    return "no bound" if error >= LARGEST_SHARE else f"{error:.0%}"


def _token_error(row: Mapping[str, Any]) -> float | None:
    """Return the estimated error / Σ|attributions| of tokens; of older rows that of their delta."""
    if row.get("token_error_estimate") is not None:
        return row["token_error_estimate"]
    values, delta = row["token_attributions"], row["token_convergence_delta"]
    size = 0.0 if values is None else sum(map(abs, values))
    return None if delta is None or not size else abs(delta) / size


def more_steps(name: str, allows_auto: bool, converged: Any, in_script: bool) -> str:
    """Return what makes attributions more exact.

    Args:
      name: of the argument that is the number of steps.
      allows_auto: whether it may be "auto".
      converged: None of a fixed number of steps.
      in_script: the remedy is an option of attribute.py, else an argument in Python.
    """
    option, value = (f"--{name} ", "auto") if in_script else (f"{name}=", '"auto"')
    if converged is None and allows_auto:
        return f"{option}{value} takes as many steps as are needed"
    option = f"--{name}" if in_script else name
    if converged is not None:
        option = "--max_steps" if in_script else "max_steps"
    return f"a larger {option} helps"
