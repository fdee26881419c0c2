"""The device mesh: one axis, `data`, over which the rows of every batch are divided; parameters are replicated.

Nothing here runs at import: devices are looked up when a mesh is made.
"""

from __future__ import annotations

from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def data_mesh(devices=None) -> Mesh:
    """Return a mesh with the axis `data` over `devices`, by default all local ones."""
    devices = jax.local_devices() if devices is None else devices
    # Auto axes: under the default, explicit ones, an embedding look-up does not trace.
    return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def shard_rows(tree: Any, mesh: Mesh) -> Any:
    """Put a tree of arrays on the mesh, divided along their first axis, whose length must be a multiple of the device count."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec("data")))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Put a copy of every array of a tree on each device of the mesh."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))
