"""Explain a BERT classifier's predictions by self-attention attribution.

    python attribute.py --checkpoint runs/reviews --text "Stunning visuals, no story." --text "Not a
    dull moment." python attribute.py --checkpoint runs/sst2 --dataset sst2 --max_examples 200
    --save summary

Prints per text the prediction, each token's attribution, the strongest token pairs (special tokens
are marked with *) and the most important heads. Writes into --output_dir report.html, a page to
look at all this in a browser; examples.jsonl and shard-*.safetensors (read both with
attattr_jax.load_attributions); head_importance.json; token_pairs.json for a data set; figures and
exports where they are asked for; and run.json. A run that was stopped goes on with --resume.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from ..attribution import reductions
from ..attribution.arguments import check_adaptive, check_objective
from ..attribution.options import OBJECTIVES, PATHS, AttributionOptions
from ..attribution.quadrature import METHODS
from ..attribution.tree import THRESHOLD, check_tree_options
from ..data.batches import Encoded, data_fingerprint, encode
from ..data.labels import class_index, class_indices
from ..data.splits import Split, load_lines
from ..errors import InputError, require
from ..explanations import parts
from ..explanations.convergence import convergence_by_steps
from ..explanations.explain import explain
from ..explanations.explanation import Explanation
from ..explanations.findings import DatasetSummary
from ..explanations.stored import StoredExplanations, load_attributions
from ..models.classifier import Classifier, load_classifier
from ..pruning import importance_file
from ..pruning.masks import listed_integers
from ..runtime import output, sharding
from ..runtime.files import write_json
from ..runtime.output import OutputFolder
from ..runtime.processes import Terminated, preemption
from ..runtime.text import printable
from ..views.example import single_output
from ..views.export import EXAMPLE_FORMATS, TABLE_FORMATS, TREE_FORMATS, export
from ..views.plots import ALL_FORMATS, convergence, example_figures, save_figure
from ..views.report import MAX_EXAMPLES, MAX_MEGABYTES, check_report_options, write_report
from . import cli
from .cli import option

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
# Options that change what is made of the explanations, not these: a run may be resumed with others.
VIEW_OPTIONS = (
    "num_printed",
    "report_examples",
    "report_megabytes",
    "figures",
    "figure_examples",
    "export",
    "export_top_k",
    "tree_threshold",
    "tree_penalty",
)
EXPORT_FORMATS = (*TABLE_FORMATS, *EXAMPLE_FORMATS)
CONVERGENCE_STEPS = (2, 3, 5, 8, 12, 20)  # of the figure; every rule has so many


@dataclasses.dataclass(frozen=True)
class Options(cli.CommonOptions):
    """Options of `attribute.py`."""

    checkpoint: str = option(
        "runs/sst2", "an output of train.py, any Hugging Face BERT classifier folder, or a Hub id"
    )
    text: list[str] = option([], "a text to explain; repeatable")
    text_pair: list[str] = option([], "its second segment, for sentence pairs; one for each --text")
    text_file: str | None = option(None, "a file with a text on each line")
    dataset: str | None = option(None, "a data set to explain, named as for train.py")
    split: str = option("validation", "the split of --dataset")
    max_examples: int | None = option(None, "explain the first so many only")
    target: str = option(
        "predicted", "the class to explain: predicted, gold, a class index or a class name"
    )
    objective: Literal[*OBJECTIVES] = option("prob", "the output to explain")
    n_steps: str = option(
        "20", "integration steps; auto: for each layer of each text as many as --tolerance needs"
    )
    method: Literal[*METHODS] = option(
        "gausslegendre",
        "integration rule; riemann_left is the published code's, riemann_right the paper's",
    )
    tolerance: float = option(
        1e-3,
        "with auto: bound on |convergence delta| and on the change between levels, relative to a"
        " layer's sum",
    )
    max_steps: int = option(
        63, "with auto: give up at so many steps; the levels are 7, 11, 15, 31 and 63"
    )
    path: Literal[*PATHS] = option(
        "layer", "scale the attention of one layer at a time (the paper), or of all layers at once"
    )
    token_n_steps: str | None = option(
        None, "integration steps of the token-level gradients, or auto (default: as --n_steps)"
    )
    layers: str | None = option(None, "layers to attribute, as 0,4,5 (default: all)")
    save: Literal["none", "summary", "full"] = option(
        "full", "arrays to save: none; summary, without the L x N x T x T ones; or full"
    )
    dtype: Literal["float32", "bfloat16"] = option(
        "float32", "what to compute in; bfloat16 is for accelerators: faster, errors of percents"
    )
    num_pairs: int = option(10, "token pairs and heads to list per text")
    skip_special_tokens: bool = option(False, "leave pairs with [CLS] or [SEP] out of the lists")
    report_examples: int = option(MAX_EXAMPLES, "texts in report.html; 0: no report")
    report_megabytes: float = option(
        MAX_MEGABYTES,
        "room for the matrices in report.html; what does not fit is left out, and said",
    )
    figures: str | None = option(None, "figures to save, as png,svg,pdf (default: none)")
    figure_examples: int = option(5, "texts to save figures of")
    export: str | None = option(
        None,
        f"other files to save, of {','.join(EXPORT_FORMATS)}: tables of the largest attributions,"
        " arrays by text, trees (default: none)",
    )
    export_top_k: int = option(100, "rows for each text in the tables of --export")
    tree_threshold: float = option(
        THRESHOLD,
        "trees: an edge needs more than this share of its layer's largest attribution (the paper's"
        " tau)",
    )
    tree_penalty: float = option(
        0.0, "trees: an edge needs more attribution than this (the paper's lambda)"
    )
    skip_token_attributions: bool = option(
        False, "leave the token-level integrated gradients out: a part of the time"
    )
    num_printed: int = option(5, "texts to print; all are written")
    batch_size: int | None = option(None, "texts at once (default: by their length)")
    step_batch_size: int | None = option(
        None,
        "integration steps at once; bounds memory (default: what fits into 128 MiB, or a quarter of"
        " an accelerator)",
    )
    output_dir: str | None = option(None, "where to write (default: <checkpoint>/attribution)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script with these arguments, by default the process's; returns the exit status."""
    return cli.script(_attribute, Options, __doc__, argv)


def _attribute(options: Options) -> None:
    options = dataclasses.replace(
        options, n_steps=cli.checked_n_steps(options.n_steps, options.method)
    )
    if options.token_n_steps is not None:
        token_n_steps = cli.checked_n_steps(
            options.token_n_steps, options.method, "--token_n_steps"
        )
        options = dataclasses.replace(options, token_n_steps=token_n_steps)
    _check_ranges(options)
    figure_formats = cli.listed(options.figures, "--figures", ALL_FORMATS)
    export_formats = cli.listed(options.export, "--export", EXPORT_FORMATS)
    for name in ("figures", "export"):
        require(
            getattr(options, name) is None or options.save == "full",
            f"--{name} needs the arrays of every text: give --save full",
        )
    folder = OutputFolder(
        options.output_dir or output.default_output_dir(options.checkpoint, "attribution"),
        "attribute",
        FILES,
        options.overwrite,
        options.resume,
    )
    split = _load_texts(options)
    dtype = None if options.dtype == "float32" else options.dtype
    classifier = load_classifier(options.checkpoint, dtype=dtype)
    cli.named("--objective", lambda: check_objective(options.objective, classifier.config))
    target, layers = _target(options, classifier), _layers(options, classifier)
    trees = [name for name in export_formats if name in TREE_FORMATS]
    require(
        not trees or layers is None or len(layers) == classifier.config.num_hidden_layers,
        f"--export {','.join(trees)}: trees need the attributions of all layers: leave"
        " --layers out",
    )
    if options.target == "gold":
        split = cli.with_gold_labels(split, classifier.id2label)
    encoded = encode(
        classifier,
        split,
        classifier.config.max_length,
        _labels(options, split, classifier),
    )
    cli.warn_truncated(encoded, split.source)

    fingerprint = classifier.fingerprint()
    # Not that of --text_file, which may change
    name = "texts" if options.dataset is None else split.name
    facts = {
        "model_fingerprint": fingerprint,
        "data_fingerprints": {name: data_fingerprint(split, encoded)},
    }
    # The fingerprints tell whether model and data are the same, however they are written.
    folder.start(options, facts, may_change=(*VIEW_OPTIONS, "checkpoint", "dataset", "text_file"))
    same = (
        "n_steps",
        "method",
        "objective",
        "step_batch_size",
        "path",
        "tolerance",
        "max_steps",
        "token_n_steps",
    )
    how = AttributionOptions(
        target,
        layers=layers,
        **{name: getattr(options, name) for name in same},
        token_level=not options.skip_token_attributions,
    )
    _explain(options, folder, classifier, split, encoded, how)
    if not sharding.is_main():
        return

    parts.assemble(folder.path, len(split))
    stored, summary = load_attributions(folder.path), DatasetSummary()
    for example in stored:
        summary.add(example)
    record = importance_file.importance_record(
        "attribution",
        summary.importance,
        fingerprint,
        options.target,
        split.example_hashes(),
        layers,
    )
    write_json(folder.path / "head_importance.json", record)
    if options.dataset is not None:
        write_json(folder.path / "token_pairs.json", summary.token_pairs)
    results = {"num_examples": len(split), "max_relative_convergence_delta": summary.worst_delta}
    if options.n_steps == "auto":
        results |= {"mean_n_steps": summary.mean_n_steps, "not_converged": summary.not_converged}
    folder.finish(results=results)

    for example in stored[: options.num_printed]:
        print_explanation(example.row)
    if len(split) > options.num_printed:
        print(
            f"… and {len(split) - options.num_printed} more in {folder.path / 'examples.jsonl'}\n"
        )
    if options.dataset is not None:
        _print_summary(summary, layers)
    if options.n_steps == "auto":
        _print_steps(summary, layers, options)
    print(
        f"largest |convergence delta| / sum of |attributions| of a layer: {summary.worst_delta:.2g}"
    )
    print(f"{len(split)} explanations: {folder.path}")
    for line in _write_views(options, classifier, how, figure_formats, export_formats, stored):
        print(line)


def _explain(
    options: Options,
    folder: OutputFolder,
    classifier: Classifier,
    split: Split,
    encoded: Encoded,
    how: AttributionOptions,
) -> None:
    """Write the explanations that are not there yet, this process's share of them, as parts;
    returns when every process has done so.
    """
    if folder.resume and sharding.is_main():
        for reason in parts.reopen(folder.path, len(split)):
            cli.say(f"warning: {reason}: its examples are computed again")
    sharding.barrier("reopened")
    done = set(
        sharding.from_main(
            sorted(parts.done(folder.path, len(split))) if sharding.is_main() else None
        )
    )
    if len(done) < len(split):
        writer = parts.ExplanationWriter(folder.path, options.save, jax.process_index())
        shown = options.num_pairs, options.skip_special_tokens
        explained = explain(
            classifier,
            split,
            encoded,
            sharding.data_mesh(),
            how,
            options.save,
            options.batch_size,
            *shown,
            done,
            options.shard_params,
        )
        with (
            cli.progress(len(split), "texts", "attributing") as bar,
            preemption(together=False) as is_preempted,
        ):
            bar.initial = bar.n = len(done)
            try:
                for example in explained:
                    writer.add(example)
                    # The others are about as far
                    bar.update(min(jax.process_count(), len(split) - bar.n))
                    if is_preempted(bar.n):
                        raise Terminated(
                            "terminated by SIGTERM: what was computed is saved, --resume goes on"
                            " from there"
                        )
            except KeyboardInterrupt:
                raise KeyboardInterrupt(
                    "interrupted: what was computed is saved, --resume goes on from there"
                ) from None
            finally:
                writer.flush()
    sharding.barrier("explained")


def _write_views(
    options: Options,
    classifier: Classifier,
    how: AttributionOptions,
    figure_formats: Sequence[str],
    export_formats: Sequence[str],
    stored: StoredExplanations,
) -> list[str]:
    """Write report, figures and exports, and return what to say of them. The explanations are
    finished: whatever fails here, they stay.
    """
    written = _write_report(options, stored)
    written += _write_figures(
        options,
        figure_formats,
        stored[: options.figure_examples],
        stored.folder / "figures",
        classifier,
        how,
    )
    if export_formats:
        with cli.progress(len(stored), "texts", "exporting") as bar:
            trees = (options.tree_threshold, options.tree_penalty)
            files = export(
                _counted(stored, bar),
                stored.folder / "export",
                export_formats,
                options.export_top_k,
                *trees,
                overwrite=True,
            )
        written += [f"export: {file}" for file in files]
    return written


def _counted(stored: Sequence[Explanation], bar: Any) -> Iterator[Explanation]:
    for example in stored:
        yield example
        bar.update()


def _write_report(options: Options, stored: StoredExplanations) -> list[str]:
    """Write the page, and return what to say of it."""
    if not options.report_examples:
        return []
    with cli.progress(min(options.report_examples, len(stored)), "texts", "report") as bar:
        bounds = (options.report_examples, options.report_megabytes)
        trees = (options.tree_threshold, options.tree_penalty)
        done = write_report(
            stored,
            stored.folder / "report.html",
            *bounds,
            *trees,
            on_example=bar.update,
            overwrite=True,
        )
    return [
        f"report: {done.file}"
        + (f" (left out: {'; '.join(done.left_out)})" if done.left_out else "")
    ]


def _write_figures(
    options: Options,
    formats: Sequence[str],
    stored: Sequence[Explanation],
    folder: Path,
    classifier: Classifier,
    how: AttributionOptions,
) -> list[str]:
    """Write the figures of these examples, a folder each, and return what to say of them."""
    if not formats or not stored:
        return []
    with cli.progress(len(stored), "texts", "figures") as bar:
        for example in stored:
            place = folder / f"{example.index:05d}"
            place.mkdir(parents=True, exist_ok=True)
            for name, figure in example_figures(
                example, options.tree_threshold, options.tree_penalty, options.objective
            ):
                save_figure(figure, place / name, formats)
            # Else there is no one number, or rounding hides the delta
            if options.n_steps != "auto" and options.dtype == "float32":
                (errors,) = convergence_by_steps(classifier, [example], how, CONVERGENCE_STEPS)
                layers = example.layers if options.path == "layer" else ["all together"]
                figure = convergence(
                    CONVERGENCE_STEPS, errors, layers, options.method, options.n_steps
                )
                save_figure(figure, place / "convergence", formats)
            bar.update()
    return [f"figures: {folder}"]


def _check_ranges(options: Options) -> None:
    cli.named(
        "--tolerance, --max_steps", lambda: check_adaptive(options.tolerance, options.max_steps)
    )
    require(
        options.n_steps != "auto" or options.dtype == "float32",
        "--n_steps auto needs --dtype float32: give a number of steps",
    )
    require(
        options.n_steps != "auto" or options.path == "layer",
        "--n_steps auto goes with --path layer: give a number of steps",
    )
    require(
        options.token_n_steps != "auto" or options.dtype == "float32",
        "--token_n_steps auto needs --dtype float32: give a number of steps",
    )
    steps = {name: getattr(options, name) for name in ("n_steps", "token_n_steps", "method")}
    cli.named(
        "--method",
        AttributionOptions(**steps, token_level=not options.skip_token_attributions).check_method,
    )
    cli.named(
        "--tree_threshold, --tree_penalty",
        lambda: check_tree_options(options.tree_threshold, options.tree_penalty),
    )
    cli.named("--report_megabytes", lambda: check_report_options(1, options.report_megabytes))
    for name in (
        "max_examples",
        "batch_size",
        "step_batch_size",
        "export_top_k",
        "figure_examples",
    ):
        value = getattr(options, name)
        require(value is None or value >= 1, f"--{name} must be at least 1, not {value}")
    for name in ("num_pairs", "num_printed", "report_examples"):
        require(
            getattr(options, name) >= 0,
            f"--{name} must not be negative, but is {getattr(options, name)}",
        )
    sources = [name for name in ("text", "text_file", "dataset") if getattr(options, name)]
    require(bool(sources), "nothing to explain: give --text, --text_file or --dataset")
    require(len(sources) == 1, f"--{' and --'.join(sources)}: give only one of them")
    require(
        not options.text_pair or len(options.text_pair) == len(options.text),
        f"{len(options.text_pair)} --text_pair for {len(options.text)} --text: give one for each",
    )
    is_adaptive = "auto" in (options.n_steps, options.token_n_steps)
    draws_trees = options.report_examples or options.figures or options.export
    makes_tables = any(name in (options.export or "") for name in TABLE_FORMATS)
    cli.check_applies(
        options,
        [
            *(
                (name, options.dataset is not None, "without --dataset")
                for name in ("split", *cli.COLUMN_OPTIONS)
            ),
            *(
                (name, is_adaptive, "without --n_steps auto or --token_n_steps auto")
                for name in ("tolerance", "max_steps")
            ),
            (
                "token_n_steps",
                not options.skip_token_attributions,
                "with --skip_token_attributions",
            ),
            ("report_megabytes", options.report_examples > 0, "with --report_examples 0"),
            ("figure_examples", options.figures is not None, "without --figures"),
            ("export_top_k", makes_tables, f"without --export {' or '.join(TABLE_FORMATS)}"),
            *(
                (name, bool(draws_trees), "without a report, --figures or --export")
                for name in ("tree_threshold", "tree_penalty")
            ),
        ],
    )
    for name in ("text", "text_pair"):
        for number, text in enumerate(getattr(options, name), 1):
            require(bool(text.strip()), f"--{name} number {number} is empty")


def _load_texts(options: Options) -> Split:
    """Return what to explain as a split; texts of the command line have no labels."""
    if options.dataset is not None:
        return cli.load_split(options.dataset, options.split, options.columns, options.max_examples)
    require(
        options.target != "gold",
        "--target gold: texts given by hand have no gold class; give a class name, or a --dataset",
    )
    if options.text_file is not None:
        return load_lines(options.text_file, options.max_examples)
    split = Split("texts", "--text", list(options.text), list(options.text_pair) or None, None)
    return split.select(range(min(len(split), options.max_examples or len(split))))


def _labels(options: Options, split: Split, classifier: Classifier) -> np.ndarray | None:
    """Return the labels as class indices; those that are not the model's are left out, unless they
    are to be explained.
    """
    if split.raw_labels is None and options.target != "gold":
        return None
    try:
        labels = class_indices(split, classifier.id2label)
    except InputError as error:
        if options.target == "gold":
            raise InputError(f"--target gold: {error}") from None
        cli.say(f"warning: labels are left out: {error}")
        return None
    cli.say_assumptions([split], classifier.id2label)
    return labels


def _target(options: Options, classifier: Classifier) -> str | int:
    if options.target in ("predicted", "gold"):
        return options.target
    try:
        return class_index(options.target, classifier.id2label, "predicted, gold, or ")
    except InputError as error:
        raise InputError(f"--target {error}") from None


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


def print_explanation(row: dict[str, Any]) -> None:
    """Print one row of `examples.jsonl` for a person."""
    texts = [row["text"]] if row["text_pair"] is None else [row["text"], row["text_pair"]]
    print(f"[{row['index']}] " + " | ".join(_shortened(text) for text in texts))
    gold = "" if row["label"] is None else f", label {printable(row['label'])}"
    output = single_output(row)
    if output is None:
        print(
            f"  predicted {printable(row['predicted'])} (p ="
            f" {row['probabilities'][row['predicted']]:.3f}){gold}",
            end="",
        )
        print(f"; explained: {printable(row['target'])}, F = {row['score']:.3f}")
    else:
        print(f"  output = {output:.3f}{gold}")

    if row.get("num_cut_tokens"):
        print(f"  longer than the model reads: {row['num_cut_tokens']} tokens were cut off")
    special = row["special_tokens_mask"]
    tokens = [printable(token) for token in row["tokens"]]
    if row["token_attributions"] is not None:
        shown = [
            f"{token} {value:+.3f}"
            for token, value, out in zip(tokens, row["token_attributions"], special, strict=True)
            if not out
        ]
        print(
            "  tokens (integrated gradients): "
            + "  ".join(shown[:40])
            + ("  …" if len(shown) > 40 else "")
        )

    marked = [f"{token}*" if out else token for token, out in zip(tokens, special, strict=True)]
    rows = [
        [
            (
                f"{marked[pair['from']]} ({pair['from']}) attends to {marked[pair['to']]}"
                f" ({pair['to']})"
            ),
            f"{pair['attribution']:+.3f}",
        ]
        for pair in row["token_pairs"]
    ]
    if rows:
        print("  strongest token pairs (sum over layers and heads; the largest of all pairs is 1):")
        cli.print_table(rows, "    ")
    names = row["layers"] if row["path"] == "layer" else ["all together"]
    deltas = "  ".join(
        f"{name}: {delta:+.1e}"
        for name, delta in zip(names, row["convergence_deltas"], strict=True)
    )
    strongest = "  ".join(
        f"{head['layer']}.{head['head']} {head['importance']:.3f}" for head in row["heads"][:5]
    )
    if strongest:
        print(f"  most important heads (layer.head, largest attribution): {strongest}")
    print(f"  convergence deltas by layer: {deltas}")
    print()


def _print_steps(summary: DatasetSummary, layers: Sequence[int] | None, options: Options) -> None:
    means = summary.mean_n_steps
    numbers = range(len(means)) if layers is None else layers
    print(
        "integration steps by layer (mean): "
        + "  ".join(f"{layer}: {mean:.1f}" for layer, mean in zip(numbers, means, strict=True))
    )
    if summary.not_converged:
        listed = ", ".join(
            f"[{missed['example']}] layer {missed['layer']}"
            for missed in summary.not_converged[:10]
        )
        more = (
            f" and {summary.num_not_converged - 10} more" if summary.num_not_converged > 10 else ""
        )
        print(
            f"not within --tolerance {options.tolerance:g} with --max_steps {options.max_steps}:"
            f" {listed}{more}"
        )


def _shortened(text: str, limit: int = 300) -> str:
    return printable(text if len(text) <= limit else text[:limit] + "…")


def _print_summary(summary: Any, layers: Sequence[int] | None) -> None:
    print(
        f"most important heads over {summary.num_examples} texts (layer.head, mean of the largest"
        " attribution):"
    )
    print(
        "  "
        + "  ".join(
            f"{layer}.{head} {value:.4f}"
            for layer, head, value in reductions.top_heads(summary.importance, 10, layers)
        )
    )
    print("strongest token pairs of the data set (attribution summed over layers and heads):")
    rows = [
        [
            (
                f"[{pair['example']}] {printable(pair['from_token'])} attends to"
                f" {printable(pair['to_token'])}"
            ),
            f"{pair['attribution']:+.4f}",
        ]
        for pair in summary.token_pairs[:10]
    ]
    if rows:
        cli.print_table(rows)
    print()
