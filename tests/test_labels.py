"""What a label means: the table in `attattr_jax.data.labels`, row by row."""

import dataclasses
import json

import datasets
import jax
import numpy as np
import pytest
from conftest import WORDS, read_jsonl
from tiny_classifier import make_tiny

import attattr_jax as aa
from attattr_jax.commands import attribute, prune, train
from attattr_jax.data.labels import (
    assumption,
    class_index,
    class_indices,
    keeps_head,
    label_names,
    parse_labels,
)
from attattr_jax.data.splits import Split

SENTIMENT = {0: "negative", 1: "neutral", 2: "positive"}
RATINGS = {index: str(index + 1) for index in range(5)}
STARS = {0: "1 star", **{index: f"{index + 1} stars" for index in range(1, 5)}}
UNNAMED = {0: "LABEL_0", 1: "LABEL_1"}


def split_of(labels, names=None):
    texts = [f"text {at}" for at in range(len(labels or [0]))]
    raw_labels = None if labels is None else parse_labels(labels)
    return Split("train", "films.tsv", texts, None, raw_labels, names, range(2, 2 + len(texts)))


def test_values_of_a_column():
    assert (
        parse_labels(["1", " 0 ", "2.0"])
        == parse_labels([1, 0, 2])
        == parse_labels([1.0, False, 2.0])
        == [1, 0, 2]
    )
    assert parse_labels(["a ", "-", "", "-1", None]) == ["a", "-", None, -1, None]
    assert parse_labels([4.6, -1, float("nan"), "0.5"]) == [4.6, -1, None, 0.5]
    assert parse_labels(["01", "10"]) == ["01", "10"], (
        "a leading zero in each of one length: no numbers"
    )
    assert parse_labels(["00", "0", "1"]) == ["00", 0, 1]
    assert parse_labels(["-1", "", "-"]) is None and parse_labels([[1], 0, 10**400])[:2] == [
        (1,),
        0,
    ]


@pytest.mark.parametrize(
    ("labels", "data_names", "id2label", "expected"),
    [
        # Names on both sides: by name, whatever the indices are.
        ([0, 1], ["negative", "positive"], SENTIMENT, [0, 2]),
        (["positive", "negative"], None, SENTIMENT, [2, 0]),
        (
            [0, 1, 2],
            ["Entailment", "neutral", "contradiction"],
            {0: "contradiction", 1: "entailment", 2: "neutral"},
            [1, 2, 0],
        ),
        # With case folded, where one class is left; exactly, where there are two.
        (["Positive", "NEGATIVE"], None, SENTIMENT, [2, 0]),
        ([0, 1], ["positive", "negative"], {0: "NEGATIVE", 1: "POSITIVE"}, [1, 0]),
        (["us", "US"], None, {0: "US", 1: "us"}, [1, 0]),
        # Digits are names where the model's are.
        ([1, 3, 4], None, RATINGS, [0, 2, 3]),
        (["5", "1"], None, RATINGS, [4, 0]),
        ([0, 1], ["1", "5"], RATINGS, [0, 4]),
        # Nobody says names, or only the model does.
        ([1, 0], None, UNNAMED, [1, 0]),
        ([2, 0], None, SENTIMENT, [2, 0]),
        ([1, 0], ["0", "1"], SENTIMENT, [1, 0]),
        ([1, 0], None, {0: "B2B", 1: "B2C"}, [1, 0]),
        ([1, 0], None, {0: "other", 1: "covid-19"}, [1, 0]),
        (["LABEL_1", "LABEL_0"], None, UNNAMED, [1, 0]),
        # Only the data does: by position, if there are as many.
        ([1, 0], ["negative", "positive"], UNNAMED, [1, 0]),
        # No gold label, unless a class has that name.
        (["negative", "-", "positive", "", "-1"], None, SENTIMENT, [0, -1, 2, -1, -1]),
        (["+", "-"], None, {0: "+", 1: "-"}, [0, 1]),
        ([-1, 0, "1"], None, {0: "-1", 1: "0", 2: "1"}, [0, 1, 2]),
        ([-1, 1], ["no", "yes"], {0: "yes", 1: "no"}, [-1, 0]),
        # Numbers and truth values are names where class names are.
        ([1, "2.0", "5"], None, {index: f"{index + 1}.0" for index in range(5)}, [0, 1, 4]),
        ([0.5, 1], None, {0: "0.5", 1: "1"}, [0, 1]),
        ([True, False], None, {0: "True", 1: "False"}, [0, 1]),
        (["true", "false"], None, {0: "True", 1: "False"}, [0, 1]),
        ([True, False], None, UNNAMED, [1, 0]),
    ],
)
def test_labels_become_classes(labels, data_names, id2label, expected):
    found = class_indices(split_of(labels, data_names), id2label)
    assert found.tolist() == expected and found.dtype == np.int32


@pytest.mark.parametrize(
    ("labels", "data_names", "id2label", "message"),
    [
        (
            ["positive", "mixed"],
            None,
            SENTIMENT,
            r"row 3: label 'mixed' is not one of the model's classes \(negative, neutral, pos",
        ),
        ([2, 3], None, SENTIMENT, r"row 3: label 3 is not one of the model's classes \(negative"),
        ([0, 2], None, UNNAMED, r"row 3: label 2 is not one of the model's classes \(0 to 1\)"),
        (
            [0, 1],
            ["entailment", "not_entailment"],
            {0: "contradiction", 1: "entailment", 2: "neutral"},
            "row 3: label 'not_entailment' is",
        ),
        (
            [0],
            ["a", "b", "c"],
            UNNAMED,
            "films.tsv has the classes a, b, c; the model has 2 classes without names",
        ),
        (
            [0, 1],
            ["Good", "good"],
            {0: "good", 1: "bad"},
            r"two of its classes \(Good, good\) match one",
        ),
        (["positive"], None, UNNAMED, "row 2: label 'positive' is not one"),
        (["Us"], None, {0: "US", 1: "us"}, "row 2: label 'Us' is not one"),
        ([0, 1], None, RATINGS, "row 2: label 0 is not one of the model's classes"),
        (
            [0, 1],
            None,
            STARS,
            "row 2: label 0 may be an index, or a number in a name such as '1 star': use the names",
        ),
        (
            [0, 1],
            None,
            {0: "1", 1: "2", 2: "other"},
            r"row 2: label 0 is not one of the model's classes \(1, 2, other\)",
        ),
        (["x", 1], None, SENTIMENT, "row 3: label '1' beside 'x'"),
        ([1, "negative"], None, SENTIMENT, "row 3: label 'negative' beside '1'"),
        (["0.7", "0.3"], None, UNNAMED, "row 2: label 0.7 is a number but no class index"),
        ([1, -2], None, UNNAMED, "row 3: label -2 is negative"),
        (None, None, SENTIMENT, "films.tsv has no labels"),
    ],
)
def test_labels_that_are_no_classes_are_named(labels, data_names, id2label, message):
    with pytest.raises(aa.InputError, match=message):
        class_indices(split_of(labels, data_names), id2label)


def test_what_was_assumed_is_said():
    assert (
        assumption(split_of([0, 2]), SENTIMENT)
        == "labels are class indices, in the model's order: 0 = negative, 1 = neutral, 2 = positive"
    )
    by_position = assumption(split_of([0], ["negative", "positive"]), UNNAMED)
    assert (
        by_position
        == "the model does not name its classes; by position negative = LABEL_0, positive = LABEL_1"
    )
    for labels, data_names, id2label in (
        ([0, 1], ["negative", "positive"], SENTIMENT),
        (["negative"], None, SENTIMENT),
        ([0, 1], None, UNNAMED),
        ([1, 2], None, RATINGS),
    ):
        assert assumption(split_of(labels, data_names), id2label) is None


def test_a_head_is_kept_for_its_own_classes_only():
    by_position = split_of([0, 1], ["negative", "positive"])
    for split, model_names, kept in (
        (split_of([0, 1]), UNNAMED, True),
        (by_position, UNNAMED, True),
        (split_of(["negative", "positive"]), UNNAMED, False),
        (split_of([1, 2]), UNNAMED, False),
        (by_position, {0: "sports", 1: "politics"}, False),
        (split_of(["negative", "positive"]), SENTIMENT, True),
    ):
        assert keeps_head(split, model_names, label_names(split, model_names)) is kept


def test_one_class_by_name_or_index():
    assert class_index(-1, {0: "-1", 1: "1"}) == class_index("-1", {0: "-1", 1: "1"}) == 0
    assert [class_index(label, RATINGS) for label in ("4", "5", 5)] == [3, 4, 4]
    assert [
        class_index(label, SENTIMENT) for label in ("positive", "Positive", "2", 2, np.int64(0))
    ] == [2, 2, 2, 2, 0]
    assert class_index("LABEL_1", UNNAMED) == class_index("1", UNNAMED) == 1
    for label, id2label, message in (
        (
            "good",
            SENTIMENT,
            r"'good' is not one of the classes 0 \(negative\), 1 \(neutral\), 2 \(positive\)",
        ),
        ("3", SENTIMENT, "'3' is not one of the classes"),
        ("0", RATINGS, "'0' is not one of the classes"),
        ("1", STARS, "use the names"),
        ("", SENTIMENT, "'' is not one"),
    ):
        with pytest.raises(aa.InputError, match=message):
            class_index(label, id2label)


@pytest.mark.parametrize(
    ("labels", "data_names", "model_names", "expected"),
    [
        (["b", "a", "b"], None, None, {0: "a", 1: "b"}),
        (["b", "a"], None, {0: "b", 1: "a"}, {0: "b", 1: "a"}),
        # A model that knows all the names keeps its numbering: also more of them, and with case
        # folded.
        ([0, 1], ["negative", "positive"], SENTIMENT, SENTIMENT),
        (
            ["positive", "negative"],
            None,
            {0: "POSITIVE", 1: "NEGATIVE"},
            {0: "POSITIVE", 1: "NEGATIVE"},
        ),
        (
            [0, 1],
            ["entailment", "not_entailment"],
            {0: "a", 1: "entailment", 2: "b"},
            {0: "entailment", 1: "not_entailment"},
        ),
        ([0, 1], None, {0: "no", 1: "yes"}, {0: "no", 1: "yes"}),
        ([0, 1, 2], None, {0: "no", 1: "yes"}, {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}),
        ([0, 1], ["x", "y", "z"], None, {0: "x", 1: "y", 2: "z"}),
        # Ratings without a 0 are names.
        ([1, 5, 2, 4, 3], None, None, RATINGS),
        ([1, 3, 4], None, RATINGS, RATINGS),
        ([1, 2, 10], None, UNNAMED, {0: "1", 1: "2", 2: "10"}),
        (["a", "-", "b"], None, None, {0: "a", 1: "b"}),
        ([1, 0], None, {0: "B2B", 1: "B2C"}, {0: "B2B", 1: "B2C"}),
        ([1, -1, 0], None, {0: "-1", 1: "0", 2: "1"}, {0: "-1", 1: "0", 2: "1"}),
        ([True, False], None, {0: "True", 1: "False"}, {0: "True", 1: "False"}),
        ([0, 1, 2], None, RATINGS, {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}),
    ],
)
def test_classes_to_train_with(labels, data_names, model_names, expected):
    assert label_names(split_of(labels, data_names), model_names) == expected


def test_classes_that_cannot_be_trained_with():
    for labels, message in (
        ([1, 1], "at least two classes"),
        ([0, 900], "row 3: class index 900"),
        (["Good", "good", "bad"], "labels 'Good' and 'good' differ in case alone"),
        ([0.5, 1], "no class index; use --problem_type regression"),
    ):
        with pytest.raises(aa.InputError, match=message):
            label_names(split_of(labels))
    with pytest.raises(
        aa.InputError,
        match=(
            "labels 1 to 2 may be indices of the model's classes negative, neutral, positive, or"
            " names"
        ),
    ):
        label_names(split_of([1, 2]), SENTIMENT)
    for labels in ([0, 1, 2, 3, 4], [1, 2, 3]):
        with pytest.raises(
            aa.InputError, match="label . may be an index, or a number in a name such as '1 star'"
        ):
            label_names(split_of(labels), STARS)


TEXTS = ["the film is good .", "the plot is bad .", "a warm story", "a dull script"]


def saved_model(folder, names):
    """Save a random classifier with these class names; return its predictions for TEXTS."""
    tiny = make_tiny(WORDS)
    config = dataclasses.replace(tiny.config, num_labels=len(names))
    model = dataclasses.replace(
        tiny,
        config=config,
        params=aa.init_params(config, jax.random.key(4)),
        id2label=dict(enumerate(names)),
    )
    aa.save_classifier(model, folder)
    logits, _ = aa.forward(model.params, model.tokenize(TEXTS), config)
    return [names[index] for index in np.asarray(logits).argmax(-1)]


def class_label_file(file, names, labels):
    features = datasets.Features(
        text=datasets.Value("string"), label=datasets.ClassLabel(names=names)
    )
    datasets.Dataset.from_dict(
        {"text": TEXTS, "label": [names.index(name) for name in labels]}, features
    ).to_parquet(file)
    return str(file)


def run(script, *arguments, **named):
    options = [part for name, value in named.items() for part in (f"--{name}", str(value))]
    return script.main([*arguments, *options])


def test_class_label_data_on_a_model_with_more_classes(tmp_path, capsys):
    """The same rows as indices with names and as text: accuracy, and the class that --target gold
    explains.
    """
    predicted = saved_model(tmp_path / "model", list(SENTIMENT.values()))
    gold = [name if name != "neutral" else "positive" for name in predicted]
    file = class_label_file(tmp_path / "dev.parquet", ["negative", "positive"], gold)
    (tmp_path / "dev.tsv").write_text(
        "text\tlabel\n"
        + "".join(f"{text}\t{name}\n" for text, name in zip(TEXTS, gold, strict=True))
    )
    for source in (file, tmp_path / "dev.tsv"):
        assert run(train, "--eval_only", model=tmp_path / "model", dataset=source) == 0
        printed = json.loads(capsys.readouterr().out)
        assert printed["eval_accuracy"] == np.mean(
            [one == other for one, other in zip(predicted, gold, strict=True)]
        )
    more = {
        "checkpoint": tmp_path / "model",
        "dataset": file,
        "n_steps": 1,
        "save": "none",
        "output_dir": tmp_path / "out",
    }
    assert run(attribute, target="gold", **more) == 0
    assert [row["target"] for row in read_jsonl(tmp_path / "out" / "examples.jsonl")] == gold
    other = class_label_file(
        tmp_path / "other.parquet", ["entailment", "negative"], ["entailment"] * 4
    )
    assert run(train, "--eval_only", model=tmp_path / "model", dataset=other) == 2
    assert (
        "row 1: label 'entailment' is not one of the model's classes (neg"
        in capsys.readouterr().err
    )


def test_star_ratings_are_names(tmp_path, capsys):
    saved_model(tmp_path / "model", list(RATINGS.values()))
    lines = "".join(f"{text}\t{stars}\n" for text, stars in zip(TEXTS, (1, 3, 4, 5), strict=True))
    (tmp_path / "dev.tsv").write_text("text\tlabel\n" + lines)
    more = {
        "checkpoint": tmp_path / "model",
        "dataset": tmp_path / "dev.tsv",
        "n_steps": 1,
        "save": "none",
    }
    for target, expected in (("gold", ["1", "3", "4", "5"]), ("4", ["4"] * 4), ("5", ["5"] * 4)):
        assert run(attribute, target=target, output_dir=tmp_path / target, **more) == 0
        assert [
            row["target"] for row in read_jsonl(tmp_path / target / "examples.jsonl")
        ] == expected
    assert run(attribute, target="0", output_dir=tmp_path / "0", **more) == 2
    assert "--target" in capsys.readouterr().err and not (tmp_path / "0").exists()


@pytest.mark.usefixtures("standard_promotion")
def test_case_of_names_does_not_swap_classes(tmp_path):
    """A model with POSITIVE/NEGATIVE, trained with next to no learning rate on positive/negative,
    is what it was.
    """
    predicted = saved_model(tmp_path / "model", ["POSITIVE", "NEGATIVE"])
    lines = "".join(
        f"{text}\t{name.lower()}\n" for text, name in zip(TEXTS, predicted, strict=True)
    )
    both = lines + "".join(
        f"{text} .\t{name}\n"
        for text, name in zip(TEXTS[:2], ("positive", "negative"), strict=True)
    )
    for name, content in (("train.tsv", both), ("dev.tsv", lines)):
        (tmp_path / name).write_text("text\tlabel\n" + content)
    more = {"num_train_epochs": 1, "learning_rate": 1e-9, "output_dir": tmp_path / "run"}
    assert run(train, model=tmp_path / "model", dataset=tmp_path, **more) == 0
    assert aa.load_classifier(tmp_path / "run").id2label == {0: "POSITIVE", 1: "NEGATIVE"}
    assert json.loads((tmp_path / "run" / "run.json").read_text())["results"]["eval_accuracy"] == 1


@pytest.mark.usefixtures("standard_promotion")
def test_a_head_without_class_names_is_kept_for_indices(tmp_path, capsys):
    """transformers leaves LABEL_0 and LABEL_1 out of config.json."""
    predicted = saved_model(tmp_path / "model", ["LABEL_0", "LABEL_1"])
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(
        json.dumps({key: config[key] for key in config if "label" not in key})
    )
    lines = "".join(f"{text}\t{name[-1]}\n" for text, name in zip(TEXTS, predicted, strict=True))
    (tmp_path / "train.tsv").write_text(f"text\tlabel\n{lines}good\t0\nbad\t1\n")
    (tmp_path / "dev.tsv").write_text("text\tlabel\n" + lines)
    more = {"num_train_epochs": 1, "learning_rate": 1e-9, "output_dir": tmp_path / "run"}
    assert run(train, model=tmp_path / "model", dataset=tmp_path, **more) == 0
    assert "new, to be trained" not in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "run.json").read_text())["results"]["eval_accuracy"] == 1


@pytest.mark.usefixtures("standard_promotion")
def test_a_head_for_other_classes_is_new(tmp_path, capsys):
    saved_model(tmp_path / "model", ["sports", "politics"])
    for name in ("train.tsv", "dev.tsv"):
        (tmp_path / name).write_text("text\tlabel\ngood\tpositive\nbad\tnegative\n")
    more = {"num_train_epochs": 1, "output_dir": tmp_path / "run"}
    assert run(train, model=tmp_path / "model", dataset=tmp_path, **more) == 0
    assert "new, to be trained: classifier\n" in capsys.readouterr().err
    assert aa.load_classifier(tmp_path / "run").id2label == {0: "negative", 1: "positive"}


@pytest.mark.usefixtures("standard_promotion")
def test_examples_without_gold_label_are_counted_and_explained(tiny_folder, tmp_path, capsys):
    names = ["positive", "-", "negative", ""]
    lines = "text\tlabel\n" + "".join(
        f"{text}\t{name}\n" for text, name in zip(TEXTS, names, strict=True)
    )
    for name in ("train", "dev"):
        (tmp_path / f"{name}.tsv").write_text(lines)
    assert (
        run(
            train,
            model=tiny_folder,
            dataset=tmp_path,
            num_train_epochs=1,
            output_dir=tmp_path / "run",
        )
        == 0
    )
    said = capsys.readouterr().err
    assert f"{tmp_path / 'train.tsv'}: 2 of 4 examples have no gold label and are left out" in said
    assert "has no example of" not in said
    more = {"checkpoint": tmp_path / "run", "dataset": tmp_path, "n_steps": 1, "save": "none"}
    assert run(attribute, output_dir=tmp_path / "all", **more) == 0
    assert [row["label"] for row in read_jsonl(tmp_path / "all" / "examples.jsonl")] == [
        "positive",
        None,
        "negative",
        None,
    ]
    assert run(attribute, output_dir=tmp_path / "gold", target="gold", **more) == 0
    assert [row["target"] for row in read_jsonl(tmp_path / "gold" / "examples.jsonl")] == [
        "positive",
        "negative",
    ]
    capsys.readouterr()
    more = {"importance": "random", "output_dir": tmp_path / "pruning", "eval_split": "train"}
    assert run(prune, checkpoint=tmp_path / "run", **more) == 0
    assert "2 of 4 examples have no gold label" in capsys.readouterr().err
    assert json.loads((tmp_path / "pruning" / "pruning.json").read_text())["num_eval_examples"] == 2
    # A fraction, as of STS-B, is no class: it is left out where no gold label is needed.
    (tmp_path / "scores.tsv").write_text("text\tlabel\ngood film\t4.6\n")
    more = {
        "dataset": tmp_path / "scores.tsv",
        "n_steps": 1,
        "save": "none",
        "output_dir": tmp_path / "scores",
    }
    assert run(attribute, checkpoint=tmp_path / "run", **more) == 0
    assert "labels are left out: " in capsys.readouterr().err


@pytest.mark.usefixtures("standard_promotion")
def test_classes_without_an_example_are_said(tiny_folder, tmp_path, capsys):
    for name in ("train", "dev"):
        # As of Sentiment140, 0 and 4
        (tmp_path / f"{name}.tsv").write_text("text\tlabel\ngood\t3\nbad\t0\nflat\t0\nwarm\t3\n")
    assert (
        run(
            train,
            model=tiny_folder,
            dataset=tmp_path,
            num_train_epochs=1,
            output_dir=tmp_path / "run",
        )
        == 0
    )
    assert (
        f"warning: {tmp_path / 'train.tsv'} has no example of LABEL_1, LABEL_2"
        in capsys.readouterr().err
    )


def test_the_same_rule_in_python(tiny):
    texts = ["good film", "bad plot"]
    found = aa.explain_texts(
        tiny, texts, labels=["Positive", None], target="Negative", n_steps=1, token_level=False
    )
    assert [one.label for one in found] == ["positive", None] and [one.target for one in found] == [
        "negative"
    ] * 2
    with pytest.raises(
        aa.InputError, match="row 2 has no gold label: target 'gold' cannot be explained"
    ):
        aa.explain_texts(tiny, texts, labels=["positive", -1], target="gold", n_steps=1)
    with pytest.raises(aa.InputError, match="'neutral' is not one of the classes"):
        aa.explain_texts(tiny, texts, target="neutral", n_steps=1)
    with pytest.raises(
        aa.InputError, match="target must be 'predicted', 'gold', 'all', a class name or an index"
    ):
        aa.explain_texts(tiny, texts, target=np.array([0, 1]), n_steps=1)


def test_options_without_an_effect_are_refused(tiny_folder, tmp_path, capsys):
    for script, arguments, message in (
        (attribute, "--text a --split train", "--split has no effect without --dataset"),
        (attribute, "--text a --label_column x", "--label_column has no effect without --dataset"),
        (
            attribute,
            "--text a --tolerance 1e-2",
            "--tolerance has no effect without --n_steps auto",
        ),
        (
            attribute,
            "--text a --figure_examples 2",
            "--figure_examples has no effect without --figures",
        ),
        (attribute, "--text a --export_top_k 2", "--export_top_k has no effect without --export"),
        (attribute, "--text a --layers 0_1", "--layers '0_1': give different layers"),
        (
            attribute,
            "--dataset reviews --column_names a,b",
            "--column_names is for .tsv and .csv files, not for reviews",
        ),
        (
            attribute,
            "--dataset sst2 --skip_bad_rows",
            "--skip_bad_rows is for .tsv and .csv files, not for sst2",
        ),
        (prune, "--curve_seeds 2", "--curve_seeds has no effect without --curve"),
        (
            prune,
            "--prune_heads 0:1_0 --dataset reviews",
            "--prune_heads: '0:1_0' is not of the form",
        ),
    ):
        assert (
            run(script, *arguments.split(), checkpoint=tiny_folder, output_dir=tmp_path / "out")
            == 2
        )
        assert message in capsys.readouterr().err.splitlines()[-1]
        assert not (tmp_path / "out").exists()


def test_spaces_in_a_list_of_measures(trained_folder, tmp_path):
    more = {
        "importance": "random",
        "curve_importances": "random, attention",
        "curve_seeds": 1,
        "num_scoring_examples": 4,
    }
    assert (
        run(prune, "--curve", checkpoint=trained_folder, output_dir=tmp_path / "out", **more) == 0
    )
    record = json.loads((tmp_path / "out" / "pruning.json").read_text())
    assert [curve["measure"] for curve in record["curves"]] == ["random", "attention"]
