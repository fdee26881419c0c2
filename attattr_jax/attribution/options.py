"""How to attribute: the options of `attribute_attention` and `attribute_tokens` in one object."""

from __future__ import annotations

import dataclasses
from typing import Any

from .quadrature import DEFAULT_METHOD, check_adaptive_method

OBJECTIVES = ("prob", "logit", "log_prob")
PATHS = ("layer", "joint")


@dataclasses.dataclass(frozen=True)
class AttributionOptions:
    """How to attribute, as the arguments of `attribute_attention`."""

    target: str | int = "predicted"  # "predicted", "gold" or a class index
    n_steps: int | str = 20
    method: str = "gausslegendre"
    objective: str = "prob"
    layers: tuple[int, ...] | None = None
    step_batch_size: int | None = None
    path: str = "layer"
    tolerance: float = 1e-3
    max_steps: int = 63
    token_n_steps: int | str | None = None  # of the token-level integrated gradients; None: n_steps
    token_level: bool = True  # whether to compute these

    @property
    def token_steps(self) -> int | str:
        """The number of steps of the token-level gradients."""
        return self.n_steps if self.token_n_steps is None else self.token_n_steps

    def check_method(self) -> None:
        """Raise an InputError if `method` is another than the default, and nothing is integrated by
        it.
        """
        if {self.n_steps, self.token_steps if self.token_level else "auto"} == {"auto"}:
            check_adaptive_method(self.method)

    def rule(self, n_steps: int | str) -> dict[str, Any]:
        """Return the arguments that name the rule of so many steps: `method` is not that of
        "auto".
        """
        return {"n_steps": n_steps, "method": DEFAULT_METHOD if n_steps == "auto" else self.method}
