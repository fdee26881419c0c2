"""Models of other families, with their own tokenizers, through the scripts."""

import json

import jax
import numpy as np
import pytest
import tokenizers
import transformers
from conftest import WORDS, read_jsonl

import attattr_jax as aa
from attattr_jax.commands import attribute, prune, train
from attattr_jax.models import families, tensors
from attattr_jax.models.families import roberta

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 34,
    "initializer_range": 0.2,
}


def byte_level_tokenizer():
    """RoBERTa's kind of tokenizer: bytes, Ġ for spaces, <s> a </s></s> b </s>."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    backend = tokenizers.ByteLevelBPETokenizer()
    texts = [" ".join(WORDS), "the plot's café"]
    backend.train_from_iterator(texts, vocab_size=400, min_frequency=1, special_tokens=special)
    backend.post_processor = tokenizers.processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return transformers.RobertaTokenizerFast(tokenizer_object=backend._tokenizer)


def unigram_tokenizer():
    """XLM-RoBERTa's, DeBERTa's and ALBERT's kind of tokenizer, with ▁ for spaces."""
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    backend = tokenizers.SentencePieceUnigramTokenizer()
    texts = [" ".join(WORDS), "the plot's café"] * 20
    backend.train_from_iterator(texts, vocab_size=200, special_tokens=special, unk_token="[UNK]")
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    names = {"pad": 0, "cls": 1, "sep": 2, "unk": 3, "mask": 4}
    marks = {f"{name}_token": special[index] for name, index in names.items()}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend._tokenizer, **marks)


FAMILY_SIZES = {
    "roberta": {},
    "distilbert": {},
    "deberta-v2": {"position_buckets": 8},
    "modernbert": {"classifier_pooling": "mean", "local_attention": 8},
    "albert": {"embedding_size": 16},
}


@pytest.fixture(scope="module", params=["roberta", "distilbert"])
def folder(request, tiny, tmp_path_factory):
    """A small classifier of another family, saved, with a tokenizer of its kind."""
    name = request.param
    kinds = {"roberta": byte_level_tokenizer, "modernbert": byte_level_tokenizer}
    tokenizer = tiny.tokenizer if name == "distilbert" else kinds.get(name, unigram_tokenizer)()
    sizes = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, **SIZES}
    config = families.FAMILIES[name].config(**sizes, **FAMILY_SIZES[name])
    params = tensors.init_params(config, jax.random.key(0))
    names = {0: "negative", 1: "positive"}
    folder = tmp_path_factory.mktemp(name)
    aa.save_classifier(aa.Classifier(config, params, tokenizer, names), folder)
    return folder


@pytest.mark.parametrize("folder", ["roberta", "deberta-v2", "modernbert", "albert"], indirect=True)
def test_the_scripts_train_explain_and_prune(folder, reviews_folder, tmp_path, capsys):
    model = tmp_path / "model"
    recipe = "--num_train_epochs 1 --train_batch_size 8 --max_seq_length 30 --logging_steps 2"
    recipe = f"--model {folder} --dataset {reviews_folder} --output_dir {model} {recipe}"
    with jax.numpy_dtype_promotion("standard"):
        assert train.main(recipe.split()) == 0
    config = json.loads((model / "config.json").read_text())
    assert config["model_type"] == json.loads((folder / "config.json").read_text())["model_type"]
    explain = f"--checkpoint {model} --dataset {reviews_folder} --max_examples 3 --n_steps 8"
    assert attribute.main(explain.split()) == 0
    rows = read_jsonl(model / "attribution" / "examples.jsonl")
    assert len(rows) == 3
    for row in rows:
        assert max(np.abs(row["convergence_deltas"])) < 1e-2
    cut = f"--checkpoint {model} --dataset {reviews_folder} --num_scoring_examples 8"
    saved = f"{cut} --save_pruned {tmp_path / 'small'} --importance attention"
    if config["model_type"] == "albert":
        assert prune.main(saved.split()) == 2
        assert "layers share their parameters" in capsys.readouterr().err
        assert not (tmp_path / "small").exists()
        assert prune.main(f"{cut} --importance attention --curve".split()) == 0
        return
    assert prune.main(saved.split()) == 0
    assert aa.load_classifier(tmp_path / "small").config.kept_heads is not None


@pytest.mark.parametrize("folder", ["roberta", "distilbert", "deberta-v2"], indirect=True)
def test_pairs_and_words_come_from_offsets_not_from_marks_in_tokens(folder):
    """A model without segments: the row tells the two texts apart, the model sees zeros."""
    classifier = aa.load_classifier(folder)
    batch = classifier.tokenize(["the film is good"], ["a clever plot"])
    assert not batch["token_type_ids"].any()
    (explanation,) = aa.explain_texts(
        classifier, ["the film is good"], ["a clever plot"], n_steps=2, layers=[0]
    )
    words = explanation.word_labels
    special = [token for token in words if token not in "the film is good a clever plot".split()]
    assert [word for word in words if word not in special] == (
        "the film is good a clever plot".split()
    )
    of_second_text = [
        label
        for label, group in zip(words, explanation.words, strict=True)
        if explanation.token_type_ids[group[0]] and label not in special
    ]
    assert of_second_text == ["a", "clever", "plot"]


def test_a_segment_that_the_model_does_not_have_is_refused(folder):
    classifier = aa.load_classifier(folder)
    batch = classifier.tokenize(["good"])
    batch["token_type_ids"][0, 1] = 1
    with pytest.raises(aa.InputError, match=r"token_type_ids\[0, 1\] is 1; it must be from 0 to 0"):
        aa.forward(classifier.params, batch, classifier.config)


def test_padding_changes_no_result(folder):
    classifier = aa.load_classifier(folder)
    alone = classifier.tokenize(["a good film"])
    padded = classifier.tokenize(["a good film", "the acting is not very good but the plot is"])
    for function in (aa.attribute_attention, aa.attribute_tokens):
        first, second = (
            function(classifier.params, batch, classifier.config, n_steps=3).attributions[:1]
            for batch in (alone, padded)
        )
        size = alone["input_ids"].shape[1]
        inside = second[..., :size, :size] if first.ndim == 5 else second[..., :size]
        np.testing.assert_allclose(inside, first, atol=1e-6)
        assert np.abs(second).sum() == pytest.approx(np.abs(inside).sum(), abs=1e-5)


def test_positions_are_counted_from_padding():
    """RoBERTa: two positions are never used, and the tokenizer must pad as config.json says."""
    config = roberta.RobertaConfig(vocab_size=300, **SIZES)
    assert config.max_length == 32
    with pytest.raises(aa.InputError, match="leaves no position after pad_token_id 33"):
        roberta.RobertaConfig(vocab_size=300, **SIZES, pad_token_id=33)
    params = tensors.init_params(config, jax.random.key(0))
    with pytest.raises(aa.InputError, match="33 tokens are more than the model's"):
        aa.forward(params, {"input_ids": np.full((1, 33), 5)}, config)
    tokenizer = byte_level_tokenizer()
    with pytest.raises(aa.InputError, match="from which RoBERTa counts positions"):
        aa.Classifier(
            roberta.RobertaConfig(vocab_size=len(tokenizer), **SIZES, pad_token_id=0),
            params,
            tokenizer,
            {0: "no", 1: "yes"},
        )
