"""Explanations computed: of whole data sets batch by batch, and of a few texts at once.

Shapes: B examples, T tokens (padded), L layers (those asked for), N heads.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Container, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..attribution import reductions
from ..attribution.arguments import checked_layers
from ..attribution.attention import AttentionAttributions, attribute_attention
from ..attribution.integrated_gradients import attribute_tokens
from ..attribution.memory import default_batch_size
from ..attribution.options import AttributionOptions
from ..data.batches import BUCKETS, SHORT_BUCKETS, Encoded, encode, inference_batches
from ..data.labels import NO_GOLD, class_index, class_indices, parse_labels
from ..data.splits import Split
from ..errors import InputError, as_index
from ..models.classifier import Classifier, checked_texts
from ..models.inference import model_inputs
from ..runtime import sharding
from ..runtime.compilation_cache import keep_programs
from ..runtime.progress import progress
from ..runtime.text import did_you_mean
from .explanation import SAVED_ARRAYS, Explanation, Explanations
from .findings import findings_of


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
    params = sharding.place_params(classifier.params, mesh, shard_params)
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
        arrays = jax.device_get(_attribute(params, inputs, config, target, options, save))
        for position in np.flatnonzero(batch.weights):
            index = int(batch.indices[position])
            # Examples that are done are computed with the rest of their batch, so that the others
            # come out to the bit as they would have.
            if index in done:
                continue
            score = arrays["score"][position]
            if not np.isfinite(score):
                raise InputError(
                    f"the model's output for {split.row(index)} is {score}: its weights are not"
                    " usable"
                )
            of_example = {name: values[position] for name, values in arrays.items()}
            own = unpadded(of_example, slice(encoded.lengths[index]))
            shown = num_pairs, skip_special_tokens
            row = _row(classifier, split, encoded, index, own, layers, *shown)
            row["path"] = options.path
            kept = {"head_importance", *SAVED_ARRAYS[save]} & own.keys()
            yield Explanation(row, {name: np.ascontiguousarray(own[name]) for name in kept})


def _check_gold_labels(classifier: Classifier, split: Split, encoded: Encoded) -> None:
    """Raise an InputError unless every example has a gold class."""
    if classifier.config.num_labels == 1:
        raise InputError(
            f"{classifier.name} has one output (regression): there is no gold class to explain"
        )
    if encoded.labels is None:
        raise InputError(f"{split.source} has no labels: target 'gold' cannot be explained")
    if NO_GOLD in encoded.labels:
        row = split.row(int(np.flatnonzero(encoded.labels == NO_GOLD)[0]))
        raise InputError(f"{row} has no gold label: target 'gold' cannot be explained")


def _attribute(
    params, inputs, config, target, options: AttributionOptions, save: str
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
        "n_steps": result.n_steps,
        "converged": result.converged,
    }
    if options.token_level:
        tokens = attribute_tokens(params, inputs, config, result.target, **options.token_keywords())
        arrays |= {
            "token_attributions": tokens.attributions,
            "token_delta": tokens.convergence_delta,
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
        "probabilities": jax.nn.softmax(result.logits, axis=-1),
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
    label = None if encoded.labels is None else int(encoded.labels[index])
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
        "label": None if label is None or label == NO_GOLD else classifier.id2label[label],
        **findings_of(
            arrays, classifier.id2label, layers, num_pairs, special if skip_special_tokens else None
        ),
        "num_hidden_layers": classifier.config.num_hidden_layers,
    }


def explain_texts(
    classifier: Classifier,
    texts: Sequence[str],
    text_pairs: Sequence[str] | None = None,
    labels: Sequence[int] | Sequence[str] | None = None,
    options: AttributionOptions | None = None,
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
      options: how to attribute; `changes` are fields of it: `target` ("predicted", "gold", a class
        name or index), `n_steps`, `method`, `objective`, `layers`, `path`, …, as for
        `attribute_attention`.

    Returns:
      A sequence of B explanations, with all their arrays.

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
    # Else labels are numbers, which are not compared with anything
    has_classes = classifier.config.num_labels > 1
    indices = (
        class_indices(split, classifier.id2label)
        if has_classes and split.raw_labels is not None
        else None
    )
    if not isinstance(options.target, str):
        if as_index(options.target) is None:
            raise InputError(
                "target must be 'predicted', 'gold', a class name or an index, not"
                f" {options.target!r:.80}"
            )
        options = dataclasses.replace(options, target=as_index(options.target))
    if options.target not in ("predicted", "gold"):
        options = dataclasses.replace(
            options, target=class_index(options.target, classifier.id2label)
        )
    encoded = encode(classifier, split, classifier.config.max_length, indices)
    if encoded.truncation:
        warnings.warn(encoded.truncation, stacklevel=2)
    by_index = {}
    with progress(len(split), "texts", "attributing", in_script=False) as bar:
        for example in explain(classifier, split, encoded, sharding.data_mesh(), options):
            by_index[example.row["index"]] = example
            bar.update()
    return Explanations([by_index[index] for index in range(len(split))])
