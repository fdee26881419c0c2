import numpy as np
import pytest

from attattr_jax.attribution.summaries.reductions import strongest_pairs
from attattr_jax.attribution.summaries.words import (
    attention_between_words,
    sum_over_pieces,
    word_groups,
    word_labels,
)
from attattr_jax.data.batches import encode
from attattr_jax.data.splits import Split

ROW = {
    "text": "Re\u0301sume\u0301s unkept",
    "text_pair": "kept",
    "tokens": ["[CLS]", "resume", "##s", "un", "##kept", "[SEP]", "kept", "[SEP]"],
    "offsets": [[0, 0], [0, 8], [8, 9], [10, 12], [12, 16], [0, 0], [0, 4], [0, 0]],
    "word_ids": [None, 0, 0, 1, 1, None, 0, None],
    "token_type_ids": [0, 0, 0, 0, 0, 0, 1, 1],
    "special_tokens_mask": [1, 0, 0, 0, 0, 1, 0, 1],
}
GROUPS = [[0], [1, 2], [3, 4], [5], [6], [7]]


def test_pieces_of_a_word_are_grouped():
    assert word_groups(ROW) == GROUPS
    assert word_groups({name: value for name, value in ROW.items() if name != "word_ids"}) == GROUPS


def test_words_are_written_as_in_the_text():
    assert word_labels(ROW, GROUPS) == [
        "[CLS]",
        "Re\u0301sume\u0301s",
        "unkept",
        "[SEP]",
        "kept",
        "[SEP]",
    ]
    cut = ROW | {
        "text": "e\u0301",
        "tokens": ["e"],
        "offsets": [[0, 1]],
        "token_type_ids": [0],
        "special_tokens_mask": [0],
    }
    assert word_labels(cut, [[0]]) == ["e\u0301"], "the accent that the tokenizer dropped"
    assert word_labels(ROW | {"offsets": [[0, 0]] * 8}, GROUPS)[1:3] == ["resumes", "unkept"], (
        "no offsets: the pieces"
    )


def test_words_keep_what_has_no_place_of_its_own(tiny):
    """Marks (also of combining class 0), joiners and variation selectors, which the tokenizer
    drops; no character of the next word.
    """
    words = [
        "good",
        "\u0939\u0948\u0902",
        "film",
        "\u2764\ufe0f",
        "\U0001f469\u200d\U0001f4bb",
        "\u0645\u06cc\u200c",
        "e\u0301",
        "1\ufe0f\u20e3",
    ]
    words += ["\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f", "bad"]
    encoded = encode(tiny, Split("texts", "texts", [" ".join(words)], None, None), 32)
    row = {
        name: getattr(encoded, name)[0]
        for name in ("offsets", "word_ids", "token_type_ids", "special_tokens_mask")
    }
    row |= {"text": " ".join(words), "text_pair": None}
    row["tokens"] = tiny.tokenizer.convert_ids_to_tokens(encoded.input_ids[0])
    assert word_labels(row, word_groups(row)) == ["[CLS]", *words, "[SEP]"]
    kept = ROW | {
        "text": "ab\u0301c",
        "tokens": ["a", "b", "\u0301c"],
        "offsets": [[0, 1], [1, 2], [2, 4]],
    }
    kept |= {"token_type_ids": [0] * 3, "special_tokens_mask": [0] * 3}
    assert word_labels(kept, [[0], [1], [2]]) == ["a", "b", "\u0301c"], (
        "a mark that is a token's own"
    )
    damaged = kept | {"text": "ab\u0301", "offsets": [[0, 1], [1, 2], [90, 91]]}
    assert word_labels(damaged, [[0], [1], [2]]) == ["a", "b\u0301", "\u0301c"], (
        "what follows lies beyond the text"
    )


def test_sums_and_distributions_survive():
    random = np.random.default_rng(0)
    attributions, probs = (
        random.normal(size=(2, 3, 8, 8)),
        random.dirichlet(np.ones(8), size=(2, 3, 8)),
    )
    words = sum_over_pieces(attributions, GROUPS, axes=(-2, -1))
    assert words.shape == (2, 3, 6, 6)
    np.testing.assert_allclose(words.sum(axis=(2, 3)), attributions.sum(axis=(2, 3)))
    assert words[1, 2, 1, 2] == pytest.approx(attributions[1, 2, 1:3, 3:5].sum())
    between = attention_between_words(probs, GROUPS)
    np.testing.assert_allclose(between.sum(axis=-1), 1)
    assert between[0, 0, 1, 2] == pytest.approx(probs[0, 0, 1:3, 3:5].sum() / 2)


def test_word_ids_come_from_the_tokenizer(tiny):
    split = Split("texts", "texts", ["good-film good", "x " * 60], ["bad", "dull"], None)
    encoded = encode(tiny, split, 32)
    assert encoded.word_ids[0] == [None, 0, 1, 2, 3, None, 0, None]
    assert len(encoded.word_ids[1]) == len(encoded.input_ids[1]) == 32, "cut like the rest"


def test_strongest_pairs_can_leave_special_tokens_out():
    matrix = np.asarray([[9.0, 1, 0], [0, -3, 2], [8, 0, 0]])
    assert strongest_pairs(matrix, 2) == [(0, 0, 9.0), (2, 0, 8.0)]
    assert strongest_pairs(matrix, 5, left_out=[1, 0, 0])[:2] == [(1, 1, -3.0), (1, 2, 2.0)]
    assert len(strongest_pairs(matrix, 9, left_out=[1, 0, 0])) == 4
    all_out = strongest_pairs(matrix, 2, left_out=[1, 1, 1])
    assert all_out == [(0, 0, 9.0), (2, 0, 8.0)], "there are no others"
