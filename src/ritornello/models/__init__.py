"""The models: one protocol (``protocol``), one file per model, and this table that builds them from checkpoints."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ritornello.checkpoint import Checkpoint
from ritornello.errors import RitornelloError
from ritornello.horizons import HorizonSchedule
from ritornello.models.dsmr import DSMR, DSMRConfig
from ritornello.models.perceivers import Perceiver, PerceiverConfig

Model = DSMR | Perceiver
Config = DSMRConfig | PerceiverConfig
FAMILIES: dict[str, tuple[type[DSMR], type[DSMRConfig]] | tuple[type[Perceiver], type[PerceiverConfig]]] = {
    "dsmr": (DSMR, DSMRConfig),
    "perceivers": (Perceiver, PerceiverConfig),
}


def family_of(config: Config) -> str:
    """The name of the family that a config belongs to."""
    return next(name for name, (_, kind) in FAMILIES.items() if isinstance(config, kind))


def describe_config(config: Config) -> dict[str, Any]:
    """A config as JSON-able values; `build` turns it back into a model."""
    described = asdict(config)
    if isinstance(config, DSMRConfig):
        described["schedule"] = str(config.schedule)
    else:
        described["scales"] = list(config.scales)
    return described


def describe_memory(config: Config) -> str:
    """What a model of this config remembers, in a few words."""
    motifs = f", motif memory of {config.motif_notes:,} strikes" if config.motif_notes else ""
    if isinstance(config, DSMRConfig):
        return f"horizons {config.schedule}{motifs}"
    scales = ", ".join(f"{scale or config.context_tokens:,}" for scale in config.scales)
    return f"context {scales} tokens, {config.latents:,} latents{motifs}"


def describe_model(model: Any) -> tuple[str, dict[str, Any]]:
    """Family and JSON-able config of a model."""
    if not isinstance(model, (DSMR, Perceiver)):
        raise TypeError(f"{type(model).__name__} is of no known family")
    return family_of(model.config), describe_config(model.config)


def build(family: str, config: dict[str, Any]) -> Model:
    """A model of random weights. Raises RitornelloError for an unknown family or a config that does not fit it."""
    if family not in FAMILIES:
        raise RitornelloError(f"unknown model family {family!r}; there are {', '.join(FAMILIES)}")
    try:
        if family == "dsmr":
            schedule = HorizonSchedule.parse(str(config["schedule"]))
            return DSMR(DSMRConfig(**{**config, "schedule": schedule}))
        return Perceiver(PerceiverConfig(**config))
    except (TypeError, KeyError) as error:
        raise RitornelloError(f"the config does not fit the family {family}: {error}") from None


def from_checkpoint(checkpoint: Checkpoint) -> Model:
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
