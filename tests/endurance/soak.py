"""Kill and resume a long attribution: is every example there once, and is memory flat?

    python tests/endurance/soak.py --checkpoint runs/sst2-minilm --dataset path/to/sst2 \\
        --split train --output benchmarks/results/soak.json

Starts attribute.py on a whole split, kills it with SIGKILL after --minutes, looks at what is there,
resumes it, and so on, --kills times; the last one ends with SIGTERM. After each end: the examples
that were there before still are, none is there twice, and every row can be read. At the end some
rows, drawn at random, are computed again by themselves. The resident memory of the process is read
every second.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import attattr_jax as aa
from attattr_jax.data.splits import load_split
from attattr_jax.errors import require
from attattr_jax.explanations import parts

ATTRIBUTE = Path(__file__).parent.parent.parent / "attribute.py"


def resident_megabytes(pid: int) -> float:
    """Return what a process has in memory."""
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS:"))


def run_for(command: list[str], seconds: float, end: signal.Signals) -> dict:
    """Run a command for so long, end it, and return its exit status and its memory, second by
    second from its start.
    """
    start, memory = time.monotonic(), []
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and time.monotonic() - start < seconds:
        time.sleep(1)
        if process.poll() is None:
            memory.append(round(resident_megabytes(process.pid)))
    process.send_signal(end)
    _, errors = process.communicate()
    return {
        "seconds": round(time.monotonic() - start),
        "status": process.returncode,
        "memory": memory,
        "said": errors.splitlines()[-1:],
    }


def rows_of(folder: Path, num_examples: int) -> dict[int, dict]:
    """Return the rows that count, by example; none may be there twice."""
    rows: dict[int, dict] = {}
    for where, part in parts.listed(folder, num_examples):
        require(not isinstance(part, ValueError), f"{where}: {part}")
        lines = (folder / "parts" / part.rows["file"]).read_bytes().splitlines()
        require(
            len(lines) == len(part.indices),
            f"{where}: {len(lines)} rows for {len(part.indices)} examples",
        )
        for index, line in zip(part.indices, lines, strict=True):
            row = json.loads(line)
            require(
                row["index"] == index and index not in rows,
                f"{where}: example {index} is there twice, or another",
            )
            rows[index] = row
    return rows


def largest_difference(checkpoint: str, rows: dict[int, dict], count: int) -> float:
    """Return the largest difference of a head's importance between rows and the same texts
    explained by themselves.
    """
    classifier = aa.load_classifier(checkpoint)
    drawn = [rows[index] for index in random.Random(0).sample(sorted(rows), count)]
    texts, labels = [row["text"] for row in drawn], [row["label"] for row in drawn]
    again = aa.explain_texts(classifier, texts, labels=labels, target="gold", token_level=False)
    pairs = zip(
        (row["head_importance"] for row in drawn),
        (one.array("head_importance") for one in again),
        strict=True,
    )
    return max(float(np.abs(np.asarray(before) - after).max()) for before, after in pairs)


def main() -> None:
    """Run the soak and write its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--split", default="train")
    parser.add_argument("--minutes", type=float, default=5.0, help="before each kill, on average")
    parser.add_argument("--kills", type=int, default=4)
    parser.add_argument("--folder", default="runs/soak", help="deleted first")
    parser.add_argument("--output", required=True)
    options = parser.parse_args()

    folder = Path(options.folder)
    shutil.rmtree(folder, ignore_errors=True)
    num_examples = len(load_split(options.dataset, options.split))
    command = [
        sys.executable,
        str(ATTRIBUTE),
        "--checkpoint",
        options.checkpoint,
        "--dataset",
        options.dataset,
    ]
    command += [
        "--split",
        options.split,
        "--target",
        "gold",
        "--save",
        "none",
        "--skip_token_attributions",
        "--report_examples",
        "0",
    ]
    command += ["--num_printed", "0", "--output_dir", str(folder), "--resume"]
    chance, ends, before = random.Random(0), [], {}
    for number in range(options.kills + 1):
        is_last = number == options.kills
        end = signal.SIGTERM if is_last else signal.SIGKILL
        ran = run_for(command, 60 * options.minutes * chance.uniform(0.7, 1.3), end)
        require(
            ran["status"] == (143 if is_last else -9), f"ended with {ran['status']}: {ran['said']}"
        )
        rows = rows_of(folder, num_examples)
        lost = before.keys() - rows.keys()
        changed = [index for index, row in before.items() if rows.get(index, row) != row]
        require(
            not lost and not changed, f"{len(lost)} examples are lost, {len(changed)} have changed"
        )
        memory = ran.pop("memory")
        settled = memory[len(memory) // 3 :]  # the first third is loading, tokenizing and compiling
        ran |= {
            "signal": end.name,
            "examples": len(rows),
            "new": len(rows) - len(before),
            "memory_megabytes": {
                "largest": max(memory),
                "after_a_third": settled[0],
                "at_the_end": settled[-1],
            },
        }
        print(json.dumps(ran), flush=True)
        ends.append(ran)
        before = rows
    lengths = [len(row["tokens"]) for row in before.values()]
    result = {
        "num_examples": num_examples,
        "seconds": sum(ran["seconds"] for ran in ends),
        "examples_done": len(before),
        "tokens_longest": max(lengths),
        "lost": 0,
        "twice": 0,
        "rows_computed_again": 20,
        "largest_difference": largest_difference(options.checkpoint, before, 20),
        "runs": ends,
    }
    Path(options.output).write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({name: value for name, value in result.items() if name != "runs"}))


if __name__ == "__main__":
    main()
