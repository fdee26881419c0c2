"""Correlate the head importances of several models, or by several measures.

    attattr-correlate runs/sst2/pruning/head_importance.json runs/rte/pruning/head_importance.json

(or `python -m attattr_jax.commands.correlate`). Do the same heads matter? Prints for each pair of
files Pearson's and Spearman's correlation over all heads, and how many of the most important
quarter of the heads they share. The models must have the same numbers of layers and heads.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import require
from ..runtime.files import user_path
from ..runtime.text import printable
from .options import Parser, named


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these arguments, by default the process's; returns the exit status."""
    from . import cli  # lazy import: slow, and `--help` does without

    return cli.run(lambda: _correlate(parse(argv)))


def parse(argv: Sequence[str] | None) -> list[Path]:
    """Return the files named on the command line."""
    parser = Parser(
        prog="attattr-correlate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "file", nargs="+", help="a head_importance.json of attribute.py or prune.py"
    )
    files = [user_path(name) for name in parser.parse_args(argv).file]
    require(len(files) >= 2, "give two files or more: what is correlated is their importances")
    return files


def _correlate(files: Sequence[Path]) -> None:
    from ..pruning.importance_file import correlate
    from .printing import print_table

    records = [_read(file) for file in files]
    for number, (file, record) in enumerate(zip(files, records, strict=True), 1):
        num_examples = record.get("num_examples", "?")
        print(printable(f"[{number}] {file}: {record['measure']}, {num_examples} examples"))
    rows = [["", "Pearson", "Spearman", "shared of the top quarter"]]
    for first, second in itertools.combinations(range(len(files)), 2):
        importances = records[first]["importance"], records[second]["importance"]
        pair = f"{files[first]} and {files[second]}"
        result = named(pair, functools.partial(correlate, *importances))
        shared = f"{result['shared_top_heads']} of {result['num_top_heads']}"
        correlations = f"{result['pearson']:+.3f}", f"{result['spearman']:+.3f}"
        rows.append([f"[{first + 1}] and [{second + 1}]", *correlations, shared])
    print_table(rows)


def _read(file: Path) -> dict[str, Any]:
    from ..pruning.importance_file import read_importance

    require(
        file.is_file(),
        f"{file}: no such file; prune.py and attribute.py write a head_importance.json",
    )
    return read_importance(file)


if __name__ == "__main__":
    sys.exit(main())
