"""Compare with the golden numbers on an accelerator.

    JAX_DEFAULT_MATMUL_PRECISION=highest python benchmarks/golden_accelerator.py \\
        --output benchmarks/results/golden_accelerator.json

The tests do this on a CPU. For each family of `tests/golden`: the largest difference of logits,
attention attributions and token attributions from float64 numbers of a separate implementation, as
a share of the largest value.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import attattr_jax as aa

GOLDEN = Path(__file__).parent.parent / "tests" / "golden"
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def differences(folder: Path) -> dict[str, float]:
    """Return the largest differences of one family, as shares of the largest value."""
    classifier = aa.load_classifier(folder)
    with np.load(folder / "expected.npz") as file:
        expected = dict(file)
    batch = {name: expected[name].astype(np.int32) for name in INPUTS}
    arguments = classifier.params, batch, classifier.config
    target = jnp.asarray(expected["target_gauss8_predicted"], jnp.int32)
    attention = aa.attribute_attention(*arguments, target=target, n_steps=8)
    tokens = aa.attribute_tokens(*arguments, n_steps=20)
    results = {
        "logits": (aa.forward(*arguments)[0], "logits"),
        "attributions": (attention.attributions, "attributions_gauss8_predicted"),
        "token_attributions": (tokens.attributions, "token_attributions_gauss20_predicted"),
    }
    return {
        name: float(np.abs(np.asarray(values) - expected[key]).max() / np.abs(expected[key]).max())
        for name, (values, key) in results.items()
    }


def main() -> None:
    """Write the result file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", required=True, type=Path, help="the result file")
    options = parser.parse_args()
    device = jax.devices()[0]
    result = {
        "command": "python benchmarks/golden_accelerator.py"
        f" --output benchmarks/results/{options.output.name}",
        "device": f"{device.device_kind} ({device.platform})",
        "matmul_precision": jax.config.jax_default_matmul_precision,
        "packages": {name: importlib.metadata.version(name) for name in ("jax", "flax")},
        "families": {
            file.parent.name: differences(file.parent)
            for file in sorted(GOLDEN.glob("*/config.json"))
        },
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
