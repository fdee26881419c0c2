"""Explanations as objects: one example with its row and arrays, and sequences of them.

Shapes: T tokens of one example (no padding), L layers (those asked for), N heads.
"""

from __future__ import annotations

import functools
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from ..attribution.summaries.tree import THRESHOLD, AttributionTree, attribution_tree
from ..attribution.summaries.words import sum_over_pieces, word_groups, word_labels
from ..errors import InputError
from ..runtime.progress import in_notebook
from ..runtime.text import shortened
from ..views.example import explained_class

if TYPE_CHECKING:
    import pandas as pd

# Arrays per example by what `--save` asks for.
SAVED_ARRAYS = {
    "none": (),
    "summary": ("head_importance", "token_pairs", "token_attributions"),
    "full": (
        "head_importance",
        "token_pairs",
        "token_attributions",
        "attributions",
        "attention_probs",
    ),
}


class Explanation:
    """One example, explained.

    Fields of its row in `examples.jsonl` (docs/files.md) are attributes: T tokens, L layers (those
    asked for), N heads.
    """

    index: int  # of the example
    text: str
    text_pair: str | None
    label: str | None  # the gold class
    labels: list[str] | None  # the gold classes, of a model with lists of them
    tokens: list[str]
    offsets: list[list[int]]  # [start, end) of each token, in characters of its own text
    word_ids: list[int | None] | None  # the word of its own text that each token is a piece of
    token_type_ids: list[int]  # which text each token is of
    special_tokens_mask: list[int]  # 1 for special tokens
    # Which window of a longer text, and what the model says of the whole: text, number, count,
    # predicted, means
    window: dict[str, Any] | None
    token_baseline: str | None  # the token that token-level gradients start from
    num_cut_tokens: int  # cut off, because the model has no positions for them
    predicted: str  # class
    predicted_labels: list[str] | None  # those above 0.5, of a model with lists of them
    target: str  # the class explained
    contrast: str | None  # the class it is compared with, of objective "contrast"
    objective: str  # what F is
    probabilities: dict[str, float]  # by class; empty for a model with one output
    logits: dict[str, float]  # by class
    score: float  # F(A)
    baseline_scores: list[float]  # F with each layer's attention at zero, [L], or [1]
    layers: list[int]
    path: str  # "layer" or "joint"
    num_hidden_layers: int  # of the model
    convergence_deltas: list[float]  # [L], or [1] on the joint path
    # Estimated Σ|error| / Σ|attributions|, [L] or [1] likewise; None of a layer: it has no bound
    error_estimates: list[float | None] | None
    absolute_attribution_sums: list[float] | None  # Σ|attributions|, [L]
    n_steps: list[int]  # [L]
    converged: list[bool] | None  # [L], with n_steps="auto"
    token_attributions: list[float] | None  # [T]
    token_convergence_delta: float | None
    token_error_estimate: float | None
    token_n_steps: int | None
    token_converged: bool | None
    token_pairs: list[dict[str, Any]]  # the strongest: from, to, attribution
    token_pairs_scale: float  # the largest sum over layers and heads, in absolute terms
    heads: list[dict[str, Any]]  # the most important: layer, head, importance
    head_importance: list[list[float]]  # [L, N], each head's largest attribution
    arrays: dict[str, Any] | None  # where they are saved

    _kept_how, _keep_all = "kept with", "attribute without `reduce`"

    def __init__(self, row: Mapping[str, Any], arrays: Mapping[str, np.ndarray]):
        self.row, self._arrays = row, arrays

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["row"][name]
        except KeyError:
            fields = ", ".join(self.__dict__.get("row", ()))
            raise AttributeError(f"no field {name!r}; there are {fields}") from None

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self.row})

    def __repr__(self) -> str:
        row = self.row
        texts = [row["text"]] if row["text_pair"] is None else [row["text"], row["text_pair"]]
        shown = " | ".join(shortened(text, 60) for text in texts)
        layers = "all layers" if self.has_all_layers else f"layers {row['layers']}"
        return (
            f"<{type(self).__name__} {row['index']}: {shown!r}, predicted {row['predicted']!r},"
            f" explained {explained_class(row)!r} (F = {row['score']:.3f});"
            f" {len(row['tokens'])} tokens, {layers}>"
        )

    def summary(self) -> str:
        """Return in a sentence what was predicted, what spoke for it, and the strongest pair.

        “a reads from b”: token a attends to token b. The number is the attribution summed over
        layers and heads, in units of the explained output.
        """
        from ..views.sentence import summary_of  # lazy import: few need it

        return summary_of(self)

    def to_pandas(self, kind: str = "texts") -> pd.DataFrame:
        """Return a `pandas.DataFrame`; `kind` as for `Explanations.to_pandas`."""
        return Explanations([self]).to_pandas(kind)

    @property
    def array_names(self) -> Sequence[str]:
        """The arrays that there are."""
        return sorted(self._arrays)

    def array(self, name: str) -> np.ndarray:
        """Return one array.

        `attributions` or `attention_probs` [L, N, T, T], `head_importance` [L, N], `token_pairs`
        [T, T] (the sum over layers and heads, not normalised), or `token_attributions` [T].

        Raises:
          InputError: it was not kept, or its shard is missing or damaged.
        """
        if name not in self.array_names:
            has = f"only {', '.join(self.array_names)}" if self.array_names else "no arrays"
            raise InputError(
                f"example {self.row['index']} was {self._kept_how} {has}, not {name!r}:"
                f" {self._keep_all}"
            )
        values = self._read(name)
        # Half precision is what a model computes in: sums and means are not to be taken in it, nor
        # can NumPy's files hold bfloat16.
        return values.astype(np.float32) if values.dtype.itemsize < 4 else values

    def _read(self, name: str) -> np.ndarray:
        return self._arrays[name]

    def loaded(self) -> Explanation:
        """Return the same example with its arrays in memory, to use them more than once."""
        return Explanation(self.row, {name: self.array(name) for name in self.array_names})

    @property
    def attributions(self) -> np.ndarray:
        """[L, N, T, T], row attends to column."""
        return self.array("attributions")

    @property
    def attention_probs(self) -> np.ndarray:
        """[L, N, T, T]."""
        return self.array("attention_probs")

    @property
    def token_pair_attributions(self) -> np.ndarray:
        """[T, T]: the sum over layers and heads divided by its largest absolute value."""
        return self.array("token_pairs") / self.row["token_pairs_scale"]

    @property
    def relative_errors(self) -> list[float] | None:
        """The estimated error of each layer, Σ|error| / Σ|attributions| (docs/quadrature.md).

        On the joint path one number. The relative convergence deltas, which see less, where there
        is no estimate: of an earlier version, or of results that were made without.
        """
        estimates = self.row.get("error_estimates")
        if estimates is None:
            return self.relative_deltas
        return [math.inf if estimate is None else estimate for estimate in estimates]

    @property
    def relative_deltas(self) -> list[float] | None:
        """|convergence delta| / Σ|attributions| of each layer; 0 where nothing is attributed.

        On the joint path one number, of all layers together. None where Σ|attributions| is not
        known: of attributions that were reduced.
        """
        sizes = self.row["absolute_attribution_sums"]
        if sizes is None:
            return None
        sizes = sizes if self.row["path"] == "layer" else [sum(sizes)]
        return [
            abs(delta) / size if size else 0.0
            for delta, size in zip(self.row["convergence_deltas"], sizes, strict=True)
        ]

    @functools.cached_property
    def words(self) -> list[list[int]]:
        """The positions of each word's pieces; a special token is a word of its own."""
        return word_groups(self.row)

    @property
    def word_labels(self) -> list[str]:
        """Each word as the text has it; special tokens by their names."""
        return word_labels(self.row, self.words)

    @property
    def sum_name(self) -> str:
        """What `token_pairs` is the sum over, in words.

        All layers and heads, or the layers that were attributed.
        """
        layers = ", ".join(map(str, self.row["layers"]))
        return (
            "all layers and heads"
            if self.has_all_layers
            else f"layer{'s' * (len(self.row['layers']) > 1)} {layers}, all heads"
        )

    @property
    def has_all_layers(self) -> bool:
        """Whether every layer of the model was attributed: a tree needs that."""
        layers = self.row["layers"]
        # Unknown in older files
        return sorted(layers) == list(range(self.row.get("num_hidden_layers", len(layers))))

    def tree(
        self, threshold: float = THRESHOLD, penalty: float = 0.0, words: bool = False
    ) -> AttributionTree:
        """Return the attribution tree; see `attribution_tree`.

        Args:
          threshold, penalty: τ and λ.
          words: of words instead of word pieces: attributions are summed over the pieces of each.

        Raises:
          InputError: the arrays were not kept, or are not of all layers.
        """
        layers = self.row["layers"]
        if not self.has_all_layers:
            raise InputError(
                f"example {self.row['index']} has layers {layers} only: a tree needs those of all"
                " layers"
            )
        by_layer = self.attributions.sum(axis=1, dtype=np.float64)[np.argsort(layers)]
        if words:
            return attribution_tree(
                sum_over_pieces(by_layer, self.words, axes=(1, 2)),
                self.word_labels,
                threshold,
                penalty,
            )
        return attribution_tree(by_layer, self.row["tokens"], threshold, penalty)

    def show(self, file: str | os.PathLike | None = None, overwrite: bool = False) -> Path | None:
        """Show the report of this example.

        In a notebook it is shown below the cell, elsewhere written as a file whose path is
        returned.

        Args:
          file: where to write it; by default into a new temporary folder. An older report there is
            replaced.
          overwrite: replace any other file as well.
        """
        return _show([self], file, overwrite)

    def _repr_html_(self) -> str:
        return _notebook_frame([self])


class Explanations(Sequence[Explanation]):
    """Explained examples, in order.

    As the last line of a notebook's cell they are shown as a report. A slice is of the same type.
    """

    def __init__(self, examples: Sequence[Explanation]):
        self._examples = list(examples)

    def __len__(self) -> int:
        return len(self._examples)

    @overload
    def __getitem__(self, index: int) -> Explanation: ...

    @overload
    def __getitem__(self, index: slice) -> Explanations: ...

    def __getitem__(self, index):
        if isinstance(index, slice):
            return Explanations(self._examples[index])
        return self._examples[index]

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self._described()}>"

    def _described(self) -> str:
        return f"{len(self)} text{'s' * (len(self) != 1)}"

    def to_pandas(self, kind: str = "texts") -> pd.DataFrame:
        """Return a `pandas.DataFrame`.

        Args:
          kind: what a row is. "texts": a text, with its prediction and the class explained.
            "tokens": a token, with its integrated gradients. "pairs": a token (`from`) and one
            that it reads from (`to`), with the attribution summed over layers and heads, in units
            of the explained output, and the mean attention where it was kept; all pairs, or the
            listed ones where no matrix was kept. "heads": a layer and head, with its largest
            attribution. The column `example` is the index of the text.

        Raises:
          InputError: there is no such kind.
        """
        from ..views.tables import data_frame  # lazy import: pandas is slow to import

        return data_frame(self, kind)

    def show(self, file: str | os.PathLike | None = None, overwrite: bool = False) -> Path | None:
        """Show the report of these examples.

        In a notebook it is shown below the cell, elsewhere written as a file whose path is
        returned.

        Args:
          file: where to write it; by default into a new temporary folder. An older report there is
            replaced.
          overwrite: replace any other file as well.
        """
        return _show(self, file, overwrite)

    def _repr_html_(self) -> str:
        return _notebook_frame(self)


def _show(
    examples: Sequence[Explanation], file: str | os.PathLike | None, overwrite: bool
) -> Path | None:
    from ..views.report import write_report  # lazy import: the page's template is rarely needed

    if file is None:
        if in_notebook():
            from IPython.display import HTML, display

            display(HTML(_notebook_frame(examples)))
            return None
        file = Path(tempfile.mkdtemp(prefix="attattr-")) / "report.html"
    return write_report(examples, file, overwrite=overwrite).file


def _notebook_frame(examples: Sequence[Explanation]) -> str:
    from ..views.report import notebook_frame

    return notebook_frame(examples)
