"""What the small engine makes of a DSMR's sizes and weights.

The shapes of its graphs, the bytes of its matrices, and the matrices themselves, by columns in float32 or int8 with a
scale for each block.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from ritornello.codec import HINT_COLUMNS, N_EVENTS, VOCABULARY_SIZE
from ritornello.errors import RitornelloError
from ritornello.models.config import EPSILON, DSMRConfig, read_config

WeightPrecision = Literal["fp32", "int8"]
WEIGHT_PRECISIONS: tuple[WeightPrecision, ...] = get_args(WeightPrecision)
WEIGHTS_FILE = "weights.safetensors"  # beside the graphs of an export, which name it
BLOCKS = (128, 64, 32, 16)  # of weights that share a scale, along the inputs of a matrix

Shapes = dict[str, tuple[int, ...]]
Arrays = Mapping[str, NDArray[np.float32]]


def exportable(family: str, config: Mapping[str, Any], memory_bytes: int | None = None) -> DSMRConfig:
    """The sizes of a checkpoint's model, its memories cut to so many bytes.

    Raises:
        RitornelloError: saying why, for one that has no graph, or does not fit (`ModelConfig.within`).
    """
    sizes = read_config(family, config)
    sizes = sizes if memory_bytes is None else sizes.within(memory_bytes)
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


def initialisers(weights: Arrays, config: DSMRConfig, precision: WeightPrecision) -> dict[str, NDArray[np.generic]]:
    """All that a graph is given at its start, by name.

    The embedding is normalised already, and a head's qk_scale holds the scale D ** -0.5 of scores too.

    Raises:
        RitornelloError: if a weight is missing or has another shape than ``config`` says.
    """
    layers = range(config.schedule.layers)
    embedding = _taken(weights, "embedding.weight", (VOCABULARY_SIZE, config.width))
    values: dict[str, NDArray[np.generic]] = {
        "embedding": embedding / np.sqrt(np.mean(embedding**2, axis=1, keepdims=True) + EPSILON),
        "final_gain": _taken(weights, "final_gain", (config.width,)),
    }
    if config.motif_notes:
        values["hint_embedding"] = _taken(weights, "hint_embedding.weight", (config.hint_ids, config.width))
    if config.labels:
        values["label_embedding"] = _taken(weights, "label_embedding.weight", (1 + len(config.labels), config.width))[
            1:
        ]
    for layer in layers:
        if config.qk_bias:
            bias = _taken(weights, f"blocks.{layer}.qk_bias", (2, config.heads, 1, config.head_size))
            values[f"blocks.{layer}.qk_bias"] = bias.reshape(1, 2 * config.heads, 1, config.head_size)
        for gain in ("attention_gain", "mlp_gain"):
            values[f"blocks.{layer}.{gain}"] = _taken(weights, f"blocks.{layer}.{gain}", (config.width,))
        qk_scale = _taken(weights, f"blocks.{layer}.qk_scale", (config.heads, 1, 1))
        values[f"blocks.{layer}.qk_scale"] = qk_scale * np.float32(config.head_size**-0.5)
    for name, (inputs, outputs) in config.matrices.items():
        matrix = _taken(weights, f"{name}.weight", (outputs, inputs))
        if precision == "fp32":
            values[name] = np.ascontiguousarray(matrix.T)
        else:
            values[f"{name}.int8"], values[f"{name}.scale"] = quantised(matrix)
    return values


def quantised(matrix: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """A matrix (N, K) as bytes (N, K / block, block) and scales (N, K / block): weight = (byte - 128) x scale."""
    outputs, inputs = matrix.shape
    blocks = matrix.reshape(outputs, -1, block_of(inputs))
    scale = np.abs(blocks).max(axis=-1) / np.float32(127)
    scale[scale == 0] = 1.0
    return (np.rint(blocks / scale[..., None]) + 128).astype(np.uint8), scale.astype(np.float32)


def _taken(weights: Arrays, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    weight = weights.get(name)
    if weight is None:
        raise RitornelloError(f"the weight {name} is missing: these weights are of another model than the config's")
    if weight.shape != shape:
        raise RitornelloError(f"the weight {name} is {weight.shape}, not {shape}: the weights are of another model")
    if not np.isfinite(weight).all():
        raise RitornelloError(f"the weight {name} holds what is no number: the model is damaged; use another")
    return np.asarray(weight, np.float32)
