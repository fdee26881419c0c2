"""What a run of `prune.py` works on: model, examples and folders, found and checked.

Nothing is written here: bad input leaves nothing behind.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from ..data import readers
from ..data.batches import Encoded, data_fingerprint, encode
from ..data.labels import class_indices
from ..data.splits import Split, absolute_name, task_name
from ..errors import require
from ..models import head_masks
from ..models.classifier import Classifier, holds, load_classifier
from ..pruning import importance_file
from ..pruning.examples import disjoint, drop_examples
from ..pruning.measures import MEASURES
from ..runtime import output
from ..runtime.files import json_digest, user_path
from ..runtime.output import OutputFolder
from ..training import evaluation
from . import cli
from .options import named
from .prune_options import Options

JOURNAL = "progress.jsonl"  # scores and metrics of a run that is not finished
FROM_FILE = "file"  # stands for the measure of a head_importance.json
FILES = ("pruning.json", "head_importance*.json", "curve.*", "heads.*", JOURNAL)
MODEL_FILES = (
    "config.json",
    "model.safetensors",
    "tokenizer*.json",
    "vocab.txt",
    "special_tokens_map.json",
)


@dataclasses.dataclass(frozen=True)
class Inputs:
    """All that a run needs before it computes."""

    classifier: Classifier
    given: dict[str, Any] | None  # the contents of the head_importance.json to prune by
    wanted: list[
        tuple[str, int | None]
    ]  # (measure, seed) of the rankings, the one to prune by first
    scored: Split | None  # the examples to score on, None where no measure needs any
    scored_encoded: Encoded | None
    evaluated: Split
    evaluated_encoded: Encoded
    task: str | None
    folder: OutputFolder
    save_folder: OutputFolder | None
    options: Options  # of the run
    saved_options: Options  # as the smaller model's folder records them
    facts: dict[str, Any]
    may_change: tuple[str, ...]  # options that a resumed run need not repeat

    @property
    def is_finished(self) -> bool:
        """Whether a finished run with these inputs is there already, with all its results."""
        return (
            self.folder.is_finished(self.options, self.facts, self.may_change)
            and (self.folder.path / "pruning.json").exists()
            and self._is_saved()
        )

    def _is_saved(self) -> bool:
        """Return whether what `--save_pruned` names holds the smaller model of the finished run."""
        folder = self.save_folder
        if folder is None:
            return True
        if not folder.previous.get("finished"):
            return False
        # Its own fingerprint follows from all others.
        folder.check(self.saved_options, self.facts, (*self.may_change, "model_fingerprint"))
        return holds(folder.path, folder.previous.get("model_fingerprint"))


def prepare(options: Options) -> Inputs:
    """Return what a run with these options works on.

    Args:
      options: checked.

    Raises:
      InputError: options that do not go together, or anything that cannot be found or used.
    """
    path = options.output_dir or output.default_output_dir(options.checkpoint, "pruning")
    folder = OutputFolder(path, "prune", FILES, options.overwrite, options.resume)
    save_folder = _save_folder(options, folder)
    cli.check_checkpoint(options)
    classifier = _load(options)
    present = head_masks.present_heads(classifier.config)
    fingerprint = classifier.fingerprint()
    options.check_rule(present)
    given = _given_importance(options, present.shape, fingerprint)
    wanted = _wanted(options, given)

    trained = _Data.of(options)
    scored, evaluated = _examples(options, trained, wanted, given, classifier.id2label)
    scored_encoded = None if scored is None else _encode(classifier, scored, trained.max_seq_length)
    evaluated_encoded = _encode(classifier, evaluated, trained.max_seq_length)
    cli.say_assumptions([evaluated] if scored is None else [evaluated, scored], classifier.id2label)
    task = task_name(trained.dataset)
    roles = {"scoring": (scored, scored_encoded), "evaluation": (evaluated, evaluated_encoded)}
    fingerprints = {
        role: data_fingerprint(split, encoded)
        for role, (split, encoded) in roles.items()
        if split is not None and encoded is not None
    }
    facts = {
        "dataset_path": absolute_name(trained.dataset),
        "hold_out_seed": trained.hold_out_seed,
        "model_fingerprint": fingerprint,
        "model_commit": classifier.commit,
        "data_fingerprints": fingerprints,
        "importance_fingerprint": None if given is None else json_digest(given),
        "max_seq_length": trained.max_seq_length,
        "task_metric": evaluation.TASK_METRICS.get(task),
    }
    return Inputs(
        classifier=classifier,
        given=given,
        wanted=wanted,
        scored=scored,
        scored_encoded=scored_encoded,
        evaluated=evaluated,
        evaluated_encoded=evaluated_encoded,
        task=task,
        folder=folder,
        save_folder=save_folder,
        options=options,
        # The smaller model's folder also says what the next run takes over: the columns that the
        # model was trained with.
        saved_options=dataclasses.replace(options, **trained.column_options),
        facts=facts,
        # The fingerprints tell whether model and data are the same, however they are written. Of
        # the data set's name only the metric counts.
        may_change=(
            *("checkpoint", "revision", "model_commit"),
            *("dataset", "dataset_path"),
            *(["importance"] if given is not None else []),
        ),
    )


def _load(options: Options) -> Classifier:
    """Return the model, whose heads can be ranked, and cut out where that is asked for."""
    classifier = load_classifier(options.checkpoint, revision=options.revision)
    classifier.require_classes()
    if options.save_pruned is not None:
        named("--save_pruned", lambda: head_masks.check_removable(classifier.config))
    return classifier


def _save_folder(options: Options, folder: OutputFolder) -> OutputFolder | None:
    if options.save_pruned is None:
        return None
    path = user_path(options.save_pruned)
    for name, other in (
        ("--output_dir", folder.path),
        ("--checkpoint", user_path(options.checkpoint)),
    ):
        require(
            path.resolve() != other.resolve(),
            f"--save_pruned {path} is the folder of {name}: choose another",
        )
    # What the run that is resumed was allowed to overwrite may still be there.
    overwrite = options.overwrite or (
        folder.resume and bool(folder.previous["options"].get("overwrite"))
    )
    return OutputFolder(
        path,
        "save_pruned",
        MODEL_FILES,
        overwrite,
        options.resume and not overwrite,
        option_name="--save_pruned",
    )


@dataclasses.dataclass(frozen=True)
class _Data:
    """The data that heads are scored and evaluated on.

    It is what `--dataset` names, or what the checkpoint was trained on.
    """

    dataset: str
    column_options: dict[str, Any]  # those that say what the columns are
    columns: readers.Columns
    max_seq_length: int | None
    hold_out_seed: int | None  # by which a single file is divided

    @classmethod
    def of(cls, options: Options) -> _Data:
        trained = cli.TrainedOn.read(options.checkpoint)
        if options.dataset is None:
            require(
                trained.dataset is not None,
                f"{options.checkpoint} does not say what it was trained on: name a data set with"
                " --dataset",
            )
            options = dataclasses.replace(options, dataset=trained.dataset)
        columns = trained.columns(options)
        seed = None
        if trained.is_of(options.dataset):  # then also divided as it was
            options, seed = trained.take_over(options), trained.hold_out_seed
        column_options = {name: getattr(options, name) for name in cli.COLUMN_OPTIONS}
        return cls(options.dataset, column_options, columns, trained.max_seq_length, seed)


def _wanted(options: Options, given: dict[str, Any] | None) -> list[tuple[str, int | None]]:
    """Return the (measure, seed) to rank the heads by, the one to prune by first."""
    names = tuple(part.strip() for part in options.curve_importances.split(","))
    others = {("all",): MEASURES, ("none",): ()}.get(names, names)
    unknown = [name for name in others if name not in MEASURES]
    known = f"some of {', '.join(MEASURES)}, separated by commas, all, or none"
    require(
        not unknown,
        f"--curve_importances: {', '.join(map(repr, unknown))} is unknown; give {known}",
    )
    if not options.curve:
        others = ()
    # A file stands for its measure; random orders stay beside one, as the control
    if given is not None:
        others = [
            measure for measure in others if measure == "random" or measure != given["measure"]
        ]
    first = options.importance if given is None else FROM_FILE
    seeds = range(options.seed, options.seed + (options.curve_seeds if options.curve else 1))
    return [
        (measure, seed)
        for measure in dict.fromkeys([first, *others])
        for seed in (seeds if measure == "random" else [None])
    ]


def _examples(
    options: Options, trained: _Data, wanted, given, id2label: dict[int, str]
) -> tuple[Split | None, Split]:
    """Return the examples to score on and those to evaluate on.

    The former are None where no measure needs any.
    """

    def load(split: str, max_examples: int | None = None) -> Split:
        return cli.with_gold_labels(
            cli.load_split(
                trained.dataset, split, trained.columns, max_examples, trained.hold_out_seed
            ),
            id2label,
        )

    evaluated = load(options.eval_split, options.max_eval_examples)
    needs_examples = any(measure in MEASURES and measure != "random" for measure, _ in wanted)
    if options.protocol == "reference":
        return (
            evaluated.select(range(min(options.num_scoring_examples, len(evaluated))))
            if needs_examples
            else None
        ), evaluated
    if given is not None:
        evaluated = drop_examples(evaluated, given["examples"])
    if not needs_examples:
        return None, evaluated
    return disjoint(
        load(options.scoring_split), evaluated, options.num_scoring_examples, options.seed
    )


def _given_importance(
    options: Options, shape: tuple[int, int], fingerprint: str
) -> dict[str, Any] | None:
    """Return the contents of the `head_importance.json` that `--importance` names.

    None where it names a measure.
    """
    if options.prune_heads is not None:
        return importance_file.importance_record("by hand", np.zeros(shape), fingerprint)
    if options.importance in MEASURES:
        return None
    file = user_path(options.importance)
    known = ", ".join(MEASURES)
    require(
        file.is_file(),
        f"--importance {options.importance!r} is none of {known}, nor an existing"
        " head_importance.json",
    )
    record = named(
        "--importance", lambda: importance_file.read_importance(file, shape, fingerprint)
    )
    return record | {"importance": record["importance"].tolist()}


def _encode(classifier: Classifier, split: Split, max_seq_length: int | None) -> Encoded:
    """Tokenize as in training.

    So the accuracy before pruning is the one that training reported.
    """
    limit = classifier.config.max_length
    labels = class_indices(split, classifier.id2label)
    encoded = encode(classifier, split, min(max_seq_length or limit, limit), labels)
    cli.warn_truncated(encoded, split.source)
    return encoded
