import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import attattr_jax as aa
from attattr_jax.models import head_masks, inference, tensors


@pytest.fixture(scope="module")
def output(golden_model, golden_batch):
    return aa.forward(golden_model.params, golden_batch, golden_model.config)


def assert_close(actual, expected):
    """Agree to 1e-5 of the largest expected value."""
    expected = np.asarray(expected)
    np.testing.assert_allclose(
        np.asarray(actual), expected, rtol=0, atol=1e-5 * np.abs(expected).max()
    )


def test_golden_logits_and_probabilities(output, golden):
    logits, probs = output
    assert_close(logits, golden["logits"])
    real = golden["attention_mask"][:, None, :, None]
    for layer, used in enumerate(probs):
        assert_close(np.asarray(used) * real, golden["attention_probs"][:, layer] * real)


@pytest.mark.parametrize("as_type", [np.asarray, jnp.asarray], ids=["static", "traced"])
def test_golden_head_mask(golden_model, golden_batch, golden, as_type):
    mask = as_type(golden["head_mask"].astype(np.int32))
    logits, probs = aa.forward(
        golden_model.params, golden_batch, golden_model.config, head_mask=mask
    )
    assert_close(logits, golden["logits_head_masked"])
    assert (np.asarray(probs[0])[:, 0] > 0).any(), (
        "the probabilities returned are those before the mask"
    )


def test_static_head_mask_scales_heads_as_the_traced_one(golden_model, golden_batch):
    mask = np.asarray([[0.5, 1, 0, -2], [0, 0, 0, 0], [1, 1, 0.25, 1]], np.float32)
    static, static_probs = aa.forward(
        golden_model.params, golden_batch, golden_model.config, head_mask=mask
    )
    traced, traced_probs = aa.forward(
        golden_model.params, golden_batch, golden_model.config, head_mask=jnp.asarray(mask)
    )
    assert_close(static, traced)
    for one, other in zip(static_probs, traced_probs, strict=True):
        assert_close(one, other)


def test_heads_under_a_static_mask_are_not_computed(golden_model, golden_batch):
    def flops(mask):
        params, config, traced = head_masks.split_head_mask(
            golden_model.params, golden_model.config, mask
        )
        lowered = inference.predict_logits.lower(
            params, inference.model_inputs(golden_batch), config, traced
        )
        return lowered.cost_analysis()["flops"]

    mask = np.ones((3, 4), np.float32)
    mask[0, 1], mask[1, 2:] = 0, 0
    examples, tokens, width, size = *golden_batch["input_ids"].shape, 32, 8
    # Of a head: four projections, scores and context, where every multiplication comes with an
    # addition.
    per_head = 2 * examples * (4 * tokens * width * size + 2 * tokens * tokens * size)
    saved = flops(jnp.ones((3, 4))) - flops(mask)
    assert 3 * per_head < saved < 3.5 * per_head, "the rest is softmax and biases"
    assert flops(jnp.asarray(mask)) == flops(jnp.ones((3, 4))), "those under a traced mask are"


def test_model_without_some_heads_keeps_the_numbering_of_the_whole(golden_model, golden_batch):
    mask = np.asarray([[0, 1, 1, 0], [0, 0, 0, 0], [1, 0, 1, 1]])
    traced = jnp.asarray(mask, jnp.float32)
    smaller = aa.remove_heads(golden_model, mask)
    logits, probs = aa.forward(
        golden_model.params, golden_batch, golden_model.config, head_mask=traced
    )
    of_smaller, used = aa.forward(smaller.params, golden_batch, smaller.config)
    assert_close(of_smaller, logits)
    for row, full, left in zip(mask, probs, used, strict=True):
        np.testing.assert_allclose(
            left, full * row[None, :, None, None].astype(np.float32), atol=1e-6
        )

    injected = {0: jnp.roll(probs[0], 1, axis=1), 2: probs[2] * 0.5}
    expected, _ = aa.forward(
        golden_model.params, golden_batch, golden_model.config, injected, head_mask=traced
    )
    found, used = aa.forward(smaller.params, golden_batch, smaller.config, injected)
    assert_close(found, expected)
    assert np.abs(expected - logits).max() > 1e-3, "injection matters"
    np.testing.assert_array_equal(used[0], injected[0])


def test_injecting_own_probabilities_changes_nothing(golden_model, golden_batch, output):
    logits, probs = output
    again, used = aa.forward(
        golden_model.params,
        golden_batch,
        golden_model.config,
        attention_probs=dict(enumerate(probs)),
    )
    np.testing.assert_allclose(again, logits, atol=1e-6)
    np.testing.assert_array_equal(used[1], probs[1])


def test_injected_probabilities_are_used(golden_model, golden_batch, output):
    logits, probs = output
    changed, used = aa.forward(
        golden_model.params, golden_batch, golden_model.config, attention_probs={1: probs[1] * 0.5}
    )
    np.testing.assert_array_equal(used[0], probs[0])
    np.testing.assert_array_equal(used[1], probs[1] * 0.5)
    assert np.abs(changed - logits).max() > 1e-3


def test_mask_equals_zeroed_output_rows(golden_model, golden_batch):
    config = golden_model.config
    mask = np.ones((3, 4), np.int32)
    mask[1, 2] = 0
    masked, _ = aa.forward(golden_model.params, golden_batch, config, head_mask=mask)
    params = jax.tree.map(np.array, golden_model.params)
    params["layers_1"]["attention_output"]["kernel"][
        2 * config.head_size : 3 * config.head_size
    ] = 0
    zeroed, _ = aa.forward(params, golden_batch, config)
    np.testing.assert_allclose(masked, zeroed, atol=1e-6)


def test_padding_and_batch_order_change_nothing(golden_model, golden_batch, output):
    logits, probs = output
    wider = {name: np.pad(values, ((0, 0), (0, 5)))[::-1] for name, values in golden_batch.items()}
    again, used = aa.forward(golden_model.params, wider, golden_model.config)
    np.testing.assert_allclose(again[::-1], logits, atol=1e-6)
    np.testing.assert_allclose(used[2][::-1][0, :, :14, :14], probs[2][0], atol=1e-6)
    assert not np.asarray(used[2])[..., 14:].any(), "padding is attended to"


def test_missing_mask_and_segments_mean_ones_and_zeros(golden_model, golden_batch):
    ids = golden_batch["input_ids"][:1]
    short, _ = aa.forward(golden_model.params, {"input_ids": ids}, golden_model.config)
    full = {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "token_type_ids": np.zeros_like(ids),
    }
    np.testing.assert_array_equal(
        short, aa.forward(golden_model.params, full, golden_model.config)[0]
    )


class ForeignTensor:
    """What another library's tensor on the CPU is to NumPy."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return self.values if dtype is None else self.values.astype(dtype)


@pytest.mark.parametrize(
    "convert", [np.ndarray.tolist, ForeignTensor, lambda values: values.astype(np.uint64)]
)
def test_whatever_numpy_reads_is_a_host_array(golden_model, golden_batch, output, convert):
    batch = {name: convert(values) for name, values in golden_batch.items()}
    np.testing.assert_array_equal(
        aa.forward(golden_model.params, batch, golden_model.config)[0], output[0]
    )


@pytest.mark.parametrize("name", ["input_ids", "token_type_ids"])
@pytest.mark.parametrize("value", [-1, 10**6])
def test_what_the_model_has_not_gives_nan_in_a_jax_array(
    golden_model, golden_batch, output, name, value
):
    batch = {key: jnp.asarray(values) for key, values in golden_batch.items()}
    logits, _ = aa.forward(
        golden_model.params, {**batch, name: batch[name].at[1, 2].set(value)}, golden_model.config
    )
    assert np.isnan(logits[1]).all()
    np.testing.assert_array_equal(np.delete(logits, 1, axis=0), np.delete(output[0], 1, axis=0))


def test_a_token_masked_between_others_is_hidden(golden_model, golden_batch, output):
    hidden, other = (
        {name: values.copy() for name, values in golden_batch.items()} for _ in range(2)
    )
    hidden["attention_mask"][:, 2] = other["attention_mask"][:, 2] = 0
    other["input_ids"][:, 2] += 1
    logits = aa.forward(golden_model.params, hidden, golden_model.config)[0]
    np.testing.assert_array_equal(
        aa.forward(golden_model.params, other, golden_model.config)[0], logits
    )
    assert np.abs(logits - output[0]).max() > 1e-3


def test_predict_logits_skips_no_needed_row(golden_model, golden_batch, output):
    logits = inference.predict_logits(
        golden_model.params, inference.model_inputs(golden_batch), golden_model.config
    )
    np.testing.assert_allclose(logits, output[0], atol=1e-6)


def test_forward_under_jit_vmap_and_grad(golden_model, golden_batch, output):
    params, config = golden_model.params, golden_model.config
    inputs = inference.model_inputs(golden_batch)

    def one(example):
        return aa.forward(params, {name: values[None] for name, values in example.items()}, config)[
            0
        ][0]

    np.testing.assert_allclose(jax.jit(jax.vmap(one))(inputs), output[0], atol=1e-6)
    gradient = jax.grad(
        lambda probs: aa.forward(params, inputs, config, attention_probs={0: probs})[0][:, 0].sum()
    )(output[1][0])
    assert gradient.shape == output[1][0].shape and np.abs(gradient).max() > 0


def test_bfloat16_stays_near(golden_model, golden_batch, output):
    config = dataclasses.replace(golden_model.config, dtype="bfloat16")
    # Flax's LayerNorm does not pass under the strict rules in bfloat16
    with jax.numpy_dtype_promotion("standard"):
        logits, probs = aa.forward(golden_model.params, golden_batch, config)
    assert logits.dtype == jnp.float32 and probs[0].dtype == jnp.bfloat16
    np.testing.assert_allclose(logits, output[0], atol=0.05 * np.abs(output[0]).max())


def test_large_geometry_without_memory():
    config = aa.BertConfig(
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
        num_labels=5,
    )
    ids = jax.ShapeDtypeStruct((4, 128), jnp.int32)
    logits, probs = jax.eval_shape(
        lambda params, ids: aa.forward(params, {"input_ids": ids}, config),
        tensors.param_shapes(config),
        ids,
    )
    assert logits.shape == (4, 5)
    assert len(probs) == 24 and {p.shape for p in probs} == {(4, 16, 128, 128)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch": {"ids": np.zeros((1, 4), np.int32)}}, "no 'input_ids'"),
        ({"batch": {"input_ids": np.zeros(4, np.int32)}}, r"must be \[B, T\]"),
        ({"batch": {"input_ids": np.zeros((1, 65), np.int32)}}, "65 tokens are more than"),
        ({"head_mask": np.ones((4, 3))}, r"must be \[L, N\] = \[3, 4\], not \[4, 3\]"),
        ({"head_mask": [[1, 0], [1]]}, r"must be \[L, N\] = \[3, 4\]"),
        ({"head_mask": np.full((3, 4), 1e300)}, "must be of finite numbers"),
        ({"head_mask": np.full((3, 4), "1")}, "must be of finite numbers"),
        ({"attention_probs": {3: np.zeros((4, 4, 14, 14))}}, "names layer 3"),
        ({"attention_probs": {0: np.zeros((4, 4, 14, 13))}}, r"attention_probs\[0\] must be"),
        (
            {"attention_probs": (np.zeros((4, 4, 14, 14)),)},
            r"attention_probs must be \{layer: \[B, N, T, T\]\}, not tuple",
        ),
        (
            {"batch": [[1, 2]]},
            "batch must be a dictionary of arrays, as from Classifier.tokenize, not list",
        ),
        ({"attention_probs": {True: np.zeros((4, 4, 14, 14))}}, "names layer True"),
        (
            {"attention_probs": {0: np.full((4, 4, 14, 14), "a")}},
            r"attention_probs\[0\] must be of numbers",
        ),
        ({"batch": {"input_ids": np.zeros((0, 4), np.int32)}}, "an example and a token at least"),
        ({"batch": {"input_ids": jnp.zeros((2, 0), jnp.int32)}}, "an example and a token at least"),
        ({"batch": {"input_ids": [[2, 3], [2]]}}, "input_ids cannot be read as an array"),
    ],
)
def test_wrong_shapes_are_named(golden_model, golden_batch, arguments, message):
    arguments = {"batch": golden_batch, **arguments}
    with pytest.raises(aa.InputError, match=message):
        aa.forward(golden_model.params, config=golden_model.config, **arguments)


@pytest.mark.parametrize(
    ("name", "position", "value", "message"),
    [
        (
            "input_ids",
            (0, 2),
            97,
            r"input_ids\[0, 2\] is 97; it must be from 0 to 96: the model's vocab_size is 97",
        ),
        ("input_ids", (0, 2), -1, r"input_ids\[0, 2\] is -1"),
        ("token_type_ids", (1, 3), 2, r"token_type_ids\[1, 3\] is 2; .*type_vocab_size is 2"),
        (
            "attention_mask",
            (1, 3),
            2,
            r"attention_mask\[1, 3\] is 2; .*1 for real tokens, 0 for padding",
        ),
        ("attention_mask", (1, 0), 0, r"attention_mask\[1, 0\] is 0: .* pad on the right"),
        (
            "attention_mask",
            (),
            None,
            r"input_ids\[1, 13\] is padding \(pad_token_id 0\): pass attention_mask",
        ),
        ("input_ids", (), 5.0, "input_ids must be of integers, not float64"),
        ("attention_mask", (), -10000.0, "attention_mask must be of integers, not float64"),
        ("token_type_ids", (), True, "token_type_ids must be of integers, not bool"),
    ],
)
def test_host_arrays_that_cannot_be_right_are_refused(
    golden_model, golden_batch, name, position, value, message
):
    values = golden_batch[name].copy()
    if position:
        values[position] = value
    else:
        values = value if value is None else np.full(values.shape, value)
    for function in (aa.forward, aa.attribute_attention, aa.attribute_tokens):
        with pytest.raises(aa.InputError, match=message):
            function(golden_model.params, {**golden_batch, name: values}, golden_model.config)


def test_padding_between_other_tokens_is_a_token(golden_model, golden_batch):
    """As in a baseline: only at an end of a row is it taken for padding that lacks a mask."""
    ids = golden_batch["input_ids"][:1].copy()
    ids[0, 2:5] = golden_model.config.pad_token_id
    logits, _ = aa.forward(golden_model.params, {"input_ids": ids}, golden_model.config)
    explicit, _ = aa.forward(
        golden_model.params,
        {"input_ids": ids, "attention_mask": np.ones_like(ids)},
        golden_model.config,
    )
    np.testing.assert_array_equal(logits, explicit)


def test_pairs_need_a_model_with_two_segments(golden_model, golden_batch):
    config = dataclasses.replace(golden_model.config, type_vocab_size=1)
    params = {
        **golden_model.params,
        "token_type_embeddings": {"embedding": np.zeros((1, 32), np.float32)},
    }
    with pytest.raises(aa.InputError, match="type_vocab_size is 1"):
        aa.forward(params, golden_batch, config)
    traced, _ = aa.forward(params, jax.tree.map(jnp.asarray, golden_batch), config)
    np.testing.assert_array_equal(
        np.isnan(traced).all(axis=1), golden_batch["token_type_ids"].any(axis=1)
    )


def test_a_mask_of_ones_and_zeros_as_floats(golden_model, golden_batch, output):
    batch = {**golden_batch, "attention_mask": golden_batch["attention_mask"].astype(float)}
    np.testing.assert_array_equal(
        aa.forward(golden_model.params, batch, golden_model.config)[0], output[0]
    )


def test_a_mask_of_booleans(golden_model, golden_batch, output):
    batch = {**golden_batch, "attention_mask": golden_batch["attention_mask"] != 0}
    np.testing.assert_array_equal(
        aa.forward(golden_model.params, batch, golden_model.config)[0], output[0]
    )
