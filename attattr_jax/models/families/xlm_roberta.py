"""XLM-RoBERTa (Conneau et al., ACL 2020): RoBERTa with a vocabulary of its own."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from ..family import Family
from . import roberta


@dataclasses.dataclass(frozen=True)
class XlmRobertaConfig(roberta.RobertaConfig):
    """An XLM-RoBERTa sequence classifier (defaults: the base model, two classes)."""

    model_type: ClassVar = "xlm-roberta"
    architecture: ClassVar = "XLMRobertaForSequenceClassification"
    title: ClassVar = "XLM-RoBERTa"
    hf_defaults: ClassVar = {**roberta.RobertaConfig.hf_defaults, "vocab_size": 30522}

    vocab_size: int = 250002


FAMILY = Family(XlmRobertaConfig, roberta.RobertaClassifier, roberta.FAMILY.tensors)
