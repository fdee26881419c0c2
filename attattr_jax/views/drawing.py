"""What all figures share: how they are saved, how tokens are named and matrices are drawn.

Signed values are orange above 0, purple below and white at 0. Colours can be told apart by
colour-blind readers (Okabe and Ito, PuOr, viridis), and lines by their markers or dashes as well.
Where the names of all tokens would overlap, the strongest tokens are named.

Text from users is shown as it is: never read as a formula, and what is not printable, or would
reorder its neighbours, as an escape. A character that the font lacks is drawn as a box: name fonts
that have it in `matplotlib.rcParams["font.family"]`.

Shapes: T tokens of one example (no padding).
"""

from __future__ import annotations

import contextlib
import copy
import io
import itertools
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import scipy.optimize
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

from ..errors import InputError
from ..runtime.files import write_file
from ..runtime.text import printable

FORMATS = ("png", "svg")  # what is written unless formats are named
UNIT = "change of probability"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
CONTROL_COLOUR = "#777777"
MARKERS = "osD^vPX<>*hd"
# Colour and dashes of what is above 0 and below
SIGNS = {True: ("#b35806", "-"), False: ("#542788", (0, (3, 1.2)))}
ABOVE_ZERO = ListedColormap(matplotlib.colormaps["PuOr_r"](np.linspace(0.5, 1, 256)), "above zero")
PALETTES = {"attribution": "PuOr_r", "attention": "BuGn"}
PLAIN = {"parse_math": False, "usetex": False}  # for every text that may hold what a user wrote
WIDEST = 11.2  # inches of a drawing, to which labels are added
PITCH = 9.0  # points from the name of a token to the next, 7 points high
LONGEST = 14  # characters of a token


@contextlib.contextmanager
def _missing_glyphs_ignored() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", r"Glyph .* missing from|Matplotlib currently does not support", UserWarning
        )
        yield


class QuietFigure(Figure):
    """A figure that does not warn of characters the font lacks: texts from users may hold any."""

    draw = _missing_glyphs_ignored()(Figure.draw)


def save_figure(figure: Figure, stem: Path, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Write a figure as `stem`.png and so on ("png", "svg", "pdf"); return the files.

    The same figure gives the same bytes, and text stays text.
    """
    files = []
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    for extension in formats:
        buffer = io.BytesIO()
        with matplotlib.rc_context(
            {"svg.hashsalt": "attattr-jax", "svg.fonttype": "none", "pdf.fonttype": 42}
        ):
            # A copy is saved: drawing a figure moves its layout a little, and the next time would
            # start from there.
            copy.deepcopy(figure).savefig(
                buffer, format=extension, dpi=200, metadata=undated.get(extension)
            )
        files.append(stem.with_name(f"{stem.name}.{extension}"))
        write_file(files[-1], buffer.getvalue())
    return files


def square(matrix, tokens: Sequence[str]) -> np.ndarray:
    """Return a matrix of token pairs as float [T, T], or raise an InputError."""
    matrix = np.asarray(matrix, float)
    if matrix.shape != (len(tokens), len(tokens)):
        raise InputError(
            f"a matrix of {len(tokens)} tokens must be [{len(tokens)}, {len(tokens)}], not"
            f" {list(matrix.shape)}"
        )
    return matrix


def label_of(text: str, longest: int = LONGEST) -> str:
    """Return text as a label: no longer than this, with escapes for what is not printable."""
    text = printable(text)
    return text if len(text) <= longest else text[: longest - 1] + "…"


def text_width(texts: Iterable[str], size: float) -> float:
    """Return the width of the widest line in points."""
    font, lines = (
        FontProperties(size=size),
        itertools.chain.from_iterable(text.split("\n") for text in texts),
    )
    with _missing_glyphs_ignored():
        return max(
            (text_to_path.get_text_width_height_descent(line, font, False)[0] for line in lines),
            default=0.0,
        )


def token_axis_sizes(tokens: Sequence[str], most: float) -> tuple[float, float]:
    """Return the inches along which to place tokens, and those that their names take.

    The latter include the title of their axis.
    """
    return min(most, max(2.4, 0.19 * len(tokens))), text_width(map(label_of, tokens), 8) / 72 + 0.5


def titled_figure(width: float, height: float, *lines: str | None) -> Figure:
    """Return a figure of so many inches, to which the lines of a title are added."""
    lines = [label_of(line, int(width * 12)) for line in lines if line]
    figure = QuietFigure(figsize=(width, height + 0.2 * len(lines)), layout="compressed")
    if lines:
        figure.suptitle("\n".join(lines), fontsize=10, **PLAIN)
    return figure


def colour_limits(values, signed: bool, limit: float | None = None) -> dict[str, float]:
    """Return the values of the first and the last colour."""
    limit = limit or float(np.abs(values).max()) or 1.0
    return {"vmin": -limit if signed else 0.0, "vmax": limit}


def label_tokens(
    axis, tokens: Sequence[str], inches: float, meaning: str, strength: np.ndarray
) -> None:
    """Name the tokens along an axis of this length, or the strongest that do not overlap."""
    gap = math.ceil(PITCH * len(tokens) / (inches * 72))
    named: list[int] = []
    for position in np.argsort(-strength, kind="stable"):
        if all(abs(position - other) >= gap for other in named):
            named.append(int(position))
    size, rotation = 8 if inches * 72 >= 11 * len(tokens) else 7, 90 if axis.axis_name == "x" else 0
    named.sort()
    axis.set_ticks(
        named,
        [label_of(tokens[position]) for position in named],
        fontsize=size,
        rotation=rotation,
        **PLAIN,
    )
    axis.set_label_text(
        meaning if gap == 1 else f"{meaning}: {len(tokens)} tokens, the strongest named"
    )


def draw_matrix(
    axes,
    matrix,
    tokens,
    side: float,
    kind: str,
    unit=None,
    limit: float | None = None,
    name_rows: bool = True,
) -> None:
    """Draw a matrix of token pairs [T, T] with its colour bar, along `side` inches."""
    matrix, signed = square(matrix, tokens), kind == "attribution"
    image = axes.imshow(
        matrix, interpolation="nearest", cmap=PALETTES[kind], **colour_limits(matrix, signed, limit)
    )
    label_tokens(axes.xaxis, tokens, side, "reads from", np.abs(matrix).max(axis=0))
    axes.set_ylabel("token")
    if name_rows:
        label_tokens(axes.yaxis, tokens, side, "token", np.abs(matrix).max(axis=1))
    # By more than rounding
    is_cut = limit is not None and np.abs(matrix).max() > limit * (1 + 1e-6)
    ends = "neither" if not is_cut else "both" if signed else "max"
    bar = axes.figure.colorbar(
        image, ax=axes, fraction=0.2 / side, aspect=5 * side, shrink=0.95, pad=0.02, extend=ends
    )
    bar.set_label(f"{kind} ({unit or (UNIT if signed else 'probability')})", **PLAIN)


def draw_bars(axes, values, tokens, side: float, unit: str) -> None:
    """Draw a bar for each token, along `side` inches."""
    values = np.asarray(values, float)
    axes.barh(
        range(len(tokens)), values, height=0.8, color=[SIGNS[value > 0][0] for value in values]
    )
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_ylim(len(tokens) - 0.5, -0.5)
    label_tokens(axes.yaxis, tokens, side, "token", np.abs(values))
    axes.set_xlabel(f"attribution\n({unit})", **PLAIN)
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)


def spread_out(places: np.ndarray, gap: float, num_tokens: int) -> np.ndarray:
    """Return the places closest to these, in order, at least `gap` apart and within the axis."""
    if not places.size:
        return places
    steps = gap * np.arange(places.size)
    # Least squares under the condition that places − steps does not fall.
    moved = scipy.optimize.isotonic_regression(places - steps).x
    return np.clip(moved, -0.5, num_tokens - 0.5 - steps[-1]) + steps
