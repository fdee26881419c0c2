"""Checkpoints of a training, by Orbax: the last two, in case one is damaged, and the best one."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ..errors import InputError, root_cause
from ..runtime import sharding
from ..runtime.files import is_full_disk, read_json
from ..runtime.processes import Terminated
from .step import TrainState


def is_news(record: logging.LogRecord) -> bool:
    """Return whether to log a record.

    The traceback of a full disk or a signal is not news: it is said in one line.
    """
    error = record.exc_info[1] if record.exc_info else None
    return not (isinstance(error, (KeyboardInterrupt, Terminated)) or is_full_disk(error))


class Checkpoints:
    """The folder `checkpoints/` of one training."""

    def __init__(
        self,
        folder: Path,
        mesh: jax.sharding.Mesh,
        metric: Callable[[Mapping[str, float]], float],
    ):
        """Take the output folder, the devices, and what epochs are compared by."""
        self.folder, self.path = folder, folder / "checkpoints"
        self.mesh, self.metric = mesh, metric

    def open(self) -> Any:
        """Return the Orbax checkpointer, a context manager."""
        from orbax.checkpoint import v1 as ocp  # lazy import: slow

        keep = ocp.training.preservation_policies
        best = keep.BestN(get_metric_fn=self.metric, n=1, keep_checkpoints_without_metrics=False)
        return ocp.training.Checkpointer(
            self.path.absolute(),
            preservation_policy=keep.AnyPreservationPolicy([keep.LatestN(2), best]),
            cleanup_tmp_directories=True,
        )

    def restored(self, state: TrainState) -> TrainState:
        """Return the state of the newest checkpoint that can be read, else the one given."""
        if jax.process_count() == 1:
            # Orbax reads the metrics of all checkpoints at once.
            for file in sorted(self.path.glob("*/metrics/metrics")):
                try:
                    read_json(file)
                except ValueError as error:
                    self._put_aside(file.parent.parent, str(error))
        while True:
            with self.open() as checkpointer:
                if checkpointer.latest is None:
                    return state
                where = self.path / str(checkpointer.latest.step)
                try:
                    return self._load(checkpointer, checkpointer.latest, state)
                except (MemoryError, jax.errors.JaxRuntimeError) as error:
                    raise InputError(
                        f"checkpoint {where} does not fit into memory ({root_cause(error):.200})"
                    ) from None
                except Exception as error:  # Orbax has no common exception for damage
                    # One process may read what another cannot, or another is gone.
                    if jax.process_count() > 1:
                        raise RuntimeError(
                            f"{where} could not be read; should it be damaged, delete it to go on"
                            " from the one before"
                        ) from error
                    reason = root_cause(error)
            self._put_aside(where, reason)

    def save(
        self,
        checkpointer: Any,
        step: int,
        state: TrainState,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Start to save a state; one with metrics may be the best epoch's."""
        keywords = {} if metrics is None else {"metrics": metrics}
        checkpointer.save_async(step, self._storable(state), force=True, **keywords)

    def best(self, checkpointer: Any, state: TrainState) -> tuple[Any, TrainState]:
        """Return the checkpoint of the best epoch, of equals the later one, and its state.

        Args:
          checkpointer: with nothing left to save.
          state: the one trained last.
        """
        best = max(
            (checkpoint for checkpoint in checkpointer.checkpoints if checkpoint.metrics),
            key=lambda checkpoint: (self.metric(checkpoint.metrics), checkpoint.step),
            default=None,
        )
        if best is None:
            raise InputError(
                f"{self.path} has no checkpoint with metrics any more: --overwrite starts anew"
            )
        if best.step == int(state.step):
            return best, state
        try:
            return best, self._load(checkpointer, best, state)
        except Exception as error:  # Orbax has no common exception for damage
            where = self.path / str(best.step)
            raise InputError(
                f"{where}, of the best epoch, is damaged ({root_cause(error):.200}): --overwrite"
                " trains anew"
            ) from None

    def _put_aside(self, checkpoint: Path, reason: str) -> None:
        """Move a damaged checkpoint out of the way: what can be read in it is not lost."""
        aside = self.folder / "damaged" / f"{checkpoint.name}-{time.time_ns()}"
        aside.parent.mkdir(exist_ok=True)
        checkpoint.rename(aside)
        print(
            f"warning: checkpoint {checkpoint} is damaged ({reason:.200}): moved to {aside}, going"
            " on without it",
            file=sys.stderr,
        )

    def _storable(self, state: TrainState) -> TrainState:
        """Return a state that Orbax can write.

        A zero stands for an array without elements, as of a layer without heads.
        """

        def storable(array):
            if array.size:
                return array
            return sharding.replicate(np.zeros((), array.dtype), self.mesh)

        return jax.tree.map(storable, state)

    def _load(self, checkpointer: Any, checkpoint: Any, state: TrainState) -> TrainState:
        """Return the state of a checkpoint; `state` has its shapes, types and shardings."""
        abstract = jax.tree.map(
            lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding),
            self._storable(state),
        )
        loaded = checkpointer.load(checkpoint, abstract)
        return jax.tree.map(lambda new, given: new if given.size else given, loaded, state)
