"""A new user's way from one CSV file to a pruned model: the commands of docs/tutorial.md, timed.

    python benchmarks/one_csv.py --output benchmarks/results/one_csv.json

Run it from the root of the repository. Writes runs/mine.csv, two columns of 1,000 of the shipped
reviews, and runs the commands of the section "From one CSV", each as a process of its own.
"""

import argparse
import csv
import json
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

from attattr_jax.data.splits import load_split

PAGE = Path(__file__).parent.parent / "docs" / "tutorial.md"
NUM_ROWS = 1000


def commands():
    """Return the commands of the tutorial's section."""
    section = PAGE.read_text(encoding="utf-8").split("## From one CSV\n")[1].split("\n## ")[0]
    blocks = re.findall(r"^```sh[^\n]*\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    reviews = load_split("reviews", "train")
    Path("runs").mkdir(exist_ok=True)
    with open("runs/mine.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["Text", "Sentiment"])
        writer.writerows(list(zip(reviews.texts, reviews.raw_labels, strict=True))[:NUM_ROWS])
    rows = []
    for command in commands():
        start = time.perf_counter()
        python, *arguments = shlex.split(command)
        assert python == "python", command
        subprocess.run([sys.executable, *arguments, "--overwrite"], check=True)
        rows.append({"command": command, "seconds": time.perf_counter() - start})
    pruning = json.loads(Path("runs/mine/pruning/pruning.json").read_text(encoding="utf-8"))
    result = {
        "rows": NUM_ROWS,
        "commands": rows,
        "seconds": sum(row["seconds"] for row in rows),
        "accuracy_before": pruning["accuracy_before"],
        "accuracy_after": pruning["accuracy_after"],
        "num_eval_examples": pruning["num_eval_examples"],
        "num_pruned": sum(map(len, pruning["pruned_heads"])),
    }
    print(json.dumps(result, indent=2))
    if options.output:
        options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
