import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.polynomial import legendre

import attattr_jax as aa
from attattr_jax.attribution.objectives import LINKS
from attattr_jax.attribution.quadrature import interpolation
from attattr_jax.attribution.quadrature import rules as quadrature
from attattr_jax.attribution.quadrature.levels import (
    adaptive_levels,
    fixed_level,
    kronrod_extension,
)
from attattr_jax.attribution.quadrature.product import product_tables, product_weights
from attattr_jax.errors import InputError


@pytest.mark.parametrize("method", quadrature.RULES)
def test_quadrature_weights_sum_to_one_inside_the_interval(method):
    nodes, weights = aa.quadrature(method, 7)
    assert nodes.shape == weights.shape == (7,)
    assert abs(weights.sum() - 1) < 1e-12 and nodes.min() >= 0 and nodes.max() <= 1


def test_quadrature_literals():
    np.testing.assert_allclose(aa.quadrature("riemann_left", 4), [[0, 0.25, 0.5, 0.75], [0.25] * 4])
    np.testing.assert_allclose(aa.quadrature("riemann_right", 4)[0], [0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(aa.quadrature("riemann_middle", 2)[0], [0.25, 0.75])
    np.testing.assert_allclose(
        aa.quadrature("riemann_trapezoid", 3), [[0, 0.5, 1], [0.25, 0.5, 0.25]]
    )
    np.testing.assert_allclose(
        aa.quadrature("gausslegendre", 2)[0], [0.5 - 12**-0.5, 0.5 + 12**-0.5]
    )
    nodes, weights = aa.quadrature("gausslegendre", 5)
    assert abs(weights @ nodes**9 - 1 / 10) < 1e-12, "exact up to degree 2M - 1"


@pytest.mark.parametrize(
    ("nodes", "weights", "message"),
    [
        ([0.1, 0.9], [1.0], r"nodes \[M\] and weights \[M\], not \[2\] and \[1\]"),
        ([], [], "nodes"),
        ([0.5, 1.5], [0.5, 0.5], "must be in 0 … 1"),
        ([0.5, 0.6], [0.5, 0.6], "must sum to 1"),
        ([0.5, np.nan], [0.5, 0.5], "must be in 0 … 1"),
    ],
)
def test_a_rule_of_ones_own_must_be_one(nodes, weights, message):
    with pytest.raises(InputError, match=message):
        quadrature.checked_rule(nodes, weights)


@pytest.mark.parametrize("count", [3, 5, 8, 24])
def test_rules_with_ends_are_exact_to_the_degree_of_theory(count):
    lobatto, radau = (aa.quadrature(name, count) for name in ("gausslobatto", "gaussradau"))
    assert lobatto[0][0] == 0 and lobatto[0][-1] == radau[0][-1] == 1
    for (nodes, weights), degree in ((lobatto, 2 * count - 3), (radau, 2 * count - 2)):
        assert (weights > 0).all() and (np.diff(nodes) > 0).all()
        # Shifted Legendre polynomials integrate to 0, but for the first.
        values = legendre.legvander(2 * nodes - 1, degree + 1)
        np.testing.assert_allclose((weights @ values)[1:-1], 0, atol=1e-13)
        assert abs((weights @ values)[-1]) > 1e-6, "and no further"


def test_lobatto_and_radau_literals():
    nodes, weights = aa.quadrature("gausslobatto", 5)
    inner = (3 / 7) ** 0.5
    np.testing.assert_allclose(2 * nodes - 1, [-1, -inner, 0, inner, 1], atol=1e-14)
    np.testing.assert_allclose(2 * weights, [1 / 10, 49 / 90, 32 / 45, 49 / 90, 1 / 10], atol=1e-14)
    np.testing.assert_allclose(aa.quadrature("gaussradau", 2), [[1 / 3, 1], [3 / 4, 1 / 4]])


def test_nodes_of_the_first_two_levels_are_those_of_the_literature():
    first = [0, 0.115392685, 0.384615385, 0.749659218, 1]
    more = [0.034966804, 0.234978334, 0.559813104, 0.915115290]
    levels = adaptive_levels(False)
    np.testing.assert_allclose(levels.rule.nodes[:9], [*first, *more], atol=5e-9)
    assert levels.sizes == (5, 9, 23, 39, 71) and adaptive_levels(True).sizes == (24, 57, 89)


def test_extension_of_lobatto_4_is_kronrod_7():
    nodes = interpolation.lobatto_nodes(4)
    # MATLAB's quadl (Gander, Gautschi 2000) adds 0 and these to the four nodes of Lobatto.
    added = (2 / 3) ** 0.5
    np.testing.assert_allclose(2 * kronrod_extension(nodes) - 1, [-added, 0, added], atol=1e-12)


@pytest.mark.parametrize("is_cheap", [False, True])
def test_every_level_integrates_what_its_map_makes_smooth(is_cheap):
    levels = adaptive_levels(is_cheap)
    rule = levels.rule
    assert len(np.unique(rule.nodes)) == len(rule.nodes) == levels.sizes[-1]
    rates, tolerances = np.asarray([0.0, 1.0, 2.5]), [5e-3, 1e-5, 1e-9, 1e-13, 1e-13]
    for level, size in enumerate(levels.sizes):
        assert not rule.weights[level, size:].any() and not rule.partials[level, :, size:].any()
        assert rule.checks[level].max() < size
        slopes = np.exp(-rates * rule.nodes[:, None])  # [M, rates]
        tolerance = 1e-12 if is_cheap else tolerances[level]
        whole = np.append(1, (1 - np.exp(-rates[1:])) / rates[1:])
        np.testing.assert_allclose(rule.weights[level] @ slopes, whole, atol=tolerance)
        ends = rule.nodes[rule.checks[level], None]
        expected = np.where(rates == 0, ends, (1 - np.exp(-rates * ends)) / (rates + (rates == 0)))
        np.testing.assert_allclose(rule.partials[level] @ slopes, expected, atol=tolerance)


@pytest.mark.parametrize("method", quadrature.RULES)
@pytest.mark.parametrize("count", [2, 20, 72, 128, 300])
@pytest.mark.filterwarnings("error")
def test_partial_integrals_of_a_fixed_rule(method, count):
    """What a rule adds up to a node is near the integral: of its own order where it has few nodes,
    of a Riemann sum's beyond.
    """
    rule = fixed_level(*aa.quadrature(method, count))
    nodes = rule.nodes[rule.checks[0]]
    error = np.abs(rule.partials[0] @ np.exp(-rule.nodes) - (1 - np.exp(-nodes))).max()
    is_interpolation = not method.startswith("riemann") and count <= 128
    assert error < (1e-14 if is_interpolation and count == 20 else 1.5 / count)
    assert rule.partials.shape == (1, min(count, 32), count)


def test_a_rule_of_ones_own_in_any_order():
    rule = fixed_level(np.asarray([0.9, 0.1]), np.asarray([0.25, 0.75]))
    np.testing.assert_allclose(rule.nodes, [0.1, 0.9])
    np.testing.assert_allclose(rule.weights, [[0.75, 0.25]])


def test_hermite_interpolation_is_exact_to_its_degree():
    nodes, points = interpolation.lobatto_nodes(4), np.linspace(0, 1, 7)
    values, slopes = interpolation.hermite_bases(nodes, points)
    polynomial = np.polynomial.Polynomial([0.3, -1, 2, 0.5, -3, 1, 2, -1])  # degree 2 · 4 - 1
    found = values @ polynomial(nodes) + slopes @ polynomial.deriv()(nodes)
    np.testing.assert_allclose(found, polynomial(points), atol=1e-13)


@pytest.mark.parametrize("objective", ["prob", "log_prob", "sigmoid", "logit"])
def test_product_weights_integrate_what_interpolation_knows(objective):
    """Where z is a polynomial of the Hermite interpolant's degree and h one of the Lagrange
    interpolant's, the integral of φ′(z) h is exact, and so is every partial one.
    """
    tau, link = interpolation.lobatto_nodes(5), LINKS[objective]
    z = np.polynomial.Polynomial([-3, 9, -2, 1])
    tables = product_tables(tau, 1.0)
    with jax.enable_x64():
        inputs = jnp.asarray(z(tau))[:, None], jnp.asarray(z.deriv()(tau))[:, None]
        found = product_weights(tables, link, *inputs)
        points, weights = (jnp.asarray(values) for values in interpolation.gauss(200))
        density = weights * link.slope(jnp.asarray(z(np.asarray(points))))
        for power in range(5):
            expected = jnp.sum(density * points**power)
            np.testing.assert_allclose(tau**power @ found.weights[:, 0], expected, rtol=1e-9)
        increase = link.difference(inputs[0][1:], inputs[0][:1])
        np.testing.assert_allclose(found.partials, increase, rtol=1e-9)
        # Without a node the interpolant of τ⁴, whose divided difference is 1, changes by that.
        changes = []
        for omitted in range(5):
            others = np.delete(tau, omitted)
            without = interpolation.lagrange_basis(others, np.asarray(points)) @ others**4
            changes.append(float(abs(jnp.sum(density * (points**4 - without)))))
        np.testing.assert_allclose(found.smallest_omission[0], min(changes), rtol=1e-9)
    np.testing.assert_allclose(tables.divided @ tau**4, 1, rtol=1e-12)


@pytest.mark.parametrize(("name", "link"), LINKS.items())
def test_differences_of_f_do_not_cancel(name, link):
    with jax.enable_x64():
        a, b = jnp.asarray([30.0, -30.0, 2.0, 0.5]), jnp.asarray([29.0, -31.0, 2.0, -0.5])
        exact = {
            "prob": [np.exp(-29.0) - np.exp(-30.0), np.exp(-30.0) - np.exp(-31.0), 0, None],
            "log_prob": [np.exp(-29.0) - np.exp(-30.0), 1, 0, None],
        }
        exact = exact | {"sigmoid": exact["prob"], "log_sigmoid": exact["log_prob"]}
        for index, value in enumerate(exact.get(name, [1, 1, 0, 1])):
            found = link.difference(a, b)[index]
            expected = link.value(a)[index] - link.value(b)[index] if value is None else value
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-30)
        step = 1e-6
        slope = (link.value(a[2:] + step) - link.value(a[2:] - step)) / (2 * step)
        np.testing.assert_allclose(link.slope(a[2:]), slope, rtol=1e-8)
