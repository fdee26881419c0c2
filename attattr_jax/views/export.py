"""Explanations for other tools: BertViz, tables for pandas, files of single examples.

Whatever goes to files is written example by example: the arrays of one are in memory at a time.

Shapes: T tokens of one example (no padding), L layers (those asked for), N heads.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.numpy

from ..attribution.summaries.tree import THRESHOLD
from ..errors import InputError
from ..runtime.files import check_new, replacing, user_path, write_file
from .example import Example
from .options import EXAMPLE_FORMATS, TABLE_FORMATS, TREE_FORMATS

if TYPE_CHECKING:
    import pyarrow as pa

BERTVIZ_VALUES = ("attributions", "negative_attributions", "attention_probs")
COLUMNS = dict.fromkeys(("example", "layer", "head", "from", "to"), "int32")


COLUMNS |= dict.fromkeys(("from_token", "to_token"), "string") | dict.fromkeys(
    ("attribution", "attention"), "float32"
)


ROWS_AT_ONCE = 2**16  # of a table: a group of rows for each example would take twice the space


def to_bertviz(
    example: Example,
    what: str = "attributions",
    as_tensor: Callable[[np.ndarray], Any] | None = None,
) -> dict[str, Any]:
    """Return keyword arguments for BertViz' `head_view` and `model_view`.

    `head_view(**to_bertviz(example, as_tensor=torch.from_numpy))`. BertViz draws a value as the
    opacity of a line: 0 and all below are invisible, 1 and all above opaque. Attributions are
    therefore divided by the largest absolute value of the example, and one sign is shown at a time,
    both on the same scale. `head_view` further divides by the number of heads that are switched on:
    a double click on a head leaves it alone.

    Args:
      example: with its arrays.
      what: "attributions" shows the positive ones, which speak for the class explained, with 0 in
        place of the others; "negative_attributions" those against it, without their sign;
        "attention_probs" the attention itself.
      as_tensor: applied to every array; BertViz takes only Torch's tensors.

    Returns: `attention`, a list of [1, N, T, T] float32, and `tokens`. For two segments
      `sentence_b_start`, the position of the second's first token. If not all layers from the first
      were asked for, `include_layers`, and zeros in the list for those that are missing: BertViz
      then shows the model's own numbers.

    Raises:
      InputError: there is no such `what`, or its array was not kept.
    """
    if what not in BERTVIZ_VALUES:
        raise InputError(f"what must be one of {', '.join(BERTVIZ_VALUES)}, not {what!r}")
    values = example.attention_probs if what == "attention_probs" else example.attributions
    layers = example.row["layers"]
    by_layer = np.zeros((max(layers) + 1, 1, *values.shape[1:]), np.float32)
    by_layer[layers, 0] = values
    if what != "attention_probs":
        by_layer *= (1 if what == "attributions" else -1) / (np.abs(by_layer).max() or 1)
        np.maximum(by_layer, 0, out=by_layer)
    arguments = {
        "attention": list(by_layer if as_tensor is None else map(as_tensor, by_layer)),
        "tokens": list(example.row["tokens"]),
    }
    if len(layers) < len(by_layer):
        arguments["include_layers"] = sorted(layers)
    if any(example.row["token_type_ids"]):
        arguments["sentence_b_start"] = int(np.argmax(example.row["token_type_ids"]))
    return arguments


def table_of(example: Example, top_k: int = 100) -> pa.Table:
    """Return the largest attributions of one example as a table, a row per (layer, head, from, to).

    Args:
      example: with its arrays.
      top_k: how many rows; all that there are if fewer.

    Returns: Columns `example`, `layer` (the model's number of it), `head`, `from`, `to`,
      `from_token`, `to_token`, `attribution`, `attention`, largest absolute attribution first; of
      equals, the lower layer, head, from, to.

    Raises:
      InputError: the arrays were not kept, or top_k is below 1.
    """
    import pyarrow as pa

    if top_k < 1:
        raise InputError(f"top_k must be 1 or more, not {top_k}")
    attributions = example.attributions
    size = np.abs(attributions).ravel()
    count = min(top_k, size.size)
    # All that equal the last one to go in are candidates, so that the order, not the partition,
    # decides between them.
    candidates = np.flatnonzero(size >= np.partition(size, -count)[-count])
    position, head, source, target = np.unravel_index(candidates, attributions.shape)
    layer = np.asarray(example.row["layers"])[position]
    order = np.lexsort((target, source, head, layer, -size[candidates]))[:count]
    at = tuple(index[order] for index in (position, head, source, target))
    tokens = example.row["tokens"]
    columns = (
        np.full(count, example.row["index"]),
        layer[order],
        *at[1:],
        [tokens[index] for index in at[2]],
        [tokens[index] for index in at[3]],
        attributions[at].astype(np.float32),
        example.attention_probs[at].astype(np.float32),
    )
    return pa.table(dict(zip(COLUMNS, columns, strict=True)), pa.schema(COLUMNS.items()))


def write_table(
    examples: Iterable[Example],
    file: str | os.PathLike,
    top_k: int = 100,
    overwrite: bool = False,
) -> None:
    """Write the rows of `table_of` for all examples into one .parquet or .csv file, by its ending.

    Args:
      examples: with their arrays.
      file: where to write.
      top_k: rows for each example.
      overwrite: write where there is a file already.

    Raises:
      InputError: another ending, there is a file already, or what `table_of` raises: then nothing
        is written.
    """
    file = user_path(file)
    _check_formats([file.suffix[1:]], TABLE_FORMATS)
    _write(examples, file.parent, [file], (), top_k, overwrite=overwrite)


def write_example_files(
    examples: Iterable[Example],
    folder: str | os.PathLike,
    formats: Collection[str] = EXAMPLE_FORMATS,
    tree_threshold: float = THRESHOLD,
    tree_penalty: float = 0.0,
    overwrite: bool = False,
) -> None:
    """Write each example into files of its own, named by its index.

    Args:
      examples: with what they have of arrays.
      folder: where to.
      formats: "npz": `00012.npz`, the arrays, `tokens` and `layers` (the model's numbers of them),
        nothing pickled; "safetensors": the arrays, and as metadata "row" the fields of its row in
        JSON; "json", "dot": the attribution tree, as `00012.tree.json` and so on.
      tree_threshold, tree_penalty: τ and λ of the trees.
      overwrite: write where there are files already.

    Raises:
      InputError: an unknown format, a file that is there already, or what `Explanation.tree`
        raises.
    """
    _check_formats(formats, EXAMPLE_FORMATS)
    _write(
        examples,
        user_path(folder),
        [],
        formats,
        tree_threshold=tree_threshold,
        tree_penalty=tree_penalty,
        overwrite=overwrite,
    )


def export(
    examples: Iterable[Example],
    folder: str | os.PathLike,
    formats: Collection[str],
    top_k: int = 100,
    tree_threshold: float = THRESHOLD,
    tree_penalty: float = 0.0,
    overwrite: bool = False,
) -> list[Path]:
    """Do what `write_table` and `write_example_files` do, in one pass.

    Tables are `attributions.parquet` and `attributions.csv`.

    Args:
      formats: of `TABLE_FORMATS` and `EXAMPLE_FORMATS`.

    Returns:
      The tables, and the folder if it got files of single examples.
    """
    _check_formats(formats, TABLE_FORMATS + EXAMPLE_FORMATS)
    folder = user_path(folder)
    tables = [folder / f"attributions.{name}" for name in TABLE_FORMATS if name in formats]
    single = [name for name in EXAMPLE_FORMATS if name in formats]
    _write(examples, folder, tables, single, top_k, tree_threshold, tree_penalty, overwrite)
    return tables + [folder] * bool(single)


def _check_formats(formats: Collection[str], allowed: Sequence[str]) -> None:
    unknown = [name for name in formats if name not in allowed]
    if unknown:
        raise InputError(
            f"unknown format {', '.join(map(repr, unknown))}: there are {', '.join(allowed)}"
        )


def _write(
    examples,
    folder,
    tables,
    formats,
    top_k=100,
    tree_threshold=THRESHOLD,
    tree_penalty=0.0,
    overwrite=False,
) -> None:
    if not overwrite:
        for file in tables:
            check_new(file)
        examples = _checked_places(examples, folder, formats)
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(_table_writer(file)) for file in tables]
        for example in examples:
            held = example.loaded()  # read once, whoever needs them
            rows = table_of(held, top_k) if tables else None
            for add in writers:
                add(rows)
            _write_example(held, folder, formats, tree_threshold, tree_penalty)
            del example, held  # before the next one is made


@contextlib.contextmanager
def _table_writer(file: Path) -> Iterator[Callable[[pa.Table], None]]:
    """Open a table; `with` gives a function that adds rows to it."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    kind = pyarrow.csv.CSVWriter if file.suffix == ".csv" else pyarrow.parquet.ParquetWriter
    schema = pa.schema(COLUMNS.items())
    waiting: list[pa.Table] = []
    with replacing(file) as written, kind(written, schema) as writer:

        def add(rows: pa.Table) -> None:
            waiting.append(rows)
            if sum(map(len, waiting)) >= ROWS_AT_ONCE:
                writer.write_table(pa.concat_tables(waiting))
                waiting.clear()

        yield add
        if waiting:
            writer.write_table(pa.concat_tables(waiting))


def _checked_places(
    examples: Iterable[Example], folder: Path, formats: Collection[str]
) -> Iterable[Example]:
    """Return the examples, having checked that none of their files exists.

    Of a sequence all are checked before anything is written.
    """

    def check_example(example: Example) -> Example:
        for name in formats:
            check_new(_example_file(example, folder, name))
        return example

    if not isinstance(examples, Sequence):
        return map(check_example, examples)
    for example in examples if formats else ():
        check_example(example)
    return examples


def _example_file(example: Example, folder: Path, name: str) -> Path:
    """Return the place of an example's file of this format."""
    return folder / f"{example.row['index']:05d}.{f'tree.{name}' if name in TREE_FORMATS else name}"


def _write_example(
    example: Example,
    folder: Path,
    formats: Collection[str],
    tree_threshold: float,
    tree_penalty: float,
) -> None:
    """Write the files of one example."""
    row = example.row
    place = functools.partial(_example_file, example, folder)
    arrays = {name: np.ascontiguousarray(example.array(name)) for name in example.array_names}
    if "npz" in formats:
        with replacing(place("npz")) as file:
            np.savez(
                file,
                **arrays,
                tokens=np.array(row["tokens"], np.str_),
                layers=np.array(row["layers"]),
            )
    if "safetensors" in formats:
        # That says where they were
        fields = {name: value for name, value in row.items() if name != "arrays"}
        write_file(
            place("safetensors"),
            safetensors.numpy.save(arrays, {"row": json.dumps(fields, ensure_ascii=False)}),
        )
    if "json" in formats or "dot" in formats:
        tree = example.tree(tree_threshold, tree_penalty)
        for name, content in (("json", tree.to_json()), ("dot", tree.to_dot())):
            if name in formats:
                write_file(place(name), content)
