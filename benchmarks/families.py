"""Every family at the geometry of its base model: parity with transformers, and speed.

    python benchmarks/families.py --output benchmarks/results/families.json

Random weights. Parity needs Torch (`pip install torch==2.13.0`), which the package does not: the
largest difference of a logit from `transformers`' PyTorch model, float32, of 16 texts of mixed
length, of sentence pairs where the family has segments, and of one text of 400 tokens. Vocabularies
are cut to 5,000, which changes nothing else. Speed: an attribution of every family at the same
geometry, in rounds that take turns, as a ratio to BERT's.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import jax
import numpy as np

import attattr_jax as aa
from attattr_jax.models import families, tensors

VOCABULARY = 5000
LENGTHS = (5, 9, 12, 16, 17, 23, 30, 31, 40, 48, 57, 64, 80, 97, 110, 128)
ROUNDS = 5
# What the base models' config.json say where it is not the default here.
BASE = {
    "bert": {},
    "roberta": {},
    "xlm-roberta": {},
    "camembert": {},
    "distilbert": {},
    "electra": {
        "hidden_size": 768,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "embedding_size": 768,
    },
    "deberta-v2": {},
    "modernbert": {"pad_token_id": 0},
    "modernbert-mean": {"pad_token_id": 0, "classifier_pooling": "mean"},
    "mpnet": {},
    "albert": {},
}
SAME = {
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
    "vocab_size": VOCABULARY,
}


def config_of(name: str, **fields):
    """Return a configuration of a family, with weights large enough that texts differ."""
    family = families.FAMILIES[name.removesuffix("-mean")].config
    return family(**{"vocab_size": VOCABULARY, "initializer_range": 0.05, **fields})


def batch_of(config, lengths, seed: int, has_pairs: bool = False) -> dict[str, np.ndarray]:
    """Return random ids with padding."""
    random = np.random.default_rng(seed)
    shape = len(lengths), max(lengths)
    mask = (np.arange(shape[1])[None] < np.asarray(lengths)[:, None]).astype(np.int32)
    ids = random.integers(10, VOCABULARY, shape) * mask + config.pad_token_id * (1 - mask)
    segments = mask * (np.arange(shape[1])[None] >= np.asarray(lengths)[:, None] // 2)
    return {
        "input_ids": ids.astype(np.int32),
        "attention_mask": mask,
        "token_type_ids": (segments if has_pairs else np.zeros(shape)).astype(np.int32),
    }


def parity(name: str, folder: Path) -> dict:
    """Return the largest differences of a logit from the PyTorch model's."""
    import torch
    import transformers

    def difference(classifier, batch) -> dict[str, float]:
        """Return how far the saved classifier's logits are from what transformers makes of it."""
        aa.save_classifier(classifier, folder)
        model = transformers.AutoModelForSequenceClassification.from_pretrained(
            folder, attn_implementation="eager"
        ).eval()
        given = {key: torch.tensor(values, dtype=torch.long) for key, values in batch.items()}
        if config.num_segments == 1:
            del given["token_type_ids"]
        with torch.no_grad():
            theirs = model(**given).logits.numpy()
        ours = np.asarray(aa.forward(classifier.params, batch, classifier.config)[0])
        return {
            "largest_difference": float(np.abs(ours - theirs).max()),
            "largest_logit": float(np.abs(theirs).max()),
            "standard_deviation": float(theirs.std(axis=0).max()),
        }

    config = config_of(name, **BASE[name])
    params = tensors.init_params(config, jax.random.key(0))
    classifier = aa.Classifier(config, params, None, {0: "no", 1: "yes"})
    batches = {"texts": batch_of(config, LENGTHS, 0), "long": batch_of(config, (400,), 1)}
    if config.num_segments > 1:
        batches["pairs"] = batch_of(config, LENGTHS, 2, has_pairs=True)
    result = {"parameters": sum(value.size for value in jax.tree.leaves(params))}
    result |= {kind: difference(classifier, batch) for kind, batch in batches.items()}
    if not config.shares_layers:
        mask = np.ones((config.num_hidden_layers, config.num_attention_heads))
        mask[:, ::2] = 0
        filled = aa.fill_heads(aa.remove_heads(classifier, mask))
        result["half of the heads, full size"] = difference(filled, batches["texts"])
    return result


def speed() -> dict:
    """Return seconds of an attribution of 8 texts of 32 tokens, 8 nodes, of every family."""
    cases = {}
    for name in [*BASE, "bert again"]:
        family = name.removesuffix(" again")
        extra = {"embedding_size": 384} if family in ("electra", "albert") else {}
        if family.endswith("-mean"):
            extra["classifier_pooling"] = "mean"
        if family == "modernbert" or family.endswith("-mean"):
            extra |= {"pad_token_id": 0, "intermediate_size": 1024}  # as many weights with the gate
        config = config_of(family, **{**SAME, **extra})
        params = jax.device_put(tensors.init_params(config, jax.random.key(0)))
        batch = batch_of(config, (32,) * 8, 0)
        cases[name] = (params, batch, config)

    def attribute(arguments):
        result = aa.attribute_attention(*arguments, n_steps=8, reduce="head_max")
        return jax.block_until_ready(result.attributions)

    for arguments in cases.values():
        attribute(arguments)
    times = {name: [] for name in cases}
    for _ in range(ROUNDS):
        for name, arguments in cases.items():
            start = time.perf_counter()
            attribute(arguments)
            times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "seconds": medians,
        "ratio_to_bert": {name: value / medians["bert"] for name, value in medians.items()},
    }


def code_lines() -> dict[str, int]:
    """Return the lines of each family's file without blank lines, comments and docstrings."""
    import ast

    counts = {}
    for module in families.MODULES:
        source = Path(module.__file__).read_text(encoding="utf-8")
        left_out = set()
        for node in ast.walk(ast.parse(source)):
            body = getattr(node, "body", None)
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and body:
                first = body[0]
                if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                    left_out |= set(range(first.lineno, first.end_lineno + 1))
        lines = enumerate(source.splitlines(), 1)
        counts[module.FAMILY.config.model_type] = sum(
            bool(line.strip()) and not line.strip().startswith("#") and number not in left_out
            for number, line in lines
        )
    return counts


def main() -> None:
    """Measure, and write the result file."""
    import tempfile

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--skip_parity", action="store_true", help="without Torch")
    options = parser.parse_args()
    before = {}
    if options.output and options.output.exists():
        before = json.loads(options.output.read_text(encoding="utf-8"))
    result = {"code_lines": code_lines(), "speed": speed(), "parity": before.get("parity")}
    if not options.skip_parity:
        result["parity"] = {}
        for name in BASE:
            with tempfile.TemporaryDirectory() as folder:
                result["parity"][name] = parity(name, Path(folder))
            print(name, json.dumps(result["parity"][name]), flush=True)
    for of_family in (result["parity"] or {}).values():
        kinds = [values for values in of_family.values() if isinstance(values, dict)]
        of_family["largest_difference"] = max(kind["largest_difference"] for kind in kinds)
    print(json.dumps(result, indent=2))
    if options.output:
        options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
