"""What the small engine makes of a DSMR's sizes: the shapes of its graphs, and the bytes of its matrices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, cast, get_args

from ritornello.codec import HINT_COLUMNS, N_EVENTS
from ritornello.errors import RitornelloError
from ritornello.models.config import DSMRConfig, read_config

WeightPrecision = Literal["fp32", "int8"]
WEIGHT_PRECISIONS: tuple[WeightPrecision, ...] = get_args(WeightPrecision)
WEIGHTS_FILE = "weights.safetensors"  # beside the graphs of an export, which name it
BLOCKS = (128, 64, 32, 16)  # of weights that share a scale, along the inputs of a matrix

Shapes = dict[str, tuple[int, ...]]


def exportable(family: str, config: Mapping[str, Any]) -> DSMRConfig:
    """The sizes of a checkpoint's model. Raises RitornelloError, saying why, for one that has no graph."""
    sizes = read_config(family, config)
    if why := sizes.not_exportable:
        raise RitornelloError(why)
    return cast(DSMRConfig, sizes)


def input_shapes(config: DSMRConfig, tokens: int) -> Shapes:
    """The inputs of the graph that reads ``tokens`` at once, by name and in order; axes as in ``graph``."""
    queries = tokens if config.schedule.rule == "sliding" else 1  # else all of a segment see the same of a memory
    angles = (1, tokens, config.head_size // 2)
    shapes: Shapes = {"tokens": (tokens,), "cos": angles, "sin": angles}
    if config.motif_notes:
        shapes["hints"] = (tokens, HINT_COLUMNS)
    if config.labels:
        shapes["labels"] = (1, len(config.labels))
    for horizon in dict.fromkeys(config.horizons):
        shapes[f"seen.{horizon}"] = (queries, config.room(horizon))
    for layer, horizon in enumerate(config.horizons):
        shapes[f"keys.{layer}"] = (1, config.heads, config.head_size, config.room(horizon))
        shapes[f"values.{layer}"] = (1, config.heads, config.room(horizon), config.head_size)
    return shapes


def output_shapes(config: DSMRConfig, tokens: int) -> Shapes:
    """Its outputs."""
    n, h, d = config.schedule.layers, config.heads, config.head_size
    return {"logits": (tokens, N_EVENTS), "new_keys": (n, h, d, tokens), "new_values": (n, h, tokens, d)}


def weight_bytes(config: DSMRConfig, precision: WeightPrecision) -> int:
    """Of all matrices: four bytes a weight, or one and a share of its block's scale."""
    shapes = config.matrices.values()
    if precision == "fp32":
        return sum(4 * inputs * outputs for inputs, outputs in shapes)
    return sum((inputs + 4 * (inputs // block_of(inputs))) * outputs for inputs, outputs in shapes)


def block_of(inputs: int) -> int:
    """How many weights of a column share a scale: the most that divide its length.

    Raises:
        RitornelloError: for a length that is no multiple of 16.
    """
    for block in BLOCKS:
        if inputs % block == 0:
            return block
    raise RitornelloError(f"a matrix with {inputs} inputs cannot be int8, only multiples of 16 can; use fp32")
