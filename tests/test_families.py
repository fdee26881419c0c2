"""Every family of models against float64 numbers of a separate implementation.

`tests/golden/<family>/` contains a small random model in Hugging Face format and `expected.npz`:
inputs with padding, and what `transformers`' PyTorch model gives for them in float64, with the
softmax of one layer replaced where attributions are asked for.
"""

import dataclasses
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import attattr_jax as aa
from attattr_jax.attribution import formula
from attattr_jax.data.batches import Encoded
from attattr_jax.models import families, tensors
from attattr_jax.models.inference import predict_logits
from attattr_jax.pruning.importance import score_heads
from attattr_jax.runtime import sharding

GOLDEN = pathlib.Path(__file__).parent / "golden"
# Families that compute as another one does, and have its numbers.
SAME_NUMBERS = {"camembert": "xlm-roberta"}
# One folder for each encoder: the others differ in their numbers alone.
ENCODERS = "albert bert deberta-v2 distilbert electra modernbert mpnet roberta".split()
NAMES = sorted(file.parent.name for file in GOLDEN.glob("*/config.json"))
INPUTS = ("input_ids", "attention_mask", "token_type_ids", "special_tokens_mask")
RULES = {
    "left20_predicted": {"n_steps": 20, "method": "riemann_left"},
    "gauss8_predicted": {"n_steps": 8},
    "gauss8_gold_logit": {"n_steps": 8, "objective": "logit"},
}


@pytest.fixture(scope="module", params=NAMES)
def family(request, tmp_path_factory):
    """(classifier, batch, expected arrays) of a family."""
    folder = GOLDEN / SAME_NUMBERS.get(request.param, request.param)
    with np.load(folder / "expected.npz") as file:
        expected = dict(file)
    if request.param in SAME_NUMBERS:
        folder = shutil.copytree(folder, tmp_path_factory.mktemp("golden") / request.param)
        fields = json.loads((folder / "config.json").read_text())
        architecture = families.FAMILIES[request.param].config.architecture
        fields |= {"model_type": request.param, "architectures": [architecture]}
        (folder / "config.json").write_text(json.dumps(fields))
    batch = {name: expected[name].astype(np.int32) for name in INPUTS if name in expected}
    return aa.load_classifier(folder), batch, expected


def assert_close(actual, expected):
    """Within 1e-5 of the largest value."""
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_every_family_has_golden_numbers():
    names = {name.removesuffix("-cls") for name in NAMES} | set(SAME_NUMBERS)
    assert names == set(families.FAMILIES)


def test_a_config_means_what_transformers_reads_in_it():
    """What a missing field means, and that every field is built, refused or without effect."""
    from transformers import AutoConfig

    for model_type, family in families.FAMILIES.items():
        theirs = AutoConfig.for_model(model_type)
        fields = theirs.to_dict()
        config = family.config
        # The default of DeBERTa-v2 is a geometry that no checkpoint has, and that is refused.
        given = {"model_type": model_type, **config.required_settings}
        if model_type == "deberta-v2":
            given |= {"position_buckets": 256, "pos_att_type": ["c2p", "p2c"]}
        ours = config.from_hf(given)
        for name, hf_name in config._hf_fields():
            if hf_name not in given and fields.get(hf_name) is not None:
                value = getattr(ours, name)
                value = list(value) if isinstance(value, tuple) else value
                expected = 512 if hf_name == "max_relative_positions" else fields[hf_name]
                assert value == expected, (model_type, hf_name)
        named = {name: value if value else "anything" for name, value in fields.items()}
        with_effect = {hf_name for _, hf_name in config._hf_fields()} | set(given)
        others = {name: value for name, value in named.items() if name not in with_effect}
        others |= {"id2label": {0: "a", 1: "b"}, "pruned_heads": {}, "rope_parameters": {}}
        config.from_hf({**given, **others})
        with pytest.raises(aa.InputError, match="new_layer is 3, which .* does not know: remove"):
            config.from_hf({**given, "new_layer": 3})


def test_base_models_have_the_parameters_that_they_are_known_for():
    """The defaults are the geometry of the base models, with a head for two classes."""
    known = {
        "bert": 109_483_778,
        "distilbert": 66_955_010,
        "roberta": 124_647_170,
        "xlm-roberta": 278_045_186,
        "camembert": 110_623_490,
        "electra": 13_549_314,  # of the small discriminator
        "deberta-v2": 184_423_682,  # of version 3
        "modernbert": 149_606_402,
        "mpnet": 109_488_002,
        "albert": 11_685_122,
    }
    for model_type, count in known.items():
        shapes = tensors.param_shapes(families.FAMILIES[model_type].config())
        assert sum(np.prod(leaf.shape, dtype=int) for leaf in jax.tree.leaves(shapes)) == count


@pytest.mark.parametrize(
    ("model_type", "setting", "said"),
    [
        ("deberta-v2", {"share_att_key": False}, "share_att_key is False; only True is supported"),
        ("deberta-v2", {"share_att_key": None}, "share_att_key is False; only True is supported"),
        ("deberta-v2", {"conv_kernel_size": 3}, "conv_kernel_size is 3; only 0 is supported"),
        ("deberta-v2", {"pos_att_type": "c2p|p2p"}, "pos_att_type is .*; only 'c2p' and 'p2c'"),
        ("deberta-v2", {"pooler_hidden_size": 7}, "pooler_hidden_size differs from hidden_size"),
        ("albert", {"inner_group_num": 2}, "inner_group_num is 2; only 1 is supported"),
        ("albert", {"num_hidden_groups": 13}, "num_hidden_groups 13 is more than"),
        ("albert", {"pruned_heads": {"0": [1]}}, "share their parameters, so that a head cannot"),
        ("modernbert", {"norm_bias": True}, "norm_bias is True; only False is supported"),
        ("modernbert", {"classifier_pooling": "max"}, "'max' is not supported; known: cls, mean"),
        ("modernbert", {"layer_types": ["full_attention"]}, "layer_types must name one of"),
        (
            "modernbert",
            {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}},
            "'yarn'; only",
        ),
    ],
)
def test_settings_that_are_not_built_are_refused(model_type, setting, said):
    family = families.FAMILIES[model_type].config
    fields = family().to_hf({0: "a", 1: "b"}) | setting
    with pytest.raises(aa.InputError, match=said):
        family.from_hf(fields)


@pytest.mark.parametrize("family", ENCODERS, indirect=True)
def test_numbers_in_float64(family):
    """The float32 of other tests is rounding: in float64 they agree to 1e-9.

    transformers computes ModernBERT's rotary angles in float32.
    """
    classifier, batch, expected = family
    tolerance = 2e-6 if classifier.config.model_type == "modernbert" else 1e-9
    # Flax's LayerNorm does not pass under strict promotion in float64.
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), dict(classifier.params))
        result = aa.attribute_attention(
            params,
            batch,
            classifier.config,
            target=jnp.asarray(expected["target_gauss8_predicted"], jnp.int32),
            **RULES["gauss8_predicted"],
        )
        logits, _ = aa.forward(params, batch, classifier.config)
    for actual, name in (
        (logits, "logits"),
        (result.attributions, "attributions_gauss8_predicted"),
    ):
        largest = np.abs(expected[name]).max()
        np.testing.assert_allclose(actual, expected[name], rtol=0, atol=tolerance * largest)


@pytest.mark.parametrize("family", [*NAMES, *SAME_NUMBERS], indirect=True)
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


@pytest.mark.parametrize("family", [*NAMES, *SAME_NUMBERS], indirect=True)
def test_removed_heads_and_files(family, tmp_path):
    """A smaller model has the logits of the mask; saved and loaded, it is the same model."""
    classifier, batch, expected = family
    if classifier.config.shares_layers:
        with pytest.raises(aa.InputError, match="share their parameters: mask them"):
            aa.remove_heads(classifier, expected["head_mask"])
        return
    smaller = aa.remove_heads(classifier, expected["head_mask"])
    logits, _ = aa.forward(smaller.params, batch, smaller.config)
    assert_close(logits, expected["logits_head_masked"])
    aa.save_classifier(smaller, tmp_path)
    loaded = aa.load_classifier(tmp_path)
    assert loaded.fingerprint() == smaller.fingerprint() != classifier.fingerprint()
    assert loaded.config == smaller.config
    filled = aa.fill_heads(loaded)
    assert filled.config == classifier.config
    assert_close(aa.forward(filled.params, batch, filled.config)[0], expected["logits_head_masked"])
    shapes = jax.tree.map(np.shape, filled.params)
    assert shapes == jax.tree.map(np.shape, dict(classifier.params))


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


@pytest.mark.parametrize("family", ENCODERS, indirect=True)
def test_as_many_steps_as_are_needed(family):
    """Where "auto" says that it converged, it is what a rule of 200 nodes gives."""
    classifier, batch, _ = family
    arguments = classifier.params, batch, classifier.config
    adaptive = aa.attribute_attention(*arguments, n_steps="auto", tolerance=1e-2)
    exact = aa.attribute_attention(*arguments, n_steps=200)
    error = np.abs(np.asarray(adaptive.attributions - exact.attributions)).sum(axis=(2, 3, 4))
    share = error / np.abs(np.asarray(exact.attributions)).sum(axis=(2, 3, 4))
    assert np.asarray(adaptive.converged).any()
    # Of the order of the tolerance: these models are rougher than trained ones.
    assert share[np.asarray(adaptive.converged)].max() < 5e-2


@pytest.mark.parametrize("family", ENCODERS, indirect=True)
def test_all_layers_at_once(family):
    """The joint path starts where the attention of every layer is zero."""
    classifier, batch, _ = family
    config = classifier.config
    arguments = classifier.params, batch, config
    result = aa.attribute_attention(*arguments, n_steps=40, path="joint", objective="logit")
    _, probs = aa.forward(*arguments)
    nothing = {layer: np.zeros_like(used) for layer, used in enumerate(probs)}
    logits, _ = aa.forward(*arguments, attention_probs=nothing)
    expected = np.take_along_axis(np.asarray(logits), np.asarray(result.target)[:, None], 1)
    np.testing.assert_allclose(result.baseline_score, expected, rtol=1e-4, atol=1e-5)
    size = np.abs(np.asarray(result.attributions)).sum(axis=(1, 2, 3, 4))
    assert (np.abs(result.convergence_delta[:, 0]) < 5e-3 * size).all()


@pytest.mark.parametrize("family", ENCODERS, indirect=True)
def test_importance_is_what_a_mask_changes(family):
    """Ablation by its definition; the other measures score every head."""
    classifier, batch, expected = family
    config, labels = classifier.config, expected["labels"]
    lengths = batch["attention_mask"].sum(axis=1)
    encoded = Encoded(
        *(
            [row[:size].tolist() for row, size in zip(batch[name], lengths, strict=True)]
            for name in ("input_ids", "token_type_ids", "special_tokens_mask")
        ),
        [],
        [],
        labels.astype(np.int32),
    )
    mesh = sharding.data_mesh()

    def loss(head_mask):
        logits, _ = aa.forward(classifier.params, batch, config, head_mask=jnp.asarray(head_mask))
        log_probs = jax.nn.log_softmax(logits)
        return -np.take_along_axis(np.asarray(log_probs), labels[:, None], 1).mean()

    scores = score_heads("ablation", classifier, encoded, mesh)
    ones = np.ones((config.num_hidden_layers, config.num_attention_heads), np.float32)
    for layer, head in ((0, 1), (config.num_hidden_layers - 1, 2)):
        without = ones.copy()
        without[layer, head] = 0
        change = loss(without) - loss(ones)
        assert scores.importance[layer, head] == pytest.approx(change, abs=2e-5)
    for measure in ("attribution", "taylor", "attention"):
        values = score_heads(measure, classifier, encoded, mesh, n_steps=4).importance
        assert values.shape == ones.shape and np.isfinite(values).all() and np.ptp(values) > 0


@pytest.mark.parametrize("family", ENCODERS, indirect=True)
def test_bfloat16_and_several_devices(family):
    classifier, batch, expected = family
    mesh = sharding.data_mesh()
    assert mesh.size == 2
    inputs = {name: batch[name] for name in INPUTS[:3]}
    divided = sharding.shard_rows(inputs, mesh)
    params = sharding.replicate(classifier.params, mesh)
    assert_close(predict_logits(params, divided, classifier.config), expected["logits"])
    half = dataclasses.replace(classifier.config, dtype="bfloat16")
    with jax.numpy_dtype_promotion("standard"):
        result = aa.attribute_attention(classifier.params, batch, half, n_steps=4)
    assert result.logits.dtype == jnp.float32
    scale = np.abs(expected["logits"]).max()
    np.testing.assert_allclose(result.logits, expected["logits"], atol=0.05 * scale)
