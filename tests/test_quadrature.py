import numpy as np
import pytest
from numpy.polynomial import legendre

import attattr_jax as aa
from attattr_jax.attribution import quadrature
from attattr_jax.errors import InputError

SIZES = quadrature.nested_rules().sizes


@pytest.mark.parametrize("method", quadrature.METHODS)
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


def test_every_level_of_the_nested_rules_is_a_rule():
    rules = quadrature.nested_rules()
    assert (
        list(SIZES) == sorted(set(SIZES))
        and rules.nodes.shape == (SIZES[-1],)
        and rules.weights.shape == (len(SIZES), SIZES[-1])
    )
    assert (
        rules.nodes.min() > 0
        and rules.nodes.max() < 1
        and np.diff(np.sort(rules.nodes)).min() > 1e-4
    )
    for size, weights in zip(SIZES, rules.weights, strict=True):
        assert (weights[:size] > 0).all() and not weights[size:].any()
        assert abs(weights.sum() - 1) < 1e-14


@pytest.mark.parametrize("size", SIZES)
def test_nested_rules_are_exact_to_the_degree_that_theory_gives(size):
    rules = quadrature.nested_rules()
    smaller = (size - 1) // 2
    # Interpolatory rules to n - 1; the optimal extension of n nodes to 2n + 1 to 3n + 1; symmetric
    # ones to the odd degree above.
    degree = (3 * smaller + 1 if smaller in SIZES and smaller > SIZES[0] else size - 1) | 1
    # Each integrates to 0, but for the first
    values = legendre.legvander(2 * rules.nodes - 1, degree)
    np.testing.assert_allclose((rules.weights[SIZES.index(size)] @ values)[1:], 0, atol=1e-12)


def test_extension_of_gauss_3_is_kronrod_7():
    added = quadrature._patterson_extension(legendre.leggauss(3)[0])
    # QUADPACK's QK7 beside 0.7745966692414834 and 0
    published = [0.9604912687080202, 0.4342437493468026]
    np.testing.assert_allclose(
        added, [-published[0], -published[1], published[1], published[0]], atol=1e-14
    )
