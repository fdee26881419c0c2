"""Explanations, computed: of whole data sets batch by batch, of a few texts at once, and what is
kept over all of them.

`results` has what comes out, as objects and as files.

Shapes: T tokens of one example (no padding), L layers (those asked for), N heads.
"""

from __future__ import annotations

import dataclasses
import functools
import heapq
import warnings
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from . import engine, sharding
from .attribution import (
    AttentionAttributions,
    attribute_attention,
    attribute_tokens,
    checked_layers,
)
from .bert import model_inputs
from .compilation_cache import keep_programs
from .data import Encoded, Split, encode, inference_batches
from .errors import InputError, as_index
from .heads import top_heads
from .integration import DEFAULT_METHOD, check_adaptive_method, quadrature
from .labels import NO_GOLD, class_index, class_indices, parse_labels
from .pretrained import Classifier, checked_texts
from .results import SAVED_ARRAYS, Explanation, Explanations
from .tokens import strongest_pairs


@dataclasses.dataclass(frozen=True)
class AttributionOptions:
    """How to attribute, as the arguments of `attribute_attention`."""

    target: str | int = "predicted"  # "predicted", "gold" or a class index
    n_steps: int | str = 20
    method: str = "gausslegendre"
    objective: str = "prob"
    layers: tuple[int, ...] | None = None
    step_batch_size: int | None = None
    path: str = "layer"
    tolerance: float = 1e-3
    max_steps: int = 63
    token_n_steps: int | str | None = None  # of the token-level integrated gradients; None: n_steps
    token_level: bool = True  # whether to compute these

    @property
    def token_steps(self) -> int | str:
        """The number of steps of the token-level gradients."""
        return self.n_steps if self.token_n_steps is None else self.token_n_steps

    def check_method(self) -> None:
        """Raise an InputError if `method` is another than the default, and nothing is integrated by
        it.
        """
        if {self.n_steps, self.token_steps if self.token_level else "auto"} == {"auto"}:
            check_adaptive_method(self.method)

    def rule(self, n_steps: int | str) -> dict[str, Any]:
        """Return the arguments that name the rule of so many steps: `method` is not that of
        "auto".
        """
        return {"n_steps": n_steps, "method": DEFAULT_METHOD if n_steps == "auto" else self.method}


def explain(
    classifier: Classifier,
    split: Split,
    encoded: Encoded,
    mesh: jax.sharding.Mesh,
    options: AttributionOptions,
    save: str = "full",
    batch_size: int | None = None,
    num_pairs: int = 10,
    skip_special_tokens: bool = False,
    done: Container[int] = (),
    shard_params: bool = False,
) -> Iterator[Explanation]:
    """Yield the explanation of every example, bucket by bucket: the order is that of the lengths,
    `row["index"]` tells which.

    Of several processes, each yields its share.

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
      skip_special_tokens: leave pairs with a special token out of that list.
      done: examples that are not wanted any more.
      shard_params: divide the parameters over the devices.
    """
    config = classifier.config
    params = sharding.place_params(classifier.params, mesh, shard_params)
    layers = checked_layers(options.layers, config)
    wanted = SAVED_ARRAYS[save]
    options.check_method()
    if options.target == "gold":
        if config.num_labels == 1:
            raise InputError(
                f"{classifier.name} has one output (regression): there is no gold class to explain"
            )
        if encoded.labels is None:
            raise InputError(f"{split.source} has no labels: target 'gold' cannot be explained")
        if NO_GOLD in encoded.labels:
            row = split.row(int(np.flatnonzero(encoded.labels == NO_GOLD)[0]))
            raise InputError(f"{row} has no gold label: target 'gold' cannot be explained")

    for batch in inference_batches(
        encoded,
        config,
        batch_size or functools.partial(engine.default_batch_size, config),
        mesh,
        done,
    ):
        inputs, labels = sharding.shard_rows((batch.inputs, batch.labels), mesh)
        target = labels if options.target == "gold" else options.target
        how = {
            name: getattr(options, name)
            for name in ("objective", "step_batch_size", "tolerance", "max_steps")
        }
        rule = options.rule(options.n_steps)
        result = attribute_attention(
            params,
            model_inputs(inputs),
            config,
            target,
            layers=layers,
            path=options.path,
            **rule,
            **how,
        )
        device_arrays = {
            **_summarize(result, inputs["attention_mask"]),
            "target": result.target,
            "score": result.score,
            "baseline_score": result.baseline_score,
            "convergence_delta": result.convergence_delta,
            "n_steps": result.n_steps,
            "converged": result.converged,
        }
        if options.token_level:
            tokens = attribute_tokens(
                params, inputs, config, result.target, **options.rule(options.token_steps), **how
            )
            device_arrays |= {
                "token_attributions": tokens.attributions,
                "token_delta": tokens.convergence_delta,
                "token_n_steps": tokens.n_steps,
                "token_converged": tokens.converged,
            }
        # Whether it converged is None for a given number of steps.
        device_arrays = {
            name: values for name, values in device_arrays.items() if values is not None
        }
        if "attributions" in wanted:
            device_arrays |= {
                "attributions": result.attributions,
                "attention_probs": result.attention_probs,
            }
        host = jax.device_get(device_arrays)
        for position in np.flatnonzero(batch.weights):
            index = int(batch.indices[position])
            # Computed with the rest of its batch, so that the others come out to the bit as they
            # would have
            if index in done:
                continue
            if not np.isfinite(host["score"][position]):
                raise InputError(
                    f"the model's output for {split.row(index)} is {host['score'][position]}: its"
                    " weights are not usable"
                )
            arrays = _unpad(
                {name: values[position] for name, values in host.items()},
                slice(encoded.lengths[index]),
            )
            row = _row(
                classifier, split, encoded, index, arrays, layers, num_pairs, skip_special_tokens
            ) | {"path": options.path}
            kept = {name for name in {"head_importance", *wanted} if name in arrays}
            yield Explanation(row, {name: np.ascontiguousarray(arrays[name]) for name in kept})


@jax.jit
def _summarize(result: AttentionAttributions, attention_mask) -> dict[str, jax.Array]:
    """Return what a row needs, so that [B, L, N, T, T] can stay on the device."""
    return {
        "logits": result.logits,
        "probabilities": jax.nn.softmax(result.logits, axis=-1),
        "head_importance": engine.max_over_real(result.attributions, attention_mask != 0),
        "token_pairs": jnp.sum(result.attributions, axis=(1, 2)),
        "magnitude": jnp.sum(jnp.abs(result.attributions), axis=(2, 3, 4)),
    }


def _unpad(arrays: dict[str, np.ndarray], real: slice | np.ndarray) -> dict[str, np.ndarray]:
    """Take the real tokens, a slice (which copies nothing) or their positions, on every axis that
    counts tokens.
    """
    axes = {"token_attributions": 1, "token_pairs": 2, "attributions": 2, "attention_probs": 2}

    def index(count: int) -> tuple:
        return (real,) * count if isinstance(real, slice) else np.ix_(*[real] * count)

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
        "token_type_ids": encoded.token_type_ids[index],
        "special_tokens_mask": special,
        "num_cut_tokens": encoded.cut_tokens[index] if encoded.cut_tokens else 0,
        "label": None if label is None or label == NO_GOLD else classifier.id2label[label],
        **_findings(
            arrays, classifier.id2label, layers, num_pairs, special if skip_special_tokens else None
        ),
        "num_hidden_layers": classifier.config.num_hidden_layers,
    }


def _findings(arrays, id2label, layers, num_pairs, left_out=None) -> dict[str, Any]:
    """Return the fields of a row that come from the arrays of an example."""
    logits, total = arrays["logits"], arrays.get("token_pairs", np.zeros((0, 0)))
    # A model with one output has no classes: its softmax would be 1, whatever the text.
    probabilities = arrays["probabilities"] if len(logits) > 1 else ()
    largest = float(np.abs(total).max(initial=0)) or 1.0
    return {
        "predicted": id2label[int(logits.argmax())],
        "target": id2label[int(arrays["target"])],
        "probabilities": {id2label[at]: float(value) for at, value in enumerate(probabilities)},
        "logits": {id2label[at]: float(value) for at, value in enumerate(logits)},
        "score": float(arrays["score"]),
        "layers": list(layers),
        "baseline_scores": arrays["baseline_score"].tolist(),
        "convergence_deltas": arrays["convergence_delta"].tolist(),
        "absolute_attribution_sums": (
            arrays["magnitude"].tolist() if "magnitude" in arrays else None
        ),
        "n_steps": arrays["n_steps"].tolist(),
        "converged": arrays["converged"].tolist() if "converged" in arrays else None,
        "token_attributions": (
            arrays["token_attributions"].tolist() if "token_attributions" in arrays else None
        ),
        "token_convergence_delta": (
            float(arrays["token_delta"]) if "token_delta" in arrays else None
        ),
        "token_n_steps": int(arrays["token_n_steps"]) if "token_n_steps" in arrays else None,
        "token_converged": bool(arrays["token_converged"]) if "token_converged" in arrays else None,
        "token_pairs_scale": largest,
        "token_pairs": [
            {"from": i, "to": j, "attribution": value}
            for i, j, value in strongest_pairs(total / largest, num_pairs, left_out)
        ],
        # Shortest decimals that give the same float32.
        "head_importance": [
            [float(str(value)) for value in heads] for heads in arrays["head_importance"]
        ],
        "heads": [
            {"layer": layer, "head": head, "importance": value}
            for layer, head, value in top_heads(arrays["head_importance"], num_pairs, layers)
        ],
    }


def explain_texts(
    classifier: Classifier,
    texts: Sequence[str],
    text_pairs: Sequence[str] | None = None,
    labels: Sequence[int] | Sequence[str] | None = None,
    options: AttributionOptions | None = None,
    **changes: Any,
) -> Explanations:
    """Explain a few texts at once: what `attribute.py` does, in memory. In a notebook the result
    shows itself as a report.

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
    unknown = changes.keys() - {field.name for field in dataclasses.fields(AttributionOptions)}
    if unknown:
        known = ", ".join(field.name for field in dataclasses.fields(AttributionOptions))
        raise InputError(f"{', '.join(sorted(unknown))} is no option; there are {known}")
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
    encoded = encode(classifier, split, classifier.config.max_position_embeddings, indices)
    if encoded.truncation:
        warnings.warn(encoded.truncation, stacklevel=2)
    explained = explain(classifier, split, encoded, sharding.data_mesh(), options)
    by_index = {each.row["index"]: each for each in explained}
    return Explanations([by_index[index] for index in range(len(split))])


def explanations_of(
    result: AttentionAttributions,
    classifier: Classifier | None = None,
    batch: Mapping[str, Any] | None = None,
    layers=None,
) -> Explanations:
    """Return the result of `attribute_attention` as explanations, an example each, without
    token-level attributions.

    Args:
      result: with whole attributions or reduced ones.
      classifier, batch: for the names of classes and tokens, and to leave padding out; without them
        these are numbers.
      layers: those that were asked for; by default what the result says.

    Raises:
      InputError: `layers` are not those of the result, or nothing says which they are.
    """
    is_whole = np.ndim(result.attributions) == 5
    num_rows, num_layers = np.shape(result.attributions)[:2]
    layers, num_hidden_layers = _layers_of(result, layers, classifier)
    num_tokens = np.shape(result.attributions)[-1] if is_whole else 0
    if batch is not None:
        shape = np.shape(batch["input_ids"])
        if len(shape) != 2 or shape[0] != num_rows or (is_whole and shape[1] != num_tokens):
            tokens = f" of {num_tokens} tokens" if is_whole else ""
            raise InputError(
                f"batch is not that of the result, {num_rows} examples{tokens}: its input_ids are"
                f" {list(shape)}"
            )
        num_tokens = shape[1]
    mask = None if batch is None else batch.get("attention_mask")
    real = np.ones((num_rows, num_tokens), bool) if mask is None else np.asarray(mask) != 0
    names = (
        dict(enumerate(map(str, range(np.shape(result.logits)[1]))))
        if classifier is None
        else classifier.id2label
    )
    found = {
        "logits": result.logits,
        "probabilities": jax.nn.softmax(result.logits, axis=-1),
        "head_importance": result.attributions,
        **{
            name: getattr(result, name)
            for name in ("target", "score", "baseline_score", "convergence_delta", "n_steps")
        },
    }
    kept = ["head_importance"]
    if is_whole:
        found |= _summarize(result, jnp.asarray(real, jnp.int32)) | {
            "attributions": result.attributions,
            "attention_probs": result.attention_probs,
        }
        kept += ["token_pairs", "attributions", "attention_probs"]
    if result.converged is not None:
        found["converged"] = result.converged
    host = jax.device_get(found)
    examples = []
    for index in range(num_rows):
        positions = np.flatnonzero(real[index])
        count = len(positions)
        arrays = _unpad(
            {name: np.asarray(values[index]) for name, values in host.items()}, positions
        )
        tokens = list(map(str, positions))
        if classifier is not None and batch is not None and classifier.tokenizer is not None:
            tokens = classifier.tokenizer.convert_ids_to_tokens(
                np.asarray(batch["input_ids"])[index, positions].tolist()
            )
        given = {
            name: np.asarray(batch[name])[index, positions].tolist()
            for name in _SEGMENTS
            if batch is not None and name in batch
        }
        row = {
            "index": index,
            "text": " ".join(tokens).replace(" ##", ""),
            "text_pair": None,
            "tokens": tokens,
            "offsets": [[0, 0]] * count,
            **dict.fromkeys(_SEGMENTS, [0] * count),
            **given,
            "label": None,
            **_findings(arrays, names, layers, 10),
            "path": (
                "layer" if np.shape(result.convergence_delta) == (num_rows, num_layers) else "joint"
            ),
            **({} if num_hidden_layers is None else {"num_hidden_layers": num_hidden_layers}),
        }
        examples.append(Explanation(row, {name: arrays[name] for name in kept}))
    return Explanations(examples)


def _layers_of(
    result: AttentionAttributions, layers: Sequence[int] | None, classifier: Classifier | None
) -> tuple[list[int], int | None]:
    """Return the numbers of a result's layers, and how many the model has, None where nothing says
    so.
    """
    count = np.shape(result.attributions)[1]
    total = None if classifier is None else classifier.config.num_hidden_layers
    if result.num_hidden_layers is not None:
        total = int(np.asarray(result.num_hidden_layers)[0])
    known = None if result.layers is None else np.asarray(result.layers)[0].tolist()
    if layers is None:
        if known is None and total not in (None, count):
            raise InputError(
                f"the result has {count} of the model's {total} layers, and does not say which:"
                " give layers"
            )
        layers = list(range(count)) if known is None else known
    layers = [int(layer) for layer in layers]
    if len(layers) != count or known not in (None, layers):
        raise InputError(
            f"layers are {layers}, but the result is of {count if known is None else known}"
        )
    return layers, total


def convergence_by_steps(
    classifier: Classifier,
    explanations: Sequence[Explanation],
    options: AttributionOptions,
    steps: Sequence[int],
) -> np.ndarray:
    """Return |convergence delta| / Σ|attributions| for several numbers of integration steps, [B, S,
    L]; 0 where nothing is attributed.

    The rules are filled up with nodes of weight 0 to the longest of them: one compiled program
    serves all.

    Args:
      classifier: the model that was explained.
      explanations: B of them; the class explained is taken from there.
      options: how they were attributed; of `method` there must be rules of all of `steps`.
      steps: S numbers.
    """
    classes = {name: index for index, name in classifier.id2label.items()}
    rules = [quadrature(options.method, count) for count in steps]
    longest = max(steps)
    config = classifier.config
    texts, pairs = (
        [example.row[name] for example in explanations] for name in ("text", "text_pair")
    )
    encoded = encode(
        classifier,
        Split("texts", "texts", texts, None if None in pairs else pairs, None),
        config.max_position_embeddings,
    )
    found = []
    # By themselves: one that is long makes no other longer
    for at, example in enumerate(explanations):
        batch = encoded.batch(
            np.asarray([at]), 1, config.pad_token_id, config.max_position_embeddings
        ).inputs
        relative = []
        for nodes, weights in rules:
            rule = tuple(np.pad(values, (0, longest - len(values))) for values in (nodes, weights))
            result = attribute_attention(
                classifier.params,
                model_inputs(batch),
                config,
                classes[example.row["target"]],
                method=rule,
                objective=options.objective,
                layers=options.layers,
                step_batch_size=options.step_batch_size,
                path=options.path,
            )
            sizes = np.abs(np.asarray(result.attributions)).sum(axis=(2, 3, 4))
            sizes = sizes if options.path == "layer" else sizes.sum(axis=1, keepdims=True)
            relative.append(
                np.abs(np.asarray(result.convergence_delta)[0])
                / np.where(sizes[0] == 0, 1, sizes[0])
            )
        found.append(relative)
    return np.asarray(found)


_SEGMENTS = ("token_type_ids", "special_tokens_mask")


class DatasetSummary:
    """What is kept over all examples: the mean head importance and the strongest token pairs.
    Bounded, whatever the number of examples.
    """

    def __init__(self, num_pairs: int = 20):
        self.num_pairs, self.num_examples = num_pairs, 0
        # The largest |convergence delta| / Σ |attributions| of any layer of any example
        self.worst_delta = 0.0
        # (text, layer) that did not reach the tolerance: the first hundred, and how many there are.
        self.not_converged: list[dict[str, int]] = []
        self.num_not_converged = 0
        self._importance_sum: np.ndarray | float = 0.0
        self._n_steps_sum: np.ndarray | float = 0.0
        self._pairs: list[tuple] = []

    def add(self, explained: Explanation) -> None:
        """Take one example."""
        row = explained.row
        self.num_examples += 1
        self._importance_sum = self._importance_sum + np.asarray(row["head_importance"], np.float64)
        self._n_steps_sum = self._n_steps_sum + np.asarray(row["n_steps"], np.float64)
        for layer, converged in zip(row["layers"], row["converged"] or (), strict=False):
            if not converged:
                self.num_not_converged += 1
                self.not_converged = [
                    *self.not_converged,
                    {"example": row["index"], "layer": layer},
                ][:100]
        self.worst_delta = max([self.worst_delta, *(explained.relative_deltas or ())])
        for pair in row["token_pairs"]:
            # Not normalised, so that examples compare; index and positions break ties.
            value = pair["attribution"] * row["token_pairs_scale"]
            entry = (
                abs(value),
                -row["index"],
                -pair["from"],
                -pair["to"],
                value,
                row["tokens"][pair["from"]],
                row["tokens"][pair["to"]],
            )
            heapq.heappush(self._pairs, entry)
            if len(self._pairs) > self.num_pairs:
                heapq.heappop(self._pairs)

    @property
    def importance(self) -> np.ndarray:
        """[L, N], float64."""
        return self._importance_sum / self.num_examples

    @property
    def mean_n_steps(self) -> list[float]:
        """Integration steps of each layer, the mean over examples."""
        return (self._n_steps_sum / self.num_examples).tolist()

    @property
    def token_pairs(self) -> list[dict[str, Any]]:
        """The strongest pairs of all examples, largest absolute value first."""
        return [
            {
                "example": -index,
                "from": -i,
                "to": -j,
                "from_token": source,
                "to_token": destination,
                "attribution": value,
            }
            for _, index, i, j, value, source, destination in sorted(self._pairs, reverse=True)
        ]
