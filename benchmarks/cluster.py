"""What many devices cost: overhead on virtual devices, communication and memory of a training step,
and the serial part of attribution.

    python benchmarks/cluster.py --output benchmarks/results/cluster.json

The virtual devices share the cores of one machine, so their number cannot make anything faster:
what is measured is what dividing the same work costs. Each number of devices has a process of its
own, which waits while the others take their turns; medians of --rounds rounds. Communication and
memory are read off the compiled programs. The serial part is what does not get less with more
processes: what one process does after all have attributed, and tokenizing all texts in each.

The estimate is arithmetic with these figures and with ASSUMED, which nobody has measured:

    attribution of N texts on n devices: start + N · seconds per text / n + N · serial seconds per
      text, tokenizing among them
    a training step: FLOP of a device / its speed + 2 (n - 1) / n · bytes of gradient / speed of its
      connection, nothing overlapped
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from attattr_jax.attribution.options import AttributionOptions
from attattr_jax.data.batches import data_fingerprint, encode
from attattr_jax.data.labels import class_indices, label_names
from attattr_jax.data.splits import Split, load_split
from attattr_jax.explanations import parts
from attattr_jax.explanations.explain import explain
from attattr_jax.explanations.explanation import Explanation
from attattr_jax.pruning import importance_file
from attattr_jax.runtime import sharding
from attattr_jax.runtime.files import write_json
from attattr_jax.training.trainer import Trainer, TrainingOptions

DEVICES = (1, 2, 4, 8)
ROWS, STEPS, TEXTS = 32, 4, 32  # of a batch, of a round, attributed in a round
SERIAL_EXAMPLES, SERIAL_PROCESSES = 1_000_000, 8
ESTIMATED_TEXTS, ESTIMATED_DEVICES = 67_349, (1, 8, 64, 1000)
# An accelerator: FLOP/s that it reaches, bytes/s of its connection, and how many times as fast as
# this machine it attributes.
ASSUMED = {"flops_per_second": 1e14, "bytes_per_second": 5e10, "times_as_fast": 100}

_BYTES = {"pred": 1, "bf16": 2, "f16": 2, "f32": 4, "s32": 4, "u32": 4}
# In HLO: %name = f32[8,4]{1,0} all-gather(…), or a tuple of such types.
_COLLECTIVE = re.compile(
    r"= (\(.*?\)|\S+)"
    r" (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
)


def communication(program: str) -> dict[str, int]:
    """Return the bytes that the collective operations of a compiled program give each device, by
    kind.
    """
    found: dict[str, int] = {}
    for types, kind in _COLLECTIVE.findall(program):
        sizes = re.findall(r"(\w+)\[([\d,]*)\]", types)
        total = sum(
            _BYTES[name] * math.prod(int(length) for length in shape.split(",") if length)
            for name, shape in sizes
        )
        found[kind] = found.get(kind, 0) + total
    return found


def child(model: str) -> None:
    """Do a round of whatever stdin names, line by line, and print how long it took."""
    import jax

    import attattr_jax as aa

    train = load_split("reviews", "train", max_examples=ROWS * STEPS)
    classifier = dataclasses.replace(
        aa.load_classifier(model, num_labels=2), id2label=label_names(train)
    )
    encoded = encode(classifier, train, 128, class_indices(train, classifier.id2label))
    texts = train.select(range(TEXTS))
    encoded_texts = encode(classifier, texts, 128)
    mesh = sharding.data_mesh()
    rounds: dict[str, Callable[[], Any]] = {}
    facts: dict[str, Any] = {"devices": mesh.size}

    recipe = TrainingOptions(num_train_epochs=1, train_batch_size=ROWS)
    for name, divided in (("train", False), ("train, parameters divided", True)):
        trainer = Trainer(
            classifier, encoded, {}, Path(tempfile.gettempdir()), recipe, mesh, shard_params=divided
        )
        batches = [arrays for _, _, arrays in trainer.batches(0)]
        state = trainer.initial_state()
        compiled = trainer.train_step.lower(state, *batches[0]).compile()
        memory = compiled.memory_analysis()
        facts[name] = {
            "communication_bytes": communication(compiled.as_text()),
            "state_bytes": memory.argument_size_in_bytes,
            "temporary_bytes": memory.temp_size_in_bytes,
            "flops": compiled.cost_analysis().get("flops"),
            "tokens": int(batches[0][0]["input_ids"].size),
        }
        states = {name: state}

        def steps(name=name, trainer=trainer, batches=batches, states=states) -> None:
            for arrays in batches:
                states[name], _ = trainer.train_step(states[name], *arrays)
            jax.block_until_ready(states[name])

        rounds[name] = steps

    options = AttributionOptions(token_level=False)
    rounds["attribute"] = lambda: list(
        explain(classifier, texts, encoded_texts, mesh, options, "none", batch_size=8)
    )
    for work in rounds.values():  # compiles
        work()
    facts["parameters"] = sum(array.size for array in jax.tree.leaves(classifier.params))
    print(json.dumps(facts), flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        rounds[line.strip()]()
        print(json.dumps(time.perf_counter() - start), flush=True)


def serial_part(model: str) -> dict[str, Any]:
    """Measure putting the rows of a million examples together, without arrays.

    The processes of a run do it one after the other here. Serial is what does not get less with
    more of them: the lists of all parts, summaries and manifest, the finished folder opened, and
    `head_importance.json` with the hashes of the texts. Reading and tokenizing all texts at the
    start, which every process does, is measured by itself.
    """
    import attattr_jax as aa

    classifier = aa.load_classifier(model, num_labels=2)
    (one,) = aa.explain_texts(
        classifier, ["stunning visuals, but no story worth telling"], n_steps=2, token_level=False
    )
    with tempfile.TemporaryDirectory() as folder:
        folder, start = Path(folder), time.perf_counter()
        # As the data set is explained: not in order, since batches are of texts of like length
        indices = np.random.default_rng(0).permutation(SERIAL_EXAMPLES)
        for process in range(SERIAL_PROCESSES):
            writer = parts.ExplanationWriter(folder, "none", process)
            for index in indices[process::SERIAL_PROCESSES].tolist():
                writer.add(Explanation(one.row | {"index": index}, {}))
            writer.flush()
        seconds = {"write": time.perf_counter() - start}
        start = time.perf_counter()
        parts.put_in_order(folder, SERIAL_EXAMPLES, 0, 10**6)  # a share of nothing
        seconds["read lists"] = time.perf_counter() - start
        for process in range(SERIAL_PROCESSES):
            start = time.perf_counter()
            listed = parts.put_in_order(folder, SERIAL_EXAMPLES, process, SERIAL_PROCESSES)
            seconds["order"] = seconds.get("order", 0.0) + time.perf_counter() - start
        start = time.perf_counter()
        summary = parts.join(folder, SERIAL_EXAMPLES, listed)
        seconds["join"] = time.perf_counter() - start
        start = time.perf_counter()
        stored = aa.load_attributions(folder)
        _ = stored[:20][-1], stored[SERIAL_EXAMPLES - 1].text
        seconds["open"] = time.perf_counter() - start
        texts = [f"{one.text} {index}" for index in indices.tolist()]
        split = Split("synthetic", "", texts, None, None)
        start = time.perf_counter()
        data_fingerprint(split, encode(classifier, split, 128))
        seconds["start"] = time.perf_counter() - start  # which hashes the texts
        start = time.perf_counter()
        record = importance_file.importance_record(
            "attribution", summary.importance, "", None, split.example_hashes()
        )
        write_json(folder / "head_importance.json", record)
        seconds["importance"] = time.perf_counter() - start
        size = (folder / "examples.jsonl").stat().st_size
    serial = sum(seconds[name] for name in ("read lists", "join", "open", "importance"))
    return {
        "examples": SERIAL_EXAMPLES,
        "processes": SERIAL_PROCESSES,
        "bytes_per_row": round(size / SERIAL_EXAMPLES),
        "microseconds_a_text": {
            name: round(1e6 * value / SERIAL_EXAMPLES, 3) for name, value in seconds.items()
        },
        "serial_microseconds_a_text": round(1e6 * serial / SERIAL_EXAMPLES, 3),
    }


def estimate(result: dict[str, Any]) -> dict[str, Any]:
    """Return what more devices would bring, on paper."""
    one, serial = result["by_devices"][0], result["serial"]
    of_text = serial["serial_microseconds_a_text"] + serial["microseconds_a_text"]["start"]
    serial_seconds = ESTIMATED_TEXTS * of_text / 1e6
    divisible = ESTIMATED_TEXTS / one["attribute"]["texts_per_second"]
    gradient = max(
        sum(row["train"]["communication_bytes"].values()) for row in result["by_devices"]
    )
    rows = []
    for count in ESTIMATED_DEVICES:
        row = {"devices": count}
        for name, times in (("as_here", 1), ("accelerators", ASSUMED["times_as_fast"])):
            seconds = one["seconds_to_start"] + divisible / times / count + serial_seconds
            row[f"attribution_seconds_{name}"] = round(seconds, 1)
        compute = one["train"]["flops"] / ASSUMED["flops_per_second"]
        connection = 2 * (count - 1) / count * gradient / ASSUMED["bytes_per_second"]
        row |= {
            "step_compute_ms": round(1e3 * compute, 2),
            "step_communication_ms": round(1e3 * connection, 2),
        }
        row["training_efficiency"] = round(compute / (compute + connection), 2)
        rows.append(row)
    return {
        "assumed": ASSUMED,
        "texts": ESTIMATED_TEXTS,
        "rows_per_device": ROWS,
        "by_devices": rows,
    }


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="minilm-l6")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path)
    parser.add_argument(
        "--parts",
        choices=("all", "serial"),
        default="all",
        help="serial: only putting rows together, into the result file that there is",
    )
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.model)
        return

    serial = serial_part(given.model)
    if given.parts == "serial":
        result = json.loads(given.output.read_text(encoding="utf-8")) | {"serial": serial}
        result["estimate"] = estimate(result)
        given.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        print(json.dumps(serial, indent=2))
        return

    children, facts = {}, {}
    for count in DEVICES:
        environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(count), "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, __file__, "--child", "--model", given.model]
        start = time.perf_counter()
        children[count] = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        facts[count] = json.loads(children[count].stdout.readline())
        facts[count]["seconds_to_start"] = round(time.perf_counter() - start, 1)
    names = ("train", "train, parameters divided", "attribute")
    seconds = {count: {name: [] for name in names} for count in DEVICES}
    for _ in range(given.rounds):
        for name in names:
            for count, process in children.items():
                process.stdin.write(f"{name}\n")
                process.stdin.flush()
                seconds[count][name].append(json.loads(process.stdout.readline()))
    for process in children.values():
        process.stdin.close()
        process.wait()

    result = {
        "command": f"python benchmarks/cluster.py --model {given.model} --rounds {given.rounds}",
        "cores": os.cpu_count(),
        "parameters": facts[1]["parameters"],
        "batch": ROWS,
        "by_devices": [],
        "serial": serial,
    }
    for count in DEVICES:
        row = {"devices": count, "seconds_to_start": facts[count]["seconds_to_start"]}
        for name in names:
            work, unit = (
                (TEXTS, "texts_per_second")
                if name == "attribute"
                else (ROWS * STEPS, "examples_per_second")
            )
            row[name] = {
                unit: round(work / statistics.median(seconds[count][name]), 1),
                "time_against_one_device": round(
                    statistics.median(
                        many / one
                        for many, one in zip(seconds[count][name], seconds[1][name], strict=True)
                    ),
                    3,
                ),
                **facts[count].get(name, {}),
            }
        result["by_devices"].append(row)
    result["estimate"] = estimate(result)
    text = json.dumps(result, indent=2)
    print(text)
    if given.output:
        given.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
