import json

import numpy as np
import pytest
from conftest import read_jsonl

import attattr_jax as aa
from attattr_jax import data, explanations, results, sharding

TEXTS = ["the film is very good .", "bad", "a dull story , but the music is lovely and the acting is never , never flat .", "good film"]


@pytest.fixture(scope="module")
def split():
    return data.Split("texts", "--text", TEXTS, None, ["positive", "negative", "negative", "positive"])


@pytest.fixture(scope="module")
def explained(tiny, split):
    encoded = data.encode(tiny, split, 32, data.class_indices(split, tiny.id2label))
    options = explanations.AttributionOptions(target="gold", n_steps=6)
    return list(explanations.explain(tiny, split, encoded, sharding.data_mesh(), options))


@pytest.fixture(scope="module")
def folder(explained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("explained")
    writer = results.ExplanationWriter(folder)
    for one in reversed(explained):
        writer.add(one)
        writer.flush()  # a shard each
    writer.close()
    return folder


def test_stored_arrays_are_those_of_the_function(tiny, folder, split):
    stored = aa.load_attributions(folder)
    assert len(stored) == 4 and [one.text for one in stored] == TEXTS
    batch, target = tiny.tokenize(TEXTS), data.class_indices(split, tiny.id2label)
    result = aa.attribute_attention(tiny.params, batch, tiny.config, target, n_steps=6)
    tokens = aa.attribute_tokens(tiny.params, batch, tiny.config, target, n_steps=6)
    summed = aa.sum_over_layers(result.attributions)
    for index, one in enumerate(stored):
        real = slice(int(batch["attention_mask"][index].sum()))
        np.testing.assert_allclose(one.attributions, result.attributions[index, ..., real, real], atol=1e-6)
        np.testing.assert_allclose(one.attention_probs, result.attention_probs[index, ..., real, real], atol=1e-6)
        np.testing.assert_allclose(one.token_pair_attributions, summed[index, real, real], atol=1e-4)
        np.testing.assert_allclose(one.convergence_deltas, result.convergence_delta[index], atol=1e-6)
        np.testing.assert_allclose(one.token_attributions, tokens.attributions[index, real], atol=1e-6)
        np.testing.assert_allclose(one.array("head_importance"), np.max(one.attributions, axis=(2, 3)), atol=1e-6)


def test_rows_say_what_a_reader_needs(folder):
    row = read_jsonl(folder / "examples.jsonl")[0]
    assert row["tokens"][:3] == ["[CLS]", "the", "film"] and len(row["offsets"]) == len(row["tokens"])
    start, end = row["offsets"][2]
    assert TEXTS[0][start:end] == "film"
    assert row["label"] == row["target"] == "positive"
    assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-6)
    assert row["score"] == pytest.approx(row["probabilities"]["positive"], abs=1e-6)
    assert len(row["baseline_scores"]) == len(row["convergence_deltas"]) == 2
    values = [abs(pair["attribution"]) for pair in row["token_pairs"]]
    assert values[0] == pytest.approx(1) and values == sorted(values, reverse=True)


def test_reading_is_lazy_and_negative_indices_work(folder):
    stored = aa.load_attributions(folder)
    (folder / stored[1].arrays["file"]).rename(folder / "away")
    try:
        assert stored[-3].text == "bad" and [one.text for one in stored[1:3]] == TEXTS[1:3]
        with pytest.raises(aa.InputError, match="cannot be read"):
            _ = stored[1].attributions
    finally:
        (folder / "away").rename(folder / stored[1].arrays["file"])
    with pytest.raises(IndexError):
        stored[4]
    with pytest.raises(AttributeError, match="no field 'nothing'"):
        _ = stored[0].nothing


def test_what_was_not_saved_is_said(tiny, split, tmp_path):
    encoded = data.encode(tiny, split, 32)
    for save in ("none", "summary"):
        writer = results.ExplanationWriter(tmp_path / save, save)
        for one in explanations.explain(tiny, split, encoded, sharding.data_mesh(), explanations.AttributionOptions(n_steps=2), save):
            writer.add(one)
        writer.close()
        with pytest.raises(aa.InputError, match="--save full"):
            _ = aa.load_attributions(tmp_path / save)[0].attributions
    assert not list((tmp_path / "none").glob("*.safetensors"))
    assert aa.load_attributions(tmp_path / "summary")[3].array("token_pairs").shape == (4, 4)


def test_any_character_in_a_text_survives(tiny, tmp_path):
    text = "good\u2028film \u202e<b>\x85\U0001f600"
    split = data.Split("texts", "--text", [text, "bad"], None, None)
    writer = results.ExplanationWriter(tmp_path, "none")
    options = explanations.AttributionOptions(n_steps=2)
    for one in explanations.explain(tiny, split, data.encode(tiny, split, 32), sharding.data_mesh(), options, "none"):
        writer.add(one)
    writer.close()
    assert [one.text for one in aa.load_attributions(tmp_path)] == [text, "bad"]


def test_a_model_that_gives_nan_is_refused(tiny, split):
    import dataclasses

    import jax

    broken = dataclasses.replace(tiny, params=jax.tree.map(lambda array: np.full_like(array, np.nan), tiny.params))
    encoded = data.encode(tiny, split, 32)
    with pytest.raises(aa.InputError, match="output for .* is nan"):
        list(explanations.explain(broken, split, encoded, sharding.data_mesh(), explanations.AttributionOptions(n_steps=2)))


def test_gold_needs_labels(tiny, split):
    encoded = data.encode(tiny, split, 32)
    with pytest.raises(aa.InputError, match="has no labels"):
        next(explanations.explain(tiny, split, encoded, sharding.data_mesh(), explanations.AttributionOptions(target="gold")))


def test_data_set_summary(explained):
    summary = explanations.DatasetSummary(num_pairs=3)
    for one in explained:
        summary.add(one)
    np.testing.assert_allclose(summary.importance, np.mean([one.array("head_importance") for one in explained], axis=0))
    everything = [
        (abs(pair["attribution"]) * one.row["token_pairs_scale"], one.row["index"]) for one in explained for pair in one.row["token_pairs"]
    ]
    expected = sorted(everything, reverse=True)[:3]
    assert [abs(pair["attribution"]) for pair in summary.token_pairs] == pytest.approx([value for value, _ in expected])
    worst = max(
        abs(delta) / size
        for one in explained
        for delta, size in zip(one.row["convergence_deltas"], one.row["absolute_attribution_sums"], strict=True)
    )
    assert summary.worst_delta == worst


def test_damaged_rows_are_named(folder, tmp_path):
    (tmp_path / "examples.jsonl").write_text(json.dumps({"index": 0}) + "\n{broken\n")
    stored = aa.load_attributions(tmp_path)
    assert len(stored) == 2
    with pytest.raises(aa.InputError, match="row 2 is damaged"):
        stored[1]
    with pytest.raises(aa.InputError, match=r"no examples.jsonl"):
        aa.load_attributions(tmp_path / "missing")
