import jax.numpy as jnp
import numpy as np
import pytest

from attattr_jax.data.batches import encode
from attattr_jax.data.splits import Split
from attattr_jax.models import inference
from attattr_jax.runtime import sharding
from attattr_jax.training import evaluation

LOGITS = np.asarray([[2.0, 0.0], [0.0, 1.0], [0.0, 3.0], [1.0, 0.0], [0.0, 1.0]])
LABELS = np.asarray([0, 1, 0, 1, 1])


def test_accuracy_and_loss_by_hand():
    found = evaluation.metrics(LOGITS, LABELS)
    assert set(found) == {"accuracy", "loss"}
    assert found["accuracy"] == pytest.approx(3 / 5)
    losses = [
        np.log1p(np.exp(-2)),
        np.log1p(np.exp(-1)),
        np.log1p(np.exp(3)),
        np.log1p(np.exp(1)),
        np.log1p(np.exp(-1)),
    ]
    assert found["loss"] == pytest.approx(np.mean(losses))


def test_task_metrics_by_hand():
    # 2 hits, 1 false alarm, 1 miss, 1 correct rejection
    assert evaluation.metrics(LOGITS, LABELS, "mrpc")["f1"] == pytest.approx(
        2 * 2 / (2 * 2 + 1 + 1)
    )
    assert evaluation.metrics(LOGITS, LABELS, "cola")["matthews"] == pytest.approx(
        (2 * 1 - 1 * 1) / np.sqrt(3 * 3 * 2 * 2)
    )
    assert evaluation.metrics(LOGITS, np.zeros(5, int), "cola")["matthews"] == 0
    assert set(evaluation.metrics(np.zeros((5, 3)), LABELS, "cola")) == {"accuracy", "loss"}, (
        "it is for two classes"
    )


def test_f1_is_of_the_class_of_that_name():
    # Of class 0: 1 hit, 1 false alarm, 1 miss.
    names = {0: "equivalent", 1: "not_equivalent"}
    assert evaluation.metrics(LOGITS, LABELS, "mrpc", names)["f1"] == pytest.approx(
        2 * 1 / (2 * 1 + 1 + 1)
    )
    assert evaluation.metrics(LOGITS, LABELS, "qqp", {0: "not_duplicate", 1: "duplicate"})[
        "f1"
    ] == pytest.approx(2 / 3)


@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_predictions_come_in_order_on_many_devices(tiny, batch_size):
    texts = ["good " * count for count in (1, 14, 15, 3, 20, 2, 30)]
    encoded = encode(tiny, Split("texts", "--text", texts, None, None), 32)
    logits = evaluation.predict(
        tiny.params, tiny.config, encoded, sharding.data_mesh(), batch_size=batch_size
    )
    for text, row in zip(texts, logits, strict=True):
        one = inference.predict_logits(
            tiny.params,
            {k: jnp.asarray(v) for k, v in inference.model_inputs(tiny.tokenize([text])).items()},
            tiny.config,
        )
        np.testing.assert_allclose(row, one[0], atol=1e-5)
