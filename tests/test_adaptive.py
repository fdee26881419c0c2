import jax
import jax.numpy as jnp
import numpy as np
import pytest

import attattr_jax as aa
from attattr_jax.attribution import adaptive, formula
from attattr_jax.attribution.objectives import LINKS, smooth_output
from attattr_jax.attribution.quadrature.levels import adaptive_levels, fast_rule
from attattr_jax.attribution.quadrature.panels import FIRST_EVALUATIONS, MORE_EVALUATIONS
from attattr_jax.attribution.quadrature.product import product_weights
from attattr_jax.models import inference

LEVELS, LAST_LEVELS = (adaptive_levels(is_last).sizes for is_last in (False, True))
FIRST = np.asarray([LEVELS[0], LEVELS[0], LAST_LEVELS[0]])  # of the three layers
SHARES = (2, 3, 4)  # axes of one layer's attributions


def magnitude(attributions):
    return np.abs(attributions).sum(axis=SHARES)


def relative_error(attributions, expected):
    return magnitude(np.asarray(attributions) - expected) / magnitude(expected)


@pytest.fixture(scope="module")
def run(golden_model, golden_batch):
    def attribute(batch=golden_batch, n_steps="auto", params=golden_model.params, **arguments):
        return aa.attribute_attention(
            params, batch, golden_model.config, n_steps=n_steps, **arguments
        )

    return attribute


@pytest.fixture(scope="module")
def run_tokens(golden_model, golden_batch):
    def attribute(n_steps="auto", **arguments):
        return aa.attribute_tokens(
            golden_model.params, golden_batch, golden_model.config, n_steps=n_steps, **arguments
        )

    return attribute


@pytest.fixture(scope="module")
def reference(run):
    return np.asarray(run(n_steps=64).attributions)


@pytest.fixture(scope="module")
def default(run):
    return run()


# --- the host's part ------------------------------------------------------------------------------


def test_slots_take_every_waiting_row_once():
    waiting = [np.isin(np.arange(9), rows) for rows in ([0, 4, 8], [7], [], [1, 2, 3, 8, 5])]
    taken = []
    for rows, used in adaptive._slots(waiting, 2):
        assert rows.shape == used.shape == (4, 2)
        taken += [(number, rows[number, slot]) for number, slot in np.argwhere(used)]
    expected = [
        (number, row) for number, rows in enumerate(waiting) for row in np.flatnonzero(rows)
    ]
    assert sorted(taken) == expected


# --- attention ------------------------------------------------------------------------------------


@pytest.mark.parametrize("tolerance", [1e-1, 1e-2, 1e-3, 1e-5])
def test_tolerance_is_kept_where_it_says_so(run, reference, tolerance):
    result = run(tolerance=tolerance)
    converged, n_steps = np.asarray(result.converged), np.asarray(result.n_steps)
    assert converged.shape == n_steps.shape == (4, 3)
    assert np.isin(n_steps[:, :2], LEVELS).all() and np.isin(n_steps[:, 2], LAST_LEVELS).all()
    error = relative_error(result.attributions, reference)
    assert (error <= 1.5 * tolerance)[converged].all(), "an estimate, not a bound"
    np.testing.assert_array_equal(converged, np.asarray(result.error_estimate) <= tolerance)
    assert (n_steps == [LEVELS[-1], LEVELS[-1], LAST_LEVELS[-1]])[~converged].all()
    assert converged.any()


@pytest.mark.parametrize("method", ["riemann_left", "gausslegendre", "fast"])
def test_error_estimate_of_a_fixed_rule(run, reference, method):
    """It is near the error, and mostly above it."""
    result = run(method=method, n_steps=20 if method == "fast" else 6)
    error, estimate = relative_error(result.attributions, reference), result.error_estimate
    is_above_rounding = error > 1e-5
    assert is_above_rounding.sum() >= 6 and estimate.shape == (4, 3)
    assert np.mean((estimate > error / 2)[is_above_rounding]) > 0.6
    assert (np.asarray(estimate) < 200 * error)[is_above_rounding].all()


def test_tighter_tolerance_needs_no_fewer_nodes(run, default):
    loose, tight = run(tolerance=1e-2).n_steps, run(tolerance=1e-5).n_steps
    assert (loose <= default.n_steps).all() and (default.n_steps <= tight).all()
    assert (loose < default.n_steps).any() and (default.n_steps < tight).any()


def test_fast_is_the_first_level(run):
    fast, first = run(method="fast", n_steps=20), run(tolerance=1e-6, max_steps=LEVELS[0])
    assert (np.asarray(fast.n_steps) == FIRST).all() and (first.n_steps == FIRST).all()
    np.testing.assert_allclose(fast.attributions, first.attributions, atol=1e-7)
    np.testing.assert_allclose(fast.error_estimate, first.error_estimate, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("objective", ["prob", "log_prob"])
def test_fast_is_the_naive_twin_with_product_weights(run, golden_model, golden_batch, objective):
    params, config, link = golden_model.params, golden_model.config, LINKS[objective]
    one = {name: values[1:2] for name, values in golden_batch.items()}
    fast = run(batch=one, method="fast", n_steps=20, objective=objective, layers=[0])
    _, probs = aa.forward(params, one, config)
    rule = fast_rule(False)
    smooth, naive = [], []
    for alpha in rule.nodes.astype(np.float32):
        logits, _ = aa.forward(params, one, config, attention_probs={0: alpha * probs[0]})
        smooth.append(smooth_output(logits, fast.target, objective)[0])
        node = jnp.asarray([alpha]), jnp.ones(1, jnp.float32)
        inputs = params, inference.model_inputs(one), config, 0, fast.target, node, objective
        naive.append(formula.attributions_by_definition(*inputs)[0])  # A ∘ ∂F/∂A at α
    smooth = jnp.stack(smooth)[:, None]
    of_smooth = jnp.stack(naive) / link.slope(smooth)[:, :, None, None]  # A ∘ ∂z/∂A
    slopes = of_smooth.sum(axis=(1, 2, 3))[:, None]
    weights = product_weights(rule.product.astype(np.float32), link, smooth, slopes).weights
    expected = jnp.einsum("m,mnqt->nqt", weights[:, 0], of_smooth)
    largest = np.abs(expected).max()
    np.testing.assert_allclose(fast.attributions[0, 0], expected, atol=1e-5 * largest)


def test_each_row_keeps_the_result_of_its_level(run):
    first, second = (run(tolerance=1e-6, max_steps=size) for size in LEVELS[:2])
    assert not second.converged[:, :2].any() and (second.n_steps[:, :2] == LEVELS[1]).all()
    assert (relative_error(second.attributions, first.attributions)[:, :2] > 1e-5).all()
    loose = run(tolerance=1e-2)
    at_first = np.asarray(loose.n_steps) == FIRST
    assert at_first.any() and not at_first.all()
    assert (relative_error(loose.attributions, first.attributions)[at_first] < 5e-6).all()
    estimates = (each.error_estimate[at_first] for each in (loose, first))
    np.testing.assert_allclose(*estimates, rtol=1e-2, atol=1e-6)


def test_an_example_alone_equals_its_row(run, default, golden_batch):
    alone = run(batch={name: values[3:] for name, values in golden_batch.items()}, layers=[1, 2])
    np.testing.assert_array_equal(alone.n_steps, default.n_steps[3:, 1:])
    np.testing.assert_array_equal(alone.converged, default.converged[3:, 1:])
    assert (
        relative_error(alone.attributions, np.asarray(default.attributions)[3:, 1:]) < 5e-6
    ).all()
    np.testing.assert_allclose(alone.score, default.score[3:], rtol=1e-6)


def test_rows_refined_a_few_at_a_time_equal_the_same_rows_among_few(run, golden_batch):
    """Of 17 rows three go on, two at a time: all but one slot is used."""
    rows = np.asarray([0, 3, *[0] * 8, 3, *[0] * 5, 3])
    few, many = (
        run(tolerance=2e-2),
        run(
            batch={name: values[rows] for name, values in golden_batch.items()},
            tolerance=2e-2,
            layers=[1, 2],
        ),
    )
    np.testing.assert_array_equal(many.n_steps, few.n_steps[rows, 1:])
    is_more = many.n_steps > FIRST[1:]
    assert is_more.any() and not is_more.all()
    assert (relative_error(many.attributions, np.asarray(few.attributions)[rows, 1:]) < 5e-6).all()


def test_rows_of_padding_need_no_more_nodes(run, default, golden_batch):
    padded = {
        name: np.where(np.arange(4)[:, None] == 3, 0, values)
        for name, values in golden_batch.items()
    }
    result = run(batch=padded)
    np.testing.assert_array_equal(result.n_steps, [*default.n_steps[:3], FIRST])
    assert result.converged[3].all() and not np.asarray(result.attributions[3]).any()
    assert (np.abs(result.convergence_delta[3]) > 1e-3).any(), "by its value it would go on"
    assert (
        relative_error(result.attributions[:3], np.asarray(default.attributions)[:3]) < 1e-6
    ).all()


def test_chosen_layers_come_in_the_order_asked_for(run, default):
    result = run(layers=[2, 0])
    order = np.asarray([2, 0])
    np.testing.assert_array_equal(result.n_steps, default.n_steps[:, order])
    np.testing.assert_array_equal(result.converged, default.converged[:, order])
    np.testing.assert_allclose(
        result.error_estimate, default.error_estimate[:, order], rtol=1e-1, atol=1e-6
    )
    assert (
        relative_error(result.attributions, np.asarray(default.attributions)[:, order]) < 1e-6
    ).all()
    np.testing.assert_allclose(result.baseline_score, default.baseline_score[:, order], atol=1e-6)


def test_head_max_is_the_maximum_over_real_tokens(run, default, golden_batch):
    reduced = run(reduce="head_max")
    np.testing.assert_array_equal(reduced.n_steps, default.n_steps)
    for example, length in enumerate(golden_batch["attention_mask"].sum(axis=1)):
        for name in ("attributions", "attention_probs"):
            real = np.asarray(getattr(default, name))[example, ..., :length, :length]
            np.testing.assert_allclose(
                getattr(reduced, name)[example], real.max(axis=(-1, -2)), atol=1e-7
            )


def test_masked_head_equals_one_that_is_cut_off(run, golden_model):
    mask = np.ones((3, 4), np.int32)
    mask[1, 3] = mask[2, 0] = 0
    params, size = jax.tree.map(np.array, golden_model.params), golden_model.config.head_size
    for layer, head in ((1, 3), (2, 0)):
        params[f"layers_{layer}"]["attention_output"]["kernel"][head * size : (head + 1) * size] = 0
    result, expected = run(layers=[1], head_mask=mask), run(params=params)
    assert (
        not result.attributions[:, 0, 3].any()
        and result.attributions[:, 0, :3].any(axis=(-1, -2)).all()
    )
    np.testing.assert_array_equal(result.n_steps, expected.n_steps[:, 1:2])
    assert (
        relative_error(result.attributions, np.asarray(expected.attributions)[:, 1:2]) < 5e-6
    ).all()


# --- tokens ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def token_reference(run_tokens):
    return np.asarray(run_tokens(n_steps=64).attributions)


@pytest.mark.parametrize("tolerance", [0.3, 1e-2, 1e-3, 1e-5])
def test_tokens_keep_the_tolerance_where_it_says_so(run_tokens, token_reference, tolerance):
    result = run_tokens(tolerance=tolerance)
    converged, n_steps = np.asarray(result.converged), np.asarray(result.n_steps)
    assert converged.shape == n_steps.shape == (4,) and (converged.any() or tolerance < 1e-4)
    assert ((n_steps - FIRST_EVALUATIONS) % MORE_EVALUATIONS == 0).all()
    np.testing.assert_array_equal(converged, result.error_estimate <= tolerance)
    error = np.abs(np.asarray(result.attributions) - token_reference).sum(axis=1)
    error /= np.abs(token_reference).sum(axis=1)
    assert (error <= np.maximum(1.5 * tolerance, 2e-5))[converged].all(), "not a bound"


def test_tokens_are_cut_until_they_are_good_enough_or_nodes_run_out(run_tokens):
    short, long = run_tokens(tolerance=0.5), run_tokens(tolerance=1e-4)
    assert (short.n_steps <= long.n_steps).all() and (short.n_steps < long.n_steps).any()
    bound = run_tokens(tolerance=1e-7, max_steps=FIRST_EVALUATIONS + MORE_EVALUATIONS)
    assert (bound.n_steps <= FIRST_EVALUATIONS + MORE_EVALUATIONS).all()
    assert not np.asarray(bound.converged).all()
    delta = np.abs(np.asarray(long.convergence_delta))
    assert (delta <= 1e-4 * np.abs(long.attributions).sum(axis=1) + 1e-6).all()


def test_what_is_zero_converges_at_the_first_level(golden_model, golden_batch):
    """Without heads nothing is attributed: the delta is rounding, which grows with the logits, not
    with the output explained.
    """
    mask = jnp.asarray(np.repeat([[0], [1], [0]], 4, axis=1), jnp.float32)
    for scale, objective in [
        (0.1, "logit"),
        (1, "logit"),
        (1, "log_prob"),
        (10, "prob"),
        (10, "log_prob"),
        (40, "log_prob"),
    ]:
        params = jax.tree.map(np.array, golden_model.params)
        params["classifier"] = jax.tree.map(
            lambda values, scale=scale: values * np.float32(scale), params["classifier"]
        )
        result = aa.attribute_attention(
            params,
            golden_batch,
            golden_model.config,
            n_steps="auto",
            objective=objective,
            head_mask=mask,
            tolerance=1e-6,
        )
        empty = np.asarray([0, 2])
        assert not np.asarray(result.attributions)[:, empty].any()
        assert (result.n_steps[:, empty] == FIRST[empty]).all(), (scale, objective)
        assert result.converged[:, empty].all()


# --- arguments ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tolerance": 0}, "tolerance must be a number between 0 and 1, not 0"),
        ({"tolerance": 1}, "tolerance must be a number between 0 and 1, not 1"),
        ({"tolerance": -1}, "tolerance must be a number between 0 and 1, not -1"),
        ({"tolerance": "x"}, "tolerance must be a number between 0 and 1, not 'x'"),
        (
            {"max_steps": LEVELS[0] - 1},
            f"max_steps must be an integer of at least {LEVELS[0]}, .*not {LEVELS[0] - 1}",
        ),
        ({"n_steps": "automatic"}, "n_steps must be an integer or 'auto', not 'automatic'"),
    ],
)
def test_bad_arguments_are_named(run, run_tokens, arguments, message):
    for function in (run, run_tokens):
        with pytest.raises(aa.InputError, match=message):
            function(**arguments)


def test_joint_path_takes_a_number_of_steps(run):
    with pytest.raises(aa.InputError, match="'auto' goes with path 'layer'"):
        run(path="joint")


def test_auto_cannot_be_traced(golden_model, golden_batch):
    def traced(batch):
        return aa.attribute_attention(
            golden_model.params, batch, golden_model.config, n_steps="auto"
        ).attributions

    with pytest.raises(aa.InputError, match="cannot be traced"):
        jax.jit(traced)({name: jnp.asarray(values) for name, values in golden_batch.items()})
