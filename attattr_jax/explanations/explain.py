"""Explanations computed: of whole data sets batch by batch, and of a few texts at once.

Shapes: B examples, T tokens (padded), L layers (those asked for), N heads.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..attribution.arguments import checked_layers
from ..attribution.attention import AttentionAttributions, attribute_attention
from ..attribution.integrated_gradients import attribute_tokens
from ..attribution.memory import default_batch_size
from ..attribution.options import TARGETS, AttributionOptions
from ..attribution.summaries import reductions
from ..data.batches import (
    BUCKETS,
    SHORT_BUCKETS,
    Encoded,
    encode,
    encode_windows,
    inference_batches,
)
from ..data.gold import REGRESSION, gold_labels, shown_labels
from ..data.labels import NO_GOLD, class_index, parse_labels
from ..data.splits import Split
from ..errors import InputError, as_index
from ..models.classifier import Classifier, checked_texts
from ..models.inference import model_inputs
from ..runtime import sharding
from ..runtime.compilation_cache import keep_programs
from ..runtime.progress import progress
from ..runtime.text import did_you_mean
from ..training.evaluation import predict
from .explanation import SAVED_ARRAYS, Explanation, Explanations
from .findings import findings_of, probabilities_of


def explain(
    classifier: Classifier,
    split: Split,
    encoded: Encoded,
    mesh: jax.sharding.Mesh,
    options: AttributionOptions,
    save: str = "full",
    batch_size: int | None = None,
    num_pairs: int = 10,
    skip_special_tokens: bool = True,
    done: Container[int] = (),
    shard_params: bool = False,
) -> Iterator[Explanation]:
    """Yield the explanation of every example, bucket by bucket.

    The order is that of the lengths; `row["index"]` tells which example it is. Of several
    processes, each yields its share.

    Args:
      classifier: the model.
      split: the texts.
      encoded: the same, tokenized, with labels where target is "gold".
      mesh: the devices of this process.
      options: how to attribute.
      save: "none", "summary" or "full": which arrays to bring to the host (`head_importance` always
        is).
      batch_size: examples at once, by default from the length.
      num_pairs: how many token pairs and heads a row lists.
      skip_special_tokens: leave pairs with a special token out of that list, if there are others.
      done: examples that are not wanted any more.
      shard_params: divide the parameters over the devices.
    """
    config = classifier.config
    options = options.for_outputs(config.num_labels)
    if options.target == "all":
        yield from _explain_all_classes(
            *(classifier, split, encoded, mesh, options, save, batch_size, num_pairs),
            *(skip_special_tokens, done, shard_params),
        )
        return
    params = sharding.place_params(classifier.params, mesh, shard_params)
    baseline, baseline_name = _token_baseline(classifier, options)
    whole_texts = _whole_texts(classifier, params, encoded, mesh)
    layers = checked_layers(options.layers, config)
    if options.token_n_steps is None and config.dtype in ("bfloat16", "float16"):
        # Its rounding hides what "auto" looks at.
        options = dataclasses.replace(options, token_n_steps=options.n_steps)
    if options.target == "gold":
        _check_gold_labels(classifier, split, encoded)
    size = batch_size or functools.partial(default_batch_size, config)
    buckets = SHORT_BUCKETS + BUCKETS
    for batch in inference_batches(encoded, config, size, mesh, done, buckets):
        inputs, labels = sharding.shard_rows((batch.inputs, batch.labels), mesh)
        target = labels if options.target == "gold" else options.target
        arrays = jax.device_get(_attribute(params, inputs, config, target, options, save, baseline))
        for position in np.flatnonzero(batch.weights):
            index = int(batch.indices[position])
            # Examples that are done are computed with the rest of their batch, so that the others
            # come out to the bit as they would have.
            if index in done:
                continue
            of_example = {name: values[position] for name, values in arrays.items()}
            _check_outputs(of_example, split.row(index), classifier)
            own = unpadded(of_example, slice(encoded.lengths[index]))
            shown = num_pairs, skip_special_tokens
            row = _row(classifier, split, encoded, index, own, layers, *shown)
            row["path"] = options.path
            row["objective"] = options.objective
            row["token_baseline"] = baseline_name if options.token_level else None
            row["window"] = whole_texts(index)
            kept = {"head_importance", *SAVED_ARRAYS[save]} & own.keys()
            yield Explanation(row, {name: np.ascontiguousarray(own[name]) for name in kept})


def _check_outputs(arrays: dict[str, np.ndarray], row: str, classifier: Classifier) -> None:
    """Raise an InputError that names the row of an example whose output says nothing."""
    score = arrays["score"]
    if not np.isfinite(score):
        raise InputError(f"the model's output for {row} is {score}: its weights are not usable")
    if "contrast" in arrays and arrays["target"] == arrays["contrast"]:
        name = classifier.id2label[int(arrays["target"])]
        raise InputError(
            f"{row}: contrast names {name!r}, the class that is explained: name another one, or a"
            " target"
        )


def _token_baseline(classifier: Classifier, options: AttributionOptions) -> tuple[int, str]:
    """Return id and text of the token that token-level gradients start from.

    Raises:
      InputError: the tokenizer has no such token.
    """
    tokenizer, wanted = classifier.require_tokenizer(), options.token_baseline
    if isinstance(wanted, str):
        index = classifier.config.pad_token_id if wanted == "pad" else tokenizer.mask_token_id
        if index is None:
            raise InputError(f"token_baseline 'mask': {classifier.name} has no mask token")
    else:
        index = int(wanted)
        if index >= classifier.config.vocab_size:
            last = classifier.config.vocab_size - 1
            raise InputError(f"token_baseline must be a token's id from 0 to {last}, not {index}")
    return index, str(tokenizer.convert_ids_to_tokens(index))


def _whole_texts(
    classifier: Classifier, params, encoded: Encoded, mesh
) -> Callable[[int], dict[str, Any] | None]:
    """Return the function from a window to what a row says of it; None of a text in one piece.

    A whole text has the mean of its windows' probabilities, or of their outputs.
    """
    if not encoded.windows:
        return lambda index: None
    config, texts = classifier.config, [window.text for window in encoded.windows]
    logits = predict(params, config, encoded, mesh)
    each = [probabilities_of(row, config.is_multi_label) for row in logits]
    values = np.asarray(each) if config.num_labels > 1 else logits
    sums = np.zeros((max(texts) + 1, config.num_labels))
    np.add.at(sums, texts, values)

    def of_window(index: int) -> dict[str, Any] | None:
        window = encoded.windows[index]
        if window.count == 1:
            return None
        means = (sums[window.text] / window.count).tolist()
        return dataclasses.asdict(window) | {
            "predicted": classifier.id2label[int(np.argmax(means))],
            "means": {classifier.id2label[at]: value for at, value in enumerate(means)},
        }

    return of_window


def _explain_all_classes(
    classifier: Classifier,
    split: Split,
    encoded: Encoded,
    mesh,
    options: AttributionOptions,
    save,
    batch_size,
    num_pairs,
    skip_special_tokens,
    done: Container[int],
    shard_params,
) -> Iterator[Explanation]:
    """Yield an explanation of every example for each class; the classes of an example are in a row.

    Arguments are those of `explain`. Explanation number i·C + c is of example i for class c.
    """
    count = classifier.config.num_labels
    for target in range(count):
        done_here = {i for i in range(len(split)) if i * count + target in done}
        of_class = dataclasses.replace(options, target=target)
        for example in explain(
            *(classifier, split, encoded, mesh, of_class, save, batch_size, num_pairs),
            *(skip_special_tokens, done_here, shard_params),
        ):
            row = {**example.row, "index": example.row["index"] * count + target}
            yield Explanation(row, {name: example.array(name) for name in example.array_names})


def _check_gold_labels(classifier: Classifier, split: Split, encoded: Encoded) -> None:
    """Raise an InputError unless every example has a gold class."""
    if classifier.config.num_labels == 1:
        raise InputError(
            f"{classifier.name} has one output (regression): there is no gold class to explain"
        )
    if classifier.config.is_multi_label:
        raise InputError(
            f"{classifier.name} has lists of labels: target 'gold' is not one of them; name one, or"
            " 'all'"
        )
    if encoded.labels is None:
        raise InputError(f"{split.source} has no labels: target 'gold' cannot be explained")
    if NO_GOLD in encoded.labels:
        row = split.row(int(np.flatnonzero(encoded.labels == NO_GOLD)[0]))
        raise InputError(f"{row} has no gold label: target 'gold' cannot be explained")


def _attribute(
    params, inputs, config, target, options: AttributionOptions, save: str, baseline: int
) -> dict[str, jax.Array]:
    """Return what the rows and files of a batch need, on the device, by name."""
    result = attribute_attention(
        params, model_inputs(inputs), config, target, **options.attention_keywords()
    )
    arrays = {
        **summarized(result, inputs["attention_mask"]),
        "target": result.target,
        "score": result.score,
        "baseline_score": result.baseline_score,
        "convergence_delta": result.convergence_delta,
        "error_estimate": result.error_estimate,
        "n_steps": result.n_steps,
        "converged": result.converged,
        "contrast": result.contrast,
    }
    if options.token_level:
        keywords = options.token_keywords() | {"baseline_token_id": baseline}
        if result.contrast is not None:
            keywords["contrast"] = result.contrast
        tokens = attribute_tokens(params, inputs, config, result.target, **keywords)
        arrays |= {
            "token_attributions": tokens.attributions,
            "token_delta": tokens.convergence_delta,
            "token_error": tokens.error_estimate,
            "token_n_steps": tokens.n_steps,
            "token_converged": tokens.converged,
        }
    if "attributions" in SAVED_ARRAYS[save]:
        arrays |= {"attributions": result.attributions, "attention_probs": result.attention_probs}
    # Whether it converged is None for a given number of steps.
    return {name: values for name, values in arrays.items() if values is not None}


@jax.jit
def summarized(result: AttentionAttributions, attention_mask) -> dict[str, jax.Array]:
    """Return what a row needs, so that [B, L, N, T, T] can stay on the device."""
    return {
        "logits": result.logits,
        "head_importance": reductions.max_over_real(result.attributions, attention_mask != 0),
        "token_pairs": jnp.sum(result.attributions, axis=(1, 2)),
        "magnitude": jnp.sum(jnp.abs(result.attributions), axis=(2, 3, 4)),
    }


def unpadded(arrays: dict[str, np.ndarray], selection: slice | np.ndarray) -> dict[str, np.ndarray]:
    """Return the arrays with the real tokens alone, on every axis that counts tokens.

    `selection` is a slice, which copies nothing, or their positions.
    """
    axes = {"token_attributions": 1, "token_pairs": 2, "attributions": 2, "attention_probs": 2}

    def index(count: int) -> tuple:
        return (
            (selection,) * count if isinstance(selection, slice) else np.ix_(*[selection] * count)
        )

    return {name: values[(..., *index(axes.get(name, 0)))] for name, values in arrays.items()}


def _row(
    classifier, split, encoded, index, arrays, layers, num_pairs, skip_special_tokens
) -> dict[str, Any]:
    """Return the row of `examples.jsonl`: all that a person wants to read of one example."""
    special = encoded.special_tokens_mask[index]
    names, kind = classifier.id2label, classifier.config.outputs
    label, labels = shown_labels(encoded.labels, index, names, kind)
    return {
        "index": index,
        "text": split.texts[index],
        "text_pair": None if split.text_pairs is None else split.text_pairs[index],
        "tokens": classifier.tokenizer.convert_ids_to_tokens(encoded.input_ids[index]),
        "offsets": [list(span) for span in encoded.offsets[index]],
        "word_ids": encoded.word_ids[index],
        "token_type_ids": encoded.segments_of(index),
        "special_tokens_mask": special,
        "num_cut_tokens": encoded.cut_tokens[index] if encoded.cut_tokens else 0,
        "label": label,
        "labels": labels,
        **findings_of(
            arrays,
            classifier.id2label,
            layers,
            num_pairs,
            special if skip_special_tokens else None,
            classifier.config.is_multi_label,
        ),
        "num_hidden_layers": classifier.config.num_hidden_layers,
    }


def explain_texts(
    classifier: Classifier,
    texts: Sequence[str],
    text_pairs: Sequence[str] | None = None,
    labels: Sequence[int] | Sequence[str] | None = None,
    options: AttributionOptions | None = None,
    stride: int | None = None,
    **changes: Any,
) -> Explanations:
    """Explain a few texts at once, in memory: what `attribute.py` does.

    In a notebook the result shows itself as a report. A progress bar is shown in a terminal and in
    a notebook if it takes over a second.

    Args:
      classifier: the model, with its tokenizer.
      texts, text_pairs: B texts, and B second segments for tasks on sentence pairs; what the model
        has no position for is cut off, with a warning.
      labels: B class names or indices, None where there is no gold label (docs/data.md says what
        they mean). Those of a regression model are left out.
      stride: explain a text that is longer than the model reads in windows, each by itself, that
        share so many tokens; None: its beginning alone.
      options: how to attribute; `changes` are fields of it: `target` ("predicted", "gold", "all", a
        class name or index), `contrast` (likewise), `n_steps`, `method`, `objective`, `layers`,
        `path`, …, as for `attribute_attention`.

    Returns:
      A sequence of B explanations, with all their arrays; with target "all" of B·C, those of a text
      in a row.

    Raises:
      InputError: no texts, an empty text, texts, pairs and labels of different number, or what
        `attribute_attention` raises.
    """
    texts, pairs = checked_texts(texts, text_pairs)
    if labels is not None:
        labels = np.asarray(labels).tolist() if hasattr(labels, "dtype") else labels
        if not isinstance(labels, (list, tuple)) or len(labels) != len(texts):
            raise InputError(
                f"labels must be a list with an entry for each of the {len(texts)} texts"
            )
    known = [field.name for field in dataclasses.fields(AttributionOptions)]
    unknown = sorted(changes.keys() - set(known))
    if unknown:
        raise InputError(
            f"{', '.join(unknown)} is no option{did_you_mean(unknown[0], known)}; there are"
            f" {', '.join(known)}"
        )
    keep_programs()
    options = dataclasses.replace(options or AttributionOptions(), **changes)
    split = Split("texts", "texts", texts, pairs, None if labels is None else parse_labels(labels))
    kind, indices = classifier.config.outputs, None
    if split.raw_labels is not None and kind != REGRESSION:  # numbers are compared with nothing
        indices = gold_labels(split, classifier.id2label, kind)
    options = dataclasses.replace(
        options,
        target=_named_class("target", options.target, TARGETS, classifier),
        contrast=_named_class("contrast", options.contrast, ("runner_up",), classifier),
    )
    longest = classifier.config.max_length
    if stride is None:
        encoded = encode(classifier, split, longest, indices)
    else:
        split, encoded = encode_windows(classifier, split, longest, stride, indices)
    if encoded.truncation:
        warnings.warn(encoded.truncation, stacklevel=2)
    by_index = {}
    total = len(split) * (classifier.config.num_labels if options.target == "all" else 1)
    with progress(total, "texts", "attributing", in_script=False) as bar:
        for example in explain(classifier, split, encoded, sharding.data_mesh(), options):
            by_index[example.row["index"]] = example
            bar.update()
    return Explanations([by_index[index] for index in sorted(by_index)])


def _named_class(
    name: str, value: Any, alternatives: Sequence[str], classifier: Classifier
) -> str | int:
    """Return the index of a class, or one of the words that stand for others."""
    if isinstance(value, str):
        is_word = value in alternatives
        return value if is_word else class_index(value, classifier.id2label)
    if as_index(value) is None:
        words = ", ".join(map(repr, alternatives))
        raise InputError(f"{name} must be {words}, a class name or an index, not {value!r:.80}")
    return class_index(value, classifier.id2label)
