"""Measure attention attribution: speed and error against the published algorithm in PyTorch,
FLOP/s, memory, compile times.

    pip install "attattr-jax[bench]"
    python benchmarks/engine.py --checkpoint runs/sst2-minilm --data path/to/sst2 \\
        --output benchmarks/results/engine_cpu.json \\
        --plot docs/accuracy_cost.svg

--checkpoint is a fine-tuned classifier, --data a folder with GLUE's dev.tsv. Competitors take turns
in every round; a ratio is the median of the rounds' ratios. Every part writes its figures as it
finishes: --parts repeats some and leaves the others as they are.

Shapes: B examples, T tokens, L layers, N heads, D hidden size, I feed-forward size, M integration
steps, S sentences.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib.metadata
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

import attattr_jax as aa
from attattr_jax.attribution import integration
from attattr_jax.attribution.memory import default_batch_size, memory_budget
from attattr_jax.data.batches import Batch, Encoded, bucket_length, encode, inference_batches
from attattr_jax.data.labels import class_indices
from attattr_jax.data.splits import Split, load_split
from attattr_jax.models.inference import model_inputs
from attattr_jax.models.tensors import to_hf_tensors
from attattr_jax.pruning.importance import score_heads
from attattr_jax.runtime import sharding

PACKAGES = ("attattr-jax", "jax", "jaxlib", "flax", "numpy", "torch", "transformers", "captum")
TUNED_ON = 48  # sentences, the first of seed 1: the estimate's constants were chosen on them
REFERENCE = {"n_steps": 64, "method": "gausslegendre"}  # what errors are differences from
BASE = aa.BertConfig()


@dataclasses.dataclass
class Bench:
    """What every part may use."""

    options: argparse.Namespace

    @functools.cached_property
    def classifier(self) -> aa.Classifier:
        """The fine-tuned model."""
        return aa.load_classifier(self.options.checkpoint)

    @functools.cached_property
    def base_params(self) -> Any:
        """BERT-base with random weights."""
        return jax.block_until_ready(aa.init_params(BASE, jax.random.key(0)))

    @functools.cached_property
    def dev(self) -> Split:
        """The development split."""
        return load_split(self.options.data, "validation")

    def sentences(self, count: int, seed: int, skipped: int = 0) -> Encoded:
        """Return dev sentences drawn at random; a smaller count draws the first of a larger one."""
        drawn = np.random.default_rng(seed).permutation(len(self.dev))[skipped : skipped + count]
        return encode(
            self.classifier, self.dev.select(drawn), self.classifier.config.max_position_embeddings
        )


# --- measuring ------------------------------------------------------------------------------------


def take_turns(
    competitors: dict[str, Callable[[], Any]], rounds: int, fewer: dict[str, int] | None = None
) -> dict[str, list[float]]:
    """Return each competitor's seconds in every round, after one call of each to warm up; `fewer`
    are rounds of single ones.
    """
    for compete in competitors.values():
        jax.block_until_ready(compete())
    seconds: dict[str, list[float]] = {name: [] for name in competitors}
    for number in range(rounds):
        for name, compete in competitors.items():
            if number < (fewer or {}).get(name, rounds):
                start = time.perf_counter()
                jax.block_until_ready(compete())
                seconds[name].append(time.perf_counter() - start)
    return seconds


def spread(name: str, values: Sequence[float]) -> dict[str, float]:
    """Return median, smallest and largest, under names that begin with `name`."""
    return {
        name: float(np.median(values)),
        f"{name}_min": float(np.min(values)),
        f"{name}_max": float(np.max(values)),
    }


def ratio(seconds: dict[str, list[float]], slow: str, fast: str) -> float:
    """Return how many times as long the first takes: the median of the rounds' ratios."""
    return float(
        np.median([one / other for one, other in zip(seconds[slow], seconds[fast], strict=False)])
    )


def matmuls(
    config: aa.BertConfig, dtype: str = "float32", square: int = 4096
) -> dict[str, tuple[Callable[[], Any], float]]:
    """Return dense matrix products in the shapes of the feed-forward and in a large one: name ->
    (call, its FLOPs).
    """
    wide, narrow = config.intermediate_size, config.hidden_size
    multiply = jax.jit(jnp.matmul)
    found = {}
    for rows, inner, columns in (
        (1024, narrow, wide),
        (1024, wide, narrow),
        (square, square, square),
    ):
        left, right = (
            jax.random.normal(jax.random.key(0), shape).astype(dtype)
            for shape in ((rows, inner), (inner, columns))
        )
        flops = 2 * rows * inner * columns
        # A product of a millisecond is repeated: a single one measures the clock
        times = max(1, round(2e10 / flops))

        def call(left=left, right=right, times=times):
            return [multiply(left, right) for _ in range(times)]

        found[f"matmul {rows}x{inner}x{columns}"] = call, flops * times
    return found


def useful_flops(config: aa.BertConfig, batch_size: int, num_tokens: int, n_steps: int) -> float:
    """Return the FLOPs (2 for a multiply-add) of the matrix products that no exact attribution of
    all layers can avoid.

    One clean forward pass; and for each layer and step, forward and with respect to activations
    (twice the forward; parameters need no gradient), what lies above that layer's attention: its
    own feed-forward and all layers above. The output projection of the attention is not counted for
    each step: it is linear. Of the last layer only the [CLS] row counts, with the keys and values
    of all tokens.
    """
    size, wide, last = config.hidden_size, config.intermediate_size, config.num_hidden_layers - 1
    layer = num_tokens * (8 * size * size + 4 * num_tokens * size + 4 * size * wide)
    clean = last * layer + _last_layer_flops(config, num_tokens)
    return float(batch_size * (clean + 2 * n_steps * sum(flops_above(config, num_tokens))))


def _last_layer_flops(config: aa.BertConfig, num_tokens: int) -> float:
    """Return the FLOPs of the last layer, of which only the [CLS] row counts, for an example."""
    size, wide = config.hidden_size, config.intermediate_size
    of_row = 4 * size * size + 4 * num_tokens * size + 4 * size * wide
    return num_tokens * 4 * size * size + of_row


def flops_above(config: aa.BertConfig, num_tokens: int) -> list[float]:
    """Return the FLOPs of a forward pass from each layer's attention on, for an example."""
    size, wide, last = config.hidden_size, config.intermediate_size, config.num_hidden_layers - 1
    feed_forward = 4 * size * wide  # a token
    layer = 8 * size * size + 4 * num_tokens * size + feed_forward  # a token
    last_layer = _last_layer_flops(config, num_tokens)
    lower = [
        num_tokens * (feed_forward + (last - 1 - index) * layer) + last_layer
        for index in range(last)
    ]
    return [*map(float, lower), float(feed_forward)]


def compiled_arguments(
    params: Any, batch: Any, config: aa.BertConfig, **options: Any
) -> tuple[tuple, dict[str, Any]]:
    """Return the arguments with which `attribute_attention` would call the compiled
    `integration.attribute_fixed`.
    """

    class Reached(Exception):
        pass

    with mock.patch.object(integration, "attribute_fixed", side_effect=Reached) as called:
        try:
            aa.attribute_attention(params, batch, config, **options)
        except Reached:
            return called.call_args.args, called.call_args.kwargs
    raise AssertionError("attribute_attention did not call integration.attribute_fixed")


def random_batch(config: aa.BertConfig, batch_size: int, num_tokens: int) -> dict[str, np.ndarray]:
    """Return random tokens without padding, int32 [B, T]."""
    ids = (
        np.random.default_rng(0)
        .integers(1, config.vocab_size, (batch_size, num_tokens))
        .astype(np.int32)
    )
    return {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "token_type_ids": np.zeros_like(ids),
    }


def torch_inputs(batch: dict[str, np.ndarray]) -> tuple[Any, Any, Any]:
    """Return a batch as PyTorch's integers."""
    import torch

    return tuple(
        torch.from_numpy(batch[name].astype(np.int64))
        for name in ("input_ids", "attention_mask", "token_type_ids")
    )


def reference_torch() -> Any:
    """Return the PyTorch implementation, set to use every core."""
    # A thread that waits spins for milliseconds by default; where other work runs beside, PyTorch's
    # own threads then wait for a core.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    import reference_torch as module  # beside this file
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    return module


# --- sentences and their errors -------------------------------------------------------------------


@dataclasses.dataclass
class Found:
    """Attributions of sentences, without their padding."""

    attributions: list[np.ndarray]  # [L, N, T, T] of each sentence
    n_steps: np.ndarray  # [S, L]
    converged: np.ndarray | None  # [S, L]
    estimates: np.ndarray  # of the error, [S, L]


def run_ours(
    bench: Bench, encoded: Encoded, config: aa.BertConfig | None = None, **options: Any
) -> list[tuple[Batch, Any]]:
    """Attribute sentences bucket by bucket and return batches and results, which may still be under
    way.
    """
    config = config or bench.classifier.config
    sizes = functools.partial(default_batch_size, config)
    return [
        (
            batch,
            aa.attribute_attention(
                bench.classifier.params, model_inputs(batch.inputs), config, **options
            ),
        )
        for batch in inference_batches(encoded, config, sizes)
    ]


def results_of(done: list[tuple[Batch, Any]]) -> list[Any]:
    """Return what has to be waited for."""
    return [result for _, result in done]


def by_sentence(done: list[tuple[Batch, Any]], encoded: Encoded) -> Found:
    """Put the sentences of all batches in order."""
    attributions, n_steps, converged, estimates = ([None] * len(encoded) for _ in range(4))
    for batch, result in done:
        values = np.asarray(result.attributions, np.float64)
        for row, index in enumerate(batch.indices):
            if index >= 0:
                length = encoded.lengths[index]
                attributions[index] = values[row, :, :, :length, :length]
                n_steps[index] = np.asarray(result.n_steps)[row]
                estimates[index] = np.asarray(result.error_estimate)[row]
                converged[index] = (
                    None if result.converged is None else np.asarray(result.converged)[row]
                )
    stacked = None if converged[0] is None else np.stack(converged)
    return Found(attributions, np.stack(n_steps), stacked, np.stack(estimates))


def find(
    bench: Bench, encoded: Encoded, config: aa.BertConfig | None = None, **options: Any
) -> Found:
    """Attribute sentences."""
    found = by_sentence(run_ours(bench, encoded, config, **options), encoded)
    # Programs hold memory mappings, of which Linux allows a process 65,530: every rule has its own
    jax.clear_caches()
    return found


def errors(
    found: Sequence[np.ndarray], exact: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Return max|difference| / max|attribution| and Σ|difference| / Σ|attribution|, [S, L] each."""
    axes = (1, 2, 3)
    pairs = list(zip(found, exact, strict=True))
    largest = [np.abs(one - other).max(axes) / np.abs(other).max(axes) for one, other in pairs]
    relative = [np.abs(one - other).sum(axes) / np.abs(other).sum(axes) for one, other in pairs]
    return np.stack(largest), np.stack(relative)


def worst_layer(name: str, each: np.ndarray) -> dict[str, float]:
    """Return median and worst over sentences of the worst layer's error; `each` is [S, L]."""
    worst = each.max(axis=1)
    return {f"{name}_median": float(np.median(worst)), f"{name}_worst": float(worst.max())}


# --- parts ----------------------------------------------------------------------------------------


def peak(bench: Bench) -> dict[str, Any]:
    """Measure dense matrix products in float32; the fastest shape is the peak."""
    products = matmuls(bench.classifier.config)
    seconds = take_turns({name: call for name, (call, _) in products.items()}, bench.options.rounds)
    rows = [
        {"product": name, **spread("gflops_per_s", flops / np.array(seconds[name]) / 1e9)}
        for name, (_, flops) in products.items()
    ]
    return {"gflops_per_s": max(row["gflops_per_s"] for row in rows), "products": rows}


def reference_settings(bench: Bench) -> dict[str, Any]:
    """Compare with the published settings (sentence by sentence, padded to 128, left Riemann sum of
    20): time and error.
    """
    torch_port = reference_torch()
    model = torch_port.load(bench.options.checkpoint)
    encoded = bench.sentences(bench.options.reference_sentences, seed=0)
    nodes, weights = aa.quadrature("riemann_left", 20)
    padded = [
        encoded.batch([index], 1, bench.classifier.config.pad_token_id, 128)
        for index in range(len(encoded))
    ]
    inputs = []
    for batch in padded:
        missing = 128 - batch.inputs["input_ids"].shape[1]
        inputs.append(
            torch_inputs(
                {
                    name: np.pad(values, ((0, 0), (0, missing)))
                    for name, values in batch.inputs.items()
                }
            )
        )

    def published():
        return [torch_port.attribute(model, *each, nodes, weights)[0] for each in inputs]

    ours = {
        "ours, auto, tolerance 1e-3": {"n_steps": "auto", "tolerance": 1e-3},
        "ours, fast": {"method": "fast"},
        "ours, Gauss-Legendre 8": {"n_steps": 8},
        "ours, Gauss-Legendre 20": {"n_steps": 20},
    }

    def call(options):
        return lambda: results_of(run_ours(bench, encoded, **options))

    calls = {each: call(options) for each, options in ours.items()}
    name = "PyTorch, published settings"
    seconds = take_turns({name: published, **calls}, bench.options.rounds)
    exact = find(bench, encoded, **REFERENCE).attributions
    lengths = encoded.lengths
    found = {
        name: [
            values.numpy()[:, :, :size, :size].astype(np.float64)
            for values, size in zip(published(), lengths, strict=True)
        ]
    }
    evaluations = {name: 20.0}
    for each, options in ours.items():
        mine = find(bench, encoded, **options)
        found[each], evaluations[each] = mine.attributions, float(mine.n_steps.mean())
    theirs = worst_layer("error", errors(found[name], exact)[0])
    rows = []
    for each in seconds:
        largest = errors(found[each], exact)[0]
        error = worst_layer("error", largest)
        rows.append(
            {
                "what": each,
                **spread("seconds", seconds[each]),
                "times_as_fast": ratio(seconds, name, each),
                "evaluations": evaluations[each],
                **error,
                "error_median_of_all_layers": float(np.median(largest)),
                "median_error_smaller_by": theirs["error_median"] / error["error_median"],
                "worst_error_smaller_by": theirs["error_worst"] / error["error_worst"],
            }
        )
    return {"sentences": len(encoded), "mean_tokens": float(lengths.mean()), "rows": rows}


def equal_steps(bench: Bench) -> dict[str, Any]:
    """Compare at equal work (20 Gauss-Legendre nodes, no padding, all layers), and relate the FLOPs
    to the peak of the same rounds.
    """
    torch_port = reference_torch()
    import torch
    import transformers

    config, params = bench.classifier.config, bench.classifier.params
    rounds, n_steps = bench.options.rounds, 2 if bench.options.tiny else 20
    small = _equal_steps(
        f"checkpoint, B={bench.options.equal_batch}",
        params,
        config,
        torch_port.load(bench.options.checkpoint),
        random_batch(config, bench.options.equal_batch, 32),
        rounds,
        n_steps,
        captum=True,
    )
    model = transformers.BertForSequenceClassification(
        transformers.BertConfig(
            num_hidden_layers=BASE.num_hidden_layers, attn_implementation="eager"
        )
    )
    tensors = to_hf_tensors(jax.device_get(bench.base_params), BASE)
    model.load_state_dict(
        {name: torch.from_numpy(values.copy()) for name, values in tensors.items()}
    )
    theirs, batch = torch_port.frozen(model), random_batch(BASE, 1, 32)
    base = _equal_steps(
        "BERT-base, B=1", bench.base_params, BASE, theirs, batch, min(3, rounds), n_steps
    )
    return {
        "tokens": 32,
        "n_steps": n_steps,
        "seconds": small[0] + base[0],
        "flops": [small[1], base[1]],
    }


def _equal_steps(
    label, params, config, model, batch, rounds, n_steps, captum=False
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    torch_port = reference_torch()
    nodes, weights = aa.quadrature("gausslegendre", n_steps)
    inputs = torch_inputs(batch)
    batch_size, num_tokens = batch["input_ids"].shape

    def ours():
        return aa.attribute_attention(params, batch, config, n_steps=n_steps)

    def port(steps):
        return torch_port.attribute_batch(
            model, *inputs, nodes, weights, rows_at_once=steps * batch_size
        )[0]

    def captums():
        return torch_port.captum_attribute(model, *inputs, n_steps=n_steps)

    sizes = sorted({1, -(-n_steps // 4), n_steps})
    chunks = take_turns(
        {str(steps): functools.partial(port, steps) for steps in sizes}, min(2, rounds)
    )
    best = min(chunks, key=lambda steps: min(chunks[steps]))
    competitors: dict[str, Callable[[], Any]] = {
        "ours": ours,
        "PyTorch": functools.partial(port, int(best)),
    }
    if captum:
        competitors["Captum"] = captums
    products = matmuls(config)
    seconds = take_turns(
        competitors | {name: call for name, (call, _) in products.items()}, rounds, {"Captum": 2}
    )

    exact = np.asarray(ours().attributions, np.float64)
    differences = {"PyTorch": port(n_steps)} | ({"Captum": captums()} if captum else {})
    rows = []
    for name in competitors:
        row = {
            "model": label,
            "what": name,
            **spread("seconds", seconds[name]),
            "rounds": len(seconds[name]),
        }
        row["ours_times_as_fast"] = ratio(seconds, name, "ours")
        row["difference_from_ours"] = (
            0.0 if name == "ours" else _largest_difference(differences[name].numpy(), exact)
        )
        row["torch_steps_at_once"] = int(best) if name == "PyTorch" else None
        rows.append(row)
    # [products, rounds]
    peaks = np.array(
        [flops / np.array(seconds[name]) / 1e9 for name, (_, flops) in products.items()]
    )
    useful = useful_flops(config, batch_size, num_tokens, n_steps)
    achieved = useful / np.array(seconds["ours"]) / 1e9
    flops = {
        "model": label,
        "useful_gflops": useful / 1e9,
        **spread("useful_gflops_per_s", achieved),
        "peak_gflops_per_s": float(np.median(peaks, axis=1).max()),
        **spread("share_of_peak", achieved / peaks.max(axis=0)),
    }
    return rows, flops


def _largest_difference(found: np.ndarray, exact: np.ndarray) -> float:
    """Return the largest max|difference| / max|attribution| of an example's layer."""
    return float(
        max(errors([one], [other])[0].max() for one, other in zip(found, exact, strict=True))
    )


def memory(bench: Bench) -> dict[str, Any]:
    """Measure the temporary memory of the compiled program, and how memory and time grow with each
    size.
    """
    config, params = bench.classifier.config, bench.classifier.params

    @functools.cache
    def measured(n_steps=20, num_tokens=32, batch_size=8, num_layers=config.num_hidden_layers):
        layers = range(num_layers)
        return _memory(
            params,
            config,
            random_batch(config, batch_size, num_tokens),
            n_steps=n_steps,
            layers=layers,
        )

    rows = [
        {"model": "checkpoint", "B": 8, "T": 32, **measured()},
        {
            "model": "BERT-base",
            "B": 1,
            "T": 32,
            **_memory(bench.base_params, BASE, random_batch(BASE, 1, 32), n_steps=20),
        },
    ]
    grown = {
        "n_steps": (5, 20, 80),
        "num_tokens": (16, 32, 64, 128),
        "batch_size": (1, 4, 8, 16),
        "num_layers": (1, 3, 6),
    }
    if bench.options.tiny:
        grown = {name: sizes[:2] for name, sizes in grown.items()}
    grown["num_layers"] = tuple(
        size for size in grown["num_layers"] if size <= config.num_hidden_layers
    )
    growth = [
        {"grows": name, "to": size, **measured(**{name: size})}
        for name, sizes in grown.items()
        for size in sizes
    ]
    return {"budget_bytes": memory_budget(), "rows": rows, "growth": growth}


def _memory(params, config, batch, **options) -> dict[str, float]:
    """Return temporary and output bytes of the compiled attribution, and the seconds of one warm
    run.
    """
    args, static = compiled_arguments(params, batch, config, **options)
    sizes = integration.attribute_fixed.lower(*args, **static).compile().memory_analysis()
    run = functools.partial(integration.attribute_fixed, *args, **static)
    seconds = take_turns({"ours": run}, 1)["ours"][0]
    return {
        "temporary_mib": sizes.temp_size_in_bytes / 2**20,
        "output_mib": sizes.output_size_in_bytes / 2**20,
        "seconds": seconds,
    }


def compile_times(bench: Bench) -> dict[str, Any]:
    """Measure the first call less the second in fresh processes, without and with a filled
    compilation cache.
    """
    rows = []
    for model in ("checkpoint", "BERT-base"):
        for n_steps in ("20", "auto"):
            with tempfile.TemporaryDirectory() as cache:
                for state in ("cold", "cached"):
                    environment = {
                        "JAX_COMPILATION_CACHE_DIR": cache,
                        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                    }
                    found = in_child(bench, "compile", environment, model=model, n_steps=n_steps)
                    rows.append({"model": model, "n_steps": n_steps, "cache": state, **found})
    return {"rows": rows}


def child_compile(bench: Bench, model: str, n_steps: str) -> dict[str, Any]:
    """Time two calls in this process."""
    if model == "BERT-base":
        params, config, batch = bench.base_params, BASE, random_batch(BASE, 1, 32)
    else:
        params, config = bench.classifier.params, bench.classifier.config
        encoded = bench.sentences(100, seed=0)
        bucket = [
            index
            for index, length in enumerate(encoded.lengths)
            if bucket_length(int(length), 512) == 32
        ][:8]
        batch = model_inputs(
            encoded.batch(bucket, 8, config.pad_token_id, config.max_position_embeddings).inputs
        )
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        jax.block_until_ready(
            aa.attribute_attention(
                params, batch, config, n_steps=n_steps if n_steps == "auto" else int(n_steps)
            )
        )
        seconds.append(time.perf_counter() - start)
    return {"seconds": seconds[0] - seconds[1], "warm_seconds": seconds[1]}


def importance_memory(bench: Bench) -> dict[str, Any]:
    """Measure the peak memory of a process that computes head importance over few and over many
    sentences, in the same buckets.
    """
    few, many = (16, 40) if bench.options.tiny else (100, len(bench.dev))
    rows = [
        in_child(bench, "importance", {}, few=few, count=count, many=many) for count in (few, many)
    ]
    return {"n_steps": 4, "rows": rows, "growth_mib": rows[1]["peak_mib"] - rows[0]["peak_mib"]}


def child_importance(bench: Bench, few: int, count: int, many: int) -> dict[str, Any]:
    """Compute head importance in this process and return its peak memory."""
    classifier = bench.classifier
    limit = classifier.config.max_position_embeddings
    labels = class_indices(bench.dev, classifier.id2label)[:many]
    split = bench.dev.select(range(many))
    chosen = np.arange(many)
    if count < many:
        buckets = np.array(
            [
                bucket_length(int(length), limit)
                for length in encode(classifier, split, limit).lengths
            ]
        )
        chosen = stratified(buckets, few, functools.partial(default_batch_size, classifier.config))
    encoded = encode(classifier, split.select(chosen), limit, labels[chosen])
    before = peak_memory()
    start = time.perf_counter()
    score_heads("attribution", classifier, encoded, sharding.data_mesh(), n_steps=4)
    seconds = time.perf_counter() - start
    return {
        "sentences": len(encoded),
        "peak_mib": peak_memory() / 2**20,
        "before_mib": before / 2**20,
        "seconds": seconds,
        "buckets": ", ".join(
            str(bucket)
            for bucket in sorted({bucket_length(int(length), limit) for length in encoded.lengths})
        ),
    }


def stratified(buckets: np.ndarray, count: int, batch_size: Callable[[int], int]) -> np.ndarray:
    """Return `count` sentences that need the same compiled programs as all: a full batch of every
    bucket, if there is one, and others.
    """
    full = [
        np.flatnonzero(buckets == bucket)[: batch_size(int(bucket))]
        for bucket in np.unique(buckets)
    ]
    first = np.concatenate(full)
    others = np.setdiff1d(np.arange(len(buckets)), first)
    return np.sort(
        np.concatenate(
            [first, np.random.default_rng(0).permutation(others)[: max(0, count - len(first))]]
        )
    )


def peak_memory() -> int:
    """Return the largest resident memory of this process so far, in bytes."""
    # Linux hands ru_maxrss of the parent on to a process it starts, so that a large parent would
    # hide a small child; VmHWM is its own.
    status = Path("/proc/self/status")
    if status.exists():
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        if "VmHWM" in fields:
            return int(fields["VmHWM"].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


RULES = {
    "riemann_left 20": {"method": "riemann_left", "n_steps": 20},
    "riemann_left 64": {"method": "riemann_left", "n_steps": 64},
    "riemann_trapezoid 20": {"method": "riemann_trapezoid", "n_steps": 20},
    "riemann_middle 20": {"method": "riemann_middle", "n_steps": 20},
    **{f"gausslegendre {count}": {"n_steps": count} for count in (3, 5, 8, 10, 20)},
    "fast": {"method": "fast"},
    **{
        f"auto {tolerance:.0e}".replace("e-0", "e-"): {"n_steps": "auto", "tolerance": tolerance}
        for tolerance in (1e-2, 1e-3, 1e-4)
    },
}
TABLE_SENTENCES = 16
TOKEN_REFERENCE = 256  # Gauss-Legendre nodes, which token-level gradients are judged by


def auto(bench: Bench) -> dict[str, Any]:
    """Measure what n_steps="auto" keeps of its promise and what it costs, and the error and cost of
    every rule.
    """
    encoded = bench.sentences(bench.options.auto_sentences, seed=1, skipped=TUNED_ON)
    tolerance = 1e-3
    exact = find(bench, encoded, **REFERENCE).attributions
    found = find(bench, encoded, n_steps="auto", tolerance=tolerance)
    largest, relative = errors(found.attributions, exact)
    some = bench.sentences(min(TABLE_SENTENCES, len(encoded)), seed=1, skipped=TUNED_ON)
    seconds = take_turns(
        {
            "auto": lambda: results_of(run_ours(bench, some, n_steps="auto", tolerance=tolerance)),
            "20 nodes": lambda: results_of(run_ours(bench, some, n_steps=20)),
        },
        bench.options.rounds,
    )
    rows = []
    for name, options in RULES.items():
        by_rule = find(bench, some, **options)
        of_all, of_sums = errors(by_rule.attributions, exact[: len(some)])
        rows.append(
            {
                "rule": name,
                "evaluations": float(by_rule.n_steps.mean()),
                **worst_layer("error", of_all),
                **worst_layer("relative_l1", of_sums),
            }
        )
    if bench.options.plot:
        plot(rows, bench.options.plot)
    return {
        "sentences": len(encoded),
        "tolerance": tolerance,
        "share_relative_l1_within": float((relative <= tolerance).mean()),
        "share_max_error_within": float((largest <= tolerance).mean()),
        "relative_l1_worst": float(relative.max()),
        "max_error_worst": float(largest.max()),
        "share_estimate_at_least_error": float((found.estimates >= relative - 1e-6).mean()),
        "share_sent_to_second_level": float((found.n_steps[:, :-1] > 5).mean()),
        "mean_cost_in_full_nodes": cost_in_full_nodes(bench.classifier.config, encoded, found),
        "mean_evaluations": float(found.n_steps.mean()),
        "mean_evaluations_by_layer": found.n_steps.mean(axis=0).tolist(),
        "share_not_converged": float(1 - found.converged.mean()),
        "time_of_20_nodes_over_auto": ratio(seconds, "20 nodes", "auto"),
        "seconds": [{"what": name, **spread("seconds", each)} for name, each in seconds.items()],
        "sentences_of_times_and_rules": len(some),
        "rules": rows,
    }


def tokens(bench: Bench) -> dict[str, Any]:
    """Measure what token-level gradients with n_steps="auto" keep of their promise and cost."""
    encoded = bench.sentences(bench.options.token_sentences, seed=1, skipped=TUNED_ON)
    model, tolerance = bench.classifier, 1e-2
    sizes = functools.partial(default_batch_size, model.config)
    rows = []
    for batch in inference_batches(encoded, model.config, sizes):
        inputs = model.params, batch.inputs, model.config
        exact = aa.attribute_tokens(*inputs, n_steps=TOKEN_REFERENCE)
        found = aa.attribute_tokens(*inputs, n_steps="auto", tolerance=tolerance)
        size = np.abs(np.asarray(exact.attributions, np.float64)).sum(axis=1)
        error = np.abs(np.asarray(found.attributions - exact.attributions)).sum(axis=1) / size
        of_rows = np.stack([error, np.asarray(found.error_estimate), np.asarray(found.n_steps)])
        rows.append(of_rows[:, batch.indices >= 0])
    error, estimate, n_steps = np.concatenate(rows, axis=1)
    return {
        "sentences": len(error),
        "tolerance": tolerance,
        "reference_nodes": TOKEN_REFERENCE,
        "share_within": float((error <= tolerance).mean()),
        "error_worst": float(error.max()),
        "share_estimate_at_least_error": float((estimate >= error - 1e-6).mean()),
        "mean_evaluations": float(n_steps.mean()),
        "most_evaluations": int(n_steps.max()),
    }


def cost_in_full_nodes(config: aa.BertConfig, encoded: Encoded, found: Found) -> float:
    """Return the mean cost of `auto`; 1 is a node of all layers, forward and backward.

    A node of a layer costs its share of that, by matrix products. α = 1 comes from one backward
    pass of the unchanged model, and the forward pass of α = 0 is needed anyway.
    """
    above = np.asarray(flops_above(config, int(encoded.lengths.mean())))
    shares = above / above.sum()
    lower = slice(0, -1)  # the last layer has neither of these two nodes
    full = ((found.n_steps[:, lower] - 1.5) * shares[lower]).sum(axis=1)
    full += found.n_steps[:, -1] * shares[-1]
    return float(full.mean() + shares[0] / 2)  # backward through every layer once


def plot(rows: Sequence[dict[str, Any]], file: Path) -> None:
    """Draw the error of every rule against its cost."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    # Okabe and Ito's colours, told apart by marker too.
    families = {
        "riemann": ("#D55E00", "s", "Riemann sums"),
        "gauss": ("#0072B2", "o", "Gauss-Legendre"),
        "auto": ("#009E73", "D", "auto"),
        "fast": ("#CC79A7", "^", "fast"),
    }
    pyplot.rcParams.update({"svg.hashsalt": "accuracy_cost", "font.size": 9})
    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for prefix, (colour, marker, family) in families.items():
        points = [row for row in rows if row["rule"].startswith(prefix)]
        cost, median, worst = (
            [row[key] for row in points] for key in ("evaluations", "error_median", "error_worst")
        )
        axes.vlines(cost, median, worst, color=colour, linewidth=0.8, alpha=0.6)
        axes.plot(cost, median, marker, color=colour, label=f"{family}: median of the sentences")
        axes.plot(
            cost, worst, marker, color=colour, markerfacecolor="white", label=f"{family}: worst"
        )
        for row in points:
            text = row["rule"].replace("riemann_", "").replace("gausslegendre", "Gauss")
            left = prefix == "auto"
            axes.annotate(
                text,
                (row["evaluations"], row["error_median"]),
                xytext=(-6 if left else 6, -3),
                textcoords="offset points",
                ha="right" if left else "left",
                color=colour,
                fontsize=8,
            )
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="evaluations of the gradient per layer and sentence (mean)",
    )
    axes.set_ylabel("error of the worst layer: max|difference| / max|attribution|")
    ticks = [3, 5, 10, 20, 50, 100]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xlim(2.5, 110)
    axes.minorticks_off()
    axes.grid(True, alpha=0.25)
    axes.legend(fontsize=7, loc="lower right", bbox_to_anchor=(1.0, 0.2))
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, format="svg", metadata={"Date": None})
    pyplot.close(figure)


def bfloat16(bench: Bench) -> dict[str, Any]:
    """Measure the error of computing in bfloat16, 20 nodes each."""
    encoded = bench.sentences(min(TABLE_SENTENCES, bench.options.auto_sentences), seed=1)
    exact = find(bench, encoded, n_steps=20)
    half = find(
        bench, encoded, dataclasses.replace(bench.classifier.config, dtype="bfloat16"), n_steps=20
    )
    largest, relative = errors(half.attributions, exact.attributions)
    return {
        "sentences": len(encoded),
        "n_steps": 20,
        **worst_layer("error", largest),
        **worst_layer("relative_l1", relative),
    }


def gpu(bench: Bench) -> dict[str, Any]:
    """Relate BERT-base's FLOPs on an accelerator to its dense peak, in float32 (JAX's default
    precision) and bfloat16.
    """
    if jax.default_backend() == "cpu":
        return {"skipped": "no accelerator"}
    rows = [_accelerated(bench, BASE, dtype, 64, 8192) for dtype in ("float32", "bfloat16")]
    return {"rows": rows}


def _accelerated(
    bench: Bench, geometry: aa.BertConfig, dtype: str, num_tokens: int, square: int
) -> dict[str, Any]:
    config = dataclasses.replace(geometry, dtype=None if dtype == "float32" else dtype)
    params = aa.init_params(geometry, jax.random.key(0))
    rows = default_batch_size(config, num_tokens)
    batch = jax.device_put(random_batch(config, rows, num_tokens))
    name, (product, flops) = list(matmuls(config, dtype, square=square).items())[-1]
    calls = {
        "ours": lambda: aa.attribute_attention(params, batch, config, n_steps=20),
        name: lambda: [product() for _ in range(10)],
    }
    seconds = take_turns(calls, bench.options.rounds)
    achieved = useful_flops(config, rows, num_tokens, 20) / np.array(seconds["ours"]) / 1e12
    dense = 10 * flops / np.array(seconds[name]) / 1e12
    return {
        "dtype": dtype,
        "B": rows,
        "T": num_tokens,
        **spread("seconds", seconds["ours"]),
        **spread("useful_tflops_per_s", achieved),
        "peak_tflops_per_s": float(np.median(dense)),
        "share_of_peak": float(np.median(achieved / dense)),
    }


PARTS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "peak": peak,
    "reference_settings": reference_settings,
    "equal_steps": equal_steps,
    "memory": memory,
    "compile": compile_times,
    "importance_memory": importance_memory,
    "auto": auto,
    "tokens": tokens,
    "bfloat16": bfloat16,
    "gpu": gpu,
}
CHILDREN = {"compile": child_compile, "importance": child_importance}


# --- command line ---------------------------------------------------------------------------------


def in_child(
    bench: Bench, name: str, environment: dict[str, str], **arguments: Any
) -> dict[str, Any]:
    """Run one of `CHILDREN` in a fresh process and return what it found."""
    options = bench.options
    command = [
        sys.executable,
        __file__,
        "--checkpoint",
        options.checkpoint,
        "--data",
        options.data,
        "--output",
        str(options.output),
    ]
    command += ["--tiny"] if options.tiny else []
    command += ["--child", json.dumps({"name": name, "arguments": arguments})]
    output = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | environment
    ).stdout
    return json.loads(output.splitlines()[-1])


def markdown(title: str, figures: dict[str, Any]) -> str:
    """Return figures as Markdown tables: lists of rows as they are, everything else as name and
    value.
    """

    def shown(value):
        if isinstance(value, list):
            return ", ".join(map(shown, value))
        return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)

    def table(rows):
        names = list(rows[0])
        lines = [
            names,
            ["---"] * len(names),
            *([shown(row.get(name)) for name in names] for row in rows),
        ]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)

    tables = {
        name: value
        for name, value in figures.items()
        if isinstance(value, list) and value and isinstance(value[0], dict)
    }
    single = [
        {"figure": name, "value": value} for name, value in figures.items() if name not in tables
    ]
    return (
        "\n\n".join(
            [
                f"## {title}",
                table(single),
                *(f"### {name}\n\n{table(rows)}" for name, rows in tables.items()),
            ]
        )
        + "\n"
    )


def version(package: str) -> str | None:
    """Return an installed package's version."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def main() -> None:
    """Run the parts asked for, and write the result file after each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", required=True, help="a fine-tuned classifier")
    parser.add_argument("--data", required=True, help="a folder with GLUE's dev.tsv")
    parser.add_argument("--output", required=True, type=Path, help="the result file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--parts", default=",".join(PARTS), help="some of %(default)s")
    parser.add_argument("--auto_sentences", type=int, default=200)
    parser.add_argument("--token_sentences", type=int, default=96)
    parser.add_argument("--reference_sentences", type=int, default=12)
    parser.add_argument("--equal_batch", type=int, default=8)
    parser.add_argument(
        "--plot", type=Path, help="where to draw the errors of the rules against their cost, .svg"
    )
    parser.add_argument("--tiny", action="store_true", help="smaller sizes, to try the script out")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.tiny:
        global BASE, matmuls
        BASE, matmuls = (
            dataclasses.replace(BASE, num_hidden_layers=2),
            functools.partial(matmuls, square=1024),
        )
    bench = Bench(options)
    if options.child:
        child = json.loads(options.child)
        print(json.dumps(CHILDREN[child["name"]](bench, **child["arguments"])))
        return
    parts = options.parts.split(",")
    if unknown := sorted(set(parts) - set(PARTS)):
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")

    before = (
        json.loads(options.output.read_text(encoding="utf-8")) if options.output.exists() else {}
    )
    devices = jax.devices()
    given = {
        name: value
        for name, value in vars(options).items()
        if value != parser.get_default(name)
        and name not in ("checkpoint", "data", "output", "parts", "plot", "tiny")
    }
    command = (
        f"python benchmarks/engine.py --checkpoint runs/{Path(options.checkpoint).name} --data"
        " path/to/sst2"
    )
    command += f" --output benchmarks/results/{options.output.name}" + "".join(
        f" --{name} {value}" for name, value in given.items()
    )
    command += f" --plot docs/{options.plot.name}" if options.plot else ""
    command += " --tiny" if options.tiny else ""
    result = {
        "command": command,
        "device": f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})",
        "cpu_count": os.cpu_count(),
        "packages": {name: version(name) for name in PACKAGES},
        "parts": before.get("parts", {}),
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    for name in PARTS:
        if name in parts:
            print(f"{name} …", file=sys.stderr)
            start = time.perf_counter()
            figures = PARTS[name](bench)
            figures = {
                "rounds": options.rounds,
                "wall_seconds": time.perf_counter() - start,
                **figures,
            }
            result["parts"] = {
                each: figures if each == name else result["parts"].get(each) for each in PARTS
            }
            result["parts"] = {
                each: value for each, value in result["parts"].items() if value is not None
            }
            options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
            print(markdown(name, figures), flush=True)


if __name__ == "__main__":
    main()
