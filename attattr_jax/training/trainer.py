"""Fine-tuning: AdamW with linear warm-up and decay, a jit-ted step with donated state, checkpoints
to go on from.

The state after step s is a function of the seed, the data and s alone: dropout keys are folded from
(seed, s), the order of an epoch from (seed, epoch). A run that is resumed is therefore the run that
was not interrupted.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ..data.batches import Encoded, shuffled_batches
from ..errors import InputError, root_cause
from ..models.classifier import Classifier
from ..models.families import apply_encoder
from ..models.inference import model_inputs
from ..models.types import Array
from ..runtime import sharding
from ..runtime.files import is_full_disk, read_json, write_file
from ..runtime.processes import Terminated, check_interrupted, preemption
from .evaluation import TASK_METRICS, metrics, predict


@dataclasses.dataclass(frozen=True)
class TrainingOptions:
    """The recipe."""

    num_train_epochs: int = 2
    train_batch_size: int = 32
    learning_rate: float = 2e-5
    weight_decay: float = 0.01
    warmup_ratio: float = 0.1
    save_steps: int = 500
    logging_steps: int = 50
    seed: int = 0


MAX_GRAD_NORM = 1.0


class TrainState(flax.struct.PyTreeNode):
    """All that changes during training, and all that a checkpoint holds."""

    step: Array  # int32 [], optimizer steps done
    params: Any
    opt_state: Any
    loss_sum: Array  # float32 [], of the steps since the last log line


def make_optimizer(
    options: TrainingOptions, num_steps: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Return AdamW and its schedule: linear warm-up to `learning_rate`, linear decay to 0, gradient
    norm clipped.

    No weight decay on biases and LayerNorm, as BERT was trained.
    """
    num_warmup = int(options.warmup_ratio * num_steps)
    schedule = optax.schedules.warmup_constant_schedule(0.0, options.learning_rate, num_warmup)
    decay = optax.schedules.linear_schedule(
        options.learning_rate, 0.0, max(1, num_steps - num_warmup)
    )
    schedule = optax.schedules.join_schedules([schedule, decay], [num_warmup])

    def is_decayed(params):
        return jax.tree_util.tree_map_with_path(
            lambda path, _: path[-1].key in ("kernel", "embedding"), params
        )

    optimizer = optax.chain(
        optax.clip_by_global_norm(MAX_GRAD_NORM),
        optax.adamw(schedule, weight_decay=options.weight_decay, mask=is_decayed),
    )
    return optimizer, schedule


def make_train_step(
    config, optimizer: optax.GradientTransformation, seed: int, shardings: TrainState | None = None
) -> Callable:
    """Return the compiled step (state, inputs, labels, weights) -> (state, loss); the state given
    is donated.

    Args:
      shardings: where the new state's arrays are to be, by default where the compiler puts them.
    """

    def loss_of(params, inputs, labels, weights, dropout_key):
        rngs = {"dropout": dropout_key}
        logits, _, _ = apply_encoder(
            params, config, inputs, only_read_rows=True, train=True, rngs=rngs
        )
        losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.sum(losses * weights) / jnp.sum(weights)

    @functools.partial(
        jax.jit, donate_argnums=0, out_shardings=None if shardings is None else (shardings, None)
    )
    def train_step(state: TrainState, inputs, labels, weights) -> tuple[TrainState, Array]:
        dropout_key = jax.random.fold_in(jax.random.key(seed), state.step)
        loss, gradient = jax.value_and_grad(loss_of)(
            state.params, inputs, labels, weights, dropout_key
        )
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, opt_state, state.loss_sum + loss), loss

    return train_step


def _is_news(record: logging.LogRecord) -> bool:
    """Return whether to log: not the traceback of a full disk or a signal, which are said in one
    line.
    """
    error = record.exc_info[1] if record.exc_info else None
    return not (isinstance(error, (KeyboardInterrupt, Terminated)) or is_full_disk(error))


class Trainer:
    """Fine-tunes one classifier on one training split, writing `metrics.jsonl` and `checkpoints/`
    into a folder.
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
        self.classifier, self.train, self.evaluations, self.options = (
            classifier,
            train,
            evaluations,
            options,
        )
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
        # A JAX array that is in place already stays the caller's, whom the donations here and in
        # each step must not rob of it.
        params = jax.tree.map(
            lambda array: array.copy() if isinstance(array, jax.Array) else array,
            self.classifier.params,
        )
        params = sharding.place_params(params, self.mesh, self.shard_params)
        # Donated: where the parameters are is where the state's are.
        return jax.jit(self._fresh_state, out_shardings=self.shardings, donate_argnums=0)(params)

    def batches(self, first_step: int) -> Iterator[tuple[int, np.ndarray, Any]]:
        """Yield (step, indices of its examples, arrays on the mesh) from `first_step` on."""
        rows = (
            -(-min(self.options.train_batch_size, len(self.train)) // self.mesh.size)
            * self.mesh.size
        )
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
        found = {}
        for name, encoded in self.evaluations.items():
            logits = predict(params, self.classifier.config, encoded, self.mesh)
            scores = metrics(logits, encoded.labels, self.task, self.classifier.id2label)
            found |= {f"{name}_{key}": value for key, value in scores.items()}
        return found

    def best_metric(self, found: Mapping[str, float]) -> float:
        """Return what epochs are compared by: of the first evaluation split the task's own metric,
        else accuracy.
        """
        split = next(iter(self.evaluations))
        own = f"{split}_{TASK_METRICS.get(self.task, 'accuracy')}"
        return found[own] if own in found else found[f"{split}_accuracy"]

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
        # Orbax saves in other threads, each of which logs the traceback, some when all is over
        for name in ("absl", "asyncio"):
            logging.getLogger(name).addFilter(_is_news)
        try:
            return self._run(on_step)
        except Exception as error:
            if is_full_disk(error):
                raise InputError(
                    f"{self._checkpoints}: no space left; make some, then --resume"
                ) from None
            raise

    def _run(
        self, on_step: Callable[[int, int, float | None], None]
    ) -> tuple[Classifier, dict[str, Any]]:
        state = self._restored(self.initial_state())
        with self._checkpointer() as checkpointer, preemption(together=True) as is_preempted:
            first_step = int(state.step)
            log = MetricsLog(self.folder / "metrics.jsonl", first_step)
            start, num_examples = time.perf_counter(), 0
            unchecked: list[tuple[int, np.ndarray, Array]] = []
            for step, indices, arrays in self.batches(first_step):
                state, step_loss = self.train_step(state, *arrays)
                unchecked.append((step, indices, step_loss))
                done, num_examples = step + 1, num_examples + len(indices)
                epoch = done / self.steps_per_epoch
                loss = None
                is_epoch_end, is_stopped = done % self.steps_per_epoch == 0, is_preempted(done)
                is_saved = is_stopped or done % self.options.save_steps == 0
                is_logged = done % self.options.logging_steps == 0 or done == self.num_steps
                if is_logged or is_epoch_end or is_saved:
                    self._check_losses(unchecked)
                    unchecked = []
                if is_logged:
                    since = (done - 1) % self.options.logging_steps + 1
                    loss = float(state.loss_sum) / since
                    log.write(
                        step=done, epoch=epoch, loss=loss, learning_rate=float(self.schedule(step))
                    )
                    state = state.replace(loss_sum=sharding.replicate(np.float32(0), self.mesh))
                on_step(done, len(indices), loss)
                if is_epoch_end:
                    found = self.evaluate(state.params)
                    log.write(step=done, epoch=epoch, **found)
                    checkpointer.save_async(done, self._storable(state), force=True, metrics=found)
                elif is_saved:
                    checkpointer.save_async(done, self._storable(state), force=True)
                if is_stopped and done < self.num_steps:
                    checkpointer.wait()
                    # Who is gone before the others have saved would be taken for dead
                    sharding.barrier("preempted")
                    raise Terminated(
                        f"terminated by SIGTERM: step {done} of {self.num_steps} is saved, --resume"
                        " goes on from there"
                    )
            seconds = time.perf_counter() - start
            checkpointer.wait()
            best = max(
                (checkpoint for checkpoint in checkpointer.checkpoints if checkpoint.metrics),
                key=lambda checkpoint: (self.best_metric(checkpoint.metrics), checkpoint.step),
                default=None,
            )
            if best is None:
                raise InputError(
                    f"{self._checkpoints} has no checkpoint with metrics any more: --overwrite"
                    " starts anew"
                )
            if best.step != int(state.step):
                try:
                    state = self._load(checkpointer, best, state)
                except Exception as error:  # Orbax has no common exception for damage
                    where = self._checkpoints / str(best.step)
                    raise InputError(
                        f"{where}, of the best epoch, is damaged ({root_cause(error):.200}):"
                        " --overwrite trains anew"
                    ) from None
        summary = {
            "best_step": best.step,
            "num_steps": self.num_steps,
            "resumed_from_step": first_step or None,
            "train_seconds": seconds,
            "train_examples_per_second": num_examples / seconds if num_examples else None,
            **best.metrics,
        }
        return (
            dataclasses.replace(self.classifier, params=sharding.fetch(state.params), new_parts=()),
            summary,
        )

    def _check_losses(self, losses: Sequence[tuple[int, np.ndarray, Array]]) -> None:
        """Raise an InputError if one of the steps (number, examples, loss) has a loss that is not
        finite; names the first.
        """
        values = jax.device_get([loss for _, _, loss in losses])
        for (step, indices, _), value in zip(losses, values, strict=True):
            if not math.isfinite(value):
                listed = ", ".join(map(str, indices[:8])) + (", …" if len(indices) > 8 else "")
                batch = (
                    f"batch {self.train.fingerprint(indices)}, training examples {listed} from 0"
                )
                raise InputError(
                    f"the loss is {value} at step {step + 1} ({batch}): start anew with a lower"
                    " --learning_rate"
                )

    def _restored(self, state: TrainState) -> TrainState:
        """Return the state of the newest checkpoint that can be read, or the one given, where there
        is none.
        """
        if jax.process_count() == 1:
            # Orbax reads all of them at once
            for file in sorted(self._checkpoints.glob("*/metrics/metrics")):
                try:
                    read_json(file)
                except ValueError as error:
                    self._put_aside(file.parent.parent, str(error))
        while True:
            with self._checkpointer() as checkpointer:
                if checkpointer.latest is None:
                    return state
                where = self._checkpoints / str(checkpointer.latest.step)
                try:
                    return self._load(checkpointer, checkpointer.latest, state)
                except (MemoryError, jax.errors.JaxRuntimeError) as error:
                    raise InputError(
                        f"checkpoint {where} does not fit into memory ({root_cause(error):.200})"
                    ) from None
                except Exception as error:  # Orbax has no common exception for damage
                    # One may read what another cannot, or another is gone
                    if jax.process_count() > 1:
                        raise RuntimeError(
                            f"{where} could not be read; should it be damaged, delete it to go on"
                            " from the one before"
                        ) from error
                    reason = root_cause(error)
            self._put_aside(where, reason)

    def _put_aside(self, checkpoint: Path, reason: str) -> None:
        """Say that a checkpoint is damaged, and move it out of the way: what can be read in it is
        not lost.
        """
        aside = self.folder / "damaged" / f"{checkpoint.name}-{time.time_ns()}"
        aside.parent.mkdir(exist_ok=True)
        checkpoint.rename(aside)
        print(
            f"warning: checkpoint {checkpoint} is damaged ({reason:.200}): moved to {aside}, going"
            " on without it",
            file=sys.stderr,
        )

    @property
    def _checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def _checkpointer(self):
        """Return the Orbax checkpointer: keeps the last two checkpoints, should one be damaged, and
        the best epoch's.
        """
        from orbax.checkpoint import v1 as ocp

        keep = ocp.training.preservation_policies
        return ocp.training.Checkpointer(
            self._checkpoints.absolute(),
            preservation_policy=keep.AnyPreservationPolicy(
                [
                    keep.LatestN(2),
                    keep.BestN(
                        get_metric_fn=self.best_metric, n=1, keep_checkpoints_without_metrics=False
                    ),
                ]
            ),
            cleanup_tmp_directories=True,
        )

    def _storable(self, state: TrainState) -> TrainState:
        """Return a state that Orbax can write: a zero stands for an array without elements, as of a
        layer without heads.
        """
        return jax.tree.map(
            lambda array: (
                array if array.size else sharding.replicate(np.zeros((), array.dtype), self.mesh)
            ),
            state,
        )

    def _load(self, checkpointer, checkpoint, state: TrainState) -> TrainState:
        """Return the state of a checkpoint; `state` has its shapes, types and shardings."""
        abstract = jax.tree.map(
            lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding),
            self._storable(state),
        )
        return jax.tree.map(
            lambda loaded, given: loaded if given.size else given,
            checkpointer.load(checkpoint, abstract),
            state,
        )


class MetricsLog:
    """`metrics.jsonl`: one object a line, flushed as it is written, by one process."""

    def __init__(self, file: Path, first_step: int):
        """Keep the lines up to `first_step`, where the run goes on; later ones will be written
        again.
        """
        self.file = file
        if not sharding.is_main():
            return
        lines = (
            file.read_text(encoding="utf-8", errors="replace").splitlines() if file.exists() else []
        )
        kept = []
        for line in lines:
            try:
                if json.loads(line)["step"] <= first_step:
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError):
                break  # a line cut short by a crash, and whatever follows it
        file.parent.mkdir(parents=True, exist_ok=True)
        write_file(file, "".join(kept))

    def write(self, **fields: float) -> None:
        """Append one line."""
        if sharding.is_main():
            with open(self.file, "a", encoding="utf-8") as file:
                file.write(json.dumps(fields) + "\n")
