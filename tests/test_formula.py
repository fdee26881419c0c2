import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import attattr_jax as aa
from attattr_jax.attribution import integration, memory
from attattr_jax.attribution.memory import (
    CPU_MEMORY_BYTES,
    bytes_per_step,
    layer_groups,
    rows_per_device,
)
from attattr_jax.attribution.options import PATHS
from attattr_jax.attribution.quadrature.levels import fixed_level
from attattr_jax.models import inference
from attattr_jax.runtime import sharding

N_STEPS = 20
JOINT_LAYERS = {"all": (0, 1, 2), "some": (0, 2)}


@pytest.fixture(scope="module")
def run(golden_model, golden_batch):
    def attribute(config=golden_model.config, **arguments):
        return aa.attribute_attention(golden_model.params, golden_batch, config, **arguments)

    return attribute


@pytest.fixture(scope="module")
def default(run):
    return run(n_steps=8)


@pytest.fixture(scope="module", params=JOINT_LAYERS)
def joint_layers(request):
    return JOINT_LAYERS[request.param]


@pytest.fixture(scope="module")
def joint(run, joint_layers):
    return run(n_steps=N_STEPS, path="joint", layers=joint_layers)


@pytest.fixture(scope="module")
def fixed_arguments(golden_model, golden_batch):
    """What `attribute_fixed` is called with, but for the rule."""

    def arguments(rule, config=golden_model.config, groups=None, path="layer"):
        groups = groups or layer_groups(config, (0, 1, 2), 4, 14, None)
        level, num_layers = fixed_level(*rule), sum(len(group) for group, _ in groups)
        positional = (
            golden_model.params,
            inference.model_inputs(golden_batch),
            None,
            (level.astype(np.float32),) * num_layers,
            None,
        )
        static = {
            "config": config,
            "objective": "prob",
            "path": path,
            "plans": (integration.plan_of(level, len(level.nodes)),) * num_layers,
            "groups": groups,
            "reduce": None,
        }
        return positional, static

    return arguments


# --- the joint path -------------------------------------------------------------------------------


def test_joint_path_is_complete_over_all_its_layers(joint, joint_layers):
    attributions = np.asarray(joint.attributions)
    assert attributions.shape == (4, len(joint_layers), 4, 14, 14) and joint.n_steps.shape == (
        4,
        len(joint_layers),
    )
    assert joint.baseline_score.shape == joint.convergence_delta.shape == (4, 1)
    total, magnitude = (
        attributions.sum(axis=(1, 2, 3, 4)),
        np.abs(attributions).sum(axis=(1, 2, 3, 4)),
    )
    difference = np.asarray(joint.score) - np.asarray(joint.baseline_score)[:, 0]
    assert (np.abs(total - difference) <= 5e-5 * magnitude).all() and (
        np.abs(difference) > 1e-2
    ).all()
    np.testing.assert_allclose(joint.convergence_delta[:, 0], total - difference, atol=1e-6)


def test_joint_path_equals_the_naive_twin(golden_model, golden_batch, joint, joint_layers):
    _, probs = aa.forward(golden_model.params, golden_batch, golden_model.config)
    probs = {layer: probs[layer] for layer in joint_layers}
    rows = jnp.arange(4)

    def scores(replaced):
        logits, _ = aa.forward(
            golden_model.params, golden_batch, golden_model.config, attention_probs=replaced
        )
        return jax.nn.softmax(logits)[rows, joint.target]

    gradient_at = jax.jit(jax.grad(lambda alpha_probs: scores(alpha_probs).sum()))
    gradient = {layer: 0 for layer in joint_layers}
    for alpha, weight in zip(*aa.quadrature("gausslegendre", N_STEPS), strict=True):
        scaled = {layer: np.float32(alpha) * values for layer, values in probs.items()}
        gradient = {
            layer: gradient[layer] + np.float32(weight) * each
            for layer, each in gradient_at(scaled).items()
        }
    for at, layer in enumerate(joint_layers):
        expected = np.asarray(probs[layer] * gradient[layer])
        np.testing.assert_allclose(
            joint.attributions[:, at], expected, atol=2e-6 * np.abs(expected).max()
        )
    zero = {layer: jnp.zeros_like(values) for layer, values in probs.items()}
    np.testing.assert_allclose(joint.baseline_score[:, 0], scores(zero), atol=1e-6)


def test_joint_path_of_the_last_layer_is_its_own_path(run, default):
    result = run(n_steps=8, layers=[2], path="joint")
    expected = np.asarray(default.attributions)[:, 2:]
    np.testing.assert_allclose(result.attributions, expected, atol=1e-6 * np.abs(expected).max())
    np.testing.assert_allclose(result.baseline_score, default.baseline_score[:, 2:], atol=1e-6)


# --- groups and memory ----------------------------------------------------------------------------


def test_one_layer_at_a_time_gives_the_same(run, default, golden_model, monkeypatch):
    monkeypatch.setattr(memory, "CPU_MEMORY_BYTES", 1)
    assert len(layer_groups(golden_model.config, (0, 1, 2), 4, 14, None)) == 3
    result = run(n_steps=8)
    expected = np.asarray(default.attributions)
    scale = np.abs(expected).max(axis=(0, 2, 3, 4))
    assert (
        np.abs(np.asarray(result.attributions) - expected).max(axis=(0, 2, 3, 4)) <= 1e-6 * scale
    ).all()
    np.testing.assert_allclose(result.convergence_delta, default.convergence_delta, atol=1e-6)


@pytest.mark.parametrize("num_tokens", [16, 64, 512])
@pytest.mark.parametrize("batch_size", [1, 8])
@pytest.mark.parametrize("steps_at_once", [None, 3])
def test_layer_groups_cover_every_layer_within_the_budget(num_tokens, batch_size, steps_at_once):
    config = aa.BertConfig()
    for layers in (tuple(range(12)), (0, 5, 11)):
        groups = layer_groups(config, layers, batch_size, num_tokens, steps_at_once)
        assert sorted(layer for group, _ in groups for layer in group) == list(layers)
        for group, steps in groups:
            assert list(group) == sorted(group) and steps >= 1 and steps == (steps_at_once or steps)
            needed = steps * bytes_per_step(config, group, batch_size, num_tokens)
            assert needed <= CPU_MEMORY_BYTES or (len(group) == 1 and steps == (steps_at_once or 1))


def test_estimate_grows_with_rows_layers_and_precision():
    config, layers = aa.BertConfig(), (3, 7)
    one = bytes_per_step(config, layers, 1, 128)
    assert [bytes_per_step(config, layers, rows, 128) for rows in (2, 8, 64)] == [
        2 * one,
        8 * one,
        64 * one,
    ]
    assert bytes_per_step(dataclasses.replace(config, dtype="bfloat16"), layers, 1, 128) == one / 2
    assert bytes_per_step(config, (2, 7), 1, 128) > one


@pytest.mark.parametrize("path", PATHS)
def test_memory_does_not_grow_with_the_number_of_steps(fixed_arguments, path):
    def compiled_bytes(n_steps):
        rule = aa.quadrature("gausslegendre", n_steps)
        arguments, static = fixed_arguments(rule, groups=(((1,), 4),), path=path)
        return (
            integration.attribute_fixed.lower(*arguments, **static)
            .compile()
            .memory_analysis()
            .temp_size_in_bytes
        )

    few = compiled_bytes(8)
    assert few > 100_000 and abs(compiled_bytes(64) - few) < 0.02 * few


def test_rows_per_device_of_a_sharded_batch(golden_batch):
    mesh = sharding.data_mesh()
    assert mesh.size == 2
    assert rows_per_device(golden_batch) == 4
    assert rows_per_device(sharding.shard_rows(golden_batch, mesh)) == 2
    assert rows_per_device(sharding.replicate(golden_batch, mesh)) == 4


# --- bfloat16 -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def half(golden_model):
    return dataclasses.replace(golden_model.config, dtype="bfloat16")


def test_bfloat16_agrees_loosely_and_returns_float32(run, default, half):
    with jax.numpy_dtype_promotion("standard"):  # Flax casts the parameters implicitly
        result = run(config=half, n_steps=8)
    np.testing.assert_array_equal(result.target, default.target)
    for name in ("attributions", "score", "baseline_score", "convergence_delta", "logits"):
        assert getattr(result, name).dtype == jnp.float32, name
    expected = np.asarray(default.attributions)
    error = np.abs(np.asarray(result.attributions) - expected).sum(axis=(2, 3, 4)) / np.abs(
        expected
    ).sum(axis=(2, 3, 4))
    assert error.max() < 0.06, "measured: 0.031"
    assert error.max() > 1e-3, "it was computed in bfloat16"
    np.testing.assert_allclose(result.score, default.score, atol=3e-3)
    np.testing.assert_allclose(result.baseline_score, default.baseline_score, atol=1.2e-2)


def test_bfloat16_does_not_round_the_nodes(fixed_arguments, half):
    """Two nodes that are one in bfloat16 give two gradients."""
    nodes, weights = np.full(8, 0.5, np.float32), np.zeros(8, np.float32)
    nodes[1] += 2**-10
    weights[:2] = 1, -1

    def difference(nodes):
        arguments, static = fixed_arguments((nodes, weights), config=half)
        with jax.numpy_dtype_promotion("standard"):
            attributions = integration.attribute_fixed(*arguments, **static).attributions
        return np.abs(attributions).max(axis=(0, 2, 3, 4))

    assert (difference(nodes) > 0).all()
    assert not difference(nodes.astype(jnp.bfloat16).astype(np.float32)).any()
