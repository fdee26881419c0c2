import dataclasses
import json
import os

import datasets
import numpy as np
import pytest

import attattr_jax as aa
from attattr_jax.data import readers
from attattr_jax.data.batches import (
    BUCKETS,
    Encoded,
    data_fingerprint,
    encode,
    inference_batches,
    shuffled_batches,
)
from attattr_jax.data.splits import (
    GLUE_TASKS,
    Split,
    dataset_name,
    evaluation_splits,
    load_lines,
    load_split,
    task_name,
)
from attattr_jax.runtime import sharding


def write(folder, name, content):
    file = folder / name
    file.write_text(content, encoding="utf-8")
    return str(file)


def test_tsv_is_read_as_text(tmp_path):
    file = write(
        tmp_path,
        "films.tsv",
        'sentence\tlabel\n"quoted at the start\t0\nNA\t1\nnull\t0\n3\t1\nit \'s "fine"\t1\n',
    )
    split = load_split(file, "validation")
    assert split.texts == ['"quoted at the start', "NA", "null", "3", 'it \'s "fine"']
    assert split.raw_labels == [0, 1, 0, 1, 1] and split.text_pairs is None
    assert split.row(1) == f"{file}, row 3"


def test_formats_agree(tmp_path):
    rows = [
        {"premise": "a, b", "hypothesis": 'c "d"', "label": "no"},
        {"premise": "e", "hypothesis": "f", "label": "yes"},
    ]
    write(tmp_path, "a.csv", 'premise,hypothesis,label\n"a, b","c ""d""",no\ne,f,yes\n')
    write(tmp_path, "a.tsv", 'premise\thypothesis\tlabel\na, b\tc "d"\tno\ne\tf\tyes\n')
    write(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)) + "\n")
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "a.parquet")
    for suffix in ("csv", "tsv", "jsonl", "parquet"):
        split = load_split(str(tmp_path / f"a.{suffix}"), "train")
        assert (split.texts, split.text_pairs, split.raw_labels) == (
            ["a, b", "e"],
            ['c "d"', "f"],
            ["no", "yes"],
        ), suffix


def test_spreadsheet_habits(tmp_path):
    rows = '\ufeff,sentence,label\r\n0,good,1\r\n\r\n1,"two\nlines",0\r\n2,bad,0\r\n'
    (tmp_path / "a.CSV").write_text(rows, encoding="utf-8", newline="")
    split = load_split(str(tmp_path / "a.CSV"), "train")
    assert split.texts == ["good", "two\nlines", "bad"] and split.raw_labels == [1, 0, 0]
    assert [split.row(index).rsplit(" ", 1)[1] for index in range(3)] == ["2", "4", "6"]
    assert split.select([2]).row(0).endswith("row 6")
    file = write(
        tmp_path, "a.jsonl", '{"sentence": "a", "label": 1.0}\n{"sentence": "b", "label": 0.0}\n'
    )
    assert load_split(file, "train").raw_labels == [1, 0]


def test_json_lines_are_named_by_their_row(tmp_path):
    for content, message in (
        ('\n{"sentence": "a"}\n{broken\n', "row 3: not JSON"),
        ('{"sentence": "a"}\n[1]\n', "row 2: not a JSON object"),
        ('{"sentence": "a"}\n{"sentence": "\\ud800"}\n', "row 2: 'sentence' has a lone surrogate"),
    ):
        with pytest.raises(aa.InputError, match=message):
            load_split(write(tmp_path, "a.jsonl", content), "train")
    (tmp_path / "b.jsonl").write_bytes(b'{"sentence": "\xe9"}\n')
    with pytest.raises(aa.InputError, match=r"b.jsonl is not UTF-8"):
        load_split(str(tmp_path / "b.jsonl"), "train")


def test_files_are_read_as_they_are_now(tmp_path):
    folder = tmp_path / "od[1]d"
    folder.mkdir()
    file = folder / "a.tsv"
    for text in ("good", "evil" + "l" * 200_000):
        file.write_text(f"sentence\tlabel\n{text}\t1.0\n")
        os.utime(file, (1, 1))
        split = load_split(str(file), "train")
        assert split.texts == [text] and split.raw_labels == [1]


def test_hidden_labels_are_none(tmp_path):
    assert (
        load_split(write(tmp_path, "a.tsv", "sentence\tlabel\na\t-1\nb\t-1\n"), "test").raw_labels
        is None
    )


def test_examples_without_a_gold_label_are_none(tmp_path):
    rows = [("a", "1"), ("b", "-"), ("c", ""), ("d", "-1"), ("e", "0")]
    file = write(
        tmp_path,
        "a.tsv",
        "sentence\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows),
    )
    split = load_split(file, "train")
    assert split.raw_labels == [1, "-", None, -1, 0]
    labelled = split.with_gold_labels({0: "no", 1: "yes"})
    assert (labelled.texts, labelled.raw_labels) == (["a", "e"], [1, 0]) and labelled.row(
        1
    ).endswith("row 6")


def test_values_of_json_stay_what_they_are(tmp_path):
    lines = [
        '{"text": "2020-01-01", "label": 4.6}',
        '{"text": "2021-02-03T10:00:00"}',
        '{"text": "x", "label": null}',
    ]
    split = load_split(write(tmp_path, "a.jsonl", "\n".join(lines)), "train")
    assert split.texts == ["2020-01-01", "2021-02-03T10:00:00", "x"] and split.raw_labels == [
        4.6,
        None,
        None,
    ]


def test_glue_folders_as_they_are_published(tmp_path):
    """CoLA and SciTail have no header, QQP's label is `is_duplicate`, MNLI's test split is
    `test_matched`.
    """
    write(
        tmp_path,
        "train.tsv",
        "gj04\t1\t\tOur friends won't buy this.\ngj04\t0\t*\tThey drank the pub.\n",
    )
    write(tmp_path, "test.tsv", "index\tsentence\n0\tBill whistled past the house.\n")
    train, test = (load_split(str(tmp_path), split) for split in ("train", "test"))
    assert train.texts == [
        "Our friends won't buy this.",
        "They drank the pub.",
    ] and train.raw_labels == [1, 0]
    assert train.row(0).endswith("row 1") and test.texts == ["Bill whistled past the house."]
    scitail = load_split(
        write(tmp_path, "s.tsv", "A premise.\tA claim.\tentails\nB.\tC.\tneutral\n"), "train"
    )
    assert (scitail.texts, scitail.text_pairs, scitail.raw_labels) == (
        ["A premise.", "B."],
        ["A claim.", "C."],
        ["entails", "neutral"],
    )
    header = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
    assert load_split(
        write(tmp_path, "q.tsv", header + "1\t2\t3\ta?\tb?\t1\n"), "train"
    ).raw_labels == [1]
    write(tmp_path, "test_matched.tsv", "sentence1\tsentence2\nm\tn\n")
    (tmp_path / "test.tsv").unlink()
    assert load_split(str(tmp_path), "test").texts == ["m"]
    assert {"qqp", "wnli", "stsb"} <= set(GLUE_TASKS)


def test_a_file_without_header_loses_no_example(tmp_path):
    file = write(tmp_path, "a.tsv", "1\tthe first sentence of this file\n0\tanother one\n")
    with pytest.raises(
        aa.InputError, match="if these are no names, name the columns with --column_names"
    ):
        load_split(file, "train")
    with pytest.raises(
        aa.InputError,
        match="has no header, its first line is an example: name the columns with --column_names",
    ):
        load_split(
            file, "train", readers.Columns(text="the first sentence of this file", label="1")
        )
    with pytest.raises(aa.InputError, match="its first line is an example"):
        load_split(
            write(tmp_path, "b.tsv", "one sentence that is rather long\nanother\n"),
            "train",
            readers.Columns("one sentence that is rather long"),
        )
    survey = write(
        tmp_path, "survey.csv", "How did you like this film of ours?,Rating\ngood,1\nbad,0\n"
    )
    columns = readers.Columns("How did you like this film of ours?", label="Rating")
    assert load_split(survey, "train", columns).texts == ["good", "bad"], "a header may be long"
    split = load_split(file, "train", readers.Columns(names=("label", "sentence")))
    assert split.texts == [
        "the first sentence of this file",
        "another one",
    ] and split.raw_labels == [1, 0]
    with pytest.raises(aa.InputError, match=r"row 1: 2 fields, --column_names has 3 \(a, b, c\)"):
        load_split(file, "train", readers.Columns(names=("a", "b", "c")))
    with pytest.raises(aa.InputError, match=r"--column_names is for .tsv and .csv files"):
        load_split(
            write(tmp_path, "a.jsonl", '{"text": "a"}'), "train", readers.Columns(names=("a",))
        )


def test_bad_rows_are_left_out_only_when_asked(tmp_path):
    file = write(tmp_path, "a.tsv", "sentence\tlabel\na\t1\nb\t0\tmore\nc\nd\t0\n")
    with pytest.raises(
        aa.InputError, match="row 3: 3 fields.*; --skip_bad_rows leaves such rows out"
    ):
        load_split(file, "train")
    split = load_split(file, "train", readers.Columns(skip_bad_rows=True))
    assert (split.texts, split.raw_labels, split.num_skipped) == (
        ["a", "d"],
        [1, 0],
        2,
    ) and split.row(1).endswith("row 5")


def test_a_quotation_mark_that_is_not_closed_is_named_with_its_row(tmp_path):
    file = write(tmp_path, "a.csv", 'sentence,label\n"a, b",1\n"two\nlines",0\n"open,1\nmore,0\n')
    with pytest.raises(
        aa.InputError, match="row 5: not rows and columns: a quotation mark is not closed"
    ):
        load_split(file, "train")


def test_usual_columns_are_found_in_any_case(tmp_path):
    split = load_split(write(tmp_path, "a.csv", "\nText, Label\ngood,1\n"), "train")
    assert split.texts == ["good"] and split.raw_labels == [1]
    both = readers.find_columns(["Sentence", "sentence", "Label"], "file", readers.Columns())
    assert both == ("sentence", None, "Label"), "the exact name first"


def test_lines_of_a_file(tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("\ufefffirst\u2028still\r\nsecond\n\n", encoding="utf-8", newline="")
    split = load_lines(str(file))
    assert split.texts == ["first\u2028still", "second"]
    file.write_text("first\n\nthird\n")
    with pytest.raises(aa.InputError, match="texts.txt, row 2: 'text' is empty"):
        load_lines(str(file))


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("sentence\tlabel", ("sentence", None, "label")),
        ("index\tquestion\tsentence\tlabel", ("question", "sentence", "label")),
        ("index\tsentence1\tsentence2\tgold_label", ("sentence1", "sentence2", "gold_label")),
        ("Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", ("#1 String", "#2 String", "Quality")),
        ("text\tstars", ("text", None, None)),
    ],
)
def test_usual_columns_are_found(header, expected):
    assert readers.find_columns(header.split("\t"), "file", readers.Columns()) == expected


def test_columns_can_be_named(tmp_path):
    file = write(tmp_path, "a.tsv", "x\ty\tz\nfirst\tsecond\t1\n")
    split = load_split(file, "train", readers.Columns("y", "x", "z"))
    assert (split.texts, split.text_pairs, split.raw_labels) == (["second"], ["first"], [1])


def test_folder_splits_go_by_their_usual_names(tmp_path):
    for name in ("train", "dev", "test"):
        write(tmp_path, f"{name}.tsv", f"sentence\tlabel\n{name}\t0\n")
    assert [
        load_split(str(tmp_path), split).texts for split in ("train", "validation", "test")
    ] == [["train"], ["dev"], ["test"]]


def test_reviews_are_as_promised():
    train, validation, test = (
        load_split("reviews", split) for split in ("train", "validation", "test")
    )
    assert len(train) + len(validation) >= 800
    texts = train.texts + validation.texts + test.texts
    assert len(set(texts)) == len(texts), "no text twice, in one split or in two"
    for split in (train, validation, test):
        assert 0.44 <= np.mean([label == "positive" for label in split.raw_labels]) <= 0.56
    pairs = list(zip(test.raw_labels[::2], test.raw_labels[1::2], strict=True))
    assert all(set(pair) == {"positive", "negative"} for pair in pairs), (
        "minimal pairs differ in their label"
    )


def test_glue_task_from_the_hub(monkeypatch):
    rows = {"question": ["q"], "sentence": ["s"], "label": [1]}
    features = datasets.Features(
        question=datasets.Value("string"),
        sentence=datasets.Value("string"),
        label=datasets.ClassLabel(names=["entailment", "not"]),
    )
    asked = []

    def load_dataset(*where):
        asked.append(where)
        return {"train": datasets.Dataset.from_dict(rows, features)}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    split = load_split("qnli", "train")
    assert asked == [("nyu-mll/glue", "qnli")]
    assert (split.texts, split.text_pairs, split.raw_labels) == (["q"], ["s"], [1])
    assert split.label_names == ["entailment", "not"]
    with pytest.raises(aa.InputError, match="has no split 'test'; it has train"):
        load_split("qnli", "test")


def test_unreachable_hub_names_the_offline_choices():
    with pytest.raises(
        aa.InputError,
        match=(
            r"sst2 .*cannot be had from the Hub.*reviews, which is shipped, or a folder with"
            r" train.tsv"
        ),
    ):
        load_split("sst2", "train")


def test_mnli_has_two_evaluation_splits(tmp_path, monkeypatch):
    both = {"eval": "validation", "eval_mismatched": "validation_mismatched"}
    assert evaluation_splits("mnli") == both
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mnli").mkdir()
    assert evaluation_splits("mnli") == both, "a folder without data is not the task"
    write(tmp_path / "mnli", "dev.tsv", "sentence1\tsentence2\na\tb\n")
    assert evaluation_splits("mnli") == {"eval": "validation"}, (
        "a folder with data is not the task of the Hub"
    )
    assert load_split("mnli", "validation_matched").texts == ["a"]
    assert evaluation_splits("rte") == {"eval": "validation"}
    for name in ("train", "dev_matched", "dev_mismatched"):
        write(tmp_path, f"{name}.tsv", f"sentence1\tsentence2\tgold_label\n{name}\tb\tneutral\n")
    assert evaluation_splits(str(tmp_path)) == both
    assert load_split(str(tmp_path), "validation_mismatched").texts == ["dev_mismatched"]
    assert load_split(str(tmp_path), "validation").texts == ["dev_matched"]


def test_names_of_data_sets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "films.tsv").touch()
    assert dataset_name("some/films") == "films" and dataset_name("films.tsv") == "films"
    assert dataset_name(".") == tmp_path.name
    assert [task_name(name) for name in ("sst2", "path/SST-2", "glue/CoLA", "MRPC/")] == [
        "sst2",
        "sst2",
        "cola",
        "mrpc",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("sentence\tlabel\n", "has no examples"),
        ("a\tb\nx\t1\n", "none of the usual text columns, only a, b: name one with --text_column"),
        ("sentence\tlabel\ngood\t1\n \t0\n", r"films.tsv, row 3: 'sentence' is empty"),
        (
            "sentence\tlabel\ngood\t1\nbad\n",
            r"films.tsv, row 3: 1 fields, the header has 2 \(sentence, label\), separated by tabs",
        ),
        ("sentence\tlabel\ngood\t1\textra\n", r"films.tsv, row 2: 3 fields"),
        ("sentence\tsentence\ngood\t1\n", "two columns have the same name"),
        ("sentence\ngood\n\nbad\n", r"films.tsv, row 3: 'sentence' is empty"),
    ],
)
def test_bad_files_are_named_with_their_row(tmp_path, content, message):
    file = write(tmp_path, "films.tsv", content)
    with pytest.raises(aa.InputError, match=message):
        load_split(file, "train")


def test_missing_things_are_named(tmp_path):
    with pytest.raises(aa.InputError, match="no such file or folder"):
        load_split(str(tmp_path / "missing.tsv"), "train")
    with pytest.raises(aa.InputError, match="has no train file: name one train.tsv"):
        load_split(str(tmp_path), "train")
    file = write(tmp_path, "films.tsv", "sentence\tlabel\na\t1\n")
    with pytest.raises(
        aa.InputError, match=r"no column 'body' \(--text_column\); it has sentence, label"
    ):
        load_split(file, "train", readers.Columns(text="body"))
    binary = tmp_path / "binary.tsv"
    binary.write_bytes(b"sentence\tlabel\n\xff\xfe\t1\n")
    with pytest.raises(
        aa.InputError, match=r"binary.tsv is not UTF-8 text: row 2: invalid start byte"
    ):
        load_split(str(binary), "train")


def test_long_texts_are_cut_and_counted(tiny):
    split = Split("texts", "--text", ["good", "film " * 5000, "the plot " * 20], None, None)
    encoded = encode(tiny, split, 32)
    assert [len(ids) for ids in encoded.input_ids] == [3, 32, 32]
    assert encoded.input_ids[1][-1] == tiny.tokenizer.sep_token_id
    assert [len(row) for row in encoded.offsets] == [3, 32, 32]
    assert (encoded.num_truncated, encoded.num_cut_tokens) == (2, 4970 + 10)


@pytest.mark.parametrize("max_length", [32, 7])
def test_python_tokenizers_give_the_same_tokens_without_offsets(tiny, tmp_path, capfd, max_length):
    from transformers import BertJapaneseTokenizer

    vocabulary = tiny.tokenizer.convert_ids_to_tokens(range(len(tiny.tokenizer)))
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    tokenizer = BertJapaneseTokenizer(
        tmp_path / "vocab.txt", word_tokenizer_type="basic", subword_tokenizer_type="wordpiece"
    )
    aa.save_classifier(dataclasses.replace(tiny, tokenizer=tokenizer), tmp_path / "slow")
    slow = aa.load_classifier(tmp_path / "slow")
    assert not slow.tokenizer.is_fast
    texts, pairs = (
        ["the film is good , but very slow .", "bad unheard"],
        ["a clever plot .", "the story"],
    )
    for split in (
        Split("texts", "texts", texts, None, None),
        Split("texts", "texts", texts, pairs, None),
    ):
        capfd.readouterr()
        found, expected = (encode(classifier, split, max_length) for classifier in (slow, tiny))
        for name in (
            "input_ids",
            "token_type_ids",
            "special_tokens_mask",
            "num_truncated",
            "num_cut_tokens",
        ):
            assert getattr(found, name) == getattr(expected, name), name
        assert found.offsets == [
            [(0, 0)] * length for length in found.lengths
        ] and found.word_ids == [None, None]
        assert capfd.readouterr().err == ""


def test_batches_hold_every_example_once(tiny):
    texts = ["good " * count for count in (1, 14, 15, 3, 20, 2, 30)]
    split = Split("texts", "--text", texts, None, None)
    encoded = encode(tiny, split, 32, np.arange(7, dtype=np.int32))
    batches = list(inference_batches(encoded, tiny.config, 3, sharding.data_mesh()))
    seen = np.concatenate([batch.indices[batch.weights > 0] for batch in batches])
    assert sorted(seen) == list(range(7))
    for batch in batches:
        rows, length = batch.inputs["input_ids"].shape
        assert rows % 2 == 0 and length in BUCKETS
        assert (
            batch.inputs["attention_mask"].sum(axis=1)[batch.weights > 0]
            == encoded.lengths[batch.indices[batch.weights > 0]]
        ).all()
        assert not batch.inputs["attention_mask"][batch.weights == 0].any()
        assert (batch.labels[batch.weights > 0] == batch.indices[batch.weights > 0]).all()


def test_training_order_depends_on_seed_and_epoch_alone():
    lengths = np.random.default_rng(0).integers(3, 60, 1000)
    orders = {
        key: np.concatenate(list(shuffled_batches(lengths, 8, *key)))
        for key in ((0, 0), (0, 1), (1, 0))
    }
    for order in orders.values():
        assert sorted(order) == list(range(1000))
    np.testing.assert_array_equal(
        orders[0, 0], np.concatenate(list(shuffled_batches(lengths, 8, 0, 0)))
    )
    assert (orders[0, 0] != orders[0, 1]).any() and (orders[0, 0] != orders[1, 0]).any()
    spread = np.mean([np.ptp(lengths[batch]) for batch in shuffled_batches(lengths, 8, 0, 0)])
    assert spread < 5, "similar lengths come together"


def test_the_fingerprint_covers_texts_pairs_and_the_labels_that_the_model_reads():
    split = Split("train", "a.parquet", ["good film", "bad plot"], None, [0, 1])
    encoded = Encoded(
        [[5], [6]], [[0], [0]], [[0], [0]], [[], []], [[], []], labels=np.asarray([0, 1], np.int32)
    )
    found = [
        data_fingerprint(one, dataclasses.replace(encoded, labels=labels))
        for one, labels in (
            (split, encoded.labels),
            # As where the data set names its classes in another order
            (split, encoded.labels[::-1]),
            (split, None),
            (dataclasses.replace(split, text_pairs=["good film", "bad plot"]), encoded.labels),
            (dataclasses.replace(split, texts=["good", "film bad plot"]), encoded.labels),
            (dataclasses.replace(split, texts=["bad plot", "good film"]), encoded.labels),
        )
    ]
    assert len(set(found)) == len(found)
    assert (
        data_fingerprint(dataclasses.replace(split, name="dev", source="b.tsv"), encoded)
        == found[0]
    )


def test_one_file_is_divided_by_a_seed(tmp_path):
    rows = "".join(f"text number {number},{number % 2}\n" for number in range(40))
    file = write(tmp_path, "mine.csv", "Text,Sentiment\n" + rows)
    whole = load_split(file, "train")
    assert len(whole) == 40 and whole.raw_labels[:2] == [0, 1], "names without regard to case"

    def parts(seed):
        return [load_split(file, name, hold_out_seed=seed) for name in ("train", "validation")]

    train, held_out = parts(0)
    assert (len(train), len(held_out)) == (36, 4)
    assert sorted(train.texts + held_out.texts) == sorted(whole.texts)
    assert held_out.texts == parts(0)[1].texts != parts(1)[1].texts
    number = int(held_out.texts[0].split()[-1])
    assert held_out.row(0) == f"{file} (held out), row {number + 2}"
    assert (
        load_split(file, "validation", max_examples=2, hold_out_seed=0).texts == held_out.texts[:2]
    )
    small = write(tmp_path, "small.csv", "text,label\na,0\nb,1\n")
    with pytest.raises(aa.InputError, match="2 examples, too few to hold some out"):
        load_split(small, "train", hold_out_seed=0)
    folder = tmp_path / "folder"
    folder.mkdir()
    write(folder, "train.csv", "text,label\na,0\n")
    assert load_split(str(folder), "train", hold_out_seed=0).texts == ["a"], "it has splits itself"


def test_columns_of_the_training_are_taken_where_a_file_has_them(tmp_path):
    file = write(tmp_path, "mine.csv", "text,Body,Tag\na,b,c\n")
    columns = readers.Columns(remembered=("Body", None, "Tag"))
    split = load_split(file, "train", columns)
    assert (split.texts, split.raw_labels) == (["b"], ["c"])
    named = dataclasses.replace(columns, text="text")
    assert load_split(file, "train", named).texts == ["a"], "what is named counts"
    other = write(tmp_path, "other.csv", "review,label\na,0\n")
    assert load_split(other, "train", columns).texts == ["a"]
