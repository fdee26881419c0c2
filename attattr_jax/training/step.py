"""One training step: AdamW with linear warm-up and decay, a jit-ted step with donated state.

The state after step s is a function of the seed, the data and s alone: dropout keys are folded from
(seed, s).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from ..models.config import EncoderConfig
from ..models.families import apply_encoder
from ..models.types import Array

MAX_GRAD_NORM = 1.0


@dataclasses.dataclass(frozen=True)
class TrainingOptions:
    """The recipe."""

    num_train_epochs: int = 2
    train_batch_size: int = 32
    learning_rate: float = 2e-5
    weight_decay: float = 0.01
    warmup_ratio: float = 0.1
    save_steps: int = 500
    logging_steps: int = 50
    seed: int = 0


class TrainState(flax.struct.PyTreeNode):
    """All that changes during training, and all that a checkpoint holds."""

    step: Array  # int32 [], optimizer steps done
    params: Any
    opt_state: Any
    loss_sum: Array  # float32 [], of the steps since the last log line


def make_optimizer(
    options: TrainingOptions, num_steps: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Return AdamW and its schedule: linear warm-up to `learning_rate`, linear decay to 0.

    The gradient norm is clipped. No weight decay on biases and LayerNorm, as BERT was trained.
    """
    num_warmup = int(options.warmup_ratio * num_steps)
    schedule = optax.schedules.warmup_constant_schedule(0.0, options.learning_rate, num_warmup)
    decay = optax.schedules.linear_schedule(
        options.learning_rate, 0.0, max(1, num_steps - num_warmup)
    )
    schedule = optax.schedules.join_schedules([schedule, decay], [num_warmup])

    def is_decayed(params):
        return jax.tree_util.tree_map_with_path(
            lambda path, _: path[-1].key in ("kernel", "embedding"), params
        )

    optimizer = optax.chain(
        optax.clip_by_global_norm(MAX_GRAD_NORM),
        optax.adamw(schedule, weight_decay=options.weight_decay, mask=is_decayed),
    )
    return optimizer, schedule


def losses_of(logits: Array, labels: Array, config: EncoderConfig) -> Array:
    """Return the loss [B] of logits [B, C], as the model's kind of outputs has it.

    Cross-entropy of one class [B]; the mean over labels [B, C] of binary cross-entropy; the squared
    error of one number [B].
    """
    if config.is_multi_label:
        losses = optax.losses.sigmoid_binary_cross_entropy(logits, labels.astype(logits.dtype))
        return losses.mean(axis=-1)
    if config.num_labels == 1:
        return jnp.square(logits[:, 0] - labels)
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)


def make_train_step(
    config, optimizer: optax.GradientTransformation, seed: int, shardings: TrainState | None = None
) -> Callable:
    """Return the compiled step (state, inputs, labels, weights) -> (state, loss).

    The state given is donated.

    Args:
      shardings: where the new state's arrays are to be, by default where the compiler puts them.
    """

    def loss_of(params, inputs, labels, weights, dropout_key):
        rngs = {"dropout": dropout_key}
        logits, _, _ = apply_encoder(
            params, config, inputs, only_read_rows=True, train=True, rngs=rngs
        )
        losses = losses_of(logits, labels, config)
        return jnp.sum(losses * weights) / jnp.sum(weights)

    @functools.partial(
        jax.jit, donate_argnums=0, out_shardings=None if shardings is None else (shardings, None)
    )
    def train_step(state: TrainState, inputs, labels, weights) -> tuple[TrainState, Array]:
        dropout_key = jax.random.fold_in(jax.random.key(seed), state.step)
        loss, gradient = jax.value_and_grad(loss_of)(
            state.params, inputs, labels, weights, dropout_key
        )
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, opt_state, state.loss_sum + loss), loss

    return train_step
