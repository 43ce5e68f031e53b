"""The models: one protocol (``protocol``), one file per model, and this table that builds them from checkpoints."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from torch import nn

from ritornello.checkpoint import Checkpoint
from ritornello.errors import RitornelloError
from ritornello.horizons import HorizonSchedule
from ritornello.models.dsmr import DSMR, DSMRConfig

DSMR_FAMILY = "dsmr"


def describe_model(model: nn.Module) -> tuple[str, dict[str, Any]]:
    """Family and JSON-able config of a model; `build` turns them back into one."""
    if not isinstance(model, DSMR):
        raise TypeError(f"{type(model).__name__} is of no known family")
    config = asdict(model.config)
    config["schedule"] = str(model.config.schedule)
    return DSMR_FAMILY, config


def build(family: str, config: dict[str, Any]) -> DSMR:
    """A model of random weights. Raises RitornelloError for an unknown family or a config that does not fit it."""
    if family != DSMR_FAMILY:
        raise RitornelloError(f"unknown model family {family!r}; known is {DSMR_FAMILY}")
    try:
        sizes = {key: value for key, value in config.items() if key != "schedule"}
        return DSMR(DSMRConfig(schedule=HorizonSchedule.parse(str(config["schedule"])), **sizes))
    except (TypeError, KeyError) as error:
        raise RitornelloError(f"the config does not fit the family {family}: {error}") from None


def from_checkpoint(checkpoint: Checkpoint) -> DSMR:
    """The model of a checkpoint, with its weights, ready for evaluation.

    Raises:
        RitornelloError: naming the folder, for an unknown family, or weights that do not fit the config.
    """
    try:
        model = build(checkpoint.family, checkpoint.config)
    except RitornelloError as error:
        raise RitornelloError(f"{checkpoint.folder}: {error}") from None
    weights = checkpoint.tensors()
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    if expected != {name: tensor.shape for name, tensor in weights.items()}:
        raise RitornelloError(f"{checkpoint.folder}: its weights are of another model than its config describes")
    model.load_state_dict(weights)
    return model.eval()
