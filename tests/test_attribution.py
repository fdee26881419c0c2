import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import attattr_jax as aa
from attattr_jax.models import inference
from attattr_jax.runtime import sharding

GOLDEN_RUNS = [
    ("left20_predicted", "riemann_left", 20, "prob"),
    ("right20_gold", "riemann_right", 20, "prob"),
    ("middle20_predicted", "riemann_middle", 20, "prob"),
    ("trapezoid20_predicted", "riemann_trapezoid", 20, "prob"),
    ("gauss8_predicted", "gausslegendre", 8, "prob"),
    ("gauss8_gold_logit", "gausslegendre", 8, "logit"),
]


def naive_attribution(classifier, batch, layer, target, method, n_steps):
    """The formula, a full forward pass per node: the oracle for the engine."""
    nodes, weights = aa.quadrature(method, n_steps)
    _, probs = aa.forward(classifier.params, batch, classifier.config)

    def output(replaced):
        logits, _ = aa.forward(
            classifier.params, batch, classifier.config, attention_probs={layer: replaced}
        )
        return jax.nn.softmax(logits)[jnp.arange(len(target)), target].sum()

    gradient = sum(
        weight * jax.grad(output)(np.float32(alpha) * probs[layer])
        for alpha, weight in zip(nodes, weights.astype("f"), strict=True)
    )
    return probs[layer] * gradient


@pytest.fixture(scope="module")
def run(golden_model, golden_batch):
    def attribute(batch=golden_batch, **arguments):
        return aa.attribute_attention(golden_model.params, batch, golden_model.config, **arguments)

    return attribute


@pytest.fixture(scope="module")
def default(run):
    return run(n_steps=8)


def test_a_rule_of_ones_own(run, default):
    nodes, weights = aa.quadrature("gausslegendre", 8)
    given = run(method=(np.append(nodes, 0.3), np.append(weights, 0.0)))
    np.testing.assert_allclose(given.attributions, default.attributions, atol=1e-6)
    assert (np.asarray(given.n_steps) == 9).all()


@pytest.mark.parametrize(("name", "method", "n_steps", "objective"), GOLDEN_RUNS)
def test_golden_attributions(run, golden, name, method, n_steps, objective):
    target = golden["labels"].astype(np.int32) if "gold" in name else "predicted"
    result = run(target=target, method=method, n_steps=n_steps, objective=objective)
    expected = golden[f"attributions_{name}"]
    scale = np.abs(expected).max(axis=(0, 2, 3, 4))
    error = np.abs(np.asarray(result.attributions) - expected).max(axis=(0, 2, 3, 4))
    assert (error <= 1e-5 * scale).all(), error / scale
    np.testing.assert_array_equal(result.target, golden[f"target_{name}"])
    np.testing.assert_allclose(result.score, golden[f"score_{name}"], atol=2e-6)
    np.testing.assert_allclose(result.baseline_score, golden[f"baseline_score_{name}"], atol=2e-6)


def test_equals_the_naive_twin(golden_model, golden_batch, default):
    for layer in range(3):
        expected = naive_attribution(
            golden_model, golden_batch, layer, default.target, "gausslegendre", 8
        )
        np.testing.assert_allclose(
            default.attributions[:, layer],
            expected,
            atol=2e-6 * float(jnp.abs(expected).max()) + 1e-9,
        )


def test_completeness_with_many_nodes(run):
    result = run(n_steps=64)
    magnitude = np.abs(result.attributions).sum(axis=(2, 3, 4))
    assert (np.abs(result.convergence_delta) <= 1e-4 * magnitude).all()
    total = np.asarray(result.attributions).sum(axis=(2, 3, 4))
    expected = np.asarray(result.score)[:, None] - np.asarray(result.baseline_score)
    np.testing.assert_allclose(result.convergence_delta, total - expected, atol=1e-6)


def test_baseline_score_is_the_output_without_that_layers_attention(
    golden_model, golden_batch, default
):
    zero = jnp.zeros((4, 4, 14, 14))
    logits, _ = aa.forward(
        golden_model.params, golden_batch, golden_model.config, attention_probs={1: zero}
    )
    expected = jax.nn.softmax(logits)[jnp.arange(4), default.target]
    np.testing.assert_allclose(default.baseline_score[:, 1], expected, atol=1e-6)


def test_padding_and_batch_order_change_nothing(run, default, golden_batch):
    wider = {name: np.pad(values, ((0, 0), (0, 6)))[::-1] for name, values in golden_batch.items()}
    result = run(batch=wider, n_steps=8)
    scale = float(jnp.abs(default.attributions).max())
    again = np.asarray(result.attributions)[::-1]
    np.testing.assert_allclose(again[..., :14, :14], default.attributions, atol=1e-6 * scale)
    assert not again[..., 14:].any() and not again[..., 14:, :].any()
    np.testing.assert_allclose(result.convergence_delta[::-1], default.convergence_delta, atol=1e-6)


@pytest.mark.parametrize("step_batch_size", [1, 3])
def test_chunks_of_steps_change_only_rounding(run, default, step_batch_size):
    result = run(n_steps=8, step_batch_size=step_batch_size)
    np.testing.assert_allclose(
        result.attributions,
        default.attributions,
        atol=1e-6 * float(jnp.abs(default.attributions).max()),
    )


def test_chosen_layers_come_in_the_order_asked_for(run, default):
    result = run(n_steps=8, layers=[2, 0])
    np.testing.assert_allclose(
        result.attributions, default.attributions[:, jnp.asarray([2, 0])], atol=1e-7
    )
    np.testing.assert_array_equal(
        result.attention_probs, default.attention_probs[:, jnp.asarray([2, 0])]
    )


@pytest.mark.parametrize("as_type", [np.asarray, jnp.asarray])
def test_layers_and_steps_may_be_arrays(run, default, as_type):
    chosen = run(n_steps=as_type(8), layers=as_type([2, 0]))
    np.testing.assert_allclose(
        chosen.attributions, default.attributions[:, np.asarray([2, 0])], atol=1e-6
    )


def test_a_class_that_the_model_has_not_gives_nan_in_a_jax_array(run):
    result = run(n_steps=8, target=jnp.asarray([0, -1, 2, 1]))
    assert np.isnan(result.score).tolist() == [False, True, True, False]


def test_head_max_is_the_maximum_over_real_tokens(run, default, golden_batch):
    reduced = run(n_steps=8, reduce="head_max")
    for example, length in enumerate(golden_batch["attention_mask"].sum(axis=1)):
        real = np.asarray(default.attributions)[example, ..., :length, :length]
        np.testing.assert_allclose(
            reduced.attributions[example], real.max(axis=(-1, -2)), atol=1e-7
        )


def test_masked_head_gets_no_attribution(run):
    mask = np.ones((3, 4), np.int32)
    mask[0, 3] = mask[2, 1] = 0
    static, traced = run(n_steps=4, head_mask=mask), run(n_steps=4, head_mask=jnp.asarray(mask))
    attributions = np.asarray(static.attributions)
    assert (
        not attributions[:, 0, 3].any()
        and not attributions[:, 2, 1].any()
        and attributions[:, 0, 0].any()
    )
    np.testing.assert_allclose(attributions, traced.attributions, atol=1e-6)
    np.testing.assert_allclose(static.attention_probs, traced.attention_probs, atol=1e-6)


def test_class_index_equals_array_of_it(run):
    one, many = run(target=1, n_steps=4), run(target=np.ones(4, np.int32), n_steps=4)
    np.testing.assert_array_equal(one.attributions, many.attributions)


def test_sharded_over_devices_equals_one_device(golden_model, golden_batch, default, run):
    mesh = sharding.data_mesh()
    assert mesh.size == 2
    params = sharding.replicate(golden_model.params, mesh)
    batch = sharding.shard_rows(inference.model_inputs(golden_batch), mesh)
    result = aa.attribute_attention(params, batch, golden_model.config, n_steps=8)
    assert len(result.attributions.sharding.device_set) == 2
    np.testing.assert_allclose(result.attributions, default.attributions, atol=1e-6)


def test_under_jit_and_vmap(golden_model, golden_batch, default):
    inputs = inference.model_inputs(golden_batch)

    def one(example):
        batch = {name: values[None] for name, values in example.items()}
        return aa.attribute_attention(
            golden_model.params, batch, golden_model.config, n_steps=8
        ).attributions[0]

    np.testing.assert_allclose(jax.jit(jax.vmap(one))(inputs), default.attributions, atol=1e-6)


def test_gradients_pass_through(golden_model, golden_batch):
    """Training against attributions is possible: both functions can be differentiated by the
    parameters.
    """

    def total(params):
        arguments = (params, golden_batch, golden_model.config, 1, 2)
        attention, tokens = (
            aa.attribute_attention(*arguments, layers=[1]),
            aa.attribute_tokens(*arguments),
        )
        return jnp.abs(attention.attributions).sum() + jnp.abs(tokens.attributions).sum()

    gradient = jax.grad(total)(golden_model.params)
    leaves = jax.tree.leaves(gradient)
    assert all(np.isfinite(leaf).all() for leaf in leaves) and any(
        np.abs(leaf).max() > 0 for leaf in leaves
    )


def test_golden_holds_as_compiled_for_users():
    """These tests run with less optimization; here is one golden array with what users get."""
    code = """
import numpy as np, attattr_jax as aa
model = aa.load_classifier("tests/golden/bert")
expected = np.load("tests/golden/bert/expected.npz")
names = "input_ids", "attention_mask", "token_type_ids"
batch = {name: expected[name].astype(np.int32) for name in names}
result = aa.attribute_attention(model.params, batch, model.config, n_steps=8)
scale = np.abs(expected["attributions_gauss8_predicted"]).max(axis=(0, 2, 3, 4))
difference = result.attributions - expected["attributions_gauss8_predicted"]
error = np.abs(difference).max(axis=(0, 2, 3, 4))
assert (error <= 1e-5 * scale).all(), error / scale
"""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    subprocess.run(
        [sys.executable, "-c", code], check=True, env=environment, cwd=Path(__file__).parent.parent
    )


def test_float64_under_x64(golden_model, golden_batch, golden):
    # Flax's LayerNorm does not pass under strict promotion in float64.
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        params = jax.tree.map(lambda array: np.asarray(array, np.float64), golden_model.params)
        result = aa.attribute_attention(params, golden_batch, golden_model.config, n_steps=8)
        assert result.attributions.dtype == jnp.float64
        expected = golden["attributions_gauss8_predicted"]
        np.testing.assert_allclose(
            result.attributions, expected, atol=1e-9 * np.abs(expected).max()
        )


def test_golden_token_attributions(golden_model, golden_batch, golden):
    result = aa.attribute_tokens(golden_model.params, golden_batch, golden_model.config)
    expected = golden["token_attributions_gauss20_predicted"]
    np.testing.assert_allclose(result.attributions, expected, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_allclose(
        result.convergence_delta, golden["token_convergence_delta"], atol=2e-6
    )


def test_tokens_take_a_rule_of_ones_own(golden_model, golden_batch):
    by_name = aa.attribute_tokens(
        golden_model.params, golden_batch, golden_model.config, n_steps=5, method="riemann_left"
    )
    rule = aa.quadrature("riemann_left", 5)
    given = aa.attribute_tokens(golden_model.params, golden_batch, golden_model.config, method=rule)
    np.testing.assert_array_equal(given.attributions, by_name.attributions)
    assert given.n_steps.tolist() == [5] * 4


@pytest.mark.parametrize("token", [97, -1, 1.0, True])
def test_a_baseline_token_that_the_model_has_not_is_refused(golden_model, golden_batch, token):
    with pytest.raises(aa.InputError, match="baseline_token_id must be an id from 0 to 96"):
        aa.attribute_tokens(
            golden_model.params, golden_batch, golden_model.config, baseline_token_id=token
        )


def test_special_tokens_are_marked_by_ones(golden_model, golden_batch):
    marked = {**golden_batch, "special_tokens_mask": golden_batch["special_tokens_mask"] * 2}
    with pytest.raises(aa.InputError, match=r"special_tokens_mask\[0, 0\] is 2"):
        aa.attribute_tokens(golden_model.params, marked, golden_model.config)


def test_without_special_tokens_mask_first_and_last_real_token_are_kept(golden_model, golden_batch):
    kept = aa.attribute_tokens(golden_model.params, golden_batch, golden_model.config, n_steps=4)
    found = aa.attribute_tokens(
        golden_model.params, inference.model_inputs(golden_batch), golden_model.config, n_steps=4
    )
    np.testing.assert_array_equal(found.attributions, kept.attributions)
    assert not np.asarray(found.attributions)[1, [0, 10, 11, 12, 13]].any()


def test_sum_over_layers_is_normalised():
    attributions = np.zeros((2, 2, 1, 2, 2), np.float32)
    attributions[0, 0, 0] = [[1, -2], [0, 0]]
    attributions[0, 1, 0] = [[1, -6], [0, 4]]
    expected = [[[0.25, -1], [0, 0.5]], [[0, 0], [0, 0]]]
    np.testing.assert_allclose(aa.sum_over_layers(attributions), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_steps": 0}, "n_steps must be an integer of at least 1"),
        ({"n_steps": 1, "method": "riemann_trapezoid"}, "at least 2"),
        ({"method": "simpson"}, "'simpson' is unknown; choose one of riemann_left"),
        ({"objective": "loss"}, "objective 'loss' is unknown"),
        ({"target": "gold"}, "target must be 'predicted'"),
        ({"target": 2}, "classes 0 to 1"),
        ({"target": np.zeros(3, np.int32)}, r"int \[B\] = \[4\]"),
        ({"layers": [3]}, "layers must be some of 0 to 2"),
        ({"layers": 1}, "layers must be some of 0 to 2, as a list, not 1"),
        ({"layers": [True, False]}, "layers must be some of 0 to 2"),
        ({"layers": np.asarray([0.0])}, "layers must be some of 0 to 2"),
        ({"target": 2**40}, "classes 0 to 1"),
        ({"target": [[0, 1], [0]]}, "target cannot be read"),
        ({"method": ([0.0], [1.0], [2.0])}, r"or \(nodes, weights\)"),
        ({"method": (["x"], [1.0])}, "must be numbers"),
        ({"reduce": "mean"}, "'mean' is unknown"),
        ({"step_batch_size": 0}, "step_batch_size must be an integer of at least 1"),
    ],
)
def test_bad_arguments_are_named(run, arguments, message):
    with pytest.raises(aa.InputError, match=message):
        run(**arguments)


def test_one_output_model_has_no_probability(golden_batch):
    config = aa.BertConfig(
        vocab_size=97,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        num_labels=1,
    )
    params = aa.init_params(config, jax.random.key(0))
    with pytest.raises(aa.InputError, match="use 'logit'"):
        aa.attribute_attention(params, golden_batch, config)
    result = aa.attribute_attention(params, golden_batch, config, objective="logit", n_steps=8)
    assert np.isfinite(result.attributions).all()
