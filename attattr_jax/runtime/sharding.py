"""Devices and processes: the mesh, arrays on it, and what several processes have to agree on.

One axis, `data`, over which the rows of every batch are divided. Parameters are replicated, or
divided along the same axis (`shard_params`, as in FSDP: XLA gathers a layer's when it is computed).

Two ways to use many processes:

- training is one program over the devices of all of them (`global_mesh`): every process makes the
same calls in the same order; - whatever needs no communication (attribution, scores, curves) runs
on the devices of each process by itself (`data_mesh`), on its share of the batches (`share_of`);
results are added up at the end (`sum_over_processes`).

Nothing here runs at import: devices are looked up when a mesh is made.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

_sums = itertools.count()
BARRIER_SECONDS = 7 * 24 * 3600  # processes that attribute by themselves may finish hours apart


def data_mesh(devices=None) -> Mesh:
    """Return a mesh with the axis `data` over `devices`, by default all of this process."""
    devices = jax.local_devices() if devices is None else devices
    # Auto axes: under the default, explicit ones, an embedding look-up does not trace.
    return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def global_mesh() -> Mesh:
    """Return a mesh over the devices of all processes."""
    return data_mesh(jax.devices())


def _put(array: Any, sharding: NamedSharding) -> jax.Array:
    if not sharding.mesh.is_multi_process:
        return jax.device_put(array, sharding)
    array = np.asarray(array)  # every process has all of it, and hands its devices their parts
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def shard_rows(tree: Any, mesh: Mesh) -> Any:
    """Put a tree of arrays on the mesh, divided along their first axis.

    Its length must be a multiple of the device count.
    """
    return jax.tree.map(lambda array: _put(array, NamedSharding(mesh, PartitionSpec("data"))), tree)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Put a copy of every array of a tree on each device of the mesh."""
    return jax.tree.map(_put, tree, replicated(tree, mesh))


def replicated(tree: Any, mesh: Mesh) -> Any:
    """Return a tree of shardings that say: a copy on each device."""
    return jax.tree.map(lambda _: NamedSharding(mesh, PartitionSpec()), tree)


def place_params(tree: Any, mesh: Mesh, divided: bool) -> Any:
    """Put parameters on the mesh: divided over the devices, or a copy on each."""
    return (shard_params if divided else replicate)(tree, mesh)


def shard_params(tree: Any, mesh: Mesh) -> Any:
    """Put parameters on the mesh, each divided over the devices as `params_shardings` says."""
    return jax.tree.map(_put, tree, params_shardings(tree, mesh))


def params_shardings(tree: Any, mesh: Mesh) -> Any:
    """Return the sharding that divides each array of a tree along its longest axis.

    Only axes that the device count divides; without one the array is replicated.
    """

    def sharding_of(array) -> NamedSharding:
        shape = np.shape(array)
        axes = [axis for axis, length in enumerate(shape) if length and length % mesh.size == 0]
        spec = [None] * len(shape)
        if axes:
            spec[max(axes, key=lambda axis: shape[axis])] = "data"
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree.map(sharding_of, tree)


def fetch(tree: Any) -> Any:
    """Return a tree of arrays on any mesh as NumPy arrays, whole on every process."""
    return jax.tree.map(
        lambda array: (
            np.asarray(array)
            if not isinstance(array, jax.Array)
            or array.is_fully_addressable
            or array.is_fully_replicated
            else np.asarray(multihost_utils.process_allgather(array, tiled=True))
        ),
        tree,
    )


def num_shares(mesh: Mesh) -> int:
    """Return how many processes divide the batches among them.

    All, unless they work on each batch together.
    """
    return 1 if mesh.is_multi_process else jax.process_count()


def share_of(batches: Iterable[Any], mesh: Mesh) -> Iterator[Any]:
    """Yield the batches that are this process's to compute, every so many-th."""
    for number, batch in enumerate(batches):
        if number % num_shares(mesh) == jax.process_index() % num_shares(mesh):
            yield batch


def sum_over_processes(tree: Any, mesh: Mesh) -> Any:
    """Return the sums of NumPy arrays over the processes that divided the batches.

    Every process gets the same bits.
    """
    if num_shares(mesh) == 1:
        return tree
    # Shares may take hours, which a collective operation does not wait
    barrier(f"sum {next(_sums)}")

    def total(array: np.ndarray) -> np.ndarray:
        # As bytes: JAX would round float64 on the way.
        gathered = multihost_utils.process_allgather(
            np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
        )
        return (
            np.frombuffer(np.asarray(gathered).tobytes(), array.dtype)
            .reshape(-1, *array.shape)
            .sum(axis=0)
        )

    return jax.tree.map(total, tree)


def from_main(value: Any) -> Any:
    """Return the first process's value on every process; JSON must be able to hold it.

    All processes then act on the same view of shared files.
    """
    if jax.process_count() == 1:
        return value
    mine = (
        np.frombuffer(json.dumps(value).encode(), np.uint8) if is_main() else np.zeros(0, np.uint8)
    )
    size = int(np.max(multihost_utils.process_allgather(np.asarray([len(mine)], np.int32))))
    padded = np.pad(mine, (0, size - len(mine)))
    return json.loads(np.asarray(multihost_utils.process_allgather(padded))[0].tobytes())


def is_main() -> bool:
    """Return whether this process is the one that writes what is written once."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Wait until every process is here; each name only once in a run."""
    if jax.process_count() > 1:
        import orbax.checkpoint

        # Said, the barrier is the coordinator's, which heeds the timeout
        everyone = set(range(jax.process_count()))
        orbax.checkpoint.multihost.sync_global_processes(
            f"attattr_jax:{name}", timeout=BARRIER_SECONDS, processes=everyone
        )
