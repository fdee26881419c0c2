"""The published algorithm of self-attention attribution in PyTorch, for comparison: written from
its description, on `transformers`' BERT.

For each layer by itself: the layers below run once, the layer's attention A is replaced by αA for
every α of the rule, the layers above run with one row for each α, and autograd gives the gradient
of the softmax probability with respect to αA. Attribution = A ∘ Σ w · gradient.

Shapes: B examples, T tokens, L layers, N heads, D hidden size, M integration steps, R rows
(examples × steps).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import transformers
from torch import Tensor, nn


def load(folder: str) -> nn.Module:
    """Return the folder's BertForSequenceClassification, without dropout and without gradients of
    parameters.
    """
    return frozen(
        transformers.BertForSequenceClassification.from_pretrained(
            folder, attn_implementation="eager"
        )
    )


def frozen(model: nn.Module) -> nn.Module:
    """Return the model without dropout and without gradients of parameters."""
    return model.eval().requires_grad_(False)


def attribute(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    token_type_ids: Tensor,
    nodes: Sequence[float],
    weights: Sequence[float],
    target: int | None = None,
) -> tuple[Tensor, int, float]:
    """Attribute one example's probability to the attention of every layer, as published: all steps
    of a layer are one batch.

    Args:
      model: see `load`.
      input_ids, attention_mask, token_type_ids: int [1, T].
      nodes, weights: the rule, [M] each.
      target: the class; None: the predicted one.

    Returns:
      attributions [L, N, T, T], the class explained, its probability.
    """
    targets = None if target is None else torch.tensor([target])
    found, targets, scores = attribute_batch(
        model, input_ids, attention_mask, token_type_ids, nodes, weights, targets
    )
    return found[0], int(targets[0]), float(scores[0])


def attribute_batch(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    token_type_ids: Tensor,
    nodes: Sequence[float],
    weights: Sequence[float],
    target: Tensor | None = None,
    rows_at_once: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Attribute B examples at once, with all steps of a layer in one batch of B·M rows or in chunks
    of `rows_at_once` rows.

    Returns:
      attributions [B, L, N, T, T], the classes explained [B], their probabilities [B].
    """
    num_examples, num_tokens = input_ids.shape
    alphas, weights = (
        torch.as_tensor(np.asarray(values), dtype=torch.float32) for values in (nodes, weights)
    )
    steps = len(alphas) if rows_at_once is None else max(1, rows_at_once // num_examples)
    added = additive_mask(attention_mask)
    hidden, probs, target, score = clean_pass(model, input_ids, added, token_type_ids, target)
    attributions = []
    for layer, (below, attention) in enumerate(zip(hidden, probs, strict=True)):
        total = torch.zeros_like(attention)
        for some, their_weights in zip(alphas.split(steps), weights.split(steps), strict=True):
            scaled = (
                some[:, None, None, None, None] * attention
            ).requires_grad_()  # [M, B, N, T, T]
            rows = len(some) * num_examples
            repeated = below.expand(len(some), -1, -1, -1).reshape(rows, num_tokens, -1)
            outputs = output_from(
                model,
                layer,
                repeated,
                scaled.flatten(0, 1),
                added.repeat(len(some), 1, 1, 1),
                target.repeat(len(some)),
            )
            gradient = torch.autograd.grad(outputs.sum(), scaled)[0]
            total += torch.tensordot(their_weights, gradient, 1)
        attributions.append(attention * total)
    return torch.stack(attributions, 1), target, score


def captum_attribute(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    token_type_ids: Tensor,
    n_steps: int = 20,
    target: Tensor | None = None,
) -> Tensor:
    """Attribute B examples with Captum's IntegratedGradients (Gauss-Legendre) on a function of a
    layer's attention, [B, L, N, T, T].

    Not with LayerIntegratedGradients: it hooks modules, and the softmax of `transformers`' eager
    attention is a function; and its path starts at the layer's output for a baseline input, which
    for attention is never zero. The function of the attention also leaves out the layers below,
    which LayerIntegratedGradients would run again for every step.
    """
    from captum.attr import IntegratedGradients

    added = additive_mask(attention_mask)
    hidden, probs, target, _ = clean_pass(model, input_ids, added, token_type_ids, target)
    attributions = []
    for layer, (below, attention) in enumerate(zip(hidden, probs, strict=True)):

        def output(scaled, below, added, target, layer=layer):
            return output_from(model, layer, below, scaled, added, target)

        found = IntegratedGradients(output).attribute(
            attention,
            baselines=torch.zeros_like(attention),
            additional_forward_args=(below, added, target),  # Captum repeats these for every step
            n_steps=n_steps,
            method="gausslegendre",
            internal_batch_size=None,
        )
        attributions.append(found)
    return torch.stack(attributions, 1)


# --- the model, by hand ---------------------------------------------------------------------------


def additive_mask(attention_mask: Tensor) -> Tensor:
    """Return what is added to the scores, [B, 1, 1, T]: 0 for real tokens, the lowest number for
    padding.
    """
    return (1 - attention_mask[:, None, None, :].float()) * torch.finfo(torch.float32).min


@torch.no_grad()
def clean_pass(
    model: nn.Module,
    input_ids: Tensor,
    added: Tensor,
    token_type_ids: Tensor,
    target: Tensor | None,
) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
    """Return each layer's input [B, T, D] and attention [B, N, T, T], the class to explain and its
    probability [B].
    """
    states = model.bert.embeddings(input_ids=input_ids, token_type_ids=token_type_ids)
    hidden, probs = [], []
    for layer in model.bert.encoder.layer:
        hidden.append(states)
        probs.append(attention_of(layer.attention.self, states, added))
        states = rest_of_layer(layer, states, probs[-1])
    outputs = torch.softmax(model.classifier(model.bert.pooler(states)), -1)
    target = outputs.argmax(-1) if target is None else target
    return hidden, probs, target, outputs.gather(1, target[:, None])[:, 0]


def output_from(
    model: nn.Module, first: int, states: Tensor, attention: Tensor, added: Tensor, target: Tensor
) -> Tensor:
    """Return the target's probability [R] from the layer `first` on, with this attention [R, N, T,
    T] in it.
    """
    for number, layer in enumerate(model.bert.encoder.layer[first:]):
        states = rest_of_layer(
            layer,
            states,
            attention if number == 0 else attention_of(layer.attention.self, states, added),
        )
    outputs = torch.softmax(model.classifier(model.bert.pooler(states)), -1)
    return outputs.gather(1, target[:, None])[:, 0]


def heads_of(module: nn.Module, values: Tensor) -> Tensor:
    """Return [R, T, D] as [R, N, T, D/N]."""
    return values.unflatten(-1, (module.num_attention_heads, module.attention_head_size)).transpose(
        1, 2
    )


def attention_of(module: nn.Module, states: Tensor, added: Tensor) -> Tensor:
    """Return a layer's attention probabilities, [R, N, T, T]."""
    query, key = heads_of(module, module.query(states)), heads_of(module, module.key(states))
    scores = query @ key.transpose(-1, -2) * module.attention_head_size**-0.5
    return torch.softmax(scores + added, -1)


def rest_of_layer(layer: nn.Module, states: Tensor, attention: Tensor) -> Tensor:
    """Return a layer's output [R, T, D], given its attention."""
    module = layer.attention.self
    context = (attention @ heads_of(module, module.value(states))).transpose(1, 2).flatten(2)
    attended = layer.attention.output(context, states)
    return layer.output(layer.intermediate(attended), attended)
