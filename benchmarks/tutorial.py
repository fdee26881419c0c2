"""Run the blocks of docs/tutorial.md one after the other, and put what they print where the page
shows it.

    python benchmarks/tutorial.py

Run it from the root of the repository, with the model in runs/demo (`make demo`). Writes
benchmarks/results/tutorial.txt, the output in docs/tutorial.md, and its pictures.
"""

import contextlib
import io
import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "tutorial.md"
PICTURES = ("comparison", "arcs", "tree", "head_grid")
_BLOCK = re.compile(r"^```(\w+)(?: (\w+))?\n(.*?)^```\n", re.MULTILINE | re.DOTALL)


def outputs(page: str, scripts: Path = ROOT) -> Iterator[tuple[str, str]]:
    """Run the page's blocks in order, in the working folder, and yield (block, what it printed).

    Python blocks share their names. The block that trains is left out: runs/demo must be there.
    """
    names: dict = {}
    for language, label, content in _BLOCK.findall(page):
        if language == "output" or label == "train":
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            if language == "python":
                exec(compile(content, str(PAGE), "exec"), names)
            else:
                _run(content, scripts)
        yield content, printed.getvalue()


def _run(command: str, scripts: Path) -> None:
    """Run a script of the root with the arguments that the block gives it."""
    python, script, *arguments = shlex.split(command)
    assert python == "python", command
    before = sys.argv
    sys.argv = [script, *arguments]
    try:
        runpy.run_path(str(scripts / script), run_name="__main__")
    except SystemExit as done:
        if done.code:
            raise RuntimeError(f"{script} ended with status {done.code}") from None
    finally:
        sys.argv = before


def main() -> None:
    """Run the page, and write what it shows."""
    shutil.rmtree("runs/tutorial", ignore_errors=True)
    page = PAGE.read_text(encoding="utf-8")
    results = list(outputs(page))
    record = "\n".join(f"{content.rstrip()}\n\n{printed}" for content, printed in results)
    (ROOT / "benchmarks" / "results" / "tutorial.txt").write_text(record, encoding="utf-8")
    for content, printed in results:
        start = page.index(content) + len(content) + len("```\n")
        if page[start:].startswith("\n```output\n"):
            end = page.index("```\n", start + len("\n```output\n"))
            page = f"{page[:start]}\n```output\n{printed}{page[end:]}"
    PAGE.write_text(page, encoding="utf-8")
    for name in PICTURES:
        shutil.copy(f"runs/tutorial/{name}.png", ROOT / "docs" / f"tutorial_{name}.png")
    print(record)


if __name__ == "__main__":
    main()
