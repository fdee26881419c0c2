"""How to attribute: the options of `attribute_attention` and `attribute_tokens` in one object.

Light: importing it does not import JAX.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from ..errors import InputError
from .quadrature.rules import (
    DEFAULT_METHOD,
    FAST_METHOD,
    MAX_ADAPTIVE_STEPS,
    check_adaptive,
    check_adaptive_method,
    quadrature,
)

OBJECTIVES = ("prob", "logit", "log_prob", "contrast")
TARGETS = ("predicted", "gold", "all")  # beside classes
PATHS = ("layer", "joint")
DEFAULT_STEPS = 20


@dataclasses.dataclass(frozen=True)
class AttributionOptions:
    """How to attribute, as the arguments of `attribute_attention`.

    Raises:
      InputError: a value is out of range, or two do not go together.
    """

    target: str | int = "predicted"  # "predicted", "gold", "all" or a class index
    n_steps: int | str | Sequence[int] = DEFAULT_STEPS  # a list: of each layer
    method: str = DEFAULT_METHOD
    objective: str | None = None  # None: "prob", of a model with one output "logit"
    contrast: str | int = "runner_up"  # with objective "contrast", or a class index
    layers: tuple[int, ...] | None = None
    step_batch_size: int | None = None
    path: str = "layer"
    tolerance: float = 1e-3
    max_steps: int = MAX_ADAPTIVE_STEPS
    # Of the token-level integrated gradients, whose path is rougher than that of the attention.
    # None: "auto" with the default rule, else as n_steps.
    token_n_steps: int | str | None = None
    token_tolerance: float = 1e-2
    token_level: bool = True  # whether to compute these
    token_baseline: str | int = "pad"  # the token that they start from: "pad", "mask" or an id

    def __post_init__(self):
        if self.objective is not None:
            check_objective_name(self.objective)
        if self.objective != "contrast" and self.contrast != "runner_up":
            raise InputError("contrast goes with objective 'contrast'")
        check_path(self.path)
        is_id = type(self.token_baseline) is int and self.token_baseline >= 0
        if not is_id and self.token_baseline not in ("pad", "mask"):
            raise InputError(
                "token_baseline must be 'pad', 'mask' or the id of a token, not"
                f" {self.token_baseline!r:.80}"
            )
        if self.method == FAST_METHOD:
            check_fast(self.n_steps, self.path)
        for n_steps in (self.n_steps, self.token_steps):
            if n_steps != "auto" and self.method != FAST_METHOD:
                check_n_steps(n_steps)
                for count in n_steps if isinstance(n_steps, (list, tuple)) else [n_steps]:
                    quadrature(self.method, count)
        if self.n_steps == "auto":
            check_adaptive(self.tolerance, self.max_steps)
        if self.token_level and self.token_steps == "auto":
            check_adaptive(self.token_tolerance, self.max_steps)
        if self.n_steps == "auto":
            check_adaptive_path(self.path)
        if {self.n_steps, self.token_steps if self.token_level else "auto"} == {"auto"}:
            check_adaptive_method(self.method)  # nothing is integrated by it

    def for_outputs(self, num_labels: int) -> AttributionOptions:
        """Return the options for a model with so many outputs, with the objective named."""
        if self.objective is not None:
            return self
        return dataclasses.replace(self, objective="logit" if num_labels == 1 else "prob")

    @property
    def token_steps(self) -> Any:
        """The number of steps of the token-level gradients."""
        if self.token_n_steps is not None:
            return self.token_n_steps
        has_default = self.method in (DEFAULT_METHOD, FAST_METHOD)
        is_list = isinstance(self.n_steps, (list, tuple))  # of layers
        return "auto" if has_default or is_list else self.n_steps

    def attention_keywords(self) -> dict[str, Any]:
        """Return the keywords of `attribute_attention`, without the target."""
        own = ("target", "token_n_steps", "token_tolerance", "token_level", "token_baseline")
        keywords = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in own
        }
        return keywords | self._rule(self.n_steps)

    def token_keywords(self) -> dict[str, Any]:
        """Return the keywords of `attribute_tokens`, without the target."""
        keywords = self.attention_keywords() | self._rule(self.token_steps)
        if keywords["method"] == FAST_METHOD:  # a rule for layers
            keywords["method"] = DEFAULT_METHOD
        keywords["tolerance"] = self.token_tolerance
        del keywords["layers"], keywords["path"]
        return keywords

    def _rule(self, n_steps: Any) -> dict[str, Any]:
        """Return the keywords that name the rule of so many steps; "auto" has rules of its own."""
        return {"n_steps": n_steps, "method": DEFAULT_METHOD if n_steps == "auto" else self.method}


def check_objective_name(objective: object) -> None:
    """Raise an InputError unless there is such an objective."""
    if objective not in OBJECTIVES:
        raise InputError(
            f"objective {objective!r} is unknown; choose one of {', '.join(OBJECTIVES)}"
        )


def check_path(path: object) -> None:
    """Raise an InputError unless there is such a path."""
    if path not in PATHS:
        raise InputError(f"path {path!r} is unknown; choose one of {', '.join(PATHS)}")


def check_adaptive_path(path: str) -> None:
    """Raise an InputError unless n_steps "auto" goes with this path."""
    if path != "layer":
        raise InputError(
            "n_steps 'auto' goes with path 'layer'; give a number of steps for path 'joint'"
        )


def check_fast(n_steps: object, path: str) -> None:
    """Raise an InputError unless method "fast" goes with these."""
    if path != "layer":
        raise InputError("method 'fast' goes with path 'layer'")
    if n_steps != DEFAULT_STEPS:
        raise InputError("n_steps has no effect with method 'fast': leave it out")


def check_n_steps(n_steps: object) -> None:
    """Raise an InputError for text other than "auto"."""
    if isinstance(n_steps, str) and n_steps != "auto":
        raise InputError(f"n_steps must be an integer or 'auto', not {n_steps!r}")
