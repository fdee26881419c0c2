"""A classifier small enough for tests and for tests/endurance/fuzz.py."""

import jax

import attattr_jax as aa


def make_tiny(words):
    """Return a two-layer random classifier whose WordPiece vocabulary is these words or pieces."""
    from transformers import BertTokenizerFast

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    tokenizer = BertTokenizerFast(
        vocab={token: index for index, token in enumerate(vocabulary)}, model_max_length=32
    )
    config = aa.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=32,
        max_position_embeddings=32,
        initializer_range=0.2,
    )
    return aa.Classifier(
        config, aa.init_params(config, jax.random.key(0)), tokenizer, {0: "negative", 1: "positive"}
    )
