import jax
import jax.numpy as jnp
import numpy as np
import pytest

import attattr_jax as aa
from attattr_jax.data.batches import Encoded
from attattr_jax.pruning import importance, measures
from attattr_jax.pruning.importance import score_heads
from attattr_jax.runtime import sharding

MEASURES = ("attribution", "taylor", "attention", "ablation")
# Uneven, and a layer without heads.
MASK = np.asarray([[1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 1]])


@pytest.fixture(scope="module")
def encoded(golden):
    lengths = golden["attention_mask"].sum(axis=1)
    ids, segments = (
        [row[:length].tolist() for row, length in zip(golden[name], lengths, strict=True)]
        for name in ("input_ids", "token_type_ids")
    )
    return Encoded(
        ids,
        segments,
        [[0] * length for length in lengths],
        [],
        [],
        golden["labels"].astype(np.int32),
    )


@pytest.fixture(scope="module")
def score(golden_model, encoded):
    """Score as the golden arrays were scored, on two devices."""
    mesh = sharding.data_mesh()

    def score(measure, classifier=golden_model, examples=encoded, mesh=mesh, **arguments):
        return score_heads(measure, classifier, examples, mesh, method="riemann_left", **arguments)

    return score


@pytest.fixture(scope="module")
def unmasked(score):
    return {measure: score(measure) for measure in MEASURES}


def assert_close(actual, expected, tolerance=1e-5):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def test_golden_taylor_and_attribution(unmasked, golden):
    assert_close(unmasked["taylor"].importance, golden["taylor_importance"])
    assert_close(
        unmasked["taylor"].details["unnormalised"], golden["taylor_importance_unnormalised"]
    )
    assert_close(unmasked["attribution"].importance, golden["attribution_importance_left20_gold"])


def test_attention_is_the_largest_golden_probability(unmasked, golden):
    real = golden["attention_mask"] != 0
    pairs = (real[:, :, None] & real[:, None, :])[:, None, None]
    assert_close(
        unmasked["attention"].importance,
        (golden["attention_probs"] * pairs).max(axis=(-1, -2)).mean(axis=0),
    )


def test_ablation_is_what_forward_loses_without_each_head(
    unmasked, golden_model, golden_batch, golden
):
    def losses_and_hits(mask):
        logits, _ = aa.forward(
            golden_model.params, golden_batch, golden_model.config, head_mask=jnp.asarray(mask)
        )
        logits, gold = np.asarray(logits, np.float64), golden["labels"]
        return (
            np.log(np.exp(logits).sum(axis=1)) - logits[range(4), gold],
            logits.argmax(axis=1) == gold,
        )

    loss, hits = losses_and_hits(np.ones((3, 4)))
    expected = np.zeros((2, 3, 4))
    for layer, head in np.ndindex(3, 4):
        mask = np.ones((3, 4))
        mask[layer, head] = 0
        without, hits_without = losses_and_hits(mask)
        expected[:, layer, head] = np.mean(without - loss), np.mean(hits) - np.mean(hits_without)
    found = unmasked["ablation"]
    assert_close(found.importance, expected[0])
    np.testing.assert_array_equal(found.details["accuracy_loss"], expected[1])
    assert np.unique(expected[1]).size > 2, "heads decide about examples"


def test_random_is_ranks_that_depend_on_the_seed(score):
    first = score("random", seed=1).importance
    assert np.unique(first).size == first.size == 12
    np.testing.assert_array_equal(first, score("random", seed=1).importance)
    assert (first != score("random", seed=2).importance).any()
    np.testing.assert_array_equal(score("random", seed=1, head_mask=MASK).importance, first * MASK)


@pytest.mark.parametrize("measure", MEASURES)
def test_a_mask_scores_as_the_smaller_model_does(score, unmasked, golden_model, measure):
    masked, smaller = (
        score(measure, head_mask=MASK),
        score(measure, aa.remove_heads(golden_model, MASK)),
    )
    assert masked.details.keys() == smaller.details.keys()
    for name in ("importance", *masked.details):
        under, of_smaller = (
            {"importance": scores.importance, **scores.details}[name]
            for scores in (masked, smaller)
        )
        assert_close(under, of_smaller, 2e-5)
        assert not under[MASK == 0].any() and not of_smaller[MASK == 0].any(), name
    changed = masked.importance - unmasked[measure].importance
    assert np.abs(changed[MASK == 1]).max() > 1e-3, (
        "the heads that are left are scored without the others"
    )


@pytest.mark.parametrize("measure", MEASURES)
def test_devices_batches_and_filling_rows_change_nothing(score, unmasked, measure, monkeypatch):
    """All at once on two devices; on one in batches of three, where two rows of the second are
    filling.
    """
    monkeypatch.setattr(importance, "_rows_of_one_pass", lambda num_tokens: 3)
    monkeypatch.setattr(importance, "default_batch_size", lambda config, num_tokens: 3)
    counts = []
    found, expected = (
        score(measure, mesh=sharding.data_mesh(jax.devices()[:1]), on_batch=counts.append),
        unmasked[measure],
    )
    assert counts == [3, 1]
    assert_close(found.importance, expected.importance)
    assert found.details.keys() == expected.details.keys()
    for name in expected.details:
        assert_close(found.details[name], expected.details[name])


def test_every_named_measure_is_computed():
    assert {*importance._MEASURES, "random"} == set(measures.MEASURES)
