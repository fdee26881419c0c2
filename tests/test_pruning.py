import jax
import jax.numpy as jnp
import numpy as np
import pytest

import attattr_jax as aa
from attattr_jax.models import inference
from attattr_jax.pruning import costs
from attattr_jax.pruning.curves import (
    curve_masks,
    curve_record,
    last_above,
    masks_along,
    removal_order,
)

ALL = np.ones((2, 3), np.int32)
IMPORTANCE = np.asarray([[0.5, 0.1, 0.3], [0.1, 0.6, 0.2]])
# Heads of the golden model: uneven, and a layer without any.
MASK = np.asarray([[0, 1, 1, 0], [0, 0, 0, 0], [1, 1, 1, 0]])


def test_the_least_important_head_goes_first_and_of_equals_the_lower_number():
    assert removal_order(IMPORTANCE, ALL).tolist() == [1, 3, 5, 2, 0, 4]


def test_heads_that_are_not_there_go_before_all_others():
    present = np.asarray([[0, 1, 1], [1, 0, 1]])
    assert removal_order(IMPORTANCE - 1, present).tolist() == [0, 4, 1, 3, 5, 2]


def test_rounds_rank_the_heads_that_are_left_again():
    seen = []

    def score_again(mask):
        seen.append(mask.ravel().tolist())
        return -IMPORTANCE * mask

    found = removal_order(IMPORTANCE, ALL, score_again, heads_per_round=2)
    assert found.tolist() == [1, 3, 4, 0, 2, 5], "after the first two, the most important go first"
    assert seen == [[1, 0, 1, 0, 1, 1], [0, 0, 1, 0, 0, 1]]


def test_no_more_rounds_than_the_heads_to_remove_need():
    calls = []

    def score_again(mask):
        calls.append(int(mask.sum()))
        return -IMPORTANCE

    found = removal_order(IMPORTANCE, ALL, score_again, heads_per_round=1, num_heads=3)
    assert calls == [5, 4] and sorted(found) == list(range(6))
    assert found[:3].tolist() == [1, 4, 0], "one by the first ranking, two by the others"


def test_masks_along_an_order():
    present = np.asarray([[1, 1, 0], [1, 1, 1]])
    masks = masks_along(np.asarray([2, 5, 0, 1, 3, 4]), [0, 2, 6], present)
    assert masks.tolist() == [present.tolist(), [[1, 1, 0], [1, 1, 0]], [[0, 0, 0], [0, 0, 0]]]
    assert present.sum() == 5, "what was given is left as it was"


def test_curve_masks_remove_tenths_of_all_heads():
    order = np.asarray([5, 4, 3, 2, 1, 0])
    masks = curve_masks(order, ALL)
    assert [int((mask == 0).sum()) for mask in masks] == [0, 0, 1, 1, 2, 3, 3, 4, 4, 5, 6]
    assert masks[2].tolist() == [[1, 1, 1], [1, 1, 0]]


def test_curve_by_hand():
    masks = curve_masks(np.arange(20), np.ones((4, 5), np.int32))
    accuracies = [0.9, 0.895, 0.91, 0.89, 0.88, 0.95, 0.5, 0.5, 0.5, 0.5, 0.5]
    record = curve_record(
        "taylor", None, masks, [{"accuracy": value, "loss": 1 - value} for value in accuracies]
    )
    # (0.9 + 0.5) / 20 + 6.525 / 10, the nine between
    assert record["area_under_curve"] == pytest.approx(0.7225)
    assert record["removable_within_1_point"] == 6, (
        "0.89 is one point below 0.9; 0.95 comes after 0.88"
    )
    assert record["points"][3] == {
        "fraction": 0.3,
        "num_pruned": 6,
        "accuracy": 0.89,
        "loss": pytest.approx(0.11),
    }
    assert (record["measure"], record["seed"], len(record["points"])) == ("taylor", None, 11)


def test_last_above_the_floor():
    assert last_above([0.9, 0.8, 0.7, 0.9], 0.8) == 1
    assert last_above([0.9, 0.8], 0.8) == 1
    assert last_above([0.7, 0.8], 0.8) == -1
    assert last_above([0.8], 0.1 + 0.7) == 0, "rounding does not cost a head"


def masked(function, classifier, batch, mask, **arguments):
    """Call with the heads masked, by a traced mask: nothing is cut out."""
    return function(
        classifier.params,
        batch,
        classifier.config,
        head_mask=jnp.asarray(mask, jnp.float32),
        **arguments,
    )


@pytest.mark.parametrize(
    "mask",
    [np.asarray([[1, 0, 1, 1], [0, 1, 0, 0], [1, 1, 1, 1]]), MASK, np.zeros((3, 4), int)],
    ids=["uneven", "layer_without_heads", "no_heads"],
)
def test_smaller_model_has_the_logits_of_the_mask(golden_model, golden_batch, mask):
    smaller = aa.remove_heads(golden_model, mask)
    batch = inference.model_inputs(golden_batch)
    expected = inference.predict_logits(
        golden_model.params, batch, golden_model.config, jnp.asarray(mask, jnp.float32)
    )
    np.testing.assert_allclose(
        inference.predict_logits(smaller.params, batch, smaller.config), expected, atol=1e-5
    )
    assert smaller.config.kept_heads == tuple(tuple(np.flatnonzero(row)) for row in mask)
    # A head of size K takes its rows of three projections, their biases, and its columns of the
    # fourth.
    size, width = golden_model.config.head_size, golden_model.config.hidden_size
    full, left = (
        sum(leaf.size for leaf in jax.tree.leaves(each.params)) for each in (golden_model, smaller)
    )
    assert full - left == (mask == 0).sum() * (3 * size * width + 3 * size + size * width)


def test_heads_removed_one_after_the_other_are_those_removed_at_once(golden_model):
    first = np.asarray([[1, 1, 1, 0], [0, 0, 1, 1], [1, 1, 1, 1]])
    twice, once = (
        aa.remove_heads(aa.remove_heads(golden_model, first), MASK),
        aa.remove_heads(golden_model, MASK),
    )
    assert twice.config == once.config and (MASK[2] != first[2]).any()
    jax.tree.map(np.testing.assert_array_equal, twice.params, once.params)
    again = aa.remove_heads(once, np.ones_like(MASK))
    assert again.config == once.config, "what is gone does not come back"


@pytest.mark.parametrize(
    "arguments",
    [
        {"n_steps": 4},
        {"n_steps": 4, "path": "joint", "layers": [2, 1]},
        {"n_steps": "auto", "reduce": "head_max"},
    ],
    ids=["layer", "joint", "auto"],
)
def test_attributions_of_the_smaller_model_are_those_under_the_mask(
    golden_model, golden_batch, arguments
):
    smaller = aa.remove_heads(golden_model, MASK)
    found = aa.attribute_attention(smaller.params, golden_batch, smaller.config, **arguments)
    expected = masked(aa.attribute_attention, golden_model, golden_batch, MASK, **arguments)
    layers = arguments.get("layers", [0, 1, 2])
    gone = MASK[layers] == 0
    scale = np.abs(expected.attributions).max()
    np.testing.assert_allclose(found.attributions, expected.attributions, atol=1e-5 * scale)
    assert (
        not np.asarray(found.attributions)[:, gone].any()
        and not np.asarray(found.attention_probs)[:, gone].any()
    )
    assert (
        np.asarray(found.attributions)[:, ~gone]
        .reshape(4, (~gone).sum(), -1)
        .any(axis=(0, 2))
        .all()
    ), "every head that is left has some"
    np.testing.assert_allclose(
        np.asarray(found.attention_probs)[:, ~gone],
        np.asarray(expected.attention_probs)[:, ~gone],
        atol=1e-5,
    )
    for name in ("score", "baseline_score", "n_steps", "convergence_delta"):
        np.testing.assert_allclose(
            getattr(found, name), getattr(expected, name), atol=1e-5, err_msg=name
        )


def test_token_attributions_of_the_smaller_model_are_those_under_the_mask(
    golden_model, golden_batch
):
    smaller = aa.remove_heads(golden_model, MASK)
    found = aa.attribute_tokens(smaller.params, golden_batch, smaller.config, n_steps=4)
    expected = masked(aa.attribute_tokens, golden_model, golden_batch, MASK, n_steps=4)
    np.testing.assert_allclose(
        found.attributions, expected.attributions, atol=1e-5 * np.abs(expected.attributions).max()
    )


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.ones((4, 3)), r"mask must be \[L, N\] = \[3, 4\], not \[4, 3\]"),
        (np.full((3, 4), 0.5), "mask must be of 0 and 1"),
        (np.full((3, 4), np.nan), "mask must be of finite numbers"),
        ([[1, 0], [1]], r"mask must be \[L, N\] = \[3, 4\], not \[\]"),
    ],
)
def test_other_masks_are_refused(golden_model, mask, message):
    with pytest.raises(aa.InputError, match=message):
        aa.remove_heads(golden_model, mask)


def test_costs_are_what_is_counted_and_written(golden_model, tmp_path):
    smaller = aa.remove_heads(golden_model, MASK)
    before, after = (costs.static_costs(each, num_tokens=14) for each in (golden_model, smaller))
    aa.save_classifier(smaller, tmp_path)
    assert (
        after["file_bytes"]
        == (tmp_path / "model.safetensors").stat().st_size
        < before["file_bytes"]
    )
    assert before["parameters"] - after["parameters"] == (MASK == 0).sum() * (4 * 8 * 32 + 3 * 8)
    # The least that 14 tokens save: the projections and products of the first two layers, each
    # multiplication and addition.
    num_gone = (MASK[:2] == 0).sum()
    assert before["flops"] - after["flops"] >= num_gone * 2 * (4 * 14 * 32 * 8 + 2 * 14 * 14 * 8)


def test_latencies_are_of_every_model_and_batch_size(golden_model, monkeypatch):
    monkeypatch.setattr(costs, "ROUND_SECONDS", 0)
    found = costs.latencies({"full": golden_model}, num_tokens=4, batch_sizes=(1, 2), rounds=1)
    assert (
        found.keys() == {"full"}
        and found["full"].keys() == {1, 2}
        and min(found["full"].values()) > 0
    )
