"""Write a classifier as an ONNX model, which onnxruntime and others run without JAX.

    python examples/export_onnx.py runs/demo-pruned demo-pruned.onnx --num_tokens 128

Its inputs are those of `Classifier.tokenize`, int32 [batch, num_tokens], with any number of rows;
its output is `logits` [batch, C]. Shorter texts are padded to `num_tokens`. A model without some of
its heads is exported as it is, smaller. jax2onnx 0.17 does not go with the orbax-checkpoint that
training needs: give it an environment of its own (docs/pruning.md).
"""

import argparse
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp

import attattr_jax as aa
from attattr_jax.models.families import apply_encoder

INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def export_onnx(classifier: aa.Classifier, file: Path, num_tokens: int) -> None:
    """Write a classifier for texts of `num_tokens` tokens, any number at once."""
    import jax2onnx

    def logits(*arrays):
        batch = dict(zip(INPUTS, arrays, strict=True))
        params, config = classifier.params, classifier.config
        return apply_encoder(params, config, batch, only_read_rows=True)[0]

    (rows,) = jax.export.symbolic_shape("batch")
    shapes = [jax.ShapeDtypeStruct((rows, num_tokens), jnp.int32)] * len(INPUTS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of shapes that it does not know, which do no harm
        model = jax2onnx.to_onnx(logits, shapes, input_names=INPUTS, output_names=["logits"])
    file.write_bytes(model.SerializeToString())


def main() -> None:
    """Export the classifier that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint")
    parser.add_argument("file", type=Path)
    parser.add_argument("--num_tokens", type=int, default=128)
    options = parser.parse_args()
    export_onnx(aa.load_classifier(options.checkpoint), options.file, options.num_tokens)


if __name__ == "__main__":
    main()
