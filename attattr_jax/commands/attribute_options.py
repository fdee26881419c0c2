"""Explain a text classifier's predictions by self-attention attribution.

    python attribute.py --checkpoint runs/reviews --text "Stunning visuals, no story." \\
        --text "Not a dull moment."
    python attribute.py --checkpoint runs/sst2 --dataset sst2 --max_examples 200 --save summary

Prints per text in a sentence what decided, then each token's attribution, the strongest token pairs
("a reads from b": a attends to b) and the most important heads. Writes into --output_dir
report.html, a page to look at all this in a browser; examples.jsonl and shard-*.safetensors (read
both with attattr_jax.load_attributions); head_importance.json; token_pairs.json for a data set;
figures and exports where they are asked for; and run.json. A run that was stopped goes on with
--resume.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from ..attribution.options import OBJECTIVES, PATHS, AttributionOptions
from ..attribution.quadrature.rules import MAX_ADAPTIVE_STEPS, METHODS, check_adaptive
from ..attribution.summaries.tree import THRESHOLD, TreeOptions
from ..errors import require
from ..views.options import (
    EXPORT_FORMATS,
    FIGURE_FORMATS,
    MAX_EXAMPLES,
    MAX_MEGABYTES,
    TABLE_FORMATS,
    ReportOptions,
)
from . import options as common
from .options import DATA, EXPLAIN, FIRST, RUN, SAVE, SHOW, option


@dataclasses.dataclass(frozen=True)
class Options(common.CommonOptions):
    """Options of `attribute.py`."""

    checkpoint: str = option(
        "runs/sst2",
        "an output of train.py, any Hugging Face classifier folder, or a Hub id",
        FIRST,
    )
    text: list[str] = option([], "a text to explain; repeatable", FIRST)
    text_pair: list[str] = option(
        [], "its second segment, for sentence pairs; one for each --text", DATA
    )
    text_file: str | None = option(None, "a file with a text on each line", FIRST)
    dataset: str | None = option(None, "a data set to explain, named as for train.py", FIRST)
    split: str = option("validation", "the split of --dataset", DATA)
    max_examples: int | None = option(None, "explain at most this many examples", FIRST)
    target: str = option(
        "predicted",
        "the class to explain: predicted, gold, all, a class index or a class name",
        FIRST,
    )
    objective: Literal[*OBJECTIVES] | None = option(
        None,
        "the output to explain; contrast: the logit of the class less that of --contrast (default:"
        " prob; of a model with one output, logit)",
        EXPLAIN,
    )
    contrast: str = option(
        "runner_up",
        "with --objective contrast, the class to compare with: runner_up (the most probable other"
        " one), a class index or a class name",
        EXPLAIN,
    )
    n_steps: str = option(
        "20",
        "integration steps, or a number for each layer (8,8,24); auto: for each layer of each text"
        " as many as --tolerance needs",
        FIRST,
    )
    method: Literal[*METHODS] = option(
        "gausslegendre",
        "integration rule; riemann_left is the published code's, riemann_right the paper's; fast:"
        " five nodes by product integration, more in the last layer, without --n_steps",
        EXPLAIN,
    )
    tolerance: float = option(
        1e-3,
        "with auto: bound on the estimated error of a layer, relative to its sum",
        EXPLAIN,
    )
    max_steps: int = option(
        MAX_ADAPTIVE_STEPS,
        "with auto: give up at so many steps; the levels are 5, 9, 23, 39 and 71",
        EXPLAIN,
    )
    path: Literal[*PATHS] = option(
        "layer",
        "scale the attention of one layer at a time (the paper), or of all layers at once",
        EXPLAIN,
    )
    token_n_steps: str | None = option(
        None,
        "integration steps of the token-level gradients, or auto (default: auto; with another"
        " --method or --dtype, as --n_steps)",
        EXPLAIN,
    )
    token_tolerance: float | None = option(
        None, "as --tolerance, for the token-level gradients with auto (default: 0.01)", EXPLAIN
    )
    token_baseline: str = option(
        "pad", "the token that token-level gradients start from: pad, mask, or an id", EXPLAIN
    )
    stride: int | None = option(
        None,
        "explain longer texts in windows of the model's length that share so many tokens (default:"
        " cut them)",
        EXPLAIN,
    )
    layers: str | None = option(None, "layers to attribute, as 0,4,5 (default: all)", EXPLAIN)
    save: Literal["none", "summary", "full"] = option(
        "full", "arrays to save: none; summary, without the L x N x T x T ones; or full", SAVE
    )
    dtype: Literal["float32", "bfloat16"] = option(
        "float32",
        "what to compute in; bfloat16 is for accelerators: faster, errors of percents",
        RUN,
    )
    num_pairs: int = option(10, "token pairs and heads to list per text", SHOW)
    skip_special_tokens: bool = option(
        True,
        "leave pairs with special tokens, as [CLS] and [SEP], out of the lists where there are"
        " others; false: list them too",
        SHOW,
    )
    report_examples: int = option(
        MAX_EXAMPLES, "texts in report.html; 0: no report", SHOW, is_view=True
    )
    report_megabytes: float = option(
        MAX_MEGABYTES,
        "room for the matrices in report.html; what does not fit is left out, and said",
        SHOW,
        is_view=True,
    )
    figures: str | None = option(
        None, "figures to save, as png,svg,pdf (default: none)", SAVE, is_view=True
    )
    figure_examples: int = option(5, "texts to save figures of", SAVE, is_view=True)
    export: str | None = option(
        None,
        f"other files to save, of {','.join(EXPORT_FORMATS)}: tables of the largest attributions,"
        " arrays by text, trees (default: none)",
        SAVE,
        is_view=True,
    )
    export_top_k: int = option(
        100, "rows for each text in the tables of --export", SAVE, is_view=True
    )
    tree_threshold: float = option(
        THRESHOLD,
        "trees: an edge needs more than this share of its layer's largest attribution (the paper's"
        " tau)",
        SHOW,
        is_view=True,
    )
    tree_penalty: float = option(
        0.0,
        "trees: an edge needs more attribution than this (the paper's lambda)",
        SHOW,
        is_view=True,
    )
    skip_token_attributions: bool = option(
        False, "leave the token-level integrated gradients out: a part of the time", EXPLAIN
    )
    num_printed: int = option(5, "texts to print; all are written", SHOW, is_view=True)
    batch_size: int | None = option(None, "texts at once (default: by their length)", RUN)
    step_batch_size: int | None = option(
        None,
        "integration steps at once; bounds memory (default: what fits into 128 MiB, or a quarter of"
        " an accelerator)",
        RUN,
    )
    output_dir: str | None = option(
        None, "where to write (default: <checkpoint>/attribution)", FIRST
    )

    @property
    def figure_formats(self) -> list[str]:
        """The formats of --figures."""
        return common.parse_choices(self.figures, "--figures", FIGURE_FORMATS)

    @property
    def export_formats(self) -> list[str]:
        """The formats of --export."""
        return common.parse_choices(self.export, "--export", EXPORT_FORMATS)

    @property
    def tokens_adapt(self) -> bool:
        """Whether the token-level gradients take as many steps as they need."""
        return (
            not self.skip_token_attributions
            and self.dtype == "float32"
            and self.attribution().token_steps == "auto"
        )

    @property
    def trees(self) -> TreeOptions:
        """How trees are built."""
        return TreeOptions(self.tree_threshold, self.tree_penalty)

    @property
    def report(self) -> ReportOptions | None:
        """What the report shows; None without one."""
        if not self.report_examples:
            return None
        bounds = self.report_examples, self.report_megabytes
        return ReportOptions(*bounds, **self.trees.keywords())

    def attribution(
        self,
        target: str | int = "predicted",
        layers: tuple[int, ...] | None = None,
        contrast: str | int = "runner_up",
    ) -> AttributionOptions:
        """Return how to attribute.

        Args:
          target: "predicted", "gold", "all", or the class that --target names.
          layers: those that --layers names.
          contrast: "runner_up", or the class that --contrast names.
        """
        own = {field.name for field in dataclasses.fields(AttributionOptions)}
        same = [field.name for field in dataclasses.fields(self) if field.name in own]
        keywords = {name: getattr(self, name) for name in same}
        keywords |= {"target": target, "layers": layers, "contrast": contrast}
        if self.token_tolerance is None:
            del keywords["token_tolerance"]
        if self.token_baseline.isdecimal():
            keywords["token_baseline"] = int(self.token_baseline)
        return AttributionOptions(**keywords, token_level=not self.skip_token_attributions)


def checked(options: Options) -> Options:
    """Return options whose numbers of steps are parsed, having checked all that needs no model.

    Raises:
      InputError: a value is out of range, or options do not go together; names them.
    """
    n_steps = common.checked_n_steps(options.n_steps, options.method)
    token_n_steps = options.token_n_steps
    if token_n_steps is not None:
        name = "--token_n_steps"
        token_n_steps = common.checked_n_steps(token_n_steps, options.method, name)
        require(not isinstance(token_n_steps, tuple), f"{name} must be one number, or auto")
    options = dataclasses.replace(options, n_steps=n_steps, token_n_steps=token_n_steps)
    _check_integration(options)
    common.named("--tree_threshold, --tree_penalty", lambda: options.trees)
    common.named("--report_megabytes", lambda: ReportOptions(1, options.report_megabytes))
    positive = "max_examples", "batch_size", "step_batch_size", "export_top_k", "figure_examples"
    common.check_at_least(options, 1, positive)
    for name in ("num_pairs", "num_printed", "report_examples"):
        value = getattr(options, name)
        require(value >= 0, f"--{name} must not be negative, but is {value}")
    _check_texts(options)
    _check_effects(options)
    options.figure_formats, options.export_formats  # noqa: B018  (parsed: unknown ones are refused)
    for name in ("figures", "export"):
        require(
            getattr(options, name) is None or options.save == "full",
            f"--{name} needs the arrays of every text: give --save full",
        )
    if options.tokens_adapt:  # run.json says what was done, and --resume compares that
        tolerance = options.attribution().token_tolerance
        options = dataclasses.replace(options, token_n_steps="auto", token_tolerance=tolerance)
    return options


def _check_integration(options: Options) -> None:
    for name in ("tolerance", "token_tolerance"):
        tolerance = getattr(options, name)
        if tolerance is not None:
            common.named(
                f"--{name}, --max_steps",
                lambda value=tolerance: check_adaptive(value, options.max_steps),
            )
    for name in ("n_steps", "token_n_steps"):
        require(
            getattr(options, name) != "auto" or options.dtype == "float32",
            f"--{name} auto needs --dtype float32: give a number of steps",
        )
    require(
        options.n_steps != "auto" or options.path == "layer",
        "--n_steps auto goes with --path layer: give a number of steps",
    )
    common.named("--method", options.attribution)


def _check_texts(options: Options) -> None:
    sources = [name for name in ("text", "text_file", "dataset") if getattr(options, name)]
    require(bool(sources), "nothing to explain: give --text, --text_file or --dataset")
    require(len(sources) == 1, f"--{' and --'.join(sources)}: give only one of them")
    require(
        not options.text_pair or len(options.text_pair) == len(options.text),
        f"{len(options.text_pair)} --text_pair for {len(options.text)} --text: give one for each",
    )


def _check_effects(options: Options) -> None:
    """Refuse options without effect, and empty texts."""
    tokens_adapt = options.tokens_adapt
    draws_trees = bool(options.report_examples or options.figures or options.export)
    makes_tables = any(name in (options.export or "") for name in TABLE_FORMATS)
    has_dataset, has_tokens = options.dataset is not None, not options.skip_token_attributions
    without_auto = "without --n_steps auto"
    without_trees = "without a report, --figures or --export"
    of_dataset = ("split", *common.names_with(options, "is_column"))
    common.check_applies(
        options,
        [
            *((name, has_dataset, "without --dataset") for name in of_dataset),
            ("tolerance", options.n_steps == "auto", f"{without_auto} (see --token_tolerance)"),
            ("token_tolerance", tokens_adapt, "without --token_n_steps auto"),
            (
                "max_steps",
                tokens_adapt or options.n_steps == "auto",
                f"{without_auto} or --token_n_steps auto",
            ),
            ("contrast", options.objective == "contrast", "without --objective contrast"),
            ("token_n_steps", has_tokens, "with --skip_token_attributions"),
            ("token_baseline", has_tokens, "with --skip_token_attributions"),
            ("report_megabytes", options.report_examples > 0, "with --report_examples 0"),
            ("figure_examples", options.figures is not None, "without --figures"),
            ("export_top_k", makes_tables, f"without --export {' or '.join(TABLE_FORMATS)}"),
            *((name, draws_trees, without_trees) for name in ("tree_threshold", "tree_penalty")),
        ],
    )
    for name in ("text", "text_pair"):
        for number, text in enumerate(getattr(options, name), 1):
            require(bool(text.strip()), f"--{name} number {number} is empty")
