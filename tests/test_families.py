"""Every family of models against float64 numbers of a separate implementation.

`tests/golden/<family>/` contains a small random model in Hugging Face format and `expected.npz`:
inputs with padding, and what `transformers`' PyTorch model gives for them in float64, with the
softmax of one layer replaced where attributions are asked for.
"""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import attattr_jax as aa
from attattr_jax.attribution import formula
from attattr_jax.models import families, tensors

GOLDEN = pathlib.Path(__file__).parent / "golden"
FOLDERS = sorted(file.parent for file in GOLDEN.glob("*/config.json"))
INPUTS = ("input_ids", "attention_mask", "token_type_ids", "special_tokens_mask")
RULES = {
    "left20_predicted": {"n_steps": 20, "method": "riemann_left"},
    "gauss8_predicted": {"n_steps": 8},
    "gauss8_gold_logit": {"n_steps": 8, "objective": "logit"},
}


@pytest.fixture(scope="module", params=FOLDERS, ids=lambda folder: folder.name)
def family(request):
    """(classifier, batch, expected arrays) of a family."""
    with np.load(request.param / "expected.npz") as file:
        expected = dict(file)
    batch = {name: expected[name].astype(np.int32) for name in INPUTS if name in expected}
    return aa.load_classifier(request.param), batch, expected


def assert_close(actual, expected):
    """Within 1e-5 of the largest value."""
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_every_family_has_golden_numbers():
    model_types = {
        json.loads((folder / "config.json").read_text())["model_type"] for folder in FOLDERS
    }
    assert model_types == set(families.FAMILIES)


def test_logits_attention_and_head_masks(family):
    classifier, batch, expected = family
    logits, probs = aa.forward(classifier.params, batch, classifier.config)
    assert_close(logits, expected["logits"])
    pairs = (
        expected["attention_mask"][:, None, None, :] * expected["attention_mask"][:, None, :, None]
    )
    for layer, used in enumerate(probs):
        assert_close(np.asarray(used) * pairs, expected["attention_probs"][:, layer] * pairs)
    mask = expected["head_mask"].astype(np.int32)
    for head_mask in (mask, jnp.asarray(mask)):  # sliced out, and traced
        masked, _ = aa.forward(classifier.params, batch, classifier.config, head_mask=head_mask)
        assert_close(masked, expected["logits_head_masked"])


@pytest.mark.parametrize("rule", RULES)
def test_attributions(family, rule):
    classifier, batch, expected = family
    target = jnp.asarray(expected[f"target_{rule}"], jnp.int32)
    arguments = classifier.params, batch, classifier.config
    result = aa.attribute_attention(*arguments, target=target, **RULES[rule])
    for layer in range(classifier.config.num_hidden_layers):
        assert_close(result.attributions[:, layer], expected[f"attributions_{rule}"][:, layer])
    assert_close(result.score, expected[f"score_{rule}"])
    assert_close(result.baseline_score, expected[f"baseline_score_{rule}"])


def test_token_attributions(family):
    classifier, batch, expected = family
    without_marks = {name: values for name, values in batch.items() if name in INPUTS[:3]}
    result = aa.attribute_tokens(classifier.params, without_marks, classifier.config, n_steps=20)
    assert_close(result.attributions, expected["token_attributions_gauss20_predicted"])


def test_the_formula_is_its_definition(family):
    """One pass for all layers gives what a pass for each node and layer gives."""
    classifier, batch, expected = family
    config, target = classifier.config, jnp.asarray(expected["target_gauss8_predicted"], jnp.int32)
    batch = {name: jnp.asarray(values) for name, values in batch.items() if name in INPUTS[:3]}
    layer = config.num_hidden_layers - 2
    rule = [jnp.asarray(values, jnp.float32) for values in aa.quadrature("gausslegendre", 3)]
    expected = formula.attributions_by_definition(
        classifier.params, batch, config, layer, target, rule
    )
    result = aa.attribute_attention(
        classifier.params, batch, config, target=target, n_steps=3, layers=[layer]
    )
    assert_close(result.attributions[:, 0], expected)


def test_removed_heads_and_files(family, tmp_path):
    """A smaller model has the logits of the mask; saved and loaded, it is the same model."""
    classifier, batch, expected = family
    smaller = aa.remove_heads(classifier, expected["head_mask"])
    logits, _ = aa.forward(smaller.params, batch, smaller.config)
    assert_close(logits, expected["logits_head_masked"])
    aa.save_classifier(smaller, tmp_path)
    loaded = aa.load_classifier(tmp_path)
    assert loaded.fingerprint() == smaller.fingerprint() != classifier.fingerprint()
    assert loaded.config == smaller.config


def test_a_new_head_has_its_classes(family, tmp_path):
    """Fine-tuning for other classes keeps the encoder and makes the classifier new."""
    classifier, batch, _ = family
    aa.save_classifier(classifier, tmp_path)
    other = aa.load_classifier(tmp_path, num_labels=5)
    table = families.family_of(other.config).tensors
    assert other.new_parts == (table.head_parts[-1],)
    assert aa.forward(other.params, batch, other.config)[0].shape[1] == 5
    names = tensors.to_hf_tensors(classifier.params, classifier.config)
    encoder_names = [name for name in names if name.startswith(table.prefix)]
    loaded = tensors.to_hf_tensors(other.params, other.config)
    assert all(np.array_equal(loaded[name], names[name]) for name in encoder_names)


def test_fresh_parameters_are_those_of_the_table(family):
    config = family[0].config
    shapes = jax.tree.leaves(tensors.param_shapes(config))
    assert sum(np.prod(leaf.shape, dtype=int) for leaf in shapes) == sum(
        value.size for value in tensors.to_hf_tensors(family[0].params, config).values()
    )
