import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba

from attattr_jax.attribution.summaries.reductions import strongest_pairs
from attattr_jax.attribution.summaries.tree import AttributionTree, TreeNode
from attattr_jax.errors import InputError
from attattr_jax.explanations.explanation import Explanation
from attattr_jax.views.drawing import save_figure
from attattr_jax.views.options import FIGURE_FORMATS
from attattr_jax.views.plots import (
    accuracy_curves,
    arcs,
    attribution_and_attention,
    comparison,
    convergence,
    head_grid,
    heat_map,
    token_bars,
    tree,
)

IMPORTANCE = np.asarray([[0.5, 0.1, 0.3], [0.2, 0.6, 0.4]])
MASK = np.asarray([[1, 0, 1], [0, 1, 0]])
TOKENS = "[CLS] the film is not the best film [SEP]".split()
ODD = [
    "$x$",
    r"\frac",
    "a$b",
    "😀",
    "日本",
    "שלום",
    "नमस्ते",
    "e\u0301",
    "a\u202eb",
    "\ttab\n\x00",
    "\ud800",
    "",
    "a" * 40,
]
LOPSIDED = np.random.default_rng(0).uniform(-1, 5, (9, 9))


def example(tokens, seed=0):
    """An explanation of layers 1 and 3, with three heads, of random numbers."""
    random, size = np.random.default_rng(seed), len(tokens)
    arrays = {
        name: random.normal(size=(2, 3, size, size)).astype(np.float32)
        for name in ("attributions", "attention_probs")
    }
    arrays["attention_probs"] = np.abs(arrays["attention_probs"])
    arrays["token_pairs"] = arrays["attributions"].sum((0, 1))
    row = {
        "index": 0,
        "tokens": tokens,
        "layers": [1, 3],
        "predicted": "a$b$",
        "target": "bad",
        "probabilities": {"a$b$": 0.75, "bad": 0.25},
    }
    row |= {
        "token_attributions": random.normal(size=size).tolist(),
        "token_pairs_scale": float(np.abs(arrays["token_pairs"]).max()),
    }
    return Explanation(row, arrays)


def tree_of(parents, tokens):
    """A tree in which token `at` hangs below `parents[at - 1]`."""
    levels = [0]
    for parent in parents:
        levels.append(levels[parent] + 1)
    nodes = [
        TreeNode(0, 0),
        *(
            TreeNode(at, levels[at], parent, 11, 0.01 * at, 0.5)
            for at, parent in enumerate(parents, start=1)
        ),
    ]
    return AttributionTree(tuple(nodes), tuple(tokens), 0.4, 0.0)


def every_figure(tokens):
    """A figure by each function that draws tokens."""
    one, matrix = example(tokens), example(tokens).attributions[0, 0]
    yield heat_map(matrix, tokens, title=tokens[0])
    yield attribution_and_attention(one, 3, 2)
    yield arcs(matrix, tokens, title=tokens[0])
    yield tree(tree_of([at // 2 for at in range(len(tokens) - 1)], tokens))
    yield token_bars(one.token_attributions, tokens, title=tokens[0])
    yield comparison(one)


def drawn(figure):
    """The figure after it was drawn, and its renderer."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return canvas.get_renderer()


def assert_uncut(figure, renderer):
    box, inches = figure.get_tightbbox(renderer), figure.get_size_inches()
    assert min(box.min) >= 0 and (box.max <= inches).all(), "nothing ends at the edge of the figure"


def names(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def curve(measure, seed, accuracies, **more):
    points = [{"fraction": at / 2, "accuracy": value} for at, value in enumerate(accuracies)]
    return {"measure": measure, "seed": seed, "points": points, **more}


def test_pruned_heads_are_crossed_out():
    axes = head_grid(IMPORTANCE, MASK, "taylor").axes[0]
    for crosses in axes.collections:
        assert crosses.get_offsets().tolist() == [[1, 0], [0, 1], [2, 1]], "head across, layer down"
    assert len(axes.collections) == 2, "black on white"
    np.testing.assert_array_equal(axes.images[0].get_array(), IMPORTANCE)
    assert axes.get_title().startswith("3 of 6 heads pruned")


def test_importance_without_a_mask_has_no_crosses():
    axes = head_grid(IMPORTANCE, layers=[2, 5]).axes[0]
    assert not axes.collections and axes.get_title() == "importance of 6 heads"
    assert names(axes.yaxis) == ["2", "5"]


@pytest.mark.parametrize(
    ("importance", "limits"),
    [(IMPORTANCE, (0, 0.6)), (IMPORTANCE - 0.2, (-0.4, 0.4)), (0 * IMPORTANCE, (0, 1))],
)
def test_colours_diverge_from_zero_where_a_head_hurts(importance, limits):
    image = head_grid(importance, MASK, "ablation").axes[0].images[0]
    assert image.get_clim() == pytest.approx(limits)
    white = image.cmap(image.norm(0.0))[:3]
    assert min(white) > 0.95, "0 is white"


@pytest.mark.parametrize(("kind", "lowest"), [("attribution", -np.max(LOPSIDED)), ("attention", 0)])
def test_matrices_are_drawn_from_row_to_column_and_white_at_zero(kind, lowest):
    matrix = LOPSIDED if kind == "attribution" else np.abs(LOPSIDED)
    axes = heat_map(matrix, TOKENS, kind).axes[0]
    (image,) = axes.images
    np.testing.assert_array_equal(image.get_array(), matrix)
    assert (
        image.origin == "upper"
        and axes.get_ylabel() == "token"
        and axes.get_xlabel() == "reads from"
    )
    assert names(axes.xaxis) == names(axes.yaxis) == TOKENS
    assert image.get_clim() == (lowest, LOPSIDED.max())
    assert min(image.cmap(image.norm(0.0))[:3]) > 0.95


def test_colours_that_end_below_the_largest_value_say_so():
    figure = heat_map(LOPSIDED, TOKENS, limit=2.0)
    assert (
        figure.axes[0].images[0].get_clim() == (-2, 2)
        and figure.axes[0].images[0].colorbar.extend == "both"
    )
    assert_uncut(figure, drawn(figure))
    with pytest.raises(InputError, match=r"must be \[8, 8\]"):
        heat_map(LOPSIDED, TOKENS[1:])


def test_a_head_is_named_by_the_number_of_its_layer():
    one = example(TOKENS)
    left, right, *bars = attribution_and_attention(one, layer=3, head=2).axes
    np.testing.assert_array_equal(left.images[0].get_array(), one.attributions[1, 2])
    np.testing.assert_array_equal(right.images[0].get_array(), one.attention_probs[1, 2])
    assert [bar.get_ylabel() for bar in bars] == [
        "attribution (change of probability)",
        "attention (probability)",
    ]
    for layer, head in ((2, 0), (3, 3), (3, -1)):
        with pytest.raises(InputError, match="layers are \\[1, 3\\], heads 0 to 2"):
            attribution_and_attention(one, layer, head)


def test_arcs_are_the_strongest_pairs():
    matrix = example(TOKENS).attributions[0, 0].copy()
    matrix[4, 4], matrix[2, 7], matrix[7, 2] = -9, 8, 7  # to itself, and both ways
    left_out = np.isin(TOKENS, ["[CLS]", "[SEP]"])
    axes = arcs(matrix, TOKENS, count=6, left_out=left_out).axes[0]
    curves = [line for line in axes.lines if len(line.get_xdata()) > len(TOKENS)]
    heads = [line for line in axes.lines if len(line.get_xdata()) == 1]
    found = []
    for line, head in zip(curves, heads, strict=True):
        i, j = round(head.get_xdata()[0]), round(line.get_xdata()[0])  # it points at who reads
        assert line.is_dashed() == (matrix[i, j] < 0), "seen without colour"
        assert (
            line.get_color() == head.get_color() == ("#b35806" if matrix[i, j] > 0 else "#542788")
        )
        found.append((i, j, line.get_linewidth()))
    expected = strongest_pairs(matrix, 6, left_out)
    assert [pair[:2] for pair in found[::-1]] == [pair[:2] for pair in expected]
    widths = [width for *_, width in found[::-1]]
    np.testing.assert_allclose(widths, [max(0.7, 4 * abs(value) / 9) for *_, value in expected])
    assert names(axes.xaxis) == TOKENS


def test_every_token_with_an_arc_is_named():
    matrix, tokens = np.zeros((200, 200)), [f"w{at}" for at in range(200)]
    matrix[[0, 100, 102], [101, 101, 199]] = 3, -2, 1
    assert names(arcs(matrix, tokens).axes[0].xaxis) == ["w0", "w100", "w101", "w102", "w199"]


def test_tokens_of_a_tree_stand_at_their_levels():
    axes = tree(tree_of([0, 0, 1, 3], TOKENS)).axes[0]
    places = {text.get_text(): text.get_position() for text in axes.texts}
    expected = {
        "[CLS]": (0.5, 0),
        "the (1)": (0, 1),
        "film (2)": (1, 1),
        "is": (0, 2),
        "not": (0, 3),
    }
    assert {name: places[name] for name in expected} == expected, (
        "words that come twice are told apart"
    )
    assert "layer 11\n+0.04" in places and axes.yaxis_inverted()


@pytest.mark.parametrize("shape", ["one", "star", "chain", "random", "bushy"])
def test_no_box_of_a_tree_covers_another(shape):
    random = np.random.default_rng(0)
    parents = {
        "one": [],
        "star": [0] * 39,
        "chain": range(39),
        "random": [int(random.integers(at)) for at in range(1, 40)],
        "bushy": [at // 2 for at in range(39)],
    }[shape]
    figure = tree(tree_of(parents, ["unforgettable", "a", "international"] * 14))
    renderer = drawn(figure)
    boxes = [text.get_bbox_patch().get_window_extent(renderer) for text in figure.axes[0].texts]
    assert len(boxes) == 1 + 2 * len(parents)
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert all(figure.bbox.contains(*corner) for box in boxes for corner in (box.min, box.max))


def test_bars_have_the_values_and_colours_of_their_signs():
    axes = token_bars([0.5, -0.25, 0.1, *[0] * 6], TOKENS).axes[0]
    assert [bar.get_width() for bar in axes.patches] == [0.5, -0.25, 0.1, *[0] * 6]
    assert [bar.get_facecolor() for bar in axes.patches[:2]] == [
        to_rgba("#b35806"),
        to_rgba("#542788"),
    ]
    assert names(axes.yaxis) == TOKENS and axes.yaxis_inverted()


def test_bars_stand_beside_the_rows_of_their_tokens():
    one = example(TOKENS)
    figure = comparison(one)
    drawn(figure)
    left, right = figure.axes[:2]
    assert [bar.get_width() for bar in left.patches] == one.token_attributions
    np.testing.assert_allclose(right.images[0].get_array(), one.token_pair_attributions)
    assert right.images[0].get_clim() == (-1, 1)
    for place in ((0, 0), (0, 8)):
        assert left.transData.transform(place)[1] == pytest.approx(
            right.transData.transform(place)[1], abs=0.5
        )
    assert figure.get_suptitle() == "predicted: a$b$ (p = 0.750)\nexplained: bad"


def test_model_with_one_output_has_no_probability_in_the_figure():
    one = example(TOKENS)
    one.row.update(predicted="stars", target="stars", probabilities={}, logits={"stars": 3.2141})
    assert comparison(one).get_suptitle() == "output = 3.214"


def test_text_is_shown_as_it_is(tmp_path):
    for figure in every_figure(ODD):
        (svg,) = save_figure(figure, tmp_path / "odd", ["svg"])
        texts = svg.read_text()
        assert all(
            f">{shown}" in texts
            for shown in (
                "$x$",
                r"\frac",
                "a$b",
                "😀",
                "שלום",
                r"a\u202eb",
                r"\ttab\n\x00",
                r"\ud800",
            )
        )
        assert "\u202e" not in texts and "a" * 13 + "…" in texts and "a" * 14 not in texts


def test_any_character_can_be_drawn(tmp_path):
    for figure in every_figure(ODD):
        save_figure(figure, tmp_path / "odd", ["pdf"])  # a warning is an error here
        figure.savefig(tmp_path / "tight.png", bbox_inches="tight")


@pytest.mark.parametrize("num_tokens", [1, 60, 200, 512])
def test_names_of_tokens_do_not_overlap(num_tokens):
    tokens = [("unforgettable", "the", "日本語日本語日本語")[at % 3] for at in range(num_tokens)]
    for figure in (
        every_figure(tokens)
        if num_tokens < 512
        else [heat_map(np.eye(512), tokens), arcs(np.eye(512), tokens, 99)]
    ):
        is_tree = "level" in figure.axes[0].get_ylabel()
        assert is_tree or max(figure.get_size_inches()) < 13
        renderer = drawn(figure)
        for axes in figure.axes:
            for axis in (axes.xaxis, axes.yaxis):
                labels = [
                    label
                    for label in axis.get_ticklabels()
                    if label.get_text() in tokens or label.get_text()[:4] == "unfo"
                ]
                assert all(label.get_fontsize() >= 7 for label in labels)
                boxes = [
                    label.get_window_extent(renderer) for label in labels if label.get_visible()
                ]
                assert not any(a.overlaps(b) for a, b in itertools.pairwise(boxes))
        assert_uncut(figure, renderer)


def test_zeros_can_be_drawn():
    one = Explanation(
        example(TOKENS).row | {"token_attributions": [0] * 9, "token_pairs_scale": 1.0},
        {"token_pairs": np.zeros((9, 9))},
    )
    for figure in (
        heat_map(np.zeros((9, 9)), TOKENS),
        token_bars(np.zeros(9), TOKENS),
        comparison(one),
    ):
        drawn(figure)
    figure = arcs(np.zeros((200, 200)), ["word"] * 200)
    drawn(figure)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["none but 0"]


def test_convergence_has_a_line_per_layer():
    steps, errors = [5, 10, 20, 21], np.abs(np.random.default_rng(0).normal(size=(4, 24))) + 0.001
    errors[2, 7] = 0
    figure = convergence(steps, errors, range(24), "$middle$", n_steps=20)
    axes = figure.axes[0]
    *lines, used = axes.lines
    assert [line.get_label() for line in lines] == [str(layer) for layer in range(24)]
    looks = {
        (line.get_marker(), line.get_linestyle(), str(line.get_markerfacecolor())) for line in lines
    }
    assert len({look[:2] for look in looks}) == 24, "told apart without colour"
    values = np.stack([line.get_ydata() for line in lines], axis=1)
    np.testing.assert_array_equal(values[errors > 0], errors[errors > 0])
    assert (
        0 < values[2, 7] < errors[errors > 0].min()
        and f"0 is drawn at {values[2, 7]:g}" in axes.get_ylabel()
    )
    assert axes.get_xscale() == axes.get_yscale() == "log"
    assert set(used.get_xdata()) == {20} and used.get_linestyle() == ":"
    drawn(figure)
    drawn(convergence([20], np.zeros((1, 1)), [3]))


def test_every_measure_has_a_line():
    best = {"per_layer": 2, "fraction": 0.25, "accuracy": 0.7}
    curves = [
        curve("taylor", None, [0.9, 0.8, 0.5], keep_per_layer=best),
        curve("random", 0, [0.9, 0.6, 0.5]),
        curve("random", 1, [0.9, 0.4, 0.5]),
    ]
    axes = accuracy_curves(curves, num_examples=40, removable_loss=0.01).axes[0]
    lines = {line.get_label(): line.get_xydata() for line in axes.lines}
    np.testing.assert_allclose(lines["taylor"], [[0, 90], [50, 80], [100, 50]])
    np.testing.assert_allclose(
        lines["random, mean and range of 2 seeds"], [[0, 90], [50, 50], [100, 50]]
    )
    np.testing.assert_allclose(lines["1 point below none removed"][:, 1], 89)
    assert any(points.tolist() == [[25, 70]] for points in lines.values()), (
        "the best heads of every layer"
    )
    (band,) = axes.collections
    np.testing.assert_allclose(band.get_datalim(axes.transData).intervaly, [40, 90])
    assert [text.get_text() for text in axes.get_legend().get_texts()][:2] == [
        "taylor",
        "random, mean and range of 2 seeds",
    ]


def test_the_same_figure_gives_the_same_bytes(tmp_path):
    def made():
        return head_grid(IMPORTANCE, MASK, "taylor"), comparison(example(TOKENS))

    figures = made()
    for name, these in (("one", figures), ("two", figures), ("three", made())):
        for at, figure in enumerate(these):
            files = save_figure(figure, tmp_path / f"{name}{at}", FIGURE_FORMATS)
            assert files == [
                tmp_path / f"{name}{at}.{extension}" for extension in ("png", "svg", "pdf")
            ]
    for extension, start in (("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")):
        for at in range(2):
            written, *others = (
                (tmp_path / f"{name}{at}.{extension}").read_bytes()
                for name in ("one", "two", "three")
            )
            assert others == [written, written], "saved again, and made again"
            assert written.startswith(start)
