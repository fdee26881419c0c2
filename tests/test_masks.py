import json

import numpy as np
import pytest

import attattr_jax as aa
from attattr_jax.attribution.summaries import reductions
from attattr_jax.pruning import importance_file
from attattr_jax.pruning.masks import (
    listed_heads,
    num_to_prune,
    random_importance,
    remove_listed_heads,
)

IMPORTANCE = np.asarray([[0.1, 0.4, 0.3], [-0.5, -0.2, -0.9]])


def test_golden_importance(golden_model, golden_batch, golden):
    labels = golden["labels"].astype(np.int32)
    result = aa.attribute_attention(
        golden_model.params, golden_batch, golden_model.config, labels, method="riemann_left"
    )
    importance = aa.head_importance(result.attributions, golden_batch["attention_mask"])
    expected = golden["attribution_importance_left20_gold"]
    np.testing.assert_allclose(importance, expected, atol=1e-5 * np.abs(expected).max())


def test_importance_of_an_all_negative_head_is_negative():
    attributions = np.zeros((1, 1, 1, 3, 3), np.float32)
    attributions[..., :2, :2] = [[-3, -1], [-2, -4]]
    assert aa.head_importance(attributions, np.asarray([[1, 1, 0]])).tolist() == [[-1.0]]


def test_rows_that_are_all_padding_do_not_count():
    attributions = np.full((2, 1, 1, 2, 2), 3, np.float32)
    assert aa.head_importance(attributions, np.asarray([[1, 1], [0, 0]])).tolist() == [[3.0]]


def test_importance_of_some_layers_or_another_model_is_refused(tmp_path):
    file = tmp_path / "head_importance.json"
    for changed, message in (
        ({"layers": [1, 0]}, r"covers only layers \[1, 0\]"),
        ({"importance": [[1.0]]}, "as this model's heads"),
        ({"importance": [[float("nan")] * 3] * 2}, "must be finite"),
        ({"importance": [[1.7e308, 0, 0]] * 2}, r"within ±1e\+30"),
        ({"importance": [["1", "2", "3"]] * 2}, "L lists of N numbers"),
        ({"importance": [[True, False, True]] * 2}, "L lists of N numbers"),
        ({"measure": "\x1b[31mred"}, "measure must be a short name"),
        ({"measure": {"a": 1}}, "measure must be a short name"),
        ({"examples": "abc"}, "examples must be a list of hashes"),
        ({"model": "other"}, "another model"),
        ({"importance": "x"}, "L lists of N numbers"),
        ({"importance": [[1], [1, 2]]}, "is not a head_importance.json"),
    ):
        record = (
            importance_file.importance_record(
                "attribution", IMPORTANCE, "model", "gold", ["a", "b"]
            )
            | changed
        )
        file.write_text(json.dumps(record))
        with pytest.raises(aa.InputError, match=message):
            importance_file.read_importance(file, (2, 3), "model")
    file.write_text("[" * 100_000)
    with pytest.raises(aa.InputError, match="nested too deeply"):
        importance_file.read_importance(file)
    file.write_text(
        json.dumps(
            importance_file.importance_record(
                "attribution", IMPORTANCE, "model", "gold", ["a", "b"]
            )
        )
    )
    record = importance_file.read_importance(file, (2, 3), "model")
    np.testing.assert_array_equal(record["importance"], IMPORTANCE)
    assert record["num_examples"] == 2 and record["target"] == "gold"


def test_top_heads_of_every_layer_are_kept():
    assert aa.keep_top_heads(IMPORTANCE, per_layer=2).tolist() == [[0, 1, 1], [1, 1, 0]]
    assert aa.keep_top_heads(IMPORTANCE, per_layer=0).sum() == 0
    assert aa.keep_top_heads(np.zeros((2, 3)), per_layer=1).tolist() == [[1, 0, 0], [1, 0, 0]]


def test_lowest_heads_of_all_layers_are_pruned():
    assert aa.prune_lowest_heads(IMPORTANCE, fraction=0.5).tolist() == [[1, 1, 1], [0, 0, 0]]
    assert aa.prune_lowest_heads(IMPORTANCE, fraction=0.3).tolist() == [[1, 1, 1], [1, 1, 0]]
    assert (
        aa.prune_lowest_heads(IMPORTANCE, 0).sum() == 6
        and aa.prune_lowest_heads(IMPORTANCE, 1).sum() == 0
    )


def test_heads_that_are_gone_are_not_kept_and_go_first(golden_model):
    smaller = aa.remove_heads(golden_model, [[0, 1, 1, 1], [1, 1, 1, 1], [0, 0, 0, 1]])
    present = aa.present_heads(smaller.config)
    # Of a head that is gone it is 0
    importance = np.asarray([[0, -1, -3, -2], [-4, -1, -2, -3], [0, 0, 0, -5]])
    assert aa.keep_top_heads(importance, np.int64(2), present).tolist() == [
        [0, 1, 0, 1],
        [0, 1, 1, 0],
        [0, 0, 0, 1],
    ]
    assert aa.prune_lowest_heads(importance, 0.25, present).tolist() == present.tolist(), (
        "three of the four that are gone"
    )
    assert aa.prune_lowest_heads(importance, 0.5, present).tolist() == [
        [0, 1, 1, 1],
        [0, 1, 1, 1],
        [0, 0, 0, 0],
    ]


def test_fractions_are_taken_as_written():
    assert num_to_prune(0.7, 90) == 63 != int(0.7 * 90)
    assert [num_to_prune(0.3, size) for size in (72, 144)] == [21, 43]


def test_listed_heads_are_pruned():
    mask = remove_listed_heads("0:1,2;1:0", 2, 3)
    assert mask.tolist() == [[1, 0, 0], [0, 1, 1]]
    assert listed_heads(mask, 0) == [[1, 2], [0]] and listed_heads(mask, 1) == [
        [0],
        [1, 2],
    ]


def test_random_importance_depends_on_the_seed():
    first = random_importance(2, 3, seed=0)
    assert np.unique(first).size == 6
    np.testing.assert_array_equal(first, random_importance(2, 3, seed=0))
    assert (first != random_importance(2, 3, seed=1)).any()


def test_top_heads_names_layers():
    assert reductions.top_heads(IMPORTANCE, 2, layers=(4, 5)) == [(4, 1, 0.4), (4, 2, 0.3)]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: aa.keep_top_heads(IMPORTANCE, 4), "0 to 3, the number of heads, not 4"),
        (lambda: aa.keep_top_heads([1.0, 2.0], 1), r"must be \[L, N\]"),
        (lambda: aa.keep_top_heads([[np.nan]], 1), "not finite"),
        (
            lambda: aa.keep_top_heads(IMPORTANCE, 3.0),
            "heads to keep per layer .*0 to 3, the number of heads, not 3.0",
        ),
        (lambda: aa.keep_top_heads([[1, 2], [3]]), r"importance must be \[L, N\], numbers"),
        (lambda: aa.prune_lowest_heads("a", 0.5), r"importance must be \[L, N\], numbers"),
        (
            lambda: aa.head_importance(np.zeros((2, 2, 4, 3, 3)), np.zeros((2, 3))),
            "attention_mask is 0 everywhere",
        ),
        (
            lambda: aa.sum_over_layers(np.zeros((2, 4))),
            r"attributions must be \[B, L, N, T, T\], not \[2, 4\]",
        ),
        (lambda: aa.attribution_tree(object()), "attributions must be numbers, not object"),
        (lambda: aa.keep_top_heads(IMPORTANCE, True), "heads to keep per layer .*not True"),
        (
            lambda: aa.keep_top_heads(IMPORTANCE, 1, present=[[1, 1, 1]]),
            r"present must be 0 or 1 for each head, \[2, 3\]",
        ),
        (lambda: aa.keep_top_heads(IMPORTANCE, 1, present=IMPORTANCE), "present must be 0 or 1"),
        (lambda: aa.prune_lowest_heads(IMPORTANCE, 1.1), "from 0 to 1, not 1.1"),
        (lambda: aa.prune_lowest_heads(IMPORTANCE, float("nan")), "from 0 to 1, not nan"),
        (lambda: aa.prune_lowest_heads(IMPORTANCE, True), "from 0 to 1, not True"),
        (lambda: remove_listed_heads("0;1", 2, 3), "layer:head,head"),
        (lambda: remove_listed_heads("2:0", 2, 3), "layers 0 to 1"),
        (lambda: remove_listed_heads("1:3", 2, 3), "heads 0 to 2"),
        (lambda: aa.head_importance(np.zeros((1, 2, 3, 4, 4)), np.zeros((1, 5))), r"\[B, T\]"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(aa.InputError, match=message):
        call()
