"""One HTML page of explanations that needs nothing else: no network, no other file.

`page/` has its template, style and script. The page is written as it is made, one example in memory
at a time; `report_data` makes the data of each. Colours and sizes are in `page/report.css`.

Text from users reaches the page through Jinja's escaping, or as JSON that the script puts into text
nodes; a content security policy lets no other script run and nothing be loaded.

Shapes: T tokens of one example (no padding), L layers (those asked for), N heads, W words, K
matrices.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..attribution.quadrature.rules import ADAPTIVE_METHOD, FAST_METHOD
from ..attribution.summaries.tree import THRESHOLD
from ..errors import InputError
from ..runtime.files import check_new, replacing, user_path
from .example import (
    Example,
    explained_class,
    gold_of,
    is_wrong,
    single_output,
    window_of,
)
from .options import MAX_EXAMPLES, MAX_MEGABYTES, ReportOptions
from .report_data import LeftOut, count_of_texts, page_examples

# The page's script, in this order; everything shown is put into text nodes and attributes, never
# parsed as HTML.
SCRIPTS = (
    "elements.js",
    "data.js",
    "parts.js",
    "drawings.js",
    "compare.js",
    "list.js",
    "reader.js",
)
NOTEBOOK_MEGABYTES = 5.0  # a notebook keeps the page in its own file
_OLDER_HEAD = (
    rb'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    rb"<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; script-src"
    rb" 'sha256-"
)


class WrittenReport(NamedTuple):
    """What was written."""

    file: Path
    num_examples: int
    num_bytes: int
    left_out: list[str]  # a phrase for each kind of thing that is not in the page


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
    left_out = LeftOut(len(explanations) - count)
    trees = (tree_threshold, tree_penalty)
    packed = page_examples(explanations, count, max_megabytes, trees, left_out, on_example)
    with replacing(file) as written:
        for chunk in _template("report.html.jinja").generate(
            **_outline(explanations, count), examples=packed, left_out=left_out
        ):
            written.write(chunk.encode(errors="replace"))
        num_bytes = written.tell()
    return WrittenReport(file, count, num_bytes, left_out.lines())


def _is_report(file: Path) -> bool:
    """Return whether a file is a report, of this version or an earlier one.

    Earlier ones did not name their generator.
    """
    if not file.is_file():
        return False
    with open(file, "rb") as page:
        head = page.read(1000)
    return (
        b'<meta name="generator" content="attattr-jax">' in head
        or re.match(_OLDER_HEAD, head) is not None
    )


def notebook_frame(explanations: Sequence[Example]) -> str:
    """Return the report as an HTML element of its own for a notebook.

    Its style and script touch nothing around it. A second script, outside it, gives it the height
    of its content and tells it whether the notebook is dark; without that it is as high as a
    screen.
    """
    left_out = LeftOut(max(0, len(explanations) - MAX_EXAMPLES))
    count = len(explanations) - left_out.num_unlisted
    trees = (THRESHOLD, 0.0)
    packed = page_examples(explanations, count, NOTEBOOK_MEGABYTES, trees, left_out)
    page = _template("report.html.jinja").render(
        **_outline(explanations, count), examples=packed, left_out=left_out, is_embedded=True
    )
    return _template("notebook.html.jinja").render(page=page)


@functools.cache
def _template(name: str):
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader("attattr_jax.views", "page"), autoescape=True
    ).get_template(name)


@functools.cache
def _assets() -> dict[str, Any]:
    """Return style and script, and the hashes by which the page's policy knows them."""
    from markupsafe import Markup

    assets = {}
    folder = Path(__file__).parent / "page"
    # One function around all of the script's files: they share their names with nothing else.
    parts = "".join((folder / name).read_text(encoding="utf-8") for name in SCRIPTS)
    contents = {
        "style": (folder / "report.css").read_text(encoding="utf-8"),
        "script": f'"use strict";\n(() => {{\n{parts}}})();\n',
    }
    for kind, content in contents.items():
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assets |= {kind: Markup(content), f"{kind}_hash": f"sha256-{digest}"}
    return assets


def _outline(explanations: Sequence[Example], count: int) -> dict[str, Any]:
    """Return what the template needs beside the examples' data.

    That is the list of texts, and how they were explained.
    """
    run = getattr(explanations, "run", {})
    options = run.get("options", {})
    # What F is, as the page says it: only a run's options tell which of them it was.
    objective = "probability or, for a model with one output, the output"
    if "objective" in options:
        names = {
            "logit": "logit",
            "log_prob": "log-probability",
            "contrast": "logit less that of the other class",
        }
        objective = names.get(options["objective"], "probability")
    items = [_item(explanations[position]) for position in range(count)]
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
            count_of_texts(len(items))
            + (f", {labelled - num_wrong} of {labelled} predicted as labelled" if labelled else "")
        ),
        "items": items,
        "num_wrong": num_wrong,
        "compares": getattr(explanations, "compares", False),
        "objective": objective,
        "shows_special": options.get("skip_special_tokens", True) is False,
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
            is_fast = method == FAST_METHOD  # has no number of steps
            rules[kind] = method if is_fast else f"{method}, n_steps {n_steps}"
    return rules


def _item(example: Example) -> dict[str, Any]:
    """Return what the list says of an example."""
    row, output = example.row, single_output(example.row)
    labels, explained = row.get("predicted_labels"), explained_class(row)
    if output is not None:
        says = {"number": output}
    elif labels is not None:
        says = {"predicted": ", ".join(labels) or "no label", "number": None}
    else:
        says = {"predicted": row["predicted"], "number": row["probabilities"][row["predicted"]]}
    return {
        **{name: row[name] for name in ("index", "text", "text_pair")},
        **says,
        "label": gold_of(row),
        "explained": None if explained == row["predicted"] or output is not None else explained,
        "is_wrong": is_wrong(row),
        "window": window_of(row),
        "num_cut_tokens": row.get("num_cut_tokens", 0),
    }
