"""Fine-tune on SST-2, explain 200 dev sentences, prune against random heads, and write all figures
into one file.

    python benchmarks/sst2.py --data path/to/sst2 --runs runs/sst2-minilm \\
        --output benchmarks/results/sst2_minilm.json \\
        --reviews_checkpoint runs/demo

--data is a folder with GLUE's train.tsv and dev.tsv. A folder of --runs that is already there is
used, not made again: training takes about 40 minutes on two CPU cores. With --reviews_checkpoint,
the accuracy on the same dev set of a model that has never seen SST-2.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
SEEDS = range(5)


def run(script: str, *arguments: object) -> str:
    """Run a script of the root and return what it printed."""
    command = [sys.executable, str(ROOT / script), *map(str, arguments)]
    print("$", script, *arguments, file=sys.stderr)
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def read(file: Path) -> dict:
    """Return the contents of a JSON file."""
    return json.loads(file.read_text(encoding="utf-8"))


def main() -> None:
    """Run what is missing and write the result file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--runs", required=True, type=Path)
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--model", default="minilm-l6")
    parser.add_argument("--learning_rate", default="3e-5")
    parser.add_argument("--reviews_checkpoint")
    given = parser.parse_args()
    folder = given.runs

    if not read_or_empty(folder / "run.json").get("finished"):
        run(
            "train.py",
            "--model",
            given.model,
            "--dataset",
            given.data,
            "--learning_rate",
            given.learning_rate,
            "--output_dir",
            folder,
        )
    if not read_or_empty(folder / "attribution" / "run.json").get("finished"):
        examples = ("--dataset", given.data, "--max_examples", 200, "--save", "summary")
        run("attribute.py", "--checkpoint", folder, *examples, "--overwrite")
    pruned = {"attribution": folder / "pruning"} | {
        f"random, seed {seed}": folder / f"pruning-random-{seed}" for seed in SEEDS
    }
    for name, output in pruned.items():
        if not (output / "pruning.json").exists():
            which = (
                ()
                if name == "attribution"
                else ("--importance", "random", "--seed", name.rsplit(" ", 1)[1])
            )
            run(
                "prune.py",
                "--checkpoint",
                folder,
                "--dataset",
                given.data,
                "--output_dir",
                output,
                *which,
            )

    training, attribution = read(folder / "run.json"), read(folder / "attribution" / "run.json")
    recipe = (
        "model",
        "seed",
        "num_train_epochs",
        "train_batch_size",
        "learning_rate",
        "weight_decay",
        "warmup_ratio",
        "max_seq_length",
    )
    command = (
        f"python benchmarks/sst2.py --data path/to/sst2 --runs runs/{folder.name} --output"
        f" benchmarks/results/{given.output.name}"
    )
    command += " --reviews_checkpoint runs/demo" if given.reviews_checkpoint else ""
    result = {
        "command": command,
        "device": training["device"],
        "packages": training["packages"],
        "training": {name: training["options"][name] for name in recipe} | training["results"],
        "attribution": {
            "wall_seconds": attribution["wall_seconds"],
            **{
                name: attribution["options"][name] for name in ("n_steps", "method", "max_examples")
            },
            **attribution["results"],
        },
        "pruning, top 3 heads of every layer": {
            name: {
                key: read(output / "pruning.json")[key]
                for key in (
                    "accuracy_before",
                    "accuracy_after",
                    "num_scoring_examples",
                    "num_eval_examples",
                    "kept_heads",
                )
            }
            | {"wall_seconds": read(output / "run.json")["wall_seconds"]}
            for name, output in pruned.items()
        },
    }
    if given.reviews_checkpoint:
        found = json.loads(
            run(
                "train.py",
                "--eval_only",
                "--model",
                given.reviews_checkpoint,
                "--dataset",
                given.data,
            )
        )
        trained = read(Path(given.reviews_checkpoint) / "run.json")
        result["trained on reviews, evaluated on SST-2 dev"] = {
            "accuracy": found["eval_accuracy"],
            "examples": found["eval_examples"],
            "reviews_validation_accuracy": trained["results"]["eval_accuracy"],
            "training": (
                {name: trained["options"][name] for name in recipe}
                | {"wall_seconds": trained["wall_seconds"]}
            ),
        }
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(given.output)


def read_or_empty(file: Path) -> dict:
    """Return the contents of a JSON file, {} where there is none."""
    return read(file) if file.exists() else {}


if __name__ == "__main__":
    main()
