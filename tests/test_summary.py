"""What an explanation says in words, prints as, and gives as data frames."""

import copy

import numpy as np
import pytest

import attattr_jax as aa
from attattr_jax.attribution.options import AttributionOptions
from attattr_jax.commands.printing import print_roughness
from attattr_jax.explanations.explanation import Explanation, Explanations
from attattr_jax.explanations.summary import DatasetSummary
from attattr_jax.views.sentence import roughness_of, sentence_of

TOKENS = ["[CLS]", "un", "##watch", "no", "[SEP]"]
TEXT = "Unwatch no"


def example(pairs=(), tokens=None, arrays=True, **fields):
    """One text, 2 layers of 2 heads; `pairs` are ((layer, head, from, to), attribution)."""
    attributions = np.zeros((2, 2, 5, 5), np.float32)
    for place, value in pairs:
        attributions[place] = value
    total = attributions.sum(axis=(0, 1))
    row = {
        "index": 7,
        "text": TEXT,
        "text_pair": None,
        "label": None,
        "tokens": TOKENS,
        "offsets": [[0, 0], [0, 2], [2, 7], [8, 10], [0, 0]],
        "word_ids": [None, 0, 0, 1, None],
        "token_type_ids": [0] * 5,
        "special_tokens_mask": [1, 0, 0, 0, 1],
        "predicted": "negative",
        "target": "negative",
        "probabilities": {"negative": 0.75, "positive": 0.25},
        "logits": {"negative": 1.0, "positive": 0.0},
        "score": 0.75,
        "layers": [0, 1],
        "num_hidden_layers": 2,
        "path": "layer",
        "convergence_deltas": [0.0, 0.0],
        "absolute_attribution_sums": [1.0, 1.0],
        "converged": None,
        "token_attributions": tokens,
        "token_convergence_delta": None if tokens is None else 0.0,
        "token_pairs": [{"from": 0, "to": 3, "attribution": 1.0}],
        "token_pairs_scale": 2.0,
        "head_importance": [[0.5, 0.25], [0.0, 0.0]],
        "heads": [],
        **fields,
    }
    kept = {"attributions": attributions, "attention_probs": attributions, "token_pairs": total}
    return Explanation(row, kept if arrays else {})


def test_the_sentence_is_of_words_and_names_the_strongest_pair_and_its_head():
    one = example(
        [((0, 1, 3, 1), 0.2), ((1, 0, 3, 2), 0.1), ((1, 1, 0, 3), 5.0), ((0, 0, 1, 1), -0.25)],
        [0.0, -0.1, -0.2, 0.4, 0.0],
    )
    assert one.summary() == (
        "Predicted negative (p = 0.750). “no” spoke most for negative, “Unwatch” against it;"
        " strongest pair of words: “no” reads from “Unwatch” (+0.3), most in layer 0, head 1."
    ), "pieces are added up, and [CLS] is left out"


@pytest.mark.parametrize(
    ("tokens", "pairs", "expected"),
    [
        (None, [], ""),
        ([0.0, 0.0, 0.0, 0.0, 0.0], [], ""),
        ([9.0, 0.3, 0.1, -0.01, 0.0], [], "Unwatch spoke most for negative."),
        ([0.0, 0.0, 0.0, -1.0, 0.0], [], "no spoke most against negative."),
        (
            None,
            [((0, 0, 1, 2), -0.5)],
            "strongest pair of words: Unwatch reads from itself (-0.5), most in layer 0, head 0.",
        ),
        (
            None,
            [((1, 1, 0, 4), 0.125)],
            "",
        ),
    ],
)
def test_the_sentence_says_what_there_is(tokens, pairs, expected):
    said = "".join(text for text, _ in sentence_of(example(pairs, tokens)))
    assert said == expected


def test_names_of_users_are_told_from_our_own_words():
    kinds = {kind: text for text, kind in sentence_of(example([], [0.0, 0.1, 0.1, 0.5, 0.0]))}
    assert kinds["token"] == "no" and kinds["class"] == "negative"


def test_one_output_is_raised_or_lowered():
    one = example([], [0.0, 0.5, 0.0, -0.5, 0.0], probabilities={}, logits={"negative": 2.5})
    assert (
        one.summary() == "The output is 2.500. “Unwatch” raised the output most, “no” lowered it."
    )


def test_a_wrong_prediction_is_said():
    assert "labelled positive." in example(label="positive").summary()


def test_only_what_is_rough_is_said_with_its_remedy():
    assert roughness_of(example(tokens=[0.0, 1.0, 0.0, 0.0, 0.0]), in_script=True) == []
    rough = example(
        tokens=[0.0, 1.0, 0.0, 0.0, 0.0],
        convergence_deltas=[0.011, -0.25],
        token_convergence_delta=0.07,
    )
    estimated = example(convergence_deltas=[0.011, 0.0], error_estimates=[0.004, None])
    (phrase,) = roughness_of(estimated, True)
    assert "the estimated error is large in layer 1 (no bound);" in phrase
    in_script, in_python = (roughness_of(rough, where) for where in (True, False))
    assert in_script == [
        "rough: the estimated error is large in layer 1 (25%), layer 0 (1%); --n_steps auto takes"
        " as many steps as are needed",
        "rough: the token attributions, by 7% of their sum; --token_n_steps auto takes as many"
        " steps as are needed",
    ]
    assert 'n_steps="auto"' in in_python[0] and "--" not in "".join(in_python)
    adaptive = roughness_of(example(convergence_deltas=[0.5, 0], converged=[False, True]), True)
    assert adaptive[0].endswith("a larger --max_steps helps")


@pytest.mark.parametrize(
    ("n_steps", "remedy"),
    [
        (5, "--n_steps auto takes as many steps as are needed"),
        ("auto", "a larger --max_steps helps"),
    ],
)
def test_rough_texts_are_warned_of_in_one_line(capsys, n_steps, remedy):
    summary = DatasetSummary()
    print_roughness(summary, AttributionOptions(n_steps=n_steps))
    assert capsys.readouterr().err == ""
    for index, errors in enumerate([[0.02, 0.001], [0.01, 0.01], [0.03, 0.4]]):
        summary.add(example(error_estimates=errors, index=index, n_steps=[5, 5]))
    print_roughness(summary, AttributionOptions(n_steps=n_steps))
    assert capsys.readouterr().err == (
        "warning: rough: 2 of 3 texts have an estimated error above 1% of what is attributed, in"
        f" layers 0 (2), 1 (1) (the largest: text 2, layer 1, 40%); {remedy}\n"
    )


def test_data_frames_hold_the_arrays():
    one = example([((0, 1, 3, 1), 0.25), ((1, 0, 3, 1), 0.5)], [0.0, -0.1, -0.2, 0.4, 0.0])
    two = Explanations([one, one])
    assert list(two.to_pandas()["predicted"]) == ["negative"] * 2
    pairs = one.to_pandas("pairs")
    largest = pairs.iloc[0]
    assert len(pairs) == 25 and (largest.from_token, largest.to_token) == ("no", "un")
    assert (largest.attribution, largest.attention) == (0.75, 0.75 / 4)
    heads = two.to_pandas("heads")
    assert len(heads) == 8 and heads.iloc[1].tolist() == [7, 0, 1, 0.25]
    assert one.to_pandas("tokens").query("is_special").token.tolist() == ["[CLS]", "[SEP]"]
    listed = example(arrays=False).to_pandas("pairs")
    assert listed.attribution.tolist() == [2.0], "the listed pairs, in units of the output"
    with pytest.raises(aa.InputError, match="kind must be one of texts, tokens, pairs, heads"):
        one.to_pandas("layers")


def test_objects_print_in_a_line_and_complete_their_fields(tiny):
    one = example()
    shown = [repr(one), repr(Explanations([one] * 300)), repr(tiny)]
    batch = tiny.tokenize(["good film"])
    shown.append(repr(aa.attribute_attention(tiny.params, batch, tiny.config, n_steps=1)))
    shown.append(repr(aa.attribute_tokens(tiny.params, batch, tiny.config, n_steps=1)))
    assert max(map(len, shown)) < 600 and all("\n" not in text for text in shown)
    assert "300 texts" in shown[1] and "2 layers of 4 heads" in shown[2]
    assert "attributions=float32[1, 2, 4, 4, 4]" in shown[3]
    assert {"tokens", "score", "summary", "to_pandas"} <= set(dir(one))
    with pytest.raises(AttributeError):
        _ = copy.copy(one).no_field


def test_a_class_is_named_where_there_are_names_and_the_index_is_said_to_be_elsewhere(tiny):
    (one,) = aa.explain_texts(tiny, ["good"], target="positive", n_steps=1, token_level=False)
    assert one.target == "positive" and tiny.label2id["positive"] == 1
    batch = tiny.tokenize(["good"])
    with pytest.raises(aa.InputError, match=r"classifier.label2id\[name\]"):
        aa.attribute_attention(tiny.params, batch, tiny.config, "positive")
