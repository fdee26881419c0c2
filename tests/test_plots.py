import numpy as np
import pytest

from attattr_jax import plots

IMPORTANCE = np.asarray([[0.5, 0.1, 0.3], [0.2, 0.6, 0.4]])
MASK = np.asarray([[1, 0, 1], [0, 1, 0]])


def curve(measure, seed, accuracies, **more):
    points = [{"fraction": at / 2, "accuracy": value} for at, value in enumerate(accuracies)]
    return {"measure": measure, "seed": seed, "points": points, **more}


def test_pruned_heads_are_crossed_out():
    axes = plots.head_grid(IMPORTANCE, MASK, "taylor").axes[0]
    for crosses in axes.collections:
        assert crosses.get_offsets().tolist() == [[1, 0], [0, 1], [2, 1]], "head across, layer down"
    assert len(axes.collections) == 2, "black on white"
    np.testing.assert_array_equal(axes.images[0].get_array(), IMPORTANCE)
    assert axes.get_title().startswith("3 of 6 heads pruned")


@pytest.mark.parametrize(("importance", "limits"), [(IMPORTANCE, (0, 0.6)), (IMPORTANCE - 0.2, (-0.4, 0.4)), (0 * IMPORTANCE, (0, 1))])
def test_colours_diverge_from_zero_where_a_head_hurts(importance, limits):
    image = plots.head_grid(importance, MASK, "ablation").axes[0].images[0]
    assert image.get_clim() == pytest.approx(limits)
    white = image.cmap(image.norm(0.0))[:3]
    assert min(white) > 0.95, "0 is white"


def test_every_measure_has_a_line():
    best = {"per_layer": 2, "fraction": 0.25, "accuracy": 0.7}
    curves = [
        curve("taylor", None, [0.9, 0.8, 0.5], keep_per_layer=best),
        curve("random", 0, [0.9, 0.6, 0.5]),
        curve("random", 1, [0.9, 0.4, 0.5]),
    ]
    axes = plots.accuracy_curves(curves, num_examples=40, removable_loss=0.01).axes[0]
    lines = {line.get_label(): line.get_xydata() for line in axes.lines}
    np.testing.assert_allclose(lines["taylor"], [[0, 90], [50, 80], [100, 50]])
    np.testing.assert_allclose(lines["random, mean and range of 2 seeds"], [[0, 90], [50, 50], [100, 50]])
    np.testing.assert_allclose(lines["1 point below none removed"][:, 1], 89)
    assert any(points.tolist() == [[25, 70]] for points in lines.values()), "the best heads of every layer"
    (band,) = axes.collections
    np.testing.assert_allclose(band.get_datalim(axes.transData).intervaly, [40, 90])
    assert [text.get_text() for text in axes.get_legend().get_texts()][:2] == ["taylor", "random, mean and range of 2 seeds"]


def test_the_same_figure_gives_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        files = plots.save_figure(plots.head_grid(IMPORTANCE, MASK, "taylor"), tmp_path / name)
        assert files == [tmp_path / f"{name}.png", tmp_path / f"{name}.svg"]
    for extension in ("png", "svg"):
        assert (tmp_path / f"one.{extension}").read_bytes() == (tmp_path / f"two.{extension}").read_bytes()
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
