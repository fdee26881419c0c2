"""Options of the views: formats, the bounds of a report, and the trees in it."""

from __future__ import annotations

import dataclasses
from typing import Any

from ..attribution.summaries.tree import THRESHOLD, TreeOptions
from ..errors import InputError, as_index

FIGURE_FORMATS = ("png", "svg", "pdf")
TABLE_FORMATS = ("parquet", "csv")
TREE_FORMATS = ("json", "dot")
EXAMPLE_FORMATS = ("npz", "safetensors", *TREE_FORMATS)
EXPORT_FORMATS = (*TABLE_FORMATS, *EXAMPLE_FORMATS)

MAX_EXAMPLES = 100
MAX_MEGABYTES = 20.0


@dataclasses.dataclass(frozen=True)
class ReportOptions:
    """What a report shows: the keywords of `write_report`, checked.

    Raises:
      InputError: a value is out of range.
    """

    max_examples: int = MAX_EXAMPLES
    max_megabytes: float = MAX_MEGABYTES  # of matrices
    tree_threshold: float = THRESHOLD
    tree_penalty: float = 0.0

    def __post_init__(self):
        count = as_index(self.max_examples)
        if count is None or count < 1:
            raise InputError(
                "the number of texts in a report must be an integer of at least 1, not"
                f" {self.max_examples!r}"
            )
        if not 0 < self.max_megabytes <= 1000:
            raise InputError(
                "the megabytes of a report must be more than 0 and at most 1000, not"
                f" {self.max_megabytes}"
            )
        TreeOptions(self.tree_threshold, self.tree_penalty)

    def keywords(self) -> dict[str, Any]:
        """Return the keywords of `write_report`."""
        return dataclasses.asdict(self)
