"""The models: their sizes and the registry of families (``config``), one base (``protocol``), one file per family.

Here checkpoints become models. torch is loaded when the first is built.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, cast

from ritornello import codec
from ritornello.checkpoint import Checkpoint
from ritornello.errors import RitornelloError
from ritornello.models.config import ModelConfig, at_place, read_config

if TYPE_CHECKING:
    from ritornello.models.protocol import Model


def build(config: ModelConfig) -> Model[Any]:
    """A model of random weights."""
    return cast("Model[Any]", at_place(config.model)(config))


def with_inputs(model: Model[Any], *, motif_notes: int, recalls: bool, labels: tuple[str, ...]) -> Model[Any]:
    """The same weights in a model that also reads hints and labels, which move nothing until they are trained.

    What it had it keeps; a motif memory, recalls or labels are given to a model that has none. A passage that is called
    back is told like one that has been followed long, at first. Raises RitornelloError for a family that cannot have
    them.
    """
    new = {"motif_notes": motif_notes, "recalls": recalls, "labels": labels}
    changes: dict[str, Any] = {name: value for name, value in new.items() if value and not getattr(model.config, name)}
    if not changes:
        return model
    known = {field.name for field in fields(model.config)}
    if not known.issuperset(changes):
        raise RitornelloError(f"models of the family {model.config.family} have no {' and no '.join(changes)}")
    grown = build(replace(model.config, **changes))
    before = model.state_dict()
    for name, weight in grown.state_dict().items():
        if name not in before:
            weight.zero_()
        elif weight.shape == before[name].shape:
            weight.copy_(before[name])
        else:  # the hints, and one more
            weight[:-1], weight[-1] = before[name], before[name][codec.FOLLOWED_LONG]
    return grown


def from_checkpoint(checkpoint: Checkpoint, *, memory_bytes: int | None = None) -> Model[Any]:
    """The model of a checkpoint, with its weights, ready for evaluation; its memories cut to ``memory_bytes``.

    Raises:
        RitornelloError: naming the folder, for an unknown family, weights that do not fit the config, or a memory that
            the model does not fit (`ModelConfig.within`).
    """
    try:
        config = read_config(checkpoint.family, checkpoint.config)
        model = build(config if memory_bytes is None else config.within(memory_bytes))
    except RitornelloError as error:
        raise RitornelloError(f"{checkpoint.folder}: {error}") from None
    weights = checkpoint.tensors()
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    if expected != {name: tensor.shape for name, tensor in weights.items()}:
        raise RitornelloError(f"{checkpoint.folder}: its weights are of another model than its config describes")
    model.load_state_dict(weights)
    return model.eval()
