"""`attribute.py`: texts in, explanations, files and a report out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from ..attribution.arguments import resolved_objective
from ..attribution.options import TARGETS, AttributionOptions
from ..data.batches import Encoded, data_fingerprint, encode, encode_windows
from ..data.gold import MULTI_LABEL, gold_labels
from ..data.labels import class_index, class_indices
from ..data.splits import Split, load_lines
from ..errors import InputError, require
from ..explanations import parts
from ..explanations.convergence import convergence_by_steps
from ..explanations.explain import explain
from ..explanations.explanation import Explanation
from ..explanations.stored import StoredExplanations, load_attributions
from ..explanations.summary import DatasetSummary
from ..models.classifier import Classifier, load_classifier
from ..pruning import importance_file
from ..pruning.masks import listed_integers
from ..runtime import output, sharding
from ..runtime.files import write_json
from ..runtime.output import OutputFolder
from ..runtime.processes import Terminated, preemption
from ..runtime.progress import progress
from ..views.drawing import save_figure
from ..views.export import export
from ..views.options import TREE_FORMATS
from ..views.plots import convergence, example_figures
from ..views.report import write_report
from . import attribute_options, cli
from .attribute_options import Options
from .options import named, names_with
from .printing import print_explanation, print_roughness, print_steps, print_summary

FILES = (
    "examples.jsonl",
    "shard-*.safetensors",
    "manifest.json",
    "parts",
    "head_importance.json",
    "token_pairs.json",
    "report.html",
    "figures",
    "export",
)
CONVERGENCE_STEPS = (2, 3, 5, 8, 12, 20)  # of the figure; every rule has so many


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script with these arguments, by default the process's; returns the exit status."""
    return cli.script(_attribute, Options, attribute_options.__doc__, argv)


def _attribute(options: Options) -> None:
    """Explain texts, write the explanations, and show them."""
    options = attribute_options.checked(options)
    path = options.output_dir or output.default_output_dir(options.checkpoint, "attribution")
    folder = OutputFolder(path, "attribute", FILES, options.overwrite, options.resume)
    cli.check_checkpoint(options)
    split = _load_texts(options)
    dtype = None if options.dtype == "float32" else options.dtype
    classifier = load_classifier(options.checkpoint, dtype=dtype, revision=options.revision)
    options = _with_objective(options, classifier)
    attribution = _attribution_options(options, classifier)
    if options.target == "gold":
        split = cli.with_gold_labels(split, classifier.id2label)
    labels = _labels(options, split, classifier)
    longest = classifier.config.max_length
    if options.stride is None:
        encoded = encode(classifier, split, longest, labels)
    else:
        split, encoded = named(
            "--stride", lambda: encode_windows(classifier, split, longest, options.stride, labels)
        )
    cli.warn_truncated(encoded, split.source)

    # The fingerprints tell whether model and data are the same, however they are written. The name
    # is not that of --text_file, which may change.
    name = "texts" if options.dataset is None else split.name
    facts = {
        "model_fingerprint": classifier.fingerprint(),
        "model_commit": classifier.commit,
        "data_fingerprints": {name: data_fingerprint(split, encoded)},
    }
    may_change = (*names_with(options, "is_view"), "checkpoint", "revision", "dataset", "text_file")
    may_change += ("model_commit",)
    folder.start(options, facts, may_change)
    num_rows = len(split) * (classifier.config.num_labels if options.target == "all" else 1)
    summary = _explain(options, folder, classifier, split, encoded, attribution, num_rows)
    if summary is None:
        return

    stored = load_attributions(folder.path)
    _write_summary(options, folder, split, facts["model_fingerprint"], attribution, summary)
    _print(options, folder, stored, summary, attribution)
    # The explanations are finished: whatever fails from here on, they stay.
    for line in _write_views(options, classifier, attribution, stored):
        print(line)


def _with_objective(options: Options, classifier: Classifier) -> Options:
    """Return the options with the objective named: by default that which the model has."""
    if options.objective is not None:
        return options
    objective = options.attribution().for_outputs(classifier.config.num_labels).objective
    if objective == "logit":
        cli.say(f"{options.checkpoint} has one output, which is explained: --objective logit")
    return dataclasses.replace(options, objective=objective)


def _attribution_options(options: Options, classifier: Classifier) -> AttributionOptions:
    """Return how to attribute, having checked against the model what needs one."""
    named("--objective", lambda: resolved_objective(str(options.objective), classifier.config))
    target = _class(options.target, "--target", TARGETS, classifier)
    contrast = _class(options.contrast, "--contrast", ("runner_up",), classifier)
    require(
        target not in (contrast, "all") or options.contrast == "runner_up",
        f"--contrast {options.contrast}: name another class than --target",
    )
    layers = _layers(options, classifier)
    trees = [name for name in options.export_formats if name in TREE_FORMATS]
    require(
        not trees or layers is None or len(layers) == classifier.config.num_hidden_layers,
        f"--export {','.join(trees)}: trees need the attributions of all layers: leave"
        " --layers out",
    )
    return options.attribution(target, layers, contrast)


def _load_texts(options: Options) -> Split:
    """Return what to explain as a split; texts of the command line have no labels."""
    if options.dataset is not None:
        columns = cli.TrainedOn.read(options.checkpoint).columns(options)
        return cli.load_split(options.dataset, options.split, columns, options.max_examples)
    require(
        options.target != "gold",
        "--target gold: texts given by hand have no gold class; give a class name, or a --dataset",
    )
    if options.text_file is not None:
        return load_lines(options.text_file, options.max_examples)
    split = Split("texts", "--text", list(options.text), list(options.text_pair) or None, None)
    return split.select(range(min(len(split), options.max_examples or len(split))))


def _labels(options: Options, split: Split, classifier: Classifier) -> np.ndarray | None:
    """Return the labels as class indices; None where there are none to show.

    Labels that are not the model's classes are left out, unless they are to be explained.
    """
    if split.raw_labels is None and options.target != "gold":
        return None
    try:
        if classifier.config.outputs == MULTI_LABEL:
            return gold_labels(split, classifier.id2label, MULTI_LABEL)
        labels = class_indices(split, classifier.id2label)
    except InputError as error:
        if options.target == "gold":
            raise InputError(f"--target gold: {error}") from None
        cli.say(f"warning: labels are left out: {error}")
        return None
    cli.say_assumptions([split], classifier.id2label)
    return labels


def _class(
    value: str, option: str, alternatives: Sequence[str], classifier: Classifier
) -> str | int:
    """Return the index of the class that an option names, or one of the words for others."""
    if value in alternatives:
        return value
    try:
        return class_index(value, classifier.id2label, f"{', '.join(alternatives)}, or ")
    except InputError as error:
        raise InputError(f"{option} {error}") from None


def _layers(options: Options, classifier: Classifier) -> tuple[int, ...] | None:
    if options.layers is None:
        return None
    last = classifier.config.num_hidden_layers - 1
    try:
        layers = tuple(listed_integers(options.layers))
    except ValueError:
        layers = ()
    require(
        bool(layers)
        and all(0 <= layer <= last for layer in layers)
        and len(set(layers)) == len(layers),
        f"--layers {options.layers!r}: give different layers from 0 to {last}, separated by commas",
    )
    return layers


def _explain(
    options: Options,
    folder: OutputFolder,
    classifier: Classifier,
    split: Split,
    encoded: Encoded,
    attribution: AttributionOptions,
    num_rows: int,
) -> DatasetSummary | None:
    """Write the explanations that are not there yet, this process's share of them.

    There are `num_rows` in all. Returns when all processes have done so; the main one then finishes
    the data set, and returns what is known of all examples together.
    """
    if folder.resume and sharding.is_main():
        for reason in parts.reopen(folder.path, num_rows):
            cli.say(f"warning: {reason}: its examples are computed again")
    sharding.barrier("reopened")
    indices = sorted(parts.done(folder.path, num_rows)) if sharding.is_main() else None
    done = set(sharding.from_main(indices))
    if len(done) < num_rows:
        explained = explain(
            classifier,
            split,
            encoded,
            sharding.data_mesh(),
            attribution,
            options.save,
            options.batch_size,
            options.num_pairs,
            options.skip_special_tokens,
            done,
            options.shard_params,
        )
        writer = parts.ExplanationWriter(folder.path, options.save, jax.process_index())
        _write_all(explained, writer, num_rows, len(done))
    sharding.barrier("explained")
    listed = parts.put_in_order(folder.path, num_rows, jax.process_index(), jax.process_count())
    sharding.barrier("in order")
    return parts.join(folder.path, num_rows, listed) if sharding.is_main() else None


def _write_all(
    explained: Iterator[Explanation], writer: parts.ExplanationWriter, total: int, num_done: int
) -> None:
    """Write explanations as they come; what was written stays when this is interrupted."""
    with (
        progress(total, "texts", "attributing") as bar,
        preemption(together=False) as is_preempted,
    ):
        bar.initial = bar.n = num_done
        try:
            for example in explained:
                writer.add(example)
                bar.update(min(jax.process_count(), total - bar.n))  # the others are about as far
                if is_preempted(bar.n):
                    raise Terminated(
                        "terminated by SIGTERM: what was computed is saved, --resume goes on from"
                        " there"
                    )
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                "interrupted: what was computed is saved, --resume goes on from there"
            ) from None
        finally:
            writer.flush()


def _write_summary(
    options: Options,
    folder: OutputFolder,
    split: Split,
    fingerprint: str,
    attribution: AttributionOptions,
    summary: DatasetSummary,
) -> None:
    """Write what is known of all examples together, and finish the run."""
    hashes = split.example_hashes()
    record = importance_file.importance_record(
        "attribution", summary.importance, fingerprint, options.target, hashes, attribution.layers
    )
    write_json(folder.path / "head_importance.json", record)
    if options.dataset is not None:
        write_json(folder.path / "token_pairs.json", summary.token_pairs)
    results = {
        "num_examples": summary.num_examples,
        "max_relative_convergence_delta": summary.worst_delta,
        "max_error_estimate": summary.worst[0],
    }
    if options.n_steps == "auto":
        results |= {"mean_n_steps": summary.mean_n_steps, "not_converged": summary.not_converged}
    folder.finish(results=results)


def _print(
    options: Options,
    folder: OutputFolder,
    stored: StoredExplanations,
    summary: DatasetSummary,
    attribution: AttributionOptions,
) -> None:
    """Print the first explanations, and what is known of all examples together."""
    for example in stored[: options.num_printed]:
        print_explanation(example)
    if len(stored) > options.num_printed:
        more = len(stored) - options.num_printed
        print(f"… and {more} more in {folder.path / 'examples.jsonl'}\n")
    if options.dataset is not None:
        print_summary(summary, attribution.layers)
    if options.n_steps == "auto":
        print_steps(summary, attribution)
    print_roughness(summary, attribution)
    print(f"{len(stored)} explanations: {folder.path}")


def _write_views(
    options: Options,
    classifier: Classifier,
    attribution: AttributionOptions,
    stored: StoredExplanations,
) -> list[str]:
    """Write report, figures and exports; return a line for each."""
    lines = _write_report(options, stored)
    lines += _write_figures(options, stored, classifier, attribution)
    if options.export_formats:
        with progress(len(stored), "texts", "exporting") as bar:
            files = export(
                _counted(stored, bar),
                stored.folder / "export",
                options.export_formats,
                options.export_top_k,
                **options.trees.keywords(),
                overwrite=True,
            )
        lines += [f"export: {file}" for file in files]
    return lines


def _counted(stored: Sequence[Explanation], bar: Any) -> Iterator[Explanation]:
    for example in stored:
        yield example
        bar.update()


def _write_report(options: Options, stored: StoredExplanations) -> list[str]:
    """Write the page; return a line about it."""
    if options.report is None:
        return []
    with progress(min(options.report_examples, len(stored)), "texts", "report") as bar:
        written = write_report(
            stored,
            stored.folder / "report.html",
            **options.report.keywords(),
            on_example=bar.update,
            overwrite=True,
        )
    left_out = f" (left out: {'; '.join(written.left_out)})" if written.left_out else ""
    return [f"report: {written.file}{left_out}"]


def _write_figures(
    options: Options,
    stored: StoredExplanations,
    classifier: Classifier,
    attribution: AttributionOptions,
) -> list[str]:
    """Write the figures of the first examples, a folder each; return a line about them."""
    examples, folder = stored[: options.figure_examples], stored.folder / "figures"
    formats, trees = options.figure_formats, options.trees
    if not formats or not examples:
        return []
    # Adaptively there is no one number of steps; in bfloat16 rounding hides the delta.
    has_convergence = options.n_steps != "auto" and options.dtype == "float32"
    if has_convergence:
        steps = ", ".join(map(str, CONVERGENCE_STEPS))
        cli.say(
            f"figures: for `convergence` each of {len(examples)} texts is attributed again with"
            f" {steps} steps, which takes longer than all else; --figure_examples is how many"
        )
    with progress(len(examples), "texts", "figures") as bar:
        for example in examples:
            place = folder / f"{example.index:05d}"
            place.mkdir(parents=True, exist_ok=True)
            figures = example_figures(example, trees.threshold, trees.penalty, options.objective)
            for name, figure in figures:
                save_figure(figure, place / name, formats)
            if has_convergence:
                deltas = convergence_by_steps(classifier, [example], attribution, CONVERGENCE_STEPS)
                layers = example.layers if options.path == "layer" else ["all together"]
                of_run = options.method, options.n_steps
                figure = convergence(CONVERGENCE_STEPS, deltas[0], layers, *of_run)
                save_figure(figure, place / "convergence", formats)
            bar.update()
    return [f"figures: {folder}"]
