"""`train.py`: a model and labelled texts in, a fine-tuned classifier out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any

from ..data import gold
from ..data.batches import Encoded, data_fingerprint, encode
from ..data.labels import keeps_head
from ..data.splits import (
    Split,
    absolute_name,
    dataset_name,
    evaluation_splits,
    is_single_file,
    task_name,
)
from ..errors import require
from ..models import checkpoint, hub
from ..models.classifier import Classifier, holds, load_classifier, save_classifier
from ..models.hub import CardFacts
from ..runtime import sharding
from ..runtime.files import is_utf8, user_path
from ..runtime.output import OutputFolder
from ..runtime.progress import progress
from ..training import evaluation
from . import cli, train_options
from .options import named
from .train_options import DATASET_DEFAULTS, Options

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


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script with these arguments, by default the process's; returns the exit status."""
    return cli.script(
        _work,
        Options,
        train_options.__doc__,
        argv,
        DATASET_DEFAULTS,
        together=lambda options: not options.eval_only,
    )


def _work(options: Options) -> None:
    train_options.check(options)
    if options.push_to_hub is not None:
        named("--push_to_hub", lambda: hub.check_id(str(options.push_to_hub)))
    if options.eval_only:
        _evaluate(options)
    else:
        _train(options)


def _train(options: Options) -> None:
    """Fine-tune a model, and save the classifier of the best epoch."""
    folder = _output_folder(options)
    inputs = _load(options)
    # The fingerprints tell whether model and data are the same, however they are written. Of the
    # data set's name only the metric counts: epochs are compared by it.
    run = (
        options,
        inputs.facts,
        (
            *("save_steps", "push_to_hub", "model", "revision", "initial_model_commit"),
            *("dataset", "dataset_path"),
        ),
    )
    if folder.is_finished(*run):
        if holds(folder.path, folder.previous.get("model_fingerprint")):
            folder.print_finished()
            _push(options, folder)
            return
        cli.say(
            f"warning: the classifier in {folder.path} is missing or has changed: it is made again"
            " from the checkpoints"
        )
    folder.start(*run)
    _say_what_is_trained(options, inputs.classifier)
    best, summary = _fine_tune(options, inputs, folder)
    if sharding.is_main():
        metrics = {name: value for name, value in summary.items() if name.startswith("eval")}
        facts = CardFacts(
            dataset_name(options.dataset), metrics, cli.command_of("train.py", options)
        )
        save_classifier(best, folder.path, facts)
    folder.finish(model_fingerprint=best.fingerprint(), results=summary)
    _print_training(summary)
    print(f"classifier: {folder.path}")
    _push(options, folder)


def _push(options: Options, folder: OutputFolder) -> None:
    """Upload the classifier, if that is asked for."""
    if options.push_to_hub is not None and sharding.is_main():
        name = options.push_to_hub
        print(f"pushed: {named('--push_to_hub', lambda: hub.push(folder.path, name))}")


def _output_folder(options: Options) -> OutputFolder:
    """Return the output folder, which is not begun yet."""
    path = options.output_dir or f"runs/{dataset_name(options.dataset)}"
    folder = OutputFolder(path, "train", FILES, options.overwrite, options.resume)
    is_model = user_path(options.model).resolve() == folder.path.resolve()
    require(
        not is_model,
        f"--output_dir {folder.path} is the folder of --model, which would be lost: choose another",
    )
    absolute = folder.path.absolute()
    require(
        is_utf8(str(absolute)),
        f"--output_dir {absolute} is not UTF-8, as Orbax needs it for checkpoints: choose another"
        " folder",
    )
    return folder


@dataclasses.dataclass(frozen=True)
class _Inputs:
    """All that a training needs before it computes."""

    classifier: Classifier  # to start from
    train: Encoded
    evaluations: dict[str, Encoded]  # by the prefixes that their metrics get
    task: str | None
    facts: dict[str, Any]  # for run.json


def _load(options: Options) -> _Inputs:
    """Return the examples and the model to start from, having checked that they fit together."""
    head = checkpoint.load_head(options.model, options.revision)
    seed = options.seed if is_single_file(options.dataset) else None  # by which it is divided
    loaded = cli.load_split(
        options.dataset, "train", options.columns, options.max_train_examples, seed
    )
    problem_type = options.problem_type or gold.problem_type_of(loaded)
    # A head for another kind of labels is none for these.
    model_names = head.id2label if head.outputs == problem_type else {}
    train = cli.with_gold_labels(loaded, model_names, problem_type)
    splits = _evaluation_splits(options, seed)
    _check_pairs(train, splits)
    if seed is not None:
        num_held_out = sum(map(len, splits.values()))
        cli.say(
            f"{options.dataset} is one file: {num_held_out} of its examples, drawn with seed"
            f" {seed}, are held out for evaluation"
        )
    # A model that was fine-tuned for these classes keeps its numbering of them.
    id2label = gold.class_names(train, model_names, problem_type)
    has_head = keeps_head(train, model_names, id2label)
    classifier = load_classifier(
        options.model,
        len(id2label),
        options.compute_dtype,
        options.seed,
        new_head=not has_head,
        problem_type=problem_type,
        revision=options.revision,
    )
    classifier = dataclasses.replace(classifier, id2label=id2label)
    splits = _labelled(splits, id2label, problem_type)
    encoded = _encode(classifier, train, options)
    evaluations = {prefix: _encode(classifier, split, options) for prefix, split in splits.items()}
    named_by = model_names if model_names and has_head else id2label
    if problem_type == gold.SINGLE_LABEL:
        cli.say_assumptions([train, *splits.values()], named_by)
    assert encoded.labels is not None
    absent = gold.without_examples(encoded.labels, id2label, problem_type)
    if absent:
        cli.say(f"warning: {train.source} has no example of {', '.join(absent)}")

    task = task_name(options.dataset)
    data_fingerprints = {train.name: data_fingerprint(train, encoded)}
    for prefix, split in splits.items():
        data_fingerprints[split.name] = data_fingerprint(split, evaluations[prefix])
    facts = {
        "dataset_path": absolute_name(options.dataset),
        "hold_out_seed": seed,
        "initial_model_fingerprint": classifier.fingerprint(),
        "initial_model_commit": classifier.commit,
        "data_fingerprints": data_fingerprints,
        "task_metric": evaluation.TASK_METRICS.get(task),
    }
    return _Inputs(classifier, encoded, evaluations, task, facts)


def _check_pairs(train: Split, splits: dict[str, Split]) -> None:
    """Refuse splits of which only some have sentence pairs."""
    for split in splits.values():
        require(
            (split.text_pairs is None) == (train.text_pairs is None),
            f"only one of {train.source} and {split.source} has sentence pairs: name the same"
            " columns in both",
        )


def _say_what_is_trained(options: Options, classifier: Classifier) -> None:
    """Say on stderr what is new in the model, and which recipe is in force."""
    if classifier.new_parts:
        cli.say(f"new, to be trained: {', '.join(classifier.new_parts)}")
    if options.dataset in DATASET_DEFAULTS:
        names = DATASET_DEFAULTS[options.dataset]
        in_force = " ".join(f"--{name} {getattr(options, name)}" for name in names)
        cli.say(f"recipe for {options.dataset}: {in_force}")


def _fine_tune(
    options: Options, inputs: _Inputs, folder: OutputFolder
) -> tuple[Classifier, dict[str, Any]]:
    """Return the classifier of the best epoch, and the summary for run.json."""
    from ..training.trainer import Trainer, TrainingOptions  # lazy import: slow

    fields = dataclasses.fields(TrainingOptions)
    recipe = TrainingOptions(**{field.name: getattr(options, field.name) for field in fields})
    trainer = Trainer(
        inputs.classifier,
        inputs.train,
        inputs.evaluations,
        folder.path,
        recipe,
        None,
        inputs.task,
        options.shard_params,
    )
    num_examples = len(inputs.train) * options.num_train_epochs
    try:
        with progress(num_examples, "examples", "training") as bar:
            return trainer.run(_on_step(options, inputs, trainer, bar))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            "interrupted: the same command with --resume goes on from the last checkpoint"
        ) from None


def _on_step(
    options: Options, inputs: _Inputs, trainer: Any, bar: Any
) -> Callable[[int, int, float | None], None]:
    """Return what `Trainer.run` calls after each step: it moves the progress bar."""

    def on_step(step: int, num_examples: int, loss: float | None) -> None:
        # Resumed: the steps that had been made before do not count for the rate.
        if bar.n == 0 and step > 1:
            bar.write(f"resumed after step {step - 1} of {trainer.num_steps}", file=bar.fp)
            epochs, steps = divmod(step - 1, trainer.steps_per_epoch)
            num_done = epochs * len(inputs.train) + steps * options.train_batch_size
            bar.initial = bar.n = num_done
        bar.update(num_examples)
        if loss is not None:
            bar.set_postfix(loss=f"{loss:.4f}", refresh=False)

    return on_step


def _print_training(summary: dict[str, Any]) -> None:
    metrics = ", ".join(
        f"{name} {value:.4f}" for name, value in summary.items() if name.startswith("eval")
    )
    print(f"best epoch, step {summary['best_step']} of {summary['num_steps']}: {metrics}")
    if summary["train_examples_per_second"]:
        print(
            f"{summary['train_seconds']:.0f} s, {summary['train_examples_per_second']:.1f}"
            " examples/s"
        )


def _evaluation_splits(options: Options, hold_out_seed: int | None) -> dict[str, Split]:
    """Return the evaluation splits by the names that their metrics get."""
    names = evaluation_splits(options.dataset)
    return {
        prefix: cli.load_split(
            options.dataset,
            split,
            options.columns,
            options.max_eval_examples,
            hold_out_seed,
        )
        for prefix, split in names.items()
    }


def _labelled(
    splits: dict[str, Split], id2label: dict[int, str], problem_type: str
) -> dict[str, Split]:
    return {
        prefix: cli.with_gold_labels(split, id2label, problem_type)
        for prefix, split in splits.items()
    }


def _encode(classifier, split: Split, options: Options) -> Encoded:
    max_length = min(options.max_seq_length, classifier.config.max_length)
    labels = gold.gold_labels(split, classifier.id2label, classifier.config.outputs)
    encoded = encode(classifier, split, max_length, labels)
    cli.warn_truncated(encoded, split.source)
    return encoded


def _evaluate(options: Options) -> None:
    classifier = load_classifier(
        options.model, dtype=options.compute_dtype, revision=options.revision
    )
    problem_type = classifier.config.outputs
    splits = _labelled(_evaluation_splits(options, None), classifier.id2label, problem_type)
    encoded = {name: _encode(classifier, split, options) for name, split in splits.items()}
    if problem_type == gold.SINGLE_LABEL:
        cli.say_assumptions(splits.values(), classifier.id2label)
    mesh = sharding.data_mesh()
    params = sharding.place_params(classifier.params, mesh, options.shard_params)
    results = {}
    with progress(sum(map(len, encoded.values())), "examples", "evaluating") as bar:
        for name, examples in encoded.items():
            logits = evaluation.predict(
                params, classifier.config, examples, mesh, on_batch=bar.update
            )
            scores = evaluation.metrics(
                logits,
                examples.labels,
                task_name(options.dataset),
                classifier.id2label,
                problem_type,
            )
            results |= {f"{name}_{key}": value for key, value in scores.items()}
            results[f"{name}_examples"] = len(examples)
    print(json.dumps({"model": options.model, "dataset": options.dataset, **results}))
