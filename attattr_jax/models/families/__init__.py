"""The families of models that can be used. A new one is a file here, named in `MODULES`."""

from __future__ import annotations

from typing import Any

from ...errors import InputError
from ..config import EncoderConfig
from ..encoder import Encoder
from ..family import Family
from ..types import Params
from . import (
    albert,
    bert,
    camembert,
    deberta_v2,
    distilbert,
    electra,
    modernbert,
    mpnet,
    roberta,
    xlm_roberta,
)

MODULES = (
    bert,
    distilbert,
    roberta,
    xlm_roberta,
    camembert,
    electra,
    deberta_v2,
    modernbert,
    mpnet,
    albert,
)
FAMILIES: dict[str, Family] = {module.FAMILY.config.model_type: module.FAMILY for module in MODULES}


def family_of(config: EncoderConfig) -> Family:
    """Return the family that a configuration is of."""
    return FAMILIES[config.model_type]


def config_class(model_type: Any) -> type[EncoderConfig]:
    """Return the configuration class of a `config.json` with this `model_type`.

    Raises:
      InputError: there is no such family.
    """
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        known = ", ".join(map(repr, FAMILIES))
        raise InputError(f"model_type is {model_type!r:.80}; only {known} models can be used")
    return FAMILIES[model_type].config


def encoder_of(config: EncoderConfig) -> Encoder:
    """Return the Linen module of a model."""
    return family_of(config).encoder(config)


def apply_encoder(params: Params, config: EncoderConfig, *args: Any, **kwargs: Any) -> Any:
    """Call a method of the encoder (`method=`, by default the whole model) with parameters."""
    return encoder_of(config).apply({"params": params}, *args, **kwargs)
