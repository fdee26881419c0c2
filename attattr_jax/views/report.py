"""One HTML page of explanations that needs nothing else: no network, no other file. `page/` has its
template, style and script.

The page is written as it is made, one example in memory at a time. Each example is a block of JSON
with its matrices packed: decimal fixed-point numbers of 16 bits, low bytes before high bytes,
deflated, base64. What would make the page too large is left out, and said.

Text from users reaches the page through Jinja's escaping, or as JSON that the script puts into text
nodes; a content security policy lets no other script run and nothing be loaded.

Shapes: T tokens of one example (no padding), L layers (those asked for), N heads, W words, K
matrices.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import html
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..attribution.quadrature import ADAPTIVE_METHOD
from ..attribution.tree import THRESHOLD, AttributionTree
from ..attribution.words import sum_over_pieces
from ..errors import InputError
from ..runtime.files import check_new, replacing, user_path
from .example import Example, single_output
from .options import MAX_EXAMPLES, MAX_MEGABYTES, ReportOptions

NOTEBOOK_MEGABYTES = 5.0  # a notebook keeps the page in its own file
# Of the largest number of a matrix; the others have as many decimals
HEAD_DIGITS, SUM_DIGITS = (3, 4)
_LARGEST_CODE = 2**15 - 1
# A number takes at least so much of the page: what cannot fit is not packed in vain
_FEWEST_BYTES = 0.25
_RESERVED_BYTES = 4.0  # for each token pair of an example: two numbers, at the most
_OLDER_HEAD = (
    rb'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    rb"<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; script-src"
    rb" 'sha256-"
)
# How much of an example's matrices is in the page, from most to least.
_DETAILS = ("heads", "layers", "sentence", "none")


class WrittenReport(NamedTuple):
    """What was written."""

    file: Path
    num_examples: int
    num_bytes: int
    left_out: list[str]  # a phrase for each kind of thing that is not in the page


class _LeftOut:
    """Counts what is not in the page; complete when all examples have gone by."""

    def __init__(self, num_unlisted: int):
        self.num_unlisted = num_unlisted
        self.counts = dict.fromkeys(_DETAILS[1:], 0)
        self.num_unsaved = 0

    def lines(self) -> list[str]:
        """Return a phrase for each kind."""
        kinds = {
            "layers": "the matrices of single heads of {}",
            "sentence": "those of layers and heads of {}",
            "none": "all matrices of {}",
        }
        lines = (
            [f"{self.num_unlisted} more texts, which are in examples.jsonl"]
            if self.num_unlisted
            else []
        )
        lines += [
            kinds[detail].format(_texts(count)) for detail, count in self.counts.items() if count
        ]
        return lines + (
            [f"what was not saved of {_texts(self.num_unsaved)}"] if self.num_unsaved else []
        )

    @property
    def remedy(self) -> str:
        """What helps."""
        tips = (
            ["--report_examples and --report_megabytes allow more"]
            if self.num_unlisted or any(self.counts.values())
            else []
        )
        tips += ["--save full keeps everything"] if self.num_unsaved else []
        return "; ".join(tips) + "."


def _texts(count: int) -> str:
    return "1 text" if count == 1 else f"{count} texts"


def write_report(
    explanations: Sequence[Example],
    file,
    max_examples: int = MAX_EXAMPLES,
    max_megabytes: float = MAX_MEGABYTES,
    tree_threshold: float = THRESHOLD,
    tree_penalty: float = 0.0,
    on_example=lambda: None,
    overwrite: bool = False,
) -> WrittenReport:
    """Write the report of explanations: one HTML file that opens from disk.

    One example's arrays are in memory at a time.

    Args:
      explanations: from `load_attributions`, `explain_texts`, or a list of `Explanation`.
      file: where to write.
      max_examples: show at most this many, the first ones.
      max_megabytes: what all matrices together may take. Beyond that, an example is shown with as
        much as fits: its layers, its sum over layers, or its tokens and lists alone; the page says
        so.
      tree_threshold, tree_penalty: τ and λ of the trees.
      on_example: called after each example.
      overwrite: write even where there is another file than a report of this library.

    Returns:
      `WrittenReport`.

    Raises:
      InputError: no explanations, an option is out of range, `file` is a folder, another file is
        there, or an array that was saved cannot be read.
    """
    ReportOptions(max_examples, max_megabytes, tree_threshold, tree_penalty)  # checks them
    if not len(explanations):
        raise InputError("there are no explanations to report")
    file = user_path(file)
    if file.is_dir():
        raise InputError(f"{file} is a folder: name a file in it, such as {file / 'report.html'}")
    if not (overwrite or _is_report(file)):
        check_new(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    count = min(max_examples, len(explanations))
    left_out = _LeftOut(len(explanations) - count)
    packed = _page_examples(
        explanations, count, max_megabytes, (tree_threshold, tree_penalty), left_out, on_example
    )
    with replacing(file) as written:
        for chunk in _template().generate(
            **_outline(explanations, count), examples=packed, left_out=left_out
        ):
            written.write(chunk.encode(errors="replace"))
        num_bytes = written.tell()
    return WrittenReport(file, count, num_bytes, left_out.lines())


def _is_report(file: Path) -> bool:
    """Return whether a file is a report, of this version or an earlier one, which did not name its
    generator.
    """
    if not file.is_file():
        return False
    with open(file, "rb") as page:
        head = page.read(1000)
    return (
        b'<meta name="generator" content="attattr-jax">' in head
        or re.match(_OLDER_HEAD, head) is not None
    )


def notebook_frame(explanations: Sequence[Example], height: int = 900) -> str:
    """Return the report as an HTML element of its own for a notebook: its style and script touch
    nothing around it.
    """
    left_out = _LeftOut(max(0, len(explanations) - MAX_EXAMPLES))
    count = len(explanations) - left_out.num_unlisted
    packed = _page_examples(explanations, count, NOTEBOOK_MEGABYTES, (THRESHOLD, 0.0), left_out)
    page = _template().render(**_outline(explanations, count), examples=packed, left_out=left_out)
    return (
        f'<iframe srcdoc="{html.escape(page)}" sandbox="allow-scripts"'
        f' style="width:100%;height:{height}px;border:0"></iframe>'
    )


@functools.cache
def _template():

    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader("attattr_jax.views", "page"), autoescape=True
    ).get_template("report.html.jinja")


@functools.cache
def _assets() -> dict[str, Any]:
    """Return style and script, and the hashes by which the page's policy knows them."""
    from markupsafe import Markup

    found = {}
    for kind, name in (("style", "report.css"), ("script", "report.js")):
        content = (Path(__file__).parent / "page" / name).read_text(encoding="utf-8")
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        found |= {kind: Markup(content), f"{kind}_hash": f"sha256-{digest}"}
    return found


def _outline(explanations: Sequence[Example], count: int) -> dict[str, Any]:
    """Return what the template needs beside the examples' data: the list of texts, and how all was
    made.
    """
    run = getattr(explanations, "run", {})
    options = run.get("options", {})
    items = [_item(explanations[at]) for at in range(count)]
    num_wrong = sum(item["is_wrong"] for item in items)
    labelled = sum(item["label"] is not None for item in items)
    made = {
        name: options[name]
        for name in ("checkpoint", "objective", "target", "path", "dtype")
        if name in options
    } | _rules(options)
    packages = run.get("packages")
    made |= (
        {"attattr-jax": packages.get("attattr-jax"), "started": run.get("started")}
        if isinstance(packages, dict)
        else {}
    )
    return {
        "title": (
            f"Attention attribution: {options['checkpoint']}"
            if "checkpoint" in options
            else "Attention attribution"
        ),
        "summary": (
            _texts(len(items))
            + (f", {labelled - num_wrong} of {labelled} predicted as labelled" if labelled else "")
        ),
        "items": items,
        "num_wrong": num_wrong,
        "made": [(name, value) for name, value in made.items() if value is not None],
        **_assets(),
    }


def _rules(options: dict[str, Any]) -> dict[str, str]:
    """Return by which rules attention and tokens were integrated, and with how many nodes."""
    rules = {}
    for name, kind in (("n_steps", "integration"), ("token_n_steps", "integration of tokens")):
        if name == "token_n_steps" and options.get("skip_token_attributions"):
            continue
        if (n_steps := options.get(name)) is not None:
            method = ADAPTIVE_METHOD if n_steps == "auto" else options.get("method", "unknown rule")
            rules[kind] = f"{method}, n_steps {n_steps}"
    return rules


def _item(example: Example) -> dict[str, Any]:
    """Return what the list says of an example."""
    row, output = example.row, single_output(example.row)
    says = (
        {"predicted": row["predicted"], "number": row["probabilities"][row["predicted"]]}
        if output is None
        else {"number": output}
    )
    return {
        **{name: row[name] for name in ("index", "text", "text_pair", "label")},
        **says,
        "is_wrong": row["label"] not in (None, row["predicted"]),
        "worst_delta": f"{max(example.relative_deltas):.1g}" if example.relative_deltas else "–",
        "num_cut_tokens": row.get("num_cut_tokens", 0),
    }


def _page_examples(
    explanations, count, max_megabytes, tree_options, left_out: _LeftOut, on_example=lambda: None
) -> Iterator[dict]:
    """Yield the data of each example, with as much of its matrices as there is still room for.

    Room is kept for the sum over layers of every example that is yet to come: the first ones do not
    take everything.
    """
    room = max_megabytes * 1e6
    reserves = [_RESERVED_BYTES * len(explanations[at].row["tokens"]) ** 2 for at in range(count)]
    kept_free = sum(reserves)
    share = min(1.0, room / max(kept_free, 1.0))
    for at, reserve in enumerate(reserves):
        kept_free -= reserve
        example = explanations[at]
        packed = _packed_example(example.loaded(), room - share * kept_free, tree_options, left_out)
        room -= len(packed["data"])
        yield packed
        on_example()


def _packed_example(
    example: Example, room: float, tree_options: tuple[float, float], left_out: _LeftOut
) -> dict[str, Any]:
    """Return all that the page's script knows of one example."""
    row, names = example.row, example.array_names
    num_layers, num_tokens = len(row["layers"]), len(row["tokens"])
    importance = example.array("head_importance") if "head_importance" in names else None
    attributions = probs = total = tree = word_tree = None
    if "token_pairs" in names:
        total = example.array("token_pairs")
    if "attributions" in names:
        attributions, probs = example.attributions, example.attention_probs
        if example.has_all_layers:
            tree, word_tree = (
                _tree_data(example.tree(*tree_options, words=words)) for words in (False, True)
            )

    available = "none" if total is None else "sentence" if attributions is None else "heads"
    left_out.num_unsaved += available != "heads"
    detail, data = available, {"data": "", "decimals": {}}
    for detail in _DETAILS[_DETAILS.index(available) :]:
        num_matrices = {
            "heads": 1 + num_layers + (0 if probs is None else num_layers * probs.shape[1]),
            "layers": 1 + num_layers,
        }
        numbers = (
            num_matrices.get(detail, detail == "sentence")
            * num_tokens**2
            * (1 if probs is None else 2)
        )
        if numbers * _FEWEST_BYTES <= room:
            data = _packed_matrices(total, attributions, probs, detail)
            if len(data["data"]) <= room:
                break
    if detail != available:
        left_out.counts[detail] += 1

    groups = example.words
    values = row["token_attributions"]
    return {
        **{
            name: row[name]
            for name in (
                "index",
                "text",
                "text_pair",
                "label",
                "predicted",
                "target",
                "probabilities",
                "score",
                "tokens",
            )
        },
        **{
            name: row[name]
            for name in (
                "layers",
                "baseline_scores",
                "convergence_deltas",
                "n_steps",
                "converged",
                "path",
            )
        },
        "output": single_output(row),
        "relative_deltas": example.relative_deltas,
        "num_cut_tokens": row.get("num_cut_tokens", 0),
        "special": row["special_tokens_mask"],
        "token_attributions": values,
        "token_delta": row["token_convergence_delta"],
        "listed_pairs": (
            []
            if total is not None
            else [[pair["from"], pair["to"], pair["attribution"]] for pair in row["token_pairs"]]
        ),
        "importance": (
            None
            if importance is None
            else [[float(f"{value:.6g}") for value in layer] for layer in importance]
        ),
        "tree": tree,
        "words": {
            "groups": groups,
            "labels": example.word_labels,
            "token_attributions": (
                None if values is None else sum_over_pieces(values, groups, axes=(0,)).tolist()
            ),
            "tree": word_tree,
        },
        "detail": detail,
        "is_saved": available == "heads",
        "is_reduced": row["absolute_attribution_sums"] is None,
        "sum_name": example.sum_name,
        **data,
    }


def _packed_matrices(total, attributions, probs, detail: str) -> dict[str, Any]:
    """Return the matrices [K, T, T] of an example, packed: the sum over layers, each layer's sum
    over heads, each head's; then the attention likewise, means for sums.

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
    """Return (codes int16 [K, T, T], decimals of each matrix): value = code · 10^−decimals, the
    largest with `digits` digits.
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


def _tree_data(tree: AttributionTree) -> dict[str, Any]:
    """Return a tree as the script draws it: [token, column, level, parent, layer, attribution] of
    each node.
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
