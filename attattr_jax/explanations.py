"""Explanations of whole data sets: computed batch by batch, written to disk as they come, read back lazily.

A folder of explanations holds `examples.jsonl`, one row per example in order, and `shard-*.safetensors`, whose tensors are named
`<index>/<array>` and are not padded. A row is written after its arrays, so it never points to arrays that are not there.

Shapes: T tokens of one example (no padding), L layers (those asked for), N heads.
"""

from __future__ import annotations

import dataclasses
import functools
import heapq
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from . import engine, sharding
from .attribution import AttentionAttributions, attribute_attention, attribute_tokens
from .bert import model_inputs
from .data import Encoded, Split, inference_batches
from .errors import InputError
from .files import read_json, user_path, write_file
from .heads import top_heads
from .pretrained import Classifier

EXAMPLES_FILE = "examples.jsonl"
SHARD_BYTES = 64 * 2**20
SHARD_ROWS = 1024

# Arrays per example by what `--save` asks for.
SAVED_ARRAYS = {
    "none": (),
    "summary": ("head_importance", "token_pairs", "token_attributions"),
    "full": ("head_importance", "token_pairs", "token_attributions", "attributions", "attention_probs"),
}


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


@dataclasses.dataclass(frozen=True)
class Explained:
    """One example, explained."""

    row: dict[str, Any]  # of `examples.jsonl`
    head_importance: np.ndarray  # [L, N], each head's largest attribution
    arrays: dict[str, np.ndarray]  # what is to be saved


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
) -> Iterator[Explained]:
    """Yield the explanation of every example, bucket by bucket: the order is that of the lengths, `row["index"]` tells which.

    Args:
      classifier: the model.
      split: the texts.
      encoded: the same, tokenized, with labels where target is "gold".
      mesh: the devices.
      options: how to attribute.
      save: "none", "summary" or "full": which arrays to bring to the host.
      batch_size: examples at once, by default from the length.
      num_pairs: how many token pairs and heads a row lists.
      skip_special_tokens: leave pairs with a special token out of that list.
    """
    config = classifier.config
    params = sharding.replicate(classifier.params, mesh)
    layers = tuple(range(config.num_hidden_layers)) if options.layers is None else options.layers
    wanted = SAVED_ARRAYS[save]
    if options.target == "gold" and encoded.labels is None:
        raise InputError(f"{split.source} has no labels: target 'gold' cannot be explained")

    for batch in inference_batches(encoded, config, batch_size or functools.partial(engine.default_batch_size, config), mesh.size):
        inputs, labels = sharding.shard_rows((batch.inputs, batch.labels), mesh)
        target = labels if options.target == "gold" else options.target
        how = {name: getattr(options, name) for name in ("n_steps", "method", "objective", "step_batch_size", "tolerance", "max_steps")}
        result = attribute_attention(params, model_inputs(inputs), config, target, layers=layers, path=options.path, **how)
        tokens = attribute_tokens(params, inputs, config, result.target, **how)
        device_arrays = {
            **_summarize(result, inputs["attention_mask"]),
            "token_attributions": tokens.attributions,
            "token_delta": tokens.convergence_delta,
            "target": result.target,
            "score": result.score,
            "baseline_score": result.baseline_score,
            "convergence_delta": result.convergence_delta,
            "n_steps": result.n_steps,
            "token_n_steps": tokens.n_steps,
        }
        if options.n_steps == "auto":
            device_arrays |= {"converged": result.converged, "token_converged": tokens.converged}
        if "attributions" in wanted:
            device_arrays |= {"attributions": result.attributions, "attention_probs": result.attention_probs}
        host = jax.device_get(device_arrays)
        for position in np.flatnonzero(batch.weights):
            index = int(batch.indices[position])
            if not np.isfinite(host["score"][position]):
                raise InputError(f"the model's output for {split.row(index)} is {host['score'][position]}: its weights are not usable")
            arrays = _unpad({name: values[position] for name, values in host.items()}, encoded.lengths[index])
            row = _row(classifier, split, encoded, index, arrays, layers, num_pairs, skip_special_tokens) | {"path": options.path}
            saved = {name: np.ascontiguousarray(arrays[name]) for name in wanted}
            yield Explained(row, arrays["head_importance"], saved)


@jax.jit
def _summarize(result: AttentionAttributions, attention_mask) -> dict[str, jax.Array]:
    """Return what a row needs, so that [B, L, N, T, T] can stay on the device."""
    return {
        "probabilities": jax.nn.softmax(result.logits, axis=-1),
        "head_importance": engine.max_over_real(result.attributions, attention_mask != 0),
        "token_pairs": jnp.sum(result.attributions, axis=(1, 2)),
        "magnitude": jnp.sum(jnp.abs(result.attributions), axis=(2, 3, 4)),
    }


def _unpad(arrays: dict[str, np.ndarray], length: int) -> dict[str, np.ndarray]:
    """Cut padding off every axis that counts tokens."""
    axes = {"token_attributions": 1, "token_pairs": 2, "attributions": 2, "attention_probs": 2}
    return {name: values[(..., *[slice(length)] * axes.get(name, 0))] for name, values in arrays.items()}


def _row(classifier, split, encoded, index, arrays, layers, num_pairs, skip_special_tokens) -> dict[str, Any]:
    """Return the row of `examples.jsonl`: all that a person wants to read of one example."""
    tokens = classifier.tokenizer.convert_ids_to_tokens(encoded.input_ids[index])
    special = encoded.special_tokens_mask[index]
    total = arrays["token_pairs"]
    largest = float(np.abs(total).max()) or 1.0
    pairs = strongest_pairs(total / largest, num_pairs, special if skip_special_tokens else None)
    label = None if encoded.labels is None else int(encoded.labels[index])
    target = int(arrays["target"])
    return {
        "index": index,
        "text": split.texts[index],
        "text_pair": None if split.text_pairs is None else split.text_pairs[index],
        "tokens": tokens,
        "offsets": [list(span) for span in encoded.offsets[index]],
        "token_type_ids": encoded.token_type_ids[index],
        "special_tokens_mask": special,
        "label": None if label is None else classifier.id2label[label],
        "predicted": classifier.id2label[int(arrays["probabilities"].argmax())],
        "target": classifier.id2label[target],
        "probabilities": {name: float(arrays["probabilities"][at]) for at, name in sorted(classifier.id2label.items())},
        "score": float(arrays["score"]),
        "layers": list(layers),
        "baseline_scores": arrays["baseline_score"].tolist(),
        "convergence_deltas": arrays["convergence_delta"].tolist(),
        "absolute_attribution_sums": arrays["magnitude"].tolist(),
        "n_steps": arrays["n_steps"].tolist(),
        "converged": arrays["converged"].tolist() if "converged" in arrays else None,
        "token_attributions": arrays["token_attributions"].tolist(),
        "token_convergence_delta": float(arrays["token_delta"]),
        "token_n_steps": int(arrays["token_n_steps"]),
        "token_converged": bool(arrays["token_converged"]) if "token_converged" in arrays else None,
        "token_pairs_scale": largest,
        "token_pairs": [{"from": i, "to": j, "attribution": value} for i, j, value in pairs],
        "heads": [
            {"layer": layer, "head": head, "importance": value}
            for layer, head, value in top_heads(arrays["head_importance"], num_pairs, layers)
        ],
    }


def strongest_pairs(matrix: np.ndarray, count: int, left_out: Sequence[int] | None = None) -> list[tuple[int, int, float]]:
    """Return (from, to, value) of the entries of `matrix` [T, T] with the largest absolute value, largest first.

    Args:
      matrix: row attends to column.
      count: how many.
      left_out: [T], 1 for tokens whose pairs are left out.
    """
    size = np.abs(matrix)
    if left_out is not None:
        out = np.asarray(left_out) != 0
        size = np.where(out[:, None] | out[None, :], -1.0, size)
    order = np.argsort(-size.ravel(), kind="stable")[:count]
    found = [divmod(int(at), matrix.shape[1]) for at in order if size.ravel()[at] >= 0]
    return [(i, j, float(matrix[i, j])) for i, j in found]


class ExplanationWriter:
    """Writes explanations into a folder as they come: arrays in shards of about 64 MiB, then the rows that point to them."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._rows: list[dict[str, Any]] = []
        self._arrays: dict[str, np.ndarray] = {}
        self._num_bytes = 0
        self._num_shards = 0
        self._written: list[tuple[int, int, int]] = []  # index of the example, start and length of its row in the file

    def add(self, explained: Explained) -> None:
        """Take one explanation; it is on disk after the shard is full, or after `close`."""
        row = dict(explained.row, arrays=None)
        if explained.arrays:
            prefix = f"{row['index']}/"
            row["arrays"] = {"file": self._shard_name(), "prefix": prefix, "names": sorted(explained.arrays)}
            self._arrays |= {prefix + name: values for name, values in explained.arrays.items()}
        self._rows.append(row)
        self._num_bytes += sum(values.nbytes for values in explained.arrays.values())
        if self._num_bytes >= SHARD_BYTES or len(self._rows) >= SHARD_ROWS:
            self.flush()

    def _shard_name(self) -> str:
        return f"shard-{self._num_shards:05d}.safetensors"

    def flush(self) -> None:
        """Write what has been taken so far."""
        if self._arrays:
            write_file(self.folder / self._shard_name(), safetensors.numpy.save(self._arrays))
            self._num_shards += 1
        with open(self.folder / EXAMPLES_FILE, "ab") as file:
            for row in self._rows:
                line = json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"
                self._written.append((row["index"], file.tell(), len(line)))
                file.write(line)
        self._rows, self._arrays, self._num_bytes = [], {}, 0

    def close(self) -> None:
        """Write the rest and put the rows in the order of the examples."""
        self.flush()
        file = self.folder / EXAMPLES_FILE
        ordered = file.with_name(f".{file.name}.part")
        try:
            with open(file, "rb") as source, open(ordered, "wb") as destination:
                for _, start, length in sorted(self._written):
                    source.seek(start)
                    destination.write(source.read(length))
            os.replace(ordered, file)
        finally:
            ordered.unlink(missing_ok=True)


class StoredExplanation:
    """One example of a folder of explanations. Fields of its row are attributes; arrays are read when they are asked for."""

    def __init__(self, folder: Path, row: dict[str, Any]):
        self._folder, self.row = folder, row

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["row"][name]
        except KeyError:
            raise AttributeError(f"no field {name!r}; there are {', '.join(self.__dict__.get('row', ()))}") from None

    def array(self, name: str) -> np.ndarray:
        """Return one array: `attributions` or `attention_probs` [L, N, T, T], `head_importance` [L, N], `token_pairs` [T, T] (the sum
        over layers and heads, not normalised), `token_attributions` [T].

        Raises:
          InputError: it was not saved, or its shard is missing or damaged.
        """
        where = self.row["arrays"]
        if where is None or name not in where["names"]:
            has = "no arrays" if where is None else f"only {', '.join(where['names'])}"
            raise InputError(f"example {self.row['index']} was saved with {has}, not {name!r}: run attribute.py with --save full")
        file = self._folder / Path(where["file"]).name
        try:
            with safetensors.safe_open(file, "numpy") as reader:
                return reader.get_tensor(where["prefix"] + name)
        except (safetensors.SafetensorError, OSError) as error:
            raise InputError(f"{file} cannot be read: {error}") from None

    @property
    def attributions(self) -> np.ndarray:
        """[L, N, T, T], row attends to column."""
        return self.array("attributions")

    @property
    def attention_probs(self) -> np.ndarray:
        """[L, N, T, T]."""
        return self.array("attention_probs")

    @property
    def token_pair_attributions(self) -> np.ndarray:
        """[T, T]: the sum over layers and heads divided by its largest absolute value."""
        return self.array("token_pairs") / self.row["token_pairs_scale"]


class StoredExplanations(Sequence):
    """The examples of a folder written by `attribute.py`, in order. Rows are read when an example is asked for."""

    def __init__(self, folder: str | os.PathLike):
        self.folder = user_path(folder)
        self._file = self.folder / EXAMPLES_FILE
        if not self._file.is_file():
            raise InputError(f"{self.folder} has no {EXAMPLES_FILE}: name a folder written by attribute.py")
        self._starts = [0]
        with open(self._file, "rb") as file:
            for line in file:
                self._starts.append(self._starts[-1] + len(line))

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        start = self._starts[index % len(self)]
        with open(self._file, "rb") as file:
            file.seek(start)
            try:
                row = json.loads(file.readline())
            except ValueError as error:
                raise InputError(f"{self._file}, row {index % len(self) + 1} is damaged: {error}") from None
        return StoredExplanation(self.folder, row)

    @functools.cached_property
    def run(self) -> dict[str, Any]:
        """The `run.json` of the folder, {} where there is none."""
        file = self.folder / "run.json"
        return read_json(file) if file.is_file() else {}


def load_attributions(folder: str | os.PathLike) -> StoredExplanations:
    """Open a folder written by `attribute.py`: a sequence of examples whose arrays are read when they are asked for.

    Raises:
      InputError: the folder holds no explanations.
    """
    return StoredExplanations(folder)


class DatasetSummary:
    """What is kept over all examples: the mean head importance and the strongest token pairs. Bounded, whatever the number of examples."""

    def __init__(self, num_pairs: int = 20):
        self.num_pairs, self.num_examples = num_pairs, 0
        self.worst_delta = 0.0  # the largest |convergence delta| / Σ |attributions| of any layer of any example
        # (text, layer) that did not reach the tolerance: the first hundred, and how many there are.
        self.not_converged: list[dict[str, int]] = []
        self.num_not_converged = 0
        self._importance_sum: np.ndarray | float = 0.0
        self._n_steps_sum: np.ndarray | float = 0.0
        self._pairs: list[tuple] = []

    def add(self, explained: Explained) -> None:
        """Take one example."""
        row = explained.row
        self.num_examples += 1
        self._importance_sum = self._importance_sum + explained.head_importance.astype(np.float64)
        self._n_steps_sum = self._n_steps_sum + np.asarray(row["n_steps"], np.float64)
        for layer, converged in zip(row["layers"], row["converged"] or (), strict=False):
            if not converged:
                self.num_not_converged += 1
                self.not_converged = [*self.not_converged, {"example": row["index"], "layer": layer}][:100]
        magnitudes = row["absolute_attribution_sums"]
        magnitudes = magnitudes if row["path"] == "layer" else [sum(magnitudes)]
        for delta, magnitude in zip(row["convergence_deltas"], magnitudes, strict=True):
            if magnitude:
                self.worst_delta = max(self.worst_delta, abs(delta) / magnitude)
        for pair in row["token_pairs"]:
            # Not normalised, so that examples compare; index and positions break ties.
            value = pair["attribution"] * row["token_pairs_scale"]
            entry = (abs(value), -row["index"], -pair["from"], -pair["to"], value, row["tokens"][pair["from"]], row["tokens"][pair["to"]])
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
            {"example": -index, "from": -i, "to": -j, "from_token": source, "to_token": destination, "attribution": value}
            for _, index, i, j, value, source, destination in sorted(self._pairs, reverse=True)
        ]
