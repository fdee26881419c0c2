import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import attattr_jax as aa
from attattr_jax.attribution import adaptive
from attattr_jax.attribution.quadrature import levels_within

CAP = inspect.signature(aa.attribute_attention).parameters["max_steps"].default
LEVELS = levels_within(CAP)[1:]  # the first only gives a change
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


def refine_with(good_at, sizes=(5, 9, 11, 23)):
    """Run `refine` where each (row, key) is good at one level only; return its result and what it
    asked for.
    """
    integrated, assessed = [], []

    def integrate(waiting, start, stop):
        integrated.append((start, stop, {key: rows.tolist() for key, rows in waiting.items()}))

    def assess(key, level, rows):
        assessed.append((key, level, rows.tolist()))
        return np.asarray([level == good for good in good_at[key]])

    return *adaptive.refine(tuple(good_at), 3, sizes, integrate, assess), integrated, assessed


def test_refine_integrates_every_node_once_and_only_what_is_pending():
    never = 99
    n_steps, converged, integrated, assessed = refine_with({"a": [1, 2, never], "b": [1, 1, 1]})
    assert integrated == [
        (0, 9, {"a": [True, True, True], "b": [True, True, True]}),
        (9, 11, {"a": [False, True, True]}),
        (11, 23, {"a": [False, False, True]}),
    ]
    assert assessed == [
        ("a", 1, [True, True, True]),
        ("b", 1, [True, True, True]),
        ("a", 2, [False, True, True]),
        ("a", 3, [False, False, True]),
    ]
    assert n_steps.tolist() == [[9, 9], [11, 9], [23, 9]] and n_steps.dtype == np.int32
    assert converged.tolist() == [[True, True], [True, True], [False, True]]


def test_refine_ends_when_all_is_good():
    _, converged, integrated, _ = refine_with({"a": [1, 1, 1], "b": [1, 1, 1]})
    assert converged.all() and len(integrated) == 1


def test_slots_take_every_waiting_row_once():
    waiting = {
        layer: np.isin(np.arange(9), rows)
        for layer, rows in {2: [0, 4, 8], 5: [7], 6: [], 11: [1, 2, 3, 8]}.items()
    }
    taken = []
    for layers, (rows, used) in adaptive._slots(waiting, (11,), 2):
        assert rows.shape == used.shape == (len(layers), 9 if 11 in layers else 2)
        taken += [
            (layer, row)
            for layer, *each in zip(layers, rows, used, strict=True)
            for row, take in zip(*each, strict=True)
            if take
        ]
    assert sorted(taken) == [
        (layer, row) for layer, rows in waiting.items() for row in np.flatnonzero(rows)
    ]


# --- attention ------------------------------------------------------------------------------------


@pytest.mark.parametrize("tolerance", [1e-1, 1e-2, 1e-3, 1e-5])
def test_tolerance_is_kept_where_it_says_so(run, reference, tolerance):
    result = run(tolerance=tolerance)
    converged, n_steps = np.asarray(result.converged), np.asarray(result.n_steps)
    assert converged.shape == n_steps.shape == (4, 3) and np.isin(n_steps, LEVELS).all()
    assert (relative_error(result.attributions, reference) <= 1.5 * tolerance)[converged].all(), (
        "an estimate, not a bound"
    )
    delta = np.abs(result.convergence_delta) / magnitude(result.attributions)
    np.testing.assert_array_equal(
        converged, (delta <= tolerance) & (np.asarray(result.relative_change) <= tolerance)
    )
    assert (n_steps[~converged] == CAP).all() and converged.any()


def test_tighter_tolerance_needs_no_fewer_nodes(run, default):
    loose, tight = run(tolerance=1e-2).n_steps, run(tolerance=1e-5).n_steps
    assert (loose <= default.n_steps).all() and (default.n_steps <= tight).all()
    assert (loose < default.n_steps).any() and (default.n_steps < tight).any()


def test_each_row_keeps_the_result_of_its_level(run):
    first, second = (run(tolerance=1e-6, max_steps=size) for size in LEVELS[:2])
    assert (
        not first.converged.any()
        and (first.n_steps == LEVELS[0]).all()
        and (second.n_steps == LEVELS[1]).all()
    )
    change = magnitude(np.asarray(second.attributions) - first.attributions) / magnitude(
        second.attributions
    )
    np.testing.assert_allclose(second.relative_change, change, rtol=1e-3)
    loose = run(tolerance=1e-2)
    at_first = loose.n_steps == LEVELS[0]
    assert at_first.any() and not at_first.all()
    assert (relative_error(loose.attributions, first.attributions)[at_first] < 5e-6).all()
    np.testing.assert_allclose(
        loose.relative_change[at_first], first.relative_change[at_first], rtol=1e-3
    )


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
    assert (many.n_steps[rows == 0] == LEVELS[0]).all() and (
        many.n_steps[rows == 3] > LEVELS[0]
    ).all()
    assert (relative_error(many.attributions, np.asarray(few.attributions)[rows, 1:]) < 5e-6).all()


def test_rows_of_padding_need_no_more_nodes(run, default, golden_batch):
    padded = {
        name: np.where(np.arange(4)[:, None] == 3, 0, values)
        for name, values in golden_batch.items()
    }
    result = run(batch=padded)
    np.testing.assert_array_equal(result.n_steps, [*default.n_steps[:3], [LEVELS[0]] * 3])
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
        result.relative_change, default.relative_change[:, order], rtol=1e-1, atol=1e-6
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


@pytest.mark.parametrize("tolerance", [0.3, 0.05, 1e-2, 1e-3])
def test_tokens_keep_the_tolerance_where_it_says_so(run_tokens, token_reference, tolerance):
    result = run_tokens(tolerance=tolerance)
    converged, size = np.asarray(result.converged), np.abs(result.attributions).sum(axis=1)
    assert converged.shape == result.n_steps.shape == (4,) and np.isin(result.n_steps, LEVELS).all()
    assert (np.abs(result.convergence_delta) <= tolerance * size)[converged].all()
    assert (result.n_steps[~converged] == CAP).all() and converged.any()
    error = np.abs(np.asarray(result.attributions) - token_reference).sum(axis=1) / np.abs(
        token_reference
    ).sum(axis=1)
    assert (error <= 1.5 * tolerance)[converged].all(), "an estimate, not a bound"


def test_tokens_keep_the_result_of_their_level(run_tokens):
    short, long = run_tokens(tolerance=0.5), run_tokens(tolerance=0.3)
    same, more = short.n_steps == long.n_steps, long.n_steps > short.n_steps
    assert same.any() and more.any() and (same | more).all()
    np.testing.assert_array_equal(long.attributions[same], short.attributions[same])
    assert (long.attributions[more] != short.attributions[more]).any(axis=1).all()


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
        assert (result.n_steps[:, empty] == LEVELS[0]).all() and result.converged[:, empty].all(), (
            scale,
            objective,
        )


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
