import dataclasses
import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from conftest import assemble, make_tiny, read_jsonl

import attattr_jax as aa
from attattr_jax.attribution.options import AttributionOptions
from attattr_jax.data.batches import encode
from attattr_jax.data.labels import class_indices
from attattr_jax.data.splits import Split
from attattr_jax.explanations import explanation, from_result, parts, rows
from attattr_jax.explanations.convergence import convergence_by_steps
from attattr_jax.explanations.explain import explain
from attattr_jax.explanations.rows import check_row
from attattr_jax.explanations.stored import StoredExplanation
from attattr_jax.explanations.summary import DatasetSummary
from attattr_jax.runtime import sharding
from attattr_jax.views.example import single_output

TEXTS = [
    "the film is very good .",
    "bad",
    "a dull story , but the music is lovely and the acting is never , never flat .",
    "good film",
]


@pytest.fixture(scope="module")
def split():
    return Split("texts", "--text", TEXTS, None, ["positive", "negative", "negative", "positive"])


@pytest.fixture(scope="module")
def explained(tiny, split):
    encoded = encode(tiny, split, 32, class_indices(split, tiny.id2label))
    options = AttributionOptions(target="gold", n_steps=6, token_n_steps=6)
    return list(explain(tiny, split, encoded, sharding.data_mesh(), options))


@pytest.fixture(scope="module")
def folder(explained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("explained")
    writer = parts.ExplanationWriter(folder)
    for one in reversed(explained):
        writer.add(one)
        writer.flush()  # a shard each
    assemble(folder, len(explained))
    return folder


def test_stored_arrays_are_those_of_the_function(tiny, folder, split):
    stored = aa.load_attributions(folder)
    assert len(stored) == 4 and [one.text for one in stored] == TEXTS
    batch, target = tiny.tokenize(TEXTS), class_indices(split, tiny.id2label)
    result = aa.attribute_attention(tiny.params, batch, tiny.config, target, n_steps=6)
    tokens = aa.attribute_tokens(tiny.params, batch, tiny.config, target, n_steps=6)
    summed = aa.sum_over_layers(result.attributions)
    for index, one in enumerate(stored):
        real = slice(int(batch["attention_mask"][index].sum()))
        np.testing.assert_allclose(
            one.attributions, result.attributions[index, ..., real, real], atol=1e-6
        )
        np.testing.assert_allclose(
            one.attention_probs, result.attention_probs[index, ..., real, real], atol=1e-6
        )
        np.testing.assert_allclose(
            one.token_pair_attributions, summed[index, real, real], atol=1e-4
        )
        np.testing.assert_allclose(
            one.convergence_deltas, result.convergence_delta[index], atol=1e-6
        )
        np.testing.assert_allclose(
            one.token_attributions, tokens.attributions[index, real], atol=1e-6
        )
        np.testing.assert_allclose(
            one.array("head_importance"), np.max(one.attributions, axis=(2, 3)), atol=1e-6
        )


def test_rows_say_what_a_reader_needs(folder):
    row = read_jsonl(folder / "examples.jsonl")[0]
    assert row["tokens"][:3] == ["[CLS]", "the", "film"] and len(row["offsets"]) == len(
        row["tokens"]
    )
    start, end = row["offsets"][2]
    assert TEXTS[0][start:end] == "film"
    assert row["label"] == row["target"] == "positive"
    assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-6)
    assert row["score"] == pytest.approx(row["probabilities"]["positive"], abs=1e-6)
    assert len(row["baseline_scores"]) == len(row["convergence_deltas"]) == 2
    values = [abs(pair["attribution"]) for pair in row["token_pairs"]]
    assert len(values) == 10 and values[0] <= 1 and values == sorted(values, reverse=True)
    assert not any(
        row["special_tokens_mask"][pair[end]]
        for pair in row["token_pairs"]
        for end in ("from", "to")
    )


def test_rows_have_the_logits(tiny, explained):
    for one in explained:
        logits, _ = aa.forward(tiny.params, tiny.tokenize([one.text]), tiny.config)
        assert list(one.logits) == ["negative", "positive"]
        np.testing.assert_allclose(list(one.logits.values()), logits[0], atol=1e-5)
        assert one.predicted == max(one.logits, key=one.logits.get)


def test_one_output_is_a_number_and_has_no_probability(regression_folder):
    model = aa.load_classifier(regression_folder)
    (one,) = aa.explain_texts(model, ["good film"], labels=[0], objective="logit", n_steps=3)
    batch = model.tokenize(["good film"])
    (output,) = np.asarray(aa.forward(model.params, batch, model.config)[0])[0]
    assert one.probabilities == {} and one.label is None and one.predicted == one.target == "stars"
    assert (
        one.logits["stars"] == pytest.approx(output, abs=1e-5)
        and single_output(one.row) == one.logits["stars"]
    )
    check_row(dict(one.row, arrays=None))
    older = {name: value for name, value in one.row.items() if name != "logits"} | {
        "arrays": None,
        "probabilities": {"stars": 1.0},
    }
    check_row(older)
    assert single_output(older) == pytest.approx(output, abs=1e-5)
    result = aa.attribute_attention(model.params, batch, model.config, objective="logit", n_steps=3)
    (shown,) = from_result.explanations_of(result, model, batch)
    assert shown.probabilities == {} and shown.logits["stars"] == pytest.approx(output, abs=1e-5)


def test_words_of_a_python_tokenizer_are_made_of_its_pieces(tmp_path):
    from transformers import BertJapaneseTokenizer

    vocabulary = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "a",
        "un",
        "##watch",
        "##able",
        "film",
    ]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    tokenizer = BertJapaneseTokenizer(
        tmp_path / "vocab.txt", word_tokenizer_type="basic", subword_tokenizer_type="wordpiece"
    )
    slow = dataclasses.replace(make_tiny(vocabulary[5:]), tokenizer=tokenizer)
    (one,) = aa.explain_texts(slow, ["a unwatchable film"], ["\u0301a film"], n_steps=2)
    assert one.tokens == [
        "[CLS]",
        "a",
        "un",
        "##watch",
        "##able",
        "film",
        "[SEP]",
        "[UNK]",
        "film",
        "[SEP]",
    ]
    assert one.word_labels == [
        "[CLS]",
        "a",
        "unwatchable",
        "film",
        "[SEP]",
        "[UNK]",
        "film",
        "[SEP]",
    ]
    check_row(dict(one.row, arrays=None))
    assert "unwatchable" in one.show(tmp_path / "page.html").read_text()


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
    encoded = encode(tiny, split, 32)
    for save in ("none", "summary"):
        writer = parts.ExplanationWriter(tmp_path / save, save)
        for one in explain(
            tiny,
            split,
            encoded,
            sharding.data_mesh(),
            AttributionOptions(n_steps=2),
            save,
        ):
            writer.add(one)
        writer.flush()
        assemble(tmp_path / save, len(split))
        with pytest.raises(aa.InputError, match="--save full"):
            _ = aa.load_attributions(tmp_path / save)[0].attributions
    assert not list((tmp_path / "none").glob("*.safetensors"))
    assert aa.load_attributions(tmp_path / "summary")[3].array("token_pairs").shape == (4, 4)


def test_any_character_in_a_text_survives(tiny, tmp_path):
    text = "good\u2028film \u202e<b>\x85\U0001f600"
    split = Split("texts", "--text", [text, "bad"], None, None)
    writer = parts.ExplanationWriter(tmp_path, "none")
    options = AttributionOptions(n_steps=2)
    for one in explain(tiny, split, encode(tiny, split, 32), sharding.data_mesh(), options, "none"):
        writer.add(one)
    writer.flush()
    assemble(tmp_path, 2)
    assert [one.text for one in aa.load_attributions(tmp_path)] == [text, "bad"]


def test_a_model_that_gives_nan_is_refused(tiny, split):
    import dataclasses

    broken = dataclasses.replace(
        tiny, params=jax.tree.map(lambda array: np.full_like(array, np.nan), tiny.params)
    )
    encoded = encode(tiny, split, 32)
    with pytest.raises(aa.InputError, match="output for .* is nan"):
        list(
            explain(
                broken,
                split,
                encoded,
                sharding.data_mesh(),
                AttributionOptions(n_steps=2),
            )
        )


def test_a_batch_of_another_shape_is_named(tiny):
    batch = tiny.tokenize(TEXTS)
    result = aa.attribute_attention(tiny.params, batch, tiny.config, n_steps=1)
    for chosen, tokens in ((slice(1), slice(None)), (slice(None), slice(4))):
        other = {name: values[chosen, tokens] for name, values in batch.items()}
        with pytest.raises(
            aa.InputError,
            match=(
                f"batch is not that of the result, 4 examples of {batch['input_ids'].shape[1]}"
                " tokens"
            ),
        ):
            aa.explanations_of(result, tiny, other)


def test_arguments_of_explain_texts_are_named(tiny):
    for arguments, message in (
        ({"labels": 1}, "labels must be a list"),
        ({"nsteps": 2}, "nsteps is no option: did you mean n_steps[?]; there are target, n_steps"),
        (
            {"target": True},
            "target must be 'predicted', 'gold', 'all', a class name or an index, not True",
        ),
        ({"target": 1.0}, "target must be .*not 1.0"),
    ):
        with pytest.raises(aa.InputError, match=message):
            aa.explain_texts(tiny, ["good"], **arguments)
    (one,) = aa.explain_texts(tiny, ["good"], labels=jnp.asarray([1]), n_steps=1, token_level=False)
    assert one.label == "positive"


def test_the_sum_says_which_layers_it_is_of(tiny):
    names = {}
    for layers in (None, [1], [1, 0]):
        (one,) = aa.explain_texts(tiny, ["good"], layers=layers, n_steps=1, token_level=False)
        names[str(layers)] = one.sum_name
    assert names == {
        "None": "all layers and heads",
        "[1]": "layer 1, all heads",
        "[1, 0]": "all layers and heads",
    }


def test_gold_needs_labels(tiny, split):
    encoded = encode(tiny, split, 32)
    with pytest.raises(aa.InputError, match="has no labels"):
        next(
            explain(
                tiny,
                split,
                encoded,
                sharding.data_mesh(),
                AttributionOptions(target="gold"),
            )
        )


def test_data_set_summary(explained):
    summary = DatasetSummary(num_pairs=3)
    for one in explained:
        summary.add(one)
    np.testing.assert_allclose(
        summary.importance, np.mean([one.array("head_importance") for one in explained], axis=0)
    )
    everything = [
        (abs(pair["attribution"]) * one.row["token_pairs_scale"], one.row["index"])
        for one in explained
        for pair in one.row["token_pairs"]
    ]
    expected = sorted(everything, reverse=True)[:3]
    assert [abs(pair["attribution"]) for pair in summary.token_pairs] == pytest.approx(
        [value for value, _ in expected]
    )
    worst = max(
        abs(delta) / size
        for one in explained
        for delta, size in zip(
            one.row["convergence_deltas"], one.row["absolute_attribution_sums"], strict=True
        )
    )
    assert summary.worst_delta == worst


def test_damaged_rows_are_named(folder, tmp_path):
    damaged = ["{broken", "[]", "3", '{"index": 0}', "[" * 100_000]
    (tmp_path / "examples.jsonl").write_text(
        "\n".join([(folder / "examples.jsonl").read_text().splitlines()[0], *damaged])
    )
    (tmp_path / "run.json").write_text('{"options": null}')
    stored = aa.load_attributions(tmp_path)
    assert len(stored) == 1 + len(damaged) and stored[0].text == TEXTS[0] and stored.run == {}
    for row in range(1, len(stored)):
        with pytest.raises(aa.InputError, match=f"row {row + 1} is damaged"):
            stored[row]
    with pytest.raises(aa.InputError, match=r"no examples.jsonl"):
        aa.load_attributions(tmp_path / "missing")


def test_texts_explained_at_once_are_those_of_the_data_set(tiny, explained):
    labels = ["positive", "negative", "negative", "positive"]
    at_once = aa.explain_texts(
        tiny, TEXTS, labels=labels, target="gold", n_steps=6, token_n_steps=6
    )
    for one, other in zip(at_once, sorted(explained, key=lambda one: one.index), strict=True):
        assert (
            one.row.keys() == other.row.keys()
            and one.text == other.text
            and one.label == other.label == one.target
        )
        for name in explanation.SAVED_ARRAYS["full"]:
            np.testing.assert_allclose(one.array(name), other.array(name), atol=1e-6)
    pairs = aa.explain_texts(tiny, ["good film"], ["bad plot"], n_steps=2, layers=(1,))
    assert (pairs[0].text_pair, pairs[0].layers, pairs[0].label) == ("bad plot", [1], None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"texts": "good"}, "non-empty list"),
        ({"texts": []}, "non-empty list"),
        ({"texts": ["good", None]}, "every text must be a string"),
        (
            {"texts": ["good"], "text_pairs": ["a", "b"]},
            "text_pairs must be a list with an entry for each of the 1 texts",
        ),
        ({"texts": ["good"], "text_pairs": [""]}, "no token is left of ''"),
        ({"texts": ["good"], "layers": 1}, "layers must be some of 0 to 1"),
        ({"texts": ["good"], "labels": []}, "labels must be a list"),
        ({"texts": ["good"], "labels": ["neutral"]}, "neutral"),
        ({"texts": ["good", " "]}, "no token is left of ' '"),
        ({"texts": ["good"], "target": "gold"}, "has no labels"),
    ],
)
def test_bad_texts(tiny, arguments, message):
    with pytest.raises(aa.InputError, match=message):
        aa.explain_texts(tiny, **arguments)


def test_tokens_may_take_other_steps_than_pairs(tiny):
    (one,) = aa.explain_texts(tiny, TEXTS[:1], n_steps=3, token_n_steps="auto")
    assert one.n_steps == [3, 3] and one.converged is None
    assert (
        one.token_n_steps >= 7 and one.token_converged and abs(one.token_convergence_delta) < 1e-3
    )
    (same,) = aa.explain_texts(tiny, TEXTS[:1], n_steps=3)
    assert same.token_attributions == one.token_attributions, "auto is the default for tokens"
    (like_pairs,) = aa.explain_texts(tiny, TEXTS[:1], n_steps=3, method="riemann_left")
    assert like_pairs.token_n_steps == 3, "another rule is the one for tokens too"
    (other,) = aa.explain_texts(tiny, TEXTS[:1], n_steps="auto", token_n_steps=5)
    assert (
        other.token_n_steps == 5
        and other.token_converged is None
        and other.converged == [True, True]
    )


@pytest.mark.parametrize("path", ["layer", "joint"])
def test_convergence_by_steps_is_that_of_each_number_of_steps(tiny, path):
    options = AttributionOptions(method="riemann_left", path=path, token_level=False)
    texts = [TEXTS[2], TEXTS[0]]
    found = convergence_by_steps(
        tiny, aa.explain_texts(tiny, texts, options=options), options, (2, 5, 20)
    )
    assert found.shape == (2, 3, 2 if path == "layer" else 1)
    for at, steps in enumerate((2, 5, 20)):
        again = aa.explain_texts(tiny, texts, options=options, n_steps=steps)
        expected = [one.relative_deltas for one in again]
        np.testing.assert_allclose(found[:, at], expected, rtol=1e-3, atol=1e-6)
    assert (found[:, -1] < found[:, 0]).all(), "more steps, smaller deltas"


def test_a_result_knows_its_layers(tiny):
    batch = tiny.tokenize(TEXTS[:2])
    one, both = (
        aa.attribute_attention(tiny.params, batch, tiny.config, n_steps=2, layers=layers)
        for layers in ([1], None)
    )
    for classifier in (tiny, None):
        for shown in from_result.explanations_of(one, classifier):
            assert shown.layers == [1] and {head["layer"] for head in shown.heads} == {1}
            assert not shown.has_all_layers, "no tree of a part of the layers"
        assert from_result.explanations_of(both, classifier)[1].has_all_layers
    with pytest.raises(aa.InputError, match=r"layers are \[0\], but the result is of \[1\]$"):
        from_result.explanations_of(one, tiny, layers=[0])
    bare = one._replace(layers=None, num_hidden_layers=None)
    with pytest.raises(
        aa.InputError, match=r"has 1 of the model's 2 layers, and does not say which: give layers$"
    ):
        from_result.explanations_of(bare, tiny)
    assert from_result.explanations_of(bare, tiny, layers=[1])[0].layers == [1]


def test_results_pass_through_transformations(tiny):
    """Every field has the examples as its first axis, so that results can be sliced, joined and
    mapped over.
    """
    batch = jax.tree.map(jnp.asarray, tiny.tokenize(TEXTS[:2]))

    def attribute(batch, params=tiny.params):
        return aa.attribute_attention(
            params, batch, tiny.config, n_steps=2, layers=[1], reduce="head_max"
        )

    result = jax.jit(attribute)(batch)
    assert {len(values) for values in jax.tree.leaves(result)} == {2}
    assert from_result.explanations_of(jax.tree.map(lambda values: values[1:], result), tiny)[
        0
    ].layers == [1]
    mapped = jax.vmap(attribute)(jax.tree.map(lambda values: values[:, None], batch))
    np.testing.assert_allclose(mapped.attributions[:, 0], result.attributions, atol=1e-6)
    assert mapped.layers.shape == (2, 1, 1)
    _, found = jax.grad(
        lambda params: (jnp.sum(attribute(batch, params).attributions), attribute(batch)),
        has_aux=True,
    )(tiny.params)
    np.testing.assert_array_equal(found.layers, [[1], [1]])


def test_a_rule_that_would_have_no_effect_is_refused(tiny):
    batch = tiny.tokenize(TEXTS[:1])
    message = (
        "method 'riemann_left' has no effect with n_steps 'auto': leave it out, or give a number of"
        " steps$"
    )
    for function in (aa.attribute_attention, aa.attribute_tokens):
        with pytest.raises(aa.InputError, match=message):
            function(tiny.params, batch, tiny.config, n_steps="auto", method="riemann_left")
    for steps in ({}, {"token_n_steps": "auto"}, {"token_n_steps": 5, "token_level": False}):
        with pytest.raises(aa.InputError, match=message):
            aa.explain_texts(tiny, TEXTS[:1], n_steps="auto", method="riemann_left", **steps)
    (one,) = aa.explain_texts(
        tiny, TEXTS[:1], n_steps="auto", token_n_steps=5, method="riemann_left"
    )
    expected = aa.attribute_tokens(
        tiny.params, batch, tiny.config, n_steps=5, method="riemann_left"
    )
    np.testing.assert_allclose(one.token_attributions, expected.attributions[0], atol=1e-6)


@pytest.fixture
def copied(folder, tmp_path):
    """A folder of explanations that may be damaged."""
    shutil.copytree(folder, tmp_path / "copied")
    return tmp_path / "copied"


def edit(file, old, new):
    content = file.read_text(encoding="utf-8")
    assert old in content
    file.write_text(content.replace(old, new, 1), encoding="utf-8")


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (
            "examples.jsonl",
            "very good",
            "very flat",
            r"examples.jsonl is damaged: not what attribute.py wrote",
        ),
        (
            "examples.jsonl",
            '"prefix": "0/"',
            '"prefix": "3/"',
            r"examples.jsonl is damaged: not what attribute.py wrote",
        ),
        (
            "examples.jsonl",
            "very good",
            "good",
            r"examples.jsonl has \d+ bytes, not \d+: not what attribute.py wrote",
        ),
        (
            "manifest.json",
            '"num_examples": 4',
            '"num_examples": 5',
            r"manifest.json is damaged \(not what was written\)",
        ),
        ("manifest.json", '"sha256"', '"sha512"', r"manifest.json is damaged"),
    ],
)
def test_rows_that_are_not_those_of_the_manifest_are_refused(copied, file, old, new, message):
    edit(copied / file, old, new)
    with pytest.raises(aa.InputError, match=message):
        list(aa.load_attributions(copied))


def test_arrays_of_another_example_are_refused(copied):
    stored = aa.load_attributions(copied)
    first, second = (stored[index].row for index in (0, 1))
    (copied / second["arrays"]["file"]).write_bytes(b"cut short")
    with pytest.raises(aa.InputError, match=r"example 1 cannot be read: .*has 9 bytes, not \d+$"):
        _ = stored[1].attributions
    moved = StoredExplanation(
        copied,
        {**first, "arrays": {**first["arrays"], "file": stored[2].arrays["file"]}},
        stored._parts,
    )
    with pytest.raises(
        aa.InputError,
        match=r"example 0 cannot be read: .*manifest.json does not list them in shard-0000-0000\d",
    ):
        _ = moved.attributions
    (copied / "manifest.json").unlink()  # as of an earlier version
    assert aa.load_attributions(copied)[0].attributions.shape == stored[0].attributions.shape
    edit(copied / "examples.jsonl", '"prefix": "0/"', '"prefix": "3/"')
    with pytest.raises(
        aa.InputError, match=r"example 0 cannot be read: the row names those of '3/', not of '0/'"
    ):
        _ = aa.load_attributions(copied)[0].attributions
    with pytest.raises(aa.InputError, match="has changed since it was opened: load it again"):
        stored[0]


def test_a_run_that_is_being_mended_can_be_read(copied):
    shard = aa.load_attributions(copied)[2].arrays["file"]
    (copied / shard).unlink()
    assert parts.reopen(copied, 4) and not (copied / "manifest.json").exists()
    stored = aa.load_attributions(copied)
    assert [one.text for one in stored] == TEXTS and stored[3].attributions.size


def test_half_precision_is_read_as_float32(copied, explained):
    """Older shards hold attention in what the model computed in."""
    stored = aa.load_attributions(copied)
    shard = copied / stored[0].arrays["file"]
    arrays = safetensors.numpy.load_file(shard)
    half = arrays["0/attention_probs"].astype(ml_dtypes.bfloat16)
    shard.write_bytes(safetensors.numpy.save(arrays | {"0/attention_probs": half}))
    (copied / "manifest.json").unlink()
    read = aa.load_attributions(copied)[0].attention_probs
    np.testing.assert_array_equal(read, half.astype(np.float32), strict=True)


def test_rows_of_older_files_can_be_shown(explained, tmp_path):
    one = explained[0]
    older = explanation.Explanation(
        {
            name: value
            for name, value in one.row.items()
            if name not in ("word_ids", "num_hidden_layers")
        },
        one._arrays,
    )
    assert (
        older.has_all_layers
        and older.word_labels == one.word_labels
        and older.tree().edges == one.tree().edges
    )
    assert older.show(tmp_path / "older.html").stat().st_size > 10_000


def test_a_tree_needs_all_layers_in_whatever_order(tiny):
    everything, turned = (
        aa.explain_texts(tiny, TEXTS[2:3], n_steps=3, layers=layers)[0] for layers in (None, (1, 0))
    )
    assert (
        everything.tree().edges == turned.tree().edges
        and everything.tree(threshold=0.99).nodes != everything.tree(threshold=0.1).nodes
    )
    assert everything.tree(threshold=0.1).tokens == tuple(everything.tokens)
    assert everything.tree(words=True).tokens == tuple(everything.word_labels)
    with pytest.raises(
        aa.InputError, match=r"has layers \[1\] only: a tree needs those of all layers"
    ):
        aa.explain_texts(tiny, TEXTS[:1], n_steps=2, layers=(1,))[0].tree()


def test_shown_are_the_tokens_that_the_mask_says(tiny):
    batch = tiny.tokenize(["the film is good ."])
    batch["attention_mask"][0, 2] = 0
    result = aa.attribute_attention(tiny.params, batch, tiny.config, n_steps=2)
    (shown,) = from_result.explanations_of(result, tiny, batch)
    assert shown.row["tokens"] == ["[CLS]", "the", "is", "good", ".", "[SEP]"]
    assert shown.row["special_tokens_mask"] == [1, 0, 0, 0, 0, 1]
    left = np.delete(np.delete(result.attributions[0], 2, axis=-1), 2, axis=-2)
    np.testing.assert_array_equal(shown.array("attributions"), left)
    everything = from_result.explanations_of(result, tiny, {"input_ids": batch["input_ids"]})[0]
    assert len(everything.row["tokens"]) == 7


def test_fields_of_an_explanation_are_those_of_the_schema_and_of_the_docs(explained):
    """The table of `rows`, the types of `Explanation`, the rows written and docs/files.md agree."""
    names = {field.name for field in rows.FIELDS}
    assert names == set(aa.Explanation.__annotations__)
    assert all(names == {"arrays", *one.row} for one in explained)
    docs = (Path(__file__).parent.parent / "docs" / "files.md").read_text(encoding="utf-8")
    table = docs.split("`examples.jsonl`, one row per text")[1].split("\n\n")[1]
    cells = [line.split("|")[1] for line in table.splitlines()[2:]]
    assert {name for cell in cells for name in re.findall(r"`(\w+)`", cell)} == names
