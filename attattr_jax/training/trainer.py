"""Fine-tuning: epochs, evaluation, the log, and checkpoints to go on from.

The order of an epoch depends on (seed, epoch) alone, a step on the state and its examples (`step`).
A run that is resumed is therefore the run that was not interrupted.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..data.batches import Encoded, shuffled_batches
from ..errors import InputError
from ..models.classifier import Classifier
from ..models.inference import model_inputs
from ..models.types import Array
from ..runtime import sharding
from ..runtime.files import is_full_disk
from ..runtime.processes import Terminated, check_interrupted, preemption
from .checkpoints import Checkpoints, is_news
from .evaluation import MAIN_METRICS, TASK_METRICS, metrics, predict
from .metrics_log import MetricsLog
from .step import TrainingOptions, TrainState, make_optimizer, make_train_step


class Trainer:
    """Fine-tunes one classifier on one training split.

    Writes `metrics.jsonl` and `checkpoints/` into a folder.
    """

    def __init__(
        self,
        classifier: Classifier,
        train: Encoded,
        evaluations: Mapping[str, Encoded],
        folder: Path,
        options: TrainingOptions,
        mesh: jax.sharding.Mesh | None = None,
        task: str | None = None,
        shard_params: bool = False,
    ):
        """Prepare a run.

        Args:
          classifier: where to start from.
          train: the training split, with labels.
          evaluations: splits with labels, by the name that their metrics get: "eval", or more than
            one.
          folder: where to write.
          options: the recipe.
          mesh: the devices, by default those of all processes, each of which makes the same calls.
          task: a GLUE task, for its own metric.
          shard_params: divide parameters and Adam's moments over the devices; each otherwise has a
            copy.
        """
        self.classifier, self.train = classifier, train
        self.evaluations, self.options = evaluations, options
        self.folder, self.task = Path(folder), task
        self.mesh = sharding.global_mesh() if mesh is None else mesh
        self.steps_per_epoch = math.ceil(len(train) / options.train_batch_size)
        self.num_steps = self.steps_per_epoch * options.num_train_epochs
        self.optimizer, self.schedule = make_optimizer(options, self.num_steps)
        self.shard_params = shard_params
        shapes = jax.eval_shape(self._fresh_state, classifier.params)
        self.shardings = (
            sharding.params_shardings(shapes, self.mesh)
            if shard_params
            else sharding.replicated(shapes, self.mesh)
        )
        self.train_step = make_train_step(
            classifier.config, self.optimizer, options.seed, self.shardings
        )

    def _fresh_state(self, params) -> TrainState:
        return TrainState(jnp.int32(0), params, self.optimizer.init(params), jnp.float32(0))

    def initial_state(self) -> TrainState:
        """Return the state before the first step, on the mesh."""
        # A copy: the donations here and in each step would delete the caller's arrays.
        params = jax.tree.map(
            lambda array: array.copy() if isinstance(array, jax.Array) else array,
            self.classifier.params,
        )
        params = sharding.place_params(params, self.mesh, self.shard_params)
        # Donated: where the parameters are is where the state's are.
        return jax.jit(self._fresh_state, out_shardings=self.shardings, donate_argnums=0)(params)

    def batches(self, first_step: int) -> Iterator[tuple[int, np.ndarray, Any]]:
        """Yield (step, indices of its examples, arrays on the mesh) from `first_step` on."""
        num_devices = self.mesh.size
        rows = -(-min(self.options.train_batch_size, len(self.train)) // num_devices) * num_devices
        config = self.classifier.config
        for epoch in range(first_step // self.steps_per_epoch, self.options.num_train_epochs):
            order = shuffled_batches(
                self.train.lengths, self.options.train_batch_size, self.options.seed, epoch
            )
            for position, indices in enumerate(order):
                step = epoch * self.steps_per_epoch + position
                if step >= first_step:
                    check_interrupted()
                    batch = self.train.batch(indices, rows, config.pad_token_id, config.max_length)
                    arrays = (model_inputs(batch.inputs), batch.labels, batch.weights)
                    yield step, indices, sharding.shard_rows(arrays, self.mesh)

    def evaluate(self, params) -> dict[str, float]:
        """Return the metrics of every evaluation split, each named `<split>_<metric>`."""
        results = {}
        for name, encoded in self.evaluations.items():
            logits = predict(params, self.classifier.config, encoded, self.mesh)
            classifier = self.classifier
            kind = classifier.config.outputs
            scores = metrics(logits, encoded.labels, self.task, classifier.id2label, kind)
            results |= {f"{name}_{key}": value for key, value in scores.items()}
        return results

    def best_metric(self, results: Mapping[str, float]) -> float:
        """Return what epochs are compared by.

        Of the first evaluation split: the task's own metric, else that of the kind of outputs.
        """
        split, main = next(iter(self.evaluations)), MAIN_METRICS[self.classifier.config.outputs]
        own = f"{split}_{TASK_METRICS.get(self.task, main)}"
        return results[own] if own in results else results[f"{split}_{main}"]

    def run(
        self, on_step: Callable[[int, int, float | None], None] = lambda *_: None
    ) -> tuple[Classifier, dict[str, Any]]:
        """Train from the last checkpoint in the folder, if there is one, to the end.

        Args:
          on_step: called with the steps done, the examples of the last one, and the mean loss where
            it has just been logged, else None.

        Returns:
          the classifier of the best epoch, and a summary: the best epoch's metrics and step, and of
          this process, which may have resumed the run, seconds and examples per second.

        Raises:
          InputError: the loss is not finite any more.
          Terminated: SIGTERM came; the state has been saved.
        """
        # Orbax saves in other threads, each of which logs the traceback, some when all is over.
        for name in ("absl", "asyncio"):
            logging.getLogger(name).addFilter(is_news)
        checkpoints = Checkpoints(self.folder, self.mesh, self.best_metric)
        try:
            return self._run(checkpoints, on_step)
        except Exception as error:
            if is_full_disk(error):
                raise InputError(
                    f"{checkpoints.path}: no space left; make some, then --resume"
                ) from None
            raise

    def _run(
        self, checkpoints: Checkpoints, on_step: Callable[[int, int, float | None], None]
    ) -> tuple[Classifier, dict[str, Any]]:
        state = checkpoints.restored(self.initial_state())
        first_step = int(state.step)
        with checkpoints.open() as checkpointer, preemption(together=True) as is_preempted:
            start = time.perf_counter()
            save = functools.partial(checkpoints.save, checkpointer)
            state, num_examples = self._train(state, save, checkpointer.wait, is_preempted, on_step)
            seconds = time.perf_counter() - start
            checkpointer.wait()
            best, state = checkpoints.best(checkpointer, state)
        summary = {
            "best_step": best.step,
            "num_steps": self.num_steps,
            "resumed_from_step": first_step or None,
            "train_seconds": seconds,
            "train_examples_per_second": num_examples / seconds if num_examples else None,
            **best.metrics,
        }
        params = sharding.fetch(state.params)
        return dataclasses.replace(self.classifier, params=params, new_parts=()), summary

    def _train(
        self,
        state: TrainState,
        save: Callable[..., None],
        wait: Callable[[], None],
        is_preempted: Callable[[int], bool],
        on_step: Callable[[int, int, float | None], None],
    ) -> tuple[TrainState, int]:
        """Return the state after the last step, and the number of examples trained on.

        Args:
          state: to go on from.
          save: (steps done, state, metrics): start to save a checkpoint.
          wait: until all checkpoints are saved.
          is_preempted: steps done -> whether to stop.
          on_step: as for `run`.
        """
        first_step, options, num_examples = int(state.step), self.options, 0
        log = MetricsLog(self.folder / "metrics.jsonl", first_step)
        unchecked: list[tuple[int, np.ndarray, Array]] = []
        for step, indices, arrays in self.batches(first_step):
            state, step_loss = self.train_step(state, *arrays)
            unchecked.append((step, indices, step_loss))
            done, loss = step + 1, None
            num_examples += len(indices)
            epoch = done / self.steps_per_epoch
            is_epoch_end, is_stopped = done % self.steps_per_epoch == 0, is_preempted(done)
            is_saved = is_stopped or done % options.save_steps == 0
            is_logged = done % options.logging_steps == 0 or done == self.num_steps
            # Losses are looked at only here: looking waits for the device.
            if is_logged or is_epoch_end or is_saved:
                self._check_losses(unchecked)
                unchecked = []
            if is_logged:
                num_summed = (done - 1) % options.logging_steps + 1
                loss, rate = float(state.loss_sum) / num_summed, float(self.schedule(step))
                log.write(step=done, epoch=epoch, loss=loss, learning_rate=rate)
                state = state.replace(loss_sum=sharding.replicate(np.float32(0), self.mesh))
            on_step(done, len(indices), loss)
            if is_epoch_end:
                results = self.evaluate(state.params)
                log.write(step=done, epoch=epoch, **results)
                save(done, state, results)
            elif is_saved:
                save(done, state)
            if is_stopped and done < self.num_steps:
                wait()
                # A process that exits early is reported as failed by the others.
                sharding.barrier("preempted")
                raise Terminated(
                    f"terminated by SIGTERM: step {done} of {self.num_steps} is saved, --resume"
                    " goes on from there"
                )
        return state, num_examples

    def _check_losses(self, losses: Sequence[tuple[int, np.ndarray, Array]]) -> None:
        """Raise an InputError that names the first step whose loss is not finite.

        Args:
          losses: (step, its examples, loss).
        """
        values = jax.device_get([loss for _, _, loss in losses])
        for (step, indices, _), value in zip(losses, values, strict=True):
            if not math.isfinite(value):
                first = ", ".join(map(str, indices[:8])) + (", …" if len(indices) > 8 else "")
                batch = f"batch {self.train.fingerprint(indices)}, training examples {first} from 0"
                raise InputError(
                    f"the loss is {value} at step {step + 1} ({batch}): start anew with a lower"
                    " --learning_rate"
                )
