"""The log of a training: `metrics.jsonl`."""

from __future__ import annotations

import json
from pathlib import Path

from ..runtime import sharding
from ..runtime.files import write_file


class MetricsLog:
    """`metrics.jsonl`: one object a line, flushed as it is written, by one process."""

    def __init__(self, file: Path, first_step: int):
        """Keep the lines up to `first_step`, where the run goes on; later ones come again."""
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
