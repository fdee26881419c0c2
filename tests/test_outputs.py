"""Models with lists of labels, with one output, and one class explained rather than another."""

import json

import jax
import numpy as np
import pytest
from conftest import WORDS, read_jsonl

import attattr_jax as aa
from attattr_jax.commands import attribute, prune, train
from attattr_jax.data import gold
from attattr_jax.data.splits import load_split
from attattr_jax.training.evaluation import metrics

TEXTS = ["the film is good", "the plot is bad", "good film bad plot", "a dull film"]


@pytest.fixture(scope="module")
def topics(tmp_path_factory):
    """A folder with lists of labels: which of three words a text has."""
    folder = tmp_path_factory.mktemp("topics")
    random = np.random.default_rng(0)
    for split, count in (("train", 48), ("dev", 12)):
        lines = []
        for _ in range(count):
            words = random.choice(["film", "plot", "good", *WORDS[:3]], 4).tolist()
            labels = [name for name in ("film", "plot", "good") if name in words]
            lines.append(json.dumps({"text": " ".join(words), "labels": labels}))
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def run(main, line):
    with jax.numpy_dtype_promotion("standard"):
        return main(line.split())


def test_lists_of_labels_are_trained_explained_and_shown(tiny_folder, topics, tmp_path, capsys):
    model = tmp_path / "model"
    recipe = f"--model {tiny_folder} --dataset {topics} --output_dir {model} --train_batch_size 8"
    assert run(train.main, f"{recipe} --num_train_epochs 12 --learning_rate 3e-3") == 0
    fields = json.loads((model / "config.json").read_text())
    assert fields["problem_type"] == "multi_label_classification"
    assert sorted(fields["label2id"]) == ["film", "good", "plot"]
    results = json.loads((model / "run.json").read_text())["results"]
    assert results["eval_micro_f1"] > 0.5 and 0 <= results["eval_macro_f1"] <= 1
    capsys.readouterr()
    assert run(train.main, f"--model {model} --dataset {topics} --eval_only") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["eval_micro_f1"] == pytest.approx(results["eval_micro_f1"])

    explain = f"--checkpoint {model} --dataset {topics} --max_examples 3 --target all --n_steps 8"
    assert run(attribute.main, explain) == 0
    rows = read_jsonl(model / "attribution" / "examples.jsonl")
    expected = load_split(str(topics), "validation").raw_labels[:3]
    assert [row["target"] for row in rows] == ["film", "good", "plot"] * 3
    assert [sorted(row["labels"]) for row in rows[::3]] == [sorted(each) for each in expected]
    for row in rows:
        probabilities = row["probabilities"]
        for name, logit in row["logits"].items():
            assert probabilities[name] == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-6)
        assert row["score"] == pytest.approx(probabilities[row["target"]], abs=1e-6)
        assert row["predicted_labels"] == [n for n, value in probabilities.items() if value > 0.5]
    assert run(attribute.main, f"--checkpoint {model} --text good --target gold") == 2
    assert run(attribute.main, f"{explain.replace('all', 'gold')} --overwrite") == 2
    assert "has lists of labels: target 'gold' is not one of them" in capsys.readouterr().err
    assert run(prune.main, f"--checkpoint {model}") == 2
    assert "heads are ranked and pruned by one gold class" in capsys.readouterr().err


def test_numbers_are_trained_by_their_square_error(tiny_folder, tmp_path, capsys):
    lines = [
        f"{text}\t{score}" for text, score in zip(TEXTS * 4, [4.5, 1, 2.5, 0] * 4, strict=True)
    ]
    for name in ("train.tsv", "dev.tsv"):
        (tmp_path / name).write_text("text\tlabel\n" + "\n".join(lines) + "\n")
    model = tmp_path / "model"
    recipe = f"--model {tiny_folder} --dataset {tmp_path} --output_dir {model} --train_batch_size 4"
    assert run(train.main, f"{recipe} --num_train_epochs 15 --learning_rate 1e-2") == 0
    fields = json.loads((model / "config.json").read_text())
    assert (fields["problem_type"], len(fields["id2label"])) == ("regression", 1)
    results = json.loads((model / "run.json").read_text())["results"]
    assert results["eval_pearson"] > 0.9 and results["eval_spearman"] > 0.9
    assert run(attribute.main, f"--checkpoint {model} --text good --n_steps 3") == 0
    assert "has one output, which is explained: --objective logit" in capsys.readouterr().err
    options = json.loads((model / "attribution" / "run.json").read_text())["options"]
    assert options["objective"] == "logit"
    (one,) = aa.explain_texts(aa.load_classifier(model), ["good"], n_steps=3)
    assert one.objective == "logit" and one.score == pytest.approx(next(iter(one.logits.values())))


def test_metrics_by_hand():
    logits = np.asarray([[2.0, -1], [1, 3], [-2, 0.5]])
    labels = np.asarray([[1, 1], [1, 1], [0, 0]])
    found = metrics(logits, labels, problem_type=gold.MULTI_LABEL)
    # Hits 2 and 1, predicted 2 and 2, gold 2 and 2.
    assert found["micro_f1"] == pytest.approx(2 * 3 / 8)
    assert found["macro_f1"] == pytest.approx((1 + 2 / 4) / 2)
    assert found["accuracy"] == pytest.approx(1 / 3)
    terms = [*(np.log1p(np.exp(-x)) for x in (2, -1, 1, 3)), *map(np.log1p, np.exp([-2, 0.5]))]
    assert found["loss"] == pytest.approx(np.mean(terms))
    found = metrics(
        np.asarray([[1.0], [2], [4]]), np.asarray([1.0, 3, 2]), None, None, "regression"
    )
    assert found["loss"] == pytest.approx(5 / 3)
    assert found["spearman"] == pytest.approx(0.5)
    assert found["pearson"] == pytest.approx(1 / np.sqrt(14 / 3 * 2), abs=1e-12)
    constant = metrics(np.zeros((3, 1)), np.asarray([1.0, 3, 2]), None, None, "regression")
    assert constant["pearson"] == constant["spearman"] == 0


def test_several_columns_of_0_and_1_are_lists(tmp_path):
    file = tmp_path / "toxic.csv"
    file.write_text("text,toxic,insult\na,0,1\nb,1,true\nc,0,0.0\nd,,\n")
    from attattr_jax.data.readers import Columns

    split = load_split(str(file), "train", Columns(label="toxic,insult"))
    assert split.raw_labels == [("insult",), ("toxic", "insult"), (), None]
    kept = gold.with_gold(split, {}, gold.MULTI_LABEL)
    names = gold.class_names(kept, {}, gold.MULTI_LABEL)
    assert names == {0: "insult", 1: "toxic"}
    assert gold.gold_labels(kept, names, gold.MULTI_LABEL).tolist() == [[1, 0], [1, 1], [0, 0]]
    file.write_text("text,toxic,insult\na,0,2\n")
    with pytest.raises(aa.InputError, match="toxic.csv, row 2: 'insult' is '2', not 0 or 1"):
        load_split(str(file), "train", Columns(label="toxic,insult"))
    with pytest.raises(aa.InputError, match="no column 'toxic,rude'"):
        load_split(str(file), "train", Columns(label="toxic,rude"))


@pytest.mark.parametrize(
    ("labels", "problem_type", "said"),
    [
        ([["a"], "b"], gold.MULTI_LABEL, "row 2: label 'b' is no list"),
        (
            [["a"], ["b"]],
            gold.SINGLE_LABEL,
            r"row 1: label \[a\] is a list; this model has one class",
        ),
        ([1, "x"], gold.REGRESSION, "row 2: label 'x' is no number"),
        ([["a"], ["c"]], gold.MULTI_LABEL, "row 2: label 'c' is not one of the model's classes"),
        ([["a"], ["b", "-"]], gold.MULTI_LABEL, "row 2: '-' in a list of labels is no class"),
        ([["a"], ["b", "-"]], gold.MULTI_LABEL, "row 2: '-' in a list of labels is no class"),
    ],
)
def test_labels_of_another_kind_are_named(tmp_path, labels, problem_type, said):
    rows = [json.dumps({"text": "a", "label": label}) for label in labels]
    (tmp_path / "train.jsonl").write_text("\n".join(rows))
    split = load_split(str(tmp_path), "train")
    names = {0: "a", 1: "b"} if problem_type != gold.REGRESSION else {0: "LABEL_0"}
    with pytest.raises(aa.InputError, match=said):
        gold.gold_labels(split, names, problem_type)


@pytest.mark.parametrize("n_steps", [8, "auto"])
def test_contrast_is_the_difference_of_two_logits(golden_model, golden_batch, n_steps):
    arguments = golden_model.params, golden_batch, golden_model.config
    logits = np.asarray(aa.forward(*arguments)[0])
    order = np.argsort(-logits, axis=1)
    result = aa.attribute_attention(*arguments, objective="contrast", n_steps=n_steps)
    assert (np.asarray(result.target) == order[:, 0]).all()
    assert (np.asarray(result.contrast) == order[:, 1]).all()
    expected = np.take_along_axis(logits, order, 1)
    np.testing.assert_allclose(result.score, expected[:, 0] - expected[:, 1], rtol=1e-5)
    # F is linear in logits: so are attributions, with the same nodes.
    if n_steps == 8:
        parts = [
            aa.attribute_attention(*arguments, objective="logit", n_steps=8, target=target)
            for target in order.T[:2].astype(np.int32)
        ]
        difference = np.asarray(parts[0].attributions) - np.asarray(parts[1].attributions)
        np.testing.assert_allclose(result.attributions, difference, atol=2e-5)
    other = aa.attribute_tokens(*arguments, objective="contrast", target=1, contrast=0, n_steps=4)
    np.testing.assert_allclose(other.score, logits[:, 1] - logits[:, 0], rtol=1e-4, atol=1e-5)
    assert (np.asarray(other.contrast) == 0).all()


def test_contrast_is_refused_where_there_is_none(golden_model, golden_batch, regression_folder):
    arguments = golden_model.params, golden_batch, golden_model.config
    for keywords, said in (
        ({"contrast": 1}, "contrast goes with objective 'contrast'"),
        ({"objective": "contrast", "target": 1, "contrast": 1}, "contrast is the target itself"),
        ({"objective": "contrast", "contrast": 9}, "contrast 9 is out of range"),
        ({"objective": "contrast", "contrast": "second"}, "contrast must be 'runner_up'"),
    ):
        with pytest.raises(aa.InputError, match=said):
            aa.attribute_attention(*arguments, n_steps=2, **keywords)
    model = aa.load_classifier(regression_folder)
    with pytest.raises(aa.InputError, match="'contrast' needs two classes"):
        aa.explain_texts(model, ["good"], objective="contrast", n_steps=2)


def test_a_class_is_not_contrasted_with_itself(tiny):
    (one,) = aa.explain_texts(tiny, TEXTS[:1], n_steps=2)
    with pytest.raises(aa.InputError, match=f"contrast names '{one.predicted}', the class that is"):
        aa.explain_texts(tiny, TEXTS[:1], objective="contrast", contrast=one.predicted, n_steps=2)


def test_all_classes_of_a_text_follow_each_other(tiny):
    explained = aa.explain_texts(tiny, TEXTS[:2], target="all", n_steps=3)
    assert [one.target for one in explained] == ["negative", "positive"] * 2
    assert [one.index for one in explained] == [0, 1, 2, 3]
    alone = aa.explain_texts(tiny, TEXTS[1:2], target="positive", n_steps=3)[0]
    np.testing.assert_allclose(explained[3].attributions, alone.attributions, atol=1e-6)
    one = aa.explain_texts(tiny, TEXTS[:1], objective="contrast", n_steps=3)[0]
    other = {"negative": "positive", "positive": "negative"}[one.predicted]
    assert (one.contrast, one.objective) == (other, "contrast")
    assert f"for {one.predicted} rather than {other}" in one.summary()


def test_longer_texts_are_explained_in_windows(tiny, tmp_path):
    long = " ".join(["good film bad plot dull"] * 9)  # 45 tokens; the model reads 30 of them
    explained = aa.explain_texts(tiny, [long, "good"], n_steps=3, stride=10)
    windows = [one.window for one in explained]
    assert [each and (each["text"], each["number"], each["count"]) for each in windows] == [
        (0, 0, 2),
        (0, 1, 2),
        None,
    ]
    first, second, short = explained
    assert first.offsets[21:31] == second.offsets[1:11], "they share ten tokens"
    assert second.offsets[-2][1] == len(long), "to the end of the text"
    for name, mean in windows[0]["means"].items():
        values = [one.probabilities[name] for one in (first, second)]
        assert mean == pytest.approx(np.mean(values), abs=1e-6)
    (alone,) = aa.explain_texts(tiny, ["good"], n_steps=3)
    np.testing.assert_allclose(short.attributions, alone.attributions, atol=1e-6)
    tiny_model = tmp_path / "model"
    aa.save_classifier(tiny, tiny_model)
    (tmp_path / "long.txt").write_text(long + "\n")
    common = f"--checkpoint {tiny_model} --text_file {tmp_path / 'long.txt'} --n_steps 3"
    assert run(attribute.main, f"{common} --stride 10 --target all") == 0
    stored = aa.load_attributions(tiny_model / "attribution")
    assert [one.window["number"] for one in stored] == [0, 0, 1, 1]
    np.testing.assert_allclose(
        stored[0].attributions,
        np.asarray(aa.explain_texts(tiny, [long], n_steps=3, stride=10, target=0)[0].attributions),
        atol=1e-6,
    )
    assert "window 1 of 2; the whole text: " in (tiny_model / "attribution/report.html").read_text()


def test_windows_that_cannot_be_are_refused(tiny, capsys):
    for texts, pairs, stride, said in (
        (["good"], ["bad"], 2, "stride is for single texts and a fast tokenizer, not for sentence"),
        (["good"], None, 30, "must be from 0 to below 30, not 30"),
    ):
        with pytest.raises(aa.InputError, match=said):
            aa.explain_texts(tiny, texts, pairs, stride=stride, n_steps=2)


def test_token_gradients_start_from_the_token_that_is_named(tiny):
    mask = tiny.tokenizer.mask_token_id
    batch = tiny.tokenize(["good film"])
    arguments = tiny.params, batch, tiny.config
    expected = aa.attribute_tokens(*arguments, baseline_token_id=mask, n_steps=8)
    for named in ("mask", mask):
        (one,) = aa.explain_texts(tiny, ["good film"], token_baseline=named, token_n_steps=8)
        np.testing.assert_allclose(one.token_attributions, expected.attributions[0], atol=1e-6)
        assert one.token_baseline == "[MASK]"
    for wrong, said in (("unk", "must be 'pad', 'mask' or the id"), (9999, "id from 0 to")):
        with pytest.raises(aa.InputError, match=said):
            aa.explain_texts(tiny, ["good film"], token_baseline=wrong, n_steps=2)
