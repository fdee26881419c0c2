import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import read_jsonl

import attattr_jax as aa
from attattr_jax.data.batches import encode
from attattr_jax.data.labels import class_indices
from attattr_jax.data.splits import load_split
from attattr_jax.models import inference
from attattr_jax.runtime import sharding
from attattr_jax.training.step import (
    TrainingOptions,
    TrainState,
    make_optimizer,
    make_train_step,
)
from attattr_jax.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("standard_promotion")

RECIPE = TrainingOptions(
    num_train_epochs=2, train_batch_size=8, learning_rate=1e-3, save_steps=3, logging_steps=2
)


@pytest.fixture(scope="module")
def splits(tiny, reviews_folder):
    loaded = [load_split(str(reviews_folder), name) for name in ("train", "validation")]
    return [encode(tiny, split, 16, class_indices(split, tiny.id2label)) for split in loaded]


def make_trainer(tiny, splits, folder, mesh=None, recipe=RECIPE):
    return Trainer(tiny, splits[0], {"eval": splits[1]}, folder, recipe, mesh)


@pytest.fixture(scope="module")
def uninterrupted(tiny, splits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    classifier, summary = make_trainer(tiny, splits, folder).run()
    return classifier, summary, read_jsonl(folder / "metrics.jsonl")


def test_schedule_warms_up_and_decays_to_zero():
    recipe = TrainingOptions(learning_rate=1.0, warmup_ratio=0.2)
    _, schedule = make_optimizer(recipe, 10)
    np.testing.assert_allclose(
        [float(schedule(step)) for step in range(11)], [0, 0.5, *np.linspace(1, 0, 9)], atol=1e-6
    )
    _, schedule = make_optimizer(TrainingOptions(learning_rate=1.0, warmup_ratio=0.0), 4)
    np.testing.assert_allclose(
        [float(schedule(step)) for step in range(5)], [1, 0.75, 0.5, 0.25, 0]
    )


def test_no_weight_decay_on_biases_and_layer_norm(tiny):
    optimizer, _ = make_optimizer(
        TrainingOptions(weight_decay=0.5, learning_rate=1.0, warmup_ratio=0), 10
    )
    params = jax.tree.map(jnp.ones_like, tiny.params)
    updates, _ = optimizer.update(
        jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params
    )
    for path, update in jax.tree_util.tree_leaves_with_path(updates):
        decayed = path[-1].key in ("kernel", "embedding")
        np.testing.assert_allclose(
            update, -0.5 if decayed else 0.0, err_msg=jax.tree_util.keystr(path)
        )


def test_log_has_every_line(uninterrupted):
    _, summary, lines = uninterrupted
    losses = [line for line in lines if "loss" in line]
    assert [line["step"] for line in losses] == [2, 4, 6, 8, 10]
    assert set(losses[0]) == {"step", "epoch", "loss", "learning_rate"}
    evaluations = [line for line in lines if "eval_accuracy" in line]
    assert [line["step"] for line in evaluations] == [5, 10]
    assert summary["eval_accuracy"] == max(line["eval_accuracy"] for line in evaluations)


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("stop_at", [4, 7])
def test_resumed_run_equals_the_uninterrupted_one(tiny, splits, tmp_path, uninterrupted, stop_at):
    def stop(step, num_examples, loss):
        if step == stop_at:
            raise Interrupted

    with pytest.raises(Interrupted):
        make_trainer(tiny, splits, tmp_path).run(stop)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 99')  # a line cut short
    seen = []
    classifier, _ = make_trainer(tiny, splits, tmp_path).run(lambda step, *_: seen.append(step))
    assert seen[0] == {4: 4, 7: 7}[stop_at], "goes on after the last checkpoint, steps 3 and 6"
    expected, _, lines = uninterrupted
    assert read_jsonl(tmp_path / "metrics.jsonl") == lines
    jax.tree.map(np.testing.assert_array_equal, classifier.params, expected.params)


def test_model_with_a_layer_without_heads_is_trained_and_resumed(tiny, splits, tmp_path):
    smaller = aa.remove_heads(tiny, [[1, 0, 1, 1], [0, 0, 0, 0]])
    recipe = TrainingOptions(
        num_train_epochs=1, train_batch_size=16, learning_rate=1e-3, save_steps=1, logging_steps=1
    )

    def stop(step, num_examples, loss):
        if step == 2:
            raise Interrupted

    trainer = make_trainer(smaller, splits, tmp_path / "resumed", recipe=recipe)
    with pytest.raises(Interrupted):
        trainer.run(stop)
    resumed, summary = trainer.run()
    trainer.folder = tmp_path / "whole"  # what is compiled serves again
    expected, _ = trainer.run()
    assert summary["resumed_from_step"] == 1 and resumed.config.kept_heads == ((0, 2, 3), ())
    jax.tree.map(np.testing.assert_array_equal, resumed.params, expected.params)
    assert resumed.params["layers_1"]["query"]["kernel"].shape == (16, 0)
    assert (
        resumed.params["layers_0"]["query"]["kernel"]
        != smaller.params["layers_0"]["query"]["kernel"]
    ).any()


def test_best_epoch_is_returned(tiny, splits, tmp_path, monkeypatch):
    accuracies = iter([0.9, 0.5])
    trainer = make_trainer(tiny, splits, tmp_path)
    states = []

    def evaluate(params):
        states.append(jax.tree.map(np.array, params))
        return {"eval_accuracy": next(accuracies), "eval_loss": 1.0}

    monkeypatch.setattr(trainer, "evaluate", evaluate)
    classifier, summary = trainer.run()
    assert summary["best_step"] == 5 and summary["eval_accuracy"] == 0.9
    jax.tree.map(np.testing.assert_array_equal, classifier.params, states[0])
    kept = sorted(
        int(folder.name) for folder in (tmp_path / "checkpoints").iterdir() if folder.name.isdigit()
    )
    assert kept == [5, 9, 10], "the best and the last two"


def test_one_device_equals_two(tiny, splits, tmp_path):
    recipe = TrainingOptions(
        num_train_epochs=1, train_batch_size=7, learning_rate=1e-3, logging_steps=1
    )
    losses = []
    for count in (1, 2):
        folder = tmp_path / str(count)
        make_trainer(
            tiny, splits, folder, sharding.data_mesh(jax.local_devices()[:count]), recipe
        ).run()
        losses.append(
            [line["loss"] for line in read_jsonl(folder / "metrics.jsonl") if "loss" in line]
        )
    # On two devices 7 rows are padded to 8; the dropout of the first 7 stays what it was.
    assert len(losses[0]) == 6
    np.testing.assert_allclose(losses[0], losses[1], atol=1e-5)


def test_jax_parameters_of_the_caller_stay_usable(tiny, splits, tmp_path):
    classifier = dataclasses.replace(tiny, params=jax.tree.map(jnp.asarray, tiny.params))
    trainer = make_trainer(classifier, splits, tmp_path, sharding.data_mesh(jax.devices()[:1]))
    state = trainer.initial_state()
    _, _, arrays = next(trainer.batches(0))
    trainer.train_step(state, *arrays)
    for given, kept in zip(
        jax.tree.leaves(tiny.params), jax.tree.leaves(classifier.params), strict=True
    ):
        np.testing.assert_array_equal(kept, given)


def test_padding_rows_do_not_count(tiny, splits):
    """Without dropout, a batch of 8 rows of which 3 are filling gives the gradient of the other
    5.
    """
    import dataclasses

    config = dataclasses.replace(
        tiny.config, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    optimizer, _ = make_optimizer(RECIPE, 10)
    step = make_train_step(config, optimizer, seed=0)
    states = []
    for rows in (5, 8):
        batch = splits[0].batch(range(5), rows, 0, 32)
        params = jax.tree.map(jnp.array, tiny.params)
        state = TrainState(jnp.int32(0), params, optimizer.init(params), jnp.float32(0))
        states.append(
            step(state, inference.model_inputs(batch.inputs), batch.labels, batch.weights)[0]
        )
    assert float(states[0].loss_sum) == pytest.approx(float(states[1].loss_sum), abs=1e-6)
    moments = [jax.tree.leaves(state.opt_state) for state in states]
    for first, second in zip(*moments, strict=True):
        np.testing.assert_allclose(first, second, atol=1e-6)


def test_exploding_loss_is_said(tiny, splits, tmp_path):
    recipe = TrainingOptions(num_train_epochs=1, train_batch_size=8, logging_steps=1)
    broken = jax.tree.map(lambda array: np.full_like(array, np.nan), tiny.params)
    classifier = aa.Classifier(tiny.config, broken, tiny.tokenizer, tiny.id2label)
    with pytest.raises(
        aa.InputError,
        match=r"the loss is nan at step 1 \(batch [0-9a-f]{16}, training examples .*\): start anew",
    ):
        make_trainer(classifier, splits, tmp_path, recipe=recipe).run()


def test_bfloat16_trains_with_float32_parameters(tiny, splits, tmp_path):
    import dataclasses

    classifier = dataclasses.replace(
        tiny, config=dataclasses.replace(tiny.config, dtype="bfloat16")
    )
    recipe = TrainingOptions(num_train_epochs=1, train_batch_size=16)
    trained, _ = make_trainer(classifier, splits, tmp_path, recipe=recipe).run()
    assert {array.dtype for array in jax.tree.leaves(trained.params)} == {np.dtype("float32")}
    assert json.loads(json.dumps(trained.config.to_hf(trained.id2label))).get("dtype") is None
