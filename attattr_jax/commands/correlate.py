"""Correlate the head importances of several models, or by several measures: do the same heads
matter?

    attattr-correlate runs/sst2/pruning/head_importance.json runs/rte/pruning/head_importance.json

(or `python -m attattr_jax.commands.correlate`). Prints for each pair of files Pearson's and
Spearman's correlation over all heads, and how many of the most important quarter of the heads they
share. The models must have the same numbers of layers and heads.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import require
from ..pruning import importance_file
from ..runtime import text
from ..runtime.files import user_path
from . import cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these arguments, by default the process's; returns the exit status."""
    return cli.run(lambda: _correlate(argv))


def _correlate(argv: Sequence[str] | None) -> None:
    class Parser(cli.OneLineErrors, argparse.ArgumentParser):
        pass

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
    records = [_read(file) for file in files]
    for number, (file, record) in enumerate(zip(files, records, strict=True), 1):
        print(
            text.printable(
                f"[{number}] {file}: {record['measure']}, {record.get('num_examples', '?')}"
                " examples"
            )
        )
    values = [record["importance"] for record in records]
    rows = [["", "Pearson", "Spearman", "shared of the top quarter"]]
    for one, other in itertools.combinations(range(len(files)), 2):
        found = cli.named(
            f"{files[one]} and {files[other]}",
            functools.partial(importance_file.correlate, *(values[at] for at in (one, other))),
        )
        shared = f"{found['shared_top_heads']} of {found['num_top_heads']}"
        rows.append(
            [
                f"[{one + 1}] and [{other + 1}]",
                f"{found['pearson']:+.3f}",
                f"{found['spearman']:+.3f}",
                shared,
            ]
        )
    cli.print_table(rows)


def _read(file: Path) -> dict:
    require(
        file.is_file(),
        f"{file}: no such file; prune.py and attribute.py write a head_importance.json",
    )
    return importance_file.read_importance(file)


if __name__ == "__main__":
    sys.exit(main())
