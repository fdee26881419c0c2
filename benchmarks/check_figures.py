"""Check that the numbers in README.md and docs/*.md are those of the result files.

    python benchmarks/check_figures.py

`make lint` runs it. A comment after a number, invisible on the page, says where the number comes
from:

    Accuracy is 0.899<!-- sst2_minilm.json: training.eval_accuracy -->, ...

The file is one of benchmarks/results/. Several expressions, separated by `;`, stand for the last
numbers before the comment, in order, in the same paragraph, list item or table row; `_` stands for
a number that is not measured. A number must equal the value of its expression, rounded to the
digits that are printed. `8 min 50 s` is one number, in seconds.

    training.eval_accuracy              a value
    "time of scoring".examples          keys in quotation marks, also training["seed"]
    curve.points[3], [3:10], [1, 4]     one item; several. `.name` of a list is the list of its
                                        items' `name`
    token_pairs[to == 3]                the only item whose `to` is 3
    + - * /                             of numbers, or item by item of lists: share * 100
    max min mean median sum len abs     of a list, or of the values of an object
    after("passed in ")                 of a .txt file or a string: the number after the first
                                        occurrence of this text

Other comments:

    <!-- pruning.json "time of scoring".warm_seconds: attribution; ablation -->
        The expressions start from the value before the colon; `it` is that value itself.
    <!-- engine_cpu.json parts.memory.rows[row]: B; T; temporary_mib -->
        In a paragraph of its own: applies to each row of the table below that has no comment
        itself, with `row` 0, 1, ...
    <!-- not measured -->
        The numbers since the comment before are settings, versions or tolerances.
    <!-- demo.txt: verbatim -->
        The ```output blocks below are in that file; a line of `…` leaves lines out.

A number that looks measured must have a comment: one with a decimal point, an exponent, a thousands
separator or a unit, and one that is alone in a table cell. Headings, and the first cell of a table
row, are labels and need no comment. On a page without any comment only numbers alone in a table
cell need one. Code is not checked.
"""

import ast
import json
import re
import statistics
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent

_COMMENT = re.compile(r"<!--\s*(.*?)\s*-->", re.DOTALL)
_MARKER = re.compile(
    r"(?P<file>[\w.-]+\.(?:json|txt))(?:\s+(?P<base>[^:]+?))?\s*:\s*(?P<expressions>.+)", re.DOTALL
)
_NUMBER = re.compile(
    r"(?<!\w)(?<!\d[.,])(?<!\w-)(?:(?P<minutes>\d+) min (?P<seconds>\d+) s\b"
    r"|(?P<number>[-+−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:e[-+]?\d+)?)(?!\w)(?!\.\d)(?!-[A-Za-z]))"
)
_UNIT = re.compile(
    r"\s?(?:%|×(?!\s*\d)|times as|points?\b|(?:ms|s|seconds|minutes|kB|MB|GB|MiB|GFLOP)\b)"
)
_NUMBER_IN_OUTPUT = re.compile(
    r"(?P<minutes>\d+)m(?P<seconds>[\d.]+)s|(?P<number>[-+]?[\d,]*\.?\d+(?:e[-+]?\d+)?)"
)
_OPERATIONS: dict[type, Callable] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
}
_FUNCTIONS: dict[str, Callable] = {
    "max": max,
    "min": min,
    "mean": statistics.fmean,
    "median": statistics.median,
    "sum": sum,
    "len": len,
    "abs": lambda value: _elementwise(abs, value),
}


class FigureError(ValueError):
    """A comment that cannot be read, or that names what a result file does not have."""


class Number(NamedTuple):
    """A number as printed: where it starts and ends in its block, its value, and the value of its
    last digit.
    """

    start: int
    end: int
    text: str
    value: float
    last_digit: float
    alone: bool  # in its table cell
    measured: bool  # looks like a measurement


class Block(NamedTuple):
    """A paragraph, list item or table row, or a block of output."""

    line: int  # of the page, from 1
    text: str
    row: int | None = None  # of a table row: 0 is the first below the header, which has -2


def evaluate(expression: str, data: Any, base: str | None = None, row: int | None = None) -> Any:
    """Return the value of an expression (grammar: see the top of this file) in a result file.

    Args:
        expression: what stands in a comment, without `;`.
        data: the parsed .json file, or the text of a .txt file.
        base: an expression whose value takes the place of the file's outermost object.
        row: the value of the name `row`.

    Raises:
        FigureError: if the expression is not of the grammar, or the file has no such value.
    """
    if base is not None:
        data = evaluate(base, data, row=row)
    try:
        tree = ast.parse(expression, mode="eval").body
        if not any(isinstance(node, ast.Name) or _is_text(node) for node in ast.walk(tree)):
            raise FigureError("reads nothing from the file")
        return _value(tree, data, row)
    except FigureError as error:
        raise FigureError(f"{expression}: {error}") from None
    except SyntaxError:
        raise FigureError(f"{expression}: not an expression") from None
    except (KeyError, IndexError, TypeError, ValueError, ZeroDivisionError) as error:
        raise FigureError(f"{expression}: {type(error).__name__} {error}") from None


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _value(node: ast.expr, data: Any, row: int | None) -> Any:
    """Walk the allowed nodes; nothing of the comment is ever run as Python."""
    match node:
        case ast.Constant(value=bool() | None):
            pass
        case ast.Constant(value=int() | float() as number):
            return number
        case ast.Name(id="row") if row is not None:
            return row
        case ast.Name(id="it"):
            return data
        case ast.Constant(value=str() as key) | ast.Name(id=key):
            return _get(data, key)
        case ast.Attribute(value=inner, attr=key):
            return _get(_value(inner, data, row), key)
        case ast.Subscript(value=inner, slice=index):
            return _item(_value(inner, data, row), index, data, row)
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return _elementwise(lambda value: -value, _value(inner, data, row))
        case ast.BinOp(left=left, op=operation, right=right) if type(operation) in _OPERATIONS:
            return _elementwise(
                _OPERATIONS[type(operation)], _value(left, data, row), _value(right, data, row)
            )
        case ast.Call(
            func=ast.Name(id="after"), args=[ast.Constant(value=str() as text)], keywords=[]
        ):
            return _number_after(data, text)
        case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if name in _FUNCTIONS:
            value = _value(argument, data, row)
            return _FUNCTIONS[name](list(value.values()) if isinstance(value, dict) else value)
    raise FigureError(f"{ast.unparse(node)} is not allowed")


def _elementwise(function: Callable, *values: Any) -> Any:
    """Apply a function to numbers, or to the items of lists of one length; a number goes with every
    item.
    """
    lengths = {len(value) for value in values if isinstance(value, list)}
    if not lengths:
        return function(*values)
    if len(lengths) > 1:
        raise FigureError("lists of different lengths")
    (length,) = lengths
    return [
        function(*(value[i] if isinstance(value, list) else value for value in values))
        for i in range(length)
    ]


def _get(value: Any, key: str) -> Any:
    if isinstance(value, list):
        return [_get(item, key) for item in value]
    if not isinstance(value, dict) or key not in value:
        raise FigureError(f"there is no {key!r}")
    return value[key]


def _item(value: Any, index: ast.expr, data: Any, row: int | None) -> Any:
    match index:
        case ast.Constant(value=str() as key):
            return _get(value, key)
        case ast.Slice(lower=lower, upper=upper, step=None):
            return value[
                slice(*(None if end is None else _value(end, data, row) for end in (lower, upper)))
            ]
        case ast.Tuple(elts=indices):
            return [_item(value, one, data, row) for one in indices]
        case ast.Compare(
            left=ast.Name(id=key) | ast.Constant(value=str() as key),
            ops=[ast.Eq()],
            comparators=[wanted],
        ):
            wanted = wanted.value if isinstance(wanted, ast.Constant) else _value(wanted, data, row)
            matches = [item for item in value if _get(item, key) == wanted]
            if len(matches) != 1:
                raise FigureError(f"{len(matches)} items have {key} == {wanted!r}")
            return matches[0]
    return value[_value(index, data, row)]


def _number_after(text: Any, before: str) -> float:
    if not isinstance(text, str) or before not in text:
        raise FigureError(f"there is no {before!r}")
    match = _NUMBER_IN_OUTPUT.match(text, text.index(before) + len(before))
    if match is None:
        raise FigureError(f"no number follows {before!r}")
    if match["minutes"]:
        return 60 * int(match["minutes"]) + float(match["seconds"])
    return float(match["number"].replace(",", ""))


def numbers(text: str) -> list[Number]:
    """Return the numbers of a block in order; those in code, links and comments are left out."""
    blank = re.sub(
        r"`[^`]*`|\]\([^)]*\)|<!--.*?-->", lambda match: " " * len(match[0]), text, flags=re.DOTALL
    )
    found = []
    for match in _NUMBER.finditer(blank):
        if match["minutes"]:
            value, last_digit = (
                Decimal(60 * int(match["minutes"]) + int(match["seconds"])),
                Decimal(1),
            )
        else:
            value = Decimal(match["number"].replace(",", "").replace("−", "-"))
            last_digit = Decimal((0, (1,), value.as_tuple().exponent))
        alone = bool(
            re.search(r"\|\s*$", blank[: match.start()])
            and re.match(r"\s*\|", blank[match.end() :])
        )
        measured = alone or bool(
            match["minutes"] or re.search("[.,e]", match[0]) or _UNIT.match(blank, match.end())
        )
        found.append(
            Number(
                match.start(),
                match.end(),
                match[0],
                float(value),
                float(last_digit),
                alone,
                measured,
            )
        )
    return found


def agrees(number: Number, value: float) -> bool:
    """Say whether a value, rounded to the digits of the printed number, is that number; a tie may
    go either way.
    """
    return abs(number.value - value) <= number.last_digit * 0.5 + 1e-12 * abs(value)


def blocks(page: str) -> Iterator[Block]:
    """Yield the paragraphs, list items and table rows of a page, and its ```output blocks with
    their first line.
    """
    lines: list[str] = []
    start, row = 0, -2
    fenced = False
    for i, line in enumerate([*page.split("\n"), ""], 1):
        if fenced:
            lines.append(line)
            if line.lstrip().startswith("```"):
                if lines[0].strip() == "```output":
                    yield Block(start, "\n".join(lines))
                lines, fenced = [], False
            continue
        fenced, is_row = line.lstrip().startswith("```"), line.startswith("|")
        if lines and (
            fenced or is_row or not line.strip() or re.match(r"#|\s*(?:[-*]|\d+\.) ", line)
        ):
            yield Block(start, "\n".join(lines))
            lines = []
        if is_row:
            yield Block(i, line, row)
        elif line.strip():
            start = start if lines else i
            lines.append(line)
        row = row + 1 if is_row else -2


def check(name: str, page: str, results: Path) -> tuple[list[str], int]:
    """Compare the numbers of a page with the result files.

    Args:
        name: the page's name in messages.
        page: its text, Markdown.
        results: the folder of the result files.

    Returns:
        The problems, `name:line: what is wrong`, in order; and how many numbers were compared.
    """
    problems: list[str] = []
    compared = 0
    has_comments = bool(_COMMENT.search(page))
    previous: Block | None = None
    template: tuple[Block, str] | None = (
        None  # the comment on the rows of a table, which is the next block or the present one
    )
    output_file: str | None = None  # what the blocks of output are from
    for block in blocks(page):
        if template and block.row is None:
            if previous is template[0]:
                problems.append(f"{name}:{template[0].line}: no table follows this comment")
            template = None
        elif template and block.row == -2 and previous is not template[0]:
            template = None  # another table
        previous = block
        comments = [
            (match.start(), " ".join(match[1].split())) for match in _COMMENT.finditer(block.text)
        ]
        only = len(comments) == 1 and _COMMENT.fullmatch(block.text.strip())
        marker = _MARKER.fullmatch(comments[0][1]) if only else None
        if block.text.lstrip().startswith("```"):
            found, count = _check_output(block, output_file, results), 1
        elif marker and marker["expressions"] == "verbatim":
            output_file, found, count = marker["file"], [], 0
        elif marker:
            template, found, count = (block, comments[0][1]), [], 0
        else:
            if template and not comments and block.row not in (-2, -1):
                comments = [(len(block.text), template[1])]
            found, count = _check_numbers(block, comments, results, has_comments)
        for position, message in found:
            line = block.line + block.text.count("\n", 0, position)
            problems.append(f"{name}:{line}: {message}")
        compared += count
    return problems, compared


def _check_output(block: Block, file: str | None, results: Path) -> list[tuple[int, str]]:
    """Return (position in the block, what is wrong) of a block of output that its file does not
    have.
    """
    text = _load(results / file) if file else None
    if not isinstance(text, str):
        missing = "no comment above says which file this output is from"
        return [(0, f"{file}: there is no such text file" if file else missing)]
    shown = "\n".join(block.text.split("\n")[1:-1])
    found = []
    for part in re.split(r"^\s*…$\n?", shown, flags=re.MULTILINE):
        if part.strip() and f"\n{part.rstrip()}\n" not in f"\n{text}\n":
            lines = part.rstrip().split("\n")
            line = next((line for line in lines if f"\n{line}\n" not in f"\n{text}\n"), lines[0])
            found.append(
                (block.text.index(line), f"{file} does not have this output: {line.strip()}")
            )
    return found


def _check_numbers(
    block: Block, comments: list[tuple[int, str]], results: Path, prose: bool
) -> tuple[list[tuple[int, str]], int]:
    """Compare the numbers of a block with its comments.

    Args:
        block: a paragraph, list item or table row.
        comments: where each starts, and what it says.
        results: the folder of the result files.
        prose: whether numbers in text, too, need a comment.

    Returns:
        (position in the block, what is wrong), and how many numbers were compared.
    """
    found: list[tuple[int, str]] = []
    compared = 0
    unread = numbers(block.text)
    unbound: list[Number] = []
    for end, comment in comments:
        inside = [number for number in unread if number.start < end]
        unread = unread[len(inside) :]
        if comment == "not measured":
            if not inside:
                found.append((end, "no number stands before `not measured`"))
            continue
        try:
            values = _values(comment, results, block.row)
        except FigureError as error:
            found.append((end, str(error)))
            continue
        first = len(inside) - len(values)
        if first < 0:
            found.append((end, f"{len(values)} expressions, but {len(inside)} numbers before them"))
            continue
        unbound += inside[:first]
        for number, (expression, value) in zip(inside[first:], values, strict=True):
            if value is None:
                continue
            compared += 1
            if isinstance(value, bool) or not isinstance(value, int | float):
                found.append((number.start, f"{expression} is not a number: {value!r}"))
            elif not agrees(number, value):
                found.append(
                    (number.start, f"{number.text} on the page, {value:.6g} in {expression}")
                )
    label = re.match(r"\|(?:\\.|[^|\\])*|#.*", block.text)
    start = len(block.text) if block.row == -2 else label.end() if label else 0
    for number in unbound + unread:
        if (number.measured if prose else number.alone) and number.start >= start:
            found.append(
                (
                    number.start,
                    f"{number.text} looks measured, but no comment says from which file it is",
                )
            )
    return found, compared


def _values(comment: str, results: Path, row: int | None) -> list[tuple[str, Any]]:
    """Return the expressions of a comment, each with its file, and their values; None for what is
    not measured.
    """
    marker = _MARKER.fullmatch(comment)
    if marker is None:
        raise FigureError(f"not a comment on figures: {comment}")
    data = _load(results / marker["file"])
    if data is None:
        raise FigureError(f"{marker['file']}: there is no such result file")
    values = []
    for expression in marker["expressions"].split(";"):
        expression = expression.strip()
        try:
            value = None if expression == "_" else evaluate(expression, data, marker["base"], row)
        except FigureError as error:
            raise FigureError(f"{marker['file']}: {error}") from None
        values.append((f"{marker['file']}: {expression}", value))
    return values


_loaded: dict[Path, Any] = {}


def _load(file: Path) -> Any:
    if file not in _loaded:
        text = file.read_text(encoding="utf-8") if file.is_file() else None
        _loaded[file] = json.loads(text) if text is not None and file.suffix == ".json" else text
    return _loaded[file]


def main() -> int:
    """Check README.md and docs/*.md; print the problems."""
    problems, compared = [], 0
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = page.read_text(encoding="utf-8")
        of_page, count = check(str(page.relative_to(ROOT)), text, ROOT / "benchmarks" / "results")
        problems += of_page
        compared += count
    print(
        *problems,
        f"{compared} figures compared with benchmarks/results, {len(problems)} problems",
        sep="\n",
    )
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
