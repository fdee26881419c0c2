"""Types of the arguments that every function on a model has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

Array = jax.Array
AnyArray = jax.Array | np.ndarray  # on a device or on the host
Params = Mapping[str, Any]  # the tree of parameters, by name
Batch = Mapping[str, Any]  # input_ids, attention_mask, token_type_ids: int [B, T]
# 1 keeps a head, 0 masks it, [L, N]. A JAX array is traced; of anything else the heads that are
# masked are not computed.
HeadMask = Any


def described(result: Any) -> str:
    """Return a tuple of arrays by its fields, types and shapes, without their numbers."""
    fields = [
        f"{name}={value.dtype}{list(value.shape)}" if hasattr(value, "shape") else f"{name}={value}"
        for name, value in result._asdict().items()
        if value is not None
    ]
    return f"{type(result).__name__}({', '.join(fields)})"
