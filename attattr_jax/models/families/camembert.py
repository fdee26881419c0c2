"""CamemBERT (Martin et al., ACL 2020): RoBERTa with a vocabulary of its own."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from ..family import Family
from . import roberta


@dataclasses.dataclass(frozen=True)
class CamembertConfig(roberta.RobertaConfig):
    """A CamemBERT sequence classifier (defaults: the base model, two classes)."""

    model_type: ClassVar = "camembert"
    architecture: ClassVar = "CamembertForSequenceClassification"
    title: ClassVar = "CamemBERT"
    hf_defaults: ClassVar = {**roberta.RobertaConfig.hf_defaults, "vocab_size": 30522}

    vocab_size: int = 32005


FAMILY = Family(CamembertConfig, roberta.RobertaClassifier, roberta.FAMILY.tensors)
