"""The data of a report: each example as JSON, with as much of its matrices as there is room for.

Matrices are packed: decimal fixed-point numbers of 16 bits, low bytes before high bytes, deflated,
base64. What would make the page too large is left out, and counted.

Shapes: T tokens of one example (no padding), L layers (those asked for), N heads, K matrices.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..attribution.summaries.tree import AttributionTree
from ..attribution.summaries.words import sum_over_pieces
from ..errors import InputError
from .example import Example, explained_class, gold_of, prediction_of, single_output, window_of
from .sentence import roughness_of, sentence_of

# Of the largest number of a matrix; the others have as many decimals.
HEAD_DIGITS, SUM_DIGITS = (3, 4)
_LARGEST_CODE = 2**15 - 1
# The fewest bytes of the page that a number takes: what cannot fit is not packed in vain.
_FEWEST_BYTES = 0.25
_RESERVED_BYTES = 4.0  # for each token pair of an example: two numbers, at the most
# How much of an example's matrices is in the page, from most to least.
_DETAILS = ("heads", "layers", "sentence", "none")
# Fields of a row that the page shows as they are.
_SHOWN_FIELDS = (
    "index",
    "text",
    "text_pair",
    "predicted",
    "target",
    "probabilities",
    "score",
    "tokens",
    "layers",
    "baseline_scores",
    "convergence_deltas",
    "n_steps",
    "converged",
    "path",
)


class LeftOut:
    """Counts what is not in the page; complete when all examples have gone by."""

    def __init__(self, num_unlisted: int):
        self.num_unlisted = num_unlisted
        self.counts = dict.fromkeys(_DETAILS[1:], 0)
        self.num_unsaved = 0

    def lines(self) -> list[str]:
        """Return a phrase for each kind of thing that is not in the page."""
        kinds = {
            "layers": "the matrices of single heads of {}",
            "sentence": "those of layers and heads of {}",
            "none": "all matrices of {}",
        }
        lines = []
        if self.num_unlisted:
            lines.append(f"{self.num_unlisted} more texts, which are in examples.jsonl")
        for detail, count in self.counts.items():
            if count:
                lines.append(kinds[detail].format(count_of_texts(count)))
        if self.num_unsaved:
            lines.append(f"the matrices of {count_of_texts(self.num_unsaved)} that were not saved")
        return lines

    @property
    def remedy(self) -> str:
        """What would bring it into the page."""
        tips = []
        if self.num_unlisted or any(self.counts.values()):
            tips.append("--report_examples and --report_megabytes allow more")
        if self.num_unsaved:
            tips.append("--save full keeps everything")
        return "; ".join(tips) + "."


def count_of_texts(count: int) -> str:
    """Return a number of texts in words."""
    return "1 text" if count == 1 else f"{count} texts"


def page_examples(
    explanations: Sequence[Example],
    count: int,
    max_megabytes: float,
    tree_options: tuple[float, float],
    left_out: LeftOut,
    on_example: Callable[[], None] = lambda: None,
) -> Iterator[dict]:
    """Yield the data of each example, with as much of its matrices as there is still room for.

    Room is kept for the sum over layers of every example that is yet to come: the first ones do not
    take everything.
    """
    room = max_megabytes * 1e6
    in_script = bool(getattr(explanations, "run", {}))  # else made in Python, whose words hold
    reserves = [
        _RESERVED_BYTES * len(explanations[position].row["tokens"]) ** 2
        for position in range(count)
    ]
    kept_free = sum(reserves)
    share = min(1.0, room / max(kept_free, 1.0))
    for position, reserve in enumerate(reserves):
        kept_free -= reserve
        example = explanations[position]
        loaded = example.loaded()
        packed = _packed_example(loaded, room - share * kept_free, tree_options, left_out)
        packed["rough"] = roughness_of(loaded, in_script)
        room -= len(packed["data"])
        yield packed
        on_example()


class _Matrices(NamedTuple):
    """What an example has of matrices."""

    total: np.ndarray | None  # the sum over layers and heads, [T, T]
    attributions: np.ndarray | None  # [L, N, T, T]
    probs: np.ndarray | None  # [L, N, T, T]

    @classmethod
    def of(cls, example: Example) -> _Matrices:
        """Return those that were kept."""
        names = example.array_names
        total = example.array("token_pairs") if "token_pairs" in names else None
        if "attributions" not in names:
            return cls(total, None, None)
        return cls(total, example.attributions, example.attention_probs)

    @property
    def detail(self) -> str:
        """The most detail that can be shown."""
        if self.total is None:
            return "none"
        return "sentence" if self.attributions is None else "heads"

    def num_matrices(self, detail: str) -> int:
        """Return how many matrices [T, T] this detail needs."""
        if detail not in ("heads", "layers"):
            return int(detail == "sentence") * (1 if self.probs is None else 2)
        assert self.attributions is not None and self.probs is not None
        num_layers, num_heads = self.attributions.shape[:2]
        of_heads = num_layers * num_heads if detail == "heads" else 0
        return 2 * (1 + num_layers + of_heads)


def _packed_within(matrices: _Matrices, num_tokens: int, room: float) -> tuple[str, dict[str, Any]]:
    """Return the most detail that fits into `room` bytes, and its matrices, packed."""
    detail, packed = "none", {"data": "", "decimals": {}}
    for detail in _DETAILS[_DETAILS.index(matrices.detail) :]:
        numbers = matrices.num_matrices(detail) * num_tokens**2
        if numbers * _FEWEST_BYTES <= room:
            packed = _packed_matrices(*matrices, detail)
            if len(packed["data"]) <= room:
                break
    return detail, packed


def _packed_example(
    example: Example, room: float, tree_options: tuple[float, float], left_out: LeftOut
) -> dict[str, Any]:
    """Return all that the page's script knows of one example."""
    row, matrices = example.row, _Matrices.of(example)
    detail, packed = _packed_within(matrices, len(row["tokens"]), room)
    left_out.num_unsaved += matrices.detail != "heads"
    if detail != matrices.detail:
        left_out.counts[detail] += 1
    trees = [None, None]
    if matrices.attributions is not None and example.has_all_layers:
        trees = [_tree_data(example.tree(*tree_options, words=words)) for words in (False, True)]
    importance = None
    if "head_importance" in example.array_names:
        importance = [
            [float(f"{value:.6g}") for value in of_layer]
            for of_layer in example.array("head_importance")
        ]
    pairs = row["token_pairs"] if matrices.total is None else []
    groups, values = example.words, row["token_attributions"]
    of_words = None if values is None else sum_over_pieces(values, groups, axes=(0,)).tolist()
    last_steps = _last_steps(example, matrices, tree_options[0]) if trees[0] else [None, None]
    return {
        **{name: row[name] for name in _SHOWN_FIELDS},
        "output": single_output(row),
        "prediction": prediction_of(row),
        "label": gold_of(row),
        "explained": explained_class(row),
        "window": window_of(row),
        "token_baseline": row.get("token_baseline"),
        "has_lists": row.get("predicted_labels") is not None,
        "relative_deltas": example.relative_deltas,
        "error_estimates": row.get("error_estimates"),
        "num_cut_tokens": row.get("num_cut_tokens", 0),
        "special": row["special_tokens_mask"],
        "token_attributions": values,
        "token_delta": row["token_convergence_delta"],
        "listed_pairs": [[pair["from"], pair["to"], pair["attribution"]] for pair in pairs],
        "importance": importance,
        "top_pairs": [
            [pair["from"], pair["to"], pair["attribution"] * row["token_pairs_scale"]]
            for pair in row["token_pairs"]
        ],
        "disagreement": _disagreement(example, matrices),
        "sentence": [[text.replace("(-", "(−"), kind] for text, kind in sentence_of(example)],
        "tree": trees[0],
        "last_step": last_steps[0],
        "words": {
            "groups": groups,
            "labels": example.word_labels,
            "token_attributions": of_words,
            "tree": trees[1],
            "last_step": last_steps[1],
        },
        "detail": detail,
        "is_saved": matrices.detail == "heads",
        "is_reduced": row["absolute_attribution_sums"] is None,
        "sum_name": example.sum_name,
        **packed,
    }


def _packed_matrices(total, attributions, probs, detail: str) -> dict[str, Any]:
    """Return the matrices [K, T, T] of an example, packed.

    First the sum over layers, each layer's sum over heads, each head's; then the attention
    likewise, means for sums.

    Returns:
      `decimals`: of each attribution matrix, and one number for the attention; `data`: base64.
    """
    if detail == "none":
        return {"decimals": {}, "data": ""}
    sums = (
        [total[None]]
        if detail == "sentence"
        else [total[None], attributions.sum(axis=1, dtype=np.float64)]
    )
    codes, decimals = _fixed_point(np.concatenate(sums), SUM_DIGITS)
    parts = [codes]
    if detail == "heads":
        codes, more = _fixed_point(attributions.reshape(-1, *total.shape), HEAD_DIGITS)
        parts.append(codes)
        decimals += more
    if probs is not None:
        means = [probs.mean(axis=(0, 1), dtype=np.float64)[None]]
        means += [] if detail == "sentence" else [probs.mean(axis=1, dtype=np.float64)]
        means += [probs.reshape(-1, *total.shape)] if detail == "heads" else []
        parts.append(np.rint(np.concatenate(means) * 10**HEAD_DIGITS).astype("<i2"))
    flat = np.concatenate([part.ravel() for part in parts])
    # The high bytes are nearly all 0: together they take next to nothing
    planes = flat.view(np.uint8).reshape(-1, 2).T.tobytes()
    return {
        "decimals": {"attribution": decimals, "attention": None if probs is None else HEAD_DIGITS},
        "data": base64.b64encode(zlib.compress(planes, 6)).decode(),
    }


def _fixed_point(matrices: np.ndarray, digits: int) -> tuple[np.ndarray, list[int]]:
    """Return (codes int16 [K, T, T], decimals of each matrix): value = code · 10^−decimals.

    The largest value of a matrix has `digits` digits.
    """
    largest = np.abs(matrices).max(axis=(1, 2)).astype(np.float64)
    if not np.isfinite(largest).all():
        raise InputError("attributions have values that are not finite")
    decimals = np.floor(digits - np.log10(np.where(largest > 0, largest, 1))).astype(int)
    decimals = np.where(largest > 0, decimals, digits)
    codes = np.empty(matrices.shape, "<i2")
    # One at a time in float64, which holds 10^decimals
    for code, matrix, places in zip(codes, matrices, decimals, strict=True):
        code[:] = np.clip(
            np.rint(matrix.astype(np.float64) * 10.0**places), -_LARGEST_CODE, _LARGEST_CODE
        )
    return codes, decimals.tolist()


def _disagreement(example: Example, matrices: _Matrices) -> float | None:
    """Return 1 − the rank correlation between |attribution| and mean attention of token pairs.

    From 0, the same order, to 2. Special tokens are left out; None where it is not known.
    """
    if matrices.total is None or matrices.probs is None:
        return None
    import scipy.stats  # slow to import

    real = np.flatnonzero(np.asarray(example.row["special_tokens_mask"]) == 0)
    pairs = np.ix_(real, real)
    attribution = np.abs(matrices.total[pairs]).ravel()
    attention = matrices.probs.mean(axis=(0, 1), dtype=np.float64)[pairs].ravel()
    if len(real) == 0 or min(np.ptp(attribution), np.ptp(attention)) == 0:
        return None
    return round(1 - float(scipy.stats.spearmanr(attribution, attention).statistic), 4)


def _last_steps(example: Example, matrices: _Matrices, threshold: float) -> list[dict[str, Any]]:
    """Return what the first token, which the classifier reads, reads from in the last layer.

    The paper's tree begins below that layer. Of tokens, and of words: `layer`, and `edges`, [token,
    attribution] of those above `threshold` times the largest, the largest first.
    """
    assert matrices.attributions is not None
    layers = example.row["layers"]
    of_first = matrices.attributions[int(np.argmax(layers))].sum(axis=0, dtype=np.float64)[0]
    steps = []
    for values in (of_first, sum_over_pieces(of_first, example.words, axes=(0,))):
        least = max(threshold * float(np.max(values)), 0.0)
        edges = [(at, float(value)) for at, value in enumerate(values) if value > least]
        edges.sort(key=lambda edge: -edge[1])
        steps.append({"layer": max(layers), "edges": edges})
    return steps


def _tree_data(tree: AttributionTree) -> dict[str, Any]:
    """Return a tree as the script draws it.

    Of each node: [token, column, level, parent, layer, attribution].
    """
    places = tree.positions()
    nodes = [
        [node.token, *places[node.token], node.parent, node.layer, node.attribution]
        for node in tree.nodes
    ]
    return {
        "nodes": nodes,
        "threshold": tree.threshold,
        "penalty": tree.penalty,
        "objective": tree.objective,
    }
