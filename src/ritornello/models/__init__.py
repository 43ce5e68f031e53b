"""The models: their sizes and the registry of families (``config``), one base (``protocol``), one file per family.

Here checkpoints become models. torch is loaded when the first is built.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from ritornello.checkpoint import Checkpoint
from ritornello.errors import RitornelloError
from ritornello.models.config import FAMILIES, ModelConfig, at_place, read_config

if TYPE_CHECKING:
    from ritornello.models.protocol import Model


def build(config: ModelConfig) -> Model[Any]:
    """A model of random weights."""
    return cast("Model[Any]", at_place(FAMILIES[config.family].model)(config))


def with_motif_memory(model: Model[Any], notes: int) -> Model[Any]:
    """The same weights in a model that also reads a motif memory's hints, which move nothing until they are trained."""
    grown = build(replace(model.config, motif_notes=notes))
    grown.load_state_dict(model.state_dict(), strict=False)
    assert grown.hint_embedding is not None
    grown.hint_embedding.weight.data.zero_()
    return grown


def from_checkpoint(checkpoint: Checkpoint) -> Model[Any]:
    """The model of a checkpoint, with its weights, ready for evaluation.

    Raises:
        RitornelloError: naming the folder, for an unknown family, or weights that do not fit the config.
    """
    try:
        model = build(read_config(checkpoint.family, checkpoint.config))
    except RitornelloError as error:
        raise RitornelloError(f"{checkpoint.folder}: {error}") from None
    weights = checkpoint.tensors()
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    if expected != {name: tensor.shape for name, tensor in weights.items()}:
        raise RitornelloError(f"{checkpoint.folder}: its weights are of another model than its config describes")
    model.load_state_dict(weights)
    return model.eval()
